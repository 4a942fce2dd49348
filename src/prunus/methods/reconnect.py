"""Modules of any network reconnected: a stage, a block, a recurrent layer or an attention, replaced by a bridge."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch.utils._pytree as pytree
from torch import nn

from prunus.analysis import Analysis
from prunus.errors import OptionError, nearest
from prunus.graph.ir import Graph, ModuleCall, Ref, refs_in
from prunus.methods.bridge_fit import CONVOLUTIONS, Run
from prunus.methods.bridges import Candidates
from prunus.substitutes import Bridge

RECONNECTIONS = ("identity", "pooling", "projection", "auto")
_WHOLE = (nn.RNNBase, nn.MultiheadAttention)


def check_reconnect(how: object) -> None:
    """Refuse an unknown way of reconnecting.

    Raises:
        OptionError: not one of `RECONNECTIONS`.
    """
    if how not in RECONNECTIONS:
        raise OptionError(
            f"reconnect is {how!r}.{nearest(str(how), RECONNECTIONS)} Allowed: {', '.join(RECONNECTIONS)}."
        )


def module_runs(how: str) -> Candidates:
    """Return the candidates of a way to reconnect: (analysis) → one run a module and kind of bridge.

    ``identity`` keeps the value where its shape stays; ``pooling`` averages positions and fills or cuts channels where
    it does not; ``projection`` fits a linear layer, or a convolution of one position; ``auto`` offers all of them and a
    fitted scale of every channel.
    """
    return partial(_runs, how=how)


def _runs(analysis: Analysis, how: str) -> Iterator[Run]:
    graph = analysis.coupling.graph
    inner = innermost(analysis)
    for call in _calls(analysis):
        value, result = call.in_leaves[0], call.out_leaves[0]
        inside = tuple(path for path in inner if path == call.path or path.startswith(f"{call.path}."))
        one, two = graph.meta(value).shape, graph.meta(result).shape
        if len(one) != len(two) or len(one) < 2 or one[0] != two[0]:
            continue
        results = _results(call)
        same = one == two
        if how in ("identity", "auto") and same:
            ready = Bridge(call.path, sizes={"results": results} if results else {})
            yield Run(call.path, (), call.path, "Bypass", results=results, ready=ready, layers=inside)
        if how in ("pooling", "auto") and len(one) > 3 and not same:
            yield Run(call.path, (), call.path, "Pool", results=results, layers=inside)
        if how == "pooling" and same:
            ready = Bridge(call.path, sizes={"results": results} if results else {})
            yield Run(call.path, (), call.path, "Bypass", results=results, ready=ready, layers=inside)
        if how == "auto" and same:
            yield Run(call.path, (), call.path, "Scale", results=results, layers=inside)
        if how in ("projection", "auto"):
            linear = one[:-1] == two[:-1] and len(one) < 4
            kind = "Linear" if linear else CONVOLUTIONS[len(one) - 3]
            kernel = () if linear else (1,) * (len(one) - 2)
            yield Run(call.path, (), call.path, kind, kernel, results, layers=inside)


def innermost(analysis: Analysis) -> list[str]:
    """Return the paths of the modules that hold no other candidate: the parts that a number of modules counts."""
    paths = [call.path for call in _calls(analysis)]
    return [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]


def _calls(analysis: Analysis) -> Iterator[ModuleCall]:
    """Yield the calls of modules with at least two weight matrices, of recurrent layers and of attentions.

    Each is called once, reads one float tensor first and returns one first; nothing reads its other results.
    """
    graph = analysis.coupling.graph
    modules = dict(analysis.user_model.named_modules())
    times: dict[str, int] = {}
    for call in graph.calls:
        times[call.path] = times.get(call.path, 0) + 1
    held = {m.tensor for a in analysis.held for m in analysis.coupling.axes[a].members}
    read = {ref for node in graph.nodes for ref in refs_in(node.args)} | set(refs_in(list(graph.outputs)))
    for call in graph.calls:
        module = modules.get(call.path)
        if not call.path or module is None or times[call.path] > 1 or not _plain(graph, call, read):
            continue
        matrices = sum(p.dim() > 1 for p in module.parameters())
        several = matrices > 1 or (matrices and isinstance(module, _WHOLE))
        if several and not any(name.startswith(f"{call.path}.") for name in held):
            yield call


def _plain(graph: Graph, call: ModuleCall, read: set[Ref]) -> bool:
    leaves = [leaf for leaf in call.in_leaves if isinstance(leaf, Ref)]
    if not leaves or call.in_leaves[0] != leaves[0] or len(set(leaves)) > 1 or not call.out_leaves:
        return False
    first = call.out_leaves[0]
    if not isinstance(first, Ref) or not graph.meta(first).dtype.is_floating_point or first == leaves[0]:
        return False
    others = [leaf for leaf in call.out_leaves[1:] if isinstance(leaf, Ref)]
    return _results(call) >= 0 and graph.meta(leaves[0]).dtype.is_floating_point and read.isdisjoint(others)


def _results(call: ModuleCall) -> int:
    """Return 0 for a call that returns a tensor, the length of a tuple that begins with one, −1 for other results."""
    shape = pytree.tree_unflatten(list(call.out_leaves), call.out_spec)
    if isinstance(shape, Ref):
        return 0
    return len(shape) if isinstance(shape, tuple) and shape and isinstance(shape[0], Ref) else -1
