"""Times of every op inside a program, measured at several widths in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.foundation.as_found import collector_paused, in_eval_mode, threads_set
from prunus.foundation.progress import Progress, Silent
from prunus.graph.capture import split_inputs
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import flat_inputs, run
from prunus.graph.ir import INPUT, TENSOR, Graph, Node
from prunus.plans import Drop, Plan, fingerprint
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.surgery.tensors import cut_tensors

Keep = Mapping[str, np.ndarray]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class OpTimes:
    """Measured times of one program at several widths.

    Attributes:
        nodes: names of the ops.
        seconds: [plan, op], the median over rounds; the first plan keeps everything.
        model_seconds: one call of the model itself, everything kept.
        cut_ratios: times of a few really cut networks over that of the model; NaN where one could not be cut.
    """

    nodes: tuple[str, ...]
    seconds: np.ndarray
    model_seconds: float
    cut_ratios: tuple[float, ...] = ()


def time_ops(
    model: nn.Module,
    coupling: Coupling,
    example_inputs: Any,
    keeps: Sequence[Keep],
    *,
    drops: Sequence[Drop] = (),
    rounds: int = 7,
    threads: int | None = None,
    progress: Progress | None = None,
) -> OpTimes:
    """Run the program at each set of widths, in turns, and time every op in place.

    Caches and memory are then in the same state as in the network. Views are timed too; they cost little.

    Args:
        model: its tensors are used; untouched.
        coupling: its analysis.
        example_inputs: one call.
        keeps: axis id → kept units, one mapping for each set of widths; everything kept is timed first in any case.
        drops: branches that are bypassed in all of these; their ops then take no time.
        rounds: timed runs of each.
        threads: intra-op threads while timing; None leaves them as they are.
        progress: receives the rounds done.

    Units: seconds.
    """
    progress = progress or Silent()
    programs = [_Program(model, coupling, {}, ()), *(_Program(model, coupling, keep, drops) for keep in keeps)]
    args, kwargs = split_inputs(example_inputs)
    inputs = flat_inputs(coupling.graph, args, kwargs)
    nodes = timed_nodes(coupling.graph)
    place = {name: i for i, name in enumerate(nodes)}
    seconds = np.zeros((rounds + 1, len(programs), len(nodes)))
    calls = np.zeros(rounds + 1)
    # The clock of one thread stops while other programs have the processor.
    clock: Clock = time.thread_time if threads == 1 else time.perf_counter
    progress.start("time ops", rounds + 1)
    with _settled(model, threads):
        for turn in range(rounds + 1):
            start = clock()
            model(*args, **kwargs)
            calls[turn] = clock() - start
            for which, program in enumerate(programs):
                program.run(inputs, seconds[turn, which], place, clock)
            progress.advance("time ops")
    progress.finish("time ops")
    # The first round warms up.
    return OpTimes(nodes, np.median(seconds[1:], axis=0), float(np.median(calls[1:])))


def timed_nodes(graph: Graph) -> tuple[str, ...]:
    """Return the names of the ops of a program, in their order."""
    return tuple(node.name for node in graph.nodes if node.op not in (INPUT, TENSOR))


class _Program:
    """The program at one set of widths with its tensors."""

    def __init__(self, model: nn.Module, coupling: Coupling, keep: Keep, drops: Sequence[Drop]) -> None:
        cut = {a: m for a, m in keep.items() if not m.all()}
        self.graph: Graph = rewrite(coupling, cut, drops) if cut or drops else coupling.graph
        self.tensors = cut_tensors(model, coupling, Plan(fingerprint(coupling.graph), cut, {}))

    def run(self, inputs: Sequence[torch.Tensor], seconds: np.ndarray, place: Mapping[str, int], clock: Clock) -> None:
        """Run once and record the time of every op."""

        def timed(node: Node, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            start = clock()
            result = op(*args, **kwargs)
            seconds[place[node.name]] = clock() - start
            return result

        run(self.graph, self.tensors, inputs, override={n.name: timed for n in self.graph.nodes if n.name in place})


@contextmanager
def _settled(model: nn.Module, threads: int | None) -> Iterator[None]:
    with in_eval_mode(model), threads_set(threads or None), collector_paused(), torch.inference_mode():
        yield
