"""The law of equal doors: Python in one call, in three, a recipe and the command line give one plan, byte for byte."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from prunus.data.splits import Splits
from prunus.experiments.commands import plan_recipe, prune_recipe
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.experiments.trained_model import first_inputs, trained_model
from prunus.foundation.places import MANIFEST
from prunus.foundation.progress import Silent
from prunus.plans import Plan

CODE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(width, 24), nn.LayerNorm(24), nn.Linear(24, width)
    def forward(self, x):
        return x + self.b(torch.relu(self.norm(self.a(x))))

class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.head = nn.Linear(12, 20), Block(20), Block(20), nn.Linear(20, 3)
    def forward(self, x):
        return self.head(self.two(self.one(torch.relu(self.stem(x)))))

class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Conv2d(12, 10, 3, padding=1)
        self.head = nn.Linear(10, 3)
    def forward(self, x):
        x = torch.relu(self.norm(self.a(x.view(-1, 1, 3, 4))))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))

def build(kind="Mlp"):
    torch.manual_seed(3)
    return globals()[kind]()

def loaders():
    generator = torch.Generator().manual_seed(5)
    def split(count):
        x = torch.randn(count, 12, generator=generator)
        return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return {"train": split(96), "calibration": split(64), "selection": split(48), "test": split(32)}
"""
MODELS = ("Mlp", "Conv")
BUDGETS: tuple[dict[str, Any], ...] = (
    {"params": 0.5},
    {"macs": 0.6},
    {"bytes": 0.55},
    {"params": 600},
    {"memory": 0.8},
    {"params": 0.7, "macs": 0.5},
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"criterion": "magnitude"},
    {"criterion": "taylor", "allocator": "knapsack"},
    {"criterion": "obs-units", "allocator": "uniform"},
    {"criterion": "sensitivity", "search": 6},
    {"bounds": {"head": {"frozen": True}, "*": {"floor": 0.2}}},
    {"ignore": ["head"]},
    {"damage": True},
    {"method": "depth"},
    {"method": "key-path"},
    {"method": "multi-scale"},
    {"method": "layer-wise"},
    {"method": "multi-scale", "search": 9},
    {"strategy": "auto", "divide": "depth:2", "optimise": "finetune:2"},
    {"nodes": {"stage1": {"criterion": "magnitude"}, "head/weights<q10": {"method": "remove"}}, "optimise": "none"},
    {"method": "layer-wise", "criterion": {"taylor": 1, "magnitude": 2}},
    {"method": "unit-wise", "criterion": "contribution"},
    {"method": "window-wise", "window": {"units": 3}, "criterion": "taylor"},
    {"method": "modular", "criterion": "contribution"},
    {"method": "integrated", "methods": ["fine-tuning=0.4", {"name": "activation", "criterion": "apoz"}]},
    {"method": "tree-knapsack"},
    {"method": "smaller-dense"},
    {"method": "units", "criterion": "fisher"},
    {"seed": 4, "criterion": "random"},
    {"criterion": {"magnitude": 0.3, "taylor": 0.5, "contribution": 0.2}},
    {"criterion": {"l1": 1, "magnitude": 2}, "allocator": "lagrangian"},
)
MASKS: tuple[dict[str, Any], ...] = (
    {"levels": ("weight",)},
    {"levels": ("weight",), "criterion": "snip", "allocator": "lamp"},
    {"levels": ("unit", "weight")},
    {"levels": ("weight",), "criterion": {"magnitude": 0.4, "importance": 0.6}},
    {"levels": ("unit", "weight"), "criterion": {"magnitude": 0.5, "snip": 0.5}},
    {"method": "importance"},
    {"method": "layer-wise", "levels": ("weight",), "criterion": "importance"},
    {"method": "unit-wise", "levels": ("weight",), "criterion": {"wanda": 1, "magnitude": 1}},
    {"method": "window-wise", "window": [2, 3], "criterion": "wanda"},
    {"method": "window-tile", "criterion": "snip"},
    {"method": "sparsegpt"},
    {"method": "integrated"},
    {"method": "hierarchical", "nodes": {"head": {"method": "window", "size": (1, 4), "rate": 0.5}}},
    {"method": "incremental"},
    {"stages": [{"level": "blocks", "kept": 0.9}, {"level": "units", "criterion": "taylor"}, {"level": "weights"}]},
)
COUNTED: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"units": 0.5}, {}),
    ({"units": 0.5}, {"method": "sensitivity"}),
    ({"units": 0.4}, {"criterion": {"magnitude": 0.3, "taylor": 0.7}, "allocator": "global"}),
    ({"units": {"a": 0.5}}, {"criterion": "contribution"}),
    ({"weights": 0.3}, {"criterion": "importance", "allocator": "lamp"}),
    ({"weights": {"head": 0.5}}, {"method": "importance"}),
    ({"windows": 0.5}, {"method": "window-strip"}),
    ({"windows": {"head": 0.5}}, {}),
    ({"windows": 0.5}, {"method": "window-wise", "window": {"units": 2}, "criterion": "sensitivity"}),
    ({"windows": 0.5}, {"method": "window-wise", "window": "kernel=2"}),
    ({"units": 0.5}, {"method": "unit-wise", "criterion": "taylor"}),
    ({"top_n": 15}, {"method": "contribution", "bounds": {"*": {"floor": 3}}}),
    ({"top_n": 40}, {"levels": ("weight",)}),
    ({"threshold": 0.1}, {"levels": ("weight",)}),
    ({"threshold": "0.3*max"}, {"method": "gradient-threshold"}),
    ({"threshold": "0.9*mean"}, {"criterion": "sensitivity"}),
    ({"threshold": {"head": ">=0.1", "a": "1*mean"}}, {"method": "absolute-threshold"}),
)
"""Budgets that count or compare, with the options beside them."""
_OF_ANALYSIS = ("ignore", "seed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("doors")
    (place / "net.py").write_text(CODE)
    return place


@cache
def parts() -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "doors"}
    exec(CODE, space)
    return space


