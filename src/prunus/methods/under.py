"""A subject made ready for a budget in another metric, and for what a person said about parts of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prunus.budget import Bound
from prunus.budget.limits import LATENCY
from prunus.methods.subject import Subject
from prunus.timing import latency_model, widths_in_multiples


def under(subject: Subject, metric: str, bounds: Mapping[str, Bound] | None = None, *, threads: int = 1) -> Subject:
    """Return the subject whose kept shares are shares of a metric; what was measured on it is shared.

    Args:
        subject: the trained network.
        metric: params, bytes, macs or latency_ms; for the latter the ops are timed on this machine, with the example
            inputs, and wide axes keep multiples of what the processor's registers hold.
        bounds: axis id → limits of its width; frozen axes also hold the branches that they lie in.
        threads: intra-op threads while timing.
    """
    own, cost = dict(bounds or {}), subject.cost
    held = subject.held | {axis for axis, bound in own.items() if bound.frozen}
    if metric == LATENCY:
        if not cost.times:
            found = latency_model(subject.model, subject.coupling, subject.example_inputs, threads=threads,
                                  seed=subject.seed, progress=subject.progress)  # fmt: skip
            cost = found.priced(cost)
        own = {**widths_in_multiples(subject.coupling, subject.free_axes()), **own}
    return replace(subject, metric=metric, cost=cost, bounds=own, held=held)
