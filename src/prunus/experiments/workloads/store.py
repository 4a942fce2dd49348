"""Trained weights with the record of their training, as a folder that is written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from prunus.errors import DataError, OptionError
from prunus.foundation.atomic_files import atomic_dir
from prunus.foundation.cache import checksum, read_summed, summed_bytes
from prunus.foundation.places import Contents
from prunus.foundation.strict_json import decode_record, parse_json

FORMAT = "prunus-trained/1"
WEIGHTS, RECORD = "weights.safetensors", "training.json"


@dataclass(frozen=True, slots=True)
class EpochScore:
    """The scores on the selection split after an epoch; ``selection_nll`` in nats."""

    epoch: int
    selection_accuracy: float
    selection_nll: float


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """The content of ``training.json``.

    Attributes:
        workload: Its name.
        seed: The seed of the weights and of the training.
        options: The training options as a mapping; ``options["steps"]`` is the total number of steps.
        data_key: The key of the data; see `Workload`.
        epochs: The passes over the train split.
        params: The number of parameters of the model.
        scores: The scores after each epoch.
        selection_accuracy: The accuracy on the selection split at the end.
        test_accuracy: The accuracy on the test split at the end, its only use.
        test_nll: The negative log-likelihood on the test split at the end, in nats.
        losses: About 100 of the losses of single steps.
        seconds: The time of training, including the scores after each epoch.
        threads: The threads of torch.
        weights_sum: Checksum of the tensors in ``weights.safetensors``.
    """

    format: str
    prunus: str
    torch: str
    workload: str
    seed: int
    options: dict[str, object]
    data_key: str
    epochs: int
    params: int
    scores: tuple[EpochScore, ...]
    selection_accuracy: float
    test_accuracy: float
    test_nll: float
    losses: tuple[float, ...]
    seconds: float
    threads: int
    weights_sum: str

    def identity(self) -> tuple[object, ...]:
        """Return everything that determines the weights, apart from versions and threads."""
        return self.workload, self.seed, self.options, self.data_key


def write_trained(folder: Path, model: nn.Module, record: TrainingRecord) -> None:
    """Write weights and record, in the place of an older folder of that name.

    Raises:
        OptionError: the folder cannot be written; an older one is then untouched.
    """
    # Either file marks such a folder: one whose other file was lost is trained again.
    mark = RECORD if (folder / RECORD).exists() else WEIGHTS
    with atomic_dir(folder, Contents(mark, frozenset({WEIGHTS, RECORD}))) as temporary:
        try:
            (temporary / WEIGHTS).write_bytes(summed_bytes(state_of(model)))
            text = json.dumps(asdict(record), indent=1, allow_nan=False)
            (temporary / RECORD).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OptionError(
                f"cannot write {str(folder)!r}: {error.strerror or type(error).__name__}; make room, or give another "
                "folder."
            ) from error


def read_trained(folder: Path) -> tuple[dict[str, Tensor], TrainingRecord] | None:
    """Return weights and record of a folder, or None if they are missing, damaged, or of different trainings."""
    try:
        where = str(folder / RECORD)
        record = decode_record(TrainingRecord, parse_json((folder / RECORD).read_text("utf-8"), where), where)
    except (OSError, UnicodeDecodeError, DataError):
        return None
    weights = read_summed(folder / WEIGHTS)
    if weights is None or record.format != FORMAT or record.weights_sum != checksum(weights):
        return None
    return weights, record


def state_of(model: nn.Module) -> Mapping[str, Tensor]:
    """Return a copy of the state dict in contiguous memory, which safetensors requires."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
