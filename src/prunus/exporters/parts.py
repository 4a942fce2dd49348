"""The parts of a result that every format stores: model, plan and surgery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from prunus.errors import OptionError, UsageError
from prunus.graph.call_form import as_called
from prunus.graph.capture import unwrap
from prunus.plans import Plan
from prunus.surgery.record import Surgery


class Pruned(Protocol):
    """The argument of `save`: the result of `prunus.prune`, or anything else with these three."""

    @property
    def model(self) -> nn.Module:
        """The cut network."""
        ...

    @property
    def plan(self) -> Plan:
        """The plan by which it was cut."""
        ...

    @property
    def surgery(self) -> Surgery:
        """The record of the cut."""
        ...


def parts(result: Any) -> tuple[nn.Module, Plan, Surgery]:
    """Return model, plan and surgery of a result.

    Raises:
        UsageError: a plain model, or something else without them.
    """
    if isinstance(result, nn.Module):
        raise UsageError(
            f"save got a bare {type(result).__name__}; it needs the result of prunus.prune, which also knows the plan "
            "and how the model was cut. For a plain model use safetensors.torch.save_model."
        )
    missing = [name for name in ("model", "plan", "surgery") if getattr(result, name, None) is None]
    if missing:
        raise UsageError(f"save got a {type(result).__name__} without .{missing[0]}; give the result of prunus.prune.")
    return unwrap(result.model), result.plan, result.surgery


def example_call(result: Any, example_inputs: Any, needed_for: str) -> Any:
    """Return the inputs that were given, or those that the result remembers.

    Raises:
        UsageError: neither.
    """
    found = getattr(result, "example_inputs", None) if example_inputs is None else example_inputs
    if found is None:
        raise UsageError(f"{needed_for} needs one call of the model; give example_inputs=...")
    return as_called(unwrap(result.model), found)


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Refuse what has no JSON form."""
    try:
        json.dumps(dict(metadata or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OptionError(f"metadata has no JSON form ({error}); allowed: texts, numbers, lists, dicts.") from None


def class_name(model: nn.Module, surgery: Surgery) -> str:
    """Return module and name of the user's class, also where a program took its place."""
    if surgery.program is not None and surgery.program.calls:
        return surgery.program.calls[0].kind
    return f"{type(model).__module__}.{type(model).__qualname__}"
