"""The forecast of one plan: time ratios by runtime, bytes, and a warning where the plan gains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from prunus.errors import UsageError
from prunus.foundation.progress import Progress
from prunus.graph.coupling import Coupling
from prunus.measurement.forecast.onnx_ops import onnx_ratio
from prunus.measurement.forecast.sparse_ops import sparse_ratio
from prunus.measurement.timing import LatencyModel, time_ops
from prunus.plans import Plan
from prunus.surgery.rewriting.rewrite_graph import rewrite

PAYS_BELOW = 0.95
"""A predicted ratio above this is no speed-up: the prediction itself has an error of a few percent."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted time of the cut network over that of the dense one; below 1 is faster, None is not predicted.

    Attributes:
        eager: PyTorch, from op times measured inside the program.
        onnx: ONNX Runtime, from its own times of the ops that hold the MACs.
        sparse: PyTorch with sparse kernels where they win, for masked weights.
        dense_bytes, packed_bytes: size of the parameters as they are, and with masked weights as bitmap and values.
        notes: the reasons for missing predictions.
        batch, threads: the setting of the timing.
    """

    eager: float | None
    onnx: float | None
    sparse: float | None
    dense_bytes: int
    packed_bytes: int
    notes: tuple[str, ...]
    batch: int
    threads: int


def forecast(
    model: nn.Module,
    coupling: Coupling,
    example_inputs: Any,
    plan: Plan,
    *,
    batch: int,
    threads: int = 1,
    times: LatencyModel | None = None,
    progress: Progress | None = None,
) -> Forecast:
    """Predict the gain of a plan on this machine.

    Args:
        model: the dense network; untouched.
        coupling: its analysis, for one call on ``example_inputs``.
        plan: for this coupling, priced.
        batch: samples of that call, for the record.
        threads: intra-op threads of every runtime.
        times: a latency model, where one exists already.
        progress: receives the rounds done.

    Units: ratios; bytes.
    """
    notes: list[str] = []
    eager = _eager(model, coupling, example_inputs, plan, threads, times, progress)
    edited = rewrite(coupling, plan.axes, plan.drops)
    onnx = None
    try:
        onnx = onnx_ratio(coupling.graph, edited, threads=threads)
    except UsageError as error:
        notes.append(str(error))
    sparse = sparse_ratio(model, coupling, edited, plan, example_inputs, threads=threads) if plan.masks else None
    sparse = None if sparse is None else sparse * (eager or 1.0)
    packed = _packed(coupling, plan)
    return Forecast(eager, onnx, sparse, plan.after.param_bytes, packed, tuple(notes), batch, threads)


def warnings_of(predicted: Forecast) -> Iterator[str]:
    """Yield a sentence for every runtime on which the plan gains nothing."""
    for name, ratio in (("eager PyTorch", predicted.eager), ("ONNX Runtime", predicted.onnx)):
        if ratio is not None and ratio > PAYS_BELOW:
            yield (
                f"It will not pay on {name}: predicted time is {ratio:.2f} of dense. Remove whole units at widths that "
                "are multiples of 8 or 16, or ask for less latency outright."
            )
    if predicted.sparse is not None and predicted.eager is not None and predicted.sparse > PAYS_BELOW * predicted.eager:
        yield (
            "Masked weights will not pay in time: sparse kernels win in no layer at this density; they pay in stored "
            f"bytes only ({predicted.packed_bytes:,} of {predicted.dense_bytes:,})."
        )


def _eager(
    model: nn.Module,
    coupling: Coupling,
    inputs: Any,
    plan: Plan,
    threads: int,
    times: LatencyModel | None,
    progress: Progress | None,
) -> float:
    if not plan.axes and not plan.drops:
        return 1.0
    if times is not None and not plan.drops:
        return times.ms(plan.axes) / times.ms()
    # For one plan both programs are timed directly and nothing is fitted.
    times_of_both = time_ops(model, coupling, inputs, [plan.axes], drops=plan.drops, threads=threads, progress=progress)
    whole = float(times_of_both.seconds[0].sum())
    outside = max(0.0, times_of_both.model_seconds - whole)
    return (float(times_of_both.seconds[1].sum()) + outside) / (whole + outside)


def _packed(coupling: Coupling, plan: Plan) -> int:
    """Return the bytes of the cut parameters with masked tensors packed: one bit a weight, and the kept weights."""
    saved = 0
    for name, mask in plan.masks.items():
        left = mask
        for dim, index in plan.keep.get(name, {}).items():
            left = left.take(index, axis=dim)
        item = coupling.graph.tensors[name].dtype.itemsize
        packed = int(np.count_nonzero(left)) * item + (left.size + 7) // 8
        saved += max(0, left.size * item - packed)
    return plan.after.param_bytes - saved
