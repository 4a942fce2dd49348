"""Blocks: branches that can be dropped, and modules of a class that repeats; laid in each other or side by side."""

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
    """Some layers that belong together.

    Attributes:
        name: of the module or the branch.
        module: path of the module that is exactly this, or empty.
        branch: id of the branch that is exactly this, or empty.
        join: node at which the branch ends, or empty.
        layers: indices of its layers.
    """

    name: str
    module: str
    branch: str
    join: str
    layers: frozenset[int]


def find_blocks(coupling: Coupling, layers: Sequence[Layer], branches: Iterable[Branch]) -> tuple[Block, ...]:
    """Return blocks any two of which are nested or apart, the larger first.

    Of two that overlap otherwise the larger one stays. A branch and a module with the same layers are one block.
    """
    modules = _Modules.of(coupling, layers)
    single = [_of_branch(b, modules) for b in branches]
    wanted = [*_repeated(modules), *_parallel(modules, single), *single]
    found: dict[frozenset[int], Block] = {}
    for block in sorted(wanted, key=lambda b: (-len(b.layers), min(b.layers, default=0))):
        inside = block.layers
        if not inside or len(inside) == len(layers):
            continue
        same = found.get(inside)
        if same is not None:
            found[inside] = Block(
                same.name, same.module or block.module, same.branch or block.branch, same.join or block.join, inside
            )
        elif all(inside <= other or inside.isdisjoint(other) for other in found):
            found[inside] = block
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class _Modules:
    """The layers, and module path → class, and which layers lie in it."""

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
        return _Modules(layers, coupling.graph.modules, {path: frozenset(found) for path, found in inside.items()})

    def exactly(self, path: str, layers: frozenset[int]) -> str:
        """Return a path if just these layers lie in it, else nothing."""
        return path if layers and self.inside.get(path) == layers else ""


def _of_branch(branch: Branch, modules: _Modules) -> Block:
    """A layer lies in a branch if all of its parameters and all of its products fall away with it."""
    tensors = set(branch.tensors)
    inside = frozenset(
        i
        for i, layer in enumerate(modules.layers)
        if layer.shapes.keys() <= tensors and branch.nodes.issuperset(layer.nodes)
    )
    return Block(branch.id, modules.exactly(branch.id, inside), branch.id, branch.join, inside)


def _repeated(modules: _Modules) -> list[Block]:
    """Modules whose class occurs more than once and that hold two matrices at least; plain containers are none."""
    matrices = {i for i, layer in enumerate(modules.layers) if any(len(shape) > 1 for shape in layer.shapes.values())}
    composite = [path for path, found in modules.inside.items() if path and len(found & matrices) > 1]
    counts = Counter(modules.kinds[path] for path in composite)
    return [
        Block(path, path, "", "", modules.inside[path])
        for path in composite
        if counts[modules.kinds[path]] > 1 and modules.kinds[path].rpartition(".")[2] not in _CONTAINERS
    ]


def _parallel(modules: _Modules, branches: Sequence[Block]) -> list[Block]:
    """Branches that end in one join, taken together, where they are the whole of the module around them."""
    joined: dict[str, list[Block]] = {}
    for branch in branches:
        joined.setdefault(branch.join, []).append(branch)
    found = []
    for beside in joined.values():
        layers = frozenset(i for branch in beside for i in branch.layers)
        module = next((path for path in modules.inside if path and modules.exactly(path, layers)), "")
        if len(beside) > 1 and module:
            found.append(Block(module, module, "", "", layers))
    return found
