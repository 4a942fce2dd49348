"""The repair as an axis of a comparison, and in the recipe's keys."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from prunus.errors import OptionError, RecipeError
from prunus.experiments.comparison import compare
from prunus.experiments.recipe import load_recipe, override
from prunus.report.table import print_table

RECIPE = """
version: 1
model: digits
data: digits
train: {steps: 60}
recover: {steps: 0}
compare:
  methods: [magnitude]
  kept: [0.3]
  repair: [none, refold]
  latency: {rounds: 1, batch: 8}
threads: 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_every_method_meets_every_repair(recipe: Path) -> None:
    results = compare(load_recipe(recipe))
    plain, refolded = results.runs
    assert (plain.method, plain.repair) == ("magnitude", "none")
    assert (refolded.method, refolded.repair) == ("magnitude + refold", "refold")
    assert plain.structure == refolded.structure  # one plan for both
    assert refolded.accuracy_before_recovery > plain.accuracy_before_recovery
    assert any(note.startswith("repair: refold, outputs off by") for note in refolded.notes)
    assert len(results.summary) == 2
    text = io.StringIO()
    print_table(results, Console(file=text, width=200))
    head, row = (next(x for x in text.getvalue().splitlines() if x.startswith(s)) for s in ("method", "magnitude +"))
    assert "repair" in head
    assert row.split()[3] == "refold"


def test_a_recipe_names_known_repairs_only(recipe: Path) -> None:
    assert load_recipe(recipe).prune.repair == "auto"
    recipe.write_text(RECIPE.replace("refold]", "refolt]"), encoding="utf-8")
    with pytest.raises(RecipeError, match="Did you mean 'refold'"):
        load_recipe(recipe)
    recipe.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(OptionError, match="--repair"):
        override(load_recipe(recipe), {("prune", "repair"): "refolt"})
