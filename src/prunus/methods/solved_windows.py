"""Weight level by layer problems over whole windows: strips of a row, or tiles of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.criteria.lamp import lamp_scores
from prunus.masks import Tile, contracted_dims
from prunus.masks.window import Strip, Window
from prunus.methods.method import method
from prunus.methods.solved_layers import Layers, as_they_are, lamp_shares
from prunus.methods.weights import maskable, masked_plan, weights_to_keep
from prunus.methods.windows_to_budget import best_windows, completed, room_for_one
from prunus.plans import Plan
from prunus.repairs import Site
from prunus.solvers import Pattern, Pruned, Tiles, alps, exact_obs, sparsegpt

STEPS = 32
"""Most steps of ExactOBS a band of rows; a band of more windows removes several from the same scores."""


class _Solver(Protocol):
    def __call__(self, weight: Tensor, moment: Tensor, count: int, *, pattern: Tiles) -> Pruned: ...


@dataclass(frozen=True, slots=True)
class Windows:
    """The positions of the windows of a layer.

    Attributes:
        tile: windows on the matrix of the solvers (outputs of a group, its inputs).
        turned: inputs run along the channels of one kernel position, then the next: a window of a row stays at one
            position where the channels are a multiple of its length.
        elsewhere: the same windows for weights without a layer problem.
    """

    tile: Tiles
    turned: bool
    elsewhere: Window

    @property
    def area(self) -> int:
        """The number of weights of a full window."""
        return self.tile.rows * self.tile.columns

    def numbers(self, site: Site, order: Tensor) -> Tensor:
        """Number the window of every weight of a solved layer; every group starts anew. Shape: that of the weight.

        Args:
            site: the layer.
            order: the columns of a group in the order of the solver.
        """
        blank = site.matrix(torch.zeros(site.shape))
        groups, rows, width = blank.shape
        own = Tile(self.tile.rows, self.tile.columns).labels((rows, width))
        numbers = torch.zeros(groups, rows, width, dtype=torch.int64)
        numbers[:, :, order] = own + torch.arange(groups)[:, None, None] * (int(own.max()) + 1)
        return site.weight(numbers)


STRIPS = Windows(Tiles(1, 8), True, Strip(8))
"""8 consecutive inputs of one unit, the channels of a kernel position in a line: a 256-bit vector of float32."""
TILES = Windows(Tiles(4, 4), False, Tile(4, 4))
"""4×4 tiles of the matrix, which block-sparse kernels multiply as a whole."""


def windowed_plan(analysis: Analysis, limits: Limits, solver: _Solver, windows: Windows, reason: str) -> Plan:
    """Mask whole windows of every layer by a solver, with LAMP's counts and inputs from the pruned layers before it.

    Layers without a layer problem, and groups too narrow for a window, keep the windows of largest mean |w|. The rest
    of the budget goes to the masked windows of highest mean LAMP score, so that the count is exact and at most one
    window of the network is broken. Every layer keeps a window.

    Raises:
        BudgetError: the parameters that cannot be masked and one window of every weight exceed the budget.
    """
    weights = maskable(analysis)
    count, sizes = weights_to_keep(analysis, weights, limits), {name: w.numel() for name, w in weights.items()}
    counts = room_for_one(lamp_shares(analysis, weights, count), sizes, windows.area)
    layers = Layers(
        partial(solver, pattern=windows.tile),
        counts,
        as_they_are(analysis, weights),
        turned=windows.turned,
        least=windows.area,
    ).solve(analysis)
    dims = contracted_dims(analysis.model)
    masks, numbers, scores = {}, {}, {}
    for name, weight in weights.items():
        scores[name] = torch.from_numpy(lamp_scores(weight.double().cpu().numpy()))
        if name in layers.sites:
            site = layers.sites[name]
            numbers[name] = windows.numbers(site, layers.order(site))
            masks[name] = layers.masks[name].cpu()
        else:
            dim = dims.get(name, 1)
            numbers[name] = windows.elsewhere.labels(tuple(weight.movedim(dim, 1).shape)).movedim(1, dim)
            masks[name] = best_windows(weight.abs(), numbers[name], counts[name])
    return masked_plan(analysis, completed(masks, numbers, scores, count), reason)


def _sparsegpt(weight: Tensor, moment: Tensor, count: int, *, pattern: Tiles) -> Pruned:
    # Decided window by window, not 128 columns at once: the ViT of ``glyphs`` with 30 % of its weights in strips,
    # refitted, has an accuracy of 43.8 % instead of 23.4 %.
    return sparsegpt(weight, moment, count, pattern, block=pattern.columns)


def _alps(weight: Tensor, moment: Tensor, count: int, *, pattern: Pattern) -> Pruned:
    return alps(weight.float(), moment.float(), count, pattern)


def _exact(weight: Tensor, moment: Tensor, count: int, *, pattern: Tiles) -> Pruned:
    # Damped moments are well conditioned: float32 gives the same windows in half the time.
    windows = -(-weight.shape[1] // pattern.columns)
    return exact_obs(weight.float(), moment.float(), count, pattern, at_once=-(-windows // STEPS))


@method("sparsegpt-window", "weight", "1×8 strips of a row by SparseGPT: columns in turn, errors passed on")
def sparse_gpt_windows(analysis: Analysis, limits: Limits) -> Plan:
    """Keep whole strips of 8 inputs by SparseGPT.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv:2301.00774; the windows: Mao et al., arXiv:1705.08922.

    Raises:
        BudgetError: one strip of every weight exceeds the budget.
    """
    return windowed_plan(analysis, limits, _sparsegpt, STRIPS, "strip of low ‖w·U⁻¹‖² in its block of columns")


@method("alps-window", "weight", "1×8 strips of a row by alternating directions (ADMM)")
def alps_windows(analysis: Analysis, limits: Limits) -> Plan:
    """Keep whole strips of 8 inputs by ALPS.

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning", arXiv:2406.07831; the
    windows: Mao et al., arXiv:1705.08922.

    Raises:
        BudgetError: one strip of every weight exceeds the budget.
    """
    return windowed_plan(analysis, limits, _alps, STRIPS, "strip off the support that alternating directions found")


@method("exact-obs-window", "weight", "each row loses its 1×8 strips one by one with an inverse of its own")
def exact_windows(analysis: Analysis, limits: Limits) -> Plan:
    """Keep whole strips of 8 inputs by ExactOBS in groups.

    Source: Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv:2208.11580; the windows: Mao et al.,
    arXiv:1705.08922.

    Raises:
        BudgetError: one strip of every weight exceeds the budget.
    """
    return windowed_plan(analysis, limits, _exact, STRIPS, "the rest of its row makes up for the strip best")


@method("sparsegpt-tile", "weight", "4×4 tiles by SparseGPT: columns in turn, errors passed on")
def sparse_gpt_tiles(analysis: Analysis, limits: Limits) -> Plan:
    """Keep whole 4×4 tiles by SparseGPT.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv:2301.00774; the tiles: Narang et al., arXiv:1711.02782.

    Raises:
        BudgetError: one tile of every weight exceeds the budget.
    """
    return windowed_plan(analysis, limits, _sparsegpt, TILES, "tile of low ‖W·U⁻¹‖² in its block of columns")


@method("alps-tile", "weight", "4×4 tiles by alternating directions (ADMM)")
def alps_tiles(analysis: Analysis, limits: Limits) -> Plan:
    """Keep whole 4×4 tiles by ALPS.

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning", arXiv:2406.07831; the tiles:
    Narang et al., arXiv:1711.02782.

    Raises:
        BudgetError: one tile of every weight exceeds the budget.
    """
    return windowed_plan(analysis, limits, _alps, TILES, "tile off the support that alternating directions found")


@method("exact-obs-tile", "weight", "each band of 4 rows loses its 4×4 tiles one by one with an inverse of its own")
def exact_tiles(analysis: Analysis, limits: Limits) -> Plan:
    """Keep whole 4×4 tiles by ExactOBS in groups.

    Source: Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv:2208.11580; the tiles: Narang et al.,
    arXiv:1711.02782.

    Raises:
        BudgetError: one tile of every weight exceeds the budget.
    """
    return windowed_plan(analysis, limits, _exact, TILES, "the rest of its rows makes up for the tile best")
