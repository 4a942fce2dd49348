"""Recipes: what is accepted, and that every refusal names line, key, got and allowed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from prunus.errors import OptionError, RecipeError
from prunus.experiments.recipe import Recipe, demo_recipe, load_recipe, override
from prunus.experiments.workloads import WORKLOADS
from prunus.foundation.registry import Registry

MINIMAL = "version: 1\nmodel: digits\ndata: digits\n"


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    registry: Registry[str] = Registry("method")
    for name in ("importance", "sensitivity", "multi-scale"):
        registry.register(name)(name)
    module = ModuleType("prunus.methods")
    module.METHODS = registry
    monkeypatch.setitem(sys.modules, "prunus.methods", module)
    return registry.names()


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text))
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder) + "/", "")


def test_everything_the_format_has(tmp_path: Path, methods: list[str]) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            "version: 1\nmodel: net.py:make\nmodel_args: {width: 8, on: true, name: no}\ncheckpoint: w.safetensors\n"
            "data: imagefolder:images\ndata_args: {image_size: 32}\n"
            "train: {steps: 0, lr: 1e-3, batch_size: 64, optimizer: adamw}\n"
            "recover: {steps: 60, lr: 5e-4, batch_size: 64, optimizer: sgd}\n"
            "compare:\n  methods: [importance, sensitivity]\n  kept: [0.5, 0.3]\n  seeds: 2\n"
            "  latency: {rounds: 30, batch: 64, threads: 1}\n"
            "ignore: ['head.*']\nseed: 3\nout: runs\n",
        )
    )
    assert recipe.model_args == {"width": 8, "on": True, "name": "no"}
    assert (recipe.train.lr, recipe.recover.lr, recipe.recover.optimizer) == (1e-3, 5e-4, "sgd")
    assert recipe.compare.methods == ("importance", "sensitivity")
    assert recipe.compare.kept == (0.5, 0.3)
    assert recipe.base_dir == tmp_path
    assert recipe.out_dir == tmp_path / "runs"
    assert recipe.ignore == ("head.*",)


def test_built_in_model_brings_its_training_and_the_recipe_wins(tmp_path: Path) -> None:
    workload = WORKLOADS.get("digits")
    assert load_recipe(write(tmp_path, MINIMAL)).train.options() == workload.training
    changed = load_recipe(write(tmp_path, MINIMAL + "recover: {steps: 7}\n")).recover
    assert changed.steps == 7
    assert changed.lr == workload.recovery.lr


def test_own_model_is_taken_as_trained(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL.replace("model: digits", "model: a.py:b"))).train.steps == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (MINIMAL + "recover:\n  stpes: 3\n", ["recipe.yaml:5:", "'recover.stpes'", "Did you mean 'steps'", "lr"]),
        (MINIMAL + "modle: x\n", ["recipe.yaml:4:", "Did you mean 'model'"]),
        (MINIMAL + "train:\n  lr: fast\n", ["recipe.yaml:5:", "train.lr", "the text 'fast'", "a number above 0"]),
        (MINIMAL + "train: {optimizer: adamm}\n", ["recipe.yaml:4:", "train.optimizer", "adamw"]),
        (
            MINIMAL + "compare:\n  kept:\n  - 0.5\n  - 1.5\n",
            ["recipe.yaml:7:", "compare.kept[1]", "got 1.5", "between"],
        ),
        (MINIMAL + "compare: {kept: [0.5, 0.5]}\n", ["recipe.yaml:4:", "compare.kept", "0.5 is given twice"]),
        (MINIMAL + "compare: {kept: []}\n", ["recipe.yaml:4:", "empty"]),
        (MINIMAL + "compare: {methods: [1]}\n", ["recipe.yaml:4:", "compare.methods[0]", "got 1"]),
        (MINIMAL + "seed: true\n", ["recipe.yaml:4:", "seed", "got True", "whole number"]),
        (MINIMAL + "seed: -1\n", ["recipe.yaml:4:", "got -1"]),
        (MINIMAL + "train:\n", ["recipe.yaml:4:", "train", "got nothing", "section"]),
        (MINIMAL + "train: {lr: .nan}\n", ["recipe.yaml:4:", "train.lr"]),
        ("version: 2\nmodel: digits\ndata: digits\n", ["recipe.yaml:1:", "version", "got 2", "1"]),
        ("version: 1\ndata: digits\n", ["recipe.yaml:1:", "'model' is missing", "file.py:callable"]),
        (MINIMAL + "seed: 1\nseed: 2\n", ["recipe.yaml:5:", "'seed' is given twice", "line 4"]),
        (MINIMAL + "out: !!python/object/apply:os.getcwd []\n", ["recipe.yaml:4:", "tag"]),
        (MINIMAL + "out: !mine x\n", ["recipe.yaml:4:", "'!mine'"]),
        (MINIMAL + "out: &a x\ncheckpoint: *a\n", ["recipe.yaml:5:", "alias"]),
        (MINIMAL + "seed: !!int x\n", ["recipe.yaml:4:", "no whole number"]),
        ("version: 1\nmodel: [a\n", ["recipe.yaml:", "not valid YAML"]),
        ("version: 1\nmodel: \x07\n", ["recipe.yaml:2:", "not allowed in YAML"]),
        ("version: 1\n---\nversion: 1\n", ["recipe.yaml:", "not valid YAML"]),
        ("- a\n", ["recipe.yaml:1:", "got a list"]),
        ("", ["recipe.yaml:1:", "got nothing"]),
        ("[" * 3000 + "]" * 3000, ["recipe.yaml:1:", "nested"]),
    ],
)
def test_refusals_name_line_key_got_and_allowed(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refused(tmp_path, text)
    for part in parts:
        assert part in message


def test_several_errors_are_counted(tmp_path: Path) -> None:
    assert "(1 more" in refused(tmp_path, MINIMAL + "seed: x\nout: 3\n")


def test_unknown_method_names_its_nearest(tmp_path: Path, methods: list[str]) -> None:
    message = refused(tmp_path, MINIMAL + "compare:\n  methods:\n  - importance\n  - sensitivty\n")
    assert message.startswith("recipe.yaml:7: compare.methods[1]: unknown method 'sensitivty'.")
    assert "Did you mean 'sensitivity'?" in message
    assert "multi-scale" in message


def test_missing_file_names_a_neighbour(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    with pytest.raises(RecipeError, match=r"no such file. Did you mean 'recipe.yaml'"):
        load_recipe(tmp_path / "recpie.yaml")


def test_binary_file_and_folder_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "a.yaml", tmp_path):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert "\n" not in str(caught.value)


def test_override_checks_and_leaves_the_recipe_alone(methods: list[str]) -> None:
    recipe = demo_recipe()
    changed = override(recipe, {("compare", "methods"): ["importance"], ("seed",): None, ("compare", "kept"): [0.2]})
    assert (changed.compare.methods, changed.compare.kept, changed.seed) == (("importance",), (0.2,), recipe.seed)
    assert recipe == demo_recipe()
    for key, value, word in (("seeds", 0, "--seeds"), ("kept", [2.0], "--kept"), ("methods", ["x"], "--methods")):
        with pytest.raises(OptionError, match=word):
            override(recipe, {("compare", key): value})


def test_demo_recipe() -> None:
    recipe = demo_recipe(seed=4, seeds=2, out="there")
    assert (recipe.seed, recipe.compare.seeds, recipe.out) == (4, 2, "there")
    assert recipe.compare.kept == (0.5, 0.3, 0.1)
    assert recipe.train.steps > 0


def test_dump_and_load_agree(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    again = Recipe.model_validate(recipe.model_dump(mode="json"))
    assert again.model_dump() == recipe.model_dump()


def test_mixing_and_dropout_reach_the_recovery(tmp_path: Path) -> None:
    def asked(text: str) -> Any:
        return load_recipe(write(tmp_path, f"{MINIMAL}recover: {{steps: 7, {text}}}\n")).recover.recovery()

    assert asked("method: finetune") is None
    distil = asked("method: distil, mixed: 0.5, soft: 1.0, dropout: 0.25")
    assert (distil.mixed, distil.dropout) == (0.5, 0.25)
    assert asked("method: distil").dropout == 0.0
    assert asked("method: finetune, dropout: 1.0").dropout == 1.0
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+: recover: mixed is 0.5, and mixed samples have no labels"):
        asked("method: distil, mixed: 0.5")
    with pytest.raises(RecipeError, match=r"recover.dropout: got 2; allowed: a factor from 0"):
        asked("dropout: 2")


def test_a_recovery_has_one_budget(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL + "recover: {minutes: 5, method: autopilot}\n"))
    assert override(recipe, {("recover", "steps"): 9}).recover.minutes is None
    assert override(recipe, {("recover", "lr"): 0.1}).recover.minutes == 5
    stage = "stages:\n  - {level: units, recover: {steps: 3, minutes: 1}}\n"
    with pytest.raises(RecipeError, match="a recovery has one budget, give just one of them"):
        load_recipe(write(tmp_path, MINIMAL + "prune: {budget: {params: 0.5}}\n" + stage))


def test_a_stage_of_weights_takes_no_criterion_that_it_cannot_compute(tmp_path: Path) -> None:
    text = MINIMAL + "prune: {budget: {params: 0.5}}\nstages:\n  - {level: weights, criterion: wanda}\n"
    with pytest.raises(RecipeError, match="has no way 'wanda'; known are gradient, importance"):
        load_recipe(write(tmp_path, text))
