"""The table of levels: costs add up, time is shared out, and what matters more hurts more."""

from __future__ import annotations

import pytest

from prunus.experiments.recipe import Recipe
from prunus.experiments.trained_model import TrainedModel, trained_model
from prunus.foundation.progress import Silent
from prunus.pipeline.levels import LevelRow, evaluate_levels


@pytest.fixture(scope="module")
def parent() -> TrainedModel:
    text = {"version": 1, "model": "digits", "data": "digits", "train": {"steps": 40}}
    return trained_model(Recipe.model_validate(text), 0, Silent())


@pytest.fixture(scope="module")
def rows(parent: TrainedModel) -> dict[str, LevelRow]:
    return {row.id: row for row in evaluate_levels(parent.analysis)}


def test_children_add_up(rows: dict[str, LevelRow], parent: TrainedModel) -> None:
    whole = rows["(network)"]
    stages = [row for row in rows.values() if row.level == "stage"]
    assert whole.params == sum(row.params for row in stages) == sum(p.numel() for p in parent.model.parameters())
    assert whole.macs_backward == sum(row.macs_backward for row in stages)
    assert whole.milliseconds is not None
    inside = sum(row.milliseconds or 0.0 for row in stages)
    assert 0.5 * whole.milliseconds < inside <= whole.milliseconds * (1 + 1e-9)


def test_a_stage_hurts_more_than_a_branch_in_it(rows: dict[str, LevelRow]) -> None:
    whole = rows["(network)"].sensitivity
    branches = [row.sensitivity for row in rows.values() if row.kind == "Sequential" and row.sensitivity is not None]
    assert whole is not None
    assert branches
    assert whole > max(branches)


def test_redundancy_is_a_share_and_units_have_none(rows: dict[str, LevelRow]) -> None:
    for row in rows.values():
        assert row.redundancy is None or 0 <= row.redundancy < 1
        assert row.level != "unit" or (row.redundancy is None and row.milliseconds is None)
    assert any(row.redundancy for row in rows.values())


def test_stages_are_divided_as_asked(parent: TrainedModel) -> None:
    found = evaluate_levels(parent.analysis, stages="depth", count=2)
    assert [row.id for row in found if row.level == "stage"] == ["stage1", "stage2"]
