"""Solvers on whole windows: the papers' algorithms written out in float64, brute force, and what no window may do."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor

from factories_layers import DAMPING, error, layer
from prunus.errors import OptionError
from prunus.solvers import Consumer, Tiles, alps, damped, exact_obs, refit, remove_units, sparsegpt, wanda
from prunus.solvers.band_traces import trace_bands
from prunus.solvers.problem import inverse

SHAPES = ((1, 4), (2, 3), (4, 4), (1, 6), (3, 1))
tiles = pytest.mark.parametrize("tile", [Tiles(*shape) for shape in SHAPES], ids=lambda t: f"{t.rows}x{t.columns}")


def cells(rows: int, width: int, tile: Tiles) -> list[tuple[slice, slice]]:
    """Return the places of all tiles, row by row."""
    return [
        (slice(top, min(top + tile.rows, rows)), slice(left, min(left + tile.columns, width)))
        for top in range(0, rows, tile.rows)
        for left in range(0, width, tile.columns)
    ]


def literal_band(w: Tensor, h: Tensor, columns: int) -> list[tuple[int, float]]:
    """Algorithm 1 of arXiv:2208.11580 with groups: one band of rows, one inverse, one window after the other."""
    w, back = w.clone(), torch.linalg.inv(damped(h, DAMPING))
    left, trace = list(range(-(-w.shape[1] // columns))), []
    while left:
        costs = {}
        for g in left:
            at = torch.arange(g * columns, min((g + 1) * columns, w.shape[1]))
            costs[g] = float((w[:, at] @ torch.linalg.inv(back[at][:, at]) @ w[:, at].T).trace())
        g = min(costs, key=lambda g: costs[g])
        at = torch.arange(g * columns, min((g + 1) * columns, w.shape[1]))
        own = torch.linalg.inv(back[at][:, at])
        w = w - w[:, at] @ own @ back[at]
        back = back - back[:, at] @ own @ back[at]
        w[:, at], back[at], back[:, at] = 0.0, 0.0, 0.0
        back[at, at] = 1.0
        left.remove(g)
        trace.append((g, costs[g]))
    return trace


@tiles
def test_a_band_loses_its_windows_as_the_paper_s_algorithm_says(tile: Tiles) -> None:
    w, h = layer(7, 22, 3)
    order, rises = trace_bands(w, inverse(damped(h, DAMPING)), tile)
    for band in range(-(-7 // tile.rows)):
        wanted = literal_band(w[band * tile.rows : (band + 1) * tile.rows], h, tile.columns)
        assert order[band].tolist() == [g for g, _ in wanted]
        torch.testing.assert_close(
            rises[band], torch.tensor([c for _, c in wanted], dtype=torch.float64), rtol=1e-9, atol=1e-9
        )


@tiles
def test_exact_obs_takes_the_windows_that_add_least_for_their_size(tile: Tiles) -> None:
    w, h = layer(8, 24, 1)
    traces = [literal_band(w[top : top + tile.rows], h, tile.columns) for top in range(0, 8, tile.rows)]
    keep, taken, added, count = torch.ones(8, 24, dtype=torch.bool), [0] * len(traces), 0.0, 8 * 24 // 3
    places = cells(8, 24, tile)
    across = -(-24 // tile.columns)

    def ahead(band: int) -> float:
        """A window costs at least what those before it in its band cost."""
        top = band * across
        rows, columns = places[top + traces[band][taken[band]][0]]
        return max(c / (keep[rows, columns].numel() or 1) for _, c in traces[band][: taken[band] + 1])

    while int(keep.sum()) > count:
        band = min((b for b in range(len(traces)) if taken[b] < len(traces[b])), key=ahead)
        window, cost = traces[band][taken[band]]
        keep[places[band * across + window]] = False
        taken[band], added = taken[band] + 1, added + cost
    found = exact_obs(w, h, count, tile)
    assert torch.equal(found.mask, keep)
    assert error(w, found.weight, h) == pytest.approx(added, rel=1e-6)


def literal_sparsegpt(w: Tensor, h: Tensor, count: int, tile: Tiles, block: int) -> Tensor:
    """Algorithm 1 of arXiv:2301.00774, every window of a block ranked by its error once all before it are settled."""
    w, (rows, width) = w.clone(), w.shape
    u = torch.linalg.cholesky(torch.linalg.inv(damped(h, DAMPING)), upper=True)
    keep, spent = torch.ones(rows, width, dtype=torch.bool), 0
    for j in range(width):
        if j % block == 0:
            stop = min(j + block, width)
            costs = {}
            for down, across in cells(rows, stop - j, tile):
                at = slice(j + across.start, j + across.stop)
                group, own = w[down, at], u[at, at].T @ u[at, at]
                costs[down.start, at.start] = float((group @ torch.linalg.inv(own) @ group.T).trace()) / group.numel()
            keep[:, j:stop] = False
            room = count * stop // width - spent
            for top, left in sorted(costs, key=lambda place: -costs[place]):
                down, at = slice(top, top + tile.rows), slice(left, min(left + tile.columns, stop))
                if keep[down, at].numel() > room:
                    break
                keep[down, at] = True
                room -= keep[down, at].numel()
            spent += int(keep[:, j:stop].sum())
        value = w[:, j] * keep[:, j]
        w[:, j + 1 :] -= torch.outer((w[:, j] - value) / u[j, j], u[j, j + 1 :])
        w[:, j] = value
    return w


@tiles
@pytest.mark.parametrize("block", [1, 12])
def test_sparsegpt_over_windows_is_the_algorithm_written_out(tile: Tiles, block: int) -> None:
    w, h = layer(8, 24, 2)
    count, width = 8 * 24 // 2, tile.columns * max(1, block // tile.columns)
    wanted = literal_sparsegpt(w, h, count, tile, width)
    found = sparsegpt(w, h, count, tile, block=block, damping=DAMPING)
    assert torch.equal(found.mask, wanted != 0)
    assert error(w, found.weight, h) == pytest.approx(error(w, wanted, h), rel=1e-6)


def literal_alps(w: Tensor, h: Tensor, count: int, tile: Tiles) -> Tensor:
    """Algorithm 1 of arXiv:2406.07831 with the projection on the windows that hold most; returns the support."""
    h = damped(h, DAMPING)
    scale = torch.diag(h) ** 0.5
    h, dense = h / torch.outer(scale, scale), w * scale

    def project(x: Tensor) -> Tensor:
        places = cells(*x.shape, tile)
        out, room = torch.zeros_like(x), count
        for place in sorted(places, key=lambda place: -float(x[place].square().mean())):
            if x[place].numel() > room:
                break
            out[place], room = x[place], room - x[place].numel()
        return out

    d, v, rho, old = dense.clone(), torch.zeros_like(w), 0.1, project(dense) != 0
    for step in range(1, 301):
        free = torch.linalg.solve(h + rho * torch.eye(len(h)).double(), (dense @ h - v + rho * d).T).T
        d = project(free + v / rho)
        v = v + rho * (free - d)
        if step % 3 == 0:
            moved, kept = int(((d != 0) != old).sum()), int((d != 0).sum())
            if moved == 0:
                break
            rho *= 1.3 if moved >= 0.1 * kept else 1.2 if moved >= 0.005 * kept else 1.1
            old = d != 0
    return d != 0


@tiles
def test_alps_projects_on_the_best_windows(tile: Tiles) -> None:
    w, h = layer(8, 24, 4)
    support = literal_alps(w, h, 96, tile)
    found = alps(w, h, 96, tile, steps=200)
    assert torch.equal(found.mask, support)
    wanted = refit(w, h, support, damping=DAMPING)
    assert error(w, found.weight, h) == pytest.approx(error(w, wanted, h), rel=1e-6)


@functools.cache
def least_error(tile: Tiles, seed: int, kept: int) -> float:
    """Return the error of the best so many windows of a layer of 2 × 12, all tried."""
    w, h = layer(2, 12, seed)
    found = []
    for chosen in itertools.combinations(cells(2, 12, tile), kept):
        mask = torch.zeros(2, 12, dtype=torch.bool)
        for place in chosen:
            mask[place] = True
        found.append(error(w, refit(w, h, mask, damping=DAMPING), h))
    return min(found)


@pytest.mark.parametrize("solver", [wanda, sparsegpt, alps, exact_obs], ids=lambda s: s.__name__)
@pytest.mark.parametrize("tile", [Tiles(1, 3), Tiles(2, 2), Tiles(2, 4)], ids=lambda t: f"{t.rows}x{t.columns}")
def test_no_solver_beats_the_best_windows_of_all(solver, tile: Tiles) -> None:
    for seed in range(3):
        w, h = layer(2, 12, seed)
        half = len(cells(2, 12, tile)) // 2
        least = least_error(tile, seed, half)
        found = solver(w, h, half * tile.rows * tile.columns, tile)
        assert int(found.mask.sum()) == half * tile.rows * tile.columns
        assert error(w, found.weight, h) >= least * (1 - 1e-9)
        if solver in (alps, exact_obs):
            assert error(w, found.weight, h) <= 3 * least


def test_solvers_of_windows_beat_the_size_of_windows() -> None:
    for seed in range(3):
        w, h = layer(16, 48, seed)
        mask = Tiles(4, 4).mask(w.square(), w.numel() // 2)
        plain = error(w, refit(w, h, mask, damping=DAMPING), h)
        for solver in (exact_obs, alps):
            assert error(w, solver(w, h, w.numel() // 2, Tiles(4, 4)).weight, h) < 0.9 * plain


def test_bands_give_the_same_as_units_of_one_reader_each() -> None:
    w, h = layer(6, 20, 7)
    order, rises = trace_bands(w, inverse(damped(h, DAMPING)), Tiles(3, 4))
    for band in range(2):
        consumer = Consumer(w[3 * band : 3 * band + 3], h, torch.arange(20) // 4)
        wanted = remove_units([consumer], 5, damping=DAMPING)
        assert order[band].tolist() == wanted.order.tolist()
        torch.testing.assert_close(rises[band], wanted.rises)


def test_several_windows_at_once_keep_exact_updates() -> None:
    w, h = layer(6, 32, 5)
    one, many = exact_obs(w, h, 96, Tiles(2, 4)), exact_obs(w, h, 96, Tiles(2, 4), at_once=3)
    assert error(w, many.weight, h) <= 1.5 * error(w, one.weight, h)
    torch.testing.assert_close(many.weight, refit(w, h, many.mask, damping=DAMPING))
    with pytest.raises(OptionError, match="at_once is 0"):
        exact_obs(w, h, 96, Tiles(2, 4), at_once=0)
