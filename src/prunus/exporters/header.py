"""`checkpoint.json`: the contents of a checkpoint folder, with the size and checksum of every other file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from prunus.errors import DataError, ModelError, shown
from prunus.foundation.checksum import SUM, is_changed, with_sum
from prunus.foundation.places import Contents
from prunus.foundation.strict_json import decode_record, parse_json, read_text
from prunus.foundation.version import VERSION
from prunus.plans import PLAN, PLAN_FILES, Mend

FORMAT = "prunus-checkpoint/1"
HEADER, GRAPH = "checkpoint.json", "graph.json"
WEIGHTS, CONSTANTS = "weights.safetensors", "constants.safetensors"
RESULTS, REPORT = "results.json", "report.html"
CHECKPOINT = Contents(PLAN, PLAN_FILES.names | {HEADER, GRAPH, WEIGHTS, CONSTANTS, RESULTS, REPORT}, PLAN_FILES.text)
"""A checkpoint folder; `prunus prune` puts the results and their report beside it."""
LONGEST_TEXT = 64 << 20
"""The longest JSON text of a checkpoint that is read, in bytes; parsed it takes some fifteen times as much memory."""
MODES = ("module", "hybrid", "graph")


@dataclass(frozen=True, slots=True)
class FileMark:
    """Size and SHA-256 of one file."""

    size_bytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> FileMark:
        """Measure a file."""
        with path.open("rb") as stream:
            return FileMark(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


@dataclass(frozen=True, slots=True)
class Header:
    """The content of ``checkpoint.json``.

    Attributes:
        mode: ``module`` (the user's forwards), ``hybrid`` (some were written anew) or ``graph`` (one program).
        model: module and name of the user's class.
        dtype: of most parameters.
        aliases: tied name → the name under which the tensor is stored.
        frozen: parameters with ``requires_grad=False``.
        attributes: module path → attribute → a whole number or a list of them.
        spliced: paths of the modules whose forward is written from ``graph.json``.
        removed: paths of modules that the cut took out whole.
        constants: name in the graph → name in ``constants.safetensors``.
        files: the other files of the folder.
        mended: numbers of the user's own modules, with what they were.
        shipped: module path → the module of `prunus.nn` that stands there.
        forward: ``keep`` where every forward is the user's.
        metadata: the caller's own.
    """

    format: str
    prunus: str
    torch: str
    mode: str
    model: str
    dtype: str
    aliases: dict[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    spliced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    mended: tuple[Mend, ...] = ()
    shipped: dict[str, Any] = field(default_factory=dict)
    forward: str = "rewrite"
    metadata: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def make(**about: Any) -> Header:
        """Fill in format and versions."""
        return Header(format=FORMAT, prunus=VERSION, torch=torch.__version__, **about)

    def write(self, folder: Path) -> None:
        """Write ``checkpoint.json``, the last file of a folder."""
        text = json.dumps(with_sum(asdict(self)), indent=1, allow_nan=False)
        (folder / HEADER).write_text(text + "\n", encoding="utf-8")


def read_header(folder: Path | str) -> Header:
    """Read ``checkpoint.json`` and check every file that it names.

    Raises:
        ModelError: no checkpoint, another format version, a missing or changed file.
    """
    path = Path(folder) / HEADER
    if not path.is_file():
        raise ModelError(f"No checkpoint at {path}; give the folder that prunus.save wrote.")
    try:
        data = parse_json(read_text(path, LONGEST_TEXT), str(path))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            stored = data.get("format") if isinstance(data, dict) else data
            raise ModelError(f"{path} has format {shown(stored)}; this version reads {FORMAT!r}.")
        header = decode_record(Header, {key: value for key, value in data.items() if key != SUM}, str(path))
        if is_changed(data):
            raise ModelError(f"{path} was changed since prunus wrote it; copy the whole folder again.")
    except DataError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; copy the whole folder again.") from error
    if header.mode not in MODES:
        raise ModelError(f"{path}: mode is {header.mode!r}; allowed: {', '.join(MODES)}.")
    _check_files(Path(folder), header.files)
    return header


def _check_files(folder: Path, files: Mapping[str, Any]) -> None:
    for name in dict.fromkeys((WEIGHTS, PLAN, *files)):
        if Path(name).name != name:
            raise ModelError(f"{folder / HEADER} names the file {name!r}; only files of its own folder are allowed.")
        path, mark = folder / name, files.get(name)
        if not path.is_file() or not isinstance(mark, dict):
            raise ModelError(f"The checkpoint {folder} lacks {name}; copy the whole folder again.")
        if path.stat().st_size != mark.get("size_bytes") or FileMark.of(path).sha256 != mark.get("sha256"):
            raise ModelError(f"{path} is damaged or from another checkpoint; copy the whole folder again.")
