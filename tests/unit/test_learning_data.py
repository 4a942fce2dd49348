"""What people train on, with and without labels: read alike, a tenth set aside, the rest refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from prunus.data.learning import learning_data
from prunus.data.sources import Split
from prunus.errors import DataError

INPUTS, LABELS = torch.arange(80.0).reshape(40, 2), torch.arange(40) % 3


class Named(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": INPUTS[i], "labels": LABELS[i]}


@pytest.mark.parametrize(
    ("given", "labelled"),
    [
        (DataLoader(TensorDataset(INPUTS, LABELS), 8, shuffle=True), True),
        (DataLoader(TensorDataset(INPUTS), 8), False),
        (DataLoader(Named(), 8), True),
        ((INPUTS, LABELS), True),
        (INPUTS, False),
        (Split(INPUTS, LABELS), True),
        (TensorDataset(INPUTS, LABELS), True),
        ([(INPUTS[i : i + 4], LABELS[i : i + 4]) for i in range(0, 40, 4)], True),
        ([INPUTS[i : i + 4] for i in range(0, 40, 4)], False),
        ([{"x": INPUTS[i : i + 4]} for i in range(0, 40, 4)], False),
    ],
)
def test_a_tenth_is_set_aside_and_the_same_one_each_time(given: Any, labelled: bool) -> None:
    train, held, found = learning_data(given)
    again = learning_data(given)[1]
    assert found is labelled
    assert (len(train), len(held)) == (36, 4)
    for (inputs, targets), (same, _) in zip(held.batches(8), again.batches(8), strict=True):
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        twin = next(iter(same.values())) if isinstance(same, dict) else same
        assert torch.equal(first, twin)  # type: ignore[arg-type]
        if labelled:
            assert torch.equal(targets, LABELS[(first[:, 0] / 2).long()])  # type: ignore[index, union-attr]
        else:
            assert targets.shape == (len(first), 0)  # type: ignore[arg-type]


def test_held_out_data_are_taken_as_they_are() -> None:
    train, held, _ = learning_data((INPUTS, LABELS), (INPUTS[:7], LABELS[:7]))
    assert (len(train), len(held)) == (40, 7)


@pytest.mark.parametrize(
    ("given", "held", "message"),
    [
        ((INPUTS, LABELS), INPUTS, "labels with both or with neither"),
        ([], None, "empty"),
        ([torch.full((4, 2), float("nan"))], None, "NaN"),
        ([{"x": "text"}], None, "without labels"),
        ((INPUTS[:1], LABELS[:1]), None, "none to train on"),
        ("loader", None, "is str"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(given: Any, held: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        learning_data(given, held)


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> torch.Tensor:
        return INPUTS[i]


@pytest.mark.parametrize(("given", "labelled"), [(Named(), True), (Rows(), False), (TensorDataset(INPUTS), False)])
def test_a_dataset_may_hold_mappings_or_inputs_alone(given: Any, labelled: bool) -> None:
    train, held, found = learning_data(given)
    assert (found, len(train), len(held)) == (labelled, 36, 4)
    inputs, targets = next(train.batches(8))
    values = inputs["x"] if isinstance(inputs, dict) else inputs
    assert values.shape == (8, 2)
    assert torch.equal(targets, LABELS[(values[:, 0] / 2).long()]) if labelled else targets.shape == (8, 0)


def test_what_can_be_read_once_loses_no_batch() -> None:
    pairs = [(INPUTS[i : i + 4], LABELS[i : i + 4]) for i in range(0, 40, 4)]
    train, held, labelled = learning_data(iter(pairs), iter(pairs))
    assert (labelled, len(train), len(held)) == (True, 40, 40)
    train, held, labelled = learning_data(iter([inputs for inputs, _ in pairs]))
    assert (labelled, len(train), len(held)) == (False, 36, 4)


def test_positions_that_count_in_no_loss_may_be_among_the_labels() -> None:
    labels = LABELS[:, None].repeat(1, 3)
    labels[:, 0] = -100
    train, _, labelled = learning_data((INPUTS, labels))
    assert labelled
    assert sum(int((targets == -100).sum()) for _, targets in train.batches(8)) == 36
    with pytest.raises(DataError, match=r"has label -3; allowed: 0 and above, or -100 for what counts in no loss"):
        learning_data((INPUTS, labels.clamp(min=-3)))
