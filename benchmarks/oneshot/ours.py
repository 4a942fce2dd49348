"""One shot by prunus: a method and a repair on unlabelled images; the rungs of the ladder."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch

from .networks import SAMPLES, Case, Row, case_of

METHOD, REPAIR = "obs-units", "auto"
CANDIDATES = 40
"""What a search may cut and refold."""
RUNGS = {
    "l2, uniform, statistics": ("l2", "statistics"),
    "OBS order, uniform, statistics": ("order", "statistics"),
    "OBS order, measured levels, statistics": ("obs-units", "statistics"),
    "OBS order, measured levels, refold": ("obs-units", "refold"),
    "OBS order, measured levels, blockwise": ("obs-units", "blockwise"),
    "OBS order, measured levels, matching": ("obs-units", "matching"),
    "OBS order, measured levels, search after refold, matching": ("searched", "matching"),
}
"""Rung → (how units are chosen, how the rest is repaired); each adds one thing to the rung before it."""


def cell(net: str, kept: float, seed: int) -> Row:
    """Prune to a share of the MACs with what prunus does best."""
    return shot(net, kept, seed, METHOD, REPAIR, SAMPLES)


def rung(net: str, kept: float, seed: int, name: str) -> Row:
    """Take one rung of the ladder."""
    return shot(net, kept, seed, *RUNGS[name], SAMPLES)


def shot(net: str, kept: float, seed: int, method: str, repair: str, samples: int | str) -> Row:
    """Plan, cut, repair and score; images are unlabelled, and nothing is chosen by the test split."""
    from prunus.repairs import repair_
    from prunus.surgery.cut import cut_with_record

    case, subject = case_of(net, seed), _subject(net, seed, samples)
    started = time.perf_counter(), time.process_time()
    plan = _WAYS.get(method, functools.partial(_by_method, method))(subject, kept)
    planned = time.process_time()
    small, _ = cut_with_record(subject.model, subject.coupling, plan, subject.example_inputs)
    report = repair_(subject.model, small, subject.coupling, plan, subject.calibration, repair=repair, seed=seed)
    assert plan.before is not None
    assert plan.after is not None
    return {
        **case.judged(small),
        "macs": plan.after.macs_forward / plan.before.macs_forward,
        "params": plan.after.params / plan.before.params,
        "repair": report.chosen,
        "error": report.after,
        "plan_cpu_seconds": planned - started[1],
        "cpu_seconds": time.process_time() - started[1],
        "seconds": time.perf_counter() - started[0],
    }


@functools.lru_cache(maxsize=1)
def _subject(net: str, seed: int, samples: int | str) -> Any:
    """Return the network with images whose labels are all zero: whatever looked at them would show."""

    from prunus.analysis import analyse
    from prunus.data.splits import Split

    case: Case = case_of(net, seed)
    images = case.images(samples)
    blind = Split(images, torch.zeros(len(images), dtype=torch.int64), "calibration")
    return analyse(case.model, case.example, data=blind, held_out=blind, seed=seed).in_metric("macs")


def _by_method(name: str, subject: Any, kept: float) -> Any:
    from prunus.methods import METHODS

    return METHODS.get(name).plan(subject, subject.limits(kept))


def _l2(subject: Any, kept: float) -> Any:
    return _by_method("magnitude", subject, kept)


def _order(subject: Any, kept: float) -> Any:
    """Take the order in which group OBS removes units, the same share of every axis."""
    from prunus.analysis.score import make_plan
    from prunus.methods.obs_units import unit_levels

    keep = subject.fit(unit_levels(subject).scores, subject.limit(kept), allocator="uniform")
    return make_plan(subject.coupling, keep, cost=subject.cost)


def _searched(subject: Any, kept: float) -> Any:
    """Exchange levels between axes wherever the outputs come closer after a refold, from the measured levels on."""
    from prunus.analysis.score import make_plan
    from prunus.methods.loss_search import LossSearch
    from prunus.methods.obs_units import ByLevels, unit_levels

    levels = unit_levels(subject)
    search = LossSearch(subject, ByLevels(levels.damage), CANDIDATES, repair="refold")
    keep = subject.fit(levels.scores, subject.limit(kept), allocator=search, damage=levels.damage)
    return make_plan(subject.coupling, keep, cost=subject.cost)


_WAYS: dict[str, Callable[[Any, float], Any]] = {"l2": _l2, "order": _order, "searched": _searched}