def model_of(kind: str) -> nn.Module:
    made: nn.Module = parts()["build"](kind)
    return made


@cache
def data() -> Splits:
    return prunus.splits(parts()["loaders"]())


def recipe_of(folder: Path, kind: str, budget: dict[str, Any], options: dict[str, Any]) -> Recipe:
    """Write the same options as a recipe."""
    own = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items() if k not in (*_OF_ANALYSIS, "stages")}
    text = {
        "version": 1,
        "model": "net.py:build",
        "model_args": {"kind": kind},
        "data": "net.py:loaders",
        "prune": {"budget": budget, **own},
        "compare": {"latency": {"rounds": 1, "batch": 8}},
        **{k: v for k, v in options.items() if k in (*_OF_ANALYSIS, "stages")},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(text))
    return load_recipe(path)


def written(plan: Plan, folder: Path) -> dict[str, bytes]:
    """Return the files of a plan."""
    plan.save(folder / "plan")
    # The list of a folder names what stands beside a plan too.
    files = (path for path in sorted((folder / "plan").iterdir()) if path.name != MANIFEST)
    return {path.name: path.read_bytes() for path in files}


def doors(folder: Path, kind: str, budget: dict[str, Any], options: dict[str, Any]) -> list[dict[str, bytes]]:
    """Return the plan's files from every Python door and from a recipe."""
    model, x = model_of(kind), first_inputs(data(), 2)
    about = {k: v for k, v in options.items() if k in _OF_ANALYSIS}
    asked = {k: v for k, v in options.items() if k not in _OF_ANALYSIS}
    fresh = {"recover": {"steps": 1}} if asked.get("method") == "smaller-dense" else {}
    once = prunus.prune(model, x, budget=budget, data=data(), repair=None, **fresh, **options)
    analysis = prunus.analyse(model, x, data=data(), **about)
    plan = analysis.plan(budget, **asked)
    realised = prunus.realise(analysis, plan, repair=None, **fresh)
    again = analysis.plan(budget, **asked)  # from what the analysis remembers
    recipe = recipe_of(folder, kind, budget, options)
    by_recipe, _ = plan_recipe(trained_model(recipe, recipe.seed, Silent()))
    assert torch.equal(realised.model.eval()(x), once.model.eval()(x)) or fresh
    return [written(p, folder) for p in (once.plan, plan, realised.plan, again, by_recipe)]


@settings(
    max_examples=24,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(kind=st.sampled_from(MODELS), budget=st.sampled_from(BUDGETS), options=st.sampled_from(OPTIONS))
def test_every_door_gives_one_plan(folder: Path, kind: str, budget: dict[str, Any], options: dict[str, Any]) -> None:
    try:
        found = doors(folder, kind, budget, options)
    except prunus.PrunusError as error:
        # What one door refuses, all do: the same words.
        recipe = recipe_of(folder, kind, budget, options)
        with pytest.raises(prunus.PrunusError, match=re.escape(str(error))):
            plan_recipe(trained_model(recipe, recipe.seed, Silent()))
        return
    assert all(files == found[0] for files in found)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("options", [*OPTIONS, *MASKS], ids=str)
def test_every_option_gives_one_plan_at_every_door(folder: Path, kind: str, options: dict[str, Any]) -> None:
    found = doors(folder, kind, {"params": 0.6}, options)
    assert all(files == found[0] for files in found)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("budget", "options"), COUNTED, ids=str)
def test_every_count_and_threshold_gives_one_plan_at_every_door(
    folder: Path, kind: str, budget: dict[str, Any], options: dict[str, Any]
) -> None:
    found = doors(folder, kind, named_in(kind, budget), options)
    assert all(files == found[0] for files in found)


@pytest.mark.parametrize("budget", [{"modules": 0.5}, {"modules": 1}, {"threshold": "0.9*max"}], ids=str)
def test_modules_are_counted_alike_at_every_door(folder: Path, budget: dict[str, Any]) -> None:
    found = doors(folder, "Mlp", budget, {"method": "modular"})
    assert all(files == found[0] for files in found)
    assert json.loads(found[0]["plan.json"])["settings"]["counted"] == {"kind": "modules", "kept": 1, "of": 2}


