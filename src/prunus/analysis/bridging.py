"""The analysis of a network in which bridges stand in place of removed modules."""

from __future__ import annotations

from dataclasses import replace

from prunus.analysis.analyse import analyse
from prunus.analysis.record import Analysis
from prunus.errors import OptionError
from prunus.substitutes import Bridge
from prunus.surgery.bridging import bridged


def bridged_analysis(analysis: Analysis, bridges: tuple[Bridge, ...]) -> Analysis:
    """Return the analysis of a network with bridges, under the same data, loss, limits and metric.

    Args:
        analysis: that of the network without them.
        bridges: the bridges; axes keep their ids where their layers stay.

    Raises:
        OptionError: a Hugging Face config has to describe the cut network, or the network was captured in parts.
        PlanError: a module that the network does not have.
        CaptureError: the forward does not run with the bridges.
    """
    if analysis.config_ties or analysis.parts:
        what = (
            "config_ties is on: a config names no bridge" if analysis.config_ties else "the model is captured in parts"
        )
        raise OptionError(f"layers cannot be bridged: {what}. Use another method.")
    model, inputs = bridged(analysis.user_model, bridges), analysis.user_inputs
    found = analyse(model, inputs, opt_in=analysis.opt_in, seed=analysis.seed, forward=analysis.forward)
    axes = found.coupling.axes
    found = replace(
        found,
        calibration=analysis.calibration,
        selection=analysis.selection,
        loss=analysis.loss,
        given=analysis.given,
        held=frozenset(axis for axis in analysis.held if axis in axes),
        bounds={axis: bound for axis, bound in analysis.bounds.items() if axis in axes},
        ignore=analysis.ignore,
        progress=analysis.progress,
        unbridged=analysis,
    )
    return found if analysis.metric == "params" else found.in_metric(analysis.metric)
