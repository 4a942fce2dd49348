"""The origins of the numbers of a program: module attributes, configuration entries, sizes of tensors, or the code."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.overrides import TorchFunctionMode

from prunus.graph.capture import cleaned, preserved, quiet, split_inputs, unwrap
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.module_twin import twin_with_origins
from prunus.graph.passes import drop_dead, fold_constants
from prunus.graph.recorder import Recorder, record
from prunus.graph.traced import (
    Attribute,
    Comparison,
    Operation,
    Origin,
    Size,
    Trace,
    TracedFloat,
    TracedInt,
    attributes_of,
    function_of,
    origin_of,
    plain,
    sizes_of,
)

_log = logging.getLogger(__name__)
Place = tuple[str, str, int | None]
"""A literal: node, argument, and position inside a list (None for a single number)."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origins of the numbers of a recorded program.

    Attributes:
        origins: literal → the expression it was computed by. A literal that is not named is a number of the code.
        held: numbers that went into a value (``torch.tensor(n)``) instead of an argument: expression → node.
        comparisons: what the code compared, with the result.
        values: the attributes that occur, with what they hold.
        idle: the program with what it computes from weights for nothing, and with values of which it needs nothing but
            the size; None where there is neither.
        why: why nothing is known; empty where the program was recorded with its origins.
    """

    origins: Mapping[Place, Origin] = field(default_factory=dict)
    held: Mapping[Origin, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    values: Mapping[Attribute, int] = field(default_factory=dict)
    idle: Graph | None = None
    why: str = ""

    def origin(self, node: Node, key: str, position: int | None) -> Origin:
        """Return the expression of a literal; the number itself where the code wrote it."""
        origin = self.origins.get((node.name, key, position))
        if origin is not None:
            return origin
        value = node.args[key]
        number: Origin = value if position is None else value[position]
        return number


def literals(graph: Graph, known: Provenance) -> Iterator[tuple[Node, str, int | float, Origin]]:
    """Yield the numbers of a program that have an origin: node, argument, value, origin."""
    for (name, key, position), origin in known.origins.items():
        node = graph.find(name)
        if node is not None and node.op not in (INPUT, TENSOR):
            yield node, key, node.args[key] if position is None else node.args[key][position], origin


def provenance(model: nn.Module, graph: Graph, example_inputs: Any) -> Provenance:
    """Record a copy of the model with traced integers, and return the origins of the literals of ``graph``.

    The model is not changed. Where the copy does not run the same program, nothing is known and ``why`` says so.

    Args:
        model: the model that ``graph`` was captured from.
        graph: its program.
        example_inputs: the inputs of the capture.
    """
    if "record" not in graph.how:
        return Provenance(why=f"the program was captured by {graph.how}")
    try:
        notes, recorded = _recorded(model, example_inputs, fake="fake" in graph.how, training=False)
    except Exception as error:
        return Provenance(why=f"the twin failed: {type(error).__name__} {error}".splitlines()[0][:200])
    parted = _first_difference(graph, recorded)
    if parted:
        return Provenance(why=parted)
    more = _on_idle_weights(graph, recorded) | _sized(graph, recorded, notes)
    idle = _cleaned_but_for(recorded, more) if more else None
    return replace(notes.about(idle or graph), idle=idle)


def _cleaned_but_for(recorded: Graph, more: Set[str]) -> Graph:
    """Return a recorded program without what nothing needs but these nodes."""
    return drop_dead(fold_constants(drop_dead(recorded, more)), more)


def _sized(graph: Graph, recorded: Graph, notes: _Notes) -> set[str]:
    """Return the nodes of which the literals of a program take the size alone, as in ``zeros(x[:, 0].shape)``."""
    origins = notes.about(graph).origins.values()
    nodes = {s.of.node for origin in origins for s in sizes_of(origin) if isinstance(s.of, Ref)}
    return {name for name in nodes if graph.find(name) is None and recorded.find(name) is not None}


def _on_idle_weights(graph: Graph, recorded: Graph) -> set[str]:
    """Return the ops on parameters that no output needs: a kept forward runs them too."""
    read = {n.tensor for n in graph.nodes if n.op == TENSOR}
    idle = {
        n.name
        for n in recorded.nodes
        if n.op == TENSOR and n.tensor not in read and recorded.tensors[n.tensor].kind == "parameter"
    }
    for node in recorded.nodes:
        if any(r.node in idle for r in refs_in(node.args)):
            idle.add(node.name)
    return idle


def in_training(model: nn.Module, graph: Graph, example_inputs: Any) -> tuple[Graph, Provenance] | None:
    """Return the program that a model runs in training mode, and the origins of its literals.

    None where the model fails on these inputs in that mode. ``graph`` is its program in evaluation.
    """
    if "record" not in graph.how:
        return None
    try:
        notes, recorded = _recorded(model, example_inputs, fake="fake" in graph.how, training=True)
    except Exception:
        return None
    return _with_sized(recorded, notes)


def of_another_call(model: nn.Module, graph: Graph, inputs: Any) -> tuple[Graph, Provenance] | None:
    """Return the program that a model runs on another call, and the origins of its literals; None where it fails.

    Args:
        model: the model that ``graph`` was captured from.
        graph: its program on the example inputs.
        inputs: the inputs of the other call; run on real tensors where the run on fake tensors fails.
    """
    if "record" not in graph.how:
        return None
    for fake in (True, False) if "fake" in graph.how else (False,):
        try:
            notes, recorded = _recorded(model, inputs, fake=fake, training=False)
        except Exception:
            continue
        return _with_sized(recorded, notes)
    return None


def _with_sized(recorded: Graph, notes: _Notes) -> tuple[Graph, Provenance]:
    graph = cleaned(recorded)
    more = _sized(graph, recorded, notes)
    graph = _cleaned_but_for(recorded, more) if more else graph
    return graph, notes.about(graph)


def _recorded(model: nn.Module, example_inputs: Any, *, fake: bool, training: bool) -> tuple[_Notes, Graph]:
    trace, model = Trace(), unwrap(model)
    twin = twin_with_origins(model, trace)
    args, kwargs = split_inputs(example_inputs)
    if not fake:
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
    notes = _Notes(trace)
    try:
        with preserved(twin), quiet(), _uncached_einops():
            for module in twin.modules():
                # The training behaviour of torch's own modules is known, and recording it takes longer.
                module.training = training and not isinstance(module, _KNOWN_IN_TRAINING)
            return notes, record(twin, args, kwargs, fake=fake, watch=notes.watching)
    finally:
        trace.open = False


@contextlib.contextmanager
def _uncached_einops() -> Iterator[None]:
    """Let einops work its shapes out anew: its cache holds plain numbers of earlier calls, and would keep ours."""
    module: Any = sys.modules.get("einops.einops")
    cached = getattr(module, "_reconstruct_from_shape", None)
    anew = getattr(cached, "__wrapped__", None)
    if anew is None:
        yield
        return
    module._reconstruct_from_shape = anew
    try:
        yield
    finally:
        module._reconstruct_from_shape = cached


def _first_difference(graph: Graph, recorded: Graph) -> str:
    for node in (*graph.nodes, *graph.recipes):
        if node.op in (INPUT, TENSOR):
            continue
        other = recorded.find(node.name)
        if other is None or other.op != node.op or other.shape != node.shape:
            return f"the twin runs another program from {node.op} on ({graph.where(node)})"
    return ""


@dataclass(slots=True)
class _Notes:
    """Origins of the literals of a program that is being recorded."""

    trace: Trace
    origins: dict[Place, Origin] = field(default_factory=dict)
    held: dict[Origin, str] = field(default_factory=dict)

    def watching(self, recorder: Recorder) -> TorchFunctionMode:
        """Return the mode in which the model runs."""
        return _Mode(recorder, self)

    def about(self, graph: Graph) -> Provenance:
        """Return the noted origins of the literals of a program."""
        names = {n.name for n in (*graph.nodes, *graph.recipes)}
        origins = {place: origin for place, origin in self.origins.items() if place[0] in names}
        held = {origin: name for origin, name in self.held.items() if name in names}
        comparisons = tuple(self.trace.comparisons.values())
        asked = (*origins.values(), *held, *(side for c in comparisons for side in (c.left, c.right)))
        values = {a: self.trace.values[a] for origin in asked for a in attributes_of(origin)}
        return Provenance(origins, held, comparisons, values)

    def note(self, func: Any, args: Any, kwargs: Mapping[str, Any], nodes: list[Node]) -> None:
        """Match the numbers of a call with the literals of the nodes that it made."""
        name = getattr(func, "__name__", "")
        if name in _INDEXING:
            given, keys = list(_ends(args[1])), ("start", "end")
        else:
            given, keys = list(_numbers((args[1:] if _is_tensor(args) else args, kwargs))), None
        traced = [x for x in given if isinstance(x, (TracedInt, TracedFloat))]
        if not traced and not self.trace.roots:
            return
        cursor = _Cursor(given, self.trace)
        for node in nodes:
            for key, value in node.args.items():
                if key not in _DIMS and (keys is None or key in keys):
                    self._match(cursor, node, key, value)
        if name in _VALUES and nodes:
            self.held.update({x.origin: nodes[-1].name for x in traced})

    def _match(self, cursor: _Cursor, node: Node, key: str, value: Any) -> None:
        single = _is_number(value)
        numbers = [value] if single else value
        if not isinstance(numbers, (list, tuple)) or not numbers or not all(map(_is_number, numbers)):
            return
        found = cursor.take(list(numbers))
        for i, number in enumerate(found):
            origin = number
            if type(number) is int:  # what `int(…)` of the same function made plain
                origin = self.trace.casts.get((number, function_of(node.source)), number)
            if not isinstance(origin, (int, float)):
                self.origins[(node.name, key, None if single else i)] = origin


@dataclass(slots=True)
class _Cursor:
    """The numbers of a call in order; the search for a literal begins after the last one that was found."""

    given: list[Any]
    trace: Trace
    at: int = 0

    def take(self, numbers: list[Any]) -> list[Origin]:
        """Return the origins of a run of numbers equal to these; the numbers themselves where there is none."""
        target, count = [plain(n) for n in numbers], len(numbers)
        values = [plain(x) for x in self.given]
        starts = [*range(self.at, len(values) - count + 1), *range(min(self.at, len(values) - count + 1))]
        for start in starts:
            if values[start : start + count] == target:
                self.at = start + count
                return [_known(x, self.trace) for x in self.given[start : start + count]]
        # One number may stand for all dims: the call holds (2,), the literal (2, 2).
        if count > 1 and len(set(target)) == 1 and target[0] in values[self.at :]:
            at = values.index(target[0], self.at)
            self.at = at + 1
            return [_known(self.given[at], self.trace)] * count
        return list(target)


def _root(value: float, trace: Trace) -> Origin:
    """Return the origin of a float that C code made of a traced number, as in ``1 / math.sqrt(self.head_dim)``."""
    for number, origin in trace.roots.items():
        for power in (0.5, -0.5):
            if number > 0 and abs(value - number**power) <= 1e-12 * abs(value):
                return Operation("pow", origin, power)
    return value


def _known(value: Any, trace: Trace) -> Origin:
    if type(value) is float:
        return _root(value, trace)
    origin = origin_of(value, trace)
    return plain(value) if origin is None else origin


class _Mode(TorchFunctionMode):
    """A function mode that returns traced sizes and passes the numbers of every call to the notes."""

    def __init__(self, recorder: Recorder, notes: _Notes) -> None:
        super().__init__()
        self.recorder, self.notes = recorder, notes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SIZES:
            return self._sized(func, args, kwargs)
        if func in _UNSEEN:
            return func(*args, **kwargs)
        before = len(self.recorder.nodes)
        out = func(*args, **kwargs)
        made = self.recorder.nodes[before:]
        if made:
            self.notes.note(func, args, kwargs, made)
        return out

    def _sized(self, func: Any, args: Any, kwargs: Any) -> Any:
        out, of = func(*args, **kwargs), self.recorder.known(args[0])
        if of is None:
            return out
        trace = self.notes.trace
        if isinstance(out, torch.Size):
            return torch.Size([TracedInt(n, Size(of, i), trace) if n > 1 else n for i, n in enumerate(out)])
        if type(out) is not int or out <= 1:
            return out
        if func is torch.Tensor.numel:
            total: Any = 1
            for i, n in enumerate(args[0].shape):
                total = TracedInt(n, Size(of, i), trace) * total
            return total
        given = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        dim = int(given) % max(1, args[0].dim())
        return TracedInt(out, Size(of, dim), trace)


_KNOWN_IN_TRAINING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RNNBase)
_SIZES = {torch.Tensor.shape.__get__, torch.Tensor.size, torch.Tensor.__len__, torch.Tensor.numel}  # type: ignore[attr-defined]
_UNSEEN = {
    getattr(torch.Tensor, name).__get__
    for name in ["dtype", "device", "ndim", "is_cuda", "requires_grad", "layout", "is_nested", "grad", "data_ptr"]
    if hasattr(getattr(torch.Tensor, name), "__get__")
} | {torch.Tensor.dim}
_INDEXING = ("__getitem__", "__setitem__")
_VALUES = ("tensor", "as_tensor", "scalar_tensor")
_DIMS = frozenset({"dim", "dims", "dim0", "dim1", "axis", "start_dim", "end_dim", "dtype", "layout"})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_tensor(args: Any) -> bool:
    return bool(args) and isinstance(args[0], torch.Tensor)


def _numbers(value: Any) -> Iterator[Any]:
    """Yield the numbers of a call's arguments, in order."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif _is_number(value):
        yield value


def _ends(index: Any) -> Iterator[Any]:
    """Yield the numbers at which the slices of an index begin and end."""
    for item in index if isinstance(index, tuple) else (index,):
        if isinstance(item, slice):
            yield from (x for x in (item.start, item.stop) if _is_number(x))
