"""What a comparison says about tasks other than pictures: AUC for clicks, bits per byte for a language model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from prunus.experiments.comparison import compare
from prunus.experiments.recipe import Recipe
from prunus.experiments.workloads import WORKLOADS
from prunus.experiments.workloads.recommendation import ClickSizes, load_clicks
from prunus.experiments.workloads.text import TextSizes, load_language
from prunus.report.results import Results

TINY = {
    "recommendation/deepfm": lambda: load_clicks(ClickSizes(train=2_000, calibration=64, selection=64, test=300)),
    "text/gpt": lambda: load_language(TextSizes(train=64, calibration=8, selection=8, test=12)),
}


def compared(name: str, methods: list[str], monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.setitem(WORKLOADS._members, name, replace(WORKLOADS.get(name), load=TINY[name]))
    latency = {"rounds": 2, "batch": 2}
    recipe = {
        "version": 1,
        "model": name,
        "data": name,
        "train": {"steps": 8, "batch_size": 16},
        "recover": {"steps": 2, "batch_size": 16},
        "compare": {"methods": methods, "kept": [0.5], "latency": latency},
        "threads": 1,
    }
    return compare(Recipe.model_validate(recipe))


def test_a_language_model_is_told_in_bits_per_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared("text/gpt", ["magnitude", "osscar"], monkeypatch)
    for row in (found.dense, *found.runs):
        assert row.auc is None
        assert row.bits is not None
        assert 2 < row.bits < 2 * math.log2(256), "hardly trained: near the 8 bits of knowing nothing"
    assert len(found.runs) == 2
    for cut in found.runs:
        assert cut.params < 0.51 * found.dense.params, "tied embeddings are counted and cut once"
        assert cut.check_error is not None
        assert cut.check_error < 1e-9
    assert Results.from_json(found.to_json()) == found


def test_clicks_are_told_by_their_area_under_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared("recommendation/deepfm", ["magnitude"], monkeypatch)
    for row in (found.dense, *found.runs):
        assert row.bits is None
        assert row.auc is not None
        assert 0.3 < row.auc < 0.9
