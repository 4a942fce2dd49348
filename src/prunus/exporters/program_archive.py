"""The entries of a `.pt2` file: a closed list of names, stored uncompressed, none longer than the file itself."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any

from prunus.errors import DataError, ModelError
from prunus.foundation.checksum import SUM, is_changed, with_sum
from prunus.foundation.strict_json import parse_json
from prunus.plans import PLAN

ABOUT, SUMS = "prunus.json", "extra/checksums.json"
"""Entries of prunus: about the network, and the SHA-256 of every other entry; files of earlier versions lack it."""
MODEL = "models/model.json"
CONFIGS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
"""Folder of tensors → the entry in it that says which tensor lies where."""
TEXT_LIMIT = 64 << 20
"""The longest JSON text that is read, in bytes; parsed it takes some fifteen times as much memory."""
_PAYLOAD = re.compile(r"data/(weights/weight_\d{1,6}|constants/tensor_\d{1,6})", re.ASCII)
_EMPTY = "data/sample_inputs/model.pt"
_FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": sys.byteorder.encode()}
_PASSED_OVER = frozenset({".data/version", ".data/serialization_id"})
_TEXTS = frozenset(
    {MODEL, SUMS, f"extra/{PLAN}", f"extra/{ABOUT}", *(folder + name for folder, name in CONFIGS.items())}
)
_BROKEN = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class ProgramArchive:
    """An open `.pt2` file whose entries were checked; nothing but its table of contents has been read."""

    where: str
    _archive: zipfile.ZipFile
    _entries: dict[str, zipfile.ZipInfo]
    _sums: dict[str, Any] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Return whether there is such an entry."""
        return name in self._entries

    @property
    def names(self) -> set[str]:
        """The names of all entries."""
        return set(self._entries)

    def read(self, name: str) -> bytes:
        """Return one entry; its checksum is compared.

        Raises:
            ModelError: an entry that is not there, or is damaged.
        """
        if name not in self._entries:
            raise ModelError(f"{self.where} is damaged: it lacks {name}; save it again.")
        try:
            content = self._archive.read(self._entries[name])
        except _BROKEN as error:
            raise ModelError(f"{self.where} is damaged: {name} cannot be read; save it again.") from error
        if self._sums and hashlib.sha256(content).hexdigest() != self._sums[name]:
            raise ModelError(f"{self.where} is damaged: {name} was changed since prunus wrote it; save it again.")
        return content

    def text(self, name: str) -> str:
        """Return one entry as text."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.where} is damaged: {name} is no UTF-8 text; save it again.") from error


@contextmanager
def open_archive(stream: IO[bytes], where: str) -> Iterator[ProgramArchive]:
    """Yield the entries of a `.pt2` file after a look at the name and the size of each.

    Args:
        stream: the file, open for reading.
        where: names it in messages.

    Raises:
        ModelError: no archive, or one with an entry that `save` does not write.
    """
    try:
        size = stream.seek(0, 2)
        archive = zipfile.ZipFile(stream)
    except _BROKEN as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ModelError(f"{where} is no .pt2 file, or only a part of one: {reason}.") from error
    with archive:
        found = ProgramArchive(where, archive, _entries(archive, size, where))
        for name, content in _FIXED.items():
            if found.read(name) != content:
                raise ModelError(
                    f"{where} has another {name} than {content.decode()!r}; save it again on this machine."
                )
        yield _with_sums(found)


def add_sums(stream: io.BytesIO) -> None:
    """Add the SHA-256 of every entry to a `.pt2` file."""
    with zipfile.ZipFile(stream, "a") as archive:
        names = archive.namelist()
        sums = {name.partition("/")[2]: hashlib.sha256(archive.read(name)).hexdigest() for name in names}
        # Without a time of its own, so that equal content gives equal bytes.
        place = zipfile.ZipInfo(f"{names[0].partition('/')[0]}/{SUMS}")
        archive.writestr(place, json.dumps(with_sum(sums)))


def _with_sums(archive: ProgramArchive) -> ProgramArchive:
    """Return the archive with the sums that its entries are compared with; a file without `SUMS` has none."""
    if not archive.holds(SUMS):
        return archive
    try:
        sums = parse_json(archive.text(SUMS), f"{archive.where}: {SUMS}")
    except DataError as error:
        raise ModelError(str(error)) from error
    if not isinstance(sums, dict) or is_changed(sums) or sums.keys() - {SUM} != archive.names - {SUMS}:
        raise ModelError(f"{archive.where} is damaged: {SUMS} is not of its entries; save it again.")
    return replace(archive, _sums=sums)


def _entries(archive: zipfile.ZipFile, size: int, where: str) -> dict[str, zipfile.ZipInfo]:
    """Return entry → its place, without the folder that holds all of them."""
    entries: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for info in archive.infolist():
        root, _, name = info.filename.partition("/")
        roots.add(root)
        if name in entries or len(roots) > 1:
            raise ModelError(f"{where} is damaged: it holds {info.filename[:80]!r} twice; save it again.")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise ModelError(f"{where} holds {info.filename[:80]!r} compressed or encrypted; save it with prunus.save.")
        _check_entry(name, info.file_size, where)
        entries[name] = info
    if sum(info.file_size for info in entries.values()) > size:
        raise ModelError(f"{where} is damaged: its entries are longer than the file; save it again.")
    lacking = next((name for name in (*_FIXED, *_TEXTS) if name not in entries and "extra/" not in name), None)
    if lacking is not None:  # torch takes a file without a format for one of an older kind, a pickle
        raise ModelError(
            f"{where} lacks {lacking}: it may be of an older format, which holds pickled objects or code; save it with "
            "prunus.save."
        )
    return entries


def _check_entry(name: str, size: int, where: str) -> None:
    known = name in _FIXED or name in _TEXTS or name in _PASSED_OVER or _PAYLOAD.fullmatch(name)
    if not known and not (name == _EMPTY and size == 0):
        raise ModelError(
            f"{where} holds {name[:80]!r}: pickled objects or code, or something else that prunus does not read; "
            "save it with prunus.save."
        )
    if name in _TEXTS and size > TEXT_LIMIT:
        raise ModelError(f"{where}: {name} is {size:,} bytes long; at most {TEXT_LIMIT:,} are read.")
