"""Replacement of ops while a model runs; each op is found by its module, its line and its number on that line."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prunus.graph import observer
from prunus.graph.capture import preserved, split_inputs
from prunus.graph.capture_lock import ALONE
from prunus.graph.ir import INPUT, TENSOR, Graph
from prunus.graph.observer import bind, module_calls, ops_mode, schema_of
from prunus.graph.recorder import Recorder, record

_TORCH = torch.__file__.rpartition("/")[0] + "/"
_HERE = __file__.rpartition("/")[0] + "/"
_CALL = observer.__file__
# Frames of function modes lie between a line and its op.
_BETWEEN = (_TORCH, f"{_HERE.removesuffix('/graph/')}/", "<")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an op: the path of its module, the line there, and its number among equal ops on that line."""

    path: str
    op: str
    line: str
    number: int


Replacement = Callable[[Any, dict[str, Any]], Any]
"""(op, every schema argument by name) → result; `NotImplemented` where the arguments are of another form."""


def places(model: nn.Module, graph: Graph, example_inputs: Any) -> dict[str, Place] | None:
    """Return the place of every node of a program; None where a second recording gives another program.

    Args:
        model: the model that ``graph`` was captured from.
        graph: its program, with or without the nodes that nothing needs.
        example_inputs: the inputs of the capture.
    """
    recorded: dict[str, tuple[str, Place]] = {}

    @contextlib.contextmanager
    def watch(recorder: Recorder) -> Iterator[None]:
        numbers: Counter[tuple[Any, ...]] = Counter()
        plain = recorder.record

        def noted(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
            before = len(recorder.nodes)
            plain(func, args, kwargs, out)
            if len(recorder.nodes) > before:
                call, name, line = recorder.nodes[-1].call, str(func), _line()
                place = Place(recorder.current_path(), name, line, numbers[call, name, line])
                numbers[call, name, line] += 1
                recorded[recorder.nodes[-1].name] = (name, place)

        recorder.record = noted  # type: ignore[method-assign]
        yield

    args, kwargs = split_inputs(example_inputs)
    try:
        with preserved(model):
            record(model, args, kwargs, fake="fake" in graph.how, watch=watch)
    except Exception:
        return None
    # A node that was folded to a constant has no place.
    ops = [n for n in graph.nodes if n.op not in (INPUT, TENSOR)]
    same = all(n.name in recorded and recorded[n.name][0] == n.op for n in ops)
    return {n.name: recorded[n.name][1] for n in ops} if same else None


def _line() -> str:
    """Return the line of the running module's own code; empty where the module is one of torch's."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name == _CALL and frame.f_code.co_name == "call":
            break
        if not name.startswith(_BETWEEN):
            return f"{name}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


@dataclass(slots=True)
class _Frame:
    path: str
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    met: set[Place] = field(default_factory=set)


@dataclass(slots=True)
class Overriding:
    """Replacements of ops while a model runs, and a report of the ops that could not be replaced.

    Attributes:
        replacements: place → replacement.
        needed: places where an op that is not replaced makes all later values wrong.
        wanted: those needed places that must be reached whenever their module is called.
        suspect: function called with every op in ``suspects`` that is not replaced; returns what is wrong with it, or
            nothing.
        missed: one line for each op that could not be replaced.
    """

    replacements: Mapping[Place, Replacement]
    needed: frozenset[Place]
    wanted: frozenset[Place]
    suspect: Callable[[Any, dict[str, Any]], str] = lambda func, bound: ""
    suspects: frozenset[str] = frozenset()  # names without their overload
    missed: dict[str, None] = field(default_factory=dict)
    _paths: dict[int, str] = field(default_factory=dict)
    _stack: list[_Frame] = field(default_factory=list)
    _ops: frozenset[tuple[str, str]] = frozenset()
    _wanted: dict[str, list[Place]] = field(default_factory=dict)

    @contextlib.contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Replace ops within every call of a model, and of any of its modules."""
        from torch._dispatch.python import enable_python_dispatcher

        self._paths, self._stack, self.missed = {}, [], {}
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), path)
        self._ops = frozenset((p.path, p.op) for p in self.replacements)
        self._wanted = {}
        for place in self.wanted:
            self._wanted.setdefault(place.path, []).append(place)
        ALONE.acquire()  # these switches belong to the process
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with (
                module_calls(self, model),  # type: ignore[arg-type]
                torch.compiler.set_stance("force_eager"),
                enable_python_dispatcher(),
                ops_mode()(self.run),
            ):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            ALONE.release()

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> int:
        """Put a module that is called on the stack."""
        path = self._paths.get(id(module))
        if path is None:
            return -1
        if not path:
            self._stack.clear()  # left there by an error
        self._stack.append(_Frame(path))
        return len(self._stack) - 1

    def leave(self, index: int, out: Any) -> None:
        """Take a module that has returned off the stack; calls above it ended in an error."""
        if not 0 <= index < len(self._stack):
            return
        frame = self._stack[index]
        del self._stack[index:]
        for place in self._wanted.get(frame.path, ()):
            if place not in frame.met:
                self._miss(place, "does not run")

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op, or its replacement."""
        if not self._stack:
            return func(*args, **kwargs)
        frame, name = self._stack[-1], str(func)
        if (frame.path, name) in self._ops:
            line = _line()
            place = Place(frame.path, name, line, frame.seen[name, line])
            frame.seen[name, line] += 1
            replacement = self.replacements.get(place)
            if replacement is not None:
                frame.met.add(place)
                result = replacement(func, bind(func, args, kwargs))
                if result is not NotImplemented:
                    return result
                if place in self.needed:
                    self._miss(place, "has arguments of another form")
                return func(*args, **kwargs)
        if name.rpartition(".")[0] in self.suspects:
            why = self.suspect(func, bind(func, args, kwargs))
            if why:
                self.missed.setdefault(f"{name} in {frame.path or 'the model'} {why}")
        return func(*args, **kwargs)

    def _miss(self, place: Place, why: str) -> None:
        where = f" at {place.line.rpartition('/')[2]}" if place.line else ""
        self.missed.setdefault(f"{place.op} in {place.path or 'the model'}{where} {why}")


def positional(func: Any, bound: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split all arguments of an op, by name, into positional and keyword-only ones."""
    keyword = {name for name, _, only in schema_of(func) if only}
    return (
        tuple(v for k, v in bound.items() if k not in keyword),
        {k: v for k, v in bound.items() if k in keyword},
    )
