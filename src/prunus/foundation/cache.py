"""The cache folder, and tensor files in it that hold their own checksum."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from prunus.errors import OptionError
from prunus.foundation.atomic_files import write_bytes_atomic

_SUM = "sha256"


class CacheWarning(UserWarning):
    """A cached file could not be read or written; the work goes on without it."""


def cache_folder() -> Path:
    """Return the folder of the user's cache: $PRUNUS_CACHE, $XDG_CACHE_HOME/prunus or ~/.cache/prunus.

    It may not exist yet. A relative $XDG_CACHE_HOME is ignored, as its specification demands.

    Raises:
        OptionError: none of the three is known.
    """
    if own := os.environ.get("PRUNUS_CACHE"):
        return Path(own).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():
        return shared / "prunus"
    try:
        return Path.home() / ".cache" / "prunus"
    except RuntimeError as error:
        raise OptionError("this user has no home folder for the cache; set PRUNUS_CACHE to a folder.") from error


def cached_tensors(
    path: Path,
    make: Callable[[], dict[str, Tensor]],
    what: str,
    fits: Callable[[Mapping[str, Tensor]], bool] = lambda tensors: True,
) -> dict[str, Tensor]:
    """Return the tensors stored at ``path``; if there are none, or they are damaged, make and store them.

    Args:
        path: a safetensors file.
        make: called once if the file cannot be used.
        what: the name of the tensors, which begins every warning.
        fits: tells whether whole tensors have the names and shapes that the caller reads; others are made again.

    Warns:
        CacheWarning: a damaged file, which is made again, or a path that cannot be written.
    """
    if path.is_file():
        found = read_summed(path)
        if found is not None and fits(found):
            return found
        warnings.warn(f"{what}: the cached file {str(path)!r} is damaged; made again.", CacheWarning, stacklevel=2)
    tensors = make()
    try:
        write_bytes_atomic(path, summed_bytes(tensors))
    except OptionError as error:
        warnings.warn(f"{what} not kept for the next run: {error}", CacheWarning, stacklevel=2)
    return tensors


def summed_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return a safetensors file as bytes, with a checksum of its tensors among the metadata."""
    from safetensors.torch import save

    return save(dict(tensors), {_SUM: checksum(tensors)})


def read_summed(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file that `summed_bytes` made, or None where it cannot be read or was changed."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # One open: another process may replace the file between two, and `safe_open` opens it by name twice.
        data = path.read_bytes()
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        tensors = load(data)
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError):
        return None
    whole = isinstance(metadata, dict) and metadata.get(_SUM) == checksum(tensors)
    return tensors if whole else None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
