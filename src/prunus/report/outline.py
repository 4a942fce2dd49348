"""The outline of a plan: widths, parameters and MACs of every stage, block and layer, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prunus.cost.price import CostModel, cost_model
from prunus.graph.coupling import Coupling
from prunus.plans import Plan
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.tree import Tree, TreeNode, grow_tree, structure_rows
from prunus.tree.layers import Layer, find_layers

MOST_CELLS = 16
"""The largest number of layers in one line; more continue in the next line."""

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """A stage, block or layer before and after a plan.

    Attributes:
        id, level, name, kind: as in the tree.
        units: before and after, on the output dim of its largest parameter; (0, 0) if it is no single layer.
        params: before and after; after counts parameters that are neither removed nor masked.
        stored: parameters that are neither removed nor dropped, masked ones among them.
        macs: before and after, for one sample.
        why: the plan's reasons for its decisions here.
        children: the parts in the order of execution; layers that only scale and shift are counted, not listed.
    """

    id: str
    level: str
    name: str
    kind: str
    units: Pair
    params: Pair
    stored: int
    macs: Pair
    why: tuple[str, ...]
    children: tuple[Part, ...]

    @property
    def dropped(self) -> bool:
        """Return whether nothing of it is left."""
        return not self.stored and not self.macs[1]

    def leaves(self) -> Iterator[Part]:
        """Yield the layers inside, or the layer itself."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a picture.

    Attributes:
        part, depth: the stage, block or layer, and its depth.
        cells: the layers drawn in it; none if they follow as lines of their own.
        start: the number of its first cell among the layers of the part; above 0 it continues the previous line.
    """

    part: Part
    depth: int
    cells: tuple[Part, ...]
    start: int = 0


def outline(coupling: Coupling, plan: Plan) -> Part:
    """Return the tree of a network before and after a plan; the prices of the root are those of the plan.

    Args:
        coupling: the analysed model.
        plan: a plan for this model.
    """
    tree = grow_tree(coupling)
    return _Outlining(coupling, plan, tree).part(tree.root)


def lines(root: Part, most: int = 64) -> list[Line]:
    """Lay an outline out in at most ``most`` lines; if it is longer, the deepest levels are drawn side by side.

    If even the stages alone need more lines, they get them.
    """
    for deepest in range(_depth(root), 0, -1):
        found = [line for child in root.children for line in _lines(child, 0, deepest - 1)]
        if len(found) <= most or deepest == 1:
            return found
    return []


def _depth(part: Part) -> int:
    return 1 + max(map(_depth, part.children)) if part.children else 0


def _lines(part: Part, depth: int, deepest: int) -> Iterator[Line]:
    if not part.children or depth == deepest:
        cells = tuple(part.leaves())
        yield from (Line(part, depth, cells[i : i + MOST_CELLS], i) for i in range(0, len(cells), MOST_CELLS))
        return
    yield Line(part, depth, ())
    for child in part.children:
        yield from _lines(child, depth + 1, deepest)


class _Outlining:
    """Adds up the remaining parameters and MACs, from the layers upwards."""

    def __init__(self, coupling: Coupling, plan: Plan, tree: Tree) -> None:
        self.coupling, self.plan, self.tree = coupling, plan, tree
        whole = cost_model(coupling)
        left = _left(coupling, plan, whole)
        self.layers: Mapping[str, Layer] = {layer.path: layer for layer in find_layers(whole)}
        self.before = {**whole.amounts(whole.params, {}), **whole.amounts(whole.macs, {})}
        self.after = {**left.amounts(left.params, plan.axes), **left.amounts(left.macs, plan.axes)}
        self.units = {row.name: (row.units_before, row.units_after) for row in structure_rows(coupling, plan)}
        self.reasons = {d.node: d.reason for d in plan.decisions}

    def part(self, node: TreeNode) -> Part:
        """Return a node with everything inside it."""
        if node.level == "layer":
            return self._layer(node)
        children = [self.part(child) for child in self.tree.children(node.id)]
        group = Part(
            id=node.id,
            level=node.level,
            name=node.name or "network",
            kind=node.kind,
            units=(0, 0),
            params=_sum(c.params for c in children),
            stored=sum(c.stored for c in children),
            macs=_sum(c.macs for c in children),
            why=self._why([node.branch, node.module]),
            children=tuple(c for c in children if c.units[0] or c.children),
        )
        return _folded(group)

    def _layer(self, node: TreeNode) -> Part:
        layer = self.layers[node.module]
        names, nodes = tuple(layer.shapes), layer.nodes
        before = sum(self.before[n] for n in names)
        wide = any(len(shape) > 1 for shape in layer.shapes.values())
        axes = [child.axis for child in self.tree.children(node.id) if child.kind != "inputs"]
        return Part(
            id=node.id,
            level="layer",
            name=node.name,
            kind=node.kind,
            units=self.units.get(node.module or "(root)", (0, 0)) if wide else (0, 0),
            params=(before, sum(map(self._nonzero, names))),
            stored=sum(self.after.get(n, 0) for n in names),
            macs=(
                sum(self.before[n] for n in nodes),
                sum(self.after.get(n, 0) for n in nodes),
            ),
            why=self._why([*axes, *names]),
            children=(),
        )

    def _nonzero(self, name: str) -> int:
        stored = self.after.get(name, 0)
        if not stored or name not in self.plan.masks:
            return stored
        stays = [self.coupling.mask(expr, self.plan.axes) for expr in self.coupling.tensors[name]]
        mask = self.plan.masks[name]
        return int(np.count_nonzero(mask[np.ix_(*stays)] if stays else mask))

    def _why(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.reasons[n] for n in names if n in self.reasons))


def _left(coupling: Coupling, plan: Plan, whole: CostModel) -> CostModel:
    if not plan.drops and all(mask.any() for mask in plan.axes.values()):
        return whole
    return cost_model(coupling, rewrite(coupling, plan.axes, plan.drops))


def _folded(group: Part) -> Part:
    """Show a stage or block with a single part as that part, under both names and with the outer price."""
    if group.level == "network" or len(group.children) != 1:
        return group
    (only,) = group.children
    why = tuple(dict.fromkeys((*group.why, *only.why)))
    name = f"{group.name}/{only.name}"
    return replace(
        group, level=only.level, name=name, kind=only.kind, units=only.units, why=why, children=only.children
    )


def _sum(pairs: Iterable[Pair]) -> Pair:
    found = list(pairs)
    return sum(a for a, _ in found), sum(b for _, b in found)
