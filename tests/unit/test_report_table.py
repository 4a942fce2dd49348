"""The console table, the sentences under it, and how numbers are written."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from factories_results import METHODS, make_results, make_row
from prunus.report import formats
from prunus.report.findings import find
from prunus.report.results import Results
from prunus.report.seed_averages import make_cells
from prunus.report.table import print_table


def printed(results: Results, *, terminal: bool = False, width: int = 80) -> str:
    stream = io.StringIO()
    print_table(results, Console(file=stream, force_terminal=terminal, width=width, color_system=None))
    return stream.getvalue()


def compared(*rows: object) -> Results:
    about = {key: getattr(make_results(seeds=1), key) for key in ("title", "workload", "model", "created", "version")}
    environment = make_results(seeds=1).environment
    dense = make_row("dense", accuracy=0.98, accuracy_before_recovery=0.98, worst_class=0.95)
    return Results.make(dense_runs=[dense], runs=rows, environment=environment, recipe={}, **about)


def timed(method: str, accuracy: float, ratio: float, kept: float = 0.3) -> object:
    interval = (ratio - 0.02, ratio + 0.02)
    return make_row(
        method, kept, accuracy=accuracy, latency_forward_ratio=ratio, latency_forward_interval=interval, worst_class=0.9
    )


def texts(results: Results, topic: str) -> list[str]:
    return [finding.text for finding in find(results) if finding.topic == topic]


def test_plain_table_holds_every_cell_in_120_columns() -> None:
    results = make_results(seeds=2)
    lines = printed(results).splitlines()
    table = lines[: lines.index("", 2)]
    assert max(map(len, table)) <= 120
    for cell in make_cells(results):
        row = next(line for line in table if line.startswith(cell.method))
        assert len(row.split()) == 14
    assert sum(line.startswith(tuple(METHODS)) for line in table) == len(make_cells(results))
    assert "\x1b" not in printed(results)
    assert not set("┏━│─…") & set(printed(results))


def test_measures_of_some_tasks_are_columns_only_where_they_are_known() -> None:
    assert not {"AUC", "bits"} & set(printed(make_results(seeds=1)).split())
    row = make_row("importance", 0.3, auc=0.8571, bits=2.2834)
    lines = printed(compared(row)).splitlines()
    head = next(line for line in lines if line.startswith("method")).split()
    dense, line = (next(line for line in lines if line.startswith(name)).split() for name in ("dense", "importance"))
    # "time fwd" and "time bwd" are two words and two numbers, so places agree up to them
    assert (line[head.index("AUC")], line[head.index("bits")]) == ("85.7", "2.283")
    assert (dense[head.index("AUC")], dense[head.index("bits")]) == ("-", "-")
    partly = compared(row, make_row("importance", 0.3, 1))
    assert "85.7" not in printed(partly), "a mean over the seeds needs all of them"


def test_plain_table_shows_the_numbers_of_a_row() -> None:
    row = timed("importance", 0.9712, 1.01)
    line = next(line for line in printed(compared(row)).splitlines() if line.startswith("importance"))
    words = line.split()
    assert words[2] == "97.1"
    assert "1.01" in words
    assert "0.99-1.03" in words


def test_groups_go_from_most_kept_and_from_the_weight_up() -> None:
    heads = [line for line in printed(make_results(seeds=1)).splitlines() if line.startswith("--")]
    assert heads[:5] == [
        f"-- 50 % kept, {level}" for level in ("weight", "neuron", "structure", "hierarchical", "baseline")
    ]
    assert heads[-1] == "-- 10 % kept, baseline"


def test_several_seeds_show_their_spread() -> None:
    assert "±" in printed(make_results(seeds=2))
    assert "±" not in printed(make_results(seeds=1))


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_terminal_drops_columns_rather_than_digits(width: int) -> None:
    text = printed(make_results(seeds=2), terminal=True, width=width)
    assert "…" not in text
    assert all(method in text for method in METHODS)
    assert ("Not shown at this width" in text) == (width < 140)


def test_untimed_run_shows_a_dash_and_gets_no_verdict_on_time() -> None:
    row = make_row("modular", latency_forward_ratio=None, latency_forward_interval=None)
    results = compared(row)
    assert " - " in next(line for line in printed(results).splitlines() if line.startswith("modular"))
    assert texts(results, "pay") == []


def test_skipped_methods_are_named_with_the_reason() -> None:
    assert "Skipped: two-four at 10 % kept: 2:4 keeps half" in printed(make_results(seeds=1))


def test_nothing_run_still_prints_the_dense_network() -> None:
    assert "\ndense " in printed(compared())
    assert find(compared()) == ()


def test_best_is_the_most_accurate_that_is_no_baseline() -> None:
    results = compared(timed("importance", 0.95, 1.0), timed("modular", 0.96, 0.5), timed("smaller-dense", 0.97, 0.5))
    (best,) = texts(results, "best")
    assert best.startswith("At 30 % kept, modular keeps the most accuracy: 96.0 % (-2.0 points against dense 98.0 %)")
    assert texts(results, "baseline") == [
        "At 30 % kept, the baseline smaller-dense (97.0 %) is at least as accurate as importance and modular."
    ]


def test_equal_winners_share_the_sentence() -> None:
    (best,) = texts(compared(timed("importance", 0.96, 1.0), timed("modular", 0.9601, 0.5)), "best")
    assert "importance and modular keep the most accuracy" in best


def test_masks_that_gain_no_time_are_called_out() -> None:
    results = compared(timed("importance", 0.979, 1.01), timed("modular", 0.975, 0.5), timed("key-path", 0.9, 0.3))
    pays, does_not = texts(results, "pay")
    assert pays.startswith("It pays: modular at 30 % kept")
    assert "0.50 (0.48–0.52) of the dense forward time at 97.5 %" in pays
    assert does_not.startswith("Undecided in time: importance loses at most 1 point but is not shown faster than")
    assert does_not.endswith(": 1.01 (0.99–1.03) of its forward time.")
    assert "key-path" not in pays + does_not


def test_interval_across_one_is_not_called_faster() -> None:
    no_time, slow = texts(compared(timed("modular", 0.975, 0.99)), "pay")
    assert no_time.startswith("No gain in time is shown: no method within 1 point of dense is shown faster (95 % inter")
    assert "modular loses at most 1 point but is not shown faster than dense" in slow
    assert slow.endswith(": 0.99 (0.97–1.01) of its forward time.")


def test_only_an_interval_above_one_is_called_slower() -> None:
    results = compared(timed("modular", 0.975, 1.3), timed("importance", 0.979, 0.99), timed("key-path", 0.975, 1.2))
    _, slower, open_ = texts(results, "pay")
    assert slower.startswith("It does not pay in time: modular and key-path lose at most 1 point but are slower than")
    assert slower.endswith(": 1.20 (1.18–1.22) to 1.30 (1.28–1.32) of its forward time.")
    assert "importance loses at most 1 point but is not shown faster" in open_


def test_failed_check_is_counted() -> None:
    rows = [make_row("modular", check_error=1e-7), make_row("key-path", check_error=2e-3)]
    (text,) = texts(compared(*rows), "check")
    assert text.startswith("1 of 2 cut networks")
    assert "2.0e-03" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (64, "64"), (999, "999"), (999.6, "1.00k"), (11049, "11.0k"), (999_499, "999k"), (2_360_000, "2.36M")],
)
def test_counts_keep_three_digits(number: float, text: str) -> None:
    assert formats.count(number) == text


def test_small_differences_have_no_sign() -> None:
    assert formats.points(-0.0001) == "0.0 points"
    assert formats.points(0.012) == "+1.2 points"
