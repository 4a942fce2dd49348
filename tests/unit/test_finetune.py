"""Fine-tuning in place: masks, determinism, what is restored and what is refused."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.data.sources import BatchList, Split
from prunus.errors import DataError, OptionError, OutcomeError, SelectorError
from prunus.training import SCHEDULES, TrainingOptions, finetune_, reestimate_statistics_

OPTIMIZERS = ("sgd", "adam", "adamw", "adadelta")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data() -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 5, generator=generator)
    return Split(inputs, (inputs[:, 0] > inputs[:, 1]).long(), "train")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 2))


def masks_for(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(parameter.shape, generator=generator) < 0.5 for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_lowers_the_loss(data: Split, optimizer: str) -> None:
    lr = {"sgd": 0.05, "adadelta": 3.0}.get(optimizer, 0.02)
    report = finetune_(net(), data, TrainingOptions(steps=60, lr=lr, batch_size=32, optimizer=optimizer))
    assert report.steps == len(report.losses) == 60
    assert sum(report.losses[-10:]) < 0.75 * sum(report.losses[:10])
    assert report.seconds > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_weights_are_zero_in_every_forward_pass_and_at_the_end(data: Split, optimizer: str) -> None:
    model = net()
    masks = masks_for(model)
    parameters = dict(model.named_parameters())
    # Momentum from before the masks must not matter either: the optimizer is fresh, the weights are not.
    finetune_(model, data, TrainingOptions(steps=3, lr=0.1, optimizer=optimizer))
    leaks: list[float] = []

    def look(*_: Any) -> None:
        leaks.append(sum(float(parameters[name].detach()[~keep].abs().sum()) for name, keep in masks.items()))

    hook = model.register_forward_pre_hook(look)
    finetune_(model, data, TrainingOptions(steps=12, lr=0.1, optimizer=optimizer, weight_decay=0.1), masks=masks)
    hook.remove()
    look()
    assert leaks == [0.0] * 13
    assert all(bool((parameters[name][keep] != 0).any()) for name, keep in masks.items())


def test_no_steps_only_apply_the_masks(data: Split) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    keep = torch.zeros(2, 12, dtype=torch.bool)
    keep[0] = True
    report = finetune_(model, data, TrainingOptions(steps=0, lr=0.1), masks={"4.weight": keep})
    assert report.losses == ()
    assert torch.equal(model[4].weight, before["4.weight"] * keep)
    assert torch.equal(model[0].weight, before["0.weight"])


def test_tied_parameters_obey_the_masks_of_both_names(data: Split) -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    model[1].weight = model[0].weight
    first, second = torch.ones(5, 5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool)
    first[0, 0] = second[1, 1] = False
    finetune_(model, data, TrainingOptions(steps=4, lr=0.1), masks={"0.weight": first, "1.weight": second})
    assert int((model[0].weight == 0).sum()) == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_gives_the_same_bits(data: Split, optimizer: str) -> None:
    models = [net(), net(), net()]
    for model, seed, noise in zip(models, (3, 3, 4), (0, 9, 9), strict=True):
        torch.manual_seed(noise)
        finetune_(model, data, TrainingOptions(steps=8, lr=0.05, batch_size=20, optimizer=optimizer), seed=seed)
    first, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_random_state_modes_and_frozen_parameters_are_left_alone(data: Split) -> None:
    model = net().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    finetune_(model, data, TrainingOptions(steps=5, lr=0.1, weight_decay=0.1))
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert torch.equal(model[0].weight, frozen)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_counts_every_step_and_losses_are_thinned(data: Split) -> None:
    seen: list[tuple[int, int]] = []
    report = finetune_(
        net(), data, TrainingOptions(steps=250, lr=0.01), progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(step, 250) for step in range(1, 251)]
    assert 50 <= len(report.losses) <= 100


def test_regression_with_mse(data: Split) -> None:
    model = nn.Linear(5, 1)
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    source = Split(data.inputs, data.inputs @ weights, "train")
    finetune_(model, source, TrainingOptions(steps=200, lr=0.1, optimizer="adam", weight_decay=0.0, loss="mse"))
    assert torch.allclose(model.weight[0], weights, atol=0.05)


def test_a_last_batch_of_one_sample_does_not_reach_the_batch_norm() -> None:
    source = Split(torch.randn(9, 5), torch.arange(9) % 2, "train")
    report = finetune_(net(), source, TrainingOptions(steps=6, lr=0.01, batch_size=8))
    assert report.steps == 6


def test_loss_that_is_not_finite_names_the_step(data: Split) -> None:
    model = net()
    with pytest.raises(OutcomeError, match=r"the loss is (nan|inf) at step \d+ of 50.*Lower lr"):
        finetune_(model, data, TrainingOptions(steps=50, lr=1e30, optimizer="sgd"))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": True}, "steps is True"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"optimizer": "adamv"}, "Did you mean 'adam"),
        ({"loss": "cross"}, "Unknown loss 'cross'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_bad_options_are_refused(data: Split, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune_(net(), data, TrainingOptions(**({"steps": 1, "lr": 0.1} | options)))


def test_bad_masks_are_refused(data: Split) -> None:
    model = net()
    for masks, error, message in (
        ({"0.wait": torch.ones(12, 5, dtype=torch.bool)}, SelectorError, r"Did you mean '0\.weight'"),
        ({"0.weight": torch.ones(12, 5)}, OptionError, r"torch\.float32 \(12, 5\); allowed: torch\.bool"),
        ({"0.weight": torch.ones(5, 12, dtype=torch.bool)}, OptionError, r"\(5, 12\); allowed"),
    ):
        with pytest.raises(error, match=message):
            finetune_(model, data, TrainingOptions(steps=1, lr=0.1), masks=masks)
    model[0].weight.requires_grad_(False)
    with pytest.raises(OptionError, match="is frozen"):
        finetune_(
            model, data, TrainingOptions(steps=1, lr=0.1), masks={"0.weight": torch.zeros(12, 5, dtype=torch.bool)}
        )


def test_nothing_to_train_and_labels_that_do_not_fit_are_refused(data: Split) -> None:
    with pytest.raises(OptionError, match="nothing to train"):
        finetune_(net().requires_grad_(False), data, TrainingOptions(steps=1, lr=0.1))
    with pytest.raises(DataError, match="loss 'cross_entropy' refuses output"):
        finetune_(net(), Split(data.inputs, data.targets + 1, "train"), TrainingOptions(steps=1, lr=0.1))


def test_schedules_start_and_end_where_they_should() -> None:
    assert {name: SCHEDULES.get(name)(1.0) for name in ("cosine", "linear", "one_cycle", "constant")} == pytest.approx(
        {"cosine": 0.0, "linear": 0.0, "one_cycle": 0.0, "constant": 1.0}
    )
    assert SCHEDULES.get("cosine")(0.0) == SCHEDULES.get("linear")(0.0) == 1.0
    assert max(SCHEDULES.get("one_cycle")(t / 100) for t in range(100)) == pytest.approx(1.0)


def test_options_are_described_in_plain_values() -> None:
    options = TrainingOptions(steps=3, lr=0.1, loss=nn.CrossEntropyLoss(), optimizer="sgd")
    told = options.described()
    assert json.loads(json.dumps(told)) == told
    assert (told["loss"], told["optimizer"], told["steps"]) == ("CrossEntropyLoss", "sgd", 3)


def test_reestimated_statistics_are_the_average_over_batches() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    model[1].eval()
    batches = [torch.randn(16, 3) * scale + scale for scale in (1.0, 2.0, 5.0)]
    model(torch.full((4, 3), 100.0))
    used = reestimate_statistics_(model, [(batch, torch.zeros(16)) for batch in batches])
    assert used == 3
    assert torch.allclose(model[0].running_mean, torch.stack([batch.mean(0) for batch in batches]).mean(0), atol=1e-5)
    assert torch.allclose(model[0].running_var, torch.stack([batch.var(0) for batch in batches]).mean(0), rtol=1e-5)
    assert model[0].momentum == 0.1
    assert [module.training for module in model] == [True, False]


def test_reestimation_changes_nothing_but_statistics_and_stops_in_time(data: Split) -> None:
    model = net().eval()
    before = copy.deepcopy(model.state_dict())
    used = reestimate_statistics_(model, data.batches(8), max_batches=5)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert used == 5
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not any(module.training for module in model.modules())


def test_reestimation_without_norms_or_without_data() -> None:
    assert reestimate_statistics_(nn.Linear(2, 2), []) == 0
    model = net()
    before = model[1].running_mean.clone()
    with pytest.raises(DataError, match="no batch of at least 2 samples"):
        reestimate_statistics_(model, [(torch.zeros(1, 5), torch.zeros(1))])
    assert torch.equal(model[1].running_mean, before)


def test_a_list_of_batches_trains_a_model_with_several_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"logits": self.linear(left + right)}

    model = Sum()
    before = model.linear.weight.clone()
    batch = ({"left": torch.randn(6, 4), "right": torch.randn(6, 4)}, torch.arange(6) % 2)
    finetune_(model, BatchList([batch], "train"), TrainingOptions(steps=3, lr=0.1))
    assert not torch.equal(model.linear.weight, before)
