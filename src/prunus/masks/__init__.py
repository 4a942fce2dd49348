"""Masks of single weights: named scores and a budget in, named boolean tensors out, True = keep."""

from prunus.criteria.relative import relative_scores
from prunus.masks.importance import importance_masks
from prunus.masks.nm import nm_masks
from prunus.masks.ranking import masks_above, resolve_count, top_masks
from prunus.masks.threshold import absolute_masks, gradient_masks, relative_masks
from prunus.masks.weights import contracted_dims, kept_weights, prunable_weights
from prunus.masks.window import Kernel, KernelPosition, Tile, Window, window_masks, window_means

__all__ = [
    "Kernel",
    "KernelPosition",
    "Tile",
    "Window",
    "absolute_masks",
    "contracted_dims",
    "gradient_masks",
    "importance_masks",
    "kept_weights",
    "masks_above",
    "nm_masks",
    "prunable_weights",
    "relative_masks",
    "relative_scores",
    "resolve_count",
    "top_masks",
    "window_masks",
    "window_means",
]
