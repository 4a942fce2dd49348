"""The tree record: network › stage › block › layer › unit, with windows and weights counted on demand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prunus.errors import OptionError, SelectorError, nearest
from prunus.plans import Cost

LEVELS = ("network", "stage", "block", "layer", "unit", "window", "weight")


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One part of the network.

    Attributes:
        id: the path from the root, ``stage2/layer2.0/conv1/channels``; the root is the empty string.
        level: network, stage, block, layer or unit; blocks may lie in blocks, a layer may lie in a stage directly.
        name: the last part of the id.
        parent: id of the node around it.
        children: ids, in the order of execution.
        module: path of the module; empty where the part is no module.
        kind: class of the module, or kind of the units.
        axis: id of the removable axis of units; empty for parts that cannot be removed.
        units: number of units of an axis; 0 above that level.
        branch: id of the branch that a block is; empty where the block cannot be dropped.
        price: exact price, the sum of the children's. A weight belongs to the units that write it.
        shapes: tensor name → shape of a layer's own parameters.
    """

    id: str
    level: str
    name: str
    parent: str
    children: tuple[str, ...]
    module: str
    kind: str
    axis: str
    units: int
    branch: str
    price: Cost
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Tree:
    """The hierarchy of a network; holds names and numbers only."""

    nodes: Mapping[str, TreeNode]
    stages: str

    @property
    def root(self) -> TreeNode:
        """The whole network."""
        return self.nodes[""]

    def node(self, name: str) -> TreeNode:
        """Return the node with this id; an unknown one names the nearest."""
        if name not in self.nodes:
            raise SelectorError(f"No node {name!r} in the tree.{nearest(name, self.nodes)}")
        return self.nodes[name]

    def children(self, name: str) -> tuple[TreeNode, ...]:
        """Return the children of a node."""
        return tuple(self.nodes[child] for child in self.node(name).children)

    def below(self, name: str = "") -> Iterator[TreeNode]:
        """Yield a node and all nodes inside it, each before its children, in the order of execution."""
        node = self.node(name)
        yield node
        for child in node.children:
            yield from self.below(child)

    def at(self, level: str) -> tuple[TreeNode, ...]:
        """Return all nodes of a level.

        Raises:
            OptionError: an unknown level, or windows and weights, which are counted but not listed.
        """
        if level not in LEVELS[:5]:
            raise OptionError(f"level is {level!r}; allowed: {', '.join(LEVELS[:5])}.")
        return tuple(node for node in self.below() if node.level == level)

    def windows(self, name: str, rows: int, columns: int) -> int:
        """Count the tiles of ``rows`` × ``columns`` in the weights of a node, on the matrix view (O, I·K).

        Σ over weights of ⌈O / rows⌉ · ⌈I·K / columns⌉; vectors such as biases have none.
        """
        if rows < 1 or columns < 1:
            raise OptionError(f"A window is {rows} × {columns}; allowed are sides of at least 1.")
        shapes = [shape for node in self.below(name) for shape in node.shapes.values() if len(shape) > 1]
        return sum(-(-shape[0] // rows) * -(-math.prod(shape[1:]) // columns) for shape in shapes)

    def weights(self, name: str) -> int:
        """Count the single weights of a node: its parameters."""
        return self.node(name).price.params

    def axes(self, name: str = "") -> tuple[str, ...]:
        """Return the ids of the removable axes of a node's units, in the order of execution."""
        return tuple(dict.fromkeys(node.axis for node in self.below(name) if node.axis))
