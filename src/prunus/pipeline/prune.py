"""`prune`, `plan` and `apply`: analyse → plan → realise in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from prunus.analysis import Analysis, LossFunction, analyse
from prunus.budget.allocator import Allocator
from prunus.criteria import CriterionLike
from prunus.foundation import clock
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.progress import Progress
from prunus.methods.key_path import KeyPath
from prunus.methods.transfer import Transfer, transfer_lines, with_weights
from prunus.outcome import Outcome, Recover, realise, recovery_of
from prunus.pipeline.planner import plan_for, planned
from prunus.pipeline.request import TRANSFER, Bounds, Budget, Nodes, Request
from prunus.pipeline.stage_checks import check_stages
from prunus.plans import Plan
from prunus.repairs import check_repair


@in_ordinary_mode
def prune(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: Budget,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    levels: Sequence[str] = DEFAULTS.levels,
    data: Any = None,
    ignore: Sequence[str] = (),
    seed: int = DEFAULTS.seed,
    allocator: str | Allocator | None = DEFAULTS.allocator,
    bounds: Bounds | None = None,
    opt_in: Sequence[str] = (),
    recover: Recover = None,
    repair: str | None = DEFAULTS.repair,
    method: str | None = DEFAULTS.method,
    search: int = DEFAULTS.search,
    judge: str = DEFAULTS.judge,
    window: Any = DEFAULTS.window,
    methods: Any = DEFAULTS.methods,
    stages: Iterable[Mapping[str, Any]] = (),
    damage: bool = DEFAULTS.damage,
    merge: bool | None = DEFAULTS.merge,
    reconnect: str | None = DEFAULTS.reconnect,
    key_path: KeyPath | None = DEFAULTS.key_path,
    nodes: Nodes | None = DEFAULTS.nodes,
    strategy: str | None = DEFAULTS.strategy,
    divide: str | Mapping[str, Any] | None = DEFAULTS.divide,
    optimise: str | Mapping[str, Any] | None = DEFAULTS.optimise,
    held_out: Any = None,
    loss: str | LossFunction = DEFAULTS.loss,
    threads: int = DEFAULTS.threads,
    forward: str = DEFAULTS.forward,
    config_ties: bool = DEFAULTS.config_ties,
    effort: str = DEFAULTS.effort,
    time_limit: float | str | None = DEFAULTS.time_limit,
    memory_limit: int | str | None = DEFAULTS.memory_limit,
    method_options: Mapping[str, Any] | None = None,
    resolution: str | Sequence[int | str] | None = DEFAULTS.resolution,
    transfer: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Return a smaller network that provably computes what the masked original computes.

    Args:
        model: any network that can be captured; it is left untouched.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        budget: ``{"params": 0.5}``, ``{"macs": 0.3}``, ``{"bytes": "2MB"}``, ``{"memory": 0.5}``,
            ``{"latency_ms": 0.5}``; several must all hold. A number up to 1 is the kept fraction. Memory is that of one
            forward call on the example inputs. For milliseconds the ops are timed on this machine with the example
            inputs, the cut network is timed against the original, and the plan is made again if
            prediction and measurement differ; ``plan.settings["latency"]`` holds the result. ``{"energy": 0.5}`` is
            met in the same way where the machine's counters can be read (RAPL, NVML), and refused elsewhere.
            ``{"max_drop": 0.01}`` requests the smallest network that loses no more than a point of accuracy on
            ``held_out``, trained as ``recover`` says; beside another budget it is checked.
            ``{"units": 0.2}``, ``{"modules": 0.3}``, ``{"windows": 0.3}`` and ``{"weights": 0.3}`` keep this share of
            these parts, or this number of them, the best by their scores; ``{"top_n": 100}`` keeps so many of the parts
            that the method ranks. ``{"threshold": 0.1}`` keeps the parts whose score exceeds it, ``"0.1*max"`` or
            ``"0.5*mean"`` relative to the layer, and the number follows. All of these stand alone, and take
            ``{"conv1": 0.5, "fc*": 0.2}`` as amounts of single layers; see `docs/methods.md`.
        criterion: how units are scored: magnitude, l1, fpgm, bn-scale and random read weights alone, the others data:
            fisher, contribution, mean-activation, apoz, wanda and redundancy inputs, taylor, taylor-sample,
            taylor-batch, worst-class, sensitivity and snip labels too. ``obs-units`` needs inputs: units leave in the
            order in which the layers behind make up for them best, and what each level does to the outputs is measured.
            ``{"magnitude": 0.3, "taylor": 0.5}`` adds criteria, each divided by its mean, with these weights.
            A function (group) → scores takes the place of a name, see `docs/plugins.md`; for levels of weights it is
            (name, weight) → scores.
            None means ``obs-units`` where there are data and that takes no longer than minutes, else magnitude.
        levels: ``("unit",)`` removes units, ``("weight",)`` masks weights, both share the budget.
        data: batches (inputs, targets), a DataLoader, a dataset, or the four splits of a task (`prunus.splits`). The
            repair and criteria without labels also accept inputs alone, and one tensor of samples. Inputs are as
            ``example_inputs``; entries of a dict that the captured call lacks are left out. An iterator is read to its
            end. ``"noise"`` takes noise that resembles the example inputs, where there are no data.
        ignore: modules to leave as they are: names, globs, ``re:`` patterns, class names.
        seed: the seed of criteria and checks that draw random numbers.
        allocator: how the budget is divided: uniform, global, isomorphic, erk, lamp, lagrangian, knapsack, viterbi, or
            an allocator itself; single weights know uniform, global, erk and lamp. By default uniform for units (for
            ``obs-units`` the knapsack over measured levels) and global for weights.
        bounds: limits of parts of the tree: ``{"stage3/*/heads": {"round_to": 2}, "layer4": {"floor": 0.5}}`` with
            any of floor, ceiling, round_to, frozen, forced.
        opt_in: further kinds of units that may be removed: ``"experts"``, with their rows of the router;
            ``"vocabulary"``, tokens. Tokens that stay get new ids: ``plan.keep[embedding][0]`` lists their old ones.
        recover: ``{"steps": 500}`` or ``{"minutes": 10}``: train the cut network on ``data``, of which a tenth selects
            the best state, and is not used by the repair either; other options as in `prunus.recover_`.
        repair: with ``data``, the kept weights are refitted to the dense network's outputs, without labels:
            statistics, bias, scales, refold, blockwise, matching, or ``auto``, the best of them on samples held out;
            see `prunus.repair_`. None does not change them.
        method: a whole method in place of criterion and allocator, such as ``depth``, ``key-path`` or
            ``multi-scale``; `docs/methods.md` has them all.
        search: the number of plans around the allocator's that are compared by their true loss.
        judge: a repair after which the plans of a search are judged.
        window: the windows of method ``window-wise``: ``[4, 4]`` tiles of the weight matrix, ``{"kernel": 3}`` or
            ``{"kernel": [3, 1]}`` parts of kernels, ``{"strip": 8}`` consecutive inputs at one kernel position,
            ``{"column": 8}`` consecutive units of one input, ``{"units": 4}`` runs of units, ``{"positions": [2, 2]}``
            positions of the map that a layer behind a flatten reads. Texts such as ``"4x4"`` and ``"units=4"`` do too.
        methods: the methods of ``integrated`` in order, ``[{"name": "fine-tuning", "share": 0.4}, "structured",
            {"name": "activation", "criterion": "apoz"}]``; those without a share divide the rest of the saving.
        stages: levels and recoveries under one budget, each on the result of the one before, such as
            ``[{"level": "blocks", "kept": 0.8}, {"level": "units"}]``; see `docs/training.md`.
        merge: True adds to the weights that stay the least-squares share of the inputs that go, fitted on ``data``
            without labels; False only drops; None merges with method ``redundancy`` and ``redundant-weights``.
        reconnect: for method ``modular``: modules of any network are replaced by ``identity``, ``pooling``, a fitted
            ``projection``, or the best of them (``auto``).
        key_path: for method ``key-path``: the modules of the path in order, beside which everything goes that can go,
            or ``{"gradient": 0.01}`` for the branches with |g| above it.
        damage: measure the damage of every decision alone, and of all together.
        nodes: the method, criterion and rate of parts of the tree, for the method ``hierarchical``, which they imply:
            ``{"stage1/*": {"criterion": "magnitude", "rate": 0.8}, "layer3/weights<q10": {"method": "remove"}}``. A
            rate is the share that goes; the other nodes divide what is left of the budget; see `docs/methods.md`.
        strategy: how ``hierarchical`` scores nodes without a criterion: weight, gradient or activation, or ``auto``,
            which tries all three on every node.
        divide: how it divides the network into stages: feature, depth or connections, the latter two as ``"depth:3"``.
        optimise: how it optimises the weights after each level: refit, none, the name of a repair, or
            ``"finetune:50"``.
        held_out: data on which methods compare candidates, and which decide on a recovery; by default a tenth
            of ``data``.
        loss: the name of a loss, or (outputs, targets) → one number; scores and choices minimise it.
        threads: intra-op threads while ops are timed for a budget in milliseconds.
        forward: ``keep`` leaves every forward as you wrote it: numbers that modules hold are updated, axes that would
            need other code stay whole. ``rewrite`` rewrites forwards that hold a stale size: more can be cut, and a
            rewritten forward takes only calls like the example.
        config_ties: for a Hugging Face model, cut to one size per entry of its config in all layers, so that the
            folder that ``save(…, format="huggingface")`` writes loads without prunus.
        method_options: the settings of a method that prunes while it trains, such as ``{"threshold": 0.01}`` for
            ``gradient-threshold-moving``; `docs/training.md` lists them.
        resolution: ``auto`` or sizes such as ``[192, 160, "128x96"]``: the input size is an axis of the budget too.
            Sizes are sides of images, or lengths of sequences. Each is priced by recording the network at that size,
            the rest of the budget is planned there, and the plan with the lowest loss on held-out data is taken;
            without labels that of the compound scaling. Data are scaled or cut to the chosen size.
        transfer: ``{"from": CHECKPOINT}``, the pretrained network that guides method ``transfer``: a folder that
            `prunus.save` wrote, a safetensors file, or a network. With ``"weights": "copy"`` its weights are copied
            first, into a copy of ``model``, whatever the method.
        effort: the work that is tried beyond the cut. ``seconds``: closed-form repairs alone; ``minutes``: then rounds
            of matching, as long as samples held out say that they pay; ``best``: all repairs, with up to sixteen times
            the work. It is counted in multiply-accumulates, so the same call gives the same network everywhere.
        time_limit: seconds, or a text such as ``"5min"``, after which scores, repairs and searches end with the best so
            far. Ctrl-C while a repair runs does the same; a second one interrupts.
        memory_limit: bytes, or a text such as ``"4GB"``, for calibration samples and their statistics; by default a
            quarter of the free memory.
        progress: reports every long step.

    ``prune(model, x, budget=b, …)`` is ``a = prunus.analyse(model, x, …); prunus.realise(a, a.plan(b, …), …)``.

    Raises:
        UsageError: bad arguments, NaN weights, unknown names.
        CaptureError: the model cannot be captured.
        BudgetError: nothing is removable, or the budget is out of reach or met already.
        VerifyError: the cut model differs; nothing is returned.
    """
    request = Request(
        budget,
        method=method,
        criterion=criterion,
        allocator=allocator,
        levels=levels,
        bounds=bounds,
        search=search,
        judge=judge,
        window=window,
        methods=methods,
        stages=_stages(stages),
        damage=damage,
        recover=recover,
        threads=threads,
        merge=merge,
        method_options={} if method_options is None else method_options,
        nodes=nodes,
        strategy=strategy,
        divide=divide,
        optimise=optimise,
        resolution=resolution,
        transfer=None if transfer is None else Transfer.of(transfer),
        reconnect=reconnect,
        key_path=key_path,
    )
    check_stages(request)
    check_repair(repair)
    recovery_of(recover, has_data=data is not None)
    model, request, notes = with_source_weights(model, request)
    analysis = analyse(
        model,
        example_inputs,
        data=data,
        held_out=held_out,
        loss=loss,
        ignore=ignore,
        opt_in=opt_in,
        seed=seed,
        forward=forward,
        config_ties=config_ties,
        effort=effort,
        time_limit=time_limit,
        memory_limit=memory_limit,
        progress=progress,
    )
    made = carried_out(analysis, request, repair, progress)
    return replace(made, notes=(*notes, *made.notes))


