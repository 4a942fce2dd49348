"""The work that is killed: a save, a training, a comparison, a sweep; each leaves files that can be compared."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import prunus
from prunus.data.splits import Split
from prunus.pruner import Pruner
from prunus.pruner.checkpoint import read_state, write_state
from prunus.pruner.loop import train_pruning_
from prunus.pruner.training_state import Checkpoints
from prunus.training import TrainingOptions

NET = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))

def data():
    torch.manual_seed(1)
    x = torch.randn(60, 6)
    batch = [(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())]
    return {name: batch for name in ("train", "calibration", "selection", "test")}
"""
RECIPE = """
version: 1
model: net.py:model
data: net.py:data
train: {steps: 4}
recover: {steps: 3}
threads: 1
prune: {budget: {params: 0.5}, criterion: magnitude}
compare: {methods: [magnitude, sensitivity], kept: [0.6, 0.4], latency: {rounds: 1, batch: 4}}
"""
_TIMES = ("seconds", "latency_", "created", "sha256")


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work in a folder.

    Attributes:
        run: does the work; called again after a kill, it goes on or begins anew.
        whole: reads what stands at the place and returns a text of it, None where nothing stands there; it raises
            where that is not whole. Times are left out.
    """

    run: Callable[[Path], object]
    whole: Callable[[Path], str | None]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))


def save_task(shares: tuple[float, ...] = (0.7, 0.4)) -> Task:
    """Return the save of networks cut to these shares, one over the other."""
    outcomes = [prunus.prune(_network(), torch.ones(2, 64), budget={"params": kept}) for kept in shares]

    def run(folder: Path) -> None:
        for outcome in outcomes:
            prunus.save(outcome, folder / "small")

    def whole(folder: Path) -> str | None:
        if not (folder / "small").exists():
            return None
        model = prunus.load(folder / "small", _network())
        return _digest(dict(model.state_dict()))

    return Task(run, whole)


def train_task() -> Task:
    """Return a training that prunes, with checkpoints every three steps."""
    inputs = torch.randn(128, 8, generator=torch.Generator().manual_seed(3))
    data = Split(inputs, (inputs[:, 0] > 0).long(), "train")

    def run(folder: Path) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )
        pruner = Pruner(model, {"kept": 0.4, "method": "dynamic-threshold", "every": 2}, example_inputs=inputs[:4])
        options = TrainingOptions(steps=24, lr=0.01, batch_size=16, optimizer="adamw")
        checkpoints = Checkpoints(folder / "state.safetensors", every=3)
        train_pruning_(model, data, options, pruner=pruner, seed=5, checkpoints=checkpoints)

    def whole(folder: Path) -> str | None:
        path = folder / "state.safetensors"
        return _digest(read_state(path)) if path.exists() else None

    return Task(run, whole)


def compare_task() -> Task:
    """Return a comparison of two methods at two kept fractions."""

    def run(folder: Path) -> None:
        prunus.compare(_recipe(folder), out=folder / "out")

    def whole(folder: Path) -> str | None:
        path = folder / "out" / "results.json"
        return _timeless(json.loads(path.read_text("utf-8"))) if path.exists() else None

    return Task(run, whole)


def sweep_task() -> Task:
    """Return ``prunus plan --sweep`` over three shares."""

    def run(folder: Path) -> None:
        from prunus.cli.main import main

        words = ["plan", str(_recipe(folder)), "--sweep", "0.7,0.5,0.3", "--out", str(folder / "out"), "--no-picture"]
        silent = io.StringIO()
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), contextlib.suppress(SystemExit):
            main(words)

    def whole(folder: Path) -> str | None:
        places = [folder / "out" / f"params-{share}" for share in (0.7, 0.5, 0.3)]
        plans = [json.dumps(prunus.Plan.load(place).describe()) for place in places if place.exists()]
        return "\n".join(plans) or None

    return Task(run, whole)


def plan_task(share: float) -> Task:
    """Return the save of a plan."""
    plan = prunus.plan(_network(), torch.ones(2, 64), budget={"params": share}, levels=("unit", "weight"))

    def whole(folder: Path) -> str | None:
        found = prunus.Plan.load(folder / "plan")
        return _digest({"plan": found.describe(), "masks": {n: torch.from_numpy(m) for n, m in found.masks.items()}})

    return Task(lambda folder: plan.save(folder / "plan"), whole)


def state_task(step: int) -> Task:
    """Return the write of a training checkpoint."""
    state = {"step": step, "weights": torch.full((50, 50), float(step))}
    path = "state.safetensors"
    return Task(lambda folder: write_state(folder / path, state), lambda folder: _digest(read_state(folder / path)))


def program_task(share: float) -> Task:
    """Return the save of a `.pt2` file."""
    outcome = prunus.prune(_network(), torch.ones(2, 64), budget={"params": share})
    path = "small.pt2"
    return Task(
        lambda folder: prunus.save(outcome, folder / path),
        lambda folder: _digest(dict(prunus.load(folder / path).state_dict())),
    )


IO: dict[str, Callable[[], tuple[Task, Task]]] = {
    "save": lambda: (save_task((0.7,)), save_task((0.4,))),
    "plan": lambda: (plan_task(0.7), plan_task(0.4)),
    "program": lambda: (program_task(0.7), program_task(0.4)),
    "training checkpoint": lambda: (state_task(1), state_task(2)),
}
"""Name → the task whose result stands there, and the one that is disturbed."""
TASKS: dict[str, Callable[[], Task]] = {
    "save": save_task,
    "train": train_task,
    "compare": compare_task,
    "sweep": sweep_task,
}


def _recipe(folder: Path) -> Path:
    (folder / "net.py").write_text(NET, "utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")
    return folder / "recipe.yaml"


def _timeless(content: Any) -> str:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if not k.startswith(_TIMES)}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return json.dumps(strip(content), sort_keys=True)


def _digest(value: Any) -> str:
    def plain(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return [str(item.dtype), item.tolist()]
        if isinstance(item, dict):
            return [[str(k), plain(v)] for k, v in item.items() if not str(k).startswith(_TIMES)]
        return [plain(v) for v in item] if isinstance(item, list | tuple) else item

    return json.dumps(plain(value))
