"""A reader that is too wide for matrices over pairs of its inputs: one scale a unit orders, rows refit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import DataError
from prunus.foundation.free_memory import GIB, default_memory, free_bytes, memory_limit
from prunus.methods.layer_inputs import readers_of
from prunus.methods.obs_units import unit_levels
from prunus.repairs import moments
from prunus.repairs.room import COPIES, LEAST, PROBLEM, few_rows, holds_pairs
from prunus.solvers import WideConsumer, remove_units
from prunus.solvers.problem import DAMPING

UNITS, TAPS, OUTPUTS, ROWS = 6, 5, 3, 20


def problem(*, rest: int = 0, seed: int = 0, output: bool = False) -> WideConsumer:
    """Return a layer of six units with five inputs each, in mixed order, and of some that no unit feeds."""
    generator = torch.Generator().manual_seed(seed)
    width = UNITS * TAPS + rest
    unit = torch.cat([torch.arange(UNITS).repeat_interleave(TAPS), torch.full((rest,), -1)])
    unit = unit[torch.randperm(width, generator=generator)]
    rows = torch.randn(ROWS, width, generator=generator, dtype=torch.float64) + 1
    root = torch.randn(OUTPUTS, OUTPUTS, generator=generator, dtype=torch.float64)
    weight = torch.randn(OUTPUTS, width, generator=generator, dtype=torch.float64)
    return WideConsumer(weight, rows, rows.mean(0), unit, root @ root.T if output else None, 0.5)


def given(wide: WideConsumer, unit: int) -> Tensor:
    """Return what a unit gives to the outputs, weighted by their root. Shapes: → (rows, O)."""
    mine = wide.unit == unit
    root = torch.eye(OUTPUTS).double() if wide.output is None else torch.linalg.cholesky(wide.output)
    return (wide.rows - wide.mean)[:, mine] @ wide.weight[:, mine].T @ root * wide.scale**0.5


@pytest.mark.parametrize("rest", [0, 4])
@pytest.mark.parametrize("output", [False, True])
def test_one_scale_a_unit_is_a_problem_of_as_many_inputs_as_units(rest: int, output: bool) -> None:
    wide = problem(rest=rest, output=output)
    scales = wide.scales()
    assert scales.unit.tolist() == [*range(UNITS), *[-1] * (rest > 0)]
    parts = torch.stack([given(wide, u) for u in scales.unit.tolist()])
    expected = torch.einsum("uno,vno->uv", parts, parts) / ROWS
    torch.testing.assert_close(scales.moment, expected, rtol=1e-5, atol=1e-5)


def test_units_that_feed_nothing_here_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = problem()
    monkeypatch.setattr("prunus.solvers.few_rows._VALUES", 1)  # one row at once
    moved = WideConsumer(wide.weight, wide.rows, wide.mean, wide.unit + 2, None, wide.scale)
    scales = moved.scales()
    assert scales.unit.tolist() == list(range(2, UNITS + 2))
    torch.testing.assert_close(scales.moment, wide.scales().moment)
    removal = remove_units([scales], UNITS + 2)
    assert removal.order[:2].tolist() == [0, 1]
    assert removal.rises[:2].tolist() == [0, 0]


def test_a_unit_that_a_double_makes_up_for_goes_first() -> None:
    wide = problem()
    rows, weight = wide.rows.clone(), wide.weight.clone()
    first, second = (wide.unit == 2).nonzero().reshape(-1), (wide.unit == 4).nonzero().reshape(-1)
    rows[:, second], weight[:, second] = rows[:, first], 2 * weight[:, first]
    removal = remove_units([WideConsumer(weight, rows, rows.mean(0), wide.unit).scales()], UNITS, damping=1e-6)
    assert int(removal.order[0]) in (2, 4)
    assert float(removal.rises[0]) < 1e-3 * float(removal.rises[1])


@pytest.mark.parametrize("rest", [0, 4])
def test_refits_from_rows_are_those_of_the_normal_equations(rest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.solvers.few_rows._COLUMNS", 7)
    wide, order = problem(rest=rest), [3, 0, 5, 1, 4, 2]
    rows = wide.rows - wide.mean
    levels = wide.refits(order, UNITS, [1, 3, UNITS])
    for count, found in levels.items():
        stays = ~torch.isin(wide.unit, torch.tensor(order[: UNITS - count]))
        x = rows[:, stays]
        ridge = DAMPING * float(x.square().sum()) / ROWS**2
        lost = rows[:, ~stays] @ wide.weight[:, ~stays].T
        change = torch.linalg.solve(x.T @ x / ROWS + ridge * torch.eye(x.shape[1]).double(), x.T @ lost / ROWS)
        torch.testing.assert_close(found[:, stays], wide.weight[:, stays] + change.T)
        assert not found[:, ~stays].any()
        kept = torch.ones(UNITS, dtype=torch.bool)
        kept[order[: UNITS - count]] = False
        torch.testing.assert_close(wide.refit(kept), found)
    torch.testing.assert_close(levels[UNITS], wide.weight)


@pytest.mark.parametrize("bad", ["no rows", "another width", "NaN"])
def test_rows_that_make_no_problem_are_refused(bad: str) -> None:
    wide = problem()
    rows = {"no rows": wide.rows[:0], "another width": wide.rows[:, 1:], "NaN": wide.rows / 0}[bad]
    with pytest.raises(DataError, match="rows"):
        WideConsumer(wide.weight, rows, wide.mean, wide.unit)


def test_rows_are_as_few_as_the_limit_asks() -> None:
    assert holds_pairs(1000, 1, int(8e6 * COPIES / PROBLEM) + 1)
    assert not holds_pairs(1000, 2, int(8e6 * COPIES / PROBLEM) + 1)
    assert few_rows(8192, 1, 4 * GIB) == 2048
    rows = few_rows(65536, 1, 2 * GIB)
    assert 4 * COPIES * rows * 65536 <= PROBLEM * 2 * GIB < 4 * COPIES * (rows + 1) * 65536
    assert few_rows(65536, 8, 1 << 20) == LEAST


def test_the_limit_is_a_power_of_two_below_a_quarter_and_can_be_set() -> None:
    limit = default_memory()
    assert limit >= GIB
    assert limit & (limit - 1) == 0
    assert limit == GIB or limit <= free_bytes()
    with memory_limit(GIB + 1):
        assert default_memory() == GIB + 1
        with memory_limit(None):
            assert default_memory() == GIB + 1
    assert default_memory() == limit


def speech_like() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv1d(4, 24, 7, padding=3), nn.ReLU(), nn.Conv1d(24, 6, 9, padding=4), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(6 * 16, 5)).eval()
    with torch.no_grad():
        model[2].weight[:, ::2] *= 0.05
    return model, torch.randn(96, 4, 16)


def test_units_of_a_wide_reader_are_ordered_without_pairs_of_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = speech_like()
    exact = unit_levels(prunus.analyse(model, x[:2], data=list(x.split(16))))
    squared = moments._squared
    monkeypatch.setattr(moments, "_squared", lambda x: squared(x) if x.shape[2] < 200 else pytest.fail("pairs made"))
    with memory_limit(int(8 * 200**2 * COPIES / PROBLEM)):  # 216 inputs are too many, 96 are not
        analysis = prunus.analyse(model, x[:2], data=list(x.split(16)))
        found = unit_levels(analysis)
        name = next(a for a, scores in found.scores.items() if len(scores) == 24)
        (reader,) = readers_of(analysis, analysis.coupling.axes[name])
    assert reader.wide
    assert len(reader.wide[0].rows) < 216 // 2
    first = [set(levels.scores[name].argsort()[:12].tolist()) for levels in (exact, found)]
    weak = {2 * i for i in range(12)}
    assert all(len(own & weak) >= 10 for own in first)
    assert (found.damage[name][:-1] > 0).all()
    assert (found.damage[name][1:] <= found.damage[name][:-1]).all()
