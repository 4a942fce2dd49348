"""The time gain of masked weights: each masked linear map is timed dense and sparse, in turns."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from prunus.foundation.as_found import threads_set
from prunus.graph.coupling import Coupling
from prunus.graph.ir import TENSOR, Graph, Node
from prunus.measurement.timing import time_ops
from prunus.plans import Plan
from prunus.surgery.tensors import cut_tensors

_ROUNDS = 15


def sparse_ratio(
    model: nn.Module,
    coupling: Coupling,
    edited: Graph,
    plan: Plan,
    example_inputs: Any,
    *,
    threads: int = 1,
    rounds: int = _ROUNDS,
) -> float:
    """Return the time with the better kernel in every masked layer ÷ the time with dense kernels throughout.

    Linear maps are timed with dense weights and with compressed sparse rows; PyTorch has no sparse convolution on the
    CPU, so masked convolutions stay dense. Other layers keep their time.

    Args:
        model: the dense network; untouched.
        coupling: its analysis.
        edited: the program after the plan.
        plan: with masks.
        example_inputs: one call.
        threads: intra-op threads.
        rounds: timed runs of each kernel.
    """
    values = cut_tensors(model, coupling, plan)
    times = time_ops(model, coupling, example_inputs, [plan.axes], drops=plan.drops, threads=threads)
    whole = float(times.seconds[1].sum())
    gained = 0.0
    for node in edited.nodes:
        weight = _masked_linear(edited, node, plan)
        if weight is not None:
            shape = edited.meta(node.args["input"]).shape
            dense, sparse = _both(values[weight], shape, threads, rounds)
            gained += max(0.0, dense - sparse)
    return max(0.0, 1.0 - gained / whole) if whole > 0 else 1.0


def _masked_linear(graph: Graph, node: Node, plan: Plan) -> str | None:
    if not node.op.startswith("aten.linear."):
        return None
    source = graph.node(node.args["weight"].node)
    return source.tensor if source.op == TENSOR and source.tensor in plan.masks else None


def _both(weight: torch.Tensor, shape: tuple[int, ...], threads: int, rounds: int) -> tuple[float, float]:
    x = torch.randn(int(np.prod(shape[:-1])), shape[-1], dtype=weight.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that sparse layouts are in beta
        rows = weight.detach().cpu().to_sparse_csr()
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = np.zeros((2, rounds + 2))
    with threads_set(threads), torch.no_grad():  # sparse layouts do not support inference mode
        for turn in range(rounds + 2):
            for which, w in enumerate((weight, rows)):
                start = clock()
                functional.linear(x, w)
                seconds[which, turn] = clock() - start
    dense, sparse = np.median(seconds[:, 2:], axis=1)
    return float(dense), float(sparse)
