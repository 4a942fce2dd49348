"""Bad recipes, flags and callables that raise: one line that names what the user wrote, and nothing half-written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import prunus
from prunus.cli.main import main
from prunus.errors import ModelError, PrunusError
from prunus.experiments.sources import resolve_model

RECIPE = "version: 1\nmodel: digits\ndata: digits\nprune: {budget: {params: 0.5}}\n"
FLAGS = [
    ("plan --opt-in exports", "--opt-in: got the text 'exports'"),
    ("plan --level unts", "--level: got the text 'unts'"),
    ("prune --recover weight_decay=-3", "--recover weight_decay: got -3.0"),
    ("prune --recover batch_size=-3", "--recover batch_size: got -3"),
    ("compare --seeds 0", "--seeds: got 0"),
]


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    yield file
    assert list(tmp_path.iterdir()) == [file], "something was written"


@pytest.mark.parametrize(("words", "said"), FLAGS, ids=[words for words, _ in FLAGS])
def test_the_command_line_names_its_own_flags(
    words: str, said: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = words.split()
    out = [] if command == "compare" else ["-o", str(recipe.parent / "out")]
    with pytest.raises(SystemExit) as caught:
        main([command, str(recipe), *rest, *out])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"prunus: error: {said}; allowed: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan --ignore hed", "ignore pattern 'hed' matches no module, class or tensor. Did you mean 'head'?"),
        ("prune --ignore hed", "ignore pattern 'hed' matches no module"),
        ("plan -b params=9999999999", "The model meets the budget as it is: params"),
        ("prune -b params=9999999999", "The model meets the budget as it is: params"),
        ("plan --sweep 0.5,2", "--sweep: got 2; allowed: kept fractions between 0 and 1"),
        ("plan --sweep half", "--sweep: got 'half'; allowed: numbers with commas"),
        ("levels --stages deep", "stages is 'deep'; allowed: feature, depth, connections"),
        ("levels --stages depth --count 99", "count is 99; allowed: 1 to"),
    ],
)
def test_nothing_is_trained_for_a_refusal(
    words: str, said: str, recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_text(RECIPE + "train: {steps: 3}\n")
    monkeypatch.setattr("prunus.experiments.trained_model.train_", lambda *_: pytest.fail("a network was trained"))
    command, *rest = words.split()
    out = [] if command == "levels" else ["-o", str(recipe.parent / "out")]
    with pytest.raises(SystemExit) as caught:
        main([command, str(recipe), *rest, *out])
    assert caught.value.code != 0
    assert capsys.readouterr().err.startswith(f"prunus: error: {said}")


def test_a_budget_of_nothing_in_a_recipe(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("0.5", "null"))
    said = r"recipe.yaml:4: prune.budget.params: got nothing; allowed: a section such as \{params: 0.5\}.*\.$"
    with pytest.raises(PrunusError, match=said) as caught:
        prunus.load_recipe(recipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("make", {"wdth": 3}, "'nets.py:make' raised TypeError at nets.py:2: make"),
        ("Net", {"wdth": 3}, r"'nets.py:Net' raised TypeError at nets.py:6: "),
        ("wrong", {}, "'nets.py:wrong' raised .* at nets.py:10: "),
    ],
)
def test_errors_of_a_callable_name_the_users_line(tmp_path: Path, name: str, args: dict[str, Any], said: str) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(width=4):\n    return nn.Linear(8, width)\n"
        "class Net(nn.Module):\n    '''A class.'''\n    def __init__(self, width=4):\n        super().__init__()\n"
        "def wrong():\n    size = 'x'\n    return nn.Linear(-3, size)\n"
    )
    with pytest.raises(ModelError, match=said) as caught:
        resolve_model(f"nets.py:{name}", args, tmp_path)
    assert "\n" not in str(caught.value)
