"""The axes that follow each number of a config, found by building the class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from torch import nn

from prunus.errors import ModelError, PrunusError
from prunus.exporters.config_build import Builder, Changes, Path, Shapes, Trace, differing, shapes_of
from prunus.exporters.config_instance import instance_of
from prunus.exporters.widths import ConfigWidths, Width
from prunus.graph.coupling import Coupling
from prunus.graph.layout import Expr, Sum, atoms_of
from prunus.plans import Plan, fingerprint
from prunus.surgery.cut import cut_with_record

_CHOICES = 3  # heads, heads of a group, their width: the factors of a size that may be the one that shrinks


def config_widths(model: nn.Module, coupling: Coupling, example_inputs: Any = None) -> ConfigWidths:
    """Return what of a Hugging Face model can be cut so that its config still tells what it is.

    A number of the config (or two) is lowered, the class is built without values, and the axes are taken of whose cut
    exactly the built shapes follow. Axes on which a computed buffer lies (rotary tables) are left out: the class would
    compute it anew.

    Args:
        model: an uncut ``transformers`` model.
        coupling: its analysis.
        example_inputs: one call; each width is then cut to half on trial, and left out where the class computes
            something else from the smaller numbers (embeddings that it scales by their size). Costs a cut a width.

    Raises:
        ModelError: no Hugging Face model.

    Example:
        ``widths = config_widths(model, coupling)``, then
        ``fit_units(cost, {a: scores[a] for a in widths.axes}, limit, allocator=widths)``
    """
    builder = Builder.of(model)
    whole = builder.shapes({})
    if whole is None:
        raise ModelError(f"{builder.kind.__name__} cannot be built from its own config.")
    pinned = builder.open_numbers(whole)
    numbers = builder.numbers() | pinned
    traces = {p: builder.trace({**pinned, p: v // 2}) for p, v in numbers.items()}
    base = builder.trace(pinned)
    # A number that moves nothing that is built is no width, and neither is one that moves which tensors there are.
    active = [p for p, t in traces.items() if t is None or (t != base and t.shapes.keys() == whole.keys())]
    groups: list[tuple[Path, ...]] = [(p,) for p in active]
    groups += [g for g in combinations(active, 2) if g[0][:-1] == g[1][:-1]]
    offers: list[tuple[bool, int, int, Width]] = []
    for group in groups:
        fields = {p: numbers[p] for p in group}
        for choice, width in _width(builder, coupling, whole, pinned, fields):
            offers.append((_scales(builder, pinned, fields, base), choice, len(group), width))
    # Scales that a class computes from a size are best left alone, and so are widths inside heads.
    offers.sort(key=lambda offer: offer[:3])
    found: list[Width] = []
    for *_, width in offers:
        taken = any(set(width.axes) & set(w.axes) for w in found)
        if not taken and (example_inputs is None or are_computed(model, coupling, [width], example_inputs)):
            found.append(width)
    return ConfigWidths(tuple(found))


def are_computed(model: nn.Module, coupling: Coupling, widths: Sequence[Width], example_inputs: Any) -> bool:
    """Return whether the class, built from half the numbers, computes what a cut of these widths to half computes.

    Args:
        model: the uncut model.
        coupling: its analysis.
        widths: what is cut on trial, all at once.
        example_inputs: one call.
    """
    share = {a: (n, w.steps // 2, w.steps) for w in widths for a, n in w.axes.items()}
    keep = {a: np.arange(n) < n * level // steps for a, (n, level, steps) in share.items()}
    plan = Plan(fingerprint(coupling.graph), keep, coupling.tensor_masks(keep))
    builder = Builder.of(model)
    whole = builder.shapes({})
    numbers = {} if whole is None else builder.open_numbers(whole)
    numbers |= {p: v * (w.steps // 2) // w.steps for w in widths for p, v in w.fields.items()}
    try:
        small, _ = cut_with_record(model, coupling, plan, example_inputs)
        if shapes_of(small) != builder.shapes(numbers):
            return False
        return instance_of(small, builder, numbers, example_inputs)[0] is not None
    except PrunusError:
        return False


def _width(
    builder: Builder, coupling: Coupling, whole: Shapes, pinned: Changes, fields: Mapping[Path, int]
) -> Iterator[tuple[int, Width]]:
    """Yield which factor shrinks and the axes that then follow these numbers exactly, at the finest steps, if any."""
    whole_steps = math.gcd(*fields.values())
    for steps in (n for n in range(whole_steps, 1, -1) if whole_steps % n == 0):
        levels = sorted({steps - 1, steps // 2})
        built = [
            (s / steps, builder.shapes({**pinned, **{p: v * s // steps for p, v in fields.items()}})) for s in levels
        ]
        for choice in range(_CHOICES):
            found = [None if b is None else _axes(coupling, whole, b, choice, share) for share, b in built]
            if found[0] and all(axes == found[0] for axes in found):
                yield choice, Width(dict(fields), found[0], steps)
                return


def _axes(coupling: Coupling, whole: Shapes, built: Shapes, choice: int, share: float) -> dict[str, int] | None:
    """Return the axes whose cut to a share gives the built shapes; None if there are none."""
    aliases = coupling.graph.aliases
    found: dict[str, int] = {}
    for name, dim in differing(whole, built):
        dims = coupling.tensors.get(aliases.get(name, name))
        if dim < 0 or dims is None:
            return None
        for axis in _factors(coupling, dims[dim], choice):
            found[axis] = coupling.axes[axis].size
    keep = {a: np.arange(n) < round(n * share) for a, n in found.items()}
    if any(abs(n * share - round(n * share)) > 1e-9 or not keep[a].any() for a, n in found.items()):
        return None
    if any(m.tensor not in whole for a in found for m in coupling.axes[a].members):
        return None
    for name, shape in whole.items():
        dims = coupling.tensors.get(aliases.get(name, name))
        expected = shape if dims is None else tuple(coupling.kept(e, keep) for e in dims)
        if expected != built[name]:
            return None
    return found


def _factors(coupling: Coupling, expr: Expr, choice: int) -> Iterator[str]:
    """Yield the axis that a size is, or factor number ``choice`` of each product in it."""
    if isinstance(expr, Sum):
        for term in expr.terms:
            yield from _factors(coupling, term, choice)
        return
    axes = list(dict.fromkeys(coupling.axis_of[a] for a in atoms_of(expr) if a in coupling.axis_of))
    if axes:
        yield axes[min(choice, len(axes) - 1)]


def _scales(builder: Builder, pinned: Changes, fields: Mapping[Path, int], base: Trace | None) -> bool:
    found = builder.trace({**pinned, **{p: v // 2 for p, v in fields.items()}})
    return found is None or base is None or found.floats != base.floats
