"""Distillation: samples mixed for the teacher, the rate of one way alone, and less dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from factories_recovery import case, task
from prunus.data.sources import Split
from prunus.errors import OptionError
from prunus.pipeline.recovering import recover_
from prunus.recovery import RecoveryOptions, recovered_
from prunus.recovery.dropout import less_dropout
from prunus.recovery.mixup import mixed_inputs

FEW = 12


def test_mixed_samples_lie_between_two_of_the_batch() -> None:
    torch.manual_seed(3)
    x = torch.eye(16)
    mixed = mixed_inputs({"a": x, "b": 2 * x}, 0.5)
    assert isinstance(mixed, dict)
    assert torch.allclose(mixed["a"].sum(1), torch.ones(16))
    assert torch.allclose(mixed["b"], 2 * mixed["a"])
    whole = (mixed["a"] == x).all(1)
    assert 3 <= int(whole.sum()) <= 13
    assert all(int(row.count_nonzero()) <= 2 for row in mixed["a"])
    assert mixed_inputs(x, 0.0) is x


def test_mixing_helps_where_samples_are_few_and_have_no_labels() -> None:
    few = Split(task()[0].inputs[:FEW], task()[0].targets[:FEW])
    distances = []
    for mixed in (0.0, 1.0):
        wanted = {"steps": 80, "method": "distil", "soft": 1.0, "mixed": mixed}
        it = case(wanted, train=few, labelled=False)
        recovered_(it)
        distances.append(it.measure())
    assert distances[1] < 0.9 * distances[0]


def test_inputs_of_whole_numbers_are_not_mixed() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(8, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.embed(ids).mean(1)

    data = Split(torch.randint(0, 8, (16, 5), generator=torch.Generator().manual_seed(0)), torch.zeros(16).long())
    wanted = {"steps": 2, "method": "distil", "soft": 1.0, "mixed": 1.0}
    with pytest.raises(OptionError, match="mixed is 1, and the inputs hold whole numbers"):
        recover_(Words(), Words(), data, wanted)


def test_one_way_alone_begins_with_the_raised_rate_and_a_rising_start() -> None:
    alone, pilot = RecoveryOptions.of({"steps": 5, "method": "distil"}), RecoveryOptions.of({"steps": 5})
    assert (alone.lr, alone.schedule) == (2.5e-3, "one_cycle")
    assert (pilot.lr, pilot.schedule) == (1e-3, "cosine")
    given = RecoveryOptions.of({"steps": 5, "method": "distil", "lr": 1e-4})
    assert (given.lr, given.schedule) == (1e-4, "cosine")


@pytest.mark.parametrize("method", ["finetune", "distil"])
def test_dropout_rests_while_a_network_recovers(method: str) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.drop, self.second = nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4)
            self.seen: list[float] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.seen.append(self.drop.p)
            return self.second(self.drop(torch.relu(self.first(x))))

    for given, expected in (({}, 0.0), ({"dropout": 0.5}, 0.25)):
        small = Noisy()
        recover_(Noisy(), small, task()[0], {"steps": 3, "method": method, **given})
        assert small.seen == [expected] * 3
        assert small.drop.p == 0.5


def test_dropout_inside_recurrent_layers_and_attention_rests_too() -> None:
    model = nn.ModuleList([nn.LSTM(3, 3, 2, dropout=0.4), nn.MultiheadAttention(4, 2, dropout=0.2)])
    with less_dropout(model, 0.5):
        assert (model[0].dropout, model[1].dropout) == (0.2, 0.1)
    assert (model[0].dropout, model[1].dropout) == (0.4, 0.2)
