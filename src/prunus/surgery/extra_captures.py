"""What further captures of the original tell about rewritten forwards: how sizes grow, what runs in training alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunus.graph.ir import Graph
from prunus.surgery.recapture import Growth, growth
from prunus.surgery.training_program import Training, may_switch, training_of


@dataclass(slots=True)
class Study:
    """A model, its program, and what is learned about it on demand, each thing once.

    Args:
        model: the original.
        graph: its program.
        example_inputs: what it was captured with.
    """

    model: nn.Module
    graph: Graph
    example_inputs: Any
    _growth: Growth | None = field(default=None, repr=False)
    _training: Training | None = field(default=None, repr=False)

    def growth(self) -> Growth:
        """Return the program at other sizes of its inputs."""
        if self._growth is None:
            self._growth = growth(self.model, self.graph, self.example_inputs)
        return self._growth

    def training(self, paths: Collection[str]) -> Training:
        """Return what is different in training; nothing where no forward of these modules can tell."""
        if self._training is None:
            modules = dict(self.model.named_modules(remove_duplicate=False))
            if not any(may_switch(modules[path]) for path in paths if path in modules):
                return Training()
            self._training = training_of(self.model, self.graph, self.example_inputs)
        return self._training
