"""The finished runs of a comparison, kept in its output folder, so that it can go on and none is made twice."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.foundation.atomic_files import append_line, settle, write_bytes_atomic
from prunus.foundation.cache import read_summed, summed_bytes
from prunus.foundation.places import placed
from prunus.foundation.strict_json import decode_record, parse_json
from prunus.foundation.version import VERSION
from prunus.report.results import Results, Row, Skipped

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe

UNFINISHED, RESULTS, _RUNS = "unfinished", "results.json", "runs.jsonl"
FAILED = "failed with seed "
"""The beginning of the reason of a run that failed; the next comparison tries it again."""
_CHOSEN = ("methods", "kept", "repair", "seeds")
"""The entries of ``compare`` that say which runs are made, and change no run."""
_KINDS: Mapping[str, type[Row] | type[Skipped]] = {"row": Row, "skipped": Skipped}

Place = tuple[int, str, float]
"""Seed, method with its repair as rows name it, kept fraction."""


@dataclass(slots=True)
class FinishedRuns:
    """The runs of one recipe that are done, and the weights that were trained for them.

    They come from ``results.json`` of an earlier comparison, and from the folder ``unfinished/DIGEST`` of one that was
    interrupted. Both belong to all that runs depend on, which `digest_of` sums up; the chosen methods, kept fractions,
    repairs and seeds are not among it. Every line of the log holds its own checksum and the digest of the dense
    weights; other lines, such as one that a kill cut short, are ignored.

    Attributes:
        folder: the folder of the log; None keeps nothing.
        earlier: the results of an earlier comparison; None where there are none to take runs from.
    """

    folder: Path | None
    earlier: Results | None = None
    _entries: dict[tuple[str, Place], Row | Skipped] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, out: Path | None) -> FinishedRuns:
        """Read the results and the log of a recipe from its output folder; empty if there are none.

        Raises:
            OptionError: the folder of the log is a symbolic link.
        """
        if out is None:
            return cls(None)
        digest = digest_of(recipe)
        runs = cls(out / UNFINISHED / digest)
        runs._take_earlier(out / RESULTS, digest)
        log = placed(out / UNFINISHED / digest / _RUNS, below=out)
        for line in _lines(log):
            with suppress(DataError, KeyError, TypeError, ValueError):
                content = parse_json(line, _RUNS)
                text = json.dumps(content["run"], allow_nan=False)
                if hashlib.sha256(text.encode()).hexdigest() == content["sha256"]:
                    runs._note(content["run"])
        return runs

    def _take_earlier(self, path: Path, digest: str) -> None:
        try:
            results = Results.load(path) if path.is_file() else None
        except DataError:
            return
        if results is None or results.origin is None or results.origin.digest != digest:
            return
        self.earlier = results
        for row in (*results.dense_runs, *results.runs):
            name = "dense" if row.level == "dense" else row.method
            weights = results.origin.weights.get(str(row.seed), "")
            self._entries[weights, (row.seed, name, row.kept_fraction)] = row
        for entry in results.skipped:
            for seed in results.seeds if not entry.reason.startswith(FAILED) else ():
                weights = results.origin.weights.get(str(seed), "")
                self._entries[weights, (seed, entry.method, entry.kept_fraction)] = entry

    def _note(self, run: Mapping[str, Any]) -> None:
        seed, name, kept = run["place"]
        entry = decode_record(_KINDS[run["kind"]], run["entry"], _RUNS)
        self._entries[str(run["weights"]), (int(seed), str(name), float(kept))] = entry

    def get(self, weights: str, place: Place) -> Row | Skipped | None:
        """Return the entry of a finished run on dense weights with this digest."""
        return self._entries.get((weights, place))

    def weights_of(self, seed: int, places: Sequence[tuple[str, float]]) -> str | None:
        """Return the digest of dense weights on which all these runs of a seed are done; None where one is left."""
        digests = {digest for digest, place in self._entries if place[0] == seed}
        whole = [d for d in sorted(digests) if all((d, (seed, *place)) in self._entries for place in places)]
        return whole[0] if whole else None

    def count(self, seed: int, places: Sequence[tuple[str, float]]) -> int:
        """Return how many of these runs of a seed are done."""
        done = {place[1:] for _, place in self._entries if place[0] == seed}
        return len(done.intersection(places))

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


def digest_of(recipe: Recipe) -> str:
    """Return a hash of all that a run depends on: recipe, its files of code and weights, versions and processor."""
    content = {key: value for key, value in recipe.model_dump(mode="json").items() if key not in ("workers", "out")}
    content["compare"] = {key: value for key, value in content["compare"].items() if key not in _CHOSEN}
    about = (VERSION, torch.__version__, platform.python_version(), processor(), json.dumps(content, sort_keys=True))
    digest = hashlib.sha256("|".join(about).encode())
    code = (text.rpartition(":")[0] for text in (recipe.model, recipe.data) if text.rpartition(":")[0].endswith(".py"))
    for name in (recipe.checkpoint, *code):
        if name is not None and (path := recipe.base_dir / Path(name).expanduser()).is_file():
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def processor() -> str:
    """Return the name of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
