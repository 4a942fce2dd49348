"""Quality of a classifier: accuracy, macro scores, worst class, likelihood, calibration, flips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.data.batches import IGNORED, Batch, answer, check_count, device_of, logits_of, moved, pair_of
from prunus.errors import DataError, OutcomeError
from prunus.foundation.as_found import in_eval_mode
from prunus.measurement.bootstrap import RESAMPLES, percentile_interval
from prunus.measurement.interval import Interval
from prunus.measurement.ranking import auc

ECE_BINS = 15
CLASSES_LAST = ("sparse_cross_entropy", "next_token")
"""Losses whose classes are the last axis of the logits."""


@dataclass(frozen=True, slots=True, eq=False)
class Quality:
    """The scores of a classifier from one pass over labelled data; all are fractions except ``nll`` (nats).

    Classes without a sample in the targets are left out of macro averages and of the worst class, and have NaN in
    ``per_class_recall``. ``worst_class`` is the lowest recall and ``worst_class_name`` its class (the first on a tie).
    ``auc`` is the AUC of the second of two classes, None for more classes. ``count`` is the number of targets, which
    exceeds that of samples where each sample has several.
    """

    accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    worst_class: float
    worst_class_name: str
    nll: float
    ece: float
    per_class_recall: tuple[float, ...]
    predictions: Tensor  # (N,) int64
    correct: Tensor  # (N,) bool
    count: int
    auc: float | None = None

    @property
    def bits(self) -> float:
        """The negative log-likelihood in bits for each target: nll / ln 2."""
        return self.nll / math.log(2)


def evaluate(
    model: nn.Module, batches: Iterable[Batch], classes: Sequence[str] | None = None, *, loss: str = ""
) -> Quality:
    """Score a classifier on labelled batches, in eval mode; its modes are restored.

    With n_tp, n_pred, n_true of each class c: recall_c = n_tp/n_true, precision_c = n_tp/n_pred (0 where nothing was
    predicted), f1_c = 2·n_tp/(n_pred + n_true); macro = mean over the classes present in the targets.
    nll = −mean log p(target). ece = Σ_b n_b/N · |accuracy_b − confidence_b| over 15 equal bins of the top probability.
    Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599 (ece).

    Args:
        model: Its output, or the ``logits`` or first tensor of it, holds unnormalised log-probabilities.
        batches: Pairs (inputs, targets), as ``DataSource.batches`` yields them.
        classes: Names in label order; the labels themselves where left out or empty.
        loss: The name of the loss that the model was trained with: under ``sparse_cross_entropy`` the classes are the
            last axis of the logits, under ``next_token`` also position t predicts token t + 1.

    Shapes: logits (B, C), (B, C, …) or (B, …, C), targets (B) or (B, …), int64; each position counts as one sample,
    except those with target −100. Where both layouts fit, the classes of an output's ``logits`` are last.

    Raises:
        DataError: no samples, labels outside 0..C−1, shapes that do not match, or a number of names other than C.
        OutcomeError: the model's output is NaN or infinite.
    """
    logits, targets = _answers(model, batches, loss)
    width = logits.shape[1]
    names = tuple(classes) if classes else tuple(map(str, range(width)))
    if len(names) != width:
        raise DataError(f"evaluate got {len(names)} class names for {width} logits; name every class or none.")
    predictions = logits.argmax(1)
    correct = predictions == targets
    table = torch.bincount(targets * width + predictions, minlength=width * width).reshape(width, width).double()
    hits, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    present = true > 0
    recall = hits / true  # NaN where absent
    precision = hits / predicted.clamp(min=1)
    f1 = 2 * hits / (predicted + true).clamp(min=1)
    worst = int(recall.nan_to_num(nan=torch.inf).argmin())
    log_p = logits.double().log_softmax(1)
    return Quality(
        accuracy=correct.double().mean().item(),
        precision_macro=precision[present].mean().item(),
        recall_macro=recall[present].mean().item(),
        f1_macro=f1[present].mean().item(),
        worst_class=recall[worst].item(),
        worst_class_name=names[worst],
        nll=-log_p.gather(1, targets[:, None]).mean().item(),
        ece=_calibration_error(log_p.exp().amax(1), correct),
        per_class_recall=tuple(recall.tolist()),
        predictions=predictions,
        correct=correct,
        count=len(targets),
        auc=auc(logits[:, 1] - logits[:, 0], targets == 1) if width == 2 else None,
    )


def flip_rate(a: Tensor, b: Tensor) -> float:
    """Return the share of samples on which two models predict different classes, right or wrong.

    Shapes: predictions (N,) and (N,).

    Raises:
        DataError: no predictions, or of different shapes.

    Example:
        >>> flip_rate(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]))
        0.25
    """
    _check_pair(a, b, "predictions")
    return (a != b).double().mean().item()


def paired_interval(correct_a: Tensor, correct_b: Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return accuracy(a) − accuracy(b) on the same samples, with its 95 % percentile bootstrap interval.

    A sample's difference is −1, 0 or +1, so drawing N samples with replacement is one multinomial draw of three counts.

    Args:
        correct_a: True for each sample on which model a is right; ``Quality.correct``.
        correct_b: The same for model b, in the same order.
        seed: Of the resampling.
        resamples: Number of resampled test sets.

    Shapes: (N,) and (N,), bool.

    Raises:
        DataError: no samples, or of different shapes.
        OptionError: resamples < 1.
    """
    _check_pair(correct_a, correct_b, "correct answers")
    check_count("resamples", resamples)
    difference = correct_a.long() - correct_b.long()
    n = difference.numel()
    counts = np.array([int((difference == value).sum()) for value in (-1, 0, 1)])
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    return percentile_interval((counts[2] - counts[0]) / n, (draws[:, 2] - draws[:, 0]) / n)


