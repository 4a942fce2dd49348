"""What it takes for a model to keep its forwards: attributes as formulas, axes to freeze, equations between sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from prunus.graph.coupling import Coupling
from prunus.graph.kept_forward import Equation, OwnForward
from prunus.graph.provenance import provenance
from prunus.surgery.head_dims import head_dims as dims_of_heads
from prunus.surgery.other_terms import other_terms, training_terms
from prunus.surgery.terms import terms
from prunus.surgery.ties import tied


def own_forward(model: nn.Module, coupling: Coupling, example_inputs: Any, *, head_dims: str = "whole") -> OwnForward:
    """Say what a cut has to respect so that no forward has to be rewritten. The model is untouched.

    The program in training is asked too, where there is one: a head that only training reads is a part of the network.

    Args:
        model: what ``coupling`` was made from.
        coupling: its analysis, with every axis that may be cut at all.
        example_inputs: what it was captured with.
        head_dims: ``whole`` lets heads go one by one, not the width of a head; ``free`` lets widths go where the code
            allows it.
    """
    known = provenance(model, coupling.graph, example_inputs)
    found = terms(model, coupling, known)
    attributes, equations, multiples = dict(found.attributes), [*found.equations], [*found.multiples]
    frozen = {**(dims_of_heads(model, coupling) if head_dims == "whole" else {}), **found.frozen}
    old = dict(known.values)
    others = [training_terms(model, coupling, example_inputs)]
    if known.idle is not None:
        others.append(other_terms(model, coupling, known.idle, known, "for nothing"))
    for other in others:
        if other is None:
            continue
        for attribute, count in other.attributes.items():
            if attributes.setdefault(attribute, count) != count:
                equations.append(Equation(attributes[attribute], count, "", f"{attribute} has two uses"))
        equations += other.equations
        multiples += other.multiples
        frozen = {**other.frozen, **frozen}
        old = {**other.old, **old}
    for atom, after in found.emptied.items():
        if atom in frozen:
            frozen |= {a: frozen[atom] for a in after if a not in frozen}
    ties = tied(coupling, equations, multiples, frozen)
    names = coupling.axis_of
    emptied = {names[a]: tuple(names[b] for b in sorted(after) if b not in ties.frozen)
               for a, after in found.emptied.items() if a not in ties.frozen}  # fmt: skip
    held = {a: coupling.sizes[a] for a in ties.frozen}
    attributes = {a: n.with_constants(held) for a, n in attributes.items()}
    equations = [replace(e, left=e.left.with_constants(held), right=e.right.with_constants(held)) for e in equations]
    multiples = [replace(m, count=m.count.with_constants(held)) for m in multiples]
    return OwnForward(
        {a: n for a, n in attributes.items() if n != old.get(a)},
        {names[a]: why for a, why in ties.frozen.items() if a in names},
        ties.ties,
        tuple(e for e in equations if e.left != e.right),
        tuple(m for m in multiples if m.count.atoms()),
        emptied,
        old,
        known.why,
    )
