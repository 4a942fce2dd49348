"""The call table on models of transformers: what people call on a dense BERT, Llama and T5 goes on after the cut."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import prunus
from factories_transformers import build
from prunus.outcome import Outcome
from prunus.outcome.calls import CallTable

GENERATION = ("cache, two steps", "generate, greedy", "generate, beam", "generate, sampled")
EVERYWHERE = (
    "eval",
    "train, backward",
    "other batch",
    "shorter",
    "longer",
    "padded mask, integers",
    "padded mask, booleans",
    "labels",
    "inputs_embeds",
    "output_hidden_states",
    "output_attentions",
    "return_dict=False",
    "eager attention",
    "sdpa attention",
    "gradient checkpointing",
    "training step",
    "pickle",
    "prunus.save, load",
    "forward hooks",
)


def cut(kind: str) -> Outcome:
    model, inputs = build(kind)
    return prunus.prune(model, inputs, budget={"params": 0.6})


@pytest.mark.parametrize(("kind", "calls"), [("bert", EVERYWHERE), ("llama", (*EVERYWHERE, *GENERATION))])
def test_every_call_goes_on(kind: str, calls: tuple[str, ...]) -> None:
    table = prunus.check_calls(cut(kind), calls)
    assert {row.verdict for row in table.rows} == {"ok"}, table


def test_an_attention_that_ignores_its_mask_is_seen() -> None:
    found = cut("llama")
    own: Any = type(found.model.model)

    class Deaf(own):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **{**kwargs, "attention_mask": None})

    found.model.model.__class__ = Deaf
    table: CallTable = prunus.check_calls(found, ["eval", "padded mask, integers", "labels"])
    assert [row.verdict for row in table.rows] == ["ok", "differs", "ok"], table


def test_a_layer_that_does_not_follow_the_attention_of_the_whole_is_seen() -> None:
    found = cut("bert")
    attention: Any = found.model.bert.encoder.layer[0].attention.self
    attention.config = copy.copy(attention.config)  # what a mended module might hold
    table = prunus.check_calls(found, ["eval", "eager attention"])
    row = table.row("eager attention")
    assert (row.verdict, "number of calls" in row.reason) == ("differs", True), table


def test_what_a_rewritten_forward_takes_no_more_is_seen() -> None:
    model, inputs = build("bert")
    found = prunus.prune(model, inputs, budget={"params": 0.6}, forward="rewrite")
    assert found.surgery.spliced
    table = prunus.check_calls(
        found,
        ["eval", "train, backward", "padded mask, integers", "output_attentions", "pickle", "gradient checkpointing"],
    )
    assert [row.verdict for row in table.rows] == ["ok", "ok", "fails", "fails", "ok", "n/a"], table
    assert "was captured with None as argument" in table.row("padded mask, integers").reason
