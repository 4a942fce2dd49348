"""Read a `.pt2` file: what torch would unpickle or run is refused before torch sees it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from torch._export.serde import schema

from prunus.errors import DataError, ModelError, UsageError, shown
from prunus.exporters.program_archive import ABOUT, CONFIGS, MODEL, ProgramArchive, open_archive
from prunus.exporters.program_schema import decode_payloads, decode_program
from prunus.foundation.strict_json import parse_json
from prunus.plans import PLAN

FORMAT = "prunus-pt2/1"
SUFFIX = ".pt2"
_SPARE_BYTES = 64 << 20
"""The bytes by which all tensors may exceed those in the file: an expanded buffer stores one row for many."""


def load_program(path: Path | str) -> nn.Module:
    """Return the network of a `.pt2` file that `save_program` wrote, in eval mode; nothing in the file is executed.

    ``module.meta["prunus"]`` holds what was stored about it, the plan under ``"plan"``.

    Raises:
        ModelError: not such a file, damaged, from elsewhere, or with pickled objects in it.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ModelError(f"{path} is no file; give the one that prunus.save wrote.")
        with Path(path).open("rb") as stream:
            return read_program(stream, str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; give the file that prunus.save wrote.") from error


def read_program(stream: IO[bytes], where: str) -> nn.Module:
    """Return the network in a stream; ``where`` names it in messages.

    The entries are a closed list of uncompressed texts and tensors as plain bytes, the program becomes records of
    torch's schema whose every text was checked, and torch's own reader of files, with its pickles, is left out.
    """
    with open_archive(stream, where) as archive:
        about = _about(archive)
        try:
            data = parse_json(archive.text(MODEL), f"{where}: {MODEL}")
            program = decode_program(data)
            values = {folder: _tensors(archive, folder) for folder in CONFIGS}
            weights, constants = values.values()
            _check_tensors(program, weights | constants)
        except ModelError as error:
            if where in str(error):
                raise
            raise ModelError(f"{where} is not loaded: {error}") from error
        except (DataError, ValueError, RecursionError, RuntimeError) as error:
            raise ModelError(f"{where} is damaged: {one_line(error)}; save the model again.") from error
    try:
        with silent():
            module: nn.Module = _deserialized(program, weights, constants).module()
    except Exception as error:  # a damaged program fails anywhere in torch's reader
        raise ModelError(f"{where} is damaged: {one_line(error)}; save the model again.") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.meta["prunus"] = about  # type: ignore[index, operator, assignment]
    module.eval = lambda: module  # type: ignore[method-assign]
    module.train = _Evaluating(module, where)  # type: ignore[method-assign]
    return module


class _Evaluating:
    """Stands for ``train`` of an exported network: its program is that of eval mode."""

    def __init__(self, module: nn.Module, where: str) -> None:
        self._module, self._where = module, where

    def __call__(self, mode: bool = True) -> nn.Module:
        if mode:
            raise UsageError(
                f"The network of {self._where} runs in eval mode only; train the checkpoint folder instead."
            )
        return self._module


def _deserialized(program: Any, weights: dict[str, torch.Tensor], constants: dict[str, torch.Tensor]) -> Any:
    from torch._export.serde.serialize import ExportedProgramDeserializer

    return ExportedProgramDeserializer().deserialize(program, weights, constants)


def _about(archive: ProgramArchive) -> dict[str, Any]:
    """Return what is stored beside the program: about the network, and its plan."""
    where = archive.where
    if not archive.holds(f"extra/{ABOUT}") or not archive.holds(f"extra/{PLAN}"):
        raise ModelError(f"{where} holds no {ABOUT}: prunus.save did not write it; use torch.export.load.")
    try:
        about, plan = (parse_json(archive.text(f"extra/{name}"), where) for name in (ABOUT, PLAN))
    except DataError as error:
        raise ModelError(str(error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise ModelError(f"{where} has format {shown(found)}; this version reads {FORMAT!r}.")
    return {**about, "plan": plan}


def _tensors(archive: ProgramArchive, folder: str) -> dict[str, torch.Tensor]:
    """Return name → tensor of the weights or the constants; tensors that share their bytes in the file share memory."""
    config = decode_payloads(parse_json(archive.text(folder + CONFIGS[folder]), f"{archive.where}: {CONFIGS[folder]}"))
    stored: dict[str, torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}
    spare = _SPARE_BYTES
    for name, payload in config.config.items():
        if payload.tensor_meta is None:
            raise ModelError("it holds pickled objects or code, which loading would run")
        entry = folder + payload.path_name
        if entry not in stored:
            stored[entry] = _bytes(archive.read(entry))
        tensor = _tensor(name, payload.tensor_meta, stored[entry])
        spare -= max(0, tensor.numel() * tensor.element_size() - len(stored[entry]))
        if spare < 0:
            raise ValueError(f"the tensor {name!r} is far larger than its bytes in the file")
        found[name] = nn.Parameter(tensor, payload.tensor_meta.requires_grad) if payload.is_param else tensor
    return found


def _bytes(content: bytes) -> torch.Tensor:
    # A copy in memory of torch's own: sums over what is aligned otherwise round otherwise.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).clone() if content else torch.empty(0).byte()


def _tensor(name: str, meta: Any, raw: torch.Tensor) -> torch.Tensor:
    """Return the bytes as the tensor that its record describes, after the check that it lies inside them."""
    dtype = _DTYPES.get(schema.ScalarType(meta.dtype).name)
    numbers = [*meta.sizes, *meta.strides, meta.storage_offset]
    if dtype is None or meta.layout != schema.Layout.Strided or any(n.type != "as_int" for n in numbers):
        raise ValueError(f"the tensor {name!r} is no dense tensor of fixed sizes")
    sizes, strides = [n.as_int for n in meta.sizes], [n.as_int for n in meta.strides]
    offset = meta.storage_offset.as_int
    if len(sizes) != len(strides) or min([*sizes, *strides, offset]) < 0:
        raise ValueError(f"the tensor {name!r} has a negative size, or a size without a stride")
    needed = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1 if all(sizes) else 0
    if raw.numel() % dtype.itemsize or needed * dtype.itemsize > raw.numel():
        raise ValueError(f"the tensor {name!r} is longer than its {raw.numel():,} bytes in the file")
    flat = raw.view(dtype) if raw.numel() else torch.empty(0, dtype=dtype)
    tensor = torch.as_strided(flat, sizes, strides, offset if needed else 0)
    return tensor if meta.device.type == "cpu" else tensor.to(torch.device(meta.device.type, meta.device.index or 0))


def _check_tensors(program: Any, values: dict[str, torch.Tensor]) -> None:
    """Insist that every tensor that the program reads is stored, with the shape and the type that it has there."""
    described = program.graph_module.graph.tensor_values
    for spec in program.graph_module.signature.input_specs:
        name = _stored_name(spec)
        if name is None:
            continue
        if name not in values or spec.value.arg.name not in described:
            raise ValueError(f"the program reads a tensor {name!r}, which is not stored")
        meta, tensor = described[spec.value.arg.name], values[name]
        sizes = tuple(n.value for n in meta.sizes)
        if sizes != tuple(tensor.shape) or _DTYPES.get(schema.ScalarType(meta.dtype).name) != tensor.dtype:
            raise ValueError(f"{name!r} is stored as {tuple(tensor.shape)}, and the program reads another tensor")


def _stored_name(spec: Any) -> str | None:
    names = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    return getattr(spec.value, names[spec.type]) if spec.type in names else None


_DTYPES: dict[str, torch.dtype] = {
    "BYTE": torch.uint8,
    "CHAR": torch.int8,
    "SHORT": torch.int16,
    "INT": torch.int32,
    "LONG": torch.int64,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "HALF": torch.float16,
    "FLOAT": torch.float32,
    "DOUBLE": torch.float64,
    "BFLOAT16": torch.bfloat16,
    "COMPLEXHALF": torch.complex32,
    "COMPLEXFLOAT": torch.complex64,
    "COMPLEXDOUBLE": torch.complex128,
    "BOOL": torch.bool,
    "FLOAT8E4M3FN": torch.float8_e4m3fn,
    "FLOAT8E5M2": torch.float8_e5m2,
    "FLOAT8E4M3FNUZ": torch.float8_e4m3fnuz,
    "FLOAT8E5M2FNUZ": torch.float8_e5m2fnuz,
    "FLOAT8E8M0FNU": torch.float8_e8m0fnu,
}
"""The element types by the names of torch's schema."""


def one_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep torch from logging graphs and printing where an export fails; the error says it all."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    talk = io.StringIO()
    try:
        with contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
