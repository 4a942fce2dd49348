"""Laws of the joint solvers on random layers: what a permutation, a scale or one more weight may change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories_layers import DAMPING, error, layer
from prunus.solvers import Consumer, alps, exact_obs, exchange_units, refit, remove_units, sparsegpt, wanda

few = settings(max_examples=12, deadline=None)
shapes = st.tuples(st.integers(2, 7), st.integers(6, 18), st.integers(0, 10_000))


def shuffled(n: int, seed: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@few
@given(shapes, st.sampled_from([wanda, exact_obs, alps]))
def test_permuting_inputs_permutes_masks(shape: tuple[int, int, int], solver) -> None:
    rows, width, seed = shape
    w, h = layer(rows, width, seed)
    order, count = shuffled(width, seed), rows * width // 2
    plain = solver(w, h, count)
    moved = solver(w[:, order], h[order][:, order], count)
    assert torch.equal(moved.mask, plain.mask[:, order])
    torch.testing.assert_close(moved.weight, plain.weight[:, order], rtol=1e-6, atol=1e-7)


@few
@given(shapes, st.sampled_from([exact_obs, sparsegpt, alps]))
def test_permuting_outputs_permutes_masks(shape: tuple[int, int, int], solver) -> None:
    rows, width, seed = shape
    w, h = layer(rows, width, seed)
    order, count = shuffled(rows, seed), rows * width // 2
    plain, moved = solver(w, h, count), solver(w[order], h, count)
    assert torch.equal(moved.mask, plain.mask[order])


@few
@given(shapes)
def test_permuting_units_permutes_their_removal(shape: tuple[int, int, int]) -> None:
    rows, units, seed = shape
    w, h = layer(rows, 2 * units, seed)
    unit, order = torch.arange(units).repeat_interleave(2), shuffled(units, seed)
    plain = remove_units([Consumer(w, h, unit)], units)
    moved = remove_units([Consumer(w, h, order[unit])], units)
    torch.testing.assert_close(moved.rises, plain.rises, rtol=1e-7, atol=1e-9)
    half = units // 2
    kept = exchange_units([Consumer(w, h, unit)], plain.kept(half)).kept
    assert torch.equal(exchange_units([Consumer(w, h, order[unit])], moved.kept(half)).kept[order], kept)


@few
@given(shapes, st.floats(0.01, 100.0))
def test_scales_scale_errors_and_change_no_choice(shape: tuple[int, int, int], scale: float) -> None:
    rows, width, seed = shape
    w, h = layer(rows, width, seed)
    plain = remove_units([Consumer(w, h, torch.arange(width))], width)
    moved = remove_units([Consumer(w, h, torch.arange(width), None, scale)], width)
    assert torch.equal(plain.order, moved.order)
    torch.testing.assert_close(moved.rises, plain.rises * scale)


@few
@given(shapes)
def test_refit_is_the_least_squares_optimum(shape: tuple[int, int, int]) -> None:
    rows, width, seed = shape
    w, h = layer(rows, width, seed)
    mask = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) < 0.6
    best = refit(w, h, mask, damping=DAMPING)
    least = error(w, best, h)
    for k in range(3):
        step = torch.randn(rows, width, generator=torch.Generator().manual_seed(k)).double() * mask * 1e-2
        assert error(w, best + step, h) >= least
        assert error(w, best - step, h) >= least


@few
@given(shapes)
def test_more_weights_never_hurt(shape: tuple[int, int, int]) -> None:
    rows, width, seed = shape
    w, h = layer(rows, width, seed)
    counts = [rows * width * k // 4 for k in range(5)]
    errors = [error(w, exact_obs(w, h, n).weight, h) for n in counts]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(0.0, abs=1e-12)
