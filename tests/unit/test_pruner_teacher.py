"""A teacher in a running training: its share of the loss, what it refuses, and a training that goes on with it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pruner_resume import OPTIONS, check_identical, net
from torch import nn

from factories_training import blocks, samples
from prunus.errors import ModelError, OptionError, UsageError
from prunus.pruner import Pruner
from prunus.pruner.checkpoint import read_state
from prunus.pruner.loop import train_pruning_
from prunus.pruner.training_state import Checkpoints
from prunus.training import TrainingOptions

DATA = samples()


def taught(model: nn.Module, teacher: Any, method: str = "gradual", **options: Any) -> Pruner:
    return Pruner(
        model,
        {"kept": 0.4, "method": method, "every": 2},
        example_inputs=DATA.inputs[:4],
        teacher=teacher,
        **options,
    )


def test_the_loss_is_the_share_of_labels_and_of_the_teacher() -> None:
    model, teacher = blocks(), blocks(1)
    inputs, targets = DATA.inputs[:16], DATA.targets[:16]
    output = model(inputs)
    labels = nn.functional.cross_entropy(output, targets)
    with torch.no_grad():
        theirs = teacher.eval()(inputs)
    p, q = (torch.log_softmax(z / 3.0, -1) for z in (theirs, output))
    distance = 9.0 * (p.exp() * (p - q)).sum(-1).mean()
    pruner = taught(model, teacher, temperature=3.0, soft=0.7)
    torch.testing.assert_close(pruner.loss(output, targets, inputs), 0.3 * labels + 0.7 * distance)
    torch.testing.assert_close(pruner.loss(output, None, inputs), distance)
    alone = Pruner(model, {"kept": 0.4})
    torch.testing.assert_close(alone.loss(output, targets, inputs), labels)
    with pytest.raises(UsageError, match="no targets, and the pruner has no teacher"):
        alone.loss(output, None, inputs)


def test_the_teacher_stays_as_it_is_and_the_loss_is_told() -> None:
    model, teacher = blocks(), net().train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    pruner = taught(model, teacher, "adaptive")
    train_pruning_(model, DATA, OPTIONS, pruner=pruner)
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = taught(model, teacher, "adaptive")
    with pruner.attached(optimizer, total_steps=4):
        for _ in range(4):  # the loop reports no loss by itself
            pruner.loss(model(DATA.inputs), DATA.targets, DATA.inputs).backward()
            optimizer.step()
            optimizer.zero_grad()


def test_a_student_comes_nearer_to_its_teacher_than_without() -> None:
    teacher = blocks(1)
    train_pruning_(teacher, DATA, TrainingOptions(steps=60, lr=0.01, batch_size=32))

    def distance(given: nn.Module | None) -> float:
        model = blocks()
        pruner = taught(model, given, soft=1.0)
        train_pruning_(model, DATA, TrainingOptions(steps=80, lr=0.01, batch_size=32), pruner=pruner)
        with torch.no_grad():
            return float((model.eval()(DATA.inputs) - teacher.eval()(DATA.inputs)).square().mean())

    assert distance(teacher) < 0.6 * distance(None)


@pytest.mark.parametrize(
    ("teacher", "options", "error", "words"),
    [
        ("dense", {}, ModelError, "teacher is 'dense'; allowed: a torch.nn.Module or a Teacher or None"),
        (blocks(1), {"temperature": 0}, OptionError, "temperature"),
        (blocks(1), {"soft": 2}, OptionError, "soft"),
        (blocks(1), {"labels_loss": "crossentropy"}, OptionError, "Did you mean 'cross_entropy'"),
    ],
)
def test_what_cannot_teach_is_refused(teacher: Any, options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        taught(blocks(), teacher, **options)


def test_a_teacher_with_other_outputs_inputs_or_the_same_weights_is_refused_in_a_line() -> None:
    model = blocks()
    with pytest.raises(ModelError, match=r"shares '0\.weight' with its teacher"):
        taught(model, model)
    output, inputs = model(DATA.inputs[:8]), DATA.inputs[:8]
    wide = nn.Linear(8, 7)
    with pytest.raises(ModelError, match=r"the teacher answers \(8, 7\) where the network answers \(8, 4\)"):
        taught(model, wide).loss(output, DATA.targets[:8], inputs)
    with pytest.raises(ModelError, match="the teacher cannot take the inputs of the network"):
        taught(model, nn.Linear(3, 4)).loss(output, DATA.targets[:8], inputs)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"answers \(8, 7\)"):
        train_pruning_(model, DATA, OPTIONS, pruner=taught(model, wide))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mse = TrainingOptions(steps=2, lr=0.1, loss="mse")
    with pytest.raises(OptionError, match="minimises 'mse', and the pruner's loss of labels is 'cross_entropy'"):
        train_pruning_(model, DATA, mse, pruner=taught(model, blocks(1)))


@pytest.mark.parametrize(
    "method",
    [
        "gradient-threshold",
        "sensitivity-threshold",
        "fine-tuning-units",
        "fine-tuning-weights",
        "key-path-threshold",
        "key-path-adaptive",
        "joint",
    ],
)
def test_a_training_with_a_teacher_goes_on_bit_by_bit(method: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def log(name: str, _value: float, step: int) -> None:
        if name == "train/loss" and step == 11:
            raise Stop

    def run(place: Checkpoints, log: Any = None) -> None:
        model = net()
        train_pruning_(model, DATA, OPTIONS, pruner=taught(model, blocks(7), method), checkpoints=place, log=log)

    whole, halves = Checkpoints(tmp_path / "whole", every=2), Checkpoints(tmp_path / "halves", every=2)
    run(whole)
    with pytest.raises(Stop):
        run(halves, log)
    run(halves)
    check_identical(read_state(halves.path), read_state(whole.path))
    stored = read_state(whole.path)["pruner"]["teacher"]
    assert set(stored) == {"weights", "temperature", "soft", "loss"}
    alone = Checkpoints(tmp_path / "alone", every=24)
    model = net()
    train_pruning_(model, DATA, OPTIONS, pruner=taught(model, None, method), checkpoints=alone)
    assert whole.path.stat().st_size - alone.path.stat().st_size < 500  # the teacher is not stored


def test_another_teacher_does_not_go_on(tmp_path: Path) -> None:
    model = blocks()
    pruner = taught(model, blocks(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.train_begin(optimizer, 9)
    state = pruner.state_dict()
    pruner.detach()
    for teacher, options, words in (
        (blocks(2), {}, "a teacher of weights"),
        (blocks(1), {"temperature": 4.0}, r"of temperature 2\.0, this one of 4\.0"),
        (None, {}, "the stored pruning has a teacher, this one has none"),
    ):
        with pytest.raises(OptionError, match=words):
            taught(blocks(), teacher, **options).load_state_dict(state)
    taught(blocks(), blocks(1)).load_state_dict(state)
    place = Checkpoints(tmp_path / "run", every=5)
    model = net()
    train_pruning_(model, DATA, OPTIONS, pruner=taught(model, blocks(1)), checkpoints=place)
    other = net()
    with pytest.raises(OptionError, match="belongs to another training: teacher is"):
        train_pruning_(other, DATA, OPTIONS, pruner=taught(other, blocks(2)), checkpoints=place)
