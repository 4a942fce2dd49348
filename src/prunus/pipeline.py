"""The one-call function and its stages: capture → couple → score → allocate → cut → verify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from prunus.budget import Limit
from prunus.budget.allocator import Allocator
from prunus.criteria import needs_of
from prunus.criteria.noise import data_or_noise
from prunus.graph.capture import unwrap
from prunus.graph.coupling import couple, opted_in
from prunus.graph.parts import capture_or_parts
from prunus.meeting import meet
from prunus.ordinary import in_ordinary_mode
from prunus.plans import Cost, Plan
from prunus.prepared import OBS, Request, prepare
from prunus.recovering import check_request, recover_
from prunus.recovery import RecoveryReport
from prunus.repair import RepairReport, as_often_as_needed, check_repair, repair_, repair_parts_
from prunus.scored import Bounds, Budget
from prunus.surgery.cut import cut, operate
from prunus.surgery.record import Surgery
from prunus.surgery.tensors import sliced_masks
from prunus.surgery.verify import Check, verify
from prunus.workloads.learning import learning_data


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What `prune` returns; printing it shows a table.

    Attributes:
        model: the smaller network.
        plan: what went and why; ``plan.keep`` maps tensor name → dim → kept indices.
        before, after: exact counts.
        check: the proof that masked and cut agree.
        coverage: share of the parameters that lie on removable axes.
        surgery: which forwards were rewritten and which integers mended.
        parts: the submodules that were captured, where the whole could not be; the rest is as it was.
        example_inputs: what the model was captured with; file formats that need a call of it use them.
        repair: what refitting the weights on unlabelled data did; the proof is from before it.
        recovery: what training after the cut did, where it was asked for; the proof is from before it.
    """

    model: nn.Module
    plan: Plan
    before: Cost
    after: Cost
    check: Check
    coverage: float
    surgery: Surgery
    parts: tuple[str, ...] = ()
    example_inputs: Any = field(default=None, repr=False, compare=False)
    recovery: RecoveryReport | None = None
    repair: RepairReport | None = None

    def __str__(self) -> str:
        rows = [("", "before", "after", "kept")]
        for label, name in (("params", "params"), ("MACs forward", "macs_forward"),
                             ("MACs backward", "macs_backward"), ("bytes", "param_bytes")):  # fmt: skip
            old, new = getattr(self.before, name), getattr(self.after, name)
            rows.append((label, f"{old:,}", f"{new:,}", f"{new / old:.1%}" if old else "–"))
        if self.plan.masks:
            total, kept = self.before.params, self.after.params - self._masked()
            rows.append(("weights not masked", f"{total:,}", f"{kept:,}", f"{kept / total:.1%}"))
        widths = [max(len(r[i]) for r in rows) for i in range(4)]
        lines = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
                 for r in rows]  # fmt: skip
        lines += [str(self.check), f"coverage: {self.coverage:.1%} of the parameters can be removed"]
        if self.plan.axes:
            criterion = str(self.plan.settings.get("criterion", ""))
            alone = criterion != OBS and not needs_of(criterion)
            lines.append(f"scored by: {criterion}{', from the weights alone' if alone else ''}")
        if self.parts:
            lines.append(f"captured in parts (MACs count these alone): {', '.join(self.parts)}")
        if self.repair is not None:
            lines.append(str(self.repair))
        if self.recovery is not None:
            lines.append(str(self.recovery))
        return "\n".join(lines)

    def _masked(self) -> int:
        """Return how many weights of the cut model the masks hold at zero."""
        count = 0
        for name, mask in self.plan.masks.items():
            left = mask
            for dim, index in self.plan.keep.get(name, {}).items():
                left = left.take(index, axis=dim)
            count += int((~left).sum())
        return count


