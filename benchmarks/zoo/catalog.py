"""The lists: which models the zoo holds, how each is built, and what it is fed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .vision_ops import define_vision_ops

HERE = Path(__file__).parent
ZOOS = ("torchvision", "timm", "transformers")
# Above so many parameters a proof is fed one sample, and further up it is done in float32, to fit a small machine.
LARGE, GIANT = 40_000_000, 100_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of a zoo: ``weight`` orders the work, small models first."""

    zoo: str
    name: str
    weight: int
    build: Callable[[], tuple[nn.Module, Any]]

    @property
    def giant(self) -> bool:
        """Whether the model is proved in float32."""
        return self.weight > GIANT


def entries(zoo: str) -> list[Entry]:
    """Return the models of one zoo, smallest first."""
    made = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[zoo]()
    return sorted(made, key=lambda e: (e.weight, e.name))


def counts() -> dict[str, int]:
    """Return how many models each zoo has."""
    return {zoo: len(entries(zoo)) for zoo in ZOOS}


def _torchvision() -> list[Entry]:
    define_vision_ops()
    models = importlib.import_module("torchvision.models")
    found = []
    for name in models.list_models(module=models):
        weights = models.get_model_weights(name)
        weight = int(next(iter(weights)).meta["num_params"])
        found.append(Entry("torchvision", name, weight, lambda n=name, w=weight: _torchvision_model(n, w)))
    return found


def _torchvision_model(name: str, weight: int) -> tuple[nn.Module, Any]:
    models = importlib.import_module("torchvision.models")
    auxiliary = name in ("googlenet", "inception_v3")
    options = {"aux_logits": False, "init_weights": False} if auxiliary else {}
    side = 299 if name == "inception_v3" else 224
    model = models.get_model(name, weights=None, **options).eval()
    return model, (torch.randn(1 if weight > LARGE else 2, 3, side, side),)


def _timm() -> list[Entry]:
    define_vision_ops()
    importlib.import_module("timm")
    listed = json.loads((HERE / "timm.json").read_text(encoding="utf-8"))
    return [
        Entry("timm", item["model"], item["parameters"], lambda i=item: _timm_model(i["model"], i["parameters"]))
        for item in listed
    ]


def _timm_model(name: str, weight: int) -> tuple[nn.Module, Any]:
    timm = importlib.import_module("timm")
    model = timm.create_model(name, pretrained=False).eval()
    return model, (torch.randn(1 if weight > LARGE else 2, *model.pretrained_cfg["input_size"]),)


def _transformers() -> list[Entry]:
    define_vision_ops()
    importlib.import_module("transformers")
    listed = json.loads((HERE / "transformers.json").read_text(encoding="utf-8"))
    return [
        Entry("transformers", item["family"], item["parameters"], lambda i=item: _transformers_model(i))
        for item in listed
    ]


def _transformers_model(item: dict[str, Any]) -> tuple[nn.Module, Any]:
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.for_model(item["family"], **item["config"])
    model = getattr(transformers, item["auto_class"]).from_config(config).eval()
    return model, {key: _value(spec) for key, spec in item["inputs"].items()}


def _value(spec: Any) -> Any:
    if not isinstance(spec, dict):
        return spec
    if "int_range" in spec:
        low, high = spec["int_range"]
        return torch.randint(low, high + 1, spec["shape"])
    if spec.get("normal"):
        return torch.randn(spec["shape"])
    raise ValueError(f"unknown input {spec}")
