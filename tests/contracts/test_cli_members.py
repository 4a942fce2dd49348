"""``prunus methods``, ``criteria`` and ``doctor``, and the module as a program."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import prunus
from prunus.cli.main import main
from prunus.criteria import CRITERIA, UNIT_CRITERIA
from prunus.methods import METHODS


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_every_method_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "methods")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == METHODS.names()


def test_methods_of_one_level(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "methods", "--level", "structure")
    assert {line.split()[1] for line in out.splitlines()[1:]} == {"structure"}


def test_every_criterion_has_a_line_that_says_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "criteria")
    assert code == 0
    lines = out.splitlines()[1:]
    assert len(lines) == len(UNIT_CRITERIA.names()) + len(CRITERIA.names())
    reads = {tuple(line.split()[:2]): line for line in lines}
    for key, words in {
        ("magnitude", "unit"): "weights alone",
        ("taylor", "unit"): "labels",
        ("contribution", "unit"): "inputs",
        ("wanda", "weight"): "inputs",
        ("movement", "weight"): "a training",
        ("importance", "weight"): "labels",
    }.items():
        assert f" {words} " in reads[key]


def test_one_member_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert "arXiv:2406.07831" in said(capsys, "methods", "alps")[1]
    assert "reads" in said(capsys, "criteria", "taylor")[1]


@pytest.mark.parametrize("words", [("methods", "alp"), ("criteria", "taylr"), ("methods", "--level", "high")])
def test_unknown_names_are_refused_in_a_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, out, err = said(capsys, *words)
    assert code == 2
    assert not out
    assert err.startswith("prunus: error: ")
    assert len(err.splitlines()) == 1


def test_the_doctor_names_versions_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["versions"]["prunus"] == prunus.__version__
    assert set(found["extras"]) >= {"onnx", "vision", "text", "report", "train"}
    assert found["processor"]["threads"] >= 1
    assert "processor" in said(capsys, "doctor")[1]


def test_the_doctor_says_what_a_missing_package_would_bring(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunus.cli import doctor

    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "jinja2" else "1")
    _, out, _ = said(capsys, "doctor")
    assert "missing jinja2: no report.html" in out
    assert "pip install 'prunus[report]'" in out


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "prunus", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("prunus ")
