"""Gradual: mask the weights of lowest score along the schedule, single ones or whole windows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prunus.errors import OptionError
from prunus.masks import (
    KernelPosition,
    Tile,
    contracted_dims,
    kept_weights,
    nm_masks,
    resolve_count,
    top_masks,
    window_masks,
)
from prunus.masks.window import Strip, Window
from prunus.pruner.gradient_statistics import Gathered, below
from prunus.pruner.options import Moment
from prunus.pruner.strategy import STRATEGIES, Masks, NoSettings, Scene, Strategy


@STRATEGIES.register("gradual", "incremental")
class Gradual(Strategy):
    """Keep the n(t) weights of highest score; masked weights stay masked.

    n(t) = ⌊kept(t)·N⌋, kept(t) by the schedule. Scores: any weight criterion, or "relative" (|w| / max|W|), on the
    mean gradients since the last change. With a pattern, windows are masked whole, and N:M keeps max(N, ⌈kept(t)·M⌉) of
    M.
    Source: Zhu & Gupta, "To prune, or not to prune", arXiv:1710.01878.
    """

    reads = ("criterion", "pattern")
    Settings = NoSettings

    def __init__(self, scene: Scene, settings: NoSettings) -> None:
        super().__init__(scene, settings)
        self._gathered = Gathered(scene, scene.options.criterion or "magnitude")
        self._pattern = parse_pattern(scene.options.pattern)
        if isinstance(self._pattern, tuple) and scene.options.kept < self._pattern[0] / self._pattern[1] - 1e-9:
            least = self._pattern[0] / self._pattern[1]
            raise OptionError(
                f"kept is {scene.options.kept:g}, and pattern {scene.options.pattern!r} keeps {least:g}; give kept "
                f"{least:g}, or a pattern that keeps less."
            )

    def observe(self, moment: Moment) -> None:
        """Add the gradients of the step, as long as masks still change."""
        if moment.updates_left:
            self._gathered.observe()

    def update(self, moment: Moment) -> Masks | None:
        """Prune down to the schedule."""
        scores = self._gathered.scores()
        total = sum(score.numel() for score in scores.values())
        # A second training with the same pruner begins its schedule anew; masked weights stay masked.
        have = self.scene.kept_count()
        count = min(have, resolve_count(total, moment.kept, None))
        if self._pattern is None:
            return top_masks(scores, keep_count=count, within=self.scene.masks)
        scores = below(scores, self.scene.masks)
        if isinstance(self._pattern, tuple):
            n, m = self._pattern
            wide = {name: score for name, score in scores.items() if score.dim() > 1}
            stay = max(n, math.ceil(moment.kept * m - 1e-9))
            masks = nm_masks(wide, n=stay, m=m, input_dims=_input_dims(self.scene, wide))
            return masks if kept_weights(masks) <= have else None
        return window_masks(scores, self._pattern, keep_count=count, input_dims=_input_dims(self.scene, scores))

    def evidence(self) -> list[Tensor]:
        """Return the sums over gradients."""
        return self._gathered.tensors()

    def state(self) -> dict[str, Any]:
        """Return the sums over gradients."""
        return self._gathered.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the sums."""
        self._gathered.restore(state)


def parse_pattern(text: str | None) -> Window | tuple[int, int] | None:
    """Read "2:4", "tile:4x4", "strip:8", "kernel"; None stays None.

    Raises:
        OptionError: anything else.
    """
    if text is None:
        return None
    if text == "kernel":
        return KernelPosition()
    text = str(text)
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        n, m = int(found[1]), int(found[2])
        if 1 <= n <= m:
            return n, m
    elif found := re.fullmatch(r"tile:(\d+)x(\d+)", text):
        return Tile(int(found[1]), int(found[2]))
    elif found := re.fullmatch(r"strip:(\d+)", text):
        return Strip(int(found[1]))
    raise OptionError(f"pattern is {text!r}; allowed: N:M with 1 ≤ N ≤ M, tile:RxC, strip:N, kernel, or None.")


def _input_dims(scene: Scene, scores: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: dim for name, dim in contracted_dims(scene.model).items() if name in scores}
