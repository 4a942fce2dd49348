"""Losses by name and callables, and what does not fit them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from prunus.data.sources import Split
from prunus.errors import DataError, OptionError
from prunus.training import LOSSES, TrainingOptions, finetune_, loss_function


def test_sparse_cross_entropy_reads_classes_from_the_last_axis() -> None:
    logits, targets = torch.randn(2, 5, 5), torch.tensor([[0, 1, 2, 3, 4], [4, 3, -100, 1, 0]])
    expected = functional.cross_entropy(logits.movedim(-1, 1), targets)
    assert torch.allclose(loss_function("sparse_cross_entropy")(logits, targets), expected)


def test_next_token_shifts_by_one() -> None:
    logits, tokens = torch.randn(2, 6, 9), torch.randint(9, (2, 6))
    expected = functional.cross_entropy(logits[:, :-1].reshape(-1, 9), tokens[:, 1:].reshape(-1))
    assert torch.allclose(loss_function("next_token")(logits, tokens), expected)


def test_a_name_sees_the_logits_and_a_callable_the_whole_output() -> None:
    output = {"hidden": torch.zeros(2, 7), "logits": torch.randn(2, 3)}
    targets = torch.tensor([0, 2])
    assert loss_function("cross_entropy")(output, targets) == functional.cross_entropy(output["logits"], targets)
    assert loss_function(lambda out, y: out["hidden"].sum() + y.sum())(output, targets) == 2


@pytest.mark.parametrize(
    ("loss", "output", "targets", "message"),
    [
        ("cross_entropy", torch.zeros(2, 3), torch.tensor([0, 3]), "loss 'cross_entropy' refuses output"),
        ("sparse_cross_entropy", torch.zeros(2, 4, 3), torch.zeros(2), "integers of shape"),
        ("next_token", torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), "at least 2 positions"),
        (nn.CrossEntropyLoss(reduction="none"), torch.zeros(2, 3), torch.tensor([0, 1]), r"gives shape \(2,\)"),
        (lambda out, y: 3.0, torch.zeros(2, 3), torch.tensor([0, 1]), "gives float"),
        (nn.CrossEntropyLoss(), torch.zeros(2, 3), torch.zeros(5, 5), "loss 'CrossEntropyLoss' refuses"),
    ],
)
def test_what_does_not_fit_is_said(loss: object, output: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loss_function(loss)(output, targets)  # type: ignore[arg-type]


def test_neither_name_nor_callable_is_refused() -> None:
    with pytest.raises(OptionError, match="Unknown loss 'kl'"):
        loss_function("kl")
    with pytest.raises(OptionError, match="loss is 3; allowed: one of cross_entropy"):
        TrainingOptions(1, 0.1, loss=3)  # type: ignore[arg-type]
    assert {"cross_entropy", "sparse_cross_entropy", "next_token", "mse"} <= set(LOSSES)


def test_a_language_model_learns_its_own_tokens() -> None:
    torch.manual_seed(0)
    tokens = (torch.arange(8)[None] + torch.arange(32)[:, None]) % 5
    model = nn.Sequential(nn.Embedding(5, 16), nn.Linear(16, 5))
    options = TrainingOptions(steps=60, lr=0.05, loss="next_token")
    report = finetune_(model, Split(tokens, tokens), options)
    assert report.losses[-1] < 0.2 < report.losses[0]


def test_training_ends_where_progress_says_so() -> None:
    data = Split(torch.randn(16, 3), torch.arange(16) % 2)
    report = finetune_(nn.Linear(3, 2), data, TrainingOptions(10, 0.1), progress=lambda done, steps: done == 4)
    assert report.steps == len(report.losses) == 4
