"""Group OBS and OSSCAR: exact errors, literal elimination, levels, exchanges, brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from factories_layers import DAMPING, best_error, layer, readers
from prunus.errors import DataError, OptionError
from prunus.solvers import Consumer, Removal, Swapped, damped, exchange_units, remove_units
from prunus.solvers import removal as removal_module
from prunus.solvers.nested import nested_refits

UNITS = 8


def osscar(consumers: list[Consumer], units: int, count: int, **options: float) -> Swapped:
    kept = remove_units(consumers, units, keep=count, **options).kept(count)
    return exchange_units(consumers, kept, **options)


def levels(consumer: Consumer, removal: Removal, counts: list[int]) -> dict[int, Tensor]:
    return nested_refits(consumer, removal.order, removal.units, counts)


def literal(consumers: list[Consumer], units: int) -> tuple[list[int], list[float], list[list[Tensor]]]:
    """ZipLM's algorithm with full matrices: score, remove, update W and H⁻¹, one group after the other."""
    weights = [c.weight.clone() for c in consumers]
    inverses = [torch.linalg.inv(damped(c.moment, DAMPING)) for c in consumers]
    left, order, rises, steps = list(range(units)), [], [], []
    while left:

        def score(unit: int) -> float:
            total = 0.0
            for c, w, z in zip(consumers, weights, inverses, strict=True):
                b = c.unit == unit
                s = torch.eye(len(w)).double() if c.output is None else c.output
                total += c.scale * float(torch.trace(s @ w[:, b] @ torch.linalg.inv(z[b][:, b]) @ w[:, b].T))
            return total

        unit = min(left, key=score)
        order.append(unit)
        rises.append(score(unit))
        left.remove(unit)
        for i, c in enumerate(consumers):
            b = c.unit == unit
            own = torch.linalg.inv(inverses[i][b][:, b])
            weights[i] = weights[i] - weights[i][:, b] @ own @ inverses[i][b]
            inverses[i] = inverses[i] - inverses[i][:, b] @ own @ inverses[i][b]
        steps.append([w.clone() for w in weights])
    return order, rises, steps


@pytest.mark.parametrize("seed", range(3))
def test_removal_is_literal_elimination(seed: int) -> None:
    consumers = readers(UNITS, seed)
    order, rises, steps = literal(consumers, UNITS)
    found = remove_units(consumers, UNITS)
    assert found.order.tolist() == order
    torch.testing.assert_close(found.rises, torch.tensor(rises).double(), rtol=1e-6, atol=1e-9)
    for i, consumer in enumerate(consumers):
        for count, weight in levels(consumer, found, list(range(UNITS))).items():
            torch.testing.assert_close(weight, steps[UNITS - count - 1][i], rtol=1e-6, atol=1e-8)


def test_low_rank_changes_are_brought_in_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    consumers = readers(UNITS)
    whole = remove_units(consumers, UNITS)
    monkeypatch.setattr(removal_module, "_RANK", 4)
    often = remove_units(consumers, UNITS)
    assert torch.equal(often.order, whole.order)
    torch.testing.assert_close(often.rises, whole.rises)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_scores_add_up_to_the_error(at_once: int) -> None:
    consumers = readers(UNITS)
    found = remove_units(consumers, UNITS, at_once=at_once)
    curve = found.damage()
    assert curve[UNITS] == 0
    for count in range(UNITS):
        assert float(curve[count]) == pytest.approx(best_error(consumers, found.kept(count)), rel=1e-9)


def test_it_stops_where_it_is_told() -> None:
    consumers = readers(UNITS)
    part, whole = remove_units(consumers, UNITS, keep=5), remove_units(consumers, UNITS)
    assert torch.equal(part.order, whole.order[:3])
    assert torch.equal(part.kept(6), whole.kept(6))
    assert part.damage()[2] == part.damage()[5]
    with pytest.raises(OptionError, match="5 to 8"):
        part.kept(4)
    assert len(remove_units(consumers, UNITS, keep=UNITS).order) == 0


