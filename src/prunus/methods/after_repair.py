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
from prunus.repairs.blocks import BlockTuning
from prunus.repairs.layerwise_run import LayerwiseRun, run_context
from prunus.repairs.repairs import REPAIRS, SiteRepairer
from prunus.repairs.samples import Role, SampleGroup, sample_groups_of, samples_that_fit

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
        groups = sample_groups_of(analysis.calibration, device_of(analysis.model), names=names, most=most)
        if len(groups) < 2:
            raise DataError(
                f"a search with a repair got {sum(group.count for group in groups)} calibration samples in one part; "
                "some must be fitted to and others judge. Give more data, in more batches."
            )
        self._sample_groups = _divided(groups)

    def error(self, keep: Mapping[str, np.ndarray]) -> float:
        """Return the mean KL(dense ‖ small) on the samples that judge; ‖Δ‖²/‖dense‖² where outputs are no logits.

        Args:
            keep: axis id → units that stay (bool); axes that are not named keep all units.
        """
        analysis, repair = self.analysis, self.repair
        if all(np.asarray(mask, bool).all() for mask in keep.values()):
            return 0.0
        plan = Plan(fingerprint(analysis.coupling.graph), {a: np.asarray(m, bool) for a, m in keep.items()}, {})
        context = run_context(analysis.model, analysis.coupling, plan, self._sample_groups, seed=analysis.seed)
        repairer = SiteRepairer(repair, context)
        if repair.tunes:
            return _divergence(BlockTuning(context, repairer, steps=STEPS, last_steps=LAST_STEPS).finished_run())
        layer_run = LayerwiseRun(context, absorb=repair.absorb, layers=repair.layer is not None)
        layer_run.run(repairer)
        return _divergence(layer_run)


def _divided(groups: tuple[SampleGroup, ...]) -> tuple[SampleGroup, ...]:
    few = _FEW.get(len(groups))
    roles = few or [_ROLES[i % len(_ROLES)] for i in range(len(groups))]
    return tuple(replace(group, role=role) for group, role in zip(groups, roles, strict=True))


@torch.no_grad()
def _divergence(layer_run: LayerwiseRun) -> float:
    """Return the mean KL over predictions of held sample groups; the relative error where outputs are no logits."""
    total = count = 0.0
    for lockstep in layer_run.locksteps:
        if lockstep.sample_group.role != "held":
            continue
        refs = list(refs_in(list(lockstep.pair.dense.outputs)))
        for ref, small in zip(refs, lockstep.small.outputs(), strict=True):
            if isinstance(small, Tensor) and small.is_floating_point():
                wide, narrow = _lines(lockstep.target(ref)), _lines(small)
                if wide.shape[-1] < 2:
                    return layer_run.errors()["held"]
                dense, small = wide.log_softmax(-1), narrow.log_softmax(-1)
                total += float((dense.exp() * (dense - small)).sum())
                count += dense[..., 0].numel()
                break
    return total / max(count, 1.0)


def _lines(logits: Tensor) -> Tensor:
    """Return logits with the classes last; those of images (B, C, H, W) are on dim 1."""
    logits = logits.double()
    return logits.movedim(1, -1) if logits.dim() > 3 else logits
