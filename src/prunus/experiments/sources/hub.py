"""Models of torchvision, timm and transformers; each library is imported only when it is named."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from prunus.errors import ModelError, nearest
from prunus.experiments.sources.vision_ops import compute_nms, import_torchvision
from prunus.exporters.own_folder import check_folder
from prunus.foundation.user_code import errors_named, one_line


def from_torchvision(name: str, args: Mapping[str, Any], base_dir: Path) -> nn.Module:
    """Build the torchvision model ``name``; ``weights: DEFAULT`` among the arguments loads trained weights.

    Raises:
        ModelError: torchvision is missing or does not fit this torch, or the name or an argument is unknown.
    """
    models = _library("torchvision.models", "vision")
    _check_name("torchvision", name, models.list_models())
    with errors_named(f"'torchvision:{name}'", ModelError):
        compute_nms()
        model: nn.Module = models.get_model(name, **args)
    return model


def from_timm(name: str, args: Mapping[str, Any], base_dir: Path) -> nn.Module:
    """Build the timm model ``name``; ``pretrained: true`` among the arguments loads trained weights.

    Raises:
        ModelError: timm is missing or does not load, or the name or an argument is unknown.
    """
    timm = _library("timm", "vision")
    _check_name("timm", name, timm.list_models(), name.partition(".")[0])
    with errors_named(f"'timm:{name}'", ModelError):
        model: nn.Module = timm.create_model(name, **args)
    return model


def from_hf(path: str, args: Mapping[str, Any], base_dir: Path) -> nn.Module:
    """Load a transformers model from a local folder or a hub name, as the class that its config names.

    Args:
        path: a folder with ``config.json``, relative to ``base_dir``, or a hub name.
        args: passed to ``from_pretrained``; ``auto_class`` picks another class, such as ``AutoModelForCausalLM``.
        base_dir: the folder from which a relative path starts.

    Raises:
        ModelError: transformers is missing, no such folder, or the model cannot be loaded.
    """
    folder = base_dir / Path(path).expanduser()
    local = folder.is_dir()
    if not local and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ModelError(f"model 'hf:{path}': no such folder {str(folder)!r}; give a folder with config.json.")
    transformers = _library("transformers", "text")
    # Without an answer transformers asks at the terminal whether code of the folder or of the hub may run.
    options = {"trust_remote_code": False, **args}
    source = str(folder) if local else path
    if local:
        check_folder(folder)
    with errors_named(f"'hf:{path}'", ModelError):
        kind = options.pop("auto_class", None) or _architecture(transformers, source)
        if not hasattr(transformers, kind):
            raise ModelError(f"model 'hf:{path}': transformers has no class {kind!r}; set auto_class in model_args.")
        model: nn.Module = getattr(transformers, kind).from_pretrained(source, **options)
        return model


def _architecture(transformers: ModuleType, source: str) -> str:
    named = transformers.AutoConfig.from_pretrained(source).architectures or []
    return next((name for name in named if hasattr(transformers, name)), "AutoModel")


def _library(name: str, extra: str) -> ModuleType:
    top = name.partition(".")[0]
    try:
        # transformers works without torchvision, and has its own message for one that does not load.
        with contextlib.suppress(Exception) if top == "transformers" else contextlib.nullcontext():
            import_torchvision()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"'{top}:' needs the package {error.name!r}, which is not installed; pip install 'prunus[{extra}]'."
        ) from error
    except Exception as error:
        raise ModelError(
            f"'{top}:' cannot be imported ({type(error).__name__}: {one_line(error, 120)}); its build must match torch "
            f"(a CPU torchvision beside a CPU torch). Reinstall both together, or name your model as file.py:callable."
        ) from error


def _check_name(source: str, name: str, known: Iterable[str], bare: str | None = None) -> None:
    names = list(known)
    if (bare or name) not in names:
        raise ModelError(
            f"model '{source}:{name}': {source} has no model of that name.{nearest(name, names)} "
            f"{source} knows {len(names)}; see its list_models()."
        )
