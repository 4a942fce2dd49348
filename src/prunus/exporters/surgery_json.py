"""The record from which the new forwards of a cut model are written again ⇄ JSON: edited graph and growing sizes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from prunus.errors import ModelError
from prunus.exporters.graph_json import Json, decode_graph, encode_graph
from prunus.exporters.value_json import Objects, Opaque, decode_shape, decode_value, encode_value
from prunus.foundation.user_code import one_line
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, TensorMeta
from prunus.surgery.record import Surgery
from prunus.surgery.rewriting.emit import Emission
from prunus.surgery.rewriting.splice import Splice, write_forward
from prunus.surgery.rewriting.symbolic_sizes import Growth, Variation, members


@dataclasses.dataclass(frozen=True, slots=True)
class Rewriting:
    """The stored part of a `Surgery`, read back.

    Attributes:
        splice: which calls have a new forward, in the edited graph; the root call alone stands for a whole program.
        growth: the literals that follow the sizes of the inputs.
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
        inlined, natives = list(range(1, len(graph.calls))), {0: frozenset[int]()}
    elif surgery.splice is not None:
        splice = surgery.splice
        roots, inlined, graph = sorted(splice.stale), sorted(splice.inlined), splice.graph
        whole, natives = set(roots) | set(inlined), {root: splice.natives(root) for root in roots}
    else:
        return None
    return {
        "calls": roots,
        "inlined": inlined,
        "graph": encode_graph(graph, whole=whole),
        "growth": _encode_growth(surgery.growth, graph, natives, whole),
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
        raise ModelError(
            f"{where} is damaged: {type(error).__name__} {one_line(error, 200)}; save the model again."
        ) from error
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
    growth: Growth | None, graph: Graph, roots: Mapping[int, frozenset[int]], whole: Collection[int] | None
) -> Json | None:
    """Write what differs between the sizes: every such literal and shape, as captured and in each variation."""
    if growth is None or not growth.others:
        return None
    objects = Objects()
    programs = [growth.graph, *(o.graph for o in growth.others)]
    held = {
        n.name: growth.held(graph, root, natives)
        for root, natives in roots.items()
        for n in members(graph, root, natives)
    }
    literals: dict[str, dict[str, list[Any]]] = {}
    for node in graph.nodes:
        if node.op in (INPUT, TENSOR) or (whole is not None and node.call not in whole):
            continue
        for key, first in programs[0].node(node.name).args.items():
            # A forward that cannot follow a variation is stored as if nothing in it changed.
            fixed = held.get(node.name, {})
            values = [
                first,
                *(first if k in fixed else g.node(node.name).args[key] for k, g in enumerate(programs[1:])),
            ]
            if any(v != first for v in values):
                literals.setdefault(node.name, {})[key] = [encode_value(v, objects) for v in values]
    refs = {leaf for root in roots for leaf in graph.calls[root].in_leaves if isinstance(leaf, Ref)}
    known = {n.name for n in growth.graph.nodes}
    shapes = [
        [r.node, r.index, *(list(g.meta(r).shape) for g in programs)]
        for r in sorted(refs, key=lambda r: (r.node, r.index))
        if r.node in known
    ]
    return {"names": [o.name for o in growth.others], "literals": literals, "shapes": shapes}


def _decode_growth(data: Any, graph: Graph) -> Growth:
    if data is None:
        return Growth(graph)
    names = data.get("names", ["dim 0 of the inputs"])  # the first format knew the batch alone
    rows = [*(v for node in data["literals"].values() for v in node.values()), *(s[2:] for s in data["shapes"])]
    if any(len(row) != len(names) + 1 for row in rows):
        raise ValueError(f"a size without its value in each of {len(names)} variations")
    others = tuple(Variation(str(name), _at_size(data, graph, i + 1)) for i, name in enumerate(names))
    return Growth(_at_size(data, graph, 0), others)


def _at_size(data: Json, graph: Graph, which: int) -> Graph:
    """Return the nodes of ``graph`` with nothing but what differs between the sizes."""
    objects = Objects()
    shapes: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, index, *sizes in data["shapes"]:
        shapes.setdefault(name, {})[index] = decode_shape(sizes[which])

    def reduced(node: Node) -> Node:
        literals = data["literals"].get(node.name, {})
        args = {k: decode_value(values[which], objects) for k, values in literals.items()}
        found = shapes.get(node.name, {})
        outputs = tuple(
            TensorMeta(found[i], m.dtype) if m is not None and i in found else m for i, m in enumerate(node.outputs)
        )
        return dataclasses.replace(node, args=args, outputs=outputs)

    return dataclasses.replace(graph, nodes=tuple(map(reduced, graph.nodes)), _by_name={})
