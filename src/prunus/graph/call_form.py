"""The form of a call: user data become positional arguments, keyword arguments or one nested argument."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.graph.ir import Graph

LABELS = ("labels", "label")
"""Keys of a mapping that hold labels, as Hugging Face loaders yield them."""


def as_called(model: Any, inputs: Any) -> Any:
    """Return the inputs of a call in the form that all of prunus uses.

    A tuple holds positional arguments, a dict holds keyword arguments, anything else is the only argument. The
    signature of the model's forward decides what a mapping is: keyword arguments, of which unknown names are left out,
    or the only argument where the forward knows none of the names. A tuple of several items is the only argument of a
    forward that takes one. A dataclass of tensors is one argument, too.

    Args:
        model: a module, or anything that can be called.
        inputs: the inputs of one call.

    Example:
        >>> class Tagger(nn.Module):
        ...     def forward(self, batch):
        ...         return batch["words"]
        >>> as_called(Tagger(), {"words": 1}), as_called(nn.Identity(), {"input": 1, "label": 2})
        (({'words': 1},), {'input': 1})
    """
    if is_record(inputs):
        register_record(type(inputs))
        return (inputs,)
    parameters = _parameters(model)
    if isinstance(inputs, Mapping):
        return _of_mapping(parameters, dict(inputs))
    if isinstance(inputs, tuple) and _is_named_tuple(inputs):
        return inputs if _positional(parameters) != 1 else (inputs,)
    if isinstance(inputs, tuple) and len(inputs) > 1 and _positional(parameters) == 1:
        inputs = (inputs,)
    for part in inputs if isinstance(inputs, tuple) else ():
        if is_record(part):
            register_record(type(part))
    return inputs


def without_labels(model: nn.Module, inputs: Any) -> Any:
    """Return keyword arguments without the labels that the forward does not need: they serve a loss alone."""
    if not isinstance(inputs, Mapping):
        return inputs
    parameters = _parameters(model)
    optional = [
        name for name in LABELS if name in inputs and (name not in parameters or _has_default(parameters[name]))
    ]
    return {name: value for name, value in inputs.items() if name not in optional}


@dataclass(frozen=True, slots=True, eq=False)
class CallForm:
    """The form in which a model is called, given by an example; batches are brought into it.

    Attributes:
        example: one call in the form of `as_called`; only its structure is used, not its values.

    Example:
        >>> calls = CallForm(({"words": 0},))
        >>> calls.batch({"words": 1, "id": 2, "labels": 3}), calls.batch(({"words": 1}, 3))
        ((({'words': 1},), 3), (({'words': 1},), 3))
    """

    example: Any

    @classmethod
    def of_graph(cls, graph: Graph) -> CallForm:
        """Return the form of the call with which a program was captured."""
        args, kwargs = pytree.tree_unflatten([None] * graph.in_spec.num_leaves, graph.in_spec)
        return cls(kwargs or args)

    @property
    def plain(self) -> bool:
        """Tell whether the model takes tensors by position, so that batches need no change."""
        return not isinstance(self.example, Mapping) and self._nest is None

    def batch(self, batch: Any) -> Any:
        """Return a batch as (inputs, targets), or as inputs alone where a mapping of arguments has no labels.

        The labels of a mapping become the targets; entries that the example lacks are left out. Inputs that are one
        nested argument get None as targets where a batch has none.
        """
        if self.plain:
            return batch
        if isinstance(batch, Mapping):
            key = next((name for name in LABELS if name in batch), None)
            inputs = self.inputs({name: x for name, x in batch.items() if name != key}, batch.get(key))
            return self._alone(inputs) if key is None else (inputs, batch[key])
        several = isinstance(batch, list | tuple) and not _is_named_tuple(batch)
        if not several or _alike(batch, self.example) or _alike(batch, self._nest):
            return self._alone(self.inputs(batch))
        if len(batch) == 2:
            return self.inputs(batch[0], batch[1]), batch[1]
        return self._alone(self.inputs(batch[0])) if len(batch) == 1 else batch

    def inputs(self, given: Any, labels: Any = None) -> Any:
        """Return the inputs of a batch in the form of the example; ``labels`` go back in where the model takes them."""
        if _alike(given, self.example):
            return given
        nest = self._nest
        inner = given[0] if isinstance(given, list | tuple) and len(given) == 1 else given
        if isinstance(self.example, Mapping):
            return _chosen(inner, self.example, labels) if isinstance(inner, Mapping) else given
        if isinstance(nest, Mapping) and isinstance(inner, Mapping):
            return (_chosen(inner, nest, labels),)
        if type(nest) is tuple and type(given) is list:
            given = tuple(given)
        return (given,) if nest is not None and isinstance(given, type(nest)) else given

    def _alone(self, inputs: Any) -> Any:
        return inputs if self._nest is None else (inputs, None)

    @property
    def _nest(self) -> Any:
        """The only argument, where it is a nest of tensors; not a list, because lists may differ in length."""
        if not isinstance(self.example, tuple) or len(self.example) != 1:
            return None
        only = self.example[0]
        return only if isinstance(only, Mapping | tuple) or dataclasses.is_dataclass(only) else None


def _alike(given: Any, example: Any) -> bool:
    """Tell whether two nests have the same structure; a lone tensor has none."""
    if not isinstance(given, Mapping | list | tuple) or example is None:
        return False
    return bool(pytree.tree_structure(given) == pytree.tree_structure(example))


def _chosen(given: Mapping[str, Any], example: Mapping[str, Any], labels: Any) -> dict[str, Any]:
    chosen = {name: given[name] for name in example if name in given} or dict(given)
    missing = [name for name in LABELS if name in example and name not in chosen and labels is not None]
    return {**chosen, **dict.fromkeys(missing, labels)}


def is_record(value: Any) -> bool:
    """Tell whether a value is a dataclass that holds tensors."""
    return (
        dataclasses.is_dataclass(value)
        and not isinstance(value, (type, Mapping, nn.Module))
        and any(isinstance(leaf, Tensor) or is_record(leaf) for leaf in pytree.tree_leaves(_fields(value)))
    )


def register_record(kind: type) -> None:
    """Register a dataclass with torch's pytree, which then flattens it like a dict; known classes are left alone."""
    if kind not in pytree.SUPPORTED_NODES:
        names = [field.name for field in dataclasses.fields(kind) if field.init]
        pytree.register_dataclass(kind, field_names=names)


def _fields(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _of_mapping(parameters: Mapping[str, Parameter], inputs: dict[str, Any]) -> Any:
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    known = {name for name in inputs if name in parameters and parameters[name].kind in by_name}
    needed = any(_is_needed(p) for p in parameters.values())
    if parameters and not known and (needed or not takes_any):
        return (inputs,)
    return inputs if takes_any or not parameters else {name: x for name, x in inputs.items() if name in known}


def _is_needed(parameter: Parameter) -> bool:
    plain = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return parameter.kind in plain and not _has_default(parameter)


def _has_default(parameter: Parameter) -> bool:
    return parameter.default is not Parameter.empty


def _positional(parameters: Mapping[str, Parameter]) -> int:
    """Count the positional arguments that a forward can take; 2 where it takes any number."""
    kinds = [p.kind for p in parameters.values()]
    if Parameter.VAR_POSITIONAL in kinds:
        return 2
    return sum(kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _parameters(model: Any) -> Mapping[str, Parameter]:
    """Return the parameters of a forward by name; none for a forward without a signature, such as a compiled one."""
    forward = model.forward if isinstance(model, nn.Module) else model
    try:
        return inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return {}
