"""A training that is killed goes on bit by bit; one that is not its own, or a full disk, is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from factories_training import blocks, samples
from prunus.errors import OptionError, UsageError
from prunus.pruner import Pruner
from prunus.pruner.checkpoint import read_state, write_state
from prunus.pruner.loop import train_pruning_
from prunus.pruner.training_state import Checkpoints
from prunus.training import TrainingOptions

STEPS = 24
OPTIONS = TrainingOptions(steps=STEPS, lr=0.01, batch_size=16, optimizer="adamw")

CHILD = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    from factories_training import samples
    from test_pruner_resume import OPTIONS, net, pruner_of
    from prunus.pruner.loop import train_pruning_
    from prunus.pruner.training_state import Checkpoints

    method, path, die_at = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def log(name, value, step):
        if name == "train/loss" and step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    model = net()
    train_pruning_(model, samples(), OPTIONS, pruner=pruner_of(model, method), seed=5, log=log,
                   checkpoints=Checkpoints(path, every=3))
"""


def net() -> nn.Module:
    """Return a network that draws random numbers while it trains."""
    model = blocks()
    model.insert(2, nn.Dropout(0.2))
    return model


def pruner_of(model: nn.Module, method: str) -> Pruner:
    return Pruner(model, {"kept": 0.4, "method": method, "every": 2}, example_inputs=samples().inputs[:4])


def start(method: str, path: Path, die_at: int) -> int:
    code = textwrap.dedent(CHILD.format(tests=str(Path(__file__).parent)))
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, method, str(path), str(die_at)]
    return subprocess.run(command, env=environment, timeout=120, check=False).returncode


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from ((f"{key}/{path}", leaf) for path, leaf in leaves(item))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from ((f"{i}/{path}", leaf) for path, leaf in leaves(item))
    else:
        yield "", value


def check_identical(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = dict(leaves(one)), dict(leaves(other))
    assert first.keys() == second.keys()
    for path, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[path]), path
        else:
            assert value == second[path], path


def test_killed_twice_it_ends_bit_by_bit_where_it_would_have(tmp_path: Path) -> None:
    method, killed = "dynamic-threshold", tmp_path / "killed.safetensors"
    model = net()
    train_pruning_(
        model,
        samples(),
        OPTIONS,
        pruner=pruner_of(model, method),
        seed=5,
        checkpoints=Checkpoints(tmp_path / "whole.safetensors"),
    )
    assert start(method, killed, die_at=7) == -signal.SIGKILL
    assert read_state(killed)["order"] == [0, 6]
    assert start(method, killed, die_at=16) == -signal.SIGKILL
    model = net()
    train_pruning_(
        model, samples(), OPTIONS, pruner=pruner_of(model, method), seed=5, checkpoints=Checkpoints(killed, every=3)
    )
    check_identical(read_state(killed), read_state(tmp_path / "whole.safetensors"))


