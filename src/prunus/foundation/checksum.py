"""Safetensors files with a checksum of the whole file in their metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KEY = "file_sha256"
_EMPTY = "0" * 64
_LONGEST_HEADER = 100 << 20  # bytes; the limit of safetensors
_PIECE = 1 << 24  # bytes


def bytes_with_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file in which `KEY` holds the SHA-256 of all bytes, with zeros in the digest's own place."""
    from safetensors.torch import save

    data = save(dict(tensors), {**metadata, KEY: _EMPTY})
    at = _place(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:at] + digest + data[at + len(digest) :]


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
            return "it has no checksum"
        stored = bytes(header[at : at + len(_EMPTY)])
        header[at : at + len(_EMPTY)] = _EMPTY.encode()
        digest = hashlib.sha256(header)
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return "" if digest.hexdigest().encode() == stored else "its bytes have changed since it was written"


def _place(data: bytes | bytearray) -> int:
    """Return the position of the digest in the header; -1 if there is none."""
    mark = f'"{KEY}":"'.encode()
    end = 8 + int.from_bytes(data[:8], "little")
    at = data.find(mark, 8, end)
    return at + len(mark) if at >= 0 and at + len(mark) + len(_EMPTY) <= end else -1
