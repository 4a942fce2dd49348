"""Runs of modules replaced by bridges: the loss without a run, and the rounds that choose runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.analysis.bridging import bridged_analysis
from prunus.budget import Limit
from prunus.cost.price import cost_model
from prunus.data.batches import answer, device_of
from prunus.data.calibration import pairs
from prunus.errors import BudgetError, CaptureError, DataError
from prunus.foundation.as_found import in_eval_mode
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.methods.bridge_fit import Run, fitted
from prunus.methods.levels_from_data import unlabelled
from prunus.methods.masked_run import Replay
from prunus.methods.reduction import SLACK, trimmed, whole
from prunus.plans import Cost, Decision, Plan
from prunus.substitutes import Bridge
from prunus.surgery.bridging import bridged

SAMPLES = 1024
"""Most samples of the selection split that measure the loss with a bridge."""


def loss_of(analysis: Analysis, model: nn.Module) -> float:
    """Return the mean loss of a network on at most `SAMPLES` samples of the selection split."""
    total = count = 0.0
    with in_eval_mode(model), torch.no_grad():
        for inputs, targets in pairs(analysis.selection.batches(256), device_of(model)):
            size = len(targets) if isinstance(targets, Tensor) and targets.dim() else 1
            total += float(analysis.loss(answer(model, inputs), targets)) * size
            count += size
            if count >= SAMPLES:
                break
    return total / count


Candidates = Callable[[Analysis], Iterable[Run]]


@dataclass(frozen=True, slots=True)
class Reconnected:
    """A network with bridges, as an analysis of its own, and what each bridge replaced."""

    analysis: Analysis
    bridges: tuple[Bridge, ...] = ()
    decisions: tuple[Decision, ...] = ()
    loss: float = 0.0
    removed: int = 0

    def spent(self) -> int:
        """Return the amount of the metric."""
        return self.analysis.spent(self.analysis.cost.price())


@dataclass(frozen=True, slots=True)
class _Tried:
    """A network with one bridge more: its loss and its price."""

    run: Run
    bridge: Bridge
    loss: float
    after: Cost


def _tried(
    start: Analysis, now: Reconnected, runs: Iterable[Run], fits: Callable[[Run, int], bool]
) -> Iterator[_Tried]:
    """Yield the networks with one bridge more: those that run, that are smaller, and that fit the budget."""
    dense, current, data = start.user_model, now.analysis.user_model, unlabelled(start)
    for run in runs:
        bridge = fitted(dense, current, run, data)
        if bridge is None:
            continue
        try:
            model = bridged(current, [bridge])
            after = _price(start, now, model, bridge)
            if start.spent(after) >= now.spent() or not fits(run, start.spent(after)):
                continue
            loss = loss_of(start, model)
        except (CaptureError, DataError):
            continue
        if loss < float("inf"):
            yield _Tried(run, bridge, loss, after)


def _price(start: Analysis, now: Reconnected, model: nn.Module, bridge: Bridge) -> Cost:
    """Return the price of the network with one bridge more; latency alone needs its whole analysis."""
    if start.cost.times:
        found = bridged_analysis(start, (*now.bridges, bridge))
        return found.cost.price()
    return cost_model(couple(capture(model, start.user_inputs))).price()


def _following(start: Analysis, now: Reconnected, best: _Tried) -> Reconnected:
    """Return the network with the bridge of one trial, and the decision for it."""
    run, bridge, before = best.run, best.bridge, now.analysis.cost.price()
    found = bridged_analysis(start, (*now.bridges, bridge))
    kinds = {"Bypass": "the identity", "Pool": "an average of its input", "Scale": "a scale of its input"}
    kind = kinds.get(bridge.kind, f"a fitted {bridge.kind}")
    what = run.reason or f"{kind} in place of {' and '.join(run.layers)}"
    decision = Decision(
        run.path,
        "structure",
        max(1, run.removed),
        max(1, len(run.layers)),
        f"{what}: loss {now.loss:.4g} → {best.loss:.4g}",
        saves_params=before.params - best.after.params,
        saves_macs=before.macs_forward - best.after.macs_forward,
    )
    return Reconnected(found, (*now.bridges, bridge), (*now.decisions, decision), best.loss, now.removed + run.removed)


def reconnected(
    analysis: Analysis, candidates: Candidates, *, limit: int = 0, layers: int | None = None, again: bool = True
) -> list[Reconnected]:
    """Replace runs by bridges one after the other, least damage for what it saves first.

    Args:
        analysis: the network and its data.
        candidates: (analysis of the network so far) → the runs that may go.
        limit: amount of the metric that may stay; a run that would leave clearly less stays.
        layers: number of layers or modules that go; it takes the place of ``limit``.
        again: measure all runs again after each removal; otherwise they are ranked once.

    Returns:
        The network after every round, the whole one first.
    """
    now = Reconnected(analysis, loss=loss_of(analysis, analysis.user_model))
    rounds, ranked = [now], list[Run]()
    analysis.progress.start("reconnect", 0)
    while (now.spent() > limit) if layers is None else (now.removed < layers):

        def fits(run: Run, spent: int, left: int = (layers or 0) - now.removed) -> bool:
            return spent >= (1 - SLACK) * limit if layers is None else 0 < run.removed <= left

        best: _Tried | None = None
        if again or len(rounds) == 1:
            tried = sorted(_tried(analysis, now, candidates(now.analysis), fits), key=partial(_damage, now))
            best, ranked = next(iter(tried), None), [one.run for one in tried]
        for run in () if again or len(rounds) == 1 else list(ranked):
            best = next(_tried(analysis, now, [run], fits), None)
            if best is not None:
                break
        if best is None:
            break
        ranked = [run for run in ranked if _apart(run, best.run)]
        now = _following(analysis, now, best)
        rounds.append(now)
        analysis.progress.advance("reconnect")
    analysis.progress.finish("reconnect")
    return rounds


def _damage(now: Reconnected, tried: _Tried) -> tuple[float, str, str]:
    rise = tried.loss - now.loss
    saved = now.spent() - now.analysis.spent(tried.after)
    return (rise / saved if rise > 0 else rise), tried.run.path, tried.bridge.kind


def _apart(one: Run, other: Run) -> bool:
    """Return whether two runs share no module, and neither lies in the other."""
    first, second = ({f"{p}." for p in (run.path, run.target, *run.skipped)} for run in (one, other))
    return not any(a.startswith(b) or b.startswith(a) for a in first for b in second)


def best_plan(start: Analysis, rounds: Sequence[Reconnected], limit: Limit, method: str) -> Plan:
    """Return the plan of least true loss: after each round, trimmed to the budget where it is still above it.

    A round without bridges counts only where there is no other.
    """
    plans = list[tuple[float, int, Plan]]()
    for found in rounds[1:] or rounds:
        plan = trimmed(whole(found.analysis), limit, {}, method=method)
        loss = Replay(found.analysis).loss(start.selection, plan, samples=SAMPLES)
        plans.append((loss, len(plans), with_bridges(start, found, plan, method)))
    return min(plans)[2]


def with_bridges(start: Analysis, found: Reconnected, plan: Plan, method: str) -> Plan:
    """Return a plan of a network with bridges as a plan of the network without them."""
    return replace(
        plan,
        bridges=found.bridges,
        decisions=(*found.decisions, *plan.decisions),
        before=start.cost.price(),
        settings={**plan.settings, "method": method},
    )


def fewer(
    start: Analysis, candidates: Candidates, budget: str, number: int, total: int, method: str, what: str
) -> Plan:
    """Return the plan in which ``number`` of the network's layers or modules stay.

    Raises:
        BudgetError: nothing may go, or fewer than that may.
    """
    rounds = reconnected(start, candidates, layers=total - number, again=method != "modular")
    found = rounds[-1]
    if found.removed < total - number:
        raise BudgetError(
            f"Budget {budget} keeps {number} of {total} {what}, and only {found.removed} can be bridged. Give "
            f"{total - found.removed} or more."
        )
    plan = with_bridges(start, found, whole(found.analysis).as_plan(), method)
    return replace(plan, settings={**plan.settings, "counted": {"kind": "modules", "kept": number, "of": total}})
