"""Let torchvision work beside a CPU build of torch: its compiled ops are missing there."""

from __future__ import annotations

import importlib

import numpy as np
import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[torch.library.Library] = []


def define_vision_ops() -> None:
    """Define the two schemas that torchvision names on import; does nothing where they exist."""
    if _kept:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _kept.append(library)


def compute_nms() -> None:
    """Let detectors run: suppression written in Python takes the place of the missing compiled one."""
    define_vision_ops()
    extension = importlib.import_module("torchvision.extension")
    if extension._has_ops() or len(_kept) > 1:
        return
    library = torch.library.Library("torchvision", "IMPL")
    library.impl("nms", non_maximum_suppression, "CPU")
    _kept.append(library)
    importlib.import_module("torchvision.ops.boxes")._assert_has_ops = lambda: None
    # The stand-in for box pooling would be compiled by the machine's C++ compiler on first use.
    pooling = importlib.import_module("torchvision.ops.roi_align")
    pooling._roi_align = pooling._roi_align.__wrapped__


def non_maximum_suppression(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return the boxes that overlap no better-scored kept box by more than the threshold, best first.

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
