"""`Outcome`: the result of a plan, the same record from every public function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from prunus.analysis import Analysis
from prunus.analysis.input_size import input_size_line
from prunus.criteria import is_unit_criterion, needs_of
from prunus.errors import UsageError
from prunus.exporters import save, undo
from prunus.foundation.arguments import door
from prunus.plans import Cost, Plan
from prunus.recovery import RecoveryReport
from prunus.repairs import RepairReport
from prunus.substitutes import bridge_lines
from prunus.surgery.proving.verify import Check
from prunus.surgery.record import Surgery


@dataclass(frozen=True, slots=True)
class Outcome:
    """A smaller network with its plan and its proof; printing it shows a table.

    `prunus.prune`, `apply`, `realise` and `shrink` return one, `Pruner.outcomes` holds one for each cut, `compare`
    makes one for each run. Every outcome can be saved, undone, pruned to another budget, recovered and reported.

    Attributes:
        model: the smaller network.
        plan: what was removed and why; ``plan.keep`` maps tensor name → dim → kept indices.
        check: the proof that masked and cut agree; None where the user wanted none (``Pruner(prove=False)``).
        coverage: share of the parameters that lie on removable axes.
        surgery: the forwards that were rewritten and the integers that were updated.
        parts: the submodules that were captured, if the whole model could not be; the rest is unchanged.
        example_inputs: the call with which the model was captured; some file formats need it.
        recovery: the report of the training after the cut, if there was one; the proof is from before it.
        repair: the report of the refitting on unlabelled data; the proof is from before it.
        notes: further remarks, a line each.
        analysis: the analysis that the plan was made from. After a cut in training it is that of the cut network.
        asked: the options of `prunus.prune` behind the plan; empty where `realise` was called directly.
        coverage_rewritten: the coverage with ``forward="rewrite"``, where forwards are kept.
    """

    model: nn.Module
    plan: Plan
    check: Check | None
    coverage: float
    surgery: Surgery
    parts: tuple[str, ...] = ()
    example_inputs: Any = field(default=None, repr=False, compare=False)
    recovery: RecoveryReport | None = None
    repair: RepairReport | None = None
    notes: tuple[str, ...] = ()
    analysis: Analysis | None = field(default=None, repr=False, compare=False)
    coverage_rewritten: float | None = None
    asked: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def before(self) -> Cost:
        """Exact counts of the original."""
        return self.plan.before

    @property
    def after(self) -> Cost:
        """Exact counts of the smaller network."""
        return self.plan.after

    @door("Outcome.save")
    def save(self, path: Path | str, **options: Any) -> Path:
        """Write the network; see `prunus.save`."""
        return save(self, path, **options)

    @door("Outcome.undo")
    def undo(self, *, fill: str = "original") -> nn.Module:
        """Return the original network in which all kept positions have the values of the smaller one.

        Raises:
            UsageError: the network was cut in place while it trained; the original does not exist any more.
        """
        if self.analysis is None or self.analysis.model is self.model:
            raise UsageError(
                "this outcome does not know its original; use prunus.undo(small, plan, original) with a copy of it."
            )
        dense = (self.analysis.unbridged or self.analysis).user_model
        return undo(self.model, self.plan, dense, fill=fill, example_inputs=self.analysis.user_inputs)

    @door("Outcome.rebudget")
    def rebudget(self, budget: Mapping[str, float | int | str], **options: Any) -> Outcome:
        """Prune the original to another budget, otherwise as before; earlier measurements are reused.

        Args:
            budget: as in `prunus.prune`.
            **options: the options that differ, as in `Analysis.plan`, and ``repair``. All others are those of the
                `prune` that made this outcome. Where a plan was realised by hand they are the defaults, without a
                repair.

        Raises:
            UsageError: there is no analysis to plan from.
        """
        if self.analysis is None:
            raise UsageError("this outcome has no analysis; use prunus.prune on its model.")
        # The pipeline is in a higher layer, which this one may not import; so it is imported by name.
        made: Outcome = import_module("prunus.pipeline.prune").rebudgeted(self, budget, options)
        return made

    def __str__(self) -> str:
        return "\n".join(_lines(self))


_COUNTS = (
    ("params", "params"),
    ("MACs forward", "macs_forward"),
    ("MACs backward", "macs_backward"),
    ("bytes", "param_bytes"),
)


def _lines(found: Outcome) -> list[str]:
    size = input_size_line(found.plan)
    proof = "not proved" if found.check is None else str(found.check)
    coverage = f"coverage: {found.coverage:.1%} of the parameters can be removed"
    if found.coverage_rewritten is not None and found.coverage_rewritten - found.coverage > 5e-4:
        coverage += f' ({found.coverage_rewritten:.1%} with forward="rewrite")'
    lines = [*_table(found), *([size] if size else []), *bridge_lines(found.plan.bridges), proof, coverage]
    if found.surgery.spliced:
        named = ", ".join(path or "the model" for path in found.surgery.spliced)
        lines.append(f"rewritten forwards, for calls like the example alone: {named}")
    if found.surgery.program is not None:
        lines.append("rewritten forward, for calls like the example alone: that of the whole model")
    criterion = str(found.plan.settings.get("criterion") or "")
    if found.plan.axes and criterion:
        alone = is_unit_criterion(criterion) and not needs_of(criterion)
        lines.append(f"scored by: {criterion}{', from the weights alone' if alone else ''}")
    counted = found.plan.settings.get("counted") or {}
    lines += [counted["note"]] if "note" in counted else []
    if found.parts:
        lines.append(f"captured in parts (MACs count these alone): {', '.join(found.parts)}")
    lines += [str(report) for report in (found.repair, found.recovery) if report is not None]
    return [*lines, *found.notes]


def _table(found: Outcome) -> list[str]:
    rows = [("", "before", "after", "kept")]
    for label, name in _COUNTS:
        old, new = getattr(found.before, name), getattr(found.after, name)
        rows.append((label, f"{old:,}", f"{new:,}", f"{new / old:.1%}" if old else "–"))
    if found.plan.masks:
        total, kept = found.before.params, found.after.params - found.plan.masked
        rows.append(("params not masked", f"{total:,}", f"{kept:,}", f"{kept / total:.1%}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
