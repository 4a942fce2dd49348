"""Recovery as people call it: by hand stopped, other number formats, one answer, a teacher that is no teacher."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import prunus
from factories_recovery import case, cut_by, dense, half_plan, task
from prunus.data.sources import Split
from prunus.errors import DataError, ModelError, OptionError
from prunus.outcome import realising
from prunus.pipeline.recovering import recover_
from prunus.recovery import RecoveryOptions, recovered_
from prunus.recovery.distillation_loss import kind_of, soft_loss
from prunus.training import TrainingOptions


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, RuntimeError])
def test_whoever_stops_a_recovery_keeps_the_best_state(stopped: type[BaseException]) -> None:
    it = case({"steps": 400, "method": "finetune", "lr": 5.0})  # a rate that does harm
    before, calls = it.measure(), 0

    def stop(*_: Any) -> None:
        nonlocal calls
        calls += it.model.training
        if calls == 30:
            raise stopped

    handle = it.model.register_forward_pre_hook(stop)
    with pytest.raises(stopped):
        recovered_(it)
    handle.remove()
    assert it.measure() <= before


def test_hints_serve_a_network_of_double_precision() -> None:
    train, held = (Split(part.inputs.double(), part.targets) for part in task())
    it = case(
        {"steps": 8, "method": "distil", "hints": 1.0},
        train=train,
        held_out=held,
        model=cut_by(half_plan()).double(),
        dense=copy.deepcopy(dense()).double(),
    )
    assert recovered_(it).steps == 8


def test_one_answer_a_sample_is_compared_as_a_number() -> None:
    options = RecoveryOptions.of({"steps": 1})
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    assert soft_loss(options, student, teacher) == 2.0
    assert soft_loss(options, student[:, 0], teacher[:, 0]) == 2.0
    assert soft_loss(options, student.repeat(1, 2), teacher.repeat(1, 2)) == 0.0  # equal scores: equal distributions


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("mse", "numbers"),
        ("sparse_cross_entropy", "classes"),
        (functional.l1_loss, "numbers"),
        (nn.SmoothL1Loss(), "numbers"),
        (nn.HuberLoss(), "numbers"),
        (nn.BCELoss(), "numbers"),
        (nn.NLLLoss(), "classes"),
        (nn.BCEWithLogitsLoss(), "labels"),
        (functional.binary_cross_entropy_with_logits, "labels"),
        (functional.multilabel_soft_margin_loss, "labels"),
    ],
)
def test_the_name_of_a_loss_tells_what_answers_are(loss: Any, kind: str) -> None:
    assert kind_of(loss) == kind


def test_a_loss_of_ones_own_is_one_of_classes_unless_its_name_says_otherwise() -> None:
    def label1_loss(output: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(output, targets)

    assert kind_of(label1_loss) == "classes"


def test_labels_of_which_several_hold_are_compared_one_by_one() -> None:
    options = RecoveryOptions(1, 0.1, loss=functional.binary_cross_entropy_with_logits, method="distil")
    teacher, student = torch.tensor([[2.0, -1.0]]), torch.tensor([[2.0, 3.0]])
    heat = options.temperature
    p, q = (torch.distributions.Bernoulli(logits=z / heat) for z in (teacher, student))
    expected = heat**2 * torch.distributions.kl_divergence(p, q).mean()
    torch.testing.assert_close(soft_loss(options, student, teacher), expected)
    # A shift of all scores changes no softmax, and every one of these labels.
    assert float(soft_loss(options, teacher + 1, teacher)) > 0.01
    assert abs(float(soft_loss(options, teacher, teacher))) < 1e-7


def test_a_teacher_that_would_learn_too_or_reads_other_numbers_is_refused() -> None:
    train, small = task()[0], cut_by(half_plan())
    with pytest.raises(ModelError, match=r"shares '.*' with the dense one"):
        recover_(small, small, train, {"steps": 2})
    with pytest.raises(ModelError, match=r"is torch.float32 on cpu, the dense one torch.float64 on cpu"):
        recover_(
            copy.deepcopy(dense()).double(),
            small,
            train,
            {"steps": 2},
            plan=half_plan(),
            example_inputs=train.inputs[:2].double(),
        )


def test_what_a_loss_refuses_is_told_in_one_sentence() -> None:
    train = Split(task()[0].inputs, task()[0].targets + 90)
    with pytest.raises(DataError, match=r"is out of bounds\. Check the labels"):
        recover_(dense(), cut_by(half_plan()), train, {"steps": 2})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"lr": None}, "lr is None"),
        ({"weight_decay": "no"}, "weight_decay is 'no'"),
        ({"optimizer": None}, "optimizer is None; allowed: a name out of sgd"),
        ({"optimizer": ["sgd"]}, r"optimizer is \['sgd'\]"),
        ({"schedule": 3}, "learning-rate schedule is 3"),
        ({"method": ["distil"]}, "Unknown recovery method"),
        ({"method": None}, "Unknown recovery method None"),
    ],
)
def test_options_of_another_type_are_named(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        RecoveryOptions.of({"steps": 5, **changed})
    if "method" not in changed:
        with pytest.raises(OptionError, match=words):
            TrainingOptions(**{"steps": 1, "lr": 0.1, **changed})


def test_what_decides_on_a_recovery_is_kept_from_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real_repair, real_recover = realising.repair_, realising.recovered_

    def repairing(*args: Any, **options: Any) -> Any:
        seen["fitted"] = torch.cat([inputs for inputs, _ in args[4].batches()])
        return real_repair(*args, **options)

    def recovering(case: Any) -> Any:
        seen["deciding"] = torch.cat([inputs for inputs, _ in case.held_out.batches()])
        return real_recover(case)

    monkeypatch.setattr(realising, "repair_", repairing)
    monkeypatch.setattr(realising, "recovered_", recovering)
    train, _ = task()
    data = list(train.batches(8))
    prunus.prune(dense(), train.inputs[:2], budget={"params": 0.7}, data=data, repair="refold", recover={"steps": 4})
    rows = {tuple(row) for row in seen["fitted"].flatten(1).tolist()}
    deciding = [tuple(row) for row in seen["deciding"].flatten(1).tolist()]
    assert deciding
    assert not any(row in rows for row in deciding)
    assert len(rows) + len(deciding) == len(train)