@pytest.mark.parametrize("method", ["gradual", "adaptive", "granet", "movement", "units", "growing-regularisation"])
@pytest.mark.parametrize("stop", [4, 15])
def test_any_method_goes_on_where_it_was(method: str, stop: int, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def log(name: str, _value: float, step: int) -> None:
        if name == "train/loss" and step == stop:
            raise Stop

    whole, halves = Checkpoints(tmp_path / "whole", every=2), Checkpoints(tmp_path / "halves", every=2)
    model = net()
    train_pruning_(model, samples(), OPTIONS, pruner=pruner_of(model, method), checkpoints=whole)
    model = net()
    with pytest.raises(Stop):
        train_pruning_(model, samples(), OPTIONS, pruner=pruner_of(model, method), checkpoints=halves, log=log)
    model = net()
    pruner = pruner_of(model, method)
    report = train_pruning_(model, samples(), OPTIONS, pruner=pruner, checkpoints=halves)
    check_identical(read_state(halves.path), read_state(whole.path))
    assert report.steps == STEPS
    assert pruner.kept <= 0.4


def test_the_callers_random_state_and_modes_are_left_alone() -> None:
    model = net().eval()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train_pruning_(model, samples(), OPTIONS, pruner=pruner_of(model, "gradual"))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 30}, "training steps is 24 there and 30 here"),
        ({"lr": 0.02}, "training lr is 0.01 there and 0.02 here"),
        ({"optimizer": "sgd"}, "training optimizer is 'adamw' there and 'sgd' here"),
        ({"method": "rigl"}, "pruning method is 'gradual' there and 'rigl' here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"count": 96}, "samples is 128 there and 96 here"),
    ],
)
def test_another_recipe_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    place = Checkpoints(tmp_path / "run", every=5)
    model = net()
    train_pruning_(model, samples(), OPTIONS, pruner=pruner_of(model, "gradual"), checkpoints=place)
    seed, count = change.pop("seed", 0), change.pop("count", 128)
    other = net()
    pruner = pruner_of(other, change.pop("method", "gradual"))
    values = {"steps": STEPS, "lr": 0.01, "batch_size": 16, "optimizer": "adamw", **change}
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(OptionError, match=words):
        train_pruning_(other, samples(count), TrainingOptions(**values), pruner=pruner, seed=seed, checkpoints=place)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_another_number_of_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Checkpoints(tmp_path / "run")
    train_pruning_(net(), samples(), OPTIONS, checkpoints=place)
    monkeypatch.setattr("prunus.pruner.training_state.world_size", lambda: 2)
    with pytest.raises(OptionError, match="processes is 1 there and 2 here"):
        train_pruning_(net(), samples(), OPTIONS, checkpoints=place)


def test_a_full_disk_leaves_the_checkpoint_before_it_intact(tmp_path: Path) -> None:
    place = Checkpoints(tmp_path / "run", every=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def log(name: str, _value: float, step: int) -> None:
        if name == "train/loss" and step == 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    model = net()
    try:
        with pytest.raises(OptionError, match=r"cannot write .*run"):
            train_pruning_(model, samples(), OPTIONS, pruner=pruner_of(model, "gradual"), checkpoints=place, log=log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert len(read_state(place.path)["losses"]) == 8
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    model = net()
    assert train_pruning_(model, samples(), OPTIONS, pruner=pruner_of(model, "gradual"), checkpoints=place).steps == 24


def test_a_cut_while_training_and_checkpoints_exclude_each_other(tmp_path: Path) -> None:
    model = net()
    pruner = Pruner(model, {"kept": 0.5, "method": "units", "cut": "final"}, example_inputs=samples().inputs[:4])
    with pytest.raises(OptionError, match="checkpoints are on"):
        train_pruning_(model, samples(), OPTIONS, pruner=pruner, checkpoints=Checkpoints(tmp_path / "run"))
    train_pruning_(model, samples(), OPTIONS, pruner=pruner)
    with pytest.raises(UsageError, match=r"prunus\.save"):
        pruner.state_dict()


def test_states_of_every_kind_come_back_and_nothing_else_goes_in(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    state = {
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "view": shared[1:],
        "same": shared,
        "turned": torch.rand(2, 3).T,
        "nest": {1: [None, 1.5, ("a", True)], "$odd": {}},
    }
    check_identical(read_state(write_state(tmp_path / "state", state)), state)
    with pytest.raises(OptionError, match="cannot hold a set"):
        write_state(tmp_path / "state", {"a": {1}})
    (tmp_path / "broken").write_bytes(b"xx")
    with pytest.raises(OptionError, match="cannot read the checkpoint"):
        read_state(tmp_path / "broken")
    from safetensors.torch import save_file

    save_file({"a": shared}, tmp_path / "foreign", {"state": json.dumps({})})
    with pytest.raises(OptionError, match="has format None"):
        read_state(tmp_path / "foreign")
