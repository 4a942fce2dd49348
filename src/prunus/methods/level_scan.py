"""The measured damage of one axis at one level: the error of the network's output with the consumers refitted."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.analysis import Analysis
from prunus.data.calibration import evaluating, inputs_of
from prunus.data.programs import Programs
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import run
from prunus.graph.ir import TENSOR, Graph, refs_in
from prunus.methods.layer_inputs import Reader
from prunus.methods.levels_from_data import unlabelled
from prunus.plans import Plan, fingerprint
from prunus.repairs.paired_run import Track
from prunus.surgery.proving.verify import masked_tensors, reference_overrides

SHARES = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
"""Kept shares at which an axis is measured."""
SAMPLES, LEAST_SAMPLES = 256, 16
"""Calibration samples of each level, and the least number, for large networks."""
WORK = 4e12
"""Most MACs of a whole scan: minutes on one core."""
VALUES = 2**25
"""Most stored output values; one batch is always stored."""
_BATCH = 64
_LEAST = 1e-7


@dataclass(frozen=True, slots=True)
class _Batch:
    coupling: Coupling
    inputs: list[Tensor]
    outputs: list[Tensor]


class LevelScan:
    """Run the captured network with one axis cut and the layers that read it refitted, everything else dense."""

    def __init__(self, analysis: Analysis) -> None:
        self._programs = Programs(analysis.model, analysis.coupling)
        self._graph = analysis.coupling.graph
        self._batches: list[_Batch] = []
        self._ways: dict[int, tuple[int, Track | None]] = {}
        samples = values = 0
        most = _samples(analysis)
        with evaluating(self._programs.model), torch.no_grad():
            for inputs, _ in inputs_of(unlabelled(analysis).batches(min(_BATCH, most)), self._programs.device):
                coupling, flat = self._programs.of(inputs)
                outputs = _floats(run(coupling.graph, self._programs.tensors, flat))
                self._batches.append(_Batch(coupling, flat, outputs))
                samples, values = samples + len(flat[0]), values + sum(x.numel() for x in outputs)
                if samples >= most or values >= VALUES:
                    break

    def error(self, axis: str, kept: np.ndarray, readers: Sequence[Reader]) -> float:
        """Return ‖dense − cut‖² / ‖dense − mean‖² of the network's outputs, every output with the same weight.

        Where every batch is a single sample, ‖dense‖² replaces the denominator.
        """
        mask = torch.from_numpy(kept)
        return self._error(axis, kept, readers, [reader.refitted(mask) for reader in readers])

    def errors(self, axis: str, order: np.ndarray, counts: Sequence[int], readers: Sequence[Reader]) -> list[float]:
        """Return the error at each number of kept units; units are removed in the given order."""
        size, errors = len(order), []
        levels = [reader.levels(torch.from_numpy(order), counts) for reader in readers]
        for count in counts:
            kept = np.ones(size, bool)
            kept[order[: size - count]] = False
            errors.append(self._error(axis, kept, readers, [[own[count] for own in level] for level in levels]))
        return errors

    @torch.no_grad()
    def _error(
        self, axis: str, kept: np.ndarray, readers: Sequence[Reader], weights: Sequence[Sequence[Tensor]]
    ) -> float:
        plan = Plan(fingerprint(self._graph), {axis: kept}, {})
        own_names = self._programs.first.tensors  # a tied tensor has one name in the program
        named = {name: tensor for name, tensor in self._programs.tensors.items() if name in own_names}
        masked = masked_tensors(named, self._programs.first, plan)
        shifts: dict[str, Tensor] = {}
        for reader, own in zip(readers, weights, strict=True):
            site, seen = reader.seen.site, masked[reader.seen.site.tensor]
            masked[site.tensor] = site.weight(torch.stack(list(own))).to(seen.device, seen.dtype)
            if reader.seen.shifts:
                shape = (1, -1, *[1] * len(site.shape[2:])) if site.kind == "conv" else (-1,)
                shifts[site.node] = _lost(reader, own).reshape(shape).to(seen.device, seen.dtype)
        miss = whole = energy = 0.0
        changed = {name for name, value in masked.items() if value is not named[name]}
        for number, batch in enumerate(self._batches):
            overrides = reference_overrides(batch.coupling, plan)
            start = _first(batch.coupling.graph, changed, overrides.keys() | shifts.keys())
            track = self._dense_until(number, start).copied(masked)
            for node in batch.coupling.graph.nodes[start:]:
                track.step(node, overrides.get(node.name))
                if node.name in shifts:
                    track.values[node.name] = track.values[node.name] + shifts[node.name]
            for cut, dense in zip(_floats(track.outputs()), batch.outputs, strict=True):
                # Masked logits are infinite in both networks.
                wide = dense.where(dense.isfinite(), 0.0)
                miss += float((cut - dense).where(cut != dense, 0.0).double().square().mean())
                whole += float((wide - wide.mean(0)).double().square().mean())
                energy += float(wide.double().square().mean())
        return miss / max(whole or energy, 1e-30)

    def _dense_until(self, number: int, position: int) -> Track:
        """Run the dense program of a batch up to a node; axes come in program order, so it mostly continues."""
        batch = self._batches[number]
        graph = batch.coupling.graph
        at, track = self._ways.get(number, (len(graph.nodes), None))
        if track is None or at > position:
            at, track = 0, Track(graph, batch.inputs, self._programs.tensors, graph.constants)
        for node in graph.nodes[at:position]:
            track.step(node)
        self._ways[number] = position, track
        return track


def _first(graph: Graph, tensors: Set[str], nodes: Set[str]) -> int:
    """Return the position of the first node that reads one of these tensors, or is one of these nodes."""
    named = {node.name for node in graph.nodes if node.op == TENSOR and node.tensor in tensors}
    return next(
        (
            i
            for i, node in enumerate(graph.nodes)
            if node.name in nodes | named or any(ref.node in named for ref in refs_in(node.args))
        ),
        len(graph.nodes),
    )


def level_curve(
    scan: LevelScan, axis: str, order: np.ndarray, shape: np.ndarray, readers: Sequence[Reader]
) -> np.ndarray:
    """Return the damage of keeping 0, 1, … units of an axis: measured at some counts, and interpolated with ``shape``.

    Args:
        scan: scan of the network.
        axis: id of the axis.
        order: the units in the order of removal.
        shape: predicted damage of keeping 0, 1, … units; only its relative rise is used.
        readers: layers that read the axis.

    Shapes: order (units,), shape (units + 1,) → (units + 1,), falling to 0.
    """
    size = len(order)
    counts = sorted({min(size - 1, max(1, round(share * size))) for share in SHARES})
    if size < 2:
        return shape
    errors = [max(error, _LEAST) for error in scan.errors(axis, order, counts, readers)]
    smooth = np.maximum(shape, 1e-9 * max(float(shape[0]), 1e-30))
    ratio = np.interp(np.arange(size + 1), counts, np.log(np.array(errors) / smooth[counts]))
    curve = np.where(np.arange(size + 1) < size, smooth * np.exp(ratio), 0.0)
    return np.asarray(np.maximum.accumulate(curve[::-1])[::-1])


def _lost(reader: Reader, weights: Sequence[Tensor]) -> Tensor:
    """Return the change of the mean of a reader's outputs with other weights. Shapes: → (G, O)."""
    means = reader.seen.moments.mean.cpu()
    return torch.stack([(dense - w) @ mean for dense, w, mean in zip(reader.weights, weights, means, strict=True)])


def _samples(analysis: Analysis) -> int:
    # Held axes count too: the measurement of one axis must not depend on which others are held.
    runs = max(1, len(analysis.coupling.axes) * len(SHARES))
    sample = max(1, analysis.cost.price().macs_forward)
    return min(SAMPLES, max(LEAST_SAMPLES, int(WORK * analysis.effort.scale / (runs * sample))))


def _floats(outputs: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]


def affordable_levels(analysis: Analysis) -> bool:
    """Return True if a scan of all levels stays within `WORK`, times the scale of the effort."""
    sample = analysis.cost.price().macs_forward
    return len(analysis.coupling.axes) * len(SHARES) * LEAST_SAMPLES * sample <= WORK * analysis.effort.scale
