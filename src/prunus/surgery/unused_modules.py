"""Delete the submodules that a cut has made unused."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from prunus.graph.ir import TENSOR, Graph
from prunus.surgery.rewriting.module_calls import live_calls
from prunus.surgery.rewriting.splice import Splice


def prune_modules_(small: nn.Module, splice: Splice, before: Graph) -> tuple[str, ...]:
    """Delete submodules that no rewritten forward calls any more and whose tensors nothing reads; return their paths.

    Modules that were unused before the cut are kept.
    """
    graph = splice.graph
    read = {n.tensor for n in graph.nodes if n.op == TENSOR}
    read |= {alias for alias, name in graph.aliases.items() if name in read}
    live = live_calls(graph)
    alive = {graph.calls[i].path for i in live}
    was_alive = {before.calls[i].path for i in live_calls(before)}
    by_path: dict[str, list[int]] = {}
    for call in graph.calls:
        by_path.setdefault(call.path, []).append(call.index)
    removed: list[str] = []
    for path, module in list(small.named_modules(remove_duplicate=False)):
        if not path or any(path.startswith(f"{r}.") for r in removed):
            continue
        inside = [p for p, _ in module.named_modules(prefix=path, remove_duplicate=False) if p in by_path]
        if any(p in alive for p in inside) or not any(p in was_alive for p in inside):
            continue
        unread = not any(t in read for t in _tensor_names(module, path))
        if unread and _callers_are_rewritten(splice, by_path, live, path):
            removed.append(path)
    for path in removed:
        parent, _, leaf = path.rpartition(".")
        del small.get_submodule(parent)._modules[leaf]
    return tuple(removed)


def _tensor_names(module: nn.Module, path: str) -> Iterator[str]:
    for name, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)):
        yield f"{path}.{name}"


def _callers_are_rewritten(splice: Splice, by_path: dict[str, list[int]], live: set[int], path: str) -> bool:
    """Return True if the nearest live caller of every call of ``path`` has a rewritten forward."""
    calls = splice.graph.calls
    for index in by_path.get(path, ()):
        at = calls[index].parent
        while at >= 0 and at not in live:
            at = calls[at].parent
        if at < 0 or (at not in splice.stale and at not in splice.inlined):
            return False
    return True
