"""The finished trainings of a frontier: a log beside their checkpoints, from which an interrupted frontier goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunus.errors import DataError
from prunus.foundation.atomic_files import append_line
from prunus.foundation.strict_json import parse_json
from prunus.foundation.version import VERSION
from prunus.graph.recorder import named_tensors

LOG = "points.jsonl"


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """One finished training: its cost, and for every target whether the network is right.

    Attributes:
        steps, seconds: the cost of the training.
        correct: True for each target of the selection split on which the network is right.
        test_accuracy: accuracy on the test split, if there is one.
    """

    steps: int
    seconds: float
    correct: Tensor
    test_accuracy: float | None


@dataclass(slots=True)
class FrontierLog:
    """The finished trainings from one start with one kind of recovery.

    Every line holds its own checksum and the identity of the start; other lines are ignored.

    Attributes:
        folder: the folder of the log and of the checkpoints; None keeps nothing.
        identity: a digest of everything on which a training depends, its budget aside.
    """

    folder: Path | None
    identity: str
    _entries: dict[str, Finished] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path | None, identity: str) -> FrontierLog:
        """Read the log of a folder; empty if there is none."""
        log = cls(folder, identity)
        path = None if folder is None else folder / LOG
        lines = path.read_text("utf-8", errors="replace").splitlines() if path is not None and path.is_file() else []
        for line in lines:
            with suppress(DataError, KeyError, TypeError, ValueError):
                content = parse_json(line, LOG)
                text = json.dumps(content["point"], allow_nan=False)
                if content["sha256"] == hashlib.sha256(text.encode()).hexdigest():
                    log._note(content["point"])
        return log

    def _note(self, point: Mapping[str, Any]) -> None:
        if point["identity"] != self.identity:
            return
        packed = np.frombuffer(bytes.fromhex(point["correct"]), np.uint8)
        correct = torch.from_numpy(np.unpackbits(packed, count=int(point["targets"])).astype(bool))
        test = point["test_accuracy"]
        self._entries[str(point["name"])] = Finished(
            int(point["steps"]), float(point["seconds"]), correct, None if test is None else float(test)
        )

    def place(self, name: str) -> Path | None:
        """Return the folder of a training's checkpoint."""
        return None if self.folder is None else self.folder / name

    def get(self, name: str) -> Finished | None:
        """Return a finished training whose checkpoint is still there."""
        place = self.place(name)
        return self._entries.get(name) if place is not None and place.is_dir() else None

    def add(self, name: str, entry: Finished) -> None:
        """Keep a training that has just ended, after its checkpoint.

        Raises:
            OptionError: the folder cannot be written.
        """
        if self.folder is None:
            return
        bits = np.packbits(entry.correct.cpu().numpy().astype(np.uint8))
        point = {
            "identity": self.identity,
            "name": name,
            "steps": entry.steps,
            "seconds": entry.seconds,
            "targets": len(entry.correct),
            "correct": bits.tobytes().hex(),
            "test_accuracy": entry.test_accuracy,
        }
        text = json.dumps(point, allow_nan=False)
        # A kill may have cut the last line short, so each line begins a new one.
        line = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "point": point}, allow_nan=False)
        append_line(self.folder / LOG, f"\n{line}")


def identity_of(model: nn.Module, *about: object) -> str:
    """Return a digest of a network's tensors, of other facts, and of the versions of prunus and torch."""
    digest = hashlib.sha256(f"{VERSION}|{torch.__version__}|{about!r}".encode())
    for name, tensor in sorted(named_tensors(model).items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()[:16]
