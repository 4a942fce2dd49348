"""Units and branches cut in the middle of a training: the loop's own objects go on with what is left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from factories_training import OPTIMIZERS, blocks, fit, samples
from prunus.errors import UsageError, VerifyError
from prunus.pruner import Pruner

STRUCTURES = ("units", "key-path", "group-lasso", "growing-regularisation")


def pruner_of(model: nn.Module, **options: Any) -> Pruner:
    return Pruner(
        model,
        {"kept": 0.4, "method": "units", "every": 3, "metric": "params", **options},
        example_inputs=samples().inputs[:4],
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cut_trains_on_as_masked_does(optimizer: str) -> None:
    masked, cut = blocks().double(), blocks().double()
    inputs = samples().inputs[:4].double()
    for model, when in ((masked, "never"), (cut, "final")):
        pruner = Pruner(model, {"kept": 0.5, "method": "units", "cut": when}, example_inputs=inputs)
        running = OPTIMIZERS[optimizer](model.parameters())
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(running, 15)
        data = samples()
        pruner.train_begin(running, 15)
        for _ in range(15):
            pruner.step_begin()
            loss = nn.functional.cross_entropy(model(data.inputs.double()), data.targets)
            torch.autograd.backward(loss)
            pruner.before_optimizer_step(loss)
            running.step()
            pruner.after_optimizer_step()
            running.zero_grad()
            scheduler.step()
        pruner.train_end()
    small, whole = (sum(p.numel() for p in m.parameters()) for m in (cut, masked))
    assert small < 0.55 * whole
    test = samples().inputs.double()
    torch.testing.assert_close(cut.eval()(test), masked.eval()(test))
    assert cut[2].up.out_features == len(cut[2].up.weight)


@pytest.mark.parametrize("method", STRUCTURES)
def test_every_object_of_the_loop_stays_the_one_it_was(method: str) -> None:
    model = blocks()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    groups = [{"params": list(model[0].parameters())}, {"params": [p for m in model[1:] for p in m.parameters()]}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.01, 0.02], total_steps=18)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    pruner = Pruner(
        model,
        {"kept": 0.4, "method": method, "cut": "final", "end_step": 9},
        example_inputs=samples().inputs[:4],
        averages=[average],
    )
    data, before = samples(), (model, optimizer, id(model), sum(p.numel() for p in model.parameters()))
    with pruner.attached(optimizer, 18):
        for _ in range(18):
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(data.inputs), data.targets)
            torch.autograd.backward(scaler.scale(loss))
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()
            average.update_parameters(model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert before[:3] == (model, optimizer, id(model))
    assert held == {id(p) for p in model.parameters()} == {id(p) for p in optimizer.state}
    assert sum(p.numel() for p in model.parameters()) <= 0.4 * before[3]
    assert all(state["step"] == 18 for state in optimizer.state.values())
    assert len(optimizer.param_groups) == 2
    assert optimizer.param_groups[1]["lr"] == pytest.approx(scheduler.get_last_lr()[1])
    assert [p.shape for p in average.module.parameters()] == [p.shape for p in model.parameters()]
    assert int(average.n_averaged) == 18


def test_a_group_that_loses_everything_stays_empty_and_the_schedule_keeps_its_place() -> None:
    model = blocks()
    one, rest = list(model[3].parameters()), [p for i in (0, 2, 4, 5) for p in model[i].parameters()]
    optimizer = torch.optim.AdamW([{"params": one, "lr": 0.0}, {"params": rest, "lr": 0.01}])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda k: 0.5**k, lambda k: 0.9**k])
    with torch.no_grad():
        for parameter in one:
            parameter.zero_()
    pruner = pruner_of(model, method="key-path", kept=0.72, cut="final", end_step=3)
    fit(model, pruner, optimizer, 6, scheduler)
    assert pruner.plans[0].drops[0].label.startswith("3")
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, len(list(model.parameters()))]
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.01 * 0.9**6)


def test_pruning_goes_on_after_a_cut_and_the_budget_stays_that_of_the_whole() -> None:
    model = blocks()
    whole = sum(p.numel() for p in model.parameters())
    optimizer = OPTIMIZERS["adamw with decay"](model.parameters())
    pruner, data = pruner_of(model, kept=0.3, every=2), samples()
    pruner.train_begin(optimizer, 30)
    for step in range(30):
        pruner.step_begin()
        if step == 9:
            pruner.cut_()
            between = sum(p.numel() for p in model.parameters())
        loss = nn.functional.cross_entropy(model(data.inputs), data.targets)
        torch.autograd.backward(loss)
        pruner.before_optimizer_step(loss)
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    pruner.train_end()
    assert 0.3 * whole < between < whole
    pruner.cut_()
    assert len(pruner.plans) == 2
    assert 0.2 * whole < sum(p.numel() for p in model.parameters()) <= 0.3 * whole


def test_nothing_changes_where_the_proof_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = blocks()
    optimizer = OPTIMIZERS["sgd with momentum"](model.parameters())
    pruner = pruner_of(model)
    fit(model, pruner, optimizer, 12)
    before, groups = copy.deepcopy(model.state_dict()), [list(g["params"]) for g in optimizer.param_groups]

    def refuse(*_: Any, **__: Any) -> None:
        raise VerifyError("differs")

    monkeypatch.setattr("prunus.outcome.cutting.verify", refuse)
    with pytest.raises(VerifyError):
        pruner.cut_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(
        a is b
        for old, g in zip(groups, optimizer.param_groups, strict=True)
        for a, b in zip(old, g["params"], strict=True)
    )
    assert pruner.plans == []


def test_an_optimizer_whose_state_cannot_follow_is_refused() -> None:
    model = blocks()
    pruner = pruner_of(model)
    optimizer = OPTIMIZERS["sgd with momentum"](model.parameters())
    pruner.train_begin(optimizer, 10)
    with pytest.raises(UsageError, match="nothing is masked yet"):
        pruner.cut_()
    pruner.detach()
    weights = Pruner(model, {"kept": 0.5})
    with pytest.raises(UsageError, match="masks single weights, so there are no units to cut"):
        weights.cut_()


def test_the_key_path_moves_with_the_gradients() -> None:
    torch.manual_seed(0)
    data = samples()

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right, self.head = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(torch.relu(self.left(x)) + torch.relu(self.right(x)))

    def way(steep: str) -> tuple[str, ...]:
        model = Two()
        with torch.no_grad():
            getattr(model, "right" if steep == "left" else "left").weight.mul_(1e-3)
            getattr(model, "right" if steep == "left" else "left").bias.mul_(1e-3)
        pruner = Pruner(
            model, {"kept": 0.74, "method": "key-path", "end_step": 2, "every": 2}, example_inputs=data.inputs[:4]
        )
        fit(model, pruner, torch.optim.SGD(model.parameters(), lr=1e-3), 3)
        return tuple(name for name, mask in pruner.masks.items() if not mask.any())

    assert way("left") == ("right.weight", "right.bias")
    assert way("right") == ("left.weight", "left.bias")
