"""Blocks: branches that can be dropped, and modules of a class that repeats; any two are nested or disjoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prunus.graph.coupling import Coupling
from prunus.tree.branches import Branch
from prunus.tree.layers import Layer

_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")


@dataclass(frozen=True, slots=True)
class Block:
    """A group of layers that belong together.

    Attributes:
        name: name of the module or the branch.
        module: path of the module with exactly these layers, or empty.
        branch: id of the branch with exactly these layers, or empty.
        join: node at which the branch ends, or empty.
        layers: indices of its layers.
    """

    name: str
    module: str
    branch: str
    join: str
    layers: frozenset[int]


def find_blocks(coupling: Coupling, layers: Sequence[Layer], branches: Iterable[Branch]) -> tuple[Block, ...]:
    """Return blocks of which any two are nested or disjoint, the larger first.

    Of two blocks that overlap otherwise the larger one stays. A branch and a module with the same layers are one block.
    """
    modules = _Modules.of(coupling, layers)
    single = [_of_branch(b, modules) for b in branches]
    candidates = [*_repeated(modules), *_parallel(modules, single), *single]
    blocks: dict[frozenset[int], Block] = {}
    for block in sorted(candidates, key=lambda b: (-len(b.layers), min(b.layers, default=0))):
        inside = block.layers
        if not inside or len(inside) == len(layers):
            continue
        same = blocks.get(inside)
        if same is not None:
            blocks[inside] = Block(
                same.name, same.module or block.module, same.branch or block.branch, same.join or block.join, inside
            )
        elif all(inside <= other or inside.isdisjoint(other) for other in blocks):
            blocks[inside] = block
    return tuple(blocks.values())


@dataclass(frozen=True, slots=True)
class _Modules:
    """The layers, module path → class, and module path → indices of the layers inside."""

    layers: Sequence[Layer]
    kinds: Mapping[str, str]
    inside: Mapping[str, frozenset[int]]

    @staticmethod
    def of(coupling: Coupling, layers: Sequence[Layer]) -> _Modules:
        inside: dict[str, set[int]] = {path: set() for path in coupling.graph.modules}
        for i, layer in enumerate(layers):
            parts = layer.path.split(".")
            for n in range(1, len(parts) + 1):
                inside.get(".".join(parts[:n]), set()).add(i)
        return _Modules(layers, coupling.graph.modules, {path: frozenset(indices) for path, indices in inside.items()})

    def exactly(self, path: str, layers: frozenset[int]) -> str:
        """Return ``path`` if the module holds exactly these layers, else an empty string."""
        return path if layers and self.inside.get(path) == layers else ""


def _of_branch(branch: Branch, modules: _Modules) -> Block:
    """Return the block of a branch: the layers that lose all parameters and all products with it."""
    tensors = set(branch.tensors)
    inside = frozenset(
        i
        for i, layer in enumerate(modules.layers)
        if layer.shapes.keys() <= tensors and branch.nodes.issuperset(layer.nodes)
    )
    return Block(branch.id, modules.exactly(branch.id, inside), branch.id, branch.join, inside)


def _repeated(modules: _Modules) -> list[Block]:
    """Return the modules with at least two matrices whose class occurs more than once, without plain containers."""
    matrices = {i for i, layer in enumerate(modules.layers) if any(len(shape) > 1 for shape in layer.shapes.values())}
    composite = [path for path, indices in modules.inside.items() if path and len(indices & matrices) > 1]
    counts = Counter(modules.kinds[path] for path in composite)
    return [
        Block(path, path, "", "", modules.inside[path])
        for path in composite
        if counts[modules.kinds[path]] > 1 and modules.kinds[path].rpartition(".")[2] not in _CONTAINERS
    ]


def _parallel(modules: _Modules, branches: Sequence[Block]) -> list[Block]:
    """Return a block for all branches of one join together, where they are the whole module around them."""
    joined: dict[str, list[Block]] = {}
    for branch in branches:
        joined.setdefault(branch.join, []).append(branch)
    blocks = []
    for group in joined.values():
        layers = frozenset(i for branch in group for i in branch.layers)
        module = next((path for path in modules.inside if path and modules.exactly(path, layers)), "")
        if len(group) > 1 and module:
            blocks.append(Block(module, module, "", "", layers))
    return blocks
