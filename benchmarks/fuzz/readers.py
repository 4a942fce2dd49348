"""The readers under test: sound files of each kind, how they are damaged, and what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

import prunus
from fuzz.damage import Draw, Files, damaged_bytes, edited, edited_archive, edited_json, edited_tensors, with_checksums
from fuzz.more_readers import MORE
from fuzz.reader import Net, Reader, files_of, told_apart


def _cut(mode: str) -> Any:
    from types import SimpleNamespace

    from prunus.analysis.score import make_plan
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple
    from prunus.surgery.cut import cut_with_record

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 1, 4, 4)
    coupling = couple(capture(model, x))
    keep = {a.id: np.arange(a.size) % 3 > 0 for a in coupling.axes.values()}
    masks = {"head.weight": np.arange(72).reshape(3, 24) % 2 == 0}
    plan = make_plan(coupling, keep, masks=masks)
    small, surgery = cut_with_record(model, coupling, plan, x, mode=mode)
    return SimpleNamespace(model=small, plan=plan, surgery=surgery, example_inputs=x)


def _saved(name: str, mode: str) -> Files:
    return files_of(lambda place: prunus.save(_cut(mode), place / name))


# Recipes

_RECIPES = (
    "version: 1\nmodel: digits\ndata: digits\ntrain: {steps: 6}\n"
    "prune: {budget: {params: 0.5}, criterion: magnitude}\n",
    "version: 1\nmodel: net.py:make\nmodel_args: {width: 4}\ndata: noise\nignore: [head, 're:^a(b|c)+$']\nseed: 3\n"
    "prune:\n  budget: {macs: 0.3, bytes: 2MB}\n  bounds:\n    stage1/*: {floor: 0.5}\n  levels: [unit, weight]\n",
    "version: 1\nmodel: glyphs/resnet\ndata: glyphs\nstages:\n"
    "  - {level: blocks, method: depth, kept: 0.85, recover: {steps: 100}}\n"
    "  - {level: units, criterion: taylor, allocator: uniform, recover: {steps: 200, method: distil}}\n"
    "compare: {methods: all, kept: [0.5, 0.3], seeds: 2}\n",
)


def _draw_recipe(draw: Draw, files: Files) -> tuple[Files, bool]:
    import yaml

    text = files["recipe.yaml"]
    if draw(st.booleans()):
        return {"recipe.yaml": damaged_bytes(draw, text)}, False
    content = yaml.dump(edited(draw, yaml.safe_load(text)), allow_unicode=draw(st.booleans()), sort_keys=False)
    return {"recipe.yaml": content.encode("utf-8", "surrogatepass")}, False


def _read_recipe(folder: Path) -> Any:
    return prunus.load_recipe(folder / "recipe.yaml")


# Plans


def _write_plan(place: Path) -> None:
    from prunus.experiments.commands import write_plan_folder
    from prunus.experiments.recipe import demo_recipe

    cut = _cut("hybrid")
    write_plan_folder(place / "plan", cut.plan, demo_recipe(), scores={"a": np.ones(3)}, weights=cut.model.state_dict())


def _draw_plan(draw: Draw, files: Files) -> tuple[Files, bool]:
    name = draw(st.sampled_from((*sorted(files), "plan/plan.json", "plan/plan.json")))
    if draw(st.booleans()):
        return {**files, name: damaged_bytes(draw, files[name])}, False
    edit = edited_json if name.endswith(".json") else edited_tensors
    return {**files, name: edit(draw, files[name])}, False


def _read_plan(folder: Path) -> Any:
    from prunus.experiments.commands import read_plan_folder

    found = read_plan_folder(folder / "plan")
    found.plan.describe()
    return None


# Checkpoints


def _draw_checkpoint(draw: Draw, files: Files) -> tuple[Files, bool]:
    inner = {name.removeprefix("small/"): content for name, content in files.items()}
    name = draw(st.sampled_from((*sorted(inner), "graph.json", "checkpoint.json")))
    if draw(st.booleans()):
        made, same = {**inner, name: damaged_bytes(draw, inner[name])}, name != "checkpoint.json"
    else:
        edit = edited_json if name.endswith(".json") else edited_tensors
        made, same = with_checksums({**inner, name: edit(draw, inner[name])}), False
    return {f"small/{name}": content for name, content in made.items()}, same


def _read_checkpoint(folder: Path) -> Any:
    torch.manual_seed(0)
    return told_apart(prunus.load(folder / "small", Net().eval()).state_dict())


# Training checkpoints


def _write_training(place: Path) -> None:
    _train(place / "training.safetensors")


def _train(path: Path) -> None:
    """Train, or go on from the checkpoint that is there: one of four steps is left."""
    from prunus.data.sources import Split
    from prunus.pruner import Pruner
    from prunus.pruner.loop import train_pruning_
    from prunus.pruner.training_state import Checkpoints
    from prunus.training import TrainingOptions

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 5, generator=generator)
    data = Split(inputs, (inputs[:, 0] > 0).long(), "train")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    pruner = Pruner(model, {"kept": 0.5, "method": "gradual", "every": 2}, example_inputs=inputs[:2])
    options = TrainingOptions(steps=4, lr=0.01, batch_size=8, optimizer="adamw")
    train_pruning_(model, data, options, pruner=pruner, seed=1, checkpoints=Checkpoints(path, every=3))


def _draw_training(draw: Draw, files: Files) -> tuple[Files, bool]:
    content = files["training.safetensors"]
    raw = draw(st.booleans())
    return {"training.safetensors": (damaged_bytes if raw else edited_tensors)(draw, content)}, False


# Programs

_TEXTS = ("models/model.json",) * 5 + (
    "model_weights_config.json",
    "model_constants_config.json",
    "extra/plan.json",
    "extra/prunus.json",
)


def _draw_program(draw: Draw, files: Files) -> tuple[Files, bool]:
    content = files["small.pt2"]
    if draw(st.booleans()):
        return {"small.pt2": damaged_bytes(draw, content)}, True
    return {"small.pt2": edited_archive(draw, content, _TEXTS)}, False


def _read_program(folder: Path) -> Any:
    return told_apart(prunus.load(folder / "small.pt2").state_dict())


READERS: dict[str, Reader] = {
    "recipe": Reader(
        lambda: [{"recipe.yaml": text.encode()} for text in _RECIPES],
        _draw_recipe,
        _read_recipe,
    ),
    "plan": Reader(lambda: [files_of(_write_plan)], _draw_plan, _read_plan),
    "checkpoint": Reader(
        lambda: [_saved("small", mode) for mode in ("hybrid", "graph")],
        _draw_checkpoint,
        _read_checkpoint,
    ),
    "training": Reader(
        lambda: [files_of(_write_training)], _draw_training, lambda folder: _train(folder / "training.safetensors")
    ),
    "pt2": Reader(
        lambda: [_saved("small.pt2", mode) for mode in ("hybrid", "graph")],
        _draw_program,
        _read_program,
    ),
    **MORE,
}
"""Every reader; one that comes later joins here."""
