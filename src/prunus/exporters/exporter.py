"""The role: a format in which a cut model is written, and the registry of its members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prunus.errors import OptionError
from prunus.foundation.registry import Registry

OPTIONS = ("tensors", "metadata", "example_inputs")
"""The keyword arguments that `save` may pass on to a format."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """One format.

    Attributes:
        name: as in ``save(…, format=NAME)``.
        description: one line.
        write: (result, path, **options) → path. It writes the file or folder whole or not at all; the result is only
            read. `prunus.foundation.atomic_files` has atomic writers.
        takes: names out of `OPTIONS` that ``write`` has as keyword arguments; None stands for what was not given.
        suffix: how paths end for which this format is the default, such as ``.npz``; empty for none.
        read: (path, model or None) → the cut model, for `load`; None where a file is for other programs.

    Raises:
        OptionError: an unknown name in ``takes``, or a suffix without its dot.
    """

    name: str
    description: str
    write: Callable[..., Path]
    takes: tuple[str, ...] = ()
    suffix: str = ""
    read: Callable[[Path, nn.Module | None], nn.Module] | None = None

    def __post_init__(self) -> None:
        unknown = [option for option in self.takes if option not in OPTIONS]
        if unknown:
            raise OptionError(f"exporter {self.name!r} takes {unknown[0]!r}; allowed: {', '.join(OPTIONS)}.")
        if self.suffix and not self.suffix.startswith("."):
            raise OptionError(f"exporter {self.name!r} has the suffix {self.suffix!r}; allowed: one such as '.npz'.")


EXPORTERS: Registry[Exporter] = Registry("format", "prunus.exporters", kind=Exporter)


_PYTORCH = " For a file of PyTorch use torch.save(outcome.model, path)."
_FOREIGN = {
    ".onnx": " For ONNX use torch.onnx.export(outcome.model, example_inputs, path).",
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".bin": _PYTORCH,
    ".safetensors": " For the tensors alone use safetensors.torch.save_model(outcome.model, path).",
}
"""Endings of files that no exporter of prunus writes → who writes them."""


def exporter_for(path: Path | str, format: Any, otherwise: str) -> Exporter:
    """Return the exporter of a format, or of a path's ending where no format is given.

    Args:
        path: where a model is written or read.
        format: a name of EXPORTERS or None.
        otherwise: the format of paths whose ending is no exporter's.

    Raises:
        OptionError: an unknown format.
    """
    if format is not None:
        return EXPORTERS.get(format)
    ending = Path(path).suffix
    if not ending:
        return EXPORTERS.get(otherwise)
    # A format is mostly named for its ending: then no other package has to be imported.
    named = EXPORTERS.find(ending[1:])
    if named is not None and named.suffix == ending:
        return named
    return next((found for found in map(EXPORTERS.get, EXPORTERS) if found.suffix == ending), EXPORTERS.get(otherwise))


def exporter_to_write(path: Path | str, format: Any, otherwise: str) -> Exporter:
    """Return the exporter for a path that is to be written, as `exporter_for`.

    Raises:
        OptionError: an unknown format, or the ending of a kind of file that no exporter writes.
    """
    exporter, ending = exporter_for(path, format, otherwise), Path(path).suffix
    if format is None and ending in _FOREIGN and exporter.suffix != ending:
        endings = " or ".join(each.suffix for each in map(EXPORTERS.get, EXPORTERS) if each.suffix)
        raise OptionError(
            f"{str(path)!r} ends in {ending}, which prunus does not write; allowed: a folder, or a file that ends in "
            f"{endings}.{_FOREIGN[ending]}"
        )
    return exporter
