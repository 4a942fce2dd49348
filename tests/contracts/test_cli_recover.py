"""``prunus prune --recover``: a budget on the command line means the autopilot, and says what it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunus.cli.main import app
from prunus.cli.options import recovery_of
from prunus.errors import OptionError

RECIPE = (
    "version: 1\nmodel: digits\ndata: digits\ntrain: {steps: 6}\nprune: {budget: {params: 0.5}}\n"
    "compare: {latency: {rounds: 1, batch: 2}}\nthreads: 1\n"
)


def test_steps_on_the_command_line_are_the_autopilots(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    out = tmp_path / "small"
    done = CliRunner().invoke(app, ["prune", str(recipe), "-o", str(out), "--recover", "steps=4", "--json"])
    assert done.exit_code == 0, done.output
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    notes = json.dumps(results)
    assert "recovery: " in notes
    assert '"method": "autopilot"' in notes


def test_words_become_changes_of_the_recipe() -> None:
    assert recovery_of(None) == {}
    assert recovery_of(["steps=9", "method=distil", "temperature=2"]) == {
        ("recover", "steps"): 9,
        ("recover", "method"): "distil",
        ("recover", "temperature"): 2.0,
    }
    refused = (
        (["steps"], "allowed: KEY=VALUE"),
        (["steps=1", "steps=2"], "is given twice"),
        (["steps=1", "minutes=1"], "one budget"),
    )
    for words, message in refused:
        with pytest.raises(OptionError, match=message):
            recovery_of(words)


def test_an_unknown_way_is_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    done = CliRunner().invoke(app, ["prune", str(recipe), "-o", str(tmp_path / "o"), "--recover", "method=magic"])
    assert done.exit_code != 0
    assert not (tmp_path / "o").exists()
