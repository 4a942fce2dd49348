"""The drawing of a graph: frames, boxes, colours, depth, and files with and without Graphviz."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from factories_networks import Branches, Residual
from prunus import capture, couple
from prunus.errors import OptionError
from prunus.graph.coupling import Coupling
from prunus.graph.draw import dot_text
from prunus.graph.render import check_picture, draw_to


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Residual(8), Branches(8), nn.Flatten(), nn.Linear(8 * 9, 2))
    return couple(capture(net, torch.randn(2, 3, 3, 3)))


def boxes(text: str) -> dict[str, str]:
    return dict(re.findall(r'^\s*"([^"]+)" \[label=<(.*)>\];$', text, flags=re.MULTILINE))


def test_every_op_is_a_box_in_the_frame_of_its_module(coupling: Coupling) -> None:
    text = dot_text(coupling)
    drawn = boxes(text)
    ops = [n for n in coupling.graph.nodes if n.op.startswith("aten.")]
    assert {n.name for n in ops} < set(drawn)
    assert len(drawn) == len(ops) + len(coupling.graph.inputs) + 1
    assert "<B>1</B> Residual" in text
    assert "<B>conv2d</B> a" in text, "inside a frame the name begins at the frame"
    assert text.count("subgraph") == 2
    assert text.count("{") == text.count("}")


def test_one_axis_has_one_colour_everywhere(coupling: Coupling) -> None:
    text = dot_text(coupling)
    legend = dict(re.findall(r'BGCOLOR="(#\w+)">(\S+) \d+</TD>', text.splitlines()[3]))
    assert sorted(legend.values()) == sorted(coupling.axes)
    colour = next(c for c, axis in legend.items() if axis == "0:out")
    stem, last = boxes(text)["conv2d_0"], boxes(text)["linear_0"]
    assert f'BGCOLOR="{colour}">8<' in stem
    assert f'BGCOLOR="{colour}"' in boxes(text)["add_0"]
    assert re.findall(r'BGCOLOR="#\w+">(\d+)<', last) == ["8"], "the flattened positions are frozen, the channels not"


def test_depth_draws_a_module_as_one_box(coupling: Coupling) -> None:
    text = dot_text(coupling, depth=1)
    assert len([name for name in boxes(text) if name.startswith("call_")]) == 5
    assert "subgraph" not in text
    assert "<B>1</B> Residual" in text
    assert text.count("->") == 6, "a chain of an input, five modules and an output"


def test_a_large_graph_is_drawn_less_deep() -> None:
    deep = nn.Sequential(*(nn.Sequential(*(nn.Linear(4, 4) for _ in range(20))) for _ in range(20)))
    drawn = boxes(dot_text(couple(capture(deep, torch.randn(1, 4)))))
    assert len(drawn) == 22


def test_files_come_from_graphviz_or_say_why_not(
    coupling: Coupling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert draw_to(coupling, tmp_path / "a.dot") == str(tmp_path / "a.dot")
    assert (tmp_path / "a.dot").read_text() == dot_text(coupling)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    said = draw_to(coupling, tmp_path / "b.svg")
    assert "Graphviz is not installed" in said
    assert (tmp_path / "b.dot").is_file()
    assert not (tmp_path / "b.svg").exists()
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    assert "Graphviz gave up: CalledProcessError" in draw_to(coupling, tmp_path / "c.svg")
    assert (tmp_path / "c.dot").is_file()


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_accepts_the_drawing(coupling: Coupling, tmp_path: Path) -> None:
    assert draw_to(coupling, tmp_path / "a.svg") == str(tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    said = subprocess.run(
        ["dot", "-Tplain"], input=dot_text(coupling), capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stderr == ""


@pytest.mark.parametrize("name", ["a.gif", "a", "folder.svg"])
def test_a_wrong_path_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(OptionError, match=name):
        check_picture(tmp_path / name)
