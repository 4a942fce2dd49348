"""Checksums inside the files that they are of: of every byte of a safetensors file, of the content of a JSON object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

KEY, SUM = "file_sha256", "sha256"
"""The keys of the checksum: in the metadata of a safetensors file, and in a JSON object."""
NO_CHECKSUM = "it has no checksum"
EMPTY = "0" * 64
"""The text in the place of a digest while it is computed."""
_LONGEST_HEADER = 100 << 20  # bytes; the limit of safetensors
_PIECE = 1 << 24  # bytes


def bytes_with_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file in which `KEY` holds the SHA-256 of all bytes, with zeros in the digest's own place."""
    from safetensors.torch import save

    return summed_file(save(dict(tensors), {**metadata, KEY: EMPTY}))


def summed_file(data: bytes) -> bytes:
    """Return a safetensors file with the right digest in its place; one without such a place as it is."""
    at = _place(data)
    if at < 0:
        return data
    empty = data[:at] + EMPTY.encode() + data[at + len(EMPTY) :]
    return data[:at] + hashlib.sha256(empty).hexdigest().encode() + data[at + len(EMPTY) :]


def add_checksum(path: Path) -> None:
    """Put the checksum of `bytes_with_checksum` into a safetensors file that another library wrote."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:end])
    table["__metadata__"] = {**table.get("__metadata__", {}), KEY: EMPTY}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    path.unlink()  # tensors that are mapped from it keep the old file
    path.write_bytes(summed_file(len(text).to_bytes(8, "little") + text + data[end:]))


def checksum_error(path: Path | str, *, optional: bool = False) -> str:
    """Return the reason why a file is not as `bytes_with_checksum` made it; empty if it is.

    Args:
        path: a safetensors file.
        optional: accept a file without any metadata: such files were written before there were checksums.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LONGEST_HEADER:
            return "its header is damaged"
        header = bytearray(length.to_bytes(8, "little") + stream.read(length))
        at = _place(header)
        if at < 0 and optional and b'"__metadata__"' not in header:
            return ""
        if at < 0:
            return NO_CHECKSUM
        stored = bytes(header[at : at + len(EMPTY)])
        header[at : at + len(EMPTY)] = EMPTY.encode()
        digest = hashlib.sha256(header)
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return "" if digest.hexdigest().encode() == stored else "its bytes have changed since it was written"


def with_sum(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the checksum of its content as its last key."""
    return {**content, SUM: sum_of(content)}


def sum_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object without its own checksum; spaces and the order of keys do not count.

    Raises:
        RecursionError: an object that is nested too deeply.
    """
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != SUM}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_changed(content: Any) -> bool:
    """Return whether a parsed JSON object has another content than its checksum says; one without a checksum has not.

    Files of earlier versions have none.
    """
    try:
        return isinstance(content, dict) and SUM in content and content[SUM] != sum_of(content)
    except RecursionError:
        return True


def _place(data: bytes | bytearray) -> int:
    """Return the position of the digest in the header; -1 if there is none."""
    mark = f'"{KEY}":"'.encode()
    end = 8 + int.from_bytes(data[:8], "little")
    at = data.find(mark, 8, end)
    return at + len(mark) if at >= 0 and at + len(mark) + len(EMPTY) <= end else -1
