"""The order in which methods are known to end, on a small network trained here; another order is the sign of a bug.

Analysis on the selection split by the mean loss: nothing is chosen by the test split.
"""

from __future__ import annotations

import functools

import pytest
import torch

from factories_analysis import analysis_of, planned_by
from prunus.analysis import Analysis
from prunus.data.splits import Split
from prunus.experiments.workloads.digits import load_digits_splits
from prunus.experiments.workloads.digits_net import DigitsNet
from prunus.measurement.quality import Quality, evaluate
from prunus.pipeline.damage import measure_damage
from prunus.repairs import repair_
from prunus.surgery.cut import cut_with_record
from prunus.training import TrainingOptions, finetune_

STEPS = 60
CALIBRATION = 192


@functools.cache
def subject() -> Analysis:
    """Return a network that is right on more than nine of ten digits, with unlabelled use of 192 of them."""
    splits = load_digits_splits()
    torch.manual_seed(0)
    model = DigitsNet()
    finetune_(model, splits.train, TrainingOptions(steps=STEPS, lr=1e-2), seed=0)
    calibration = Split(*next(iter(splits.calibration.batches(CALIBRATION))))
    return analysis_of(model.eval(), torch.zeros(2, 1, 8, 8), calibration, splits.selection)


@functools.cache
def left(method: str, kept: float = 0.5, repair: str | None = None) -> Quality:
    """Return what a cut network is worth without any training."""
    it = subject()
    plan = planned_by(method, it, kept)
    small, _ = cut_with_record(it.model, it.coupling, plan, it.example_inputs)
    if repair is not None:
        repair_(it.model, small, it.coupling, plan, it.calibration.batches(64), repair=repair)
    return evaluate(small, it.selection.batches(256))


@functools.cache
def dense() -> Quality:
    return evaluate(subject().model, subject().selection.batches(256))


def test_the_network_is_worth_pruning() -> None:
    assert dense().accuracy > 0.93


def test_refitting_then_gradients_then_weights_then_chance() -> None:
    solved, gradients = left("obs-units", repair="refold"), [left(name) for name in ("fisher", "taylor-sample")]
    weights, chance = left("magnitude"), left("random")
    assert all(3 * solved.nll < found.nll for found in gradients)
    assert all(found.nll < 0.8 * min(weights.nll, chance.nll) for found in gradients)
    # Magnitude is hardly better than chance before anything is refitted.
    assert weights.nll > 0.5 * chance.nll
    assert left("magnitude", repair="refold").nll < 0.5 * weights.nll


def test_the_coarser_the_part_the_more_is_lost_at_equal_sparsity() -> None:
    weights, pattern, tiles, units = (
        left(n).nll for n in ("absolute-threshold", "two-four", "window-tile", "magnitude")
    )
    assert weights < pattern < tiles < units


def test_a_criterion_beats_chance_weight_by_weight() -> None:
    chance = left("random-weights").nll
    assert all(left(name).nll < 0.5 * chance for name in ("absolute-threshold", "lamp", "importance-weighted"))


@pytest.mark.parametrize("name", ["fisher", "taylor-sample"])
def test_more_removed_is_more_lost_and_the_worst_class_loses_most(name: str) -> None:
    losses = [dense().nll, *(left(name, kept).nll for kept in (0.8, 0.5, 0.3))]
    assert losses == sorted(losses)
    half, whole = left(name), dense()
    assert whole.worst_class - half.worst_class > 1.2 * (whole.accuracy - half.accuracy)


def test_single_damages_say_less_of_the_whole_the_more_is_removed() -> None:
    it = subject()
    ratios = [measure_damage(it, planned_by("fisher", it, kept)).ratio for kept in (0.9, 0.5)]
    assert all(ratio is not None for ratio in ratios)
    assert ratios[0] < ratios[1]
