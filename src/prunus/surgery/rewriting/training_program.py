"""Differences between a program in training and in evaluation: numbers, and dropout that the user's code switches.

They come from a second capture, in training mode.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunus.graph.capture import preserved, split_inputs
from prunus.graph.ir import Graph, Node, Ref
from prunus.graph.own_settings import entries
from prunus.graph.passes import drop_dead, fold_constants
from prunus.graph.recorder import record
from prunus.surgery.rewriting.align_programs import Alignment, Site, put
from prunus.surgery.rewriting.symbolic_sizes import Growth

_DROPOUT = ("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
# The capture in evaluation shows the numbers of these modules, and their ops have an argument that switches them.
_SEEN = ("torch.nn.modules.dropout", "torch.nn.modules.batchnorm", "torch.nn.modules.rnn")
# Numbers with these names are no dropout probability: a module with no other numbers needs no second capture.
_NO_CHANCES = ("scal", "eps", "momentum", "norm", "slope", "temperature", "theta")


class InTraining(float):
    """A literal with two values: as a float it has the value of evaluation.

    Example:
        >>> p = InTraining(0.0, 0.1)
        >>> (float(p), p.training)
        (0.0, 0.1)
    """

    __slots__ = ("training",)
    training: float

    def __new__(cls, value: float, training: float) -> InTraining:
        """Make a number from its values in evaluation and in training."""
        made = super().__new__(cls, value)
        made.training = float(training)
        return made

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]
        return float(self), self.training


@dataclass(frozen=True, slots=True)
class Dropout:
    """A dropout that runs in training only.

    Attributes:
        name: name of its node.
        op: its op.
        call: the module call whose forward runs it.
        value: its input.
        root: the value that its readers read in evaluation.
        p: its probability.
        sites: the places at which its readers name it.
    """

    name: str
    op: str
    call: int
    value: Ref
    root: Ref
    p: float
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """The differences between a program in training and in evaluation.

    Attributes:
        numbers: (node, argument) → value in training.
        dropouts: dropouts that run in training only.
    """

    numbers: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    dropouts: tuple[Dropout, ...] = ()

    def applied(self, graph: Graph, calls: Collection[int]) -> Graph:
        """Return a program in which the forwards of some calls follow the training mode too."""
        chosen = [d for d in self.dropouts if d.call in calls]
        if chosen:
            graph = _with_dropouts(graph, chosen)
        if not self.numbers:
            return graph
        nodes = tuple(self._switched(n) if n.call in calls else n for n in graph.nodes)
        return dataclasses.replace(graph, nodes=nodes, _by_name={})

    def grown(self, growth: Growth, calls: Collection[int]) -> Growth:
        """Return a program at several sizes, with the nodes that `applied` adds."""
        chosen = [d for d in self.dropouts if d.call in calls]
        if not chosen:
            return growth
        others = tuple(dataclasses.replace(o, graph=_with_dropouts(o.graph, chosen)) for o in growth.others)
        return Growth(_with_dropouts(growth.graph, chosen), others, growth.static)

    def _switched(self, node: Node) -> Node:
        changes = {
            key: InTraining(float(value), self.numbers[node.name, key])
            for key, value in node.args.items()
            if (node.name, key) in self.numbers
        }
        return dataclasses.replace(node, args={**node.args, **changes}) if changes else node


def _with_dropouts(graph: Graph, dropouts: Collection[Dropout]) -> Graph:
    for dropout in dropouts:
        names = {n.name for n in graph.nodes}
        if dropout.root.node in names:
            graph = _with_dropout(graph, dropout, dropout.value if dropout.value.node in names else dropout.root)
    return graph


def _with_dropout(graph: Graph, dropout: Dropout, value: Ref) -> Graph:
    """Insert a dropout, switched off as in evaluation, after its input."""
    own = Ref(dropout.name)
    before = graph.node(value.node)
    args = {"input": value, "p": dropout.p, "train": False}
    made = Node(dropout.name, dropout.op, args, (graph.meta(value),), call=dropout.call, order=before.order)
    graph = put(graph, dropout.sites, dropout.root, own)
    position = next(i for i, n in enumerate(graph.nodes) if n.name == before.name) + 1
    nodes = (*graph.nodes[:position], made, *graph.nodes[position:])
    return dataclasses.replace(graph, nodes=nodes, _by_name={})


def training_of(model: nn.Module, graph: Graph, example_inputs: Any) -> Training:
    """Capture a model in training mode and return the differences; none if it does not run on these inputs then.

    Args:
        model: the original.
        graph: its program in evaluation.
        example_inputs: the inputs of that capture.
    """
    other = _captured(model, graph, example_inputs)
    if other is None:
        return Training()
    aligned = Alignment.of(graph, other)
    numbers = {
        (a.name, key): value
        for a, b in aligned.pairs
        for key, value in b.args.items()
        if type(value) is float and type(a.args.get(key)) is float and a.args[key] != value and key != "momentum"
    }
    return Training(numbers, tuple(_dropouts(aligned)))


def _dropouts(aligned: Alignment) -> Iterator[Dropout]:
    roots: dict[str, Ref] = {}
    for node in aligned.two.nodes:
        if node.op not in _DROPOUT or node.name in aligned.names:
            continue
        read = node.args["input"]
        value, root = aligned.ref(read), roots.get(read.node, aligned.ref(read))
        if root is None or value is None or not node.args["p"]:
            continue  # evaluation does not compute its input
        name = f"{node.name}_in_training"
        roots[node.name] = root
        sites = tuple(aligned.sites(Ref(node.name), root))
        aligned.names[node.name] = name
        yield Dropout(name, node.op, aligned.call(node.call), value, root, float(node.args["p"]), sites)


def _captured(model: nn.Module, graph: Graph, example_inputs: Any) -> Graph | None:
    args, kwargs = split_inputs(example_inputs)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with preserved(model):
            for module in model.modules():
                module.training = True
            captured = record(model, args, kwargs, fake="fake" in graph.how)
    except Exception:
        return None
    finally:
        logging.disable(before)
    return drop_dead(fold_constants(drop_dead(captured)))


def may_switch(module: nn.Module) -> bool:
    """Return True if a forward may do something in training that its capture in evaluation does not show."""
    kind = type(module)
    code = getattr(kind.forward, "__code__", None)
    if kind.__module__ in _SEEN:
        return False
    if code is None:
        return True
    if not any(name == "training" or "drop" in name.lower() for name in code.co_names):
        return False
    return any(0 < x <= 1 for x in _chances(module, code.co_consts))


def _chances(module: nn.Module, constants: Collection[Any]) -> Iterator[float]:
    """Yield numbers that may be probabilities: in the code, the module, its dropouts and its config."""
    yield from (x for x in constants if type(x) is float)
    for holder in (module, *(m for m in module.children() if type(m).__module__ == _SEEN[0])):
        numbers = ((name.lower(), x) for name, x in vars(holder).items() if type(x) is float)
        yield from (x for name, x in numbers if not any(word in name for word in _NO_CHANCES))
    config = getattr(module, "config", None)
    settings = entries(config) if hasattr(config, "__dict__") else {}
    yield from (x for name, x in settings.items() if type(x) is float and "drop" in name.lower())
