"""The training of a built-in model, or its load from the cache if it was trained before."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from prunus.data.batches import check_count
from prunus.data.splits import Splits
from prunus.errors import OptionError
from prunus.experiments.workloads.registry import WORKLOADS, Workload
from prunus.experiments.workloads.store import (
    FORMAT,
    RECORD,
    WEIGHTS,
    EpochScore,
    TrainingRecord,
    read_trained,
    state_of,
    write_trained,
)
from prunus.foundation.cache import CacheWarning, cache_folder, checksum
from prunus.foundation.memory_format import unsafe_in_channels_last
from prunus.foundation.places import MANIFEST
from prunus.foundation.version import VERSION
from prunus.measurement.quality import evaluate
from prunus.training import TrainingOptions, finetune_

# called after every step with (steps done, steps, the score after the last epoch)
Watch = Callable[[int, int, "EpochScore | None"], None]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained model in eval mode, the record of its training, their folder, and whether they were cached before."""

    model: nn.Module
    record: TrainingRecord
    folder: Path
    cached: bool


def trained(name: str, seed: int = 0, *, epochs: int | None = None, watch: Watch | None = None) -> nn.Module:
    """Return the trained model of a workload, in eval mode; see `train_workload`.

    Example:
        ``model = trained("glyphs/resnet-8x", seed=0)``
    """
    return train_workload(name, seed, epochs=epochs, watch=watch).model


def train_workload(
    name: str,
    seed: int = 0,
    *,
    epochs: int | None = None,
    folder: Path | None = None,
    again: bool = False,
    watch: Watch | None = None,
) -> Trained:
    """Train a workload's model with its training options, or load the result of an earlier call.

    The same workload, seed, epochs, data and thread count give the same weights. Nothing is selected on the test split:
    it is scored once, after the last step. A training that is stopped leaves no file behind.

    Args:
        name: The name of a workload.
        seed: The seed of the initial weights, the order of the batches, and dropout.
        epochs: The passes over the train split; None takes the workload's own number.
        folder: The folder of the result; None takes a folder of the cache that depends on all of the above.
        again: Train even if the result is cached.
        watch: Called after each step with the progress and the latest selection score.

    Raises:
        OptionError: an unknown workload, a seed below 0, epochs below 1, or a folder that cannot be written or holds
            something else.
        DataError: the data cannot be generated.
        OutcomeError: the loss stopped being finite.

    Warns:
        CacheWarning: the cached result is damaged, and is trained again.
    """
    run, data = _run(name, seed, epochs)
    place = folder or run.place()
    if not again and (kept := _kept(run, place)) is not None:
        return kept
    _check_place(place)
    model = run.workload.build(seed)
    record = _train_(model, data or run.workload.load(), run, watch)
    write_trained(place, model, record)
    return Trained(model, record, place, cached=False)


@dataclass(frozen=True, slots=True)
class _Run:
    """Everything that determines the weights."""

    workload: Workload
    seed: int
    options: TrainingOptions
    data_key: str

    def identity(self) -> tuple[object, ...]:
        return self.workload.name, self.seed, self.options.described(), self.data_key

    def place(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:12]
        folder = cache_folder() / "trained" / self.workload.name
        return folder / f"seed{self.seed}-steps{self.options.steps}-{digest}"


def _run(name: str, seed: int, epochs: int | None) -> tuple[_Run, Splits | None]:
    """Return the checked run, and its data if they had to be read to count the steps."""
    workload = WORKLOADS.get(name)
    check_count("seed", seed, least=0)
    if epochs is None:
        return _Run(workload, seed, workload.training, workload.data_key()), None
    check_count("epochs", epochs)
    data = workload.load()
    options = replace(workload.training, steps=epochs * _steps_per_epoch(data, workload.training))
    return _Run(workload, seed, options, workload.data_key()), data


def _kept(run: _Run, place: Path) -> Trained | None:
    if not any((place / name).exists() for name in (WEIGHTS, RECORD)):
        return None
    found = read_trained(place)
    if found is not None:
        weights, record = found
        if record.identity() != run.identity():
            raise OptionError(
                f"{str(place)!r} holds {record.workload!r} of seed {record.seed}, {record.epochs} epochs, or trained "
                "otherwise; give another folder, or train again in its place (--again)."
            )
        model = run.workload.build(run.seed)
        try:
            model.load_state_dict(weights)
        except RuntimeError:
            found = None  # the network's code has changed since
        else:
            return Trained(model.eval(), record, place, cached=True)
    warnings.warn(f"{str(place)!r} is damaged or outdated; training again.", CacheWarning, stacklevel=3)
    return None


def _train_(model: nn.Module, data: Splits, run: _Run, watch: Watch | None) -> TrainingRecord:
    scores: list[EpochScore] = []
    per_epoch = _steps_per_epoch(data, run.options)

    def after_step(done: int, steps: int) -> None:
        if done % per_epoch == 0 or done == steps:
            found = evaluate(model, data.selection.batches(), data.classes)
            scores.append(EpochScore(-(-done // per_epoch), found.accuracy, found.nll))
        if watch is not None:
            watch(done, steps, scores[-1] if scores else None)

    # Convolutions on a CPU are faster with the channels last, which changes no value of the weights.
    if not unsafe_in_channels_last(model):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    report = finetune_(model, data.train, run.options, seed=run.seed, progress=after_step)
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    test = evaluate(model.eval(), data.test.batches(), data.classes)
    return TrainingRecord(
        format=FORMAT,
        prunus=VERSION,
        torch=torch.__version__,
        workload=run.workload.name,
        seed=run.seed,
        options=run.options.described(),
        data_key=run.data_key,
        epochs=scores[-1].epoch,
        params=sum(parameter.numel() for parameter in model.parameters()),
        scores=tuple(scores),
        selection_accuracy=scores[-1].selection_accuracy,
        test_accuracy=test.accuracy,
        test_nll=test.nll,
        losses=report.losses,
        seconds=report.seconds,
        threads=torch.get_num_threads(),
        weights_sum=checksum(state_of(model)),
    )


def _steps_per_epoch(data: Splits, options: TrainingOptions) -> int:
    return -(-len(data.train) // options.batch_size)


def _check_place(place: Path) -> None:
    """Refuse a folder that cannot be replaced or written, before minutes of training."""
    if place.is_dir():
        other = next((entry.name for entry in place.iterdir() if entry.name not in (WEIGHTS, RECORD, MANIFEST)), None)
        if other is not None:
            raise OptionError(
                f"the folder {str(place)!r} contains {other!r}, which prunus did not write; give an empty folder."
            )
    above = place.absolute().parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if (place.exists() and not place.is_dir()) or not above.is_dir():
        raise OptionError(f"{str(place if place.exists() else above)!r} is a file; give a folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OptionError(f"{str(above)!r} may not be written; give another folder, or set PRUNUS_CACHE.")
