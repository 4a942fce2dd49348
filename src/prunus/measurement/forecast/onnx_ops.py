"""Times of ONNX Runtime for the ops with the MACs, dense and cut, measured in turns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunus.errors import UsageError
from prunus.graph.ir import Graph, Node

_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class _Op:
    """An operator for ONNX Runtime: its kind, the shapes of input and weight, and its attributes."""

    kind: str
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...] = ()


def onnx_ratio(dense: Graph, cut: Graph, *, threads: int = 1, rounds: int = _ROUNDS) -> float | None:
    """Return Σ time of the cut network's convolutions and linear maps ÷ that of the dense network's.

    Each distinct op is a model of one node with random weights; the runtime chooses the layout of weights, so the cost
    of odd widths shows. Ops between them are not timed, because the runtime fuses most of them.

    Args:
        dense: the program as captured.
        cut: the program after the plan.
        threads: intra-op threads.
        rounds: timed runs of each op.

    Returns:
        The ratio; None where the program has no such op.

    Raises:
        UsageError: onnx or onnxruntime is not installed.
    """
    before, after = Counter(_ops(dense)), Counter(_ops(cut))
    if not before:
        return None
    seconds = _times([*dict.fromkeys([*before, *after])], threads, rounds)

    def total(ops: Counter[_Op]) -> float:
        return sum(seconds[op] * count for op, count in ops.items())

    return total(after) / total(before)


def _ops(graph: Graph) -> Iterator[_Op]:
    for node in graph.nodes:
        name = node.op.split(".")[1] if node.op.startswith("aten.") else ""
        if name in ("conv1d", "conv2d", "conv3d", "convolution") and not node.get("transposed", False):
            yield _convolution(graph, node)
        elif name == "linear":
            x, w = graph.meta(node.args["input"]), graph.meta(node.args["weight"])
            yield _Op("MatMul", x.shape, tuple(reversed(w.shape)))


def _convolution(graph: Graph, node: Node) -> _Op:
    x, w = graph.meta(node.args["input"]).shape, graph.meta(node.args["weight"]).shape
    spatial = len(w) - 2

    def many(value: Any) -> tuple[int, ...]:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        return tuple(int(v) for v in (values * spatial if len(values) == 1 else values))

    dilation, padding = many(node.get("dilation", 1)), node.get("padding", 0)
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, w[2:], strict=True)] if padding == "same" else [0] * spatial
        pads = (*(r // 2 for r in reach), *(r - r // 2 for r in reach))
    else:
        pads = many(padding) * 2
    strides, groups = many(node.get("stride", 1)), int(node.get("groups", 1))
    return _Op("Conv", x, w, (("strides", strides), ("pads", pads), ("dilations", dilation), ("group", groups)))


def _times(ops: list[_Op], threads: int, rounds: int) -> dict[_Op, float]:
    sessions = {op: _session(op, threads) for op in ops}
    feeds = {op: {"x": np.random.default_rng(0).standard_normal(op.shape, np.float32)} for op in ops}
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = {op: np.zeros(rounds + 2) for op in ops}
    for turn in range(rounds + 2):
        for op in ops:
            start = clock()
            sessions[op].run(None, feeds[op])
            seconds[op][turn] = clock() - start
    return {op: float(np.median(times[2:])) for op, times in seconds.items()}


def _session(op: _Op, threads: int) -> Any:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            f"ONNX Runtime was not asked: {error.name} is not installed; pip install 'prunus[onnx]'."
        ) from error
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(1).standard_normal(op.weight, np.float32)
    graph = helper.make_graph(
        [helper.make_node(op.kind, ["x", "w"], ["y"], **dict(op.attributes))],
        "op",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, op.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    assert onnx is not None
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
