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

from prunus.experiments.sources.vision_ops import compute_nms, import_torchvision

HERE = Path(__file__).parent
ZOOS = ("torchvision", "timm", "transformers", "torchvision-tasks")
# Above so many parameters a proof is fed one sample, and further up it is done in float32, to fit a small machine.
LARGE, GIANT = 20_000_000, 100_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of a zoo: ``weight`` orders the work, small models first."""

    zoo: str
    name: str
    weight: int
    build: Callable[[], tuple[nn.Module, Any]]
    slow: bool = False

    @property
    def giant(self) -> bool:
        """Whether the model is proved in float32, alone on the machine: it is large, or computes for long."""
        return self.slow or self.weight > GIANT


def entries(zoo: str) -> list[Entry]:
    """Return the models of one zoo, smallest first."""
    made = {"torchvision": _torchvision, "torchvision-tasks": _tasks, "timm": _timm, "transformers": _transformers}[
        zoo
    ]()
    return sorted(made, key=lambda e: (e.weight, e.name))


def counts() -> dict[str, int]:
    """Return how many models each zoo has."""
    return {zoo: len(entries(zoo)) for zoo in ZOOS}


def _torchvision() -> list[Entry]:
    import_torchvision()
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


# The quantised models are no part of the zoo: their integer kernels hold no parameters that could be cut.
_LONG = ("mvit", "s3d")
TASKS = ("segmentation", "detection", "video", "optical_flow")


def _tasks() -> list[Entry]:
    """Segmentation, detection (whole, and the backbone alone), video and optical flow, on small inputs."""
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    found = []
    for task in TASKS:
        for name in models.list_models(module=getattr(models, task)):
            weight = int(next(iter(models.get_model_weights(name))).meta["num_params"])
            found.append(
                Entry(
                    "torchvision-tasks", name, weight, lambda t=task, n=name: _task_model(t, n), name.startswith(_LONG)
                )
            )
            if task == "detection":
                parts = f"{name}.backbone"
                found.append(Entry("torchvision-tasks", parts, weight, lambda n=name: _detection_backbone(n)))
    return found


# Enough boxes for the loops to turn, few enough for suppression and pooling that are written in Python.
_FEW = {
    "fasterrcnn": {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.0},
    "maskrcnn": {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.0},
    "keypointrcnn": {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.0},
    "retinanet": {"topk_candidates": 100, "score_thresh": 0.0},
    "fcos": {"topk_candidates": 100, "score_thresh": 0.0},
    "ssd300": {"topk_candidates": 10, "score_thresh": 0.0},
    "ssdlite320": {"topk_candidates": 10, "score_thresh": 0.0},
}


def _task_model(task: str, name: str) -> tuple[nn.Module, Any]:
    compute_nms()
    models = importlib.import_module("torchvision.models")
    options: dict[str, Any] = {"weights_backbone": None} if task in ("segmentation", "detection") else {}
    if task == "detection":
        options |= _FEW[name.partition("_")[0]] | {"detections_per_img": 10}
        if "rcnn" in name:
            options["box_detections_per_img"] = options.pop("detections_per_img")
        if not name.startswith("ssd"):
            options |= {"min_size": 128, "max_size": 192}
    model = models.get_model(name, weights=None, **options).eval()
    if task == "detection":
        return model, ([torch.rand(3, 128, 160)],)
    if task == "segmentation":
        return model, (torch.randn(1, 3, 96, 96),)
    if task == "video":
        # MViT has tables for this size, and the last pool of S3D needs it.
        frames, side = (16, 224) if name.startswith(_LONG) else (8, 64)
        return model, (torch.randn(1, 3, frames, side, side),)
    return model, (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))


def _detection_backbone(name: str) -> tuple[nn.Module, Any]:
    model, _ = _task_model("detection", name)
    side = 300 if name.startswith("ssd") else 128
    return model.backbone, (torch.randn(1, 3, side, side),)


def _timm() -> list[Entry]:
    import_torchvision()
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
    import_torchvision()
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
