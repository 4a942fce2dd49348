"""The step from a recipe to the trained network, its data and its analysis, from which planning and pruning start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunus.analysis import Analysis, analyse
from prunus.analysis.score import check_weights
from prunus.budget.limits import LATENCY
from prunus.data.calling import called
from prunus.data.splits import Splits
from prunus.errors import DataError, OptionError
from prunus.experiments.sources import resolve_data, resolve_model
from prunus.experiments.sources.noise import NOISE, noise_splits, with_noise
from prunus.experiments.workloads import WORKLOADS, trained
from prunus.foundation.progress import Progress, Silent
from prunus.graph.call_form import CallForm, as_called
from prunus.graph.capture import unwrap
from prunus.graph.weights_digest import weights_digest
from prunus.methods.transfer import Transfer, with_weights
from prunus.outcome import train_
from prunus.pipeline.request import TRANSFER, Request

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe
    from prunus.recovery import RecoveryOptions
    from prunus.training import TrainingOptions

_EXAMPLES = 2


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The dense network of a recipe, trained, with its data and its analysis; ``notes`` say what was copied into it."""

    recipe: Recipe
    data: Splits
    analysis: Analysis
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The dense network."""
        return self.analysis.user_model

    @property
    def samples(self) -> int:
        """The number of samples of the captured call, to which time and memory refer."""
        return self.analysis.samples

    def with_recipe(self, recipe: Recipe) -> TrainedModel:
        """Return the same network with another recipe for it, for example one with another budget."""
        return replace(self, recipe=recipe)

    @property
    def digest(self) -> str:
        """A short hash of the network's weights."""
        return weights_digest(self.model)

    @property
    def trained_here(self) -> bool:
        """Return whether its weights were trained by the recipe, and so come from no file."""
        return self.recipe.train.steps > 0


def trained_model(
    recipe: Recipe,
    seed: int,
    progress: Progress,
    weights: Mapping[str, Tensor] | None = None,
    check: Callable[[Analysis], object] | None = None,
) -> TrainedModel:
    """Build, train and analyse the dense network of one seed; ``weights`` replaces the training.

    A network that is to be trained is analysed before too, so that nothing is trained for a refusal.

    Args:
        recipe: the recipe.
        seed: of the weights and of the training.
        progress: reports every long step.
        weights: trained weights.
        check: raises where the network cannot serve the caller; it runs on the analysis before the training.

    Raises:
        PrunusError: any refusal of the model or the data, or by ``check``.
    """
    given = None if recipe.data == NOISE else resolve_data(recipe.data, recipe.data_args, recipe.base_dir)
    model = resolve_model(recipe.model, recipe.model_args, recipe.base_dir, recipe.checkpoint, seed=seed)
    model, notes = _with_source_weights(recipe, model)
    check_weights(model)
    given = None if given is None else as_called_data(model, given)
    if weights is None and given is not None and recipe.train.steps > 0:
        with torch.random.fork_rng(devices=[]):
            untrained = _analysed(recipe, model, given, None, seed, Silent())
        if check is not None:
            check(untrained)
    if weights is None and _kept_between_runs(recipe):
        weights = _trained_once(recipe, seed, progress).state_dict()
    if weights is not None:
        model.load_state_dict(weights)
    elif given is not None:
        train_(model, given.train, recipe.train.options(), seed, progress, f"train (seed {seed})")
    data = _with_noise(recipe, given, model, seed)
    return TrainedModel(recipe, data, _analysed(recipe, model, data, data, seed, progress), notes)


def transfer_of_recipe(recipe: Recipe) -> Transfer | None:
    """Return the transfer of a recipe; its path starts from the recipe's folder."""
    return Transfer.of(recipe.transfer, recipe.base_dir) if recipe.transfer else None


