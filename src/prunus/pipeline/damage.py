"""The damage of each decision of a plan alone, the damage of all together, and the ratio R of the two."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunus.analysis import Analysis
from prunus.foundation.progress import Progress
from prunus.methods.masked_run import Replay
from prunus.plans import Decision, Plan, fingerprint

SAMPLES = 1024
"""The largest number of samples of the selection split that are read."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Rises of the loss on the selection split, before any recovery.

    Attributes:
        dense: loss of the network as it is.
        together: rise with everything removed at once.
        singles: rise of each decision alone, by node.
    """

    dense: float
    together: float
    singles: dict[str, float]

    @property
    def ratio(self) -> float | None:
        """R = together / Σ max(0, single): near 1 where damages add up, larger where they amplify each other."""
        total = sum(max(0.0, rise) for rise in self.singles.values())
        return self.together / total if total > 0 else None


def measure_damage(analysis: Analysis, plan: Plan, progress: Progress | None = None) -> Damage:
    """Run the captured program without each decision's units, branch or weights, and without all of them.

    Nothing is cut: removed units are zero and dropped operands bypassed, norm statistics do not change. One pass
    over at most 1,024 samples of the selection split for each decision, and two more.

    Args:
        analysis: the dense network with its data and its loss.
        plan: a plan for this network.
        progress: reports every pass.

    Units: those of the loss.
    """
    progress = progress or analysis.progress
    replay = Replay(analysis)
    parts = {d.node: part for d in plan.decisions if (part := _only(plan, d)) is not None}
    progress.start("damage", len(parts) + 2)

    def loss(part: Plan) -> float:
        found = replay.loss(analysis.selection, part, samples=SAMPLES)
        progress.advance("damage")
        return found

    dense = loss(Plan(fingerprint(analysis.coupling.graph), {}, {}))
    together = loss(plan) - dense
    singles = {node: loss(part) - dense for node, part in parts.items()}
    progress.finish("damage")
    return Damage(dense, together, singles)


def with_damage(plan: Plan, found: Damage) -> Plan:
    """Return the plan with the damage of every decision, and with sum, joint damage and R in its settings."""
    decisions = tuple(
        replace(d, damage=found.singles[d.node]) if d.node in found.singles else d for d in plan.decisions
    )
    report = {
        "dense_loss": found.dense,
        "together": found.together,
        "singles": sum(max(0.0, rise) for rise in found.singles.values()),
        "ratio": found.ratio,
    }
    return replace(plan, decisions=decisions, settings={**plan.settings, "damage": report})


def _only(plan: Plan, decision: Decision) -> Plan | None:
    """Return the plan of one decision alone; None where the node is no axis, branch or weight of the plan."""
    node = decision.node
    axes = {node: plan.axes[node]} if node in plan.axes else {}
    drops = tuple(d for d in plan.drops if node in (d.label, d.join))
    masks = {node: plan.masks[node]} if node in plan.masks else {}
    if not axes and not drops and not masks:
        return None
    return Plan(plan.fingerprint, axes, {}, drops, masks)
