"""The record of a cut, for checkpoints: mended integers, rewritten forwards and the graph they were written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunus.graph.ir import Graph
from prunus.plans import Mend
from prunus.surgery.rewriting.splice import Splice
from prunus.surgery.rewriting.symbolic_sizes import Growth

Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shipped:
    """A module of `prunus.nn` that replaces one of torch: its class and its sizes."""

    kind: str
    sizes: dict[str, int] = field(default_factory=dict)
    scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Surgery:
    """The changes that turn the user's model into the cut one.

    Attributes:
        mode: ``module`` (no forward rewritten), ``hybrid`` or ``graph``.
        attributes: module path → integer attribute → new value.
        spliced: paths of modules with a rewritten forward.
        splice: the calls that they were written from; None in module mode.
        growth: the program at several sizes of its inputs, for literals that follow them.
        program: the whole edited program, in graph mode.
        removed: paths of submodules that were deleted because nothing calls them any more.
        static: sentences that name the dims of the inputs that rewritten forwards cannot follow, with the reason.
        mended: numbers of the user's own modules, with their old values.
        shipped: module path → the module of `prunus.nn` that replaced it.
        forward: ``keep`` if every forward had to stay the user's, else ``rewrite``.
        same_program: the captured cut model equals the edited graph op by op; if False, only numbers prove the cut.
    """

    mode: str
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    spliced: tuple[str, ...] = ()
    splice: Splice | None = None
    growth: Growth | None = None
    program: Graph | None = None
    removed: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    mended: tuple[Mend, ...] = ()
    shipped: Mapping[str, Shipped] = field(default_factory=dict)
    forward: str = "rewrite"
    same_program: bool = True

    @classmethod
    def of(
        cls,
        mode: str,
        changes: Changes,
        paths: tuple[str, ...],
        splice: Splice,
        growth: Growth | None,
        removed: tuple[str, ...] = (),
    ) -> Surgery:
        """Record a cut that kept the user's classes."""
        if not paths or growth is None:
            return cls(mode, changes, removed=removed)
        roots = {index: splice.natives(index) for index in sorted(splice.stale)}
        return cls(mode, changes, paths, splice, growth, None, removed, growth.reasons(splice.graph, roots))

    @classmethod
    def whole(cls, program: Graph, growth: Growth) -> Surgery:
        """Record a cut that replaced the model by its edited program."""
        return cls("graph", program=program, growth=growth, static=growth.reasons(program, {0: frozenset()}))


def merge_changes(*parts: Changes) -> Changes:
    """Join several sets of attribute changes."""
    merged: Changes = {}
    for part in parts:
        for path, values in part.items():
            merged.setdefault(path, {}).update(values)
    return merged