def test_a_unit_that_feeds_nothing_goes_first() -> None:
    w, h = layer(4, 6)
    found = remove_units([Consumer(w, h, torch.tensor([0, 0, 2, 2, 3, 3]))], 4)
    assert found.order[0] == 1
    assert found.rises[0] == 0


def test_output_weighting_changes_scores_and_never_weights() -> None:
    w, h = layer(6, 10)
    plain = Consumer(w, h, torch.arange(10))
    weighted = Consumer(w, h, torch.arange(10), torch.diag(torch.tensor([100.0, 1, 1, 1, 1, 1]).double()))
    orders = [remove_units([c], 10).order.tolist() for c in (plain, weighted)]
    assert orders[0] != orders[1]
    same = remove_units([weighted], 10)
    assert torch.equal(*(levels(c, same, [4])[4] for c in (plain, weighted)))


@pytest.mark.parametrize("seed", range(6))
def test_osscar_is_never_worse_than_greedy_and_never_rises(seed: int) -> None:
    consumers = readers(UNITS, 10 * seed)
    greedy = remove_units(consumers, UNITS)
    for count in (2, 4, 6):
        found = osscar(consumers, UNITS, count)
        assert int(found.kept.sum()) == count
        assert list(found.errors) == sorted(found.errors, reverse=True)
        assert found.errors[0] == pytest.approx(float(greedy.damage()[count]), rel=1e-9)
        assert found.errors[-1] == pytest.approx(best_error(consumers, found.kept), rel=1e-8)


def test_exchanges_end_where_no_exchange_helps() -> None:
    consumers, improved = readers(UNITS, 3), 0
    for count in (3, 4, 5):
        kept = torch.arange(UNITS) < count
        found = exchange_units(consumers, kept, candidates=UNITS)
        improved += len(found.errors) > 1
        for back, out in itertools.product((~found.kept).nonzero(), found.kept.nonzero()):
            other = found.kept.clone()
            other[back], other[out] = True, False
            assert best_error(consumers, other) >= found.errors[-1] * (1 - 1e-8)
    assert improved == 3


def test_nothing_beats_brute_force_and_osscar_comes_close() -> None:
    gaps = []
    for seed in range(5):
        consumers = readers(UNITS, seed)
        choices = (
            torch.zeros(UNITS, dtype=torch.bool).index_fill(0, torch.tensor(c), True)
            for c in itertools.combinations(range(UNITS), 4)
        )
        least = min(best_error(consumers, kept) for kept in choices)
        found = osscar(consumers, UNITS, 4).errors[-1]
        assert found >= least * (1 - 1e-9)
        gaps.append(found / least)
    assert max(gaps) < 1.1
    assert min(gaps) == pytest.approx(1.0, rel=1e-9)


def test_bad_consumers_are_refused() -> None:
    w, h = layer(3, 6)
    with pytest.raises(DataError, match="one an input"):
        Consumer(w, h, torch.arange(5))
    with pytest.raises(DataError, match="output weighting"):
        Consumer(w, h, torch.arange(6), torch.eye(6))
    with pytest.raises(DataError, match="im2col"):
        Consumer(w, h[:3], torch.arange(6))
    with pytest.raises(DataError, match="semidefinite"):
        remove_units([Consumer(w, -h, torch.arange(6))], 6)
    with pytest.raises(OptionError, match="at_once"):
        remove_units([Consumer(w, h, torch.arange(6))], 6, at_once=0)


def test_a_singular_moment_without_damping_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, generator=generator, dtype=torch.float64)
    w = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    consumer = Consumer(w, x.T @ x / 4, torch.arange(16) // 2)
    with pytest.raises(DataError, match=r"singular to rounding.*damping=0\.01"):
        osscar([consumer], 8, 4, damping=0.0)
    assert int(osscar([consumer], 8, 4).kept.sum()) == 4
