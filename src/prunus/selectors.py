"""Which modules a person means: names, globs, ``re:`` patterns and class names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable

from prunus.errors import SelectorError, nearest
from prunus.graph.coupling import Coupling


def matching_modules(coupling: Coupling, patterns: Iterable[str]) -> set[str]:
    """Return the module paths that any pattern names, and everything below them.

    A pattern is a module path, a tensor name, a glob (``layer3.*``), ``re:`` and a regular expression, or a class name.

    Raises:
        SelectorError: a pattern matches nothing (the nearest name is given), or is not a valid regular expression.
    """
    paths = [p for p in coupling.graph.modules if p]
    # A class defined inside a function has a long qualified name; people write the last part.
    kinds = {p: coupling.graph.modules[p].rpartition(".")[2] for p in paths}
    tensors = [*coupling.graph.tensors, *coupling.graph.aliases]
    found: set[str] = set()
    for pattern in patterns:
        hits = {p for p in paths if _matches(p, kinds[p], pattern)}
        hits |= {t for t in tensors if _matches(t, "", pattern)}
        if not hits:
            known = [*paths, *set(kinds.values())]
            raise SelectorError(
                f"ignore pattern {pattern!r} matches no module, class or tensor.{nearest(pattern, known)}"
            )
        found |= hits
    return found


def _matches(path: str, kind: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.search(pattern[3:], path) is not None
        except re.error as error:
            raise SelectorError(f"ignore pattern {pattern!r} is not a regular expression: {error}.") from error
    return path == pattern or kind == pattern or fnmatch.fnmatchcase(path, pattern)


def ignored_axes(coupling: Coupling, patterns: Iterable[str]) -> set[str]:
    """Return the ids of axes that touch a tensor of any named module: a coupled layer is held with it."""
    roots = matching_modules(coupling, patterns)
    named = tensors_below(coupling, roots)
    return {a.id for a in coupling.axes.values() if any(m.tensor in named for m in a.members)}


def tensors_below(coupling: Coupling, roots: Collection[str]) -> set[str]:
    """Return the canonical names of the tensors that lie in any of these modules, tied ones included."""
    names = {**{t: t for t in coupling.graph.tensors}, **coupling.graph.aliases}
    return {canonical for name, canonical in names.items() if _lies_in(name, roots)}


def _lies_in(name: str, roots: Collection[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:i]) in roots for i in range(1, len(parts) + 1))
