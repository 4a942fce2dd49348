"""Optimizers, schedules and averages that go on over the cut model."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import prunus
from prunus.analysis.score import make_plan
from prunus.errors import PlanError, UsageError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.plans import Drop, Plan
from prunus.surgery.averaged_copy import carry_like
from prunus.surgery.cut import cut
from prunus.surgery.optimizer import carry_optimizer, carry_scheduler
from prunus.surgery.proving.reference import masked_tensors

INPUTS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, masks: dict[str, Any] | None = None) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(F.mse_loss(model(INPUTS.double()), TARGETS.double()))
        for name, parameter in model.named_parameters() if masks else ():
            assert parameter.grad is not None
            parameter.grad *= masks[name]
        optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters() if masks else ():
                parameter *= masks[name]


def ones_where_kept(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    coupling = couple(capture(model, INPUTS.double()))
    return masked_tensors({n: torch.ones_like(p) for n, p in model.named_parameters()}, coupling, plan)


def state_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    return dict(optimizer.state_dict()["state"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("levels", [("unit",), ("unit", "weight")])
def test_training_goes_on_as_the_masked_original_would(name: str, levels: tuple[str, ...]) -> None:
    model = mlp()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    result = prunus.prune(model, INPUTS.double(), budget={"params": 0.5}, levels=levels)
    assert (len(levels) == 1) == (not result.plan.masks)
    before = copy.deepcopy(state_of(optimizer))
    carried = carry_optimizer(optimizer, model, result.model, result.plan)
    assert type(carried) is type(optimizer)
    assert [id(p) for g in carried.param_groups for p in g["params"]] == [id(p) for p in result.model.parameters()]
    masks = ones_where_kept(model, result.plan)
    small_masks = {
        name: masks[name][np.ix_(*(result.plan.keep.get(name, {}).get(d, range(n)) for d, n in enumerate(p.shape)))]
        for name, p in model.named_parameters()
    }
    train(result.model, carried, 3, small_masks)
    torch.testing.assert_close(state_of(optimizer), before, rtol=0, atol=0)  # its steps left the old one alone

    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter *= masks[parameter_name]
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    optimizer.state[parameter][key] = value * masks[parameter_name]
    train(model, optimizer, 3, masks)
    expected = prunus.apply(model, result.plan, INPUTS.double()).model
    for one, other in zip(result.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_groups_keep_order_options_and_names() -> None:
    model, loss = mlp(), nn.Linear(2, 2)
    groups = [
        {"params": [("head", model[4].weight), ("shift", model[4].bias)], "lr": 0.5},
        {"params": list(model[0].named_parameters()), "weight_decay": 0.25, "note": "first"},
        {"params": list(loss.named_parameters())},
    ]
    optimizer = torch.optim.AdamW(groups, lr=torch.tensor(0.1), betas=(0.8, 0.9))
    torch.autograd.backward(loss(torch.ones(1, 2)).sum())
    optimizer.step()
    train(model, optimizer, 1)
    result = prunus.prune(model, INPUTS.double(), budget={"params": 0.5})
    carried = carry_optimizer(optimizer, model, result.model, result.plan)
    for old, new in zip(optimizer.param_groups, carried.param_groups, strict=True):
        assert {k: v for k, v in old.items() if k != "params"} == {k: v for k, v in new.items() if k != "params"}
    assert carried.param_groups[0]["params"][0] is result.model[4].weight
    assert carried.param_groups[2]["params"][0] is loss.weight
    assert carried.state[loss.weight]["exp_avg"] is not optimizer.state[loss.weight]["exp_avg"]
    torch.testing.assert_close(carried.state[loss.weight], optimizer.state[loss.weight])
    carried.param_groups[1]["lr"].fill_(9.0)
    assert optimizer.param_groups[1]["lr"] == torch.tensor(0.1)


def test_state_is_the_kept_part_and_factored_state_follows_the_dims_it_has() -> None:
    model = mlp()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    result = prunus.prune(model, INPUTS.double(), budget={"params": 0.5})
    carried = carry_optimizer(optimizer, model, result.model, result.plan)
    rows, columns = (result.plan.keep["2.weight"][d] for d in (0, 1))
    old, new = optimizer.state[model[2].weight], carried.state[result.model[2].weight]
    assert torch.equal(new["row_var"], old["row_var"][rows])
    assert torch.equal(new["col_var"], old["col_var"][:, columns])
    assert new["step"] == old["step"]
    train(result.model, carried, 1)


def test_what_cannot_be_carried_is_refused_by_name() -> None:
    model = mlp()
    result = prunus.prune(model, INPUTS.double(), budget={"params": 0.5})
    with pytest.raises(UsageError, match="The SGD holds no parameter of this Sequential"):
        carry_optimizer(torch.optim.SGD(mlp().parameters(), lr=0.1), model, result.model, result.plan)

    history = torch.optim.LBFGS(model.parameters(), lr=0.1)
    history.step(lambda: _backward(model))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"LBFGS keeps as state .* of '0.weight' a .*cannot be cut. Make a new"):
        carry_optimizer(history, model, result.model, result.plan)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    with pytest.raises(PlanError, match=r"'0.weight' has shape \(16, 6\) in the cut model"):
        carry_optimizer(optimizer, model, mlp(), result.plan)


def _backward(model: nn.Module) -> torch.Tensor:
    model.zero_grad()
    loss = F.mse_loss(model(INPUTS.double()), TARGETS.double())
    torch.autograd.backward(loss)
    return loss


class Skip(nn.Module):
    """A residual branch that can go altogether."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.branch(x))


