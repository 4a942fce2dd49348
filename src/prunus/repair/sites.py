"""Where a network can be repaired: layers that own their weight, and the norms between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from prunus.graph.ir import TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.rules.flow import base_name
from prunus.registry import Registry

Kind = Literal["linear", "conv"]


@dataclass(frozen=True, slots=True)
class Site:
    """A layer y = Wx + b whose weight no other node reads, in the small program.

    Attributes:
        node: its name in the program.
        kind: ``linear`` or ``conv``.
        tensor, bias: names of weight and bias; the bias is "" where there is none, or where others read it.
        groups: of a grouped convolution, else 1.
        shape: of the weight.
        reads: the value it reads.
        turned: the weight is stored as (inputs, outputs), as in x @ W.
    """

    node: str
    kind: Kind
    tensor: str
    bias: str
    groups: int
    shape: tuple[int, ...]
    reads: Ref
    turned: bool = False

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as (G, O/G, D), D = inputs of a group × kernel positions."""
        rows = weight.t() if self.turned else weight
        return rows.reshape(self.groups, rows.shape[0] // self.groups, -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """Return what `matrix` was made from, in the shape of the weight."""
        flat = matrix.reshape(-1, matrix.shape[2])
        return flat.t().contiguous() if self.turned else flat.reshape(self.shape)

    @property
    def positions(self) -> int:
        """How many inputs of a group belong to one channel: the kernel's positions."""
        return math.prod(self.shape[2:]) if self.kind == "conv" else 1


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation with a scale of its own per channel.

    ``mean`` and ``variance`` name the running statistics of a batch norm, "" elsewhere; ``dim`` is the channels' dim.
    """

    node: str
    weight: str
    bias: str
    mean: str
    variance: str
    reads: Ref
    dim: int


_Find = Callable[[Graph, Node, "Owners"], "Site | Norm | None"]
_FINDERS: Registry[_Find] = Registry("repair site")


class Owners:
    """Says which tensor a value is, if no other node reads it."""

    def __init__(self, graph: Graph) -> None:
        self._tensor = {n.name: n.tensor for n in graph.nodes if n.op == TENSOR}
        uses = [ref.node for node in graph.nodes for ref in refs_in(node.args)]
        uses += [ref.node for ref in refs_in(list(graph.outputs))]
        self._uses = Counter(self._tensor[name] for name in uses if name in self._tensor)
        self._shape = {name: info.shape for name, info in graph.tensors.items()}
        self._kind = {name: info.kind for name, info in graph.tensors.items()}

    def own(self, value: object, kind: str = "parameter") -> str:
        """Return the tensor's name if it is of this kind and read once, else ""."""
        name = self._tensor.get(value.node, "") if isinstance(value, Ref) else ""
        return name if name and self._uses[name] == 1 and self._kind.get(name) == kind else ""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._shape[name]


def find_sites(graph: Graph) -> dict[str, Site | Norm]:
    """Return node name → where a repair is possible, in the order of the program."""
    owners = Owners(graph)
    found = {}
    for node in graph.nodes:
        finder = _FINDERS.find(base_name(node.op)) if node.op.startswith("aten.") else None
        here = finder(graph, node, owners) if finder is not None else None
        if here is not None:
            found[node.name] = here
    return found


@_FINDERS.register("linear")
def _linear(graph: Graph, node: Node, owners: Owners) -> Site | None:
    return _site(node, "linear", "input", "weight", "bias", owners)


@_FINDERS.register("matmul", "mm")
def _matmul(graph: Graph, node: Node, owners: Owners) -> Site | None:
    return _site(node, "linear", "self", "mat2" if "mat2" in node.args else "other", "", owners, turned=True)


@_FINDERS.register("addmm")
def _addmm(graph: Graph, node: Node, owners: Owners) -> Site | None:
    plain = node.get("alpha", 1) == 1 and node.get("beta", 1) == 1
    return _site(node, "linear", "mat1", "mat2", "self", owners, turned=True) if plain else None


@_FINDERS.register("conv1d", "conv2d", "conv3d")
def _convolution(graph: Graph, node: Node, owners: Owners) -> Site | None:
    return _site(node, "conv", "input", "weight", "bias", owners)


def _site(
    node: Node, kind: Kind, reads: str, weight: str, bias: str, owners: Owners, *, turned: bool = False
) -> Site | None:
    name, source = owners.own(node.get(weight)), node.get(reads)
    if not name or not isinstance(source, Ref):
        return None
    shape = owners.shape(name)
    if kind == "linear" and len(shape) != 2:
        return None
    own = owners.own(node.get(bias)) if bias else ""
    outputs = shape[1] if turned else shape[0]
    if own and owners.shape(own) != (outputs,):
        own = ""
    return Site(node.name, kind, name, own, int(node.get("groups", 1)), shape, source, turned)


@_FINDERS.register("batch_norm")
def _batch_norm(graph: Graph, node: Node, owners: Owners) -> Norm | None:
    mean, variance = (owners.own(node.get(key), "buffer") for key in ("running_mean", "running_var"))
    if node.get("training") or not mean or not variance:
        return None
    return _norm(node, owners, mean, variance, 1)


@_FINDERS.register("layer_norm", "rms_norm")
def _layer_norm(graph: Graph, node: Node, owners: Owners) -> Norm | None:
    return _norm(node, owners, "", "", -1) if len(node.args["normalized_shape"]) == 1 else None


@_FINDERS.register("group_norm", "instance_norm")
def _group_norm(graph: Graph, node: Node, owners: Owners) -> Norm | None:
    return None if node.get("running_mean") is not None else _norm(node, owners, "", "", 1)


def _norm(node: Node, owners: Owners, mean: str, variance: str, dim: int) -> Norm | None:
    weight, bias = owners.own(node.get("weight")), owners.own(node.get("bias"))
    if not weight and not mean:
        return None
    return Norm(node.name, weight, bias, mean, variance, node.args["input"], dim)
