"""`Graph` ⇄ JSON; the values of its constants travel apart, in a safetensors file."""

from __future__ import annotations

import keyword
from collections.abc import Collection, Mapping
from typing import Any

import torch

from prunus.errors import ModelError, PrunusError
from prunus.exporters.allowed_ops import allowed_op, bound_arguments
from prunus.exporters.spec_json import decode_spec, encode_spec
from prunus.exporters.value_json import (
    Objects,
    decode_dtype,
    decode_meta,
    decode_shape,
    decode_value,
    encode_meta,
    encode_value,
)
from prunus.foundation.user_code import one_line
from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, TensorInfo

Json = dict[str, Any]


def encode_graph(graph: Graph, *, whole: Collection[int] | None = None) -> Json:
    """Return the JSON form of a graph, without source lines and without the values of constants.

    Args:
        graph: the program.
        whole: indices of module calls. Given, only their nodes keep their arguments: enough to write the forwards of
            these calls again, and a fraction of the size.

    Raises:
        ModelError: an argument structure that has no JSON form.
    """
    objects = Objects()
    full = range(len(graph.calls)) if whole is None else whole
    read = {n.tensor for n in graph.nodes if n.op == TENSOR}
    described = set(full) | {c.index for c in graph.calls if c.parent in full}
    leaf = "*"
    return {
        "nodes": [_encode_node(n, objects, n.call in full) for n in graph.nodes],
        "inputs": list(graph.inputs),
        "in_spec": encode_spec(graph.in_spec) if whole is None else leaf,
        "outputs": [encode_value(o, objects) for o in graph.outputs],
        "out_spec": encode_spec(graph.out_spec) if whole is None else leaf,
        "tensors": {
            n: [i.kind, str(i.dtype).removeprefix("torch."), list(i.shape), i.trainable]
            for n, i in graph.tensors.items()
        },
        "aliases": dict(graph.aliases),
        "constants": [n for n in graph.constants if n in read],
        "calls": [_encode_call(c, objects, c.index in described) for c in graph.calls],
        "modules": dict(graph.modules),
        "how": graph.how,
        "notes": list(graph.notes),
    }


def _encode_node(node: Node, objects: Objects, full: bool) -> Json:
    out: Json = {"name": node.name, "op": node.op, "call": node.call, "order": node.order}
    if full and node.op not in (INPUT, TENSOR):
        out["args"] = {k: encode_value(v, objects) for k, v in node.args.items()}
    if node.tensor:
        out["tensor"] = node.tensor
    if node.multi:
        out["multi"] = True
    out["out"] = [encode_meta(m) for m in node.outputs]
    return out


def _encode_call(call: ModuleCall, objects: Objects, full: bool) -> Json:
    return {
        "path": call.path,
        "kind": call.kind,
        "parent": call.parent,
        "start": call.start,
        "stop": call.stop,
        "in": [encode_value(x, objects) for x in call.in_leaves],
        "in_spec": encode_spec(call.in_spec) if full else None,
        "out": [encode_value(x, objects) for x in call.out_leaves],
        "out_spec": encode_spec(call.out_spec) if full else None,
    }


def decode_graph(data: Any, constants: Mapping[str, torch.Tensor], where: str = "graph") -> Graph:
    """Return the graph that `encode_graph` wrote. Ops are looked up by name; nothing is evaluated.

    Args:
        data: the parsed JSON.
        constants: the values of the graph's constants.
        where: starts every message.

    Raises:
        ModelError: damaged, or it names an op that is not allowed or not known here.
    """
    try:
        return _decode_graph(data, constants)
    except PrunusError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{where} is damaged: {type(error).__name__} {one_line(error, 200)}; save the model again."
        ) from error


def _decode_graph(data: Any, constants: Mapping[str, torch.Tensor]) -> Graph:
    objects = Objects()
    calls = tuple(_decode_call(i, c, objects) for i, c in enumerate(data["calls"]))
    nodes = tuple(_decode_node(n, objects, len(calls)) for n in data["nodes"])
    names = {n.name for n in nodes}
    tensors = {
        n: TensorInfo(n, _kind(k), decode_shape(s), decode_dtype(d), bool(t))
        for n, (k, d, s, t) in data["tensors"].items()
    }
    if len(names) != len(nodes):
        raise ValueError("two nodes of one name")
    for node in nodes:
        if node.op == TENSOR and node.tensor not in tensors:
            raise ValueError(f"node {node.name!r} reads an unknown tensor {node.tensor!r}")
    return Graph(
        nodes=nodes,
        inputs=tuple(map(str, data["inputs"])),
        in_spec=decode_spec(data["in_spec"]),
        outputs=tuple(decode_value(o, objects) for o in data["outputs"]),
        out_spec=decode_spec(data["out_spec"]),
        tensors=tensors,
        aliases={str(k): str(v) for k, v in data["aliases"].items()},
        constants={str(k): constants[k] for k in data["constants"]},
        calls=calls,
        modules={str(k): str(v) for k, v in data["modules"].items()},
        how=str(data["how"]),
        notes=tuple(map(str, data["notes"])),
    )


def _decode_node(data: Json, objects: Objects, calls: int) -> Node:
    op, args = data["op"], data.get("args")
    decoded: Json = {}
    if op not in (INPUT, TENSOR):
        found = allowed_op(op)
        if args is not None:
            decoded = bound_arguments(found, {k: decode_value(v, objects) for k, v in args.items()})
    if not 0 <= data["call"] < max(calls, 1):
        raise ValueError(f"node {data['name']!r} belongs to call {data['call']}")
    return Node(
        name=str(data["name"]),
        op=op,
        args=decoded,
        outputs=tuple(decode_meta(m) for m in data["out"]),
        multi=bool(data.get("multi", False)),
        tensor=str(data.get("tensor", "")),
        call=data["call"],
        order=int(data["order"]),
    )


def _decode_call(index: int, data: Json, objects: Objects) -> ModuleCall:
    in_spec = decode_spec("*" if data["in_spec"] is None else data["in_spec"])
    if data["in_spec"] is not None:
        _check_keywords(in_spec)
    if not -1 <= data["parent"] < index:
        raise ValueError(f"call {index} has parent {data['parent']}")
    return ModuleCall(
        index=index,
        path=str(data["path"]),
        kind=str(data["kind"]),
        parent=data["parent"],
        start=int(data["start"]),
        stop=int(data["stop"]),
        in_leaves=tuple(decode_value(x, objects) for x in data["in"]),
        in_spec=in_spec,
        out_leaves=tuple(decode_value(x, objects) for x in data["out"]),
        out_spec=decode_spec("*" if data["out_spec"] is None else data["out_spec"]),
    )


def _check_keywords(spec: Any) -> None:
    """Insist on (args, kwargs) with proper names: the names of keyword arguments become source text."""
    children = spec.children() if callable(spec.children) else spec.children
    positional, named = children
    names = named.context or []
    if positional.type is not tuple or named.type is not dict:
        raise ValueError("a call whose arguments are not (args, kwargs)")
    for name in names:
        if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"a keyword argument named {name!r}")


def _kind(name: Any) -> str:
    if name not in ("parameter", "buffer", "constant"):
        raise ValueError(f"a tensor of kind {name!r}")
    return str(name)
