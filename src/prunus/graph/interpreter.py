"""The interpreter runs a `Graph` op by op: as the reference of a cut model, and to observe activations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree

from prunus.errors import DataError
from prunus.graph import grouped_mm  # noqa: F401  (defines an op that graphs may name)
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, is_mutating, map_refs, refs_in

Override = Callable[[Node, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
Observe = Callable[[Node, Any], Any]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def resolve(op: str) -> Any:
    """Return the callable of an op name such as ``aten.conv2d.default``."""
    namespace, packet, overload = op.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


# Strides decide whether a view needs a copy, and they depend on the kernel that a dtype or a device selects.
LENIENT = {"aten.view.default": "aten.reshape.default"}


@functools.cache
def keyword_only(op: str) -> frozenset[str]:
    """Return the names of the keyword-only arguments of an op."""
    return frozenset(a.name for a in resolve(op)._schema.arguments if a.kwarg_only)


def call_arguments(node: Node, args: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split named arguments into positional and keyword-only ones."""
    keyword = keyword_only(node.op)
    return tuple(v for k, v in args.items() if k not in keyword), {k: v for k, v in args.items() if k in keyword}


def argument_names(graph: Graph) -> tuple[str, ...]:
    """Return the names of the keyword arguments that a program was captured with, in their order."""
    if graph.in_spec.is_leaf():
        return ()
    _, named = pytree.tree_unflatten([None] * graph.in_spec.num_leaves, graph.in_spec)
    return tuple(named)


def flat_inputs(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[torch.Tensor]:
    """Return the tensor leaves of the call arguments in the graph's input order; a mapping may have any order."""
    given = dict(kwargs or {})
    ordered = {name: given.pop(name) for name in argument_names(graph) if name in given} if given else {}
    leaves, _ = pytree.tree_flatten((tuple(args), ordered | given))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    if len(tensors) != len(graph.inputs):
        raise DataError(f"The model takes {len(graph.inputs)} input tensors, got {len(tensors)}.")
    return tensors


def run(
    graph: Graph,
    tensors: Mapping[str, torch.Tensor],
    inputs: Sequence[torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    override: Mapping[str, Override] | None = None,
    observe: Observe | None = None,
) -> Any:
    """Run the program and return its output in the model's own structure.

    Args:
        graph: the captured program.
        tensors: every named tensor the graph uses; constants are filled in.
        inputs: tensor inputs in the order of ``graph.inputs``.
        dtype: the dtype to compute in; float literals and float tensors are converted.
        override: node name → replacement of the op, called with (node, op, args, kwargs).
        observe: function called with every (node, result); a returned value that is not None replaces the result.
    """
    env: dict[str, Any] = {}
    last_use = _last_uses(graph)
    mutated = mutated_sources(graph)
    feed = dict(zip(graph.inputs, inputs, strict=True))
    for position, node in enumerate(graph.nodes):
        if node.op == INPUT:
            result: Any = _cast(feed[node.name], dtype)
        elif node.op == TENSOR:
            value = tensors.get(node.tensor, graph.constants.get(node.tensor))
            if value is None:
                raise DataError(f"No value was given for tensor {node.tensor!r}.")
            result = _cast(value, dtype)
            if node.name in mutated:
                result = result.clone()
        else:
            result = _call(node, env, dtype, (override or {}).get(node.name))
        if observe is not None:
            replaced = observe(node, result)
            result = result if replaced is None else replaced
        env[node.name] = result
        for name in last_use.get(position, ()):
            env.pop(name, None)
    leaves = [map_refs(leaf, lambda r: _fetch(env, r)) for leaf in graph.outputs]
    return pytree.tree_unflatten(leaves, graph.out_spec)


def _fetch(env: Mapping[str, Any], ref: Ref) -> Any:
    value = env[ref.node]
    return value[ref.index] if isinstance(value, (tuple, list)) else value


def _call(node: Node, env: Mapping[str, Any], dtype: torch.dtype | None, override: Override | None) -> Any:
    values = {k: map_refs(v, lambda r: _fetch(env, r)) for k, v in node.args.items()}
    if dtype is not None:
        values = {k: dtype if isinstance(v, torch.dtype) and v in _FLOATS else v for k, v in values.items()}
    args, kwargs = call_arguments(node, values)
    function = resolve(LENIENT.get(node.op, node.op))
    return override(node, function, args, kwargs) if override is not None else function(*args, **kwargs)


def _cast(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return value.to(dtype) if dtype is not None and value.dtype in _FLOATS else value


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    last: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        last[node.name] = position
        for ref in refs_in(node.args):
            last[ref.node] = position
    for ref in refs_in(list(graph.outputs)):
        last[ref.node] = len(graph.nodes)
    freed: dict[int, list[str]] = {}
    for name, position in last.items():
        freed.setdefault(position, []).append(name)
    return freed


def mutated_sources(graph: Graph) -> set[str]:
    """Return the names of tensor and input nodes that some in-place op may write, directly or through a view."""
    roots: dict[str, str] = {}
    mutated = set()
    for node in graph.nodes:
        if node.op in (TENSOR, INPUT):
            roots[node.name] = node.name
            continue
        first = next(refs_in(node.args), None)
        if first is not None and first.node in roots:
            roots[node.name] = roots[first.node]
            if is_mutating(node.op):
                mutated.add(roots[first.node])
    return mutated
