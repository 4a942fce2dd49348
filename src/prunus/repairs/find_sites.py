"""The search for the sites of a program: its layers and norms that a repair can refit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from prunus.foundation.registry import Registry
from prunus.graph.ir import TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.rules.context import base_name
from prunus.repairs.rnn_cells import AnySite, Recurrent, recurrent_site
from prunus.repairs.sites import Kind, Norm, Site

_Find = Callable[[Node, "Owners"], "AnySite | None"]
_FINDERS: Registry[_Find] = Registry("repair site")


class Owners:
    """A lookup of the tensor that a value is, and of how often the program reads it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._tensor = {n.name: n.tensor for n in graph.nodes if n.op == TENSOR}
        uses = [ref.node for node in graph.nodes for ref in refs_in(node.args)]
        uses += [ref.node for ref in refs_in(list(graph.outputs))]
        self.uses = Counter(self._tensor[name] for name in uses if name in self._tensor)
        self._shape = {name: info.shape for name, info in graph.tensors.items()}
        self._kind = {name: info.kind for name, info in graph.tensors.items()}

    def name(self, value: object, kind: str = "parameter") -> str:
        """Return the tensor's name if it is of this kind, else ""."""
        name = self._tensor.get(value.node, "") if isinstance(value, Ref) else ""
        return name if name and self._kind.get(name) == kind else ""

    def own(self, value: object, kind: str = "parameter") -> str:
        """Return the tensor's name if it is of this kind and read once, else ""."""
        name = self.name(value, kind)
        return name if name and self.uses[name] == 1 else ""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._shape[name]


def find_sites(graph: Graph) -> dict[str, AnySite]:
    """Return node name → its site, in the order of the program.

    A weight that several layers read in the same way has one site, at the first of them, which names the others. A
    weight that is also read in another way, such as a tied embedding table, has none.
    """
    owners = Owners(graph)
    sites: dict[str, AnySite] = {}
    readers: dict[str, list[Site]] = {}
    for node in graph.nodes:
        finder = _FINDERS.find(base_name(node.op)) if node.op.startswith("aten.") else None
        site = finder(node, owners) if finder is not None else None
        if site is not None:
            sites[node.name] = site
        if isinstance(site, Site):
            readers.setdefault(site.tensor, []).append(site)
    for tensor, alike in readers.items():
        for reader in alike:
            del sites[reader.node]
        if owners.uses[tensor] == len(alike) and len({(s.kind, s.groups, s.shape, s.turned) for s in alike}) == 1:
            sites[alike[0].node] = _joined(alike, owners)
    return {node.name: sites[node.name] for node in graph.nodes if node.name in sites}


def _joined(sites: list[Site], owners: Owners) -> Site:
    """Return one site for all readers of a weight.

    It has a bias only if all readers share one and no other node reads it.
    """
    bias = sites[0].bias
    if not bias or any(site.bias != bias for site in sites) or owners.uses[bias] != len(sites):
        bias = ""
    own = [replace(site, bias=bias, constant=None if bias else site.constant) for site in sites]
    return replace(own[0], others=tuple(own[1:]))


@_FINDERS.register("linear")
def _linear(node: Node, owners: Owners) -> Site | None:
    return _site(node, "linear", ("input", "weight", "bias"), owners)


@_FINDERS.register("matmul", "mm")
def _matmul(node: Node, owners: Owners) -> Site | None:
    return _site(node, "linear", ("self", "mat2" if "mat2" in node.args else "other", ""), owners, turned=True)


@_FINDERS.register("addmm")
def _addmm(node: Node, owners: Owners) -> Site | None:
    plain = node.get("alpha", 1) == 1 and node.get("beta", 1) == 1
    return _site(node, "linear", ("mat1", "mat2", "self"), owners, turned=True) if plain else None


@_FINDERS.register("conv1d", "conv2d", "conv3d")
def _convolution(node: Node, owners: Owners) -> Site | None:
    return _site(node, "conv", ("input", "weight", "bias"), owners)


@_FINDERS.register("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(node: Node, owners: Owners) -> Site | None:
    return _site(node, "transposed", ("input", "weight", "bias"), owners)


def _site(node: Node, kind: Kind, keys: tuple[str, str, str], owners: Owners, *, turned: bool = False) -> Site | None:
    """Return the site of a node; ``keys`` name its input, weight and bias."""
    name, source, constant = owners.name(node.get(keys[1])), node.get(keys[0]), node.get(keys[2])
    if not name or not isinstance(source, Ref):
        return None
    shape, groups = owners.shape(name), int(node.get("groups", 1))
    if kind == "linear" and len(shape) != 2:
        return None
    outputs = shape[1] * groups if turned or kind == "transposed" else shape[0]
    bias = owners.name(constant)
    if bias and owners.shape(bias) != (outputs,):
        bias = ""
    constant = constant if isinstance(constant, Ref) else None
    return Site(node.name, kind, name, bias, groups, shape, source, turned, constant)


@_FINDERS.register("batch_norm")
def _batch_norm(node: Node, owners: Owners) -> Norm | None:
    mean, variance = (owners.own(node.get(key), "buffer") for key in ("running_mean", "running_var"))
    if node.get("training") or not mean or not variance:
        return None
    return _norm(node, owners, mean, variance, 1)


@_FINDERS.register("layer_norm", "rms_norm")
def _layer_norm(node: Node, owners: Owners) -> Norm | None:
    return _norm(node, owners, "", "", -1) if len(node.args["normalized_shape"]) == 1 else None


@_FINDERS.register("group_norm", "instance_norm")
def _group_norm(node: Node, owners: Owners) -> Norm | None:
    return None if node.get("running_mean") is not None else _norm(node, owners, "", "", 1)


def _norm(node: Node, owners: Owners, mean: str, variance: str, dim: int) -> Norm | None:
    weight, bias = owners.own(node.get("weight")), owners.own(node.get("bias"))
    if not weight and not mean:
        return None
    return Norm(node.name, weight, bias, mean, variance, node.args["input"], dim)


@_FINDERS.register("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(node: Node, owners: Owners) -> Recurrent | None:
    return recurrent_site(owners.graph, node, base_name(node.op), owners.own)
