"""`CallTable`: the calls of a cut network, a row each, with the difference to the masked dense network."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunus.foundation.atomic_files import write_text_atomic

OK, DIFFERS, FAILS, NONE = "ok", "differs", "fails", "n/a"
VERDICTS = (OK, DIFFERS, FAILS, NONE)


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one call.

    Attributes:
        name: the name of the call.
        verdict: ``ok``; ``differs`` from the masked dense network; ``fails`` where that one does not; ``n/a``: the
            dense network does not take the call, or there is nothing to compare with.
        error: the largest relative difference; None where nothing was compared.
        tolerance: the tolerated error.
        reason: a line that explains the verdict.
    """

    name: str
    verdict: str
    error: float | None = None
    tolerance: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CallTable:
    """The calls of one cut network; printing it shows a table.

    Attributes:
        model: the class of the network.
        rows: the calls, in their order.
    """

    model: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Return whether no call differs or fails, and at least one was compared."""
        return not self.failures and any(row.verdict == OK for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """The calls that differ or fail."""
        return tuple(row for row in self.rows if row.verdict in (DIFFERS, FAILS))

    @property
    def counts(self) -> Mapping[str, int]:
        """Verdict → number of calls."""
        found = Counter(row.verdict for row in self.rows)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def row(self, name: str) -> Row:
        """Return the row of a call.

        Raises:
            KeyError: no call has this name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> str:
        """Return the table as JSON; infinite and missing errors are both null, and the verdict tells them apart."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}
            for row in self.rows
        ]
        document: dict[str, Any] = {"model": self.model, "ok": self.ok, "counts": dict(self.counts), "rows": rows}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def write(self, path: Path | str) -> Path:
        """Write the table as a JSON file."""
        return write_text_atomic(path, self.to_json())

    def __str__(self) -> str:
        cells = [("call", "verdict", "error", "allowed", "")]
        cells += [(r.name, r.verdict, _number(r.error), _number(r.tolerance), r.reason) for r in self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines = [
            "  ".join((*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4])).rstrip() for row in cells
        ]
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items() if n)
        return "\n".join((*lines, f"{self.model}: {counts}"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
