"""A plan a person reads, compares and edits: savings, differences, hand-made changes and what they may not break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunus import analyse
from prunus.analysis import Analysis
from prunus.analysis.review import diff_plans, settle, with_savings
from prunus.errors import BudgetError, OptionError, PlanError
from prunus.methods.scored_units import unit_scores
from prunus.plans import Plan
from prunus.report.plan_table import diff_lines, plan_lines
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import verify
from prunus.tree import find_branches


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def scored() -> Analysis:
    torch.manual_seed(0)
    return analyse(Residual(), torch.randn(2, 1, 6, 6))


def edited(plan: Plan, **axes: Any) -> Plan:
    text = plan.describe()
    for name, keep in axes.items():
        axis = next(a for a in text["axes"] if a.startswith(name))
        if keep is None:
            del text["axes"][axis]
        else:
            text["axes"][axis]["keep"] = keep
    return Plan.from_description(text, {})


def test_one_parent_gives_several_sizes_each_within_its_budget(scored: Analysis) -> None:
    whole = scored.cost.price()
    for share in (0.8, 0.5, 0.2):
        plan = scored.plan({"params": share, "macs": share})
        assert plan.after.params <= share * whole.params
        assert plan.after.macs_forward <= share * whole.macs_forward


def test_savings_are_what_comes_back_when_one_decision_is_taken_back(scored: Analysis) -> None:
    plan = with_savings(scored.plan({"params": 0.5}), scored.coupling, unit_scores(scored, "magnitude"))
    assert {d.node for d in plan.decisions} == {"stem:out", "a:out"}
    for decision in plan.decisions:
        rest = {a: m for a, m in plan.axes.items() if a != decision.node}
        without = scored.cost.price(rest)
        assert decision.saves_params == without.params - plan.after.params > 0
        assert decision.saves_macs == without.macs_forward - plan.after.macs_forward > 0
        gone = ~plan.axes[decision.node]
        total = unit_scores(scored, "magnitude")[decision.node]
        assert decision.score_share == pytest.approx(total[gone].sum() / total.sum())


def test_a_plan_differs_from_itself_in_nothing_and_from_another_by_unit(scored: Analysis) -> None:
    first, second = scored.plan({"params": 0.7}), scored.plan({"params": 0.4})
    assert diff_plans(first, first).is_empty
    found = diff_plans(first, second)
    assert {c.axis for c in found.axes} == {"stem:out", "a:out"}
    for change in found.axes:
        a, b = first.axes.get(change.axis, np.ones(change.size, bool)), second.axes[change.axis]
        assert change.kept == (a.sum(), b.sum())
        assert change.only_first == tuple(np.flatnonzero(a & ~b))
    assert any("a:out" in line for line in diff_lines(found))
    assert list(diff_lines(diff_plans(first, first))) == ["The plans cut alike."]


def test_plans_of_different_models_are_not_compared(scored: Analysis) -> None:
    other = analyse(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4)).plan({"params": 0.5})
    with pytest.raises(PlanError, match="different models"):
        diff_plans(scored.plan({"params": 0.5}), other)


def test_an_edit_takes_effect_everywhere(scored: Analysis) -> None:
    plan = with_savings(scored.plan({"params": 0.5}), scored.coupling)
    settled = settle(edited(plan, a="0-1"), scored.coupling)
    assert settled.edits == (f"a:out: {16 - plan.axes['a:out'].sum()} units went, now 14",)
    new = settled.plan
    assert new.after == scored.cost.price(new.axes)
    assert new.keep["b.weight"][1].tolist() == [0, 1]
    told = {d.node: d for d in new.decisions}
    assert told["a:out"].removed == 14
    assert told["a:out"].reason == "set by hand"
    assert told["stem:out"].reason == "lowest magnitude of the axis"


def test_other_units_of_the_same_number_are_noticed(scored: Analysis) -> None:
    plan = scored.plan({"params": 0.5})
    count = int(plan.axes["a:out"].sum())
    settled = settle(edited(plan, a=f"{16 - count}-15"), scored.coupling)
    assert len(settled.edits) == 1
    assert "other units of" in settled.edits[0]
    assert settle(plan, scored.coupling).edits == ()


def test_an_edit_that_breaks_a_constraint_is_named(scored: Analysis) -> None:
    plan = scored.plan({"params": 0.5})
    with pytest.raises(PlanError, match=r"breaks its budget: params are [\d,]+, allowed"):
        settle(edited(plan, a=None), scored.coupling)
    text = plan.describe()
    text["axes"]["a:oat"] = text["axes"].pop("a:out")
    with pytest.raises(PlanError, match=r"which this model does not have.*a:out"):
        settle(Plan.from_description(text, {}), scored.coupling)
    text = plan.describe()
    text["axes"]["a:out"] = {"size": 20, "keep": "0-3"}
    with pytest.raises(PlanError, match="this model has 16"):
        settle(Plan.from_description(text, {}), scored.coupling)


def test_held_axes_stay_whole_and_may_not_be_edited_away() -> None:
    torch.manual_seed(0)
    model = Residual()
    parent = analyse(model, torch.randn(2, 1, 6, 6), ignore=["stem"])
    plan = parent.plan({"params": 0.5})
    assert set(plan.axes) == {"a:out"}
    text = plan.describe()
    text["axes"]["stem:out"] = {"size": 8, "keep": "0-3"}
    with pytest.raises(PlanError, match="recipe holds"):
        settle(Plan.from_description(text, {}), parent.coupling)


def test_a_budget_that_is_met_or_unknown_is_refused(scored: Analysis) -> None:
    with pytest.raises(BudgetError, match="as it is"):
        scored.plan({"params": 10**9})
    with pytest.raises(OptionError, match="Did you mean 'params'"):
        scored.plan({"parms": 0.5})
    with pytest.raises(OptionError, match="Unknown allocator"):
        scored.plan({"params": 0.5}, allocator="unifrm")


def test_the_table_names_every_decision(scored: Analysis) -> None:
    plan = with_savings(scored.plan({"params": 0.5}), scored.coupling, unit_scores(scored, "magnitude"))
    text = "\n".join(plan_lines(plan))
    assert f"{plan.before.macs_forward:,}" in text
    for decision in plan.decisions:
        assert decision.node in text
        assert f"{decision.saves_params:,}" in text
    assert "1 more" in "\n".join(plan_lines(plan, most=1))


def test_a_branch_may_be_forced_out_by_its_name(scored: Analysis) -> None:
    (name,) = [branch.id for branch in find_branches(scored.coupling)]
    text = scored.plan({"params": 0.6}).describe()
    text["drops"] = [name]
    done = settle(Plan.from_description(text, {}), scored.coupling)
    assert f"{name}: dropped" in done.edits
    (drop,) = done.plan.drops
    assert drop.join
    assert done.plan.decisions[0].node == name
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(2, 1, 6, 6)
    small, _ = cut_with_record(model, scored.coupling, done.plan, x)
    assert verify(model, small, scored.coupling, done.plan, x).ok
    assert sum(p.numel() for p in small.parameters()) == done.plan.after.params  # type: ignore[union-attr]
    text["drops"] = [name + "x"]
    with pytest.raises(PlanError, match=f"no branch of this model that can go. Did you mean '{name}'"):
        settle(Plan.from_description(text, {}), scored.coupling)


def test_an_edit_may_not_keep_more_units_than_were_counted(scored: Analysis) -> None:
    plan = scored.plan({"units": 0.5})
    axis = next(a for a, mask in plan.axes.items() if not mask.all())
    with pytest.raises(PlanError, match=r"breaks its budget: it keeps \d+ of \d+ units, allowed \d+"):
        settle(edited(plan, **{axis: f"0-{len(plan.axes[axis]) - 1}"}), scored.coupling)
    fewer = ",".join(map(str, np.flatnonzero(plan.axes[axis])[1:]))
    counted = settle(edited(plan, **{axis: fewer}), scored.coupling).plan.settings["counted"]
    assert counted["kept"] == plan.settings["counted"]["kept"] - 1


@pytest.mark.parametrize(
    ("key", "value"), [("before", {"params": "x"}), ("after", {"params": -1}), ("before", {"macs_forward": True})]
)
def test_prices_of_another_type_are_refused_where_a_plan_is_read(
    scored: Analysis, tmp_path: Path, key: str, value: dict[str, Any]
) -> None:
    scored.plan({"params": 0.5}).save(tmp_path)
    text = json.loads((tmp_path / "plan.json").read_text())
    text[key] |= value
    (tmp_path / "plan.json").write_text(json.dumps(text))
    with pytest.raises(PlanError, match=rf"plan.json is damaged: {key}"):
        Plan.load(tmp_path)


def test_numbers_that_are_not_finite_are_refused_where_a_plan_is_read(scored: Analysis, tmp_path: Path) -> None:
    scored.plan({"params": 0.5}).save(tmp_path)
    text = json.loads((tmp_path / "plan.json").read_text())
    text["decisions"][0]["score_share"] = float("nan")
    (tmp_path / "plan.json").write_text(json.dumps(text))
    with pytest.raises(PlanError, match="holds NaN; only finite numbers"):
        Plan.load(tmp_path)
