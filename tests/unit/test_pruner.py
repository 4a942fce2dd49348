"""The pruner's strategies, one by one, and what it refuses."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from factories_training import OPTIMIZERS, blocks, fit, samples
from prunus.errors import BudgetError, DataError, ModelError, OptionError, SelectorError, UsageError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.pruner import Pruner, PrunerOptions
from prunus.pruner.log_sinks import to_all, to_mlflow, to_tensorboard
from prunus.pruner.strategies.adaptive import Adaptive
from prunus.pruner.strategies.dynamic_threshold import DynamicThreshold


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return OPTIMIZERS["sgd with momentum"](model.parameters())


def trained(options: dict[str, Any], steps: int = 20) -> tuple[nn.Module, Pruner]:
    model = blocks()
    pruner = Pruner(model, options, example_inputs=samples().inputs[:4])
    fit(model, pruner, sgd(model), steps)
    return model, pruner


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs kept"),
        ({"kept": 0.0}, "kept is 0.0"),
        ({"kept": 0.5, "methd": "rigl"}, "no option 'methd'. Did you mean 'method'"),
        ({"kept": 0.5, "method": "rigel"}, "Unknown pruning strategy 'rigel'. Did you mean 'rigl'"),
        ({"kept": 0.5, "schedule": "qubic"}, "Did you mean 'cubic'"),
        ({"kept": 0.5, "metric": "latency_ms"}, "metric is 'latency_ms'"),
        ({"kept": 0.5, "every": 0}, "every is 0"),
        ({"kept": 0.5, "cut": "final"}, "method 'gradual' masks weights only"),
        ({"kept": 0.5, "cut": "now", "method": "units"}, "cut is 'now'"),
        (
            {"kept": 0.5, "method": "rigl", "settings": {"fracton": 0.1}},
            "no setting 'fracton'. Did you mean 'fraction'",
        ),
        ({"kept": 0.5, "method": "rigl", "settings": {"fraction": 2}}, "'fraction' of 'rigl' is 2"),
        ({"kept": 0.5, "pattern": "4:2"}, "pattern is '4:2'"),
        ({"kept": 0.5, "criterion": "magnitud"}, "Did you mean 'magnitude'"),
        ({"kept": 0.5, "ignore": "0"}, "ignore is '0'"),
        ({"kept": 0.5, "ignore": (3,)}, r"ignore is \(3,\)"),
        ({"kept": 0.5, "settings": None}, "settings is None"),
        ({"kept": 0.5, "schedule": 3}, "pruning schedule is 3; allowed: a name out of one_shot"),
        ({"kept": 0.5, "seed": "one"}, "seed is 'one'"),
        ({"kept": 0.5, "allocator": "unifrm", "method": "units"}, "Did you mean 'uniform'"),
        ({"kept": 0.5, "pattern": 24}, "pattern is '24'"),
        ({"kept": 0.1, "pattern": "2:4"}, "pattern '2:4' keeps 0.5; give kept 0.5"),
        ({"kept": 0.5, "pattern": "2:4", "method": "granet"}, "which method 'granet' does not follow.*one of gradual"),
        ({"kept": 0.5, "criterion": "taylor-weight", "method": "rigl"}, "which method 'rigl' does not follow"),
        ({"kept": 0.5, "metric": "macs"}, "which method 'gradual' does not follow.*one of units"),
        ({"kept": 0.5, "criterion": "movement"}, "all that a running training shows; allowed: .*lamp.*relative"),
        ({"kept": 0.5, "criterion": "apoz", "method": "units"}, "needs active, which a running training does not show"),
        (None, "options is None; allowed: a PrunerOptions or a mapping"),
    ],
)
def test_options_are_strict(options: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Pruner(blocks(), options, example_inputs=samples().inputs[:4])


def test_what_cannot_be_pruned_is_named() -> None:
    with pytest.raises(SelectorError, match="ignore pattern 'heat' matches no"):
        Pruner(blocks(), {"kept": 0.5, "ignore": ["heat"]})
    with pytest.raises(ModelError, match="no weight that may be pruned"):
        Pruner(nn.Sequential(nn.LayerNorm(4)), {"kept": 0.5})
    with pytest.raises(OptionError, match="need example_inputs"):
        Pruner(blocks(), {"kept": 0.5, "method": "units"})
    with pytest.raises(ModelError, match="model is 'blocks'; allowed"):
        Pruner("blocks", {"kept": 0.5})  # type: ignore[arg-type]
    words = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"module '0' .* has sparse gradients"):
        Pruner(words, {"kept": 0.5})
    assert Pruner(words, {"kept": 0.5, "ignore": ("0",)}).kept == 1.0
    model = blocks()
    pruner = Pruner(model, {"kept": 1e-4})
    with pytest.raises(BudgetError, match="would empty"):
        fit(model, pruner, sgd(model), 10)


def test_hooks_are_refused_where_they_make_no_sense() -> None:
    model, other = blocks(), blocks()
    pruner = Pruner(model, {"kept": 0.5})
    with pytest.raises(UsageError, match="has not begun"):
        pruner.step_begin()
    with pytest.raises(UsageError, match="The SGD holds none of the 8 prunable weights"):
        pruner.train_begin(sgd(other), 10)
    with pytest.raises(OptionError, match="runs from step 0 to step 50, the training has 20 steps"):
        Pruner(model, {"kept": 0.5, "end_step": 50}).train_begin(sgd(model), 20)
    pruner.train_begin(sgd(model), 10)
    for again in (pruner, Pruner(model, {"kept": 0.5})):
        with pytest.raises(UsageError, match="attached to this Sequential already"):
            again.train_begin(sgd(model), 10)
    twin = copy.deepcopy(model)
    Pruner(twin, {"kept": 0.5}).train_begin(sgd(twin), 10)
    assert pruner.train_end().reached is False
    Pruner(model, {"kept": 0.5}).train_begin(sgd(model), 10)


def test_ignored_weights_stay_whole() -> None:
    _, pruner = trained({"kept": 0.3, "ignore": ["0", "5.*"]})
    assert {name.split(".")[0] for name, mask in pruner.masks.items() if not mask.all()} == {"2", "3", "4"}
    _, pruner = trained({"kept": 0.6, "method": "units", "ignore": ["3.*"]})
    assert not any(name.startswith("3.up") for name in pruner.masks)


@pytest.mark.parametrize("criterion", ["magnitude", "relative", "gradient", "importance", "taylor-weight", "random"])
def test_gradual_takes_any_criterion(criterion: str) -> None:
    model, pruner = trained({"kept": 0.25, "criterion": criterion})
    weights = [model.get_parameter(name) for name in pruner.masks]
    assert sum(int(w.count_nonzero()) for w in weights) <= sum(int(m.sum()) for m in pruner.masks.values())
    assert pruner.kept == pytest.approx(0.25, abs=0.01)


def test_windows_go_whole_while_training() -> None:
    _, pruner = trained({"kept": 0.5, "pattern": "2:4"})
    for mask in pruner.masks.values():
        whole = mask[:, : mask.shape[1] // 4 * 4]
        assert bool((whole.reshape(len(mask), -1, 4).sum(2) == 2).all())
    _, pruner = trained({"kept": 0.5, "pattern": "tile:2x2"})
    mask = pruner.masks["0.weight"]
    tiles = mask.reshape(5, 2, 4, 2).permute(0, 2, 1, 3).reshape(20, 4).sum(1)
    assert set(tiles.tolist()) == {0, 4}


def test_a_dynamic_threshold_eases_when_it_bites_and_tightens_when_not() -> None:
    _, pruner = trained({"kept": 0.5, "method": "dynamic-threshold", "every": 2, "settings": {"start": 1.0}}, 30)
    strategy = pruner._strategy
    assert isinstance(strategy, DynamicThreshold)
    assert all(0.05 <= factor <= 2.0 for factor in strategy.factors.values())
    exponents = {round(float(torch.tensor(f).log() / torch.tensor(0.9).log()), 3) for f in strategy.factors.values()}
    assert exponents != {0.0}
    assert all(abs(e - round(e)) < 1e-2 or e < -6 for e in exponents)


def test_adaptive_holds_while_the_loss_rises_and_prunes_on_a_plateau() -> None:
    def kept_after(losses: list[float]) -> float:
        model = blocks()
        pruner = Pruner(model, {"kept": 0.2, "method": "adaptive", "every": 4, "end_step": 80})
        optimizer, data = torch.optim.SGD(model.parameters(), lr=1e-3), samples()
        pruner.train_begin(optimizer, 100)
        for loss in losses:
            pruner.step_begin()
            torch.autograd.backward(nn.functional.cross_entropy(model(data.inputs[:8]), data.targets[:8]))
            pruner.before_optimizer_step(loss)
            optimizer.step()
            pruner.after_optimizer_step()
        assert isinstance(pruner._strategy, Adaptive)
        return pruner.kept

    rising = kept_after([1.0 + 0.05 * i for i in range(41)])
    falling = kept_after([3.0 - 0.05 * i for i in range(41)])
    plateau = kept_after([1.0] * 41)
    assert rising == 1.0
    assert plateau < falling < rising


def test_adaptive_asks_for_the_loss() -> None:
    model = blocks()
    pruner = Pruner(model, {"kept": 0.5, "method": "adaptive"})
    pruner.train_begin(sgd(model), 10)
    with pytest.raises(DataError, match="the loop gave none"):
        pruner.before_optimizer_step()


def test_regrown_weights_begin_at_zero_without_momentum() -> None:
    model, data = blocks(), samples()
    optimizer = OPTIMIZERS["adamw with decay"](model.parameters())
    pruner = Pruner(model, {"kept": 0.4, "method": "rigl", "every": 3, "end_step": 12})
    pruner.train_begin(optimizer, 15)
    grown = 0
    for _ in range(15):
        before = pruner.masks
        pruner.step_begin()
        for name, mask in pruner.masks.items():
            back = mask & ~before[name] if name in before else torch.zeros_like(mask)
            parameter = model.get_parameter(name)
            grown += int(back.sum())
            assert not bool(parameter[back].any())
            assert not bool(optimizer.state[parameter]["exp_avg"][back].any()) if back.any() else True
        torch.autograd.backward(nn.functional.cross_entropy(model(data.inputs), data.targets))
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    assert grown > 0


def test_movement_brings_a_weight_back_with_its_old_value() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 3.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = Pruner(model, {"kept": 0.5, "method": "movement", "schedule": "one_shot", "every": 1, "end_step": 9})
    pruner.train_begin(optimizer, 12)
    seen = []
    for slope in ([-1.0, 0.5], [0.0, 0.0], [0.0, -9.0], [0.0, 0.0], [0.0, 0.0]):
        pruner.step_begin()
        seen.append(model[0].weight.detach().tolist()[0])
        model[0].weight.grad = torch.tensor([slope])
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
    assert seen[0] == [2.0, 3.0]
    assert seen[1] == pytest.approx([2.1, 0.0])
    assert seen[3] == pytest.approx([0.0, 2.95])


@pytest.mark.parametrize("method", ["group-lasso", "growing-regularisation"])
def test_pressure_shrinks_the_units_that_go_before_they_go(method: str) -> None:
    def norms(method: str) -> float:
        model, data = blocks(), samples()
        options = {"kept": 0.4, "method": method, "end_step": 39, "every": 39}
        pruner = Pruner(model, options, example_inputs=data.inputs[:4])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        pruner.train_begin(optimizer, 40)
        for _ in range(39):
            pruner.step_begin()
            torch.autograd.backward(nn.functional.cross_entropy(model(data.inputs), data.targets))
            pruner.before_optimizer_step()
            optimizer.step()
            pruner.after_optimizer_step()
            optimizer.zero_grad()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        pruner.step_begin()
        rows = {name: ~pruner.masks[name].any(1) for name in ("2.up.weight", "3.up.weight", "4.up.weight")}
        assert all(gone.any() for gone in rows.values())
        return sum(float(before[name][gone].square().sum()) for name, gone in rows.items())

    assert norms(method) < 0.5 * norms("units")


def test_a_plan_of_masks_is_cut_and_proved_like_any_other() -> None:
    model, pruner = trained({"kept": 0.3})
    with pytest.raises(UsageError, match="needs the network's analysis"):
        pruner.plan()
    coupling = couple(capture(model, samples().inputs[:4]))
    plan = pruner.plan(coupling)
    assert {n: int((~m).sum()) for n, m in plan.masks.items()} == {n: int((~m).sum()) for n, m in pruner.masks.items()}
    assert {d.reason for d in plan.decisions} == {"gradual while training"}


def test_steps_that_a_gradient_scaler_skips_do_not_count() -> None:
    model, data = blocks(), samples()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=4.0)
    pruner = Pruner(model, PrunerOptions(0.5, criterion="importance"))
    with pruner.attached(optimizer, 9):
        for i in range(10):
            loss = nn.functional.cross_entropy(model(data.inputs), data.targets) * (float("inf") if i == 4 else 1.0)
            torch.autograd.backward(scaler.scale(loss))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert pruner.step == 9
    assert pruner.kept == pytest.approx(0.5, abs=0.01)


def test_scalars_go_where_they_are_asked_to(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen: list[tuple[str, float, int]] = []
    model = blocks()
    log = to_all(to_tensorboard(tmp_path), lambda *one: seen.append(one))
    fit(model, Pruner(model, {"kept": 0.5, "every": 5}, log=log), sgd(model), 20)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    told = [(e.step, e.value) for e in events.Scalars("prunus/kept")]
    assert [step for step, _ in told] == [5, 10, 14]
    assert told[-1][1] == pytest.approx(0.5, abs=0.01)
    assert [v for name, v, _ in seen if name == "prunus/kept"] == pytest.approx([value for _, value in told])


def test_mlflow_gets_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, int]] = []
    known = SimpleNamespace(log_metric=lambda name, value, step: told.append((name, value, step)))
    monkeypatch.setitem(sys.modules, "mlflow", known)
    model, seen = blocks(), list[tuple[str, float, int]]()
    log = to_all(to_mlflow(), lambda *one: seen.append(one))
    fit(model, Pruner(model, {"kept": 0.5, "every": 5}, log=log), sgd(model), 20)
    assert told == seen != []


def test_mlflow_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match="pip install mlflow"):
        to_mlflow()
