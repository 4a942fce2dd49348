"""Repairs for a torchvision whose compiled ops do not fit the installed torch, such as a CPU build of torch.

torchvision works without its ops, but refers to two of them during its import, which then fails. It needs only their
schemas. Nothing is done if torchvision loads by itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import numpy as np
import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision if it is installed; call it before anything imports it, timm and transformers too.

    Raises:
        Exception: any other error of torchvision than that of the missing ops.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _define()
        importlib.import_module("torchvision")


def compute_nms() -> None:
    """Let detectors of torchvision run with suppression in Python in place of the missing compiled one.

    Raises:
        Exception: torchvision is not installed, or does not load.
    """
    import_torchvision()
    extension: Any = importlib.import_module("torchvision.extension")
    if extension._has_ops() or len(_kept) > 1:
        return
    _define()
    library: Any = _library("IMPL")
    library.impl("nms", non_maximum_suppression, "CPU")
    _kept.append(library)
    boxes: Any = importlib.import_module("torchvision.ops.boxes")
    boxes._assert_has_ops = lambda: None
    # The replacement for box pooling would be compiled by the machine's C++ compiler on first use.
    pooling: Any = importlib.import_module("torchvision.ops.roi_align")
    pooling._roi_align = getattr(pooling._roi_align, "__wrapped__", pooling._roi_align)


def _define() -> None:
    if _kept:
        return
    library: Any = _library("FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _kept.append(library)


def _library(kind: str) -> torch.library.Library:
    return torch.library.Library("torchvision", kind)  # type: ignore[no-untyped-call]


def non_maximum_suppression(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return the boxes that overlap no kept box of higher score by more than the threshold, best first.

    Shapes: dets (N, 4) as x1 y1 x2 y2, scores (N,) → (K,).
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order].double()
    low, high = boxes[:, None, :2].maximum(boxes[None, :, :2]), boxes[:, None, 2:].minimum(boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    covers = (shared > iou_threshold * (areas[:, None] + areas[None, :] - shared)).numpy()
    alive, kept = np.ones(len(covers), bool), []
    for i in range(len(covers)):
        if alive[i]:
            kept.append(i)
            alive &= ~covers[i]
    return order[kept]
