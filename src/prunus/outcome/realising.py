"""`realise`: the one place that cuts, verifies, repairs and recovers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from prunus.analysis import Analysis
from prunus.analysis.input_size import of_plan
from prunus.data.batches import DataSource
from prunus.data.learning import NO_LABELS, learning_data
from prunus.errors import OptionError, PlanError
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.effort import Effort
from prunus.foundation.progress import Progress, Silent
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.recorder import named_tensors
from prunus.outcome.cutting import cut_proved
from prunus.outcome.record import Outcome
from prunus.outcome.training import Recover, recovery_of, train_
from prunus.plans import Plan
from prunus.recovery import RecoveryOptions, RecoveryTask, recovered_
from prunus.repairs import check_repair, repair_, repair_parts_
from prunus.repairs.choose_repairs import AUTO
from prunus.repairs.repair_model import NONE
from prunus.surgery.cut import check_fingerprint
from prunus.surgery.over_kept import difference_from_masked, over_kept_lines
from prunus.surgery.tensors import sliced_masks
from prunus.training import TrainingOptions, reset_weights_

FRESH = "fresh_weights"
"""The setting of a plan whose network starts from new weights."""


@in_ordinary_mode
def realise(
    analysis: Analysis,
    plan: Plan,
    *,
    repair: str | None = "auto",
    recover: Recover = None,
    weights: nn.Module | None = None,
    fresh: TrainingOptions | None = None,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Cut the network of an analysis by a plan, verify the cut, repair and recover the cut network.

    ``prune(model, x, budget=b)`` is ``a = analyse(model, x); realise(a, a.plan(b))``.

    Args:
        analysis: the analysis of the network, whose model is left untouched.
        plan: a plan for this network, or for one of the same structure.
        repair: how the kept weights are refitted on data, as in `prunus.prune`; None leaves them.
        recover: how the cut network is trained, as in `prunus.prune`; None trains nothing.
        weights: the network in its original shapes with other weights, if planning has trained some.
        fresh: how a network with new weights is trained first, for plans that start from such (``smaller-dense``); by
            default as ``recover`` says.
        effort: the work, time and memory of the repair; by default those of the analysis.
        progress: reports every long step.

    Raises:
        PlanError: the plan was made for another model.
        VerifyError: the cut network differs from the masked original; nothing is returned.
        OptionError: an unknown repair or recovery, or one that needs data where there are none.
    """
    check_repair(repair)
    recovery = recovery_of(recover, has_data=analysis.has_data)
    from_new_weights = bool(plan.settings.get(FRESH))
    _check_repair_has_data(repair, analysis)
    if from_new_weights and recovery is None and fresh is None:
        raise OptionError(
            f"method {plan.settings.get('method')!r} starts from new weights, which nothing trains; give data and "
            'recover={"steps": 500}.'
        )
    analysis = of_plan(analysis, plan)
    check_follows(plan, analysis.coupling)
    source = weights if weights is not None and not plan.bridges else analysis.model
    _check_same_tensors(source, analysis.model)
    cut = cut_proved(source, analysis.coupling, plan, analysis.example_inputs, seed=analysis.seed)
    outcome = Outcome(
        model=cut.model,
        plan=plan,
        check=cut.check,
        coverage=analysis.coupling.coverage(),
        surgery=cut.surgery,
        parts=analysis.parts,
        example_inputs=analysis.user_inputs,
        analysis=analysis,
        coverage_rewritten=analysis.coverage_rewritten(),
    )
    outcome = _with_lost_hooks(_with_reductions(outcome, source), source)
    if repair is not None and analysis.has_data and not from_new_weights:
        outcome = repaired(outcome, repair, recovered=recovery is not None, effort=effort, progress=progress)
    if analysis.captured is not None:
        outcome = replace(outcome, model=analysis.captured.restored(outcome.model, analysis.user_model))
    if from_new_weights:
        outcome = renewed(outcome, fresh, progress=progress)
    if recovery is not None and outcome.repair is not None and outcome.repair.stopped:
        return replace(outcome, notes=(*outcome.notes, "not trained: the repair before it was stopped by hand"))
    return recovered(outcome, recovery, progress=progress)


def _with_reductions(outcome: Outcome, source: nn.Module) -> Outcome:
    """Note the reductions that run over what is kept, and how far that takes the outputs from the masked network's."""
    analysis, plan = _analysis(outcome), outcome.plan
    lines = over_kept_lines(analysis.coupling, plan.axes)
    if not lines:
        return outcome
    apart = difference_from_masked(source, outcome.model, plan, analysis.example_inputs)
    if apart is not None:
        lines.append(
            f"outputs differ by {apart:.2%} from those of the network with the removed parts at zero, on the example"
        )
    return replace(outcome, notes=(*outcome.notes, *lines))


def _with_lost_hooks(outcome: Outcome, source: nn.Module) -> Outcome:
    """Note the hooks on parameters that were cut: they were made for gradients of other shapes."""
    small = dict(outcome.model.named_parameters())
    hooked = [name for name, parameter in source.named_parameters() if _hooks_of(parameter)]
    lost = [name for name in hooked if name in small and not _hooks_of(small[name])]
    if not lost:
        return outcome
    shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    line = f"hooks on parameters do not follow the cut: {shown}; register them on the parameters of the cut network"
    return replace(outcome, notes=(*outcome.notes, line))


def _hooks_of(parameter: nn.Parameter) -> bool:
    hooks = (getattr(parameter, name, None) for name in ("_backward_hooks", "_post_accumulate_grad_hooks"))
    return any(bool(found) for found in hooks)


