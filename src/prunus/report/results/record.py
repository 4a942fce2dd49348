"""The record of one whole comparison and its file, results.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prunus.errors import DataError, shown
from prunus.foundation.atomic_files import write_text_atomic
from prunus.foundation.checksum import SUM, is_changed, with_sum
from prunus.foundation.strict_json import decode_record, parse_json, read_text
from prunus.report.results.frontier import Frontier
from prunus.report.results.rows import Environment, Row, Skipped
from prunus.report.results.summary import Summary, agree, summarise

SCHEMA = "prunus-results/1"

_LONGEST_TEXT = 64 << 20
"""The longest results.json that is read, in bytes."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The identity of a comparison, by which the next one knows whether it may take runs over.

    Attributes:
        digest: of all that the runs depend on: recipe, files, versions and processor.
        weights: seed → digest of the dense weights.
    """

    digest: str
    weights: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one comparison; make them with ``Results.make``, which fills ``dense`` and ``summary``.

    Raises: DataError: dense runs that do not match the seeds, a summary that does not follow from the runs, or a
    time that is not UTC.
    """

    title: str
    workload: str
    model: str
    created: str
    version: str
    seeds: tuple[int, ...]
    environment: Environment
    recipe: dict[str, Any]
    dense: Row
    dense_runs: tuple[Row, ...]
    runs: tuple[Row, ...]
    summary: tuple[Summary, ...]
    skipped: tuple[Skipped, ...] = ()
    frontier: Frontier | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if tuple(row.seed for row in self.dense_runs) != self.seeds or not self.seeds:
            raise DataError(f"results: dense_runs must hold one row for each seed of {list(self.seeds)}, in order.")
        if self.dense != self.dense_runs[0]:
            raise DataError("results: dense must equal the first of dense_runs.")
        strays = [row for row in self.dense_runs if row.level != "dense"]
        strays += [row for row in self.runs if row.level == "dense"]
        if strays:
            raise DataError(f"results: {strays[0].place} has level {strays[0].level!r}; 'dense' is for dense_runs.")
        if not agree(self.summary, summarise(self.runs)):
            raise DataError(
                "results: summary does not follow from runs; make it with prunus.report.results.summarise(runs)."
            )
        _check_utc(self.created)

    @classmethod
    def make(
        cls, *, dense_runs: Iterable[Row], runs: Iterable[Row], skipped: Iterable[Skipped] = (), **about: Any
    ) -> Results:
        """Make results of rows; seeds, dense and summary are derived.

        Args:
            dense_runs: the unpruned network, one row per seed.
            runs: one row per method, kept fraction and seed.
            skipped: the methods that were requested and not run.
            about: title, workload, model, created (ISO 8601, UTC), version, environment, recipe.
        """
        dense, rows = tuple(dense_runs), tuple(runs)
        if not dense:
            raise DataError("results: dense_runs is empty; measure the unpruned network with every seed.")
        seeds = tuple(row.seed for row in dense)
        return cls(
            seeds=seeds,
            dense=dense[0],
            dense_runs=dense,
            runs=rows,
            summary=summarise(rows),
            skipped=tuple(skipped),
            **about,
        )

    def to_json(self) -> str:
        """Return the text of results.json.

        Raises: DataError: the recipe echo holds something that is not plain JSON.
        """
        try:
            content = with_sum({"schema": SCHEMA, **asdict(self)})
            return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        except (TypeError, ValueError) as error:
            raise DataError(f"results: recipe cannot be written as JSON ({error}); use plain values.") from None

    @classmethod
    def from_json(cls, text: str, where: str = "results") -> Results:
        """Read the text of a results.json, strictly.

        Raises: DataError: not JSON, another schema, an unknown or missing key, a value of the wrong type or range.
        """
        content = parse_json(text, where)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            got = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise DataError(
                f"{where}: the schema is {shown(got)}, this version reads {SCHEMA!r}; run the comparison again."
            )
        results = decode_record(cls, {k: v for k, v in content.items() if k not in ("schema", SUM)}, where)
        if is_changed(content):
            raise DataError(f"{where}: was changed since prunus wrote it; copy it again, or run the comparison again.")
        return results

    def save(self, path: Path) -> None:
        """Write results.json at once or not at all."""
        write_text_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a results.json.

        Raises: DataError: the file cannot be read or does not hold valid results.
        """
        try:
            text = read_text(path, _LONGEST_TEXT)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); give a results.json that prunus wrote."
            ) from None
        return cls.from_json(text, str(path))


def _check_utc(created: str) -> None:
    try:
        offset = datetime.fromisoformat(created).utcoffset()
    except ValueError:
        offset = None
    if offset != timedelta(0):
        raise DataError(f"results: created is {created!r}; write an ISO 8601 time in UTC: 2026-01-31T12:00:00+00:00.")
