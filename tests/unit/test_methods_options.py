"""The options ``window``, ``methods``, ``levels`` and ``criterion`` of methods in recipes and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunus.cli.options import PlanOptions
from prunus.errors import OptionError, PrunusError
from prunus.experiments.compared_methods import compared_methods
from prunus.experiments.recipe import Recipe, load_recipe, override
from prunus.experiments.trained_model import request_of
from prunus.methods.integrated_parts import canonical_parts
from prunus.pipeline.request import Request
from prunus.pipeline.stage import stages_of
from prunus.pipeline.stage_checks import check_stages

HEAD = "version: 1\nmodel: digits\ndata: digits\nprune:\n  budget: {params: 0.5}\n"


def recipe(tmp_path: Path, *lines: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in lines))
    return load_recipe(path)


@pytest.mark.parametrize(
    ("line", "window"),
    [
        ("window: [2, 8]", "tile=2x8"),
        ("window: {units: 4}", "units=4"),
        ("window: 3x1", "tile=3x1"),
        ("window: {kernel: 3}", "kernel=3x3"),
    ],
)
def test_a_recipe_takes_every_form_of_a_window(tmp_path: Path, line: str, window: str) -> None:
    request = request_of(recipe(tmp_path, "method: window-wise", line))
    assert request.window == window
    assert request.settings()["window"] == window


def test_a_recipe_takes_a_list_of_methods(tmp_path: Path) -> None:
    text = "methods: [{name: fine-tuning, share: 0.4}, structured, {name: activation, criterion: {apoz: 1, l1: 2}}]"
    given = [{"name": "fine-tuning", "share": 0.4}, "structured", {"name": "activation", "criterion": "apoz=1,l1=2"}]
    request = request_of(recipe(tmp_path, "method: integrated", text))
    assert request.methods == canonical_parts(given)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("method: window-wise", "window: [0, 4]"), r"recipe.yaml:7: prune.window.*window is \[0, 4\]"),
        (("method: integrated", "methods: [depht]"), r"recipe.yaml:7: prune.methods.*Did you mean 'depth'"),
        (("method: integrated", "methods: [depth=2]"), r"recipe.yaml:7: prune.methods.*the share of 'depth' is 2.0"),
    ],
)
def test_a_recipe_refuses_a_wrong_window_or_list_with_its_line(tmp_path: Path, lines: Any, message: str) -> None:
    with pytest.raises(PrunusError, match=message) as refused:
        recipe(tmp_path, *lines)
    assert "\n" not in str(refused.value)


def test_all_in_a_comparison_keeps_the_methods_that_take_a_criterion() -> None:
    names = compared_methods("all")
    assert {"layer-wise", "unit-wise", "window-tile", "modular", "depth", "integrated"} <= set(names)
    assert not {"units", "weights", "units-weights", "window-wise"} & set(names)


def test_the_command_line_takes_both(tmp_path: Path) -> None:
    plain = recipe(tmp_path)
    windows = override(plain, PlanOptions(method="window-wise", window="units=3", criterion="taylor").changes())
    assert (windows.prune.window, windows.prune.criterion) == ("units=3", "taylor")
    listed = override(plain, PlanOptions(method="integrated", methods=["depth=0.5", "importance"]).changes())
    assert request_of(listed).methods == canonical_parts(["depth=0.5", "importance"])
    with pytest.raises(OptionError, match=r"--window.*window is 'wide'"):
        override(plain, PlanOptions(method="window-wise", window="wide").changes())
    with pytest.raises(OptionError, match=r"--methods.*'deep' is unknown"):
        override(plain, PlanOptions(method="integrated", methods=["deep"]).changes())


def test_a_criterion_or_level_of_the_command_line_keeps_a_method_that_takes_it(tmp_path: Path) -> None:
    layered = recipe(tmp_path, "method: layer-wise")
    changed = override(layered, PlanOptions(criterion="taylor").changes())
    assert (changed.prune.method, changed.prune.criterion) == ("layer-wise", "taylor")
    assert override(layered, PlanOptions(level=["weight"]).changes()).prune.method == "layer-wise"
    assert override(layered, PlanOptions(allocator="erk").changes()).prune.method is None
    windows = recipe(tmp_path, "method: window-wise", "window: [2, 2]")
    assert override(windows, PlanOptions(method="sensitivity").changes()).prune.window is None


def test_a_method_of_the_command_line_replaces_every_option_that_it_does_not_take() -> None:
    prune = {"budget": {"params": 0.5}, "method": "modular", "reconnect": "auto"}
    recipe = Recipe(version=1, model="digits", data="digits", prune=prune)
    changed = override(recipe, {("prune", "method"): "sensitivity"}).prune
    assert (changed.method, changed.reconnect) == ("sensitivity", None)
    kept = override(recipe, {("prune", "method"): "modular"}).prune
    assert kept.reconnect == "auto"
    taught = Recipe(
        version=1,
        model="digits",
        data="digits",
        prune={"budget": {"params": 0.5}, "method": "joint", "method_options": {"order": "together"}},
    )
    assert override(taught, {("prune", "method"): "depth"}).prune.method_options == {}


def test_settings_of_a_method_do_not_reach_into_stages() -> None:
    request = Request({"params": 0.5}, method_options={"threshold": 0.1}, stages=stages_of([{"level": "units"}]))
    with pytest.raises(OptionError, match=r"prune\.method_options .* does not reach into stages; give the settings"):
        check_stages(request)