def _answers(model: nn.Module, batches: Iterable[Batch], loss: str) -> tuple[Tensor, Tensor]:
    device = device_of(model)
    logits, targets = [], []
    with in_eval_mode(model), torch.inference_mode():
        for number, batch in enumerate(batches):
            inputs, labels = pair_of(batch, number, "batch")
            output = answer(model, moved(inputs, device), "batch")
            scores, labels = logits_of(output), torch.as_tensor(labels)
            if loss == "next_token":
                scores, labels = scores[:, :-1], labels[:, 1:]
            rows, flat = _rows(scores, labels, bool(loss in CLASSES_LAST or _names_logits(output)))
            logits.append(rows.cpu())
            targets.append(flat.cpu())
    if not sum(map(len, targets)):
        raise DataError("evaluate got no samples; at least 1 is needed. Check the split and its filter.")
    answers, labels = torch.cat(logits), torch.cat(targets)
    bad = int((~answers.isfinite()).any(1).sum())
    if bad:
        raise OutcomeError(
            f"the model's output is NaN or infinite on {bad} of {len(answers)} samples; allowed: finite logits. "
            "Check its weights, or prune and train it more gently."
        )
    _check_labels(labels, answers.shape[1])
    return answers, labels


def _names_logits(output: Any) -> bool:
    """Return True if an output names its logits, as Hugging Face models do; their classes come last."""
    return "logits" in output if isinstance(output, Mapping) else hasattr(output, "logits")


def _rows(logits: Tensor, targets: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """Return one row of logits for each target, without the targets that no loss counts."""
    targets = targets.to(logits.device)
    second_fits = logits.ndim > 1 and logits.shape[:1] + logits.shape[2:] == targets.shape
    last_fits = logits.ndim > 2 and logits.shape[:-1] == targets.shape
    if last_fits and (last or not second_fits):
        logits = logits.movedim(-1, 1)
    elif not second_fits:
        raise DataError(
            f"evaluate got logits {tuple(logits.shape)} and targets {tuple(targets.shape)}; "
            "allowed: logits (B, C, …) or (B, …, C) with integer targets (B, …). Give class labels, not one-hot rows."
        )
    if targets.is_floating_point() or targets.is_complex():
        raise DataError(
            f"evaluate got targets of {targets.dtype}; allowed: integer class labels. Convert with .long()."
        )
    rows, flat = logits.movedim(1, -1).reshape(-1, logits.shape[1]).float(), targets.reshape(-1).long()
    counted = flat != IGNORED
    return rows[counted], flat[counted]


def _check_labels(labels: Tensor, width: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= width:
        raise DataError(
            f"evaluate got labels {low}..{high}; allowed: 0..{width - 1}, one for each logit of the model. "
            "Renumber the labels or build the model with more classes."
        )


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    bins = (confidence * ECE_BINS).long().clamp(max=ECE_BINS - 1)
    gap = torch.zeros(ECE_BINS, dtype=torch.float64).index_add_(0, bins, correct.double() - confidence)
    return gap.abs().sum().item() / len(confidence)


def _check_pair(a: Tensor, b: Tensor, what: str) -> None:
    if a.shape != b.shape or not a.numel():
        raise DataError(
            f"got {what} of shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            "allowed: equal shapes with at least 1 sample. Evaluate both models on the same split in the same order."
        )