def test_groups_of_dropped_branches_go_and_schedules_lose_their_rates() -> None:
    model = Skip()
    coupling = couple(capture(model, INPUTS))
    join = next(n.name for n in coupling.graph.nodes if n.op.startswith("aten.add"))
    keep = {"stem:out": np.arange(8) < 5}
    plan = make_plan(coupling, keep, [Drop(join, 1, "branch")])
    small = cut(model, coupling, plan, INPUTS)
    groups = [
        {"params": m.parameters(), "lr": lr} for m, lr in ((model.stem, 0.1), (model.branch, 0.2), (model.head, 0.3))
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = lr_scheduler.LambdaLR(optimizer, [lambda t: 0.5**t, lambda t: 1.0, lambda t: 0.1**t])
    carried = carry_optimizer(optimizer, model, small, plan)
    twin = carry_scheduler(schedule, carried, model, small)
    assert [g["lr"] for g in carried.param_groups] == [0.1, 0.3]
    carried.step()
    twin.step()
    assert twin.get_last_lr() == [g["lr"] for g in carried.param_groups] == pytest.approx([0.05, 0.03])
    assert schedule.get_last_lr() == [0.1, 0.2, 0.3]
    other = torch.optim.SGD(small.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="2 groups remain; the carried SGD has 1"):
        carry_scheduler(schedule, other, model, small)


SCHEDULES: dict[str, Any] = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=12),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=12),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "in sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[4]
    ),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stepped", [0, 3])
def test_schedules_go_on_where_they_stand(name: str, stepped: int) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = SCHEDULES[name](optimizer)
    extra = (1.0,) if name == "plateau" else ()
    for _ in range(stepped):
        train(model, optimizer, 1)
        schedule.step(*extra)
    result = prunus.prune(model, INPUTS.double(), budget={"params": 0.5})
    carried = carry_optimizer(optimizer, model, result.model, result.plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = carry_scheduler(schedule, carried, model, result.model)
        rates = []
        for own, schedule_of, network in ((carried, twin, result.model), (optimizer, schedule, model)):
            rates.append([])
            for _ in range(5):
                train(network, own, 1)
                schedule_of.step(*extra)
                rates[-1].append((own.param_groups[0]["lr"], own.param_groups[0]["momentum"]))
    assert twin.optimizer is carried
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    )


IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_an_average_is_cut_like_the_model_and_keeps_its_own_values() -> None:
    model = convnet()
    average = copy.deepcopy(model).double().eval().requires_grad_(False)
    with torch.no_grad():
        for tensor in average.state_dict().values():
            tensor += 1
    result = prunus.prune(model, IMAGES, budget={"params": 0.5})
    small = carry_like(average, result.model, result.plan, model)
    coupling = couple(capture(average, IMAGES.double()))  # a plan's fingerprint knows the dtype
    expected = prunus.apply(average, make_plan(coupling, dict(result.plan.axes)), IMAGES.double()).model
    assert torch.equal(small(IMAGES.double()), expected(IMAGES.double()))
    assert not any(p.requires_grad for p in small.parameters())
    assert not any(m.training for m in small.modules())
    assert all(m.training for m in result.model.modules())
    assert small[1].num_batches_tracked == 1
    assert small[0].out_channels == result.model[0].out_channels < 12


def test_an_averaged_model_goes_on_averaging() -> None:
    model = convnet()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    average.update_parameters(model)
    result = prunus.prune(model, IMAGES, budget={"params": 0.5})
    small = carry_like(average, result.model, result.plan, model)
    assert isinstance(small, AveragedModel)
    assert small.n_averaged == average.n_averaged == 1
    small.update_parameters(result.model)
    average.update_parameters(model)
    kept = result.plan.keep["0.weight"][0]
    assert torch.equal(small.module[0].weight, average.module[0].weight[kept])
    assert torch.equal(small.module[1].running_var, average.module[1].running_var[kept])
    assert small.module[0].weight.data_ptr() != result.model[0].weight.data_ptr()


def test_averages_of_another_network_are_refused() -> None:
    model = convnet()
    result = prunus.prune(model, IMAGES, budget={"params": 0.5})
    with pytest.raises(UsageError, match=r"The Linear has no tensor '0.weight', which the Sequential has"):
        carry_like(nn.Linear(2, 2), result.model, result.plan, model)
    with pytest.raises(UsageError, match=r"'0.weight' has shape .* give a copy from before the cut"):
        carry_like(result.model, result.model, result.plan, model)
    with pytest.raises(PlanError, match="belong together"):
        carry_like(copy.deepcopy(model), model, result.plan, model)


class Tied(nn.Module):
    """Embedding and output share their weight; the forward remembers sizes, so that a cut rewrites it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        hidden = F.relu(self.up(x)).view(*ids.shape, 4, 4).transpose(-1, -2).reshape(*ids.shape, 16)
        return self.head(x + self.down(hidden))


@pytest.mark.parametrize("mode", ["hybrid", "graph"])
def test_ties_and_rewritten_forwards_are_carried(mode: str) -> None:
    torch.manual_seed(0)
    model, ids = Tied(), torch.tensor([[1, 2, 3]])
    plan = prunus.plan(model, ids, budget={"params": 0.6})
    coupling = couple(capture(model, ids))
    small = cut(model, coupling, plan, ids, mode=mode)
    optimizer = torch.optim.Adam(model.parameters())
    torch.autograd.backward(model(ids).sum())
    optimizer.step()
    carried = carry_optimizer(optimizer, model, small, plan)
    named = dict(small.named_parameters())
    assert {id(p) for p in carried.param_groups[0]["params"]} == {id(p) for p in named.values()}
    average = carry_like(copy.deepcopy(model), small, plan, model)
    again = prunus.apply(model, plan, ids).model
    assert torch.equal(average(ids), again(ids))
    if mode == "hybrid":
        assert average.head.weight is average.embed.weight
        assert carried.state[average.head.weight] == {}
        assert set(carried.state[small.head.weight]) == {"step", "exp_avg", "exp_avg_sq"}
