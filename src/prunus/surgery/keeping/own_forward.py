"""The terms on which a model keeps its forwards: attributes as formulas, frozen axes, equations between sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from prunus.graph.coupling import Coupling
from prunus.graph.kept_forward import Equation, Follower, Multiple, OwnForward
from prunus.graph.layout import Frozen
from prunus.graph.provenance import provenance
from prunus.graph.size_functions import Count
from prunus.graph.traced import Attribute
from prunus.surgery.adapters import adapter_ranks
from prunus.surgery.keeping.head_dims import head_dims as dims_of_heads
from prunus.surgery.keeping.other_programs import OtherProgram, masked_terms, training_terms
from prunus.surgery.keeping.program_terms import Terms, terms
from prunus.surgery.keeping.ties import tied


def own_forward(model: nn.Module, coupling: Coupling, example_inputs: Any, *, head_dims: str = "whole") -> OwnForward:
    """Return the terms that a cut has to meet so that no forward is rewritten. The model is untouched.

    They cover the program in training, where it differs: a head that only training reads is a part of the network. They
    cover the program with a padded mask too, where the forward takes one and the example has none.

    Args:
        model: what ``coupling`` was made from.
        coupling: its analysis, with every axis that may be cut at all.
        example_inputs: what it was captured with.
        head_dims: ``whole`` lets heads go one by one, not the width of a head; ``free`` lets widths go where the code
            allows it.
    """
    known = provenance(model, coupling.graph, example_inputs)
    idle = None if known.idle is None else OtherProgram.of(coupling, known.idle, "for nothing")
    found = terms(model, coupling, known, None if idle is None else idle.size)
    attributes, equations, multiples = dict(found.attributes), [*found.equations], [*found.multiples]
    frozen = {**(dims_of_heads(model, coupling) if head_dims == "whole" else {}), **found.frozen}
    frozen |= adapter_ranks(model, coupling)
    old = dict(known.values)
    others = [training_terms(model, coupling, example_inputs), masked_terms(model, coupling, example_inputs)]
    if idle is not None:
        others.append(idle.terms(model, known))
    followers: dict[str, Follower] = {}
    for other in others:
        if other is None:
            continue
        frozen = {**_read_otherwise(coupling, followers, other.followers), **frozen}
        followers = {**{f.tensor: f for f in other.followers}, **followers}
        for attribute, count in other.attributes.items():
            if attributes.setdefault(attribute, count) != count:
                equations.append(Equation(attributes[attribute], count, "", f"{attribute} has two uses"))
        equations += other.equations
        multiples += other.multiples
        frozen = {**other.frozen, **frozen}
        old = {**other.old, **old}
    own = _settled(coupling, attributes, equations, multiples, frozen, found.emptied, old, known.why)
    return replace(own, followers=tuple(followers.values()))


def _read_otherwise(coupling: Coupling, known: Mapping[str, Follower], more: Iterable[Follower]) -> dict[int, Frozen]:
    """Return the atoms on which a tensor lies in one program and not, or elsewhere, in another."""
    return {
        coupling.axes[axis].atom: Frozen(f"two programs read {follower.tensor} in two ways")
        for follower in more
        if known.get(follower.tensor, follower) != follower
        for axis in follower.axes | known[follower.tensor].axes
    }


def with_terms(own: OwnForward, coupling: Coupling, more: Terms) -> OwnForward:
    """Return the terms of a model's forwards together with further terms on the same axes.

    Args:
        own: the terms, on the axes of ``coupling``.
        coupling: the analysis without them.
        more: equations between kept counts, counts that go in steps, atoms that stay whole.
    """
    atoms = {axis.id: axis.atom for axis in coupling.axes.values()}
    settled = _settled(
        coupling,
        own.attributes,
        [*own.equations, *more.equations],
        [*own.multiples, *more.multiples],
        {**more.frozen, **{atoms[axis]: why for axis, why in own.frozen.items()}},
        {atoms[axis]: frozenset(atoms[a] for a in after) for axis, after in own.emptied.items()},
        own.old,
        own.why,
    )
    return replace(settled, followers=own.followers)


def _settled(
    coupling: Coupling,
    attributes: Mapping[Attribute, Count],
    equations: Iterable[Equation],
    multiples: Iterable[Multiple],
    frozen: Mapping[int, Frozen],
    emptied: Mapping[int, frozenset[int]],
    old: Mapping[Attribute, int],
    why: str,
) -> OwnForward:
    """Solve the equations for ties and frozen axes; a frozen axis is a number in every formula."""
    frozen = dict(frozen)
    for atom, after in emptied.items():
        if atom in frozen:
            frozen |= {a: frozen[atom] for a in after if a not in frozen}
    ties = tied(coupling, equations, multiples, frozen)
    names = coupling.axis_of
    goes = {
        names[a]: tuple(names[b] for b in sorted(after) if b not in ties.frozen)
        for a, after in emptied.items()
        if a not in ties.frozen
    }
    held = {a: coupling.sizes[a] for a in ties.frozen}
    formulas = {a: n.with_constants(held) for a, n in attributes.items()}
    equations = [replace(e, left=e.left.with_constants(held), right=e.right.with_constants(held)) for e in equations]
    multiples = [replace(m, count=m.count.with_constants(held)) for m in multiples]
    return OwnForward(
        {a: n for a, n in formulas.items() if n != old.get(a)},
        {names[a]: reason for a, reason in ties.frozen.items() if a in names},
        ties.ties,
        tuple(e for e in equations if e.left != e.right),
        tuple(m for m in multiples if m.count.atoms()),
        goes,
        old,
        why,
    )
