"""Inspection with forwards kept: where the numbers of the code come from, what is tied, what keeping costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.errors import OptionError
from prunus.report.inspection import Inspection, inspect_model
from prunus.report.inspection.text import plain_lines

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.head_dim = 4, 6
        self.q, self.k, self.v, self.out = (nn.Linear(24, 24) for _ in range(4))

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (layer(x).view(b, t, self.heads, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(y.reshape(b, t, c))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.attn, self.wide, self.head = nn.Linear(10, 24), Attention(), nn.Linear(24, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.wide(x + self.attn(x))
        return self.head(x.view(x.shape[0], x.shape[1], 8))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "kept_net.py"
    path.write_text(SOURCE)
    return path


def net(place: Path) -> nn.Module:
    space: dict[str, type[nn.Module]] = {}
    exec(compile(SOURCE, str(place), "exec"), space)
    torch.manual_seed(0)
    return space["Net"]().eval()


def looked_at(place: Path, **options: str) -> Inspection:
    return inspect_model(net(place), torch.randn(2, 5, 10), **options)


def test_numbers_name_their_origin_their_line_and_what_they_follow(place: Path) -> None:
    numbers = {(n.op, n.argument, n.value, n.origin): n for n in looked_at(place).numbers}
    heads = numbers["view", "size", 4, "attn.heads"]
    assert heads.follows == "attn.heads = attn.q:out[0]"
    assert heads.module == "attn"
    assert heads.source.startswith(f"{place}:15 in")
    assert numbers["view", "size", 6, "attn.head_dim"].follows == ""
    assert ("view", "size", 8, "8") not in numbers


def test_ties_and_frozen_axes_are_told_with_the_line(place: Path) -> None:
    found = looked_at(place)
    assert found.forward == "keep"
    assert found.ties == ("stem:out / 6 = attn.q:out[0]",)
    frozen = {f.tensor: f for f in found.frozen if f.dim == 0}
    assert frozen["wide.weight"].reason.startswith("the code writes 8 as size of view; write -1")
    assert frozen["wide.weight"].source.startswith(f"{place}:28 in")
    lines = "\n".join(plain_lines(found))
    assert "number in the code" in lines
    assert "heads go whole" in lines
    assert "view size" in lines
    assert ", every forward kept; " in lines


def test_what_rewriting_would_add_is_told_and_shown(place: Path) -> None:
    kept, whole = looked_at(place), looked_at(place, forward="rewrite")
    assert kept.coverage_rewritten == whole.coverage_params > kept.coverage_params
    assert {a.id for a in kept.axes} < {a.id for a in whole.axes}
    assert whole.coverage_rewritten is None
    assert whole.ties == whole.numbers == ()
    with pytest.raises(OptionError, match="forward is 'own'; allowed: keep, rewrite"):
        looked_at(place, forward="own")


def test_an_analysis_shows_its_own_terms(place: Path) -> None:
    for forward in ("keep", "rewrite"):
        shown = prunus.analyse(net(place), torch.randn(2, 5, 10), forward=forward).inspect()
        assert shown == looked_at(place, forward=forward)


def test_the_command_line_shows_all_numbers_where_asked(place: Path) -> None:
    def run(*options: str) -> str:
        command = [
            str(Path(sys.executable).parent / "prunus"),
            "inspect",
            f"{place}:Net",
            "--input-shape",
            "2,5,10",
            *options,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    shown = run("--numbers")
    assert "attn.heads = attn.q:out[0]" in shown
    assert shown.count("kept_net.py:15") >= 2
    told = json.loads(run("--json"))
    assert told["forward"] == "keep"
    assert {n["origin"] for n in told["numbers"]} >= {"attn.heads", "attn.head_dim"}
    assert json.loads(run("--json", "--forward", "rewrite"))["numbers"] == []


def test_twelve_lines_of_numbers_are_enough_at_first() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.heads = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), 2

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.relu(layer(x).view(x.shape[0], self.heads, -1).reshape(x.shape[0], -1))
            return x

    found = inspect_model(Many(), torch.randn(2, 8))
    assert len(found.numbers) > 3
    brief, whole = (len(list(plain_lines(found, numbers=every))) for every in (False, True))
    assert brief <= whole
