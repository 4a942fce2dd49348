"""Names of axes: each axis is named after the first tensor that produces its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunus.graph.axis import Axis, Member
from prunus.graph.ir import INPUT, TENSOR, Graph, Ref
from prunus.graph.layout import atoms_of
from prunus.graph.rules.context import base_name


def label(members: Sequence[Member], atom: int, roles: Mapping[str, str], taken: Mapping[str, Axis]) -> str:
    """Name an axis after its first producer, ``layer1.conv:out``; a factor gets its index too, ``qkv:out[1]``."""
    named = [(m, _role(m, roles)) for m in members]
    producer, role = min(named, key=lambda pair: (pair[1] != "out", not pair[0].tensor.endswith("weight")))
    inside = list(dict.fromkeys(atoms_of(producer.expr)))
    path = producer.tensor.rpartition(".")[0]
    name = f"{path}:{role}" + (f"[{inside.index(atom)}]" if len(inside) > 1 else "")
    number, label = 1, name
    while label in taken:
        number += 1
        label = f"{name}#{number}"
    return label


def _role(member: Member, roles: Mapping[str, str]) -> str:
    leaf = member.tensor.rpartition(".")[2]
    if not leaf.startswith("weight") or member.dim > 1:
        return f"{leaf}.{member.dim}"
    first = roles.get(member.tensor, "out")
    return first if member.dim == 0 else "in" if first == "out" else "out"


def first_roles(graph: Graph) -> dict[str, str]:
    """Return tensor → role of dim 0 for weights whose dim 0 is not the outputs: transposed layers and embeddings."""
    operand = {"embedding": "weight", "embedding_bag": "weight", "addmm": "mat2", "mm": "mat2", "matmul": "other"}
    roles = {}
    for node in graph.nodes:
        name = base_name(node.op) if node.op not in (INPUT, TENSOR) else ""
        ref = node.get("weight" if name.startswith("conv_transpose") else operand.get(name, ""))
        if isinstance(ref, Ref) and graph.node(ref.node).op == TENSOR:
            roles[graph.node(ref.node).tensor] = "rows" if name.startswith("embedding") else "in"
    return roles