def named_in(kind: str, budget: dict[str, Any]) -> dict[str, Any]:
    """Return a budget with the layer ``a`` under the name that it has in this network."""
    layer = "a" if kind == "Conv" else "one.a"
    return {
        metric: {layer if name == "a" else name: each for name, each in amounts.items()}
        if isinstance(amounts, dict)
        else amounts
        for metric, amounts in budget.items()
    }


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"units": 0.5}, ["units=0.5"]),
        ({"threshold": "0.9*mean"}, ["threshold=0.9*mean"]),
        ({"threshold": {"stem": ">=0.5", "one.a": 0.6}}, ["threshold:stem=>=0.5", "threshold:one.a=0.6"]),
        ({"weights": {"head": 0.5, "two.*": 20}}, ["weights:head=0.5", "weights:two.*=20"]),
        ({"modules": 1}, ["modules=1"]),
    ],
    ids=str,
)
def test_the_command_line_counts_alike(folder: Path, budget: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    from prunus.cli.main import main

    found = doors(folder, "Mlp", budget, {})
    recipe_of(folder, "Mlp", {"params": 0.9}, {})
    given = [part for word in words for part in ("--budget", word)]
    call = ["plan", str(folder / "recipe.yaml"), "-o", str(tmp_path / "plan"), "--no-pay", "--no-picture", *given]
    with pytest.raises(SystemExit) as left:
        main(call)
    assert left.value.code == 0
    for name, content in found[0].items():
        assert (tmp_path / "plan" / name).read_bytes() == content


def test_the_command_line_gives_nodes_alike(folder: Path, tmp_path: Path) -> None:
    from prunus.cli.main import main

    options: dict[str, Any] = {
        "nodes": {"one.a": {"criterion": "l1", "rate": 0.5}, "head/weights<q20": {"method": "remove"}},
        "strategy": "weight",
        "divide": "depth:2",
        "optimise": "none",
    }
    found = doors(folder, "Mlp", {"params": 0.6}, options)
    recipe_of(folder, "Mlp", {"params": 0.6}, {})
    (tmp_path / "nodes.json").write_text(json.dumps({"head/weights<q20": {"method": "remove"}}))
    given = ["--node", "one.a:criterion=l1,rate=0.5", "--node", str(tmp_path / "nodes.json")]
    given += ["--strategy", "weight", "--divide", "depth:2", "--optimise", "none"]
    call = ["plan", str(folder / "recipe.yaml"), "-o", str(tmp_path / "plan"), "--no-pay", "--no-picture", *given]
    with pytest.raises(SystemExit) as left:
        main(call)
    assert left.value.code == 0
    for name, content in found[0].items():
        # The command line adds the recipe to the folder, and the list of its files names it.
        added = b"recipe.json\n" if name == MANIFEST else b""
        assert (tmp_path / "plan" / name).read_bytes() == content + added


def test_a_drop_of_accuracy_is_met_alike(folder: Path) -> None:
    model, x, budget = model_of("Mlp"), first_inputs(data(), 2), {"max_drop": 0.3}
    recover = {"steps": 3, "lr": 1e-3, "method": "distil"}
    once = prunus.plan(model, x, budget=budget, data=data(), criterion="magnitude", recover=recover)
    text = {**recover, "weight_decay": 0.0}
    path = folder / "drop.yaml"
    path.write_text(
        f"version: 1\nmodel: net.py:build\ndata: net.py:loaders\nrecover: {json.dumps(text)}\n"
        "prune: {budget: {max_drop: 0.3}, criterion: magnitude}\n"
    )
    recipe = load_recipe(path)
    by_recipe, _ = plan_recipe(trained_model(recipe, 0, Silent()))
    assert written(once, folder) == written(by_recipe, folder)


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "depth"}, {"levels": ("unit", "weight")}, {"criterion": {"taylor": 0.5, "magnitude": 0.3}}],
    ids=str,
)
def test_the_command_line_writes_the_same_plan(folder: Path, options: dict[str, Any], tmp_path: Path) -> None:
    from prunus.cli.main import main

    budget = {"params": 0.5}
    found = doors(folder, "Mlp", budget, options)
    recipe_of(folder, "Mlp", {"params": 0.9}, {})
    words = [word for level in options.get("levels", ()) for word in ("--level", level)]
    words += ["--method", options["method"]] if "method" in options else []
    mixture = options.get("criterion", {}).items()
    words += ["--criterion", ",".join(f"{name}={weight}" for name, weight in mixture)] if mixture else []
    call = ["plan", str(folder / "recipe.yaml"), "-o", str(tmp_path / "plan"), "--budget", "params=0.5", "--no-pay"]
    with pytest.raises(SystemExit) as left:
        main([*call, "--no-picture", *words])
    assert left.value.code == 0
    for name, content in found[0].items():
        assert (tmp_path / "plan" / name).read_bytes() == content
    prune_recipe(recipe_of(folder, "Mlp", budget, {**options, "repair": "none"}), tmp_path / "small", Silent())
    for name, content in found[0].items():
        assert (tmp_path / "small" / name).read_bytes() == content
