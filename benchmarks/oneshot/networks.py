"""Trained networks with unlabelled calibration images: what every part of the benchmark starts from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 512
NOISE = "noise"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One trained network with its data; ``accuracy`` and ``correct`` are the dense network's on the test split."""

    name: str
    seed: int
    model: nn.Module
    data: Any
    accuracy: float
    correct: Tensor

    @property
    def example(self) -> tuple[Tensor]:
        """Return two blank images, for capture."""
        return (torch.zeros(2, *self.images(1).shape[1:]),)

    def images(self, count: int | str = SAMPLES) -> Tensor:
        """Return calibration images without their labels; beyond that split, of the training split; or noise."""
        if isinstance(count, str):
            from prunus.criteria.noise import noise_batches

            shape = self.images(2).shape
            return torch.cat([batch[0] for batch in noise_batches((torch.zeros(shape),), samples=SAMPLES)])
        found, seen = [], 0
        for split in (self.data.calibration, self.data.train):
            for inputs, _ in split.batches(256):
                found.append(inputs)
                seen += len(inputs)
                if seen >= count:
                    return torch.cat(found)[:count]
        return torch.cat(found)[:count]

    def judged(self, model: nn.Module) -> Row:
        """Return accuracy on the test split, what is lost by it, and the answers."""
        from prunus.measurement.quality import evaluate

        quality = evaluate(model, self.data.test.batches(256), self.data.classes)
        return {
            "accuracy": quality.accuracy,
            "dense": self.accuracy,
            "lost": self.accuracy - quality.accuracy,
            "correct": _text(quality.correct),
            "dense_correct": _text(self.correct),
        }


def _text(correct: Tensor) -> str:
    return "".join("1" if c else "0" for c in correct.tolist())


@functools.lru_cache(maxsize=1)
def case_of(name: str, seed: int) -> Case:
    """Train a built-in network, or take it from the cache, and score it once."""
    from prunus.experiments.workloads import WORKLOADS, trained
    from prunus.measurement.quality import evaluate

    data, model = WORKLOADS.get(name).load(), trained(name, seed).eval()
    quality = evaluate(model, data.test.batches(256), data.classes)
    return Case(name, seed, model, data, quality.accuracy, quality.correct)


def macs_of(model: nn.Module, example: tuple[Tensor]) -> int:
    """Count the MACs of a network as it stands; every tool is counted in this way."""
    from prunus.cost.price import cost_model
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    return cost_model(couple(capture(model, example))).price().macs_forward