def with_source_weights(model: nn.Module, request: Request) -> tuple[nn.Module, Request, tuple[str, ...]]:
    """Copy the weights of a transfer into a copy of the network where the request says so.

    Returns:
        The network, the request of what is left to do, and lines about what was matched.
    """
    transfer = request.transfer
    if not isinstance(transfer, Transfer) or not transfer.copies:
        return model, request, ()
    changed, match = with_weights(model, transfer)
    guides = TRANSFER in request.planner.options and not request.stages
    left = replace(request, transfer=transfer.copied() if guides else None)
    return changed, left, () if guides else match.lines(transfer.source.origin)


def carried_out(analysis: Analysis, request: Request, repair: str | None, progress: Progress | None = None) -> Outcome:
    """Plan a request and realise the plan.

    Where stages or a method have trained on labels nothing is repaired: a repair fits the dense network's outputs
    only, and would undo the training. A method that prunes while it trains has spent the steps of the recovery.
    """
    started = clock.seconds()
    found = planned(analysis, request, learn=True)
    own = None if found.weights is not None else repair
    recover = None if found.learned else request.recover
    left = analysis.effort.after(clock.seconds() - started)
    made = realise(
        analysis, found.plan, repair=own, recover=recover, weights=found.weights, effort=left, progress=progress
    )
    notes = (*made.notes, *transfer_lines(found.plan.settings))
    return replace(made, asked={**request.given(), "repair": repair}, notes=notes)


