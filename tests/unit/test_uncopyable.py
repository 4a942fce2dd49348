"""What a model holds that nobody can copy is shared; damaged plans and patterns are refused in one short line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import PlanError, SelectorError
from prunus.foundation.index_ranges import MOST_UNITS, from_ranges
from prunus.plans import Plan


class Holding(nn.Module):
    """Holds a lock, a generator, and a dict with a lock in it, beside what can be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 2)
        self.lock = threading.Lock()
        self.rows: Iterator[int] = (i for i in range(3))
        self.held: dict[str, Any] = {"lock": threading.RLock()}
        self.names = ["a", "b"]

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            out: Tensor = self.down(torch.relu(self.up(x)))
            return out


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(16, 4), torch.randint(0, 2, (16,))) for _ in range(4)]


def test_what_cannot_be_copied_is_shared() -> None:
    model = Holding().eval()
    found = prunus.prune(model, torch.randn(2, 4), budget={"params": 0.5}, data=batches(), repair="refold")
    small = found.model
    assert small.lock is model.lock
    assert small.rows is model.rows
    assert small.held is model.held
    assert small.names == model.names
    assert small.names is not model.names
    assert found.check is not None
    assert found.check.ok


def test_such_a_model_is_undone_recovered_and_stored(tmp_path: Path) -> None:
    model = Holding().eval()
    found = prunus.prune(model, torch.randn(2, 4), budget={"params": 0.5}, data=batches(), repair=None)
    assert prunus.undo(found)(torch.randn(3, 4)).shape == (3, 2)
    assert prunus.recover(found, batches(), {"steps": 2}).model is not found.model
    found.save(tmp_path / "cut")
    assert prunus.load(tmp_path / "cut", Holding())(torch.randn(3, 4)).shape == (3, 2)
    assert prunus.prune(model, torch.randn(2, 4), budget={"params": 0.5}, method="multi-scale", data=batches()).check


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    prunus.plan(net, torch.randn(2, 4), budget={"params": 0.6}).save(tmp_path / "plan")
    return tmp_path / "plan"


def ranges(text: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(plan: dict[str, Any]) -> dict[str, Any]:
        name, dims = next(iter(plan["tensors"].items()))
        return {**plan, "tensors": {**plan["tensors"], name: {**dims, next(iter(dims)): text}}}

    return change


DAMAGED: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    ("huge", ranges("0-300000000"), f"names 300,000,017 units in all; allowed: {MOST_UNITS:,}"),
    ("vast", ranges("0-99999999999"), "names 100,000,000,016 units in all"),
    ("endless", ranges(f"0-{'9' * 5000}"), f"index {MOST_UNITS} outside"),
    ("backwards", ranges("5-2"), "the range '5-2' does not rise"),
    ("overlapping", ranges("0-3,2"), "the range '2' does not rise"),
    ("signed", ranges("-1"), "'-1' is no range"),
    ("other digits", ranges("٣"), "is no range"),
    (
        "axis",
        lambda p: {**p, "axes": {k: {**v, "size": 10**12} for k, v in p["axes"].items()}},
        "names 1,000,000,000,012 units in all",
    ),
    ("list", lambda p: {**p, "axes": {key: [1, 2] for key in p["axes"]}}, "axis '0:out' is .1, 2.; allowed"),
    ("kinds", lambda p: {**p, "axes": {key: {"size": "8", "keep": "0"} for key in p["axes"]}}, "axis '0:out' is"),
    ("null", lambda p: {**p, "tensors": dict.fromkeys(p["tensors"])}, "tensor '0.weight' is None; allowed: dims"),
    ("mask", lambda p: {**p, "masks": {"0.weight": {"shape": [10**6, 10**6], "kept": 3}}}, "does not hold the masks"),
]


@pytest.mark.parametrize(("change", "said"), [d[1:] for d in DAMAGED], ids=[d[0] for d in DAMAGED])
def test_a_damaged_plan_takes_no_memory(stored: Path, change: Callable[[Any], Any], said: str) -> None:
    file = stored / "plan.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(PlanError, match=said) as caught:
        Plan.load(stored)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe{}", "is no UTF-8 text"), (b"[" * 100_000, "nested too deeply|not JSON"), (b"{", "not JSON")],
)
def test_a_file_that_is_no_plan(stored: Path, content: bytes, said: str) -> None:
    (stored / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match=said):
        Plan.load(stored)


def test_ranges_are_read_back() -> None:
    assert from_ranges("0-2,5").tolist() == [0, 1, 2, 5]
    assert from_ranges("").tolist() == []
    with pytest.raises(ValueError, match=r"index 5 outside 0\.\.4"):
        from_ranges("0-2,5", 5)


@pytest.mark.parametrize("pattern", ["re:" + "(" * 5000, "re:a{99999999999}", "re:["])
def test_a_pattern_that_is_none(pattern: str) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(SelectorError, match="is not a regular expression") as caught:
        prunus.prune(net, torch.randn(2, 4), budget={"params": 0.5}, ignore=[pattern])
    assert len(str(caught.value)) < 400
