"""`frontier`: one pruned network trained with growing budgets, and the knee of accuracy over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.analysis import BATCH, Analysis
from prunus.analysis.input_size import resized
from prunus.data.batches import DataSource
from prunus.data.calling import called
from prunus.data.learning import readable
from prunus.errors import OptionError, UsageError, nearest
from prunus.exporters import load
from prunus.foundation import clock
from prunus.foundation.atomic_files import check_writable
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.clock import SECONDS_A_MINUTE
from prunus.foundation.progress import Progress, Silent
from prunus.foundation.registry import title_of
from prunus.graph.call_form import CallForm
from prunus.measurement.quality import evaluate, paired_interval
from prunus.outcome import Outcome, recovered
from prunus.pipeline.frontier_log import Finished, FrontierLog, identity_of
from prunus.recovery import AUTOPILOT, RecoveryOptions
from prunus.report.results.frontier import RULES, Frontier, TrainingPoint, best_of, knee_of
from prunus.surgery.copy_module import deep_copy
from prunus.training import TrainingOptions

Options = RecoveryOptions | TrainingOptions
NETWORKS = "networks"
"""The folder of the checkpoints and of their log, below the folder of the results."""
_SHORT, _LONG = 8, 16
"""Steps of the two trainings from which the time of the others is estimated; both evaluate equally often."""


@dataclass(frozen=True, slots=True)
class Balanced:
    """A frontier, and the outcome whose network is that of its knee."""

    frontier: Frontier
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.frontier}\n{self.outcome}"


@dataclass(frozen=True, slots=True)
class Budgets:
    """The budgets of the trainings, in growing order.

    Attributes:
        unit: steps or minutes.
        amounts: 0 is the network before the training.
        rule: how the knee is chosen.

    Raises:
        OptionError: fewer than two budgets, one that is given twice or not allowed, or an unknown rule.
    """

    unit: str
    amounts: tuple[float, ...]
    rule: str = "chord"

    @staticmethod
    def of(steps: Sequence[int] | None, minutes: Sequence[float] | None, rule: str = "chord") -> Budgets:
        """Return the budgets of either unit."""
        if (steps is None) == (minutes is None):
            given = "neither" if steps is None else "both"
            raise OptionError(f"a frontier has steps or minutes, such as [50, 100, 200]; got {given}.")
        unit, given_amounts = ("steps", steps) if steps is not None else ("minutes", minutes)
        if isinstance(given_amounts, str) or not isinstance(given_amounts, Sequence):
            raise OptionError(f"{unit} of a frontier are {given_amounts!r}; allowed: a list such as [50, 100, 200].")
        return Budgets(unit, tuple(given_amounts), rule)

    def __post_init__(self) -> None:
        kind: Any = int if self.unit == "steps" else int | float
        for amount in self.amounts:
            if not isinstance(amount, kind) or isinstance(amount, bool) or not 0 <= amount < float("inf"):
                what = "whole numbers" if self.unit == "steps" else "numbers"
                raise OptionError(f"{self.unit} of a frontier hold {amount!r}; allowed: {what}, 0 or more.")
        twice = [amount for amount in self.amounts if self.amounts.count(amount) > 1]
        if twice or len(self.amounts) < 2:
            problem = f"hold {twice[0]:g} twice" if twice else f"are {list(self.amounts)}"
            raise OptionError(f"{self.unit} of a frontier {problem}; allowed: two different budgets or more.")
        if self.rule not in RULES:
            raise OptionError(f"rule is {self.rule!r}.{nearest(str(self.rule), RULES)} Allowed: {', '.join(RULES)}.")
        object.__setattr__(self, "amounts", tuple(sorted(self.amounts)))

    def name(self, amount: float) -> str:
        """Return the name of a training's folder."""
        return f"{self.unit}-{amount:g}"


