"""Read a `.pt2` file: what torch would unpickle or run is refused before torch sees it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import DataError, ModelError, UsageError
from prunus.foundation.strict_json import parse_json
from prunus.plans import PLAN

FORMAT = "prunus-pt2/1"
SUFFIX = ".pt2"
ABOUT = "prunus.json"


def load_program(path: Path | str) -> nn.Module:
    """Return the network of a `.pt2` file that `save_program` wrote, in eval mode; nothing in the file is executed.

    ``module.meta["prunus"]`` holds what was stored about it, the plan under ``"plan"``.

    Raises:
        ModelError: not such a file, damaged, from elsewhere, or with pickled objects in it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; give the file that prunus.save wrote.") from error
    return read_program(io.BytesIO(data), str(path))


def read_program(buffer: io.BytesIO, where: str) -> nn.Module:
    """Return the network in a buffer; ``where`` names it in messages."""
    about = _about(buffer, where)
    buffer.seek(0)
    try:
        with silent():
            module: nn.Module = torch.export.load(buffer).module()
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


def _about(buffer: io.BytesIO, where: str) -> dict[str, Any]:
    """Return what is told about the program, after a look at everything that torch would unpickle."""
    try:
        with zipfile.ZipFile(buffer) as archive:
            if archive.testzip() is not None:
                raise ModelError(f"{where} is damaged; save the model again.")
            texts = {n.partition("/extra/")[2]: archive.read(n).decode() for n in archive.namelist() if "/extra/" in n}
            _refuse_pickles(archive, where)
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{where} is no .pt2 file, or only a part of one: {one_line(error)}.") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{where} is damaged: {type(error).__name__} {one_line(error)}; save it again.") from error
    if ABOUT not in texts or PLAN not in texts:
        raise ModelError(f"{where} holds no {ABOUT}: prunus.save did not write it; use torch.export.load.")
    try:
        about, plan = parse_json(texts[ABOUT], where), parse_json(texts[PLAN], where)
    except DataError as error:
        raise ModelError(str(error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        told = about.get("format") if isinstance(about, dict) else about
        raise ModelError(f"{where} has format {told!r}; this version reads {FORMAT!r}.")
    return {**about, "plan": plan}


def _refuse_pickles(archive: zipfile.ZipFile, where: str) -> None:
    """Refuse what would be executed: torch reads example inputs and odd tensors with an unrestricted unpickler."""
    names = archive.namelist()
    endings = (".pt", ".pkl", ".pickle", ".so")
    pickled = any(i.filename.endswith(endings) and i.file_size for i in archive.infolist())
    configs = [n for n in names if n.endswith("_config.json") and "/data/" in n]
    for name in configs:
        entries = json.loads(archive.read(name))["config"].values()
        pickled |= any(e["use_pickle"] is not False or e["tensor_meta"] is None for e in entries)
    # Without these torch takes the file for one of an older format, which is a pickle.
    old = not configs or not any(n.endswith("/archive_format") for n in names)
    if pickled or old or any("/aotinductor/" in n for n in names):
        raise ModelError(f"{where} holds pickled objects or code, which loading would run; save it with prunus.save.")


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
