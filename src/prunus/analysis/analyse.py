"""`analyse`: capture, couple and price a model once, for any number of plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from prunus.analysis.record import COVERAGE_REWRITTEN, Analysis, LossFunction, own_with_config
from prunus.analysis.score import check_weights
from prunus.analysis.selectors import bounds_on, ignored_axes
from prunus.budget import bounds_of
from prunus.cost.price import cost_model
from prunus.criteria.noise import data_or_noise
from prunus.data.batches import check_count, tensors_in
from prunus.data.calibration import batches_of
from prunus.data.calling import called
from prunus.data.given import Given, sources_of
from prunus.data.learning import as_often_as_needed
from prunus.errors import CaptureError, DataError, OptionError
from prunus.foundation.arguments import names
from prunus.foundation.as_found import buffers_kept
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.effort import Effort
from prunus.foundation.progress import Progress, Silent
from prunus.foundation.user_code import UserFunction
from prunus.graph.call_form import CallForm, as_called, without_labels
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling, couple, opted_in
from prunus.graph.kept_forward import OwnForward
from prunus.graph.partial_capture import Captured, capture_or_parts
from prunus.surgery.cut import FORWARDS
from prunus.surgery.keeping.own_forward import own_forward
from prunus.training import loss_function
from prunus.training.losses import check_loss, name_of
from prunus.tree import grow_tree


@in_ordinary_mode
def analyse(
    model: nn.Module,
    example_inputs: Any,
    *,
    data: Any = None,
    held_out: Any = None,
    loss: str | LossFunction = "cross_entropy",
    ignore: Sequence[str] = (),
    bounds: Any = None,
    opt_in: Sequence[str] = (),
    seed: int = 0,
    forward: str = DEFAULTS.forward,
    config_ties: bool = DEFAULTS.config_ties,
    effort: str = DEFAULTS.effort,
    time_limit: float | str | None = DEFAULTS.time_limit,
    memory_limit: int | str | None = DEFAULTS.memory_limit,
    progress: Progress | None = None,
) -> Analysis:
    """Capture, couple and price a model; nothing is pruned and the model is not changed.

    Args:
        model: any network that can be captured, whole or in parts; it is left untouched.
        example_inputs: a tensor, a tuple of arguments, a dict of keyword arguments, or the one dict or dataclass that
            the forward takes. A batch of a loader is accepted: batches are called as the example is.
        data: batches (inputs, targets), a DataLoader, a dataset, one tensor of samples, the four splits of a task
            (`prunus.splits`), or ``"noise"``. Scores and statistics are computed on it; of splits on ``calibration``.
        held_out: data on which methods compare candidates; by default a tenth of ``data``. Splits name their own.
        loss: the name of a loss, or (outputs, targets) → one number.
        ignore: modules to leave as they are: names, globs, ``re:`` patterns, class names.
        bounds: limits of parts of the tree, as in `prunus.prune`.
        opt_in: further kinds of units that may be removed: ``experts``, ``vocabulary``.
        seed: the seed of all random numbers.
        forward: ``keep`` leaves every forward as the user wrote it: numbers that modules hold are updated, axes that
            would need other code stay whole, or are cut together; ``rewrite`` rewrites forwards that hold a stale size.
        config_ties: for a Hugging Face model: one size per entry of its config in all layers, so that the folder
            that is saved loads without prunus; an axis that no entry sizes stays whole.
        effort, time_limit, memory_limit: the work, time and memory of what is tried beyond the cut, as in
            `prunus.prune`.
        progress: reports every long step.

    Raises:
        UsageError: bad arguments, NaN weights, unknown names.
        CaptureError: the model cannot be captured, not even in parts.

    Example:
        ``plans = [analysis.plan({"macs": share}) for share in (0.7, 0.5, 0.3)]`` scores once.
    """
    check_ignore(ignore)
    asked = Effort.of(effort, time_limit, memory_limit)
    opted = names("opt_in", opt_in, "names such as ['experts']")
    options = opted_in(opted)
    check_seed(seed)
    check_forward(forward)
    check_loss(loss)
    check_held_out(data, held_out)
    check_samples(example_inputs)
    if bounds is not None:
        bounds_of(bounds)
    check_config_ties(config_ties, forward)
    model = unwrap(model)
    check_weights(model)
    captured, example_inputs = _captured(model, as_called(model, example_inputs), named_loss=isinstance(loss, str))
    data = data_or_noise(data, example_inputs, seed)
    coupling = couple(captured.graph, **options)
    memo = {COVERAGE_REWRITTEN: coupling.coverage()}
    own = _terms(model, captured, coupling, config_ties) if forward == "keep" else None
    if own is not None:
        coupling = own.on(coupling)
    given = data_given(data, held_out, example_inputs) if data is not None else None
    calibration, selection = sources_of(given)
    return Analysis(
        model=captured.model,
        example_inputs=captured.inputs,
        coupling=coupling,
        cost=cost_model(coupling),
        calibration=calibration,
        selection=selection,
        loss=loss_function(loss) if isinstance(loss, str) else UserFunction("loss", name_of(loss), loss),
        seed=seed,
        held=frozenset(ignored_axes(coupling, ignore)) if ignore else frozenset(),
        bounds=bounds_on(grow_tree(coupling), bounds) if bounds else {},
        captured=captured,
        source=(model, example_inputs),
        given=given,
        ignore=tuple(ignore),
        opt_in=opted,
        own=own,
        config_ties=config_ties,
        effort=asked,
        progress=progress or Silent(),
        memo=memo,
    )


def data_given(data: Any, held_out: Any, example_inputs: Any) -> Given:
    """Return data that can be read repeatedly, and whose batches have the form of the example call."""
    form = CallForm(example_inputs)
    return Given(called(as_often_as_needed(data), form), called(as_often_as_needed(held_out), form))


def _terms(model: nn.Module, captured: Captured, coupling: Coupling, config_ties: bool) -> OwnForward:
    """Return the constraints under which no forward has to be rewritten, with those of the config if it ties sizes."""
    with buffers_kept(captured.model):  # reading a parametrised weight in train mode changes some
        own = own_forward(captured.model, coupling, captured.inputs)
    return own_with_config(model, coupling, own, captured.inputs) if config_ties else own


def _captured(model: nn.Module, example_inputs: Any, *, named_loss: bool) -> tuple[Captured, Any]:
    """Return the captured model and its call; without labels where a built-in loss takes them and the forward need not.

    The first batch of a loader may be the example; a loss function of the user's may read the model's own loss.
    """
    bare = without_labels(model, example_inputs) if named_loss else example_inputs
    try:
        return capture_or_parts(model, bare), bare
    except CaptureError:
        if bare is example_inputs or len(bare) == len(example_inputs):
            raise
        return capture_or_parts(model, example_inputs), example_inputs


def check_forward(forward: str) -> None:
    """Refuse an unknown value of ``forward``.

    Raises:
        OptionError: neither ``keep`` nor ``rewrite``.
    """
    if forward not in FORWARDS:
        raise OptionError(f"forward is {forward!r}; allowed: {', '.join(FORWARDS)}.")


def check_config_ties(config_ties: bool, forward: str) -> None:
    """Refuse ties to a config where forwards may be rewritten: a config describes the class's own forward only.

    Raises:
        OptionError: no bool, or ties beside ``forward="rewrite"``.
    """
    if not isinstance(config_ties, bool):
        raise OptionError(f"config_ties is {config_ties!r}; allowed: True or False.")
    if config_ties and forward != "keep":
        raise OptionError(
            f"config_ties is on beside forward={forward!r}: a config cannot say what a rewritten forward is; leave one "
            "of the two out."
        )


def check_ignore(ignore: Sequence[str]) -> None:
    """Refuse a value that is no list of patterns.

    Raises:
        OptionError: a bare text, or something that is no text.
    """
    names("ignore", ignore, "patterns such as ['head', 'layer3.*']")


def check_held_out(data: Any, held_out: Any) -> None:
    """Refuse held-out data without other data, and values that are no data.

    Raises:
        OptionError: held-out data alone.
        DataError: neither batches, nor a split, nor a tensor.
    """
    if held_out is None:
        return
    if data is None:
        raise OptionError("held_out needs data: it decides between results that data produce; pass data too.")
    batches_of(held_out, "held_out")


def check_samples(example_inputs: Any) -> None:
    """Refuse a call without a sample: nothing could be timed or compared on it.

    Raises:
        DataError: the first tensor of the call has a first dim of size 0.
    """
    first = next((tensor for tensor in tensors_in(example_inputs) if tensor.dim()), None)
    if first is not None and not len(first):
        raise DataError(
            f"example_inputs hold no sample: a tensor of shape {tuple(first.shape)}; allowed: one sample or more."
        )


def check_seed(seed: int) -> None:
    """Refuse a value that torch and numpy do not accept as a seed.

    Raises:
        OptionError: no whole number from 0 to 2³¹ − 1.
    """
    check_count("seed", seed, 0)
    if seed >= 2**31:
        raise OptionError(f"seed is {seed}; allowed: a whole number from 0 to {2**31 - 1}.")
