"""The methods of a comparison: one or two of each level by default, all of them, or those that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence

LEVELS = ("random", "smaller-dense", "absolute-threshold", "magnitude", "obs-units", "depth", "multi-scale")
"""The short list, which shows the level that pays for a network: baselines, weights, units, branches, all together."""
_BY_HAND = {"allocator", "window", "transfer"}
"""Options of methods that ``all`` leaves out: without them these are no whole method, or another one."""


def compared_methods(methods: str | Sequence[str]) -> list[str]:
    """Return the names behind ``compare.methods``.

    ``levels`` is the short list; ``all`` is every method that is whole without options and no other by default.
    """
    from prunus.methods import METHODS

    if methods == "levels":
        return [name for name in LEVELS if name in METHODS]
    if methods == "all":
        return [name for name in METHODS.names() if not _BY_HAND & set(METHODS.get(name).options)]
    return list(methods)