def _with_source_weights(recipe: Recipe, model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    transfer = transfer_of_recipe(recipe)
    if transfer is None or not transfer.copies:
        return model, ()
    changed, match = with_weights(model, transfer)
    return changed, match.lines(transfer.source.origin)


def _analysed(
    recipe: Recipe, model: nn.Module, examples: Splits, data: Splits | None, seed: int, progress: Progress
) -> Analysis:
    # A budget in milliseconds is for the batch size that the recipe times.
    samples = recipe.compare.latency.batch if LATENCY in recipe.prune.budget else _EXAMPLES
    return analyse(
        model,
        first_inputs(examples, samples),
        data=data,
        loss=recipe.recover.options().loss,
        ignore=recipe.ignore,
        opt_in=recipe.opt_in,
        forward=recipe.forward,
        config_ties=recipe.config_ties,
        effort=recipe.effort,
        time_limit=recipe.time_limit,
        memory_limit=recipe.memory_limit,
        seed=seed,
        progress=progress,
    )


def request_of(recipe: Recipe) -> Request:
    """Return the request of the section ``prune`` and the ``stages`` of a recipe.

    Raises:
        OptionError: no budget, or an option that is not allowed.
    """
    section = recipe.prune
    if not section.budget:
        raise OptionError(
            "The recipe has no budget; add a section 'prune: {budget: {params: 0.5}}', or give --budget params=0.5."
        )
    recover = recipe.recover if recipe.stages else recovery_of_recipe(recipe)
    shared = {field.name: getattr(section, field.name) for field in fields(Request) if hasattr(section, field.name)}
    about = {
        "bounds": section.bounds or None,
        "stages": recipe.stages,
        "transfer": _guide(recipe),
        "recover": recover,
        "threads": recipe.compare.latency.threads,
    }
    return Request(**{**shared, **about})


def _guide(recipe: Recipe) -> Transfer | None:
    """Return the transfer that guides the method; one that only copies weights is done with the model."""
    transfer = transfer_of_recipe(recipe)
    guides = recipe.prune.method == TRANSFER and not recipe.stages
    return transfer.copied() if transfer is not None and (guides or not transfer.copies) else None


def recovery_of_recipe(recipe: Recipe) -> RecoveryOptions | TrainingOptions:
    """Return the recovery of a recipe: a method that held-out data judge, or plain fine-tuning by steps."""
    return recipe.recover.recovery() or recipe.recover.options()


def _with_noise(recipe: Recipe, given: Splits | None, model: nn.Module, seed: int) -> Splits:
    """Replace calibration data, or all data, with noise that the trained network labels."""
    if given is None:
        return noise_splits(recipe.model, model, recipe.data_args, seed)
    return with_noise(given, model, seed) if recipe.calibration == NOISE else given


def _kept_between_runs(recipe: Recipe) -> bool:
    """Return whether a built-in model is trained for minutes with its own options and data, and so is cached."""
    if recipe.model not in WORKLOADS or recipe.data not in WORKLOADS or recipe.model_args or recipe.checkpoint:
        return False
    workload = WORKLOADS.get(recipe.model)
    # Only generated data have a key; models of data that ship with a library train in seconds.
    same = bool(workload.data_key()) and workload.data_key() == WORKLOADS.get(recipe.data).data_key()
    return same and recipe.train.options() == workload.training


def _trained_once(recipe: Recipe, seed: int, progress: Progress) -> nn.Module:
    """Return the model from the user's cache; the first time it is trained and stored there."""
    task, reported = f"train {recipe.model} (seed {seed})", 0

    def watch(done: int, steps: int, score: object) -> None:
        nonlocal reported
        if not reported:
            progress.start(task, steps)
        progress.advance(task, done - reported)
        reported = done

    model = trained(recipe.model, seed, watch=watch)
    if reported:
        progress.finish(task)
    return model


def as_called_data(model: nn.Module, data: Splits) -> Splits:
    """Return splits whose batches have the form in which the model is called."""
    example = as_called(unwrap(model), first_inputs(data, 1))
    found: Splits = called(data, CallForm(example))
    return found


def first_inputs(data: Splits, count: int) -> Any:
    """Return the inputs of the first ``count`` test samples; fewer where the split is smaller."""
    found = next(islice(data.test.batches(count), 1), None)
    if found is None:
        raise DataError("split 'test' is empty; at least 1 sample is needed.")
    return found[0]
