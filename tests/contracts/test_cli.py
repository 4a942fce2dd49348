"""The command line: one line for every error, stdout for results alone, exit codes 0, 1, 2 and 130."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from prunus.cli.main import main
from prunus.errors import BudgetError
from prunus.foundation.registry import Registry

RECIPE = "version: 1\nmodel: digits\ndata: digits\ncompare: {kept: [0.5, 0.1], seeds: 2}\n"


def prunus(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from prunus.cli.main import main; main()", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


class FakeResults:
    def to_json(self) -> str:
        return '{"schema": "prunus-results/1"}\n'


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put stand-ins in the place of the methods, the comparison and the table; return what it was called with."""
    seen: list[dict[str, Any]] = []
    registry: Registry[Any] = Registry("method")
    for name in ("importance", "sensitivity", "key-path"):
        registry.register(name)(SimpleNamespace(options=(), fresh_weights=False))

    def compare(recipe: Any, *, progress: Any, out: Path) -> FakeResults:
        progress.start("compare", 2)
        progress.advance("compare")
        progress.finish("compare")
        seen.append({"recipe": recipe, "out": out})
        return FakeResults()

    members: dict[str, dict[str, Any]] = {
        "prunus.methods": {"METHODS": registry},
        "prunus.experiments.comparison": {"compare": compare},
        "prunus.report.table": {"print_table": lambda results, console=None: sys.stdout.write("the table\n")},
    }
    for name, content in members.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert run(*words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("prunus: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_version_in_a_process() -> None:
    done = prunus("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("prunus 0.")


@pytest.mark.parametrize(
    ("words", "text", "part"),
    [
        (("compare", "absent.yaml"), None, "no such file"),
        (("compare", "r.yaml"), RECIPE + "seeed: 1\n", "Did you mean 'seed'?"),
        (("compare", "r.yaml", "--dry-run"), RECIPE.replace("model: digits", "model: net.py:make"), "no such file"),
        (("compare", "r.yaml", "--dry-run"), RECIPE.replace("data: digits", "data: imagefolder:x"), "no such folder"),
        (("demo", "--seeds", "0"), None, "--seeds: got 0"),
    ],
)
def test_bad_input_in_a_process(tmp_path: Path, words: tuple[str, ...], text: str | None, part: str) -> None:
    if text is not None:
        (tmp_path / "r.yaml").write_text(text)
    before = sorted(tmp_path.iterdir())
    done = prunus(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("prunus: error: ")
    assert done.stderr.count("\n") == 1
    assert part in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = prunus("compare", "absent.yaml", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("prunus: error: ")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("frobnicate",), "frobnicate"),
        (("demo", "--sede", "1"), "--sede"),
        (("demo", "--seed", "one"), "one"),
        (("demo", "--seed", "-1"), "--seed: got -1"),
        (("compare",), "recipe"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], part: str) -> None:
    assert part in refused(capsys, 2, *words)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--kept", "half"), "--kept: got 'half'"),
        (("--kept", "1.5"), "got 1.5"),
        (("--methods", "importence"), "Did you mean 'importance'?"),
        (("--methods", ","), "empty"),
        (("--seed", "-3"), "--seed: got -3"),
    ],
)
def test_wrong_options_of_compare(
    capsys: pytest.CaptureFixture[str], calls: list[dict[str, Any]], recipe: Path, words: tuple[str, ...], part: str
) -> None:
    assert part in refused(capsys, 2, "compare", str(recipe), *words)
    assert calls == []


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    assert "demo" in out
    assert "compare" in out


@pytest.mark.parametrize(
    ("command", "sentences"),
    [
        ("inspect", ["which axes can be removed", "List every number in the code with its origin."]),
        ("plan", ["Plan what to remove, with the exact price and the reasons; you can edit plan.json before apply."]),
        ("plan", ["Number of plans that the search tries", "What to prune: unit, weight; repeat for both."]),
        ("prune", ["Also prune experts or vocabulary; repeat for both."]),
    ],
)
def test_the_help_says_what_an_option_does(
    capsys: pytest.CaptureFixture[str], command: str, sentences: list[str]
) -> None:
    assert run(command, "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(sentence in shown for sentence in sentences)


def test_out_that_is_a_file_is_refused_before_work(
    capsys: pytest.CaptureFixture[str], calls: list[dict[str, Any]], recipe: Path
) -> None:
    assert "is a file" in refused(capsys, 2, "compare", str(recipe), "--out", str(recipe))
    assert calls == []


def test_demo_prints_the_table_and_names_the_report(
    capsys: pytest.CaptureFixture[str], calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    assert run("demo", "--out", str(out), "--seed", "5", "--seeds", "2") == 0
    captured = capsys.readouterr()
    assert captured.out == "the table\n"
    assert captured.err == f"report: {out / 'report.html'}\n"
    assert calls[0]["out"] == out
    assert (calls[0]["recipe"].seed, calls[0]["recipe"].compare.seeds) == (5, 2)


def test_compare_options_win_over_the_recipe(calls: list[dict[str, Any]], recipe: Path) -> None:
    assert run("compare", str(recipe), "--methods", "key-path, importance", "--kept", "0.2", "--seeds", "3") == 0
    assert run("compare", str(recipe)) == 0
    changed, plain = (call["recipe"].compare for call in calls)
    assert (changed.methods, changed.kept, changed.seeds) == (("key-path", "importance"), (0.2,), 3)
    assert (plain.methods, plain.kept, plain.seeds) == ("levels", (0.5, 0.1), 2)
    assert calls[1]["out"] == recipe.parent / "prunus-runs"


def test_json_alone_on_stdout(capsys: pytest.CaptureFixture[str], calls: list[dict[str, Any]], recipe: Path) -> None:
    assert run("compare", str(recipe), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"schema": "prunus-results/1"}


def test_dry_run_prints_the_runs_and_does_none(
    capsys: pytest.CaptureFixture[str], calls: list[dict[str, Any]], recipe: Path
) -> None:
    assert run("compare", str(recipe), "--dry-run", "--methods", "all") == 0
    text = capsys.readouterr().out
    assert "at least" in text
    assert "12: 3 methods, 2 kept fractions, 2 seeds" in text
    assert text.count("key-path") == 4
    assert run("compare", str(recipe), "--dry-run", "--json", "--methods", "key-path") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [run["seed"] for run in plan["runs"]] == [0, 0, 1, 1]
    assert plan["params"] > 10_000
    assert calls == []
    assert list(recipe.parent.iterdir()) == [recipe]


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (BudgetError("no plan\nkeeps 1 %."), 1, "error: no plan keeps 1 %."),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError: by zero. Run again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_inside(
    capsys: pytest.CaptureFixture[str],
    calls: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    recipe: Path,
    error: BaseException,
    code: int,
    part: str,
) -> None:
    def fail(*args: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules["prunus.experiments.comparison"], "compare", fail)
    assert run("compare", str(recipe)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert part in captured.err
    assert captured.err.count("\n") == 1
