"""The charts: valid SVG, the same every time, with every method in it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from factories_results import METHODS, make_results, make_row
from prunus.report.plots import cost_bars, latency_scatter, stability, structure, tradeoff
from prunus.report.plots.curves import front
from prunus.report.plots.layers import MOST_LAYERS, largest
from prunus.report.plots.scale import is_stretched
from prunus.report.results import LayerChange, Results
from prunus.report.seed_averages import make_cells

NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results(seeds=2)


def ids(svg: str) -> set[str]:
    return {element.get("id", "") for element in ElementTree.fromstring(svg).iter()}


def words(svg: str) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text"))


def test_tradeoff_has_one_line_a_method(results: Results) -> None:
    assert {f"tradeoff-all-lv-{level}-{method}" for method, level in METHODS.items()} <= ids(tradeoff(results))


def test_tradeoff_of_a_level_shows_its_methods_and_their_band(results: Results) -> None:
    svg = tradeoff(results, "neuron")
    assert "tradeoff-neuron-lv-neuron-sensitivity-band" in ids(svg)
    assert {"sensitivity", "contribution", "magnitude"} <= set(words(svg).split())
    assert "importance" not in words(svg)
    assert "band" not in " ".join(ids(tradeoff(make_results(seeds=1), "neuron")))


def test_scatter_has_a_mark_and_an_interval_for_each_cell(results: Results) -> None:
    found = ids(latency_scatter(results))
    for cell in make_cells(results):
        place = f"latency-lv-{cell.level}-{cell.method}-{cell.kept_fraction:g}".replace(".", "-")
        assert {place, f"{place}-whisker"} <= found


def test_front_is_what_no_other_beats(results: Results) -> None:
    cells = [cell for cell in make_cells(results) if cell.forward_ratio is not None]
    best = front(cells)
    assert best
    for cell in cells:
        beaten = any(
            other.forward_ratio <= cell.forward_ratio and other.accuracy.mean >= cell.accuracy.mean
            for other in cells
            if other is not cell
        )
        assert (cell in best) != beaten


def test_bars_name_every_method_and_its_numbers(results: Results) -> None:
    params, macs, accuracy = cost_bars(results, 0.3)
    for method in METHODS:
        assert all(method in words(svg).split() for svg in (params, macs, accuracy, stability(results, 0.3)))
    assert words(macs).split().count("2.36M") == 7 + 1


def test_structure_marks_what_was_dropped() -> None:
    layers = (
        LayerChange("stem", "conv", 24, 6, 240, 60, False),
        LayerChange("side", "conv", 32, 0, 9248, 0, True),
    )
    text = words(structure(make_row("modular", structure=layers))).split()
    assert "24→6" in text
    assert "dropped" in text
    assert "dropped" not in words(structure(make_row("modular", structure=layers[:1]))).split()


def test_structure_of_a_deep_network_shows_its_largest_layers_in_order() -> None:
    layers = tuple(LayerChange(f"l{i}", "conv", 8, 8, 100 + i % 7, 50, False) for i in range(150))
    shown = largest(layers)
    assert len(shown) == MOST_LAYERS
    assert [layer.name for layer in shown] == sorted((layer.name for layer in shown), key=lambda name: int(name[1:]))
    assert min(layer.params_before for layer in shown) >= 104


def test_same_results_give_the_same_text(results: Results) -> None:
    assert tradeoff(results) == tradeoff(results)
    assert latency_scatter(results) == latency_scatter(results)


def test_charts_name_their_ids_apart_and_follow_the_theme(results: Results) -> None:
    left, right = tradeoff(results, "weight"), tradeoff(results, "neuron")
    assert not (ids(left) & ids(right)) - {""}
    assert "currentColor" in left
    assert "var(--level-weight, #0072b2)" in left
    assert 'role="img" aria-label="Line chart' in left


def test_odd_names_are_escaped_and_dollars_are_no_formula(results: Results) -> None:
    row = replace(results.runs[0], method='<b>$a^2$ & "co"', seed=0)
    odd = Results.make(
        dense_runs=results.dense_runs,
        runs=[row],
        **{key: getattr(results, key) for key in ("title", "workload", "model", "created", "version", "environment")},
        recipe={},
    )
    svgs = [tradeoff(odd), tradeoff(odd, "weight"), latency_scatter(odd), *cost_bars(odd, 0.5), stability(odd, 0.5)]
    for svg in svgs:
        ElementTree.fromstring(svg)
        assert "<b>" not in svg
    assert "<b>$a^2$" in words(svgs[1])


def test_axis_is_stretched_only_where_values_crowd_at_the_top() -> None:
    assert is_stretched([0.2, 0.95, 0.96, 0.97, 0.98])
    assert not is_stretched([0.2, 0.4, 0.6, 0.8])
    assert not is_stretched([0.97, 0.98, 0.981])


def test_perfect_and_useless_accuracies_can_be_drawn() -> None:
    rows = [make_row(m, 0.5, accuracy=a, worst_class=0.0) for m, a in (("random", 0.0), ("modular", 1.0))]
    some = make_results(seeds=1, kept=(0.5,), methods=("importance",))
    results = Results.make(
        dense_runs=[replace(some.dense, accuracy=1.0)],
        runs=[*some.runs, *rows],
        **{key: getattr(some, key) for key in ("title", "workload", "model", "created", "version", "environment")},
        recipe={},
    )
    for svg in (tradeoff(results), latency_scatter(results), *cost_bars(results, 0.5), stability(results, 0.5)):
        assert "nan" not in svg
        ElementTree.fromstring(svg)
