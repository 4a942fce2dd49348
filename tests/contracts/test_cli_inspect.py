"""``prunus inspect``: stdout gets the tree or the JSON alone, stderr one line, exit codes 0, 1 and 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prunus.cli.main import main

NET = """
from torch import nn


def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "net.py:build"


def run(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *words])
    captured = capsys.readouterr()
    assert caught.value.code == code, captured.err
    return captured.out, captured.err


def test_a_built_in_model_needs_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, 0, "digits")
    assert err == ""
    assert out.startswith("digits: DigitsNet\n")
    assert "can go " in out
    assert "output: weight[0] bias[0]" in out
    assert "digits_net.py:" in out, "the frozen dims name the line of the model's code"


def test_a_file_with_a_shape(capsys: pytest.CaptureFixture[str], net: str) -> None:
    out, _ = run(capsys, 0, net, "--input-shape", "1,3,6,6", "--depth", "0")
    assert "740 params, 3,968 MACs forward" in out
    assert "1 axis" in out
    assert "Conv2d" not in out


def test_json_is_all_of_stdout(capsys: pytest.CaptureFixture[str], net: str) -> None:
    out, err = run(capsys, 0, net, "--input-shape", "1,3,6,6", "--json")
    content = json.loads(out)
    assert err == ""
    assert content["name"] == net
    assert content["axes"][0]["members"] == ["0.weight[0]", "0.bias[0]", "3.weight[1]"]


def test_the_graph_is_written_and_named_on_stderr(capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path) -> None:
    out, err = run(capsys, 0, net, "--input-shape", "1,3,6,6", "--graph", "out.dot")
    assert err == "graph: out.dot\n"
    assert out.startswith("net.py:build: Sequential")
    assert (tmp_path / "out.dot").read_text().startswith("digraph")


def test_without_graphviz_the_text_is_written_beside(
    capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    _, err = run(capsys, 0, net, "--input-shape", "1,3,6,6", "--graph", "out.svg")
    assert err.startswith("graph: out.dot (Graphviz is not installed;")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.svg").exists()


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("digit",), 2, "Did you mean 'digits'?"),
        (("net.py:build",), 2, "add --input-shape"),
        (("net.py:build", "--input-shape", "1,3,x"), 2, "--input-shape: got '1,3,x'"),
        (("net.py:build", "--input-shape", "1,4,6,6"), 1, "could not be captured"),
        (("digits", "--graph", "out.gif"), 2, "allowed endings"),
        (("digits", "--depth", "-1"), 2, "-1"),
        (("digits", "--checkpoint", "none.pt"), 2, "no such file"),
        ((), 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path, words: tuple[str, ...], code: int, part: str
) -> None:
    out, err = run(capsys, code, *words)
    assert out == ""
    assert err.startswith("prunus: error: ")
    assert err.count("\n") == 1
    assert part in err
    assert [p.name for p in tmp_path.iterdir() if p.name != "__pycache__"] == ["net.py"]


def test_in_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from prunus.cli.main import main; main()", "inspect", "digits", "--depth", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "├─ stem " in done.stdout
    assert "\x1b" not in done.stdout
