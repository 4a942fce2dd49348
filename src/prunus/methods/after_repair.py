"""The distance of the outputs of a cut and repaired network to the dense ones, to rank the candidates of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.data.batches import device_of
from prunus.data.programs import names_of
from prunus.errors import DataError
from prunus.graph.ir import refs_in
from prunus.plans import Plan, fingerprint
from prunus.repairs.blocks import Tuning
from prunus.repairs.memory_fit import samples_that_fit
from prunus.repairs.repairs import REPAIRS, Mending
from prunus.repairs.samples import Lane, Role, lanes_of
from prunus.repairs.walking import Walk, route

SAMPLES = 512
"""Most calibration samples of an evaluation; three eighths of them only judge."""
STEPS, LAST_STEPS = 30, 60
"""Steps of Adam for a block and for the whole network, if the repair trains: a seventh of its usual steps."""
_ROLES: tuple[Role, ...] = ("fit", "check", "held", "fit", "fit", "held", "fit", "held")
_FEW: dict[int, tuple[Role, ...]] = {2: ("fit", "held"), 3: ("fit", "held", "fit"), 4: ("fit", "check", "held", "fit")}


class AfterRepair:
    """Evaluate kept units: cut, repair without labels, and compare the outputs with those of the dense network.

    The calibration samples are divided once: the repair is fitted to some, and outputs are compared on the others.
    Targets are ignored.

    Args:
        analysis: the network and its data.
        repair: the repair of each candidate; a repair that trains takes few steps, on the calibration samples alone,
            because only the order of the candidates matters.

    Raises:
        OptionError: an unknown repair.
        DataError: fewer than 2 samples.
    """

    def __init__(self, analysis: Analysis, repair: str = "refold") -> None:
        self.analysis, self.repair = analysis, REPAIRS.get(repair)
        coupling = analysis.coupling
        most = min(SAMPLES, samples_that_fit(coupling))
        names = names_of(analysis.model, coupling.graph)
        lanes = lanes_of(analysis.calibration, device_of(analysis.model), names=names, most=most)
        if len(lanes) < 2:
            raise DataError(
                f"a search with a repair got {sum(lane.count for lane in lanes)} calibration samples in one part; some "
                "must be fitted to and others judge. Give more data, in more batches."
            )
        self._lanes = _divided(lanes)

    def error(self, keep: Mapping[str, np.ndarray]) -> float:
        """Return the mean KL(dense ‖ small) on the samples that judge; ‖Δ‖²/‖dense‖² where outputs are no logits.

        Args:
            keep: axis id → units that stay (bool); axes that are not named keep all units.
        """
        analysis, repair = self.analysis, self.repair
        if all(np.asarray(mask, bool).all() for mask in keep.values()):
            return 0.0
        plan = Plan(fingerprint(analysis.coupling.graph), {a: np.asarray(m, bool) for a, m in keep.items()}, {})
        walk_route = route(analysis.model, analysis.coupling, plan, self._lanes, seed=analysis.seed)
        mending = Mending(repair, walk_route)
        if repair.tunes:
            return _divergence(Tuning(walk_route, mending, steps=STEPS, last_steps=LAST_STEPS).walked())
        walk = Walk(walk_route, absorb=repair.absorb, layers=repair.layer is not None)
        walk.run(mending)
        return _divergence(walk)


def _divided(lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
    few = _FEW.get(len(lanes))
    roles = few or [_ROLES[i % len(_ROLES)] for i in range(len(lanes))]
    return tuple(replace(lane, role=role) for lane, role in zip(lanes, roles, strict=True))


@torch.no_grad()
def _divergence(walk: Walk) -> float:
    """Return the mean KL over predictions on the samples that judge; the relative error where outputs are no logits."""
    total = count = 0.0
    for step in walk.steps:
        if step.lane.role != "held":
            continue
        refs = list(refs_in(list(step.pair.dense.outputs)))
        for ref, small in zip(refs, step.small.outputs(), strict=True):
            if isinstance(small, Tensor) and small.is_floating_point():
                wide, narrow = _lines(step.target(ref)), _lines(small)
                if wide.shape[-1] < 2:
                    return walk.errors()["held"]
                dense, small = wide.log_softmax(-1), narrow.log_softmax(-1)
                total += float((dense.exp() * (dense - small)).sum())
                count += dense[..., 0].numel()
                break
    return total / max(count, 1.0)


def _lines(logits: Tensor) -> Tensor:
    """Return logits with the classes last; those of images (B, C, H, W) are on dim 1."""
    logits = logits.double()
    return logits.movedim(1, -1) if logits.dim() > 3 else logits


__all__ = ["SAMPLES", "AfterRepair"]