@in_ordinary_mode
def frontier(
    outcome: Outcome,
    *,
    steps: Sequence[int] | None = None,
    minutes: Sequence[float] | None = None,
    recover: Mapping[str, Any] | None = None,
    rule: str = "chord",
    test: Any = None,
    out: Path | str | None = None,
    announce: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> Balanced:
    """Train a pruned network with growing budgets, each from the same start, and choose the knee.

    Every training has the same data, options and seed, and its whole schedule, so a point is what a recovery with that
    budget gives. Accuracy on the selection split decides; the test split is reported only. The frontier consists of
    the points that no cheaper one reaches. By rule ``chord`` it ends at its first point that the most accurate one does
    not beat beyond noise, and the knee lies farthest above the straight line between its ends; by rule ``noise`` the
    knee is that end.

    Args:
        outcome: the pruned network, such as that of ``prunus.prune(…, recover=None)``; it is left untouched.
        steps: the budgets in optimizer steps; 0 is the network before the training.
        minutes: the budgets in minutes, in place of steps.
        recover: other options of the recovery, as in `prunus.recover_`.
        rule: ``chord`` or ``noise``.
        test: labelled data that are only reported; by default the test split where the data are splits.
        out: a folder for the checkpoint of every training, below ``networks``. A frontier that was interrupted goes on
            from them when it is called again, also with further budgets. None keeps the networks in memory.
        announce: called with a line before the work, an estimate of its time, and with one where it is interrupted.
        progress: reports every training.

    Raises:
        OptionError: budgets, a rule or a recovery that are not allowed, or no data.
        DataError: targets that are no classes, by which accuracy could be judged.
    """
    budgets = Budgets.of(steps, minutes, rule)
    given = dict(recover or {})
    wrong = next((name for name in ("steps", "minutes") if given.get(name) is not None), None)
    if wrong is not None:
        raise OptionError(f"recover has {wrong} ({given[wrong]!r}) beside the budgets of the frontier; leave it out.")

    def options_of(unit: str, amount: float) -> Options:
        return RecoveryOptions.of({**given, unit: amount})

    options_of(budgets.unit, max(budgets.amounts))
    analysis = _analysis(outcome)
    source = (
        None
        if test is None
        else resized(analysis, readable(called(test, CallForm((analysis.full_size or analysis).user_inputs))))
    )
    return train_frontier(outcome, budgets, options_of, test=source, out=out, announce=announce, progress=progress)


def train_frontier(
    start: Outcome,
    budgets: Budgets,
    options_of: Callable[[str, float], Options],
    *,
    test: DataSource | None = None,
    out: Path | str | None = None,
    metadata: Callable[[Path], Mapping[str, Any]] | None = None,
    announce: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> Balanced:
    """Carry out `frontier` with any options of a recovery.

    Args:
        start: the pruned network.
        budgets: unit and amounts.
        options_of: (unit, amount) → options of the training with this budget.
        test: data that are only reported.
        out: the folder of the results.
        metadata: folder → the metadata of a checkpoint in it.
        announce: called with lines about the work.
        progress: reports every training.
    """
    analysis = _analysis(start)
    folder = None if out is None else Path(out) / NETWORKS
    if folder is not None:
        check_writable(folder / "points.jsonl")
    splits = None if analysis.given is None else analysis.given.splits
    work = _Work(analysis, start, test if test is not None or splits is None else splits.test)
    work.correct(start.model)  # refuses data without classes before anything is trained
    settings = options_of(budgets.unit, max(budgets.amounts))
    kind = {k: v for k, v in settings.described().items() if k not in ("steps", "minutes")}
    log = FrontierLog.of(folder, identity_of(start.model, sorted(kind.items()), analysis.seed, len(analysis.selection)))
    say, shown = announce or (lambda line: None), progress or Silent()
    left = [amount for amount in budgets.amounts if log.get(budgets.name(amount)) is None]
    say(_estimated(work, budgets, left, options_of))
    task = "frontier"
    shown.start(task, len(budgets.amounts))
    shown.advance(task, len(budgets.amounts) - len(left))
    entries: dict[float, Finished] = {}
    networks: dict[float, Outcome] = {}
    for amount in budgets.amounts:
        name = budgets.name(amount)
        entry = log.get(name)
        if entry is None:
            try:
                trained, entry = work.trained(options_of(budgets.unit, amount) if amount else None, amount)
            except KeyboardInterrupt:
                say(_kept(len(entries), len(budgets.amounts), out))
                raise
            place = log.place(name)
            if place is not None:
                trained.save(place, metadata=None if metadata is None else metadata(place))
            log.add(name, entry)
            networks[amount] = trained
            shown.advance(task)
        entries[amount] = entry
    shown.finish(task)
    made = _frontier(budgets, entries, analysis.seed, folder is not None)
    amount = made.chosen.amount
    if amount not in networks:
        place = log.place(budgets.name(amount))
        assert place is not None
        networks[amount] = replace(start, model=load(place, analysis.user_model))
    return Balanced(made, networks[amount])


@dataclass(frozen=True, slots=True)
class _Work:
    """The start of all trainings, and the data that judge and report."""

    analysis: Analysis
    start: Outcome
    test: DataSource | None

    def trained(self, options: Options | None, amount: float = 0) -> tuple[Outcome, Finished]:
        """Train a copy of the start, and measure it."""
        began = clock.seconds()
        outcome = recovered(replace(self.start, model=deep_copy(self.start.model)), options)
        seconds = clock.seconds() - began if options is not None else 0.0
        steps = outcome.recovery.steps if options is not None and outcome.recovery is not None else int(amount)
        test = None if self.test is None else float(self.judged(outcome.model, self.test).double().mean())
        return outcome, Finished(steps, seconds, self.correct(outcome.model), test)

    def correct(self, model: nn.Module) -> torch.Tensor:
        """Return for each target of the selection split whether a network is right."""
        return self.judged(model, self.analysis.selection)

    def judged(self, model: nn.Module, data: DataSource) -> torch.Tensor:
        """Return for each target of a source whether a network is right."""
        return evaluate(model, data.batches(BATCH), loss=title_of(self.analysis.loss)).correct


def _frontier(budgets: Budgets, entries: Mapping[float, Finished], seed: int, kept: bool) -> Frontier:
    best = max(entries, key=lambda amount: (float(entries[amount].correct.double().mean()), -amount))
    points = []
    for amount, entry in entries.items():
        behind = paired_interval(entries[best].correct, entry.correct, seed=seed)
        points.append(
            TrainingPoint(
                amount=float(amount),
                steps=entry.steps,
                minutes=entry.seconds / SECONDS_A_MINUTE,
                accuracy=float(entry.correct.double().mean()),
                behind=behind.estimate,
                behind_interval=(behind.low, behind.high),
                test_accuracy=entry.test_accuracy,
                folder=f"{NETWORKS}/{budgets.name(amount)}" if kept else "",
            )
        )
    rule: Any = budgets.rule
    unit: Any = budgets.unit
    return Frontier(unit, tuple(points), best_of(points), knee_of(points, rule), rule, len(entries[best].correct))


def _estimated(
    work: _Work, budgets: Budgets, left: Sequence[float], options_of: Callable[[str, float], Options]
) -> str:
    """Return a line with the time that the trainings which are left will take."""
    kept = len(budgets.amounts) - len(left)
    head = f"frontier: {len(left)} trainings" + (f", {kept} are finished already" if kept else "")
    if budgets.unit == "minutes":
        return f"{head}; they take {sum(left):g} minutes by their budgets"
    if sum(left) <= _SHORT + _LONG:
        return f"{head} of {sum(left):g} steps in all"
    times = []
    for steps in (_SHORT, _LONG):
        options = replace(options_of("steps", steps), steps=steps)
        if isinstance(options, RecoveryOptions) and options.method == AUTOPILOT:
            options = replace(options, method="distil")
        times.append(work.trained(options)[1].seconds)
    pace = max(0.0, times[1] - times[0]) / (_LONG - _SHORT)
    fixed = max(0.0, times[0] - _SHORT * pace)
    minutes = (sum(left) * pace + sum(amount > 0 for amount in left) * fixed) / SECONDS_A_MINUTE
    return f"{head} of {sum(left):g} steps in all, about {minutes:.2g} minutes ({pace:.2g} s a step)"


def _kept(done: int, count: int, out: Path | str | None) -> str:
    if out is None:
        return f"frontier interrupted after {done} of {count} trainings; with out they would be kept"
    return f"frontier interrupted: {done} of {count} trainings are kept in {out}; the same call goes on from them"


def _analysis(outcome: Outcome) -> Analysis:
    if not isinstance(outcome, Outcome):
        raise UsageError(f"frontier takes an Outcome, such as that of prunus.prune; got {type(outcome).__name__}.")
    if outcome.analysis is None or outcome.analysis.given is None:
        raise OptionError("a frontier trains on data, and the outcome has none; give prunus.prune data=train_loader.")
    return outcome.analysis
