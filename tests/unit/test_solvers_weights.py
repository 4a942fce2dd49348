"""The weight solvers against the papers' algorithms, written out step by step in float64."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import Tensor

from factories_layers import DAMPING, error, layer
from prunus.errors import DataError, OptionError
from prunus.solvers import (
    EveryRow,
    NofM,
    Tiles,
    Unstructured,
    alps,
    damped,
    exact_obs,
    reconstruction_error,
    refit,
    sparsegpt,
    wanda,
)

SOLVERS = (wanda, sparsegpt, alps, exact_obs)
every = pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.__name__)


def lowest(scores: Tensor, count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))[:count]


def literal_sparsegpt(w: Tensor, h: Tensor, *, share: float, block: int, pattern: tuple[int, int] | None) -> Tensor:
    """Algorithm 1 of arXiv:2301.00774, unblocked: every error goes to all later columns at once."""
    w, (rows, width) = w.clone(), w.shape
    h = h + DAMPING * h.diagonal().mean() * torch.eye(width).double()
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    keep = torch.ones(rows, width, dtype=torch.bool)
    for j in range(width):
        if pattern is not None and j % pattern[1] == 0:
            for r in range(rows):
                scores = torch.stack([(w[r, c] / u[c, c]) ** 2 for c in range(j, j + pattern[1])])
                for c in lowest(scores, pattern[1] - pattern[0]):
                    keep[r, j + c] = False
        if pattern is None and j % block == 0:
            stop = min(j + block, width)
            scores = torch.stack([(w[r, c] / u[c, c]) ** 2 for r in range(rows) for c in range(j, stop)])
            for i in lowest(scores, round(len(scores) * (1 - share))):
                keep[i // (stop - j), j + i % (stop - j)] = False
        for r in range(rows):
            value = w[r, j] if keep[r, j] else torch.zeros(()).double()
            miss = (w[r, j] - value) / u[j, j]
            for c in range(j + 1, width):
                w[r, c] -= miss * u[j, c]
            w[r, j] = value
    return w


@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_sparsegpt_is_the_paper_s_algorithm(pattern: tuple[int, int] | None) -> None:
    w, h = layer(6, 32)
    wanted = literal_sparsegpt(w, h, share=0.5, block=8, pattern=pattern)
    found = sparsegpt(w, h, 96, None if pattern is None else NofM(*pattern), block=8, damping=DAMPING)
    assert torch.equal(found.mask, wanted != 0)
    assert error(w, found.weight, h) == pytest.approx(error(w, wanted, h), rel=1e-6)
    torch.testing.assert_close(found.weight, wanted)


def literal_traces(w: Tensor, h: Tensor) -> list[list[tuple[int, float]]]:
    """Algorithm 1 of arXiv:2208.11580: each row with its own inverse, one weight at a time."""
    traces = []
    for row in w:
        v, inverse, left, trace = row.clone(), torch.linalg.inv(damped(h, DAMPING)), list(range(len(row))), []
        while left:
            p = min(left, key=lambda q: float(v[q] ** 2 / inverse[q, q]))
            trace.append((p, float(v[p] ** 2 / inverse[p, p])))
            v = v - inverse[:, p] * (v[p] / inverse[p, p])
            inverse = inverse - torch.outer(inverse[:, p], inverse[p]) / inverse[p, p]
            left.remove(p)
        traces.append(trace)
    return traces


def test_exact_obs_is_the_paper_s_algorithm() -> None:
    w, h = layer(7, 24)
    traces, keep = literal_traces(w, h), torch.ones(7, 24, dtype=torch.bool)
    taken = [0] * 7
    added = 0.0
    for _ in range(w.numel() - 60):
        row = min((r for r in range(7) if taken[r] < 24), key=lambda r: traces[r][taken[r]][1])
        keep[row, traces[row][taken[row]][0]] = False
        added += traces[row][taken[row]][1]
        taken[row] += 1
    found = exact_obs(w, h, 60)
    assert torch.equal(found.mask, keep)
    assert error(w, found.weight, h) == pytest.approx(added, rel=1e-6)


def test_exact_obs_stops_a_group_once_n_are_left() -> None:
    w, h = layer(5, 16)
    keep = torch.zeros(5, 16, dtype=torch.bool)
    for r, row in enumerate(w):
        v, inverse, left = row.clone(), torch.linalg.inv(damped(h, DAMPING)), list(range(16))
        while len(left) > 8:
            open_ = [q for q in left if sum(p // 4 == q // 4 for p in left) > 2]
            p = min(open_, key=lambda q: float(v[q] ** 2 / inverse[q, q]))
            v = v - inverse[:, p] * (v[p] / inverse[p, p])
            inverse = inverse - torch.outer(inverse[:, p], inverse[p]) / inverse[p, p]
            left.remove(p)
        keep[r, left] = True
    assert torch.equal(exact_obs(w, h, 0, NofM(2, 4)).mask, keep)


def literal_alps(w: Tensor, h: Tensor, count: int) -> Tensor:
    """Algorithm 1 of arXiv:2406.07831 with the step rule of its experiments; returns the support."""
    h = damped(h, DAMPING)
    scale = torch.diag(h) ** 0.5
    h, dense = h / torch.outer(scale, scale), w * scale
    d, v, rho = dense.clone(), torch.zeros_like(w), 0.1

    def project(x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        out = torch.zeros_like(flat)
        top = flat.abs().argsort(descending=True, stable=True)[:count]
        out[top] = flat[top]
        return out.reshape(x.shape)

    old = project(dense) != 0
    for step in range(1, 301):
        free = torch.linalg.solve(h + rho * torch.eye(len(h)).double(), (dense @ h - v + rho * d).T).T
        d = project(free + v / rho)
        v = v + rho * (free - d)
        if step % 3 == 0:
            moved = int(((d != 0) != old).sum())
            if moved == 0:
                break
            rho *= 1.3 if moved >= 0.1 * count else 1.2 if moved >= 0.005 * count else 1.1
            old = d != 0
    return d != 0


@pytest.mark.parametrize("seed", range(3))
def test_alps_is_the_paper_s_algorithm(seed: int) -> None:
    w, h = layer(8, 40, seed)
    support = literal_alps(w, h, 96)
    found = alps(w, h, 96, steps=200)
    assert torch.equal(found.mask, support)
    wanted = refit(w, h, support, damping=DAMPING)
    assert error(w, found.weight, h) == pytest.approx(error(w, wanted, h), rel=1e-6)


def test_conjugate_gradients_only_help() -> None:
    w, h = layer(8, 40)
    errors = [error(w, alps(w, h, 96, steps=n).weight, h) for n in (0, 1, 3, 10, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_wanda_ranks_weight_times_norm_within_a_row() -> None:
    w, h = layer(6, 20)
    found = wanda(w, h, 6 * 7 + 2)
    for r in range(6):
        scores = w[r].abs() * h.diagonal().sqrt()
        kept = set(range(20)) - set(lowest(scores, 20 - 7 - (r < 2)))
        assert set(found.mask[r].nonzero().reshape(-1).tolist()) == kept
    assert torch.equal(found.weight, w * found.mask)


def test_alps_beats_sparsegpt_at_seventy_percent() -> None:
    for seed in range(4):
        w, h = layer(24, 64, seed)
        count = round(0.3 * w.numel())
        greedy, found = sparsegpt(w, h, count), alps(w, h, count)
        assert error(w, found.weight, h) < 0.8 * error(w, greedy.weight, h)
        # Not for the better weights alone: the masks are better.
        best = refit(w, h, greedy.mask, damping=DAMPING)
        assert error(w, found.weight, h) < error(w, best, h)


@every
def test_no_solver_beats_brute_force(solver) -> None:
    for seed in range(3):
        w, h = layer(1, 10, seed)
        least = min(
            error(
                w,
                refit(w, h, torch.zeros(1, 10, dtype=torch.bool).index_fill(1, torch.tensor(c), True), damping=DAMPING),
                h,
            )
            for c in itertools.combinations(range(10), 4)
        )
        found = solver(w, h, 4)
        assert int((found.weight != 0).sum()) == 4
        assert error(w, found.weight, h) >= least * (1 - 1e-9)
        if solver in (alps, exact_obs):
            assert error(w, found.weight, h) <= 3 * least


@every
@pytest.mark.parametrize("pattern", [Unstructured(), EveryRow(), NofM(2, 4), NofM(1, 3), Tiles(2, 4), Tiles(3, 5)])
def test_patterns_hold(solver, pattern) -> None:
    w, h = layer(9, 22)
    count = 9 * 11
    found = solver(w, h, count, pattern)
    mask = found.mask
    assert torch.equal(found.weight != 0, mask)
    if isinstance(pattern, Unstructured):
        assert int(mask.sum()) == count
    if isinstance(pattern, EveryRow):
        assert (mask.sum(1) == 11).all()
    if isinstance(pattern, NofM):
        for start in range(0, 22, pattern.m):
            group = mask[:, start : start + pattern.m]
            assert (group.sum(1) == pattern.quota(group.shape[1])).all()
    if isinstance(pattern, Tiles):
        assert count - pattern.rows * pattern.columns < int(mask.sum()) <= count
        for top, left in itertools.product(range(0, 9, pattern.rows), range(0, 22, pattern.columns)):
            assert mask[top : top + pattern.rows, left : left + pattern.columns].float().mean() in (0.0, 1.0)


@every
def test_single_precision_and_dead_inputs(solver) -> None:
    w, h = layer(8, 24)
    h[:, 5] = h[5] = 0
    found, single = solver(w, h, 96), solver(w.float(), h.float(), 96)
    assert single.weight.dtype == torch.float32
    assert torch.isfinite(found.weight).all()
    assert (found.mask == single.mask).float().mean() > 0.97
    assert error(w, single.weight, h) == pytest.approx(error(w, found.weight, h), rel=0.03)


@every
def test_fewer_samples_than_inputs(solver) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 30, generator=generator, dtype=torch.float64)
    w = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    found = solver(w, x.T @ x / 6, 60)
    assert torch.isfinite(found.weight).all()
    assert int(found.mask.sum()) == 60


@every
def test_everything_or_nothing_may_stay(solver) -> None:
    w, h = layer(3, 8)
    torch.testing.assert_close(solver(w, h, 24).weight, w)
    assert not solver(w, h, 0).weight.any()


@every
def test_bad_input_is_refused(solver) -> None:
    w, h = layer(3, 8)
    with pytest.raises(OptionError, match="allowed is 0 to 24"):
        solver(w, h, 25)
    with pytest.raises(DataError, match="im2col"):
        solver(w, h[:4, :4], 12)
    with pytest.raises(DataError, match="NaN"):
        solver(w, h.clone().fill_(torch.nan), 12)
    with pytest.raises(OptionError, match="whole numbers"):
        solver(w, h, 12.0)
    with pytest.raises(DataError, match="int32"):
        solver((10 * w).int(), h, 12)
    with pytest.raises(OptionError, match="1 ≤ N ≤ M"):
        NofM(3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_on_a_support_stop_where_they_have_arrived(dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 16, generator=generator, dtype=torch.float64)
    w = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    h = (x.T @ x / 4).to(dtype)
    # Four samples: nothing is left to gain after four steps, and without damping there is nothing below rounding.
    found = alps(w.to(dtype), h, 48, damping=0.0)
    assert torch.isfinite(found.weight).all()
    limit = refit(w, h.double(), found.mask, damping=1e-6)
    error, best = (reconstruction_error(w, v, h) for v in (found.weight, limit))
    assert error <= best + 1e-4 * reconstruction_error(w, torch.zeros_like(w), h)


def test_refit_solves_every_row_s_own_problem() -> None:
    w, h = layer(12, 20)
    mask = torch.rand(12, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[3], mask[4], mask[7] = False, True, mask[8]
    found = refit(w, h, mask)
    for row, kept, got in zip(w, mask, found, strict=True):
        wanted = torch.zeros(20).double()
        if kept.any():
            wanted[kept] = torch.linalg.solve(h[kept][:, kept], h[kept] @ row)
        torch.testing.assert_close(got, wanted)
    shared = refit(w, h, mask[:1].expand(12, 20))
    torch.testing.assert_close(shared[0], found[0])


def test_a_thousand_by_a_thousand_takes_seconds() -> None:
    w, h = layer(1024, 256)
    w, h = w.repeat(1, 4), torch.block_diag(h, h, h, h)
    started = time.process_time()
    sparsegpt(w.float(), h.float(), w.numel() // 2)
    assert time.process_time() - started < 10
