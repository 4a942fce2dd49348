"""Noise in the place of calibration data, or of all data: what it looks like, what is refused, what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.data.splits import Split, Splits
from prunus.errors import DataError, OptionError, RecipeError
from prunus.experiments.commands import prune_recipe
from prunus.experiments.commands.planning import plan_recipe
from prunus.experiments.recipe import load_recipe, override
from prunus.experiments.sources.noise import SAMPLES, noise_splits, with_noise
from prunus.experiments.trained_model import trained_model
from prunus.foundation.progress import Silent

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 5))

def loaders():
    x = 3 + 2 * torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = build()(x).argmax(-1)
    return {"train": (x, y), "test": (x[:50], y[:50])}
"""
BARE = "version: 1\nmodel: net.py:build\ndata: noise\ndata_args: {input_shape: '1,12'}\n"


def recipe_file(folder: Path, text: str) -> Path:
    (folder / "net.py").write_text(MODEL, encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def real(samples: int = 80) -> Splits:
    generator = torch.Generator().manual_seed(2)
    split = Split(5 + 0.5 * torch.randn(samples, 6, generator=generator), torch.arange(samples) % 4)
    return Splits(split, split, split, split)


def test_noise_has_the_example_s_mean_and_spread_and_the_network_s_labels() -> None:
    model, splits = network(), real()
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = with_noise(splits, model, seed=1)
    assert (found.train, found.selection, found.test) == (splits.train, splits.selection, splits.test)
    (inputs, labels), (again, _) = (next(with_noise(splits, model, seed=1).calibration.batches(80)) for _ in range(2))
    example = next(splits.calibration.batches(2))[0]
    assert inputs.shape == (80, 6)
    assert abs(float(inputs.mean() - example.mean())) < 0.15
    assert torch.equal(inputs, again)
    assert not torch.isin(inputs, splits.calibration.inputs).any()
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    other = next(with_noise(splits, model, seed=2).calibration.batches(80))
    assert not torch.equal(inputs, other[0])
    # Drawn from p(y|x), not the most likely ones: a network that doubts gives several.
    assert len(labels.unique()) > 1


def test_without_data_targets_are_the_network_s_answers() -> None:
    model = network().eval()
    splits = noise_splits("net.py:build", model, {"input_shape": "1,6"}, seed=3)
    assert {name: len(getattr(splits, name)) for name in SAMPLES} == dict(SAMPLES)
    inputs, targets = next(splits.test.batches(512))
    assert torch.equal(targets, model(inputs).argmax(1))
    assert not torch.isin(inputs, next(splits.selection.batches(512))[0]).any()
    with pytest.raises(DataError, match="Did you mean 'input_shape'"):
        noise_splits("net.py:build", model, {"input_shpae": "1,6"}, seed=0)
    with pytest.raises(DataError, match=r"not known; add\s+data_args"):
        noise_splits("net.py:build", model, {}, seed=0)
    with pytest.raises(DataError, match="got 6; allowed"):
        noise_splits("net.py:build", model, {"input_shape": 6}, seed=0)
    with pytest.raises(OptionError, match="whole numbers with commas"):
        noise_splits("net.py:build", model, {"input_shape": "six"}, seed=0)


def test_a_person_without_data_prunes_and_repairs(tmp_path: Path) -> None:
    file = recipe_file(
        tmp_path,
        BARE + "prune: {budget: {params: 0.6}, criterion: fisher, repair: refold}\n"
        "compare: {latency: {rounds: 2, batch: 8}}\n",
    )
    recipe = load_recipe(file)
    assert (recipe.recover.steps, recipe.train.steps) == (0, 0)
    done = prune_recipe(recipe, tmp_path / "small", Silent())
    assert done.results.runs[0].params <= 0.6 * done.outcome.plan.before.params
    assert done.outcome.check.error < 1e-5
    # Its accuracy is how often it answers as the dense network does.
    bare = prune_recipe(override(recipe, {("prune", "repair"): "none"}), None, Silent())
    assert 1 / 5 < bare.results.runs[0].accuracy < done.results.runs[0].accuracy
    assert (tmp_path / "small" / "report.html").exists()


def test_calibration_by_noise_never_scores_on_the_data(tmp_path: Path) -> None:
    text = (
        "version: 1\nmodel: net.py:build\ndata: net.py:loaders\n"
        "prune: {budget: {params: 0.6}, criterion: contribution}\n"
    )
    recipe = load_recipe(recipe_file(tmp_path, text + "calibration: noise\n"))
    parent = trained_model(recipe, 0, Silent())
    plain = trained_model(override(recipe, {("calibration",): "data"}), 0, Silent())
    assert torch.equal(*(next(p.data.test.batches(50))[0] for p in (parent, plain)))
    assert not torch.isin(*(next(p.data.calibration.batches(64))[0] for p in (parent, plain))).any()
    plans = [plan_recipe(p)[0] for p in (parent, plain)]
    assert plans[0].after == plans[1].after
    assert any((a != b).any() for a, b in zip(plans[0].axes.values(), plans[1].axes.values(), strict=True))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("calibration: nose\n", ["recipe.yaml:5:", "calibration", "'nose'", "data, or noise"]),
        ("train: {steps: 5}\n", ["recipe.yaml:5:", "train.steps", "got 5", "0, or data to learn from"]),
        ("seed: 1\nrecover: {steps: 9}\n", ["recipe.yaml:6:", "recover.steps", "nothing to learn from"]),
        ("recover: {minutes: 1}\n", ["recipe.yaml:5:", "recover.minutes", "null"]),
        ("prune: {budget: {max_drop: 0.1}}\n", ["recipe.yaml:5:", "max_drop", "says nothing"]),
        (
            "prune: {budget: {params: 0.5}}\nstages:\n  - level: units\n    recover: {steps: 3}\n",
            ["recipe.yaml:8:", "stages[0].recover", "without training"],
        ),
    ],
)
def test_what_needs_data_is_refused_with_its_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_file(tmp_path, BARE + text))
    for part in parts:
        assert part in str(caught.value)


def test_a_built_in_network_is_not_trained_on_noise(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train.steps: data: noise has nothing to learn from"):
        load_recipe(recipe_file(tmp_path, "version: 1\nmodel: digits\ndata: noise\n"))
