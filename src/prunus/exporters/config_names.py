"""The widths of a cut network by the names that the config of its class has for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from torch import nn

from prunus.exporters.config_build import spelled
from prunus.exporters.config_widths import config_widths
from prunus.graph.coupling import Coupling
from prunus.graph.layout import Expr, Prod

Widths = dict[str, "int | dict[str, int]"]


def widths_by_name(model: nn.Module, coupling: Coupling, keep: Mapping[str, np.ndarray]) -> Widths:
    """Return entry of the config → what it would have to be; one number, or one for each module where they differ.

    An entry counts the units of an axis, or of several in a product (groups of heads times heads of a group).

    Args:
        model: the uncut ``transformers`` model.
        coupling: its analysis.
        keep: axis id → units that stay; axes not named stay whole.
    """
    found: dict[str, dict[str, int]] = {}
    axes: dict[str, set[int]] = {}
    old: dict[str, int] = {}
    for width in config_widths(model, coupling).widths:
        for path, value in width.fields.items():
            old[spelled(path)] = value
            axes.setdefault(spelled(path), set()).update(coupling.axes[a].atom for a in width.axes)
    for name, among in axes.items():
        seen: set[frozenset[int]] = set()
        for tensor, atoms in _counted(coupling, among):
            if atoms not in seen and math.prod(coupling.sizes[a] for a in atoms) == old[name]:
                seen.add(atoms)
                found.setdefault(name, {})[tensor.rpartition(".")[0]] = math.prod(coupling.kept(a, keep) for a in atoms)
    widths_of: Widths = {}
    for name, places in found.items():
        sizes = set(places.values())
        if sizes != {old[name]}:
            widths_of[name] = sizes.pop() if len(sizes) == 1 else places
    return widths_of


def _counted(coupling: Coupling, among: set[int]) -> Iterator[tuple[str, frozenset[int]]]:
    """Yield tensor and the atoms, out of some, whose product lies in one of its dims."""
    for tensor, dims in coupling.tensors.items():
        for product in (p for expr in dims for p in _products(expr)):
            atoms = frozenset(product) & among
            if atoms:
                yield tensor, atoms


def _products(expr: Expr) -> Iterator[tuple[int, ...]]:
    if isinstance(expr, int):
        yield (expr,)
    elif isinstance(expr, Prod):
        yield tuple(f for f in expr.factors if isinstance(f, int))
        for factor in expr.factors:
            if not isinstance(factor, int):
                yield from _products(factor)
    else:
        for term in expr.terms:
            yield from _products(term)
