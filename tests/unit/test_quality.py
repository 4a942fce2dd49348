"""Quality scores against scikit-learn and hand-made cases."""

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score, roc_auc_score
from torch import Tensor, nn

from prunus.errors import DataError, ModelError, OptionError, OutcomeError
from prunus.measurement.quality import evaluate, flip_rate, paired_interval


class Echo(nn.Module):
    """Answer with the input, wrapped as asked."""

    def __init__(self, wrap: Any = lambda x: x) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x)


def random_case(seed: int, count: int = 200, width: int = 6, labels: tuple[int, ...] = (0, 1, 2, 3, 4, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, width, generator=generator)
    targets = torch.tensor(labels)[torch.randint(len(labels), (count,), generator=generator)]
    return logits + 1.5 * nn.functional.one_hot(targets, width), targets


def batched(logits: Tensor, targets: Tensor, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    return list(zip(logits.split(size), targets.split(size), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_scikit_learn(seed: int) -> None:
    logits, targets = random_case(seed)
    quality = evaluate(Echo(), batched(logits, targets))
    true, predicted = targets.numpy(), logits.argmax(1).numpy()
    assert quality.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert quality.precision_macro == pytest.approx(precision_score(true, predicted, average="macro"))
    assert quality.recall_macro == pytest.approx(recall_score(true, predicted, average="macro"))
    assert quality.f1_macro == pytest.approx(f1_score(true, predicted, average="macro"))
    assert quality.nll == pytest.approx(log_loss(true, logits.double().softmax(1).numpy()))
    per_class = recall_score(true, predicted, average=None)
    assert quality.per_class_recall == pytest.approx(tuple(per_class))
    assert quality.worst_class == pytest.approx(per_class.min())
    assert quality.worst_class_name == str(per_class.argmin())
    assert quality.count == 200
    assert torch.equal(quality.correct, quality.predictions == targets)


def test_two_classes_have_an_area_under_the_curve_and_more_have_none() -> None:
    logits, targets = random_case(3, width=2, labels=(0, 1))
    quality = evaluate(Echo(), batched(logits, targets))
    assert quality.auc == pytest.approx(roc_auc_score(targets.numpy(), (logits[:, 1] - logits[:, 0]).numpy()))
    assert quality.bits == pytest.approx(quality.nll / math.log(2))
    assert evaluate(Echo(), batched(*random_case(3))).auc is None
    assert evaluate(Echo(), [(logits[:5], torch.zeros(5, dtype=torch.int64))]).auc is None


def test_absent_classes_count_in_no_macro_average() -> None:
    logits, targets = random_case(7, labels=(0, 2, 5))
    quality = evaluate(Echo(), batched(logits, targets), classes=["a", "b", "c", "d", "e", "f"])
    true, predicted = targets.numpy(), logits.argmax(1).numpy()
    present = {"labels": [0, 2, 5], "average": "macro"}
    assert quality.precision_macro == pytest.approx(precision_score(true, predicted, **present))
    assert quality.recall_macro == pytest.approx(recall_score(true, predicted, **present))
    assert quality.f1_macro == pytest.approx(f1_score(true, predicted, **present))
    assert [math.isnan(value) for value in quality.per_class_recall] == [False, True, False, True, True, False]
    assert quality.worst_class_name in {"a", "c", "f"}


def test_calibration_error_by_hand() -> None:
    # Two samples at confidence 0.9 (one right), two at 0.6 (both right): ½·|0.5−0.9| + ½·|1−0.6|.
    top = torch.tensor([0.9, 0.9, 0.6, 0.6])
    logits = torch.stack([top, 1 - top], 1).log()
    quality = evaluate(Echo(), [(logits, torch.tensor([0, 1, 0, 0]))])
    assert quality.ece == pytest.approx(0.4, abs=1e-6)


def test_certain_and_right_is_perfect() -> None:
    logits = 50.0 * torch.eye(4)
    quality = evaluate(Echo(), [(logits, torch.arange(4))])
    scores = (quality.accuracy, quality.precision_macro, quality.recall_macro, quality.f1_macro, quality.worst_class)
    assert scores == (1.0,) * 5
    assert quality.ece == pytest.approx(0, abs=1e-9)


def test_how_data_are_batched_does_not_matter() -> None:
    logits, targets = random_case(3)
    whole, parts = evaluate(Echo(), [(logits, targets)]), evaluate(Echo(), batched(logits, targets, 7))
    assert whole.f1_macro == parts.f1_macro
    assert torch.equal(whole.predictions, parts.predictions)


def test_each_position_of_a_dense_prediction_is_a_sample() -> None:
    logits, targets = random_case(4, count=60)
    dense = logits.reshape(5, 12, 6).movedim(2, 1)  # (B, C, T)
    assert (
        evaluate(Echo(), [(dense, targets.reshape(5, 12))]).accuracy == evaluate(Echo(), [(logits, targets)]).accuracy
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, x + 1),
        lambda x: {"loss": x.sum(), "logits": x},
        lambda x: OrderedDict(ids=x.argmax(1), scores=x),
        lambda x: [[x]],
    ],
)
def test_logits_are_found_in_nested_answers(wrap: Any) -> None:
    logits, targets = random_case(5)
    assert evaluate(Echo(wrap), [(logits, targets)]).accuracy == evaluate(Echo(), [(logits, targets)]).accuracy


def test_inputs_may_be_positional_or_named() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left - right

    logits, targets = random_case(6)
    zero = torch.zeros_like(logits)
    expected = evaluate(Echo(), [(logits, targets)]).accuracy
    assert evaluate(Two(), [((logits, zero), targets)]).accuracy == expected
    assert evaluate(Two(), [({"right": zero, "left": logits}, targets)]).accuracy == expected


def test_modes_are_put_back_module_by_module() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    model[2].eval()
    first = evaluate(model, [(torch.randn(8, 3), torch.zeros(8, dtype=torch.long))])
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert first.count == 8


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], DataError, "no samples"),
        ([(torch.zeros(2, 3), torch.tensor([0, 3]))], DataError, r"labels 0\.\.3; allowed: 0\.\.2"),
        ([(torch.zeros(2, 3), torch.tensor([-1, 0]))], DataError, r"labels -1\.\.0"),
        ([(torch.zeros(2, 3), torch.zeros(2, 3))], DataError, "not one-hot"),
        ([(torch.zeros(2, 3), torch.zeros(2))], DataError, "integer class labels"),
        ([(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))], OutcomeError, "on 2 of 2 samples"),
        ([(torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1]))], ModelError, "without a floating-point"),
    ],
)
def test_bad_data_are_refused(batches: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(Echo(), batches)


def test_class_names_must_cover_the_logits() -> None:
    with pytest.raises(DataError, match="2 class names for 3 logits"):
        evaluate(Echo(), [(torch.zeros(2, 3), torch.tensor([0, 1]))], classes=["a", "b"])


def test_flip_rate_counts_changed_predictions() -> None:
    a = torch.tensor([0, 1, 2, 3])
    assert flip_rate(a, a) == 0.0
    assert flip_rate(a, torch.tensor([0, 2, 2, 1])) == 0.5
    with pytest.raises(DataError, match=r"shapes \(4,\) and \(3,\)"):
        flip_rate(a, a[:3])


def test_paired_interval_agrees_with_a_plain_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(300, generator=generator) < 0.97, torch.rand(300, generator=generator) < 0.93
    interval = paired_interval(a, b, seed=1)
    difference = a.double().numpy() - b.double().numpy()
    draws = np.random.default_rng(2).integers(0, 300, (4000, 300))
    low, high = np.quantile(difference[draws].mean(1), (0.025, 0.975))
    assert interval.estimate == pytest.approx(difference.mean())
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.006)
    assert interval == paired_interval(a, b, seed=1)


def test_paired_interval_of_a_model_with_itself_is_zero() -> None:
    interval = paired_interval(*[torch.tensor([True, False, True])] * 2, seed=0)
    assert (interval.estimate, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_paired_interval_refuses_bad_arguments() -> None:
    with pytest.raises(DataError, match="at least 1 sample"):
        paired_interval(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool), seed=0)
    with pytest.raises(OptionError, match="resamples is 0"):
        paired_interval(torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool), resamples=0)
