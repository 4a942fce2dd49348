"""The benchmark of levels: its numbers, what its page calls met, and the hours it foretells, from rows made by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NET, ABOUT = "digits", {"torch": "2", "cpu": "one"}


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def row(accuracy: float, selection: float | None = None, **more: Any) -> dict[str, Any]:
    chosen = accuracy if selection is None else selection
    return {
        "ok": True,
        "accuracy": accuracy,
        "selection": chosen,
        "selection_nll": 1.0,
        "cpu_seconds": 36.0,
        "kept": 0.3,
        **more,
    }


def arms(auto: float, **others: dict[str, Any]) -> dict[str, Any]:
    found = {f"arm/{NET}/0.3/hierarchical auto/{seed}": row(auto + seed / 100) for seed in (0, 1)}
    for arm, entry in others.items():
        for seed in (0, 1):
            shifted = entry | {"accuracy": entry["accuracy"] + seed / 100}
            found[f"arm/{NET}/0.3/{arm.replace('_', '-')}/{seed}"] = shifted
    return found


def test_the_best_level_is_named_on_the_selection_split_and_compared_on_the_test_split() -> None:
    from levels.page import best_single, claims

    rows = arms(0.9, lamp=row(0.95, selection=0.8), depth=row(0.85, selection=0.9), magnitude=row(0.5))
    assert best_single(rows, NET, 0.3) == "depth"
    told = {claim: (measured, met) for claim, measured, met in claims(rows)}
    best, uniform = (next(v for c, v in told.items() if word in c) for word in ("best level", "uniform"))
    assert best == ("+5.00 [+5.00, +5.00] points, 2 pairs", True)
    assert uniform == ("+40.00 [+40.00, +40.00] points, 2 pairs", True)
    worse = claims(arms(0.8, depth=row(0.85), magnitude=row(0.8)))
    assert [met for _, _, met in worse] == [False, False, True]  # worse than the best level; no better than uniform
    failed = {f"arm/{NET}/0.3/hierarchical auto/2": {"ok": False, "reason": "CaptureError: no.", "cpu_seconds": 1.0}}
    assert claims(rows | failed)[-1][1:] == ("2 of 3", False)


def test_a_pair_counts_where_something_was_merged_by_its_cross_entropy() -> None:
    from levels.page import claims

    def pair(dropped: float, merged: float, merges: int) -> dict[str, Any]:
        one, other = ({"nll": nll, "accuracy": 0.5, "merges": n} for nll, n in ((dropped, 0), (merged, merges)))
        return {"ok": True, "dropped": one, "merged": other}

    rows = {f"merge/{NET}/redundancy/0.5/{seed}": pair(2.0, 1.0, 3) for seed in range(3)}
    rows |= {f"merge/{NET}/redundancy/0.9/0": pair(1.0, 2.0, 1), f"merge/{NET}/redundancy/0.7/0": pair(1.0, 2.0, 0)}
    [(_, measured, met)] = claims(rows)
    assert (measured, met) == ("3 of 4, 75%", False)


def test_the_hours_of_missing_rows_are_those_of_the_same_row_of_other_seeds() -> None:
    from levels.numbers import hours, interval

    rows = {"arm/digits/0.3/lamp/0": row(0.9), "arm/digits/0.3/depth/0": row(0.9) | {"cpu_seconds": 3600.0}}
    done, whole = hours(rows, [*rows, "arm/digits/0.3/lamp/1", "arm/speech/cnn/0.3/depth/1"])
    assert done == pytest.approx(1.01)
    assert whole == pytest.approx(2.02)
    mean, low, high = interval([1.0, 3.0])
    assert (mean, high - mean, mean - low) == pytest.approx((2.0, 12.706, 12.706), rel=1e-3)
    assert interval([1.0]) == (1.0, -math.inf, math.inf)


def test_the_page_says_what_falls_short_and_which_rows_have_no_network() -> None:
    from levels.page import page

    rows = arms(0.8, depth=row(0.85), magnitude=row(0.8))
    rows[f"arm/{NET}/0.3/key-path/0"] = {"ok": False, "reason": "BudgetError: out of reach.", "cpu_seconds": 1.0}
    text = page(rows, ABOUT, (0.1, 2.0), 5, complete=False)
    short = text.partition("## What falls short")[2].partition("## ")[0]
    assert "at least as accurate as the best level: measured -5.00" in short
    assert f"`{NET}` at 30%: auto is -5.00" in short
    assert f"- arm/{NET}/0.3/key-path: BudgetError: out of reach. (seeds 0)" in text
    assert "about 2.0 hours" in text
    good = arms(0.9, depth=row(0.85), magnitude=row(0.5))
    for complete, word in ((False, "unfinished"), (True, "met")):
        assert page(good, ABOUT, (0.1, 2.0), 5, complete=complete).count(f"2 pairs | {word} |") == 2
