"""Merging, reconnection and key paths come from recipes and words of the command line as they come from Python."""

from __future__ import annotations

import pytest

from prunus.cli.options import PlanOptions, key_path_of
from prunus.errors import UsageError
from prunus.experiments.recipe import Recipe
from prunus.experiments.recipe.loading import override
from prunus.experiments.trained_model import request_of


def recipe(**prune: object) -> Recipe:
    text = {"version": 1, "model": "digits", "data": "digits", "prune": {"budget": {"params": 0.5}, **prune}}
    return Recipe.model_validate(text)


@pytest.mark.parametrize(
    ("options", "prune"),
    [
        (PlanOptions(merge=True), {"merge": True}),
        (PlanOptions(method="modular", reconnect="projection"), {"method": "modular", "reconnect": "projection"}),
        (
            PlanOptions(method="key-path", key_path=["stem", "head"]),
            {"method": "key-path", "key_path": ["stem", "head"]},
        ),
        (
            PlanOptions(method="key-path", key_path=["gradient=0.01"]),
            {"method": "key-path", "key_path": {"gradient": 0.01}},
        ),
    ],
)
def test_words_and_recipes_make_one_request(options: PlanOptions, prune: dict[str, object]) -> None:
    changed = override(recipe(), options.changes())
    assert request_of(changed).settings() == request_of(recipe(**prune)).settings()
    assert request_of(changed).settings().items() >= prune.items()


def test_a_threshold_on_the_command_line_is_a_number() -> None:
    assert key_path_of(None) is None
    with pytest.raises(UsageError, match="--key-path"):
        key_path_of(["gradient=much"])
