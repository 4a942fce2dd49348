"""Stages: one budget met exactly, one plan in the original's indices, what was learned on the way is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factories_digits import digits, fresh_subject
from prunus.analysis import Analysis
from prunus.errors import BudgetError, OptionError, RecipeError
from prunus.experiments.commands.planning import check_wanted, plan_recipe
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.experiments.trained_model import TrainedModel, request_of
from prunus.pipeline import stage_levels
from prunus.pipeline.stages import Staged
from prunus.pipeline.stages import run_stages as run_request
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import verify
from prunus.surgery.tensors import sliced_masks

GOLDEN = Path(__file__).parents[1] / "golden" / "stages.txt"
HEAD = "version: 1\nmodel: digits\ndata: digits\nprune: {budget: {params: 0.3}}\n"


def parent(stages: list[dict[str, Any]], budget: dict[str, Any] | None = None, **more: Any) -> TrainedModel:
    recipe = Recipe(
        version=1,
        model="digits",
        data="digits",
        prune={"budget": budget or {"params": 0.3}},
        stages=stages,
        recover={"steps": 4, "lr": 2e-3, "batch_size": 32},
        **more,
    )
    return TrainedModel(recipe, digits(), fresh_subject())


def run_stages(it: TrainedModel) -> Staged:
    return run_request(it.analysis, request_of(it.recipe))


THREE = [
    {"level": "blocks", "kept": 0.8, "method": "depth", "recover": {"steps": 2}},
    {"level": "units", "criterion": "taylor", "recover": {"steps": 2, "method": "distil"}},
    {"level": "weights", "method": "importance", "schedule": "cubic", "steps": 4},
]


def test_three_levels_meet_one_budget_exactly_in_one_plan() -> None:
    it = parent(THREE)
    before = {name: value.clone() for name, value in it.model.state_dict().items()}
    staged = run_stages(it)
    plan, subject = staged.plan, it.analysis
    masked = sum(int((~mask).sum()) for mask in plan.masks.values())
    assert plan.after.params - masked == int(0.3 * plan.before.params)
    assert {d.level for d in plan.decisions} == {"block", "unit", "weight"}
    small, _ = cut_with_record(staged.model, subject.coupling, plan, subject.example_inputs)
    assert verify(staged.model, small, subject.coupling, plan, subject.example_inputs).ok
    assert sum(int(torch.count_nonzero(p)) for p in small.parameters()) <= int(0.3 * plan.before.params)
    for name, mask in sliced_masks(plan).items():
        assert not small.get_parameter(name)[~mask].any()
    assert all(torch.equal(before[name], value) for name, value in it.model.state_dict().items())
    assert "\n".join(staged.lines) + "\n" == GOLDEN.read_text(encoding="utf-8")
    assert plan.settings["stages"] == list(staged.lines)
    learned = staged.model.get_parameter("head.weight")
    assert not torch.equal(learned, it.model.get_parameter("head.weight"))


def test_macs_are_shared_by_blocks_and_units() -> None:
    it = parent([{"level": "blocks"}, {"level": "units", "allocator": "global"}], {"macs": 0.5})
    plan = run_stages(it).plan
    assert 0.45 <= plan.after.macs_forward / plan.before.macs_forward <= 0.5
    assert not plan.masks


def test_a_second_stage_of_a_level_takes_more_of_the_same() -> None:
    one = parent([{"level": "weights", "criterion": "magnitude"}])
    two = parent([{"level": "weights", "criterion": "magnitude", "kept": 0.6}, {"level": "weights"}])
    first, both = run_stages(one).plan, run_stages(two).plan
    kept = [sum(int(mask.sum()) for mask in plan.masks.values()) for plan in (first, both)]
    assert kept[0] == kept[1]
    half = run_stages(parent([{"level": "weights", "criterion": "magnitude"}], {"params": 0.6})).plan
    for name, mask in both.masks.items():
        assert not (mask & ~half.masks.get(name, np.ones_like(mask))).any()


def test_a_later_stage_scores_the_network_that_earlier_ones_left(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[torch.nn.Module] = []
    measure = stage_levels.unit_scores

    def seen(analysis: Analysis, criterion: Any) -> Any:
        scored.append(analysis.user_model)
        return measure(analysis, criterion)

    monkeypatch.setattr(stage_levels, "unit_scores", seen)
    it = parent(
        [
            {"level": "units", "criterion": "magnitude", "kept": 0.7, "recover": {"steps": 2}},
            {"level": "units", "criterion": "taylor"},
        ]
    )
    run_stages(it)
    dense = dict(it.analysis.user_model.named_parameters())
    left = dict(scored[-1].named_parameters())
    assert len(scored) == 2
    assert sum(int((p == 0).sum()) for p in left.values()) > 0.2 * sum(p.numel() for p in dense.values())
    assert any(not torch.equal(p[p != 0], dense[name][p != 0]) for name, p in left.items())


def test_units_in_rounds_never_come_back() -> None:
    it = parent([{"level": "units", "schedule": "linear", "steps": 3}], {"params": 0.5})
    plan = run_stages(it).plan
    assert 0.47 <= plan.after.params / plan.before.params <= 0.5
    assert "linear over 3 steps" in plan.settings["stages"][0]


def test_a_schedule_trains_by_the_method_of_the_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(method: str) -> torch.Tensor:
        stage = {"level": "units", "schedule": "linear", "steps": 4, "recover": {"steps": 1, "method": method}}
        it = parent([stage], {"params": 0.5})
        monkeypatch.setattr("prunus.pipeline.stages.recovered_", lambda task: None)
        found: torch.Tensor = run_stages(it).model.get_parameter("head.weight")
        return found

    labels = trained("finetune")
    assert torch.equal(labels, trained("autopilot"))
    monkeypatch.setattr("prunus.pipeline.stages.finetune_", lambda *_, **__: pytest.fail("learned from labels alone"))
    assert not torch.equal(labels, trained("distil"))
    assert not torch.equal(labels, trained("blocks"))


def test_a_schedule_cannot_train_by_a_method_without_steps() -> None:
    it = parent([{"level": "units", "schedule": "linear", "steps": 4, "recover": {"steps": 1, "method": "refold"}}])
    with pytest.raises(OptionError, match=r"stage 1 trains .* 'refold' takes no steps; allowed: blocks, distil"):
        check_wanted(it.recipe)


def test_strategies_of_the_pruner_are_stages() -> None:
    stages = [
        {"level": "blocks", "kept": 0.8, "strategy": "key-path-threshold", "steps": 8},
        {"level": "units", "kept": 0.7, "strategy": "sensitivity-threshold", "steps": 8},
        {"level": "weights", "kept": 0.9, "criterion": "magnitude"},
        {"level": "weights", "strategy": "gradient-threshold", "steps": 8, "settings": {"decay": 0.8}},
    ]
    it = parent(stages)
    staged = run_stages(it)
    plan, subject = staged.plan, it.analysis
    assert plan.after.params - plan.masked == pytest.approx(int(0.3 * plan.before.params), abs=1)
    assert {d.level for d in plan.decisions} >= {"unit", "weight"}
    small, _ = cut_with_record(staged.model, subject.coupling, plan, subject.example_inputs)
    assert verify(staged.model, small, subject.coupling, plan, subject.example_inputs).ok
    for name, mask in sliced_masks(plan).items():
        assert not small.get_parameter(name)[~mask].any()
    assert not torch.equal(staged.model.get_parameter("head.bias"), it.model.get_parameter("head.bias"))
    assert "4. weights by gradient-threshold" in staged.lines[3]


def test_bounds_hold_in_every_stage() -> None:
    def narrowest(bounds: dict[str, Any]) -> dict[str, int]:
        it = parent([{"level": "blocks", "kept": 0.8}, {"level": "units", "allocator": "global"}])
        prune = it.recipe.prune.model_copy(update={"bounds": bounds})
        plan = run_stages(it.with_recipe(it.recipe.model_copy(update={"prune": prune}))).plan
        sizes = {axis: a.size for axis, a in it.analysis.coupling.axes.items()}
        gone = {d.node: d.removed for d in plan.decisions if d.level == "unit"}
        return {axis: size - gone.get(axis, 0) for axis, size in sizes.items()}

    free, bound = narrowest({}), narrowest({"stem*": {"frozen": True}})
    stem = "stem.conv:out"
    assert free[stem] < bound[stem] == parent(THREE).analysis.coupling.axes[stem].size


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("criterion", "taylor", "prune.criterion is 'taylor'"),
        ("allocator", "global", "prune.allocator is 'global'"),
        ("search", 5, "prune.search is 5"),
        ("judge", "auto", "prune.judge is 'auto'"),
    ],
)
def test_what_does_not_reach_into_stages_is_named(key: str, value: Any, words: str) -> None:
    recipe = parent([{"level": "units"}]).recipe
    changed = recipe.model_copy(update={"prune": recipe.prune.model_copy(update={key: value})})
    with pytest.raises(OptionError, match=words):
        check_wanted(changed)


def test_a_plan_alone_is_refused_where_stages_learn() -> None:
    for stage in ({"recover": {"steps": 2}}, {"schedule": "cubic", "steps": 2}):
        it = parent([{"level": "units", **stage}])
        check_wanted(it.recipe)
        with pytest.raises(OptionError, match=r"Use prunus\.prune"):
            plan_recipe(it)
    it = parent([{"level": "blocks", "kept": 0.8}, {"level": "units"}])
    plan, _ = plan_recipe(it)
    small, _ = cut_with_record(it.model, it.analysis.coupling, plan, it.analysis.example_inputs)
    assert sum(p.numel() for p in small.parameters()) == plan.after.params


def test_modular_blocks_go_by_gates() -> None:
    plan = run_stages(parent([{"level": "blocks", "method": "modular", "kept": 0.8}, {"level": "units"}])).plan
    assert any(d.level == "block" and "gate importance" in d.reason for d in plan.decisions)


@pytest.mark.parametrize(
    ("stages", "budget", "error", "message"),
    [
        ([{"level": "weights"}], {"macs": 0.5}, OptionError, "sets weights to zero, which does not change macs"),
        ([{"level": "units"}], {"params": 0.5, "macs": 0.5}, OptionError, "stages take one budget"),
        ([{"level": "units"}], {"max_drop": 0.01}, OptionError, "stages take one budget"),
        ([{"level": "blocks"}], {"params": 0.1}, BudgetError, "is not met"),
    ],
)
def test_budgets_that_stages_cannot_meet_are_refused(
    stages: list[dict[str, Any]], budget: dict[str, Any], error: type[Exception], message: str
) -> None:
    it = parent(stages, budget)
    with pytest.raises(error, match=message):
        run_stages(it)


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("stages:\n- level: block\n", 6, ["stages[0].level", "one of blocks, units, weights"]),
        ("stages:\n- level: units\n- level: blocks\n", 5, ["stage 2 (blocks) follows units", "the order is"]),
        ("stages:\n- level: units\n  kept: 0.5\n", 5, ["is the last and meets the budget"]),
        ("stages:\n- level: weights\n  method: magnitud\n", 6, ["no way 'magnitud'", "importance"]),
        (
            "stages:\n- {level: units, strategy: granet, steps: 3}\n",
            6,
            ["no strategy 'granet'", "sensitivity-threshold"],
        ),
        ("stages:\n- {level: weights, strategy: granet}\n", 6, ["prunes while it trains; give steps"]),
        ("stages:\n- {level: weights, strategy: granet, steps: 3, method: lamp}\n", 6, ["a strategy and a method"]),
        ("stages:\n- {level: weights, settings: {decay: 0.8}}\n", 6, ["only a strategy has some"]),
        ("stages:\n- level: units\n  recover:\n    stepz: 3\n", 8, ["Did you mean 'steps'", "method, minutes, steps"]),
        ("stages:\n- level: units\n  recover: {steps: 0}\n", 7, ["recover.steps", "1 or more"]),
        ("stages:\n- {level: units, schedule: cubic}\n", 6, ["needs both schedule and steps"]),
        ("stages:\n- {level: weights, allocator: global}\n", 6, ["only units have one"]),
        ("stages:\n- {level: units, method: taylor, criterion: taylor}\n", 6, ["name one of them"]),
        ("stages:\n- {level: blocks, schedule: cubic, steps: 3}\n- level: units\n", 6, ["blocks go at once"]),
        ("recover: {method: distill}\n", 5, ["recover.method", "Did you mean 'distil'"]),
        ("recover: {minutes: 0}\n", 5, ["recover.minutes", "above 0"]),
    ],
)
def test_a_recipe_says_what_is_wrong_and_where(tmp_path: Path, text: str, line: int, parts: list[str]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    message = str(caught.value)
    assert f"recipe.yaml:{line}:" in message
    for part in parts:
        assert part in message


def test_a_stage_recovers_as_the_recipe_does_unless_it_says_otherwise() -> None:
    recipe = Recipe(
        version=1,
        model="digits",
        data="digits",
        recover={"minutes": 2.0, "method": "distil", "lr": 0.01},
        stages=[{"level": "units", "recover": {"steps": 7}}],
    )
    own = recipe.stages[0].recover
    assert own is not None
    said = own.over(recipe.recover).recovery()
    assert said is not None
    assert (said.steps, said.minutes, said.method, said.lr) == (7, None, "distil", 0.01)
    assert recipe.recover.recovery().minutes == 2.0  # type: ignore[union-attr]
    assert Recipe(version=1, model="digits", data="digits").recover.recovery() is None
