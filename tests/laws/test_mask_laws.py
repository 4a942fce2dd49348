"""Laws of masks on random tensors: exact, nested, equivariant, equal to brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.masks import (
    KernelPosition,
    Tile,
    absolute_masks,
    gradient_masks,
    kept_weights,
    masks_above,
    nm_masks,
    relative_masks,
    relative_scores,
    top_masks,
    window_masks,
)

SOLVERS = {
    "top": top_masks,
    "absolute": absolute_masks,
    "relative": relative_masks,
    "std": lambda w, **budget: relative_masks(w, scale="std", **budget),
    "gradient": gradient_masks,
    "tile": lambda w, **budget: window_masks(w, Tile(2, 3), **budget),
    "kernel": lambda w, **budget: window_masks(w, KernelPosition("group", channels=2, strip=2), **budget),
}
settings.register_profile("masks", deadline=None, max_examples=40)
laws = settings(settings.get_profile("masks"))

shapes = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


@st.composite
def named_scores(draw, distinct=False):
    sizes = draw(st.lists(shapes, min_size=1, max_size=3))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    # Four values make ties the rule; a permutation excludes them.
    total = sum(math.prod(size) for size in sizes)
    values = torch.randperm(total, generator=generator) if distinct else torch.randint(4, (total,), generator=generator)
    parts = values.float().split([math.prod(size) for size in sizes])
    return {f"t{index}": part.reshape(size) for index, (part, size) in enumerate(zip(parts, sizes, strict=True))}


def _total(scores):
    return sum(score.numel() for score in scores.values())


@pytest.mark.parametrize("solver", SOLVERS)
@laws
@given(scores=named_scores(), share=st.floats(0, 1))
def test_exactly_n_are_kept_and_arguments_stay(solver, scores, share):
    before = {name: score.clone() for name, score in scores.items()}
    masks = SOLVERS[solver](scores, kept=share, floor=False)
    assert share * _total(scores) - 1 < kept_weights(masks) <= share * _total(scores) + 1e-9
    assert all(masks[name].shape == score.shape and masks[name].dtype is torch.bool for name, score in scores.items())
    assert all(torch.equal(scores[name], value) for name, value in before.items())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("floor", [True, False])
@laws
@given(scores=named_scores(), data=st.data())
def test_kept_sets_are_nested_as_n_grows(solver, floor, scores, data):
    total = _total(scores)
    least = min(total, 6 * len(scores)) if floor else 0
    fewer, more = sorted(data.draw(st.tuples(st.integers(least, total), st.integers(least, total))))
    small = SOLVERS[solver](scores, keep_count=fewer, floor=floor)
    large = SOLVERS[solver](scores, keep_count=more, floor=floor)
    assert (kept_weights(small), kept_weights(large)) == (fewer, more)
    assert all((small[name] <= large[name]).all() for name in scores)
    assert not floor or all(mask.any() for mask in small.values())


@laws
@given(scores=named_scores(), data=st.data())
def test_no_removed_score_exceeds_a_kept_one(scores, data):
    count = data.draw(st.integers(0, _total(scores)))
    falling = sorted((float(value) for score in scores.values() for value in score.flatten()), reverse=True)
    tau = [*falling, -math.inf][count]
    masks = top_masks(scores, keep_count=count, floor=False)
    above = masks_above(scores, tau, floor=False)
    assert kept_weights(above) <= count
    for name, score in scores.items():
        assert (above[name] <= masks[name]).all()
        assert (masks[name] <= (score >= tau)).all()


@laws
@given(scores=named_scores(), data=st.data())
def test_ties_go_to_the_lowest_index(scores, data):
    count = data.draw(st.integers(0, _total(scores)))
    flat = torch.cat([score.flatten() for score in scores.values()]).tolist()
    expected = sorted(sorted(range(len(flat)), key=lambda index: (-flat[index], index))[:count])
    masks = top_masks(scores, keep_count=count, floor=False)
    assert torch.cat([mask.flatten() for mask in masks.values()]).nonzero().flatten().tolist() == expected


@laws
@given(scores=named_scores(), data=st.data())
def test_the_floor_changes_as_little_as_it_can(scores, data):
    count = data.draw(st.integers(len(scores), _total(scores)))
    free = top_masks(scores, keep_count=count, floor=False)
    floored = top_masks(scores, keep_count=count)
    empty = sum(not mask.any() for mask in free.values())
    assert sum(int((free[name] & ~floored[name]).sum()) for name in scores) == empty


@pytest.mark.parametrize("solver", ["top", "absolute", "relative", "gradient"])
@laws
@given(scores=named_scores(distinct=True), data=st.data())
def test_permuting_rows_permutes_masks(solver, scores, data):
    count = data.draw(st.integers(len(scores), _total(scores)))
    orders = {name: torch.tensor(data.draw(st.permutations(range(len(score))))) for name, score in scores.items()}
    # Values differ inside a tensor; equal ratios of two tensors are settled by the order of the tensors.
    masks = SOLVERS[solver](scores, keep_count=count)
    moved = SOLVERS[solver]({name: score[orders[name]] for name, score in scores.items()}, keep_count=count)
    assert all(torch.equal(moved[name], masks[name][orders[name]]) for name in scores)


@pytest.mark.parametrize("along", ["flat", "input"])
@laws
@given(scores=named_scores(), data=st.data())
def test_nm_permutes_with_rows(along, scores, data):
    masks = nm_masks(scores, along=along)
    orders = {name: torch.tensor(data.draw(st.permutations(range(len(score))))) for name, score in scores.items()}
    moved = nm_masks({name: score[orders[name]] for name, score in scores.items()}, along=along)
    assert all(torch.equal(moved[name], masks[name][orders[name]]) for name in scores)


@laws
@given(scores=named_scores(), exponent=st.integers(-8, 8))
def test_relative_masks_ignore_the_scale_of_any_tensor(scores, exponent):
    scaled = {name: score * 2.0**exponent if name == "t0" else score for name, score in scores.items()}
    assert all(torch.equal(relative_scores(scaled)[name], value) for name, value in relative_scores(scores).items())


@laws
@given(scores=named_scores(), n=st.integers(1, 5), m=st.integers(1, 5), along=st.sampled_from(["flat", "input"]))
def test_nm_is_the_best_of_all_choices(scores, n, m, along):
    n = min(n, m)
    masks = nm_masks(scores, n=n, m=m, along=along)
    for name, score in scores.items():
        rows = score.flatten(1) if along == "flat" else score.movedim(1, -1).reshape(-1, score.shape[1])
        kept = masks[name].flatten(1) if along == "flat" else masks[name].movedim(1, -1).reshape(-1, score.shape[1])
        for row, mask in zip(rows, kept, strict=True):
            for group, chosen in zip(row.split(m), mask.split(m), strict=True):
                size = math.ceil(n * len(group) / m)
                best = max(sum(choice) for choice in itertools.combinations(group.tolist(), size))
                assert int(chosen.sum()) == size
                assert float(group[chosen].sum()) == best


@pytest.mark.parametrize("window", [Tile(2, 3), Tile(1, 4), Tile(3, 1), KernelPosition(), KernelPosition("layer")])
@laws
@given(scores=named_scores(), data=st.data())
def test_windows_equal_a_loop(window, scores, data):
    count = data.draw(st.integers(0, _total(scores)))
    windows = []
    for order, (name, score) in enumerate(scores.items()):
        for cells in _cells(window, score.shape):
            mean = sum(float(score[cell]) for cell in cells) / len(cells)
            windows.append((-mean, order, len(windows), name, cells))
    left, kept, broken = count, set(), 0
    for *_, name, cells in sorted(windows, key=lambda entry: entry[:3]):
        best = sorted(cells, key=lambda cell: (-float(scores[name][cell]), cell))[:left]
        broken += 0 < len(best) < len(cells)
        kept |= {(name, cell) for cell in best}
        left -= len(best)
    masks = window_masks(scores, window, keep_count=count, floor=False)
    found = {(name, tuple(cell)) for name, mask in masks.items() for cell in mask.nonzero().tolist()}
    assert found == kept
    assert broken <= 1
    assert kept_weights(window_masks(scores, window, keep_count=count, floor=False, whole=True)) <= count


def _cells(window, shape):
    """List the cells of every window from its definition, in row-major order of first cells."""
    groups = {}
    for cell in itertools.product(*map(range, shape)):
        if isinstance(window, Tile):
            column = sum(c * math.prod(shape[d + 1 :]) for d, c in enumerate(cell[1:], start=1))
            key = (cell[0] // window.rows, column // window.columns)
        elif math.prod(shape[2:]) == 1:
            key = (cell[0], cell[1] // window.strip)
        else:
            key = (cell[0] if window.scope == "filter" else 0, cell[2:])
        groups.setdefault(key, []).append(cell)
    return [groups[key] for key in sorted(groups)]