def rebudgeted(outcome: Outcome, budget: Budget, changes: Mapping[str, Any]) -> Outcome:
    """Prune the original of an outcome to another budget; see `Outcome.rebudget`."""
    assert outcome.analysis is not None
    options = {**outcome.asked, **changes}
    repair = options.pop("repair", None)
    check_repair(repair)
    request = Request.of(budget, options)
    check_stages(request)
    analysis = outcome.analysis.unbridged or outcome.analysis
    analysis = analysis.full_size or analysis
    return carried_out(analysis, request, repair, outcome.analysis.progress)


def _stages(given: Iterable[Mapping[str, Any]]) -> Any:
    from prunus.pipeline.stage import stages_of

    return () if given == () else stages_of(given)


@in_ordinary_mode
def plan(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: Budget,
    data: Any = None,
    held_out: Any = None,
    loss: str | LossFunction = DEFAULTS.loss,
    ignore: Sequence[str] = (),
    opt_in: Sequence[str] = (),
    seed: int = DEFAULTS.seed,
    forward: str = DEFAULTS.forward,
    config_ties: bool = DEFAULTS.config_ties,
    effort: str = DEFAULTS.effort,
    time_limit: float | str | None = DEFAULTS.time_limit,
    memory_limit: int | str | None = DEFAULTS.memory_limit,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Decide what to remove and price it exactly; the model is not changed. Arguments as in `prune`.

    Budgets in milliseconds, of energy and of accuracy are met by measuring, as in `prune`.
    """
    model, request, _ = with_source_weights(model, Request.of(budget, options))
    analysis = analyse(
        model,
        example_inputs,
        data=data,
        held_out=held_out,
        loss=loss,
        ignore=ignore,
        opt_in=opt_in,
        seed=seed,
        forward=forward,
        config_ties=config_ties,
        effort=effort,
        time_limit=time_limit,
        memory_limit=memory_limit,
        progress=progress,
    )
    return plan_for(analysis, budget, **request.given())


@in_ordinary_mode
def apply(
    model: nn.Module,
    plan: Plan,
    example_inputs: Any,
    *,
    data: Any = None,
    repair: str | None = None,
    effort: str = DEFAULTS.effort,
    time_limit: float | str | None = DEFAULTS.time_limit,
    memory_limit: int | str | None = DEFAULTS.memory_limit,
    progress: Progress | None = None,
) -> Outcome:
    """Cut a model exactly as a plan says, and verify the cut; the argument is untouched.

    Args:
        model: the model of the plan, or another of the same structure.
        plan: a plan of `plan`, `Analysis.plan` or `Plan.load`.
        example_inputs: the call with which the plan was made.
        data: data for a repair.
        repair: as in `prune`; none by default.
        effort, time_limit, memory_limit: of the repair, as in `prune`.
        progress: reports every long step.

    Raises:
        PlanError: the plan was made for another model.
        VerifyError: the cut model differs from the masked original.
    """
    settings = plan.settings
    analysis = analyse(
        model,
        example_inputs,
        data=data,
        opt_in=settings.get("opt_in", ()),
        seed=settings.get("seed", 0),
        forward=settings.get("forward", "rewrite"),
        effort=effort,
        time_limit=time_limit,
        memory_limit=memory_limit,
        progress=progress,
    )
    return realise(analysis, plan, repair=repair, progress=progress)
