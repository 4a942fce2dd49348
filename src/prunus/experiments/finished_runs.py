"""The finished runs of a comparison, kept in its output folder until the results are written, so that it can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.foundation.atomic_files import append_line, settle, write_bytes_atomic
from prunus.foundation.cache import read_summed, summed_bytes
from prunus.foundation.strict_json import decode_record, parse_json
from prunus.foundation.version import VERSION
from prunus.report.results import Row, Skipped

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe

UNFINISHED, _RUNS = "unfinished", "runs.jsonl"
_KINDS: Mapping[str, type[Row] | type[Skipped]] = {"row": Row, "skipped": Skipped}

Place = tuple[int, str, float]
"""Seed, method with its repair as rows name it, kept fraction."""


@dataclass(slots=True)
class FinishedRuns:
    """The runs of one recipe that are done, and the weights that were trained for them.

    The folder ``unfinished/DIGEST`` belongs to one recipe and one version of prunus and torch. Every line of its log
    holds its own checksum and the digest of the dense weights; other lines, such as one that a kill cut short, are
    ignored.

    Attributes:
        folder: the folder of the log; None keeps nothing.
    """

    folder: Path | None
    _entries: dict[tuple[str, Place], Row | Skipped] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, out: Path | None) -> FinishedRuns:
        """Read the log of a recipe from its output folder; empty if there is none."""
        if out is None:
            return cls(None)
        runs = cls(out / UNFINISHED / _digest(recipe))
        for line in _lines(runs.folder / _RUNS if runs.folder else out):
            with suppress(DataError, KeyError, TypeError, ValueError):
                content = parse_json(line, _RUNS)
                text = json.dumps(content["run"], allow_nan=False)
                if hashlib.sha256(text.encode()).hexdigest() == content["sha256"]:
                    runs._note(content["run"])
        return runs

    def _note(self, run: Mapping[str, Any]) -> None:
        seed, name, kept = run["place"]
        entry = decode_record(_KINDS[run["kind"]], run["entry"], _RUNS)
        self._entries[run["weights"], (int(seed), str(name), float(kept))] = entry

    def get(self, weights: str, place: Place) -> Row | Skipped | None:
        """Return the entry of a finished run on dense weights with this digest."""
        return self._entries.get((weights, place))

    def add(self, weights: str, place: Place, entry: Row | Skipped) -> None:
        """Keep the entry of a run that has just ended.

        Raises:
            OptionError: the folder cannot be written.
        """
        if self.folder is None:
            return
        kind = "row" if isinstance(entry, Row) else "skipped"
        run = json.loads(json.dumps({"weights": weights, "place": place, "kind": kind, "entry": asdict(entry)}))
        text = json.dumps(run, allow_nan=False)
        # A kill may have cut the last line short, so each line begins a new one.
        line = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "run": run}, allow_nan=False)
        append_line(self.folder / _RUNS, f"\n{line}")

    def weights(self, seed: int) -> dict[str, Tensor] | None:
        """Return the dense weights that were trained for a seed, if they were kept whole."""
        path = self._weights_path(seed)
        return read_summed(path) if path is not None and path.is_file() else None

    def keep_weights(self, seed: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the trained dense weights of a seed."""
        path = self._weights_path(seed)
        if path is not None:
            write_bytes_atomic(path, summed_bytes({n: t.detach().cpu().clone() for n, t in weights.items()}))

    def _weights_path(self, seed: int) -> Path | None:
        return None if self.folder is None else self.folder / f"seed{seed}.safetensors"

    def remove(self) -> None:
        """Remove the log and the weights; what others put beside them stays."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in (self.folder / _RUNS, *self.folder.glob("seed*.safetensors")):
            settle(path)
            path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):
                folder.rmdir()


def _digest(recipe: Recipe) -> str:
    digest = hashlib.sha256(f"{VERSION}|{torch.__version__}|{recipe.model_dump_json()}".encode())
    if recipe.checkpoint is not None and (path := recipe.base_dir / recipe.checkpoint).is_file():
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
