"""Growth of the tree from graph and modules: layers in blocks, blocks in stages, stages in the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prunus.cost.price import cost_model
from prunus.foundation.arguments import door
from prunus.graph.coupling import Coupling
from prunus.plans import Cost
from prunus.tree.blocks import Block, find_blocks
from prunus.tree.branches import find_branches
from prunus.tree.layers import Layer, Units, find_layers, free_name, total
from prunus.tree.levels import Tree, TreeNode
from prunus.tree.stages import Item, divide_stages


@door()
def grow_tree(coupling: Coupling, stages: str = "feature", count: int | None = None) -> Tree:
    """Build the hierarchy of a network: network › stage › block › layer › unit.

    Blocks are branches that can be dropped and modules whose class repeats; blocks may be nested. Layers are modules
    with parameters, or products, of their own; units are the axes on them. Every parameter and
    every op is counted once, so the prices of the children of a node add up to its own.

    Args:
        coupling: the analysed model.
        stages: ``feature`` (where resolution or the residual axis changes), ``depth`` (equal parts by index), or
            ``connections`` (equal parts by parameters).
        count: number of stages, for ``depth`` and ``connections``; 4 by default.

    Raises:
        OptionError: an unknown division, or a count that does not fit.

    Example:
        >>> import torch
        >>> from prunus.graph.capture import capture
        >>> from prunus.graph.coupling import couple
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> tree = grow_tree(couple(capture(net, torch.zeros(1, 4))))
        >>> [(node.id, node.price.params) for node in tree.below("stage1")]  # doctest: +NORMALIZE_WHITESPACE
        [('stage1', 58), ('stage1/0', 40), ('stage1/0/neurons', 40),
         ('stage1/2', 18), ('stage1/2/inputs', 16), ('stage1/2/fixed', 2)]
    """
    layers = find_layers(cost_model(coupling))
    blocks = find_blocks(coupling, layers, find_branches(coupling))
    outline = _Outline(layers, blocks, _inner(blocks))
    top = outline.ordered(-1)
    items = [outline.item(part) for part in top]
    growing = _Growing(outline, coupling.graph.modules, {})
    division = divide_stages(coupling, items, stages, count)
    ids = []
    for stage in range(max(division, default=-1) + 1):
        name = f"stage{stage + 1}"
        mine = [part for part, number in zip(top, division, strict=True) if number == stage]
        growing.add(TreeNode(name, "stage", name, "", growing.parts(mine, name, ()), "", "", "", 0, "", _ZERO, {}))
        ids.append(name)
    kind = coupling.graph.modules.get("", "").rpartition(".")[2]
    growing.add(TreeNode("", "network", "", "", tuple(ids), "", kind, "", 0, "", _ZERO, {}))
    return Tree(dict(reversed(growing.nodes.items())), stages)


_ZERO = Cost(0, 0, 0, 0)
_Part = Block | Layer


@dataclass(frozen=True, slots=True)
class _Outline:
    """The blocks, and block → the blocks directly inside it; −1 is the network."""

    layers: Sequence[Layer]
    blocks: Sequence[Block]
    inner: Mapping[int, Sequence[int]]

    def ordered(self, block: int) -> list[_Part]:
        """Return the blocks and layers directly inside a block, in the order of execution."""
        nested = [self.blocks[i] for i in self.inner.get(block, ())]
        inside = frozenset(range(len(self.layers))) if block < 0 else self.blocks[block].layers
        free = inside - frozenset(i for b in nested for i in b.layers)
        parts: list[tuple[int, _Part]] = [(min(b.layers), b) for b in nested]
        parts += [(i, self.layers[i]) for i in free]
        return [part for _, part in sorted(parts, key=lambda pair: pair[0])]

    def item(self, part: _Part) -> Item:
        """Return the properties of a part that the division into stages uses."""
        if isinstance(part, Layer):
            own = not any(other.path.startswith(f"{part.path}.") for other in self.layers) and part.path
            return Item(part.path if own else "", "", part.price.params, _multiplies(part))
        inside = [self.layers[i] for i in part.layers]
        multiplies = any(map(_multiplies, inside))
        return Item(part.module, part.join, sum(layer.price.params for layer in inside), multiplies)


def _multiplies(layer: Layer) -> bool:
    return any(len(shape) > 1 for shape in layer.shapes.values()) or bool(layer.nodes)


def _inner(blocks: Sequence[Block]) -> dict[int, list[int]]:
    """Return block → the blocks directly inside it, for blocks in falling order of size."""
    nested: dict[int, list[int]] = {}
    for i, block in enumerate(blocks):
        around = [j for j in range(i) if block.layers < blocks[j].layers]
        nested.setdefault(min(around, key=lambda j: len(blocks[j].layers), default=-1), []).append(i)
    return nested


@dataclass(frozen=True, slots=True)
class _Growing:
    """The nodes made so far, inner nodes first; the price of a node is the sum of its children's."""

    outline: _Outline
    kinds: Mapping[str, str]
    nodes: dict[str, TreeNode]

    def add(self, node: TreeNode) -> str:
        price = total(self.nodes[child].price for child in node.children) if node.children else node.price
        self.nodes[node.id] = replace(node, price=price)
        return node.id

    def parts(self, parts: Sequence[_Part], parent: str, around: tuple[str, ...]) -> tuple[str, ...]:
        """Add parts with their content; ``around`` holds the paths of the enclosing blocks, the nearest first."""
        taken: set[str] = set()
        return tuple(
            self._layer(part, parent, free_name(_short(part.path, around) or "own", taken))
            if isinstance(part, Layer)
            else self._block(part, parent, free_name(_short(part.name, around) or "main", taken), around)
            for part in parts
        )

    def _block(self, block: Block, parent: str, name: str, around: tuple[str, ...]) -> str:
        own, index = f"{parent}/{name}", self.outline.blocks.index(block)
        children = self.parts(self.outline.ordered(index), own, (block.module or block.name, *around))
        kind = self.kinds[block.module].rpartition(".")[2] if block.module else "branch"
        return self.add(
            TreeNode(own, "block", name, parent, children, block.module, kind, "", 0, block.branch, _ZERO, {})
        )

    def _layer(self, layer: Layer, parent: str, name: str) -> str:
        own = f"{parent}/{name}"
        children = tuple(self.add(_unit_node(unit, own, layer.path)) for unit in layer.units)
        return self.add(
            TreeNode(own, "layer", name, parent, children, layer.path, layer.kind, "", 0, "", _ZERO, layer.shapes)
        )


def _short(path: str, around: tuple[str, ...]) -> str:
    """Return a module path relative to the nearest enclosing module; empty for that module itself."""
    for outer in around:
        if path == outer:
            return ""
        if path.startswith(f"{outer}."):
            return path.removeprefix(f"{outer}.")
    return path


def _unit_node(unit: Units, parent: str, module: str) -> TreeNode:
    kind = unit.name.partition("#")[0]
    id_ = f"{parent}/{unit.name}"
    return TreeNode(id_, "unit", unit.name, parent, (), module, kind, unit.axis, unit.size, "", unit.price, {})
