"""The error of a request that reads data, or labels, which are missing: it names the choice and what it reads."""

from __future__ import annotations

from prunus.criteria import criterion_name, mixture_of
from prunus.data.given import MissingData
from prunus.errors import OptionError
from prunus.methods.branch_scores import ACTIVATIONS, BRANCH_CRITERIA, GATE
from prunus.pipeline.request import Request


def missing_data(request: Request, error: MissingData) -> OptionError:
    """Return the error that names the criterion, the option or the method of a request that reads data."""
    chosen = request.planner
    if not request.damage and chosen.criteria == "modules" and "criterion" in chosen.options:
        return _of_branches(request, error)
    return MissingData(_choice(request), labels=error.labels)


def _choice(request: Request) -> str:
    chosen = request.planner
    if request.damage:
        return "damage: True"
    if request.search and "search" in chosen.options:
        return f"search: {request.search}"
    # An allocator or a method without a criterion decides by itself what it reads.
    if request.criterion is None or "criterion" not in chosen.options:
        return f"method {chosen.name!r}"
    return f"criterion {criterion_name(request.criterion)!r} of method {chosen.name!r}"


def _of_branches(request: Request, error: MissingData) -> OptionError:
    criterion = request.criterion or GATE
    kinds = ", ".join(ACTIVATIONS)
    named = f"criterion {criterion_name(criterion)!r} of modules"
    if GATE in (mixture_of(criterion) or (criterion,)):
        if error.labels:
            return OptionError(
                f"{named} reads gradients of the loss and needs labels; the data are inputs alone. Give batches of "
                f"(inputs, targets), or a criterion of inputs alone: {kinds}."
            )
        needs = "batches of (inputs, targets)"
    else:
        needs = "batches of inputs"
    return OptionError(
        f"{named} needs data={needs}, and there are none; give some. All criteria of modules "
        f"({', '.join(BRANCH_CRITERIA)}) read data; method units with criterion magnitude reads none."
    )
