"""Cut networks with generated forwards: pickle, torch.save, copies, and results that hold them."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.surgery.cut import cut_with_record


class Attention(nn.Module):
    """Attention that writes its widths as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend with four heads of width four."""
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 4, 4).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], 16))

    class Counted(nn.Module):
        """A nested class with a state of its own and an argument that a new instance needs."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = nn.Linear(16, 12), 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return the sums of pairs."""
            return self.inner(x).view(-1, 6, 2).sum(-1)

        def __getstate__(self) -> dict[str, Any]:
            return {**vars(self), "calls": 0}


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), Attention(), Attention(), nn.Linear(16, 3)).eval()
    return net, torch.randn(2, 5, 8)


def rewritten(net: nn.Module, x: torch.Tensor, share: float = 0.6) -> prunus.Outcome:
    found = prunus.prune(net, x, budget={"params": share}, forward="rewrite", criterion="random", repair=None)
    assert found.surgery.spliced
    return found


def through_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


WAYS = {"pickle": lambda m: pickle.loads(pickle.dumps(m)), "old pickle": lambda m: pickle.loads(pickle.dumps(m, 0))}
WAYS |= {"torch.save": through_file, "deepcopy": copy.deepcopy, "copy": copy.copy}


@pytest.mark.parametrize("way", WAYS)
def test_a_rewritten_network_computes_the_same(way: str) -> None:
    net, x = network()
    small = rewritten(net, x).model
    again = WAYS[way](small)
    assert torch.equal(again(x), small(x))
    assert isinstance(again[1], Attention)
    assert again[1].prunus_source == small[1].prunus_source  # type: ignore[index]
    if "copy" in way:
        assert type(again[1]) is type(small[1])  # type: ignore[index]


@pytest.mark.parametrize("way", WAYS)
def test_so_does_a_network_that_was_cut_twice(way: str) -> None:
    net, x = network()
    small = rewritten(rewritten(net, x, 0.8).model, x, 0.8).model
    assert torch.equal(WAYS[way](small)(x), small(x))


@pytest.mark.parametrize("way", WAYS)
def test_so_does_a_whole_program(way: str) -> None:
    net, x = network()
    small, _ = cut_with_record(net, couple(capture(net, x)), rewritten(net, x).plan, x, mode="graph")
    assert torch.equal(WAYS[way](small)(x), small(x))


def test_nested_classes_and_states_of_their_own_are_respected() -> None:
    net, x = nn.Sequential(nn.Linear(8, 16), Attention.Counted(), nn.Linear(6, 2)).eval(), torch.randn(4, 8)
    found = prunus.prune(net, x, budget={"params": 0.5}, forward="rewrite", criterion="random", repair=None)
    small = found.model
    assert found.surgery.spliced == ("1",)
    small[1].calls = 3  # type: ignore[index, assignment]
    again = pickle.loads(pickle.dumps(small))
    assert torch.equal(again(x), small(x))
    assert (small[1].calls, again[1].calls) == (3, 0)  # type: ignore[index, union-attr]


def test_a_result_and_another_process(tmp_path: Path) -> None:
    net, x = network()
    found = rewritten(net, x)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.model(x), found.model(x))
    torch.save((found.model, x, found.model(x)), tmp_path / "small.pt")
    code = (
        "import sys, torch; m, x, y = torch.load(sys.argv[1], weights_only=False); "
        "assert torch.equal(m(x), y); print(type(m[1]).__name__)"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}", str(tmp_path / "small.pt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "Attention", done.stderr
