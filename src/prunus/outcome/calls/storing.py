"""Rows about copies of a cut network: deepcopy, pickle, torch.save, prunus.save, save_pretrained."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import ModelError
from prunus.exporters import load, save
from prunus.exporters.config_build import quiet
from prunus.exporters.huggingface import NeedsPrunusWarning
from prunus.graph.capture import preserved, split_inputs
from prunus.outcome.calls.built_in import call
from prunus.outcome.calls.comparing import distance
from prunus.outcome.calls.pair import EXACT, NotTaken, call_of, in_short, judged
from prunus.outcome.calls.record import DIFFERS, FAILS, Row
from prunus.outcome.calls.subject import Subject
from prunus.plans import Plan
from prunus.surgery.record import Surgery


@dataclass(frozen=True, slots=True)
class _Cut:
    """The fields of an outcome that `save` reads."""

    model: nn.Module
    plan: Plan
    surgery: Surgery


def _copied(copies: Callable[[nn.Module], nn.Module]) -> Callable[[Subject, str], Row]:
    """Return a function that calls a copy of the cut network, if the dense one can be copied in this way."""

    def made(it: Subject, name: str) -> Row:
        pair = it.pair()
        run = call_of(pair.args, pair.kwargs)
        pair.takes(copies)
        return pair.row(name, run, cut=lambda model: run(copies(model)))

    return made


def _through_torch(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    found: nn.Module = torch.load(stream, weights_only=False)
    return found


call("deepcopy")(_copied(copy.deepcopy))
call("pickle")(_copied(lambda model: pickle.loads(pickle.dumps(model))))
call("torch.save")(_copied(_through_torch))


@call("prunus.save, load")
def _saved(it: Subject, name: str) -> Row:
    try:
        with tempfile.TemporaryDirectory() as folder:
            save(_Cut(it.model, it.plan, it.surgery), Path(folder) / "cut")
            again = load(Path(folder) / "cut", copy.deepcopy(it.original or it.dense))
    except Exception as error:
        return Row(name, FAILS, None, EXACT, in_short(error))
    return _same(it, name, again)


@call("save_pretrained")
def _pretrained(it: Subject, name: str) -> Row:
    it.needs_transformers()
    with tempfile.TemporaryDirectory() as folder:
        try:
            cut = _Cut(it.model, it.plan, it.surgery)
            with warnings.catch_warnings():
                warnings.simplefilter("error", NeedsPrunusWarning)
                save(cut, Path(folder) / "hf", format="huggingface", example_inputs=it.inputs)
        except (ModelError, NeedsPrunusWarning) as error:
            raise NotTaken(f"not without prunus: {in_short(error)}") from error
        try:
            with quiet():
                again = type(it.dense).from_pretrained(Path(folder) / "hf")  # type: ignore[attr-defined]
        except Exception as error:
            return Row(name, FAILS, None, EXACT, in_short(error))
    return _same(it, name, again)


def _same(it: Subject, name: str, again: nn.Module) -> Row:
    """Return the row of a network that was read back: every tensor is compared bit by bit, and the outputs."""
    one, two = it.model.state_dict(), again.state_dict()
    for key in dict.fromkeys((*one, *two)):
        if key not in one or key not in two or not torch.equal(one[key], two[key]):
            return Row(name, DIFFERS, None, EXACT, f"{key} is not what was written")
    pair = it.pair()
    args, kwargs = split_inputs(it.inputs)
    try:
        found = [_outputs(model, args, kwargs) for model in (it.model, again)]
    except Exception as error:
        return Row(name, FAILS, None, EXACT, in_short(error))
    return judged(name, distance(found[0], found[1], {}, pair.it), EXACT)


def _outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with preserved(model), torch.no_grad():
        torch.manual_seed(0)
        return call_of(args, kwargs)(model)
