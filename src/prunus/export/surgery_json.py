"""What it takes to write the new forwards of a cut model again ⇄ JSON: the edited graph, its growth with the batch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from prunus.errors import ModelError
from prunus.export.graph_json import Json, decode_graph, encode_graph
from prunus.export.value_json import Objects, Opaque, decode_shape, decode_value, encode_value
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, TensorMeta
from prunus.surgery.dynamic import Growth
from prunus.surgery.emit import Emission
from prunus.surgery.record import Surgery
from prunus.surgery.splice import Splice, write_forward


@dataclasses.dataclass(frozen=True, slots=True)
class Rewriting:
    """The stored part of a `Surgery`, read back.

    Attributes:
        splice: which calls have a new forward, in the edited graph; the root call alone stands for a whole program.
        growth: the literals that follow the batch.
    """

    splice: Splice
    growth: Growth

    def forwards(self) -> Iterator[tuple[str, Emission, str]]:
        """Yield (module path, emission, source) of every rewritten module, once."""
        done: set[str] = set()
        for index in sorted(self.splice.stale):
            path = self.splice.graph.calls[index].path
            if path not in done:
                done.add(path)
                emission, source = write_forward(self.splice, index, self.growth)
                yield path, emission, source


def encode_surgery(surgery: Surgery) -> Json | None:
    """Return the JSON form of the rewritten forwards; None where there are none.

    Raises:
        ModelError: an argument structure that has no JSON form.
    """
    if surgery.program is not None:
        # A program has one forward with every call written out in it.
        graph, roots, whole = surgery.program, [0], None
        inlined = list(range(1, len(graph.calls)))
    elif surgery.splice is not None:
        splice = surgery.splice
        roots, inlined, graph = sorted(splice.stale), sorted(splice.inlined), splice.graph
        whole = set(roots) | set(inlined)
    else:
        return None
    return {
        "calls": roots,
        "inlined": inlined,
        "graph": encode_graph(graph, whole=whole),
        "growth": _encode_growth(surgery.growth, graph, roots, whole),
    }


def decode_surgery(data: Any, constants: Mapping[str, torch.Tensor], where: str) -> Rewriting:
    """Return what `encode_surgery` wrote.

    Raises:
        ModelError: damaged, or it names an op that is not allowed or not known here.
    """
    if not isinstance(data, dict):
        raise ModelError(f"{where} is damaged: no object at its top; save the model again.")
    graph = decode_graph(data.get("graph"), constants, where)
    try:
        growth = _decode_growth(data["growth"], graph)
        calls = range(len(graph.calls))
        stale, inlined = {calls[i] for i in data["calls"]}, {calls[i] for i in data["inlined"]}
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{where} is damaged: {type(error).__name__} {error}; save the model again.") from error
    return Rewriting(Splice(graph, stale, inlined), growth)


def constant_attribute(name: str) -> str:
    """Return the attribute under which a rewritten module holds a constant of the graph."""
    return re.sub(r"[^0-9A-Za-z_]", "_", name)


def check_rewriting(rewriting: Rewriting, sources: Mapping[str, str]) -> None:
    """Insist that the stored form writes, word for word, the forwards that a model runs.

    Args:
        rewriting: as read back.
        sources: module path → the source of its forward.

    Raises:
        ModelError: a forward holds an object that has no JSON form.
    """
    for path, emission, source in rewriting.forwards():
        for value in emission.names.values():
            if isinstance(value, Opaque):
                raise ModelError(
                    f"The forward of {path or 'the model'} holds a {value.kind}, which cannot be stored; "
                    "pass it as an argument or build it inside the forward."
                )
        if source != sources.get(path):
            raise ModelError(f"The forward of {path or 'the model'} was changed after the cut and cannot be stored.")


def _encode_growth(
    growth: Growth | None, graph: Graph, roots: Sequence[int], whole: Collection[int] | None
) -> Json | None:
    if growth is None or growth.other is None:
        return None
    objects = Objects()
    literals: dict[str, dict[str, list[Any]]] = {}
    for node in graph.nodes:
        if node.op in (INPUT, TENSOR) or (whole is not None and node.call not in whole):
            continue
        one, two = growth.graph.node(node.name).args, growth.other.node(node.name).args
        keys = [k for k, v in one.items() if v != two[k]]
        differing = {k: [encode_value(one[k], objects), encode_value(two[k], objects)] for k in keys}
        if differing:
            literals[node.name] = differing
    refs = {leaf for root in roots for leaf in graph.calls[root].in_leaves if isinstance(leaf, Ref)}
    known = {n.name for n in growth.graph.nodes}
    shapes = [
        [r.node, r.index, list(growth.graph.meta(r).shape), list(growth.other.meta(r).shape)]
        for r in sorted(refs, key=lambda r: (r.node, r.index))
        if r.node in known
    ]
    return {"literals": literals, "shapes": shapes}


def _decode_growth(data: Any, graph: Graph) -> Growth:
    if data is None:
        return Growth(graph, None)
    return Growth(_at_batch(data, graph, 0), _at_batch(data, graph, 1))


def _at_batch(data: Json, graph: Graph, which: int) -> Graph:
    """Return the nodes of ``graph`` with nothing but what differs between the two batch sizes."""
    objects = Objects()
    shapes: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, index, *pair in data["shapes"]:
        shapes.setdefault(name, {})[index] = decode_shape(pair[which])

    def reduced(node: Node) -> Node:
        literals = data["literals"].get(node.name, {})
        args = {k: decode_value(pair[which], objects) for k, pair in literals.items()}
        found = shapes.get(node.name, {})
        outputs = tuple(
            TensorMeta(found[i], m.dtype) if m is not None and i in found else m for i, m in enumerate(node.outputs)
        )
        return dataclasses.replace(node, args=args, outputs=outputs)

    return dataclasses.replace(graph, nodes=tuple(map(reduced, graph.nodes)), _by_name={})
