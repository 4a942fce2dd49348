"""The record of one reader under test, and what the readers share: a small network, and the files of a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fuzz.damage import Draw, Files
from prunus.foundation.places import MANIFEST


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader.

    Attributes:
        sound: makes some sound sets of files, each by name; made once.
        draw: (draw, files) → damaged files, and whether a load has to give what the sound files give.
        read: reads a folder with the files; returns what tells two loads apart, or raises.
    """

    sound: Callable[[], list[Files]]
    draw: Callable[[Draw, Files], tuple[Files, bool]]
    read: Callable[[Path], Any]


class Net(nn.Module):
    """Small, with a size that the code holds, a buffer and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 4, 3)
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)).relu().view(x.shape[0], 6, 4)
        return self.head(y.flatten(1)) * self.scale


def files_of(write: Callable[[Path], Any]) -> Files:
    """Return the files that a function writes into a folder, by name."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        found = (p for p in sorted(Path(place).rglob("*")) if p.is_file() and p.name != MANIFEST)
        return {str(p.relative_to(place)): p.read_bytes() for p in found}


def told_apart(state: dict[str, torch.Tensor]) -> Any:
    """Return what tells two loaded networks apart."""
    return [(name, tuple(t.shape), t.double().nan_to_num().sum().item()) for name, t in state.items()]
