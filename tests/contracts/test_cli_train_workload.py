"""``prunus train-workload``: a short report on stdout, progress on stderr, one line for what is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prunus.cli.main import main

COMMAND = "from prunus.cli.main import main; main()"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))


def run(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["train-workload", *words])
    captured = capsys.readouterr()
    assert caught.value.code == code, captured.err
    return captured.out, captured.err


def test_it_trains_once_and_then_finds_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, err = run(capsys, 0, "digits", "--epochs", "2")
    lines = err.splitlines()
    assert [line.split(" (")[0] for line in lines[:2]] == ["digits: step 18/36", "digits: step 36/36"]
    assert "s left), selection loss " in lines[0]
    assert lines[2].startswith(f"checkpoint: {tmp_path / 'cache' / 'trained' / 'digits'}")
    assert out.startswith("model      digits (254,722 parameters), seed 0\ntraining   2 epochs, trained in ")
    again, silent = run(capsys, 0, "digits", "--epochs", "2")
    assert silent == lines[2] + "\n"
    assert "2 epochs, was there already\n" in again
    assert again.splitlines()[2:] == out.splitlines()[2:]
    anew, _ = run(capsys, 0, "digits", "--epochs", "2", "--again")
    assert "trained in " in anew


def test_json_is_all_of_stdout_and_out_takes_the_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, err = run(capsys, 0, "digits", "--epochs", "1", "--seed", "3", "--out", str(tmp_path / "here"), "--json")
    found = json.loads(out)
    assert err.endswith(f"checkpoint: {tmp_path / 'here'}\n")
    assert (found["workload"], found["seed"], found["epochs"], found["cached"]) == ("digits", 3, 1, False)
    stored = json.loads((tmp_path / "here" / "training.json").read_text())
    assert {key: found[key] for key in stored} == stored
    assert not (tmp_path / "cache").exists()


def test_a_damaged_checkpoint_is_said_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(capsys, 0, "digits", "--epochs", "1", "--out", str(tmp_path / "here"))
    (tmp_path / "here" / "weights.safetensors").write_bytes(b"")
    _, err = run(capsys, 0, "digits", "--epochs", "1", "--out", str(tmp_path / "here"))
    assert err.splitlines()[0] == f"prunus: '{tmp_path / 'here'}' is damaged or outdated; training again."


def test_a_terminal_gets_a_bar_with_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(SystemExit) as caught:
        main(["train-workload", "digits", "--epochs", "2"])
    assert caught.value.code == 0
    assert "digits" in terminal.getvalue()
    assert "36/36" in terminal.getvalue()
    assert "selection loss" in terminal.getvalue()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("glyphs/resnet-9x",), "Did you mean 'glyphs/resnet-8x'?"),
        (("digits", "--epochs", "0"), "epochs is 0"),
        (("digits", "--seed", "-1"), "seed is -1"),
        (("digits", "--out", "."), "contains 'mine.txt', which prunus did not write"),
        ((), "Missing argument"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    part: str,
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    out, err = run(capsys, 2, *words)
    assert out == ""
    assert err.startswith("prunus: error: ")
    assert err.count("\n") == 1
    assert part in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_killed_in_the_middle_it_leaves_no_file(tmp_path: Path) -> None:
    words = [sys.executable, "-c", COMMAND, "train-workload", "digits", "--epochs", "500"]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("digits: step 18/9000")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
