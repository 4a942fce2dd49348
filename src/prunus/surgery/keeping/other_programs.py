"""The terms of other programs of a model, in training or with a mask, in the axes of the analysed program."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prunus.graph.axis import Axis
from prunus.graph.capture import split_inputs, unwrap
from prunus.graph.coupling import Coupling, couple
from prunus.graph.ir import TENSOR, Graph
from prunus.graph.kept_forward import Equation, Follower, Multiple, renamed
from prunus.graph.layout import Frozen, atoms_of
from prunus.graph.provenance import Provenance, in_training, of_another_call
from prunus.graph.size_functions import Count
from prunus.graph.traced import Attribute, Size
from prunus.surgery.keeping.program_terms import count_of, terms

Places = dict[tuple[str, int], tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class OtherTerms:
    """`Terms` of another program, in the atoms of the program in evaluation.

    Attributes:
        old: the values of the attributes.
        followers: tensors that this program alone reads, on axes of the program in evaluation.
    """

    attributes: Mapping[Attribute, Count]
    equations: tuple[Equation, ...]
    multiples: tuple[Multiple, ...]
    frozen: Mapping[int, Frozen]
    old: Mapping[Attribute, int]
    followers: tuple[Follower, ...] = ()


def training_terms(model: nn.Module, coupling: Coupling, example_inputs: Any) -> OtherTerms | None:
    """Record a model in training mode and return the terms of that program; None where no code reads the mode.

    A tensor that training alone reads, such as a head for a second loss, loses the units of the axes on which it lies.
    An axis that training reads elsewhere too, or may not cut, is frozen. Weights that this run did not use (layers are
    dropped at random) say nothing.
    """
    if not any(_looks_at_mode(m) for m in model.modules()):
        return None
    found = in_training(model, coupling.graph, example_inputs)
    return None if found is None else other_terms(model, coupling, *found, "in training")


def masked_terms(model: nn.Module, coupling: Coupling, example_inputs: Any) -> OtherTerms | None:
    """Record a model on the example with a padded mask, and return the terms of that program.

    Where the example has no mask, code may take another path with one: repeat the keys of grouped queries, say. None
    where the forward takes no mask, or none of this form: (batch, length), 0 where nothing is.
    """
    call = _with_mask(unwrap(model), example_inputs)
    found = None if call is None else of_another_call(model, coupling.graph, call)
    return None if found is None else other_terms(model, coupling, *found, "with a padded mask")


_MASKS = ("attention_mask", "mask", "padding_mask", "pad_mask", "src_mask")


def _with_mask(model: nn.Module, example_inputs: Any) -> dict[str, Any] | None:
    args, kwargs = split_inputs(example_inputs)
    try:
        signature = inspect.signature(model.forward)
        given = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    names = [n for n in _MASKS if n in signature.parameters and n not in given]
    kinds = {signature.parameters[n].kind for n in (*names[:1], *given)}
    first = next((x for x in given.values() if isinstance(x, torch.Tensor) and x.dim() > 1), None)
    if not names or first is None or first.shape[1] < 2 or not kinds <= {_PLAIN, inspect.Parameter.KEYWORD_ONLY}:
        return None
    if first.dim() != (3 if first.is_floating_point() else 2):
        return None
    mask = torch.ones(first.shape[:2], dtype=torch.int64, device=first.device)
    mask[:, -1] = 0
    return {**given, names[0]: mask}


_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD


def other_terms(model: nn.Module, coupling: Coupling, graph: Graph, known: Provenance, when: str) -> OtherTerms:
    """Return the terms of another program of the same model, in the axes of ``coupling``.

    Args:
        model: whose programs they are.
        coupling: the analysis of the one.
        graph, known: the other, and where its numbers come from.
        when: it runs, for messages.
    """
    return OtherProgram.of(coupling, graph, when).terms(model, known)


@dataclass(frozen=True, slots=True)
class OtherProgram:
    """Another program of a model beside the one that was analysed.

    Attributes:
        coupling: the analysis of the one.
        other: that of the other.
        names: atom of the other → atom of the one.
        frozen: atoms of the one that have no equal in the other, with the reason.
        alone: tensors on axes with an equal that the other alone reads.
        when: the other runs, for messages.
    """

    coupling: Coupling
    other: Coupling
    names: Mapping[int, int]
    frozen: Mapping[int, Frozen]
    alone: tuple[str, ...]
    when: str

    @staticmethod
    def of(coupling: Coupling, graph: Graph, when: str) -> OtherProgram:
        """Lay a program beside the one that was analysed."""
        other = couple(graph, **coupling.options)
        names, frozen, alone = _matched(coupling, other, when)
        return OtherProgram(coupling, other, names, frozen, tuple(alone), when)

    def terms(self, model: nn.Module, known: Provenance) -> OtherTerms:
        """Return the terms of the program, in the axes of the one."""
        asked = terms(model, self.other, known)
        why = {a: Frozen(f"{self.when} {f.reason}") for a, f in asked.frozen.items()}
        frozen = {**self.frozen, **{self.names[a]: reason for a, reason in why.items() if a in self.names}}
        axes = {theirs: self.coupling.axis_of[ours] for theirs, ours in self.names.items()}
        return OtherTerms(
            {a: self._count(n) for a, n in asked.attributes.items()},
            tuple(
                Equation(self._count(e.left), self._count(e.right), "", f"{e.reason} ({self.when})")
                for e in asked.equations
            ),
            tuple(replace(m, count=self._count(m.count), node="") for m in asked.multiples),
            frozen,
            known.values,
            tuple(_follower(self.other, tensor, axes) for tensor in self.alone),
        )

    def size(self, asked: Size) -> Count | None:
        """Return the size of one of its values in kept counts of the one; None where that has no equal there."""
        count = count_of(self.other, asked)
        return self._count(count) if count is not None and count.atoms() <= self.names.keys() else None

    def _count(self, count: Count) -> Count:
        """Return a count in the atoms of the one; axes without an equal stay whole."""
        held = {a: self.other.sizes[a] for a in self.other.axis_of if a not in self.names}
        return count.with_constants(held).renamed(self.names)


def _follower(other: Coupling, tensor: str, axes: Mapping[int, str]) -> Follower:
    """Describe a tensor of another program by the axes of the one: atom of the other → axis id."""
    dims = other.tensors[tensor]
    atoms = list(dict.fromkeys(a for e in dims for a in atoms_of(e)))
    names = {a: i for i, a in enumerate(atoms)}
    return Follower(
        tensor, tuple(renamed(e, names) for e in dims), tuple((axes.get(a, ""), other.sizes[a]) for a in atoms)
    )


# What they do in training: scale whole samples. Recording that takes as long as everything else of the analysis.
_KNOWN_IN_TRAINING = ("torchvision.ops.stochastic_depth.StochasticDepth", "timm.layers.drop.DropPath")


def _looks_at_mode(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__module__.startswith("torch.nn.") or f"{kind.__module__}.{kind.__qualname__}" in _KNOWN_IN_TRAINING:
        return False
    code = getattr(kind.forward, "__code__", None)
    return code is None or "training" in code.co_names


def _matched(coupling: Coupling, other: Coupling, when: str) -> tuple[dict[int, int], dict[int, Frozen], list[str]]:
    """Return atom of the other → atom of the one, the atoms of the one that have no equal, and what follows.

    What follows are the tensors on axes that have an equal which the one does not read.
    """
    used = {n.tensor for n in other.graph.nodes if n.op == TENSOR}
    seen = {n.tensor for n in coupling.graph.nodes if n.op == TENSOR}
    theirs = {axis.atom: _places(other, axis, used) for axis in other.axes.values()}
    at = {(place, lines): a for a, places in theirs.items() for place, lines in places.items()}
    names: dict[int, int] = {}
    frozen: dict[int, Frozen] = {}
    alone: dict[str, None] = {}
    for axis in coupling.axes.values():
        mine = _places(coupling, axis, used)
        if not mine:
            continue
        place = next(iter(mine))
        equal = at.get((place, mine[place]))
        if equal is None:
            frozen[axis.atom] = Frozen(f"{when} {_reason(other, *place)}")
            continue
        more = sorted({tensor for tensor, _ in theirs[equal].keys() - mine.keys()})
        if all(theirs[equal].get(k) == lines for k, lines in mine.items()) and not seen & set(more):
            names[equal] = axis.atom
            alone |= dict.fromkeys(more)
        else:
            frozen[axis.atom] = Frozen(f"{when} {next(iter(more), 'the code')} reads it otherwise")
    return names, frozen, list(alone)


def _places(coupling: Coupling, axis: Axis, used: set[str]) -> Places:
    """Return (tensor, dim) → where its units lie in that dim, for the tensors that a program reads."""
    found: Places = {}
    for member in axis.members:
        if member.tensor in used and coupling.graph.tensors[member.tensor].kind != "constant":
            lines = tuple(where.tobytes() for where in coupling.positions(member.expr, axis))
            found[(member.tensor, member.dim)] = lines
    return found


def _reason(coupling: Coupling, tensor: str, dim: int) -> str:
    reasons = [f.reason for f in coupling.frozen if (f.tensor, f.dim) == (tensor, dim)]
    return f"it is frozen: {reasons[0]}" if reasons else "it is divided otherwise"
