"""Terms under which a config can describe a cut: one size per entry, and no cut of a part that no entry counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from prunus.errors import ModelError
from prunus.exporters.config_build import Builder, differing, own_class, shapes_of, spelled
from prunus.exporters.config_widths import are_computed, config_widths
from prunus.exporters.widths import Width
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.kept_forward import Equation, Multiple
from prunus.graph.layout import Frozen
from prunus.graph.size_functions import Count
from prunus.surgery.keeping.program_terms import Terms


def config_terms(model: nn.Module, coupling: Coupling, example_inputs: Any) -> Terms:
    """Return equations and steps under which the config of a Hugging Face model alone says what is left of it.

    The axes that an entry of the config sizes keep equal shares, n_a·N_b = n_b·N_a, in steps that the entry can take;
    axes that no entry sizes stay whole. So do those from whose smaller numbers the class computes something else, as
    from embeddings that it scales by their size: that is tried.

    Args:
        model: an uncut ``transformers`` model.
        coupling: its analysis, in which the axes that a cut must not touch are frozen already.
        example_inputs: one call, for the trial.

    Raises:
        ModelError: no Hugging Face model, or one of which no width follows from its config.
    """
    _check_buildable(model)
    widths = config_widths(model, coupling)
    if widths.widths and not are_computed(model, coupling, widths.widths, example_inputs):
        widths = config_widths(model, coupling, example_inputs)
    kind = own_class(unwrap(model)).__name__
    if not widths.widths:
        raise ModelError(
            f"config_ties: no width of this {kind} that may be cut follows from its config; leave config_ties out, "
            "and load what comes out with prunus.load."
        )
    why = Frozen(f"no entry of the config of {kind} gives its size alone")
    return Terms(
        {},
        tuple(_equal_shares(coupling, widths.widths)),
        tuple(_steps(coupling, widths.widths)),
        {axis.atom: why for axis in coupling.axes.values() if axis.id not in widths.axes},
    )


def _check_buildable(model: nn.Module) -> None:
    """Insist that the class builds the model, as it is, from its config.

    Raises:
        ModelError: it has other tensors, or is no Hugging Face model.
    """
    builder, own = Builder.of(model), shapes_of(unwrap(model))
    other = differing(builder.shapes({}) or {}, own)
    if other:
        raise ModelError(
            f"config_ties: {builder.kind.__name__} builds other tensors from its config than this model has, such as "
            f"{other[0][0]!r}, so no config tells what a cut leaves; leave config_ties out."
        )


def _equal_shares(coupling: Coupling, widths: Iterable[Width]) -> Iterator[Equation]:
    for width in widths:
        (first, size), *others = width.axes.items()
        for axis, other in others:
            left, right = (Count.atom(coupling.axes[a].atom) for a in (first, axis))
            yield Equation(left * other, right * size, "", f"one size of {_entries(width)} in the config")


def _steps(coupling: Coupling, widths: Iterable[Width]) -> Iterator[Multiple]:
    for width in widths:
        axis, size = next(iter(width.axes.items()))
        if size > width.steps:
            count, step = Count.atom(coupling.axes[axis].atom), size // width.steps
            yield Multiple(count, step, "", f"{_entries(width)} in the config has whole numbers")


def _entries(width: Width) -> str:
    return " and ".join(spelled(path) for path in width.fields)
