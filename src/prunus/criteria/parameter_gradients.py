"""The mean gradient of all parameters as a probe; frozen parameters require grad while it runs."""

from __future__ import annotations

from prunus.criteria.gradients import collect_gradients
from prunus.criteria.probes import Calibration, Statistics, probe
from prunus.foundation.as_found import gradients_enabled_for


@probe("gradients", ("grad",), labels=True, backward=True, program=False)
def _mean_gradients(calibration: Calibration) -> Statistics:
    model = calibration.model
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    # Units of frozen layers are scored too.
    with gradients_enabled_for(named.values()):
        evidence = collect_gradients(model, calibration.batches, calibration.loss, list(named))
    assert evidence.grad is not None
    return {"grad": evidence.grad}
