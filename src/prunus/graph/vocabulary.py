"""The vocabulary as a dim: inputs that hold token ids, the table that they index, outputs that score tokens."""

from __future__ import annotations

import torch

from prunus.graph.ir import Ref
from prunus.graph.layout import ConflictError, Expr, atoms_of
from prunus.graph.rules.context import Flow

_INTEGERS = (torch.int64, torch.int32)


def give_tokens(flow: Flow) -> None:
    """Follow every integer input as positions of a table that is not known yet."""
    for name in flow.graph.inputs:
        meta = flow.graph.node(name).outputs[0]
        if meta is not None and meta.dtype in _INTEGERS and meta.shape:
            flow.ids.give(Ref(name), name)


def settle_tokens(flow: Flow) -> Expr | None:
    """Return the dim of the vocabulary: the largest table that inputs index, unified with every table of its size.

    Smaller tables (segments, positions) are frozen. None where no input indexes a table, or all of it is frozen.
    """
    tables = [dim for source, dim in flow.ids.sources().items() if source in flow.graph.inputs]
    largest = max((flow.size(dim) for dim in tables), default=0)
    tokens: Expr | None = None
    for dim in tables:
        if flow.size(dim) < largest:
            flow.freeze(dim, "vocabulary")
        elif tokens is None:
            tokens = dim
        else:
            _join(flow, tokens, dim)
    return None if tokens is None or flow.layout.is_frozen(tokens) else flow.norm(tokens)


def is_tokens(flow: Flow, dim: Expr, tokens: Expr) -> bool:
    """Tell whether the last dim of an output scores tokens; a dim of the vocabulary's size is unified with it."""
    dim, tokens = flow.norm(dim), flow.norm(tokens)
    if not isinstance(tokens, int) or flow.layout.is_frozen(tokens) or flow.layout.is_frozen(dim):
        return False
    if dim != tokens and isinstance(dim, int) and flow.size(dim) == flow.size(tokens):
        _join(flow, tokens, dim)
    return not flow.layout.is_frozen(tokens) and set(atoms_of(flow.norm(dim))) == set(atoms_of(flow.norm(tokens)))


def _join(flow: Flow, tokens: Expr, dim: Expr) -> None:
    try:
        flow.unify(tokens, dim)
    except ConflictError:
        flow.freeze(tokens, "vocabulary")
        flow.freeze(dim, "vocabulary")
