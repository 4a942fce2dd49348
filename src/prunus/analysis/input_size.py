"""The analysis of a network at a smaller input size: recorded, priced and supplied with data at that size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prunus.analysis.analyse import analyse
from prunus.analysis.record import Analysis
from prunus.data.given import sources_of
from prunus.data.input_size import InputSize, Resizer, Size, size_name
from prunus.errors import OptionError, PlanError, PrunusError, shown
from prunus.plans import Plan

INPUT_SIZE = "input_size"
"""The setting of a plan for a smaller input size: ``before``, ``after``, and how the size was chosen."""


def at_size(analysis: Analysis, size: Size) -> Analysis:
    """Return the analysis of the same network with smaller inputs; it is recorded once for each size.

    Images of the example inputs and of the data are scaled, sequences are cut to their first positions.

    Args:
        analysis: the analysis at the original size.
        size: (height, width) of images, or (length,) of sequences.

    Raises:
        OptionError: the inputs have no such size, or the network cannot be called with it, or has other axes then.
    """
    if analysis.full_size is not None:
        if input_size_of(analysis).size == size:
            return analysis
        analysis = analysis.full_size
    before = input_size_of(analysis)
    if size == before.size:
        return analysis
    found: Analysis = analysis.remember(f"at input size {size}", lambda: _recorded(analysis, before.resizer(size)))
    # Limits, constraints and the metric belong to the request; their names are the same at every size.
    bounds = {axis: bound for axis, bound in analysis.bounds.items() if axis in found.coupling.axes}
    held = (found.held | analysis.held) & found.coupling.axes.keys()
    return replace(found, bounds=bounds, held=held, progress=analysis.progress)


def input_size_of(analysis: Analysis) -> InputSize:
    """Return the size of the inputs of an analysis.

    Raises:
        OptionError: neither images nor sequences.
    """
    found = InputSize.of(analysis.user_inputs)
    if found is None:
        raise OptionError(
            "resolution: the example inputs hold neither images (B, C, H, W) nor sequences (B, T) or (B, T, features), "
            "so there is no size to reduce; leave resolution out."
        )
    return found


def _recorded(analysis: Analysis, resizer: Resizer) -> Analysis:
    """Record and price the network at another size, and check that its axes are the same there."""
    model, inputs = analysis.source or (analysis.model, analysis.example_inputs)
    name = size_name(resizer.size)
    try:
        found = analyse(
            model,
            resizer.inputs(inputs),
            ignore=analysis.ignore,
            opt_in=analysis.opt_in,
            seed=analysis.seed,
            forward=analysis.forward,
            config_ties=analysis.config_ties,
        )
    except PrunusError as error:
        raise OptionError(
            f"resolution: {type(model).__name__} takes no inputs of {name}: "
            f"{str(error).splitlines()[0].rstrip('.')}; leave this size out."
        ) from error
    ours, theirs = analysis.coupling.axes, found.coupling.axes
    differing = next((a for a in ours if a not in theirs or theirs[a].size != ours[a].size), None)
    if differing is not None or len(ours) != len(theirs):
        raise OptionError(
            f"resolution: {type(model).__name__} has other axes at {name} (such as {differing or 'new ones'}); a plan "
            "for it would be none for the network. Leave this size out."
        )
    given = None if analysis.given is None else _data(analysis.given, resizer)
    calibration, selection = sources_of(given)
    return replace(
        found, given=given, calibration=calibration, selection=selection, loss=analysis.loss, full_size=analysis
    )


def _data(given: Any, resizer: Resizer) -> Any:
    return replace(given, data=resizer.data(given.data), held_out=resizer.data(given.held_out))


def resized(analysis: Analysis, data: Any) -> Any:
    """Return data of the original input size, in the form of the call, in the size of an analysis."""
    if analysis.full_size is None or data is None:
        return data
    before, own = InputSize.of(analysis.full_size.user_inputs), InputSize.of(analysis.user_inputs)
    return data if before is None or own is None else before.resizer(own.size).data(data)


def of_plan(analysis: Analysis, plan: Plan) -> Analysis:
    """Return the analysis at the input size of a plan, with the axes of the plan.

    Raises:
        PlanError: the plan names a size that the inputs do not have.
    """
    size = size_of(plan)
    if size is None:
        return analysis.for_plan(plan)
    whole = analysis.full_size or analysis
    own = InputSize.of(whole.user_inputs)
    if own is None or len(own.size) != len(size):
        raise PlanError(
            f"the plan is for inputs of {size_name(size)}, and the example inputs are of another kind; give the call "
            "with which the plan was made."
        )
    return at_size(analysis, size).for_plan(plan)


def size_of(plan: Plan) -> Size | None:
    """Return the input size of a plan; None where the inputs are as they were.

    Raises:
        PlanError: the setting is none that prunus writes.
    """
    entry = plan.settings.get(INPUT_SIZE)
    if entry is None:
        return None
    after = entry.get("after") if isinstance(entry, dict) else None
    if not isinstance(after, list) or not after or not all(type(side) is int and side > 0 for side in after):
        raise PlanError(f"the plan's setting {INPUT_SIZE} is {shown(entry)}; allowed: what prunus wrote. Plan again.")
    return tuple(after)


def input_size_line(plan: Plan) -> str | None:
    """Return the input size of a plan in words; None where the inputs are as they were."""
    size = size_of(plan)
    if size is None:
        return None
    entry = plan.settings[INPUT_SIZE]
    before = entry.get("before")
    was = f" of {size_name(before)}" if isinstance(before, list) and before else ""
    return f"input size: {size_name(size)}{was}, chosen by {entry.get('chosen_by')}"


def at_plan_size(plan: Plan, example_inputs: Any) -> Resizer | None:
    """Return the conversion of calls and data to the input size of a plan; None where it has none of its own."""
    size, before = size_of(plan), InputSize.of(example_inputs)
    return None if size is None or before is None else before.resizer(size)