def _check_repair_has_data(repair: str | None, analysis: Analysis) -> None:
    if repair not in (None, AUTO, NONE) and not analysis.has_data:
        raise OptionError(
            f"repair is {repair!r}, which refits weights on data, and there are none; give data (inputs alone will do, "
            "or 'noise'), or leave repair out."
        )


def check_follows(plan: Plan, coupling: Coupling) -> None:
    """Refuse a plan whose tensors do not follow from its axes, such as one that was edited by hand.

    Raises:
        PlanError: the first tensor that differs is named.
    """
    check_fingerprint(plan, coupling.graph)
    sizes = {name: axis.size for name, axis in coupling.axes.items()}
    if any(sizes.get(axis) != len(mask) for axis, mask in plan.axes.items()):
        return  # the cut itself refuses the axis by name
    stored, derived = plan.keep, coupling.tensor_masks(dict(plan.axes))
    for tensor in {**stored, **derived}:
        one, other = stored.get(tensor, {}), derived.get(tensor, {})
        if one.keys() != other.keys() or not all(np.array_equal(one[dim], other[dim]) for dim in one):
            raise PlanError(
                f"the plan's axes and its tensors do not agree on {tensor!r}; settle a plan that was edited by hand "
                "with prunus.analysis.review.settle(plan, coupling), or give it to `prunus apply`."
            )


def _check_same_tensors(given: nn.Module, model: nn.Module) -> None:
    """Refuse weights of another network.

    Raises:
        PlanError: a tensor is missing or has another shape.
    """
    if given is model:
        return
    named = named_tensors(given)
    for name, tensor in named_tensors(model).items():
        if name not in named or named[name].shape != tensor.shape:
            got = f"has shape {tuple(named[name].shape)}" if name in named else "is not there"
            raise PlanError(
                f"weights: {name!r} {got}, and the analysed network's has shape {tuple(tensor.shape)}; give a network "
                "of the same class and sizes."
            )


def repaired(
    outcome: Outcome,
    repair: str,
    *,
    recovered: bool = False,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Refit the weights of an outcome's network on unlabelled data, in place; see `prunus.repair_`.

    Args:
        outcome: the outcome of a cut.
        repair: the name of a repair.
        recovered: whether training follows; the held-out data of the training are then not used by the repair.
        effort: the work, time and memory of the repair; by default those of the analysis.
        progress: reports every long step.
    """
    analysis, plan = _analysis(outcome), outcome.plan
    effort, progress = effort or analysis.effort, progress or analysis.progress
    assert analysis.given is not None
    data = analysis.given.fitted(recovered=recovered)
    if analysis.captured is not None and analysis.parts:
        report = repair_parts_(
            analysis.user_model,
            outcome.model,
            analysis.captured,
            plan,
            data,
            analysis.user_inputs,
            repair=repair,
            seed=analysis.seed,
            effort=effort,
            options=analysis.coupling.options,
        )
    else:
        report = repair_(
            analysis.model,
            outcome.model,
            analysis.coupling,
            plan,
            data,
            repair=repair,
            seed=analysis.seed,
            effort=effort,
            progress=progress,
        )
    return replace(outcome, repair=report)


def renewed(outcome: Outcome, options: TrainingOptions | None, *, progress: Progress | None = None) -> Outcome:
    """Give the network of an outcome new weights, in place, and train them.

    Args:
        outcome: the outcome of a cut.
        options: how to train; None leaves the training to the recovery.
        progress: reports the steps.
    """
    analysis = _analysis(outcome)
    reset_weights_(outcome.model, analysis.seed)
    if options is not None:
        train_(outcome.model, _learning(analysis)[0], options, analysis.seed, progress or Silent(), "from scratch")
    return outcome


def recovered(
    outcome: Outcome, options: RecoveryOptions | TrainingOptions | None, *, progress: Progress | None = None
) -> Outcome:
    """Train the network of an outcome, in place; see `prunus.recover_`.

    Args:
        outcome: the outcome of a cut, repaired or not.
        options: how to train; None trains nothing.
        progress: reports the steps.
    """
    if options is None:
        return outcome
    analysis, plan, shown = _analysis(outcome), outcome.plan, progress or Silent()
    train, deciding, labelled = _learning(analysis)
    masks = sliced_masks(plan)
    if not isinstance(options, RecoveryOptions):
        train_(outcome.model, train, options, analysis.seed, shown, "recover", masks or None)
        return outcome
    dense = analysis.user_model if analysis.unbridged is None else analysis.unbridged.user_model
    other_program = bool(analysis.parts) or analysis.unbridged is not None
    task = RecoveryTask(
        unwrap(outcome.model),
        unwrap(dense),
        train,
        deciding,
        options,
        masks=masks,
        plan=None if other_program else plan,
        coupling=None if other_program else analysis.coupling,
        example_inputs=analysis.user_inputs,
        seed=analysis.seed,
        labelled=labelled,
    )
    report = recovered_(task)
    return replace(outcome, recovery=report if labelled else replace(report, notes=(*report.notes, NO_LABELS)))


def _learning(analysis: Analysis) -> tuple[DataSource, DataSource, bool]:
    """Return the training data, the held-out data, and whether there are labels."""
    assert analysis.given is not None
    return learning_data(analysis.given.data, analysis.given.held_out)


def _analysis(outcome: Outcome) -> Analysis:
    if outcome.analysis is None:
        raise OptionError("this outcome has no analysis, and so no data and no dense network to go by.")
    return outcome.analysis
