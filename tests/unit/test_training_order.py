"""The order of batches: batches of one sample, and walks that begin where a stored training stood."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factories_training import blocks, samples
from prunus.data.sources import BatchList, DatasetSplit, Split
from prunus.errors import OptionError
from prunus.pruner import Pruner
from prunus.pruner.checkpoint import read_state
from prunus.pruner.loop import train_pruning_
from prunus.pruner.training_state import Checkpoints
from prunus.training import TrainingOptions
from prunus.training.order import Order

ROWS = torch.arange(7.0)[:, None]


def taken(order: Order, count: int) -> list[list[float]]:
    return [inputs.flatten().tolist() for inputs, _ in islice(order, count)]  # type: ignore[union-attr]


def test_batches_of_one_sample_are_all_taken_where_there_are_no_others() -> None:
    walk = taken(Order(Split(ROWS, torch.zeros(7)), 1, 0), 7)
    assert sorted(walk) == [[float(i)] for i in range(7)]


def test_a_batch_of_one_sample_among_larger_ones_is_passed_over_wherever_it_stands() -> None:
    batches = BatchList([(ROWS[i : i + 3], torch.zeros(len(ROWS[i : i + 3]))) for i in (0, 3, 6)])
    for seed in range(6):  # in some of these orders it is the first
        assert sorted(taken(Order(batches, 3, seed), 2)) == [[0, 1, 2], [3, 4, 5]]
    assert taken(Order(Split(ROWS[:1], torch.zeros(1)), 4, 0), 2) == [[0.0], [0.0]]


class Noisy(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Samples that are varied by torch's own random numbers, as augmentations do it."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        data = samples()
        return data.inputs[i] + 0.1 * torch.randn(data.inputs[i].shape), data.targets[i]


@pytest.mark.parametrize("stop", [2, 7])
def test_a_dataset_that_draws_random_numbers_goes_on_bit_by_bit(stop: int, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def log(name: str, _value: float, step: int) -> None:
        if name == "train/loss" and step == stop:
            raise Stop

    def train(name: str, stopped: bool) -> None:
        model = blocks()
        model.insert(2, torch.nn.Dropout(0.2))
        train_pruning_(
            model,
            DatasetSplit(Noisy(), torch.arange(40)),
            TrainingOptions(steps=12, lr=0.01, batch_size=8),
            pruner=Pruner(model, {"kept": 0.5}),
            checkpoints=Checkpoints(tmp_path / name, every=1),
            log=log if stopped else None,
        )

    train("whole", stopped=False)
    with pytest.raises(Stop):
        train("halves", stopped=True)
    train("halves", stopped=False)
    whole, halves = read_state(tmp_path / "whole"), read_state(tmp_path / "halves")
    assert whole["losses"] == halves["losses"]
    assert all(torch.equal(value, halves["model"][name]) for name, value in whole["model"].items())


def test_the_path_of_checkpoints_is_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, None):
        with pytest.raises(OptionError, match="allowed: one file"):
            Checkpoints(path)  # type: ignore[arg-type]