@in_ordinary_mode
def prune(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: Budget,
    criterion: str | None = None,
    levels: Sequence[str] = ("unit",),
    data: Iterable[Any] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    allocator: str | Allocator | None = None,
    bounds: Bounds | None = None,
    opt_in: Sequence[str] = (),
    recover: Mapping[str, Any] | None = None,
    repair: str | None = "auto",
) -> PruneResult:
    """Return a smaller network that provably computes what the masked original computes.

    Args:
        model: any network that can be captured; it is left untouched.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        budget: ``{"params": 0.5}``, ``{"macs": 0.3}``, ``{"bytes": "2MB"}``, ``{"memory": 0.5}``,
            ``{"latency_ms": 0.5}``; several mean all. A number up to 1 is the kept fraction. Memory is that of one
            forward call on the example inputs. For milliseconds the ops are timed on this machine with the example
            inputs, the cut network is timed against the original, and the plan is made again where
            prediction and measurement part; ``plan.settings["latency"]`` says what came out. ``{"energy": 0.5}`` is
            met in the same way where the machine's counters can be read (RAPL, NVML), and refused elsewhere.
        criterion: how units are scored: magnitude, l1, fpgm, bn_scale and random read weights alone, the others data:
            fisher, contribution, mean_activation, apoz, wanda and redundancy inputs, taylor, taylor_sample,
            taylor_batch, worst_class, sensitivity and snip labels too. ``obs-units`` needs inputs: units leave in the
            order in which the layers behind make up for them best, and what each level does to the outputs is measured.
            None means ``obs-units`` where there are data and that takes no longer than minutes, else magnitude.
        levels: ``("unit",)`` removes units, ``("weight",)`` masks weights, both share the budget.
        data: batches (inputs, targets) for criteria that need them; cross-entropy is the loss. The repair needs no
            targets: for it, and for criteria that do without, batches may be inputs alone, and one tensor of samples
            will do. Inputs are as ``example_inputs``; of a dict what the model was not captured with is left out. An
            iterator is read to its end. ``"noise"`` takes noise that looks like the example inputs, for those who have
            no data.
        ignore: modules to leave as they are: names, globs, ``re:`` patterns, class names.
        seed: for criteria and checks that draw numbers.
        allocator: who gets how much: uniform, global, isomorphic, erk, lamp, lagrangian, knapsack, viterbi, or an
            allocator itself; single weights know uniform, global, erk and lamp. By default uniform for units (for
            ``obs-units`` the knapsack over measured levels) and global for weights.
        bounds: limits of parts of the tree: ``{"stage3/*/heads": {"round_to": 2}, "layer4": {"floor": 0.5}}`` with
            any of floor, ceiling, round_to, frozen, forced.
        opt_in: what else may go: ``"experts"`` whole, with their rows of the router; ``"vocabulary"``, tokens. Tokens
            that stay are numbered anew: ``plan.keep[embedding][0]`` lists their old ids.
        recover: ``{"steps": 500}`` or ``{"minutes": 10}``: train the cut network on ``data``, of which a tenth decides
            what pays, and is kept from the repair too; other options as in `prunus.recover_`.
        repair: with ``data``, the weights that stay are refitted towards the dense network's outputs, without labels:
            statistics, bias, scales, refold, blockwise, matching, or ``auto``, the best of them on samples held out;
            see `prunus.repair_`. None leaves them as they are.

    Raises:
        UsageError: bad arguments, NaN weights, unknown names.
        CaptureError: the model cannot be captured.
        BudgetError: nothing is removable, or the budget is out of reach or met already.
        VerifyError: the cut model differs; nothing is returned.
    """
    model, data = unwrap(model), data_or_noise(data, example_inputs, seed)
    check_repair(repair)
    request = Request(budget, criterion, levels, data, ignore, seed, allocator, bounds, opt_in)
    wanted = check_request(recover, data)
    data = as_often_as_needed(data)  # an iterator is used up by it: what can be refused is refused before
    # What decides on the recovery must not have been fitted to, or no training would seem to help.
    fitted = data if wanted is None or repair is None else learning_data(data)[0]
    ready = prepare(model, example_inputs, replace(request, data=data))
    captured, coupling = ready.captured, ready.coupling

    def made(limits: Sequence[Limit]) -> tuple[Plan, nn.Module, Surgery]:
        chosen = ready.solve(limits)
        return (chosen, *operate(captured.model, coupling, chosen, captured.inputs))

    chosen, small, surgery = meet(made, ready, seed)
    check = verify(captured.model, small, coupling, chosen, captured.inputs, seed=seed)
    assert chosen.before is not None
    assert chosen.after is not None
    mended = None
    if data is not None and repair is not None:
        mended = (
            repair_parts_(small, model, captured, chosen, fitted, example_inputs, repair=repair, seed=seed,
                          options=coupling.options) if captured.parts
            else repair_(small, model, coupling, chosen, fitted, repair=repair, seed=seed)
        )  # fmt: skip
    small = captured.restored(small, model)
    told = None
    if wanted is not None:
        cut_by = None if captured.parts else chosen
        told = recover_(small, model, data, wanted, plan=cut_by, masks=sliced_masks(chosen),
                        example_inputs=example_inputs, seed=seed)  # fmt: skip
    return PruneResult(
        small, chosen, chosen.before, chosen.after, check, coupling.coverage(), surgery, captured.parts, example_inputs,
        told, mended,
    )  # fmt: skip


@in_ordinary_mode
def plan(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: Budget,
    criterion: str | None = None,
    levels: Sequence[str] = ("unit",),
    data: Iterable[Any] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    allocator: str | Allocator | None = None,
    bounds: Bounds | None = None,
    opt_in: Sequence[str] = (),
) -> Plan:
    """Decide what would go and price it exactly; nothing is changed. Arguments as in `prune`.

    A budget in milliseconds rests on the prediction alone here; `prune` measures.
    """
    data = data_or_noise(data, example_inputs, seed)
    request = Request(budget, criterion, levels, data, ignore, seed, allocator, bounds, opt_in)
    return prepare(unwrap(model), example_inputs, request).solve()


@in_ordinary_mode
def apply(model: nn.Module, plan: Plan, example_inputs: Any) -> nn.Module:
    """Cut a model exactly as a plan says, and verify it; the argument is untouched.

    Raises:
        PlanError: the plan was made for another model.
        VerifyError: the cut model differs from the masked original.
    """
    model = unwrap(model)
    captured = capture_or_parts(model, example_inputs)
    coupling = couple(captured.graph, **opted_in(plan.settings.get("opt_in", ())))
    small = cut(captured.model, coupling, plan, captured.inputs)
    verify(captured.model, small, coupling, plan, captured.inputs)
    return captured.restored(small, model)
