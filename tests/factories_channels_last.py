"""A network that oneDNN cannot train with its channels last, and every entry of prunus that takes its gradient.

Run as ``python factories_channels_last.py``, it calls each entry once. It prints its name before, through the C
library, so that the name stands before what oneDNN logs; and afterwards how often the memory format was warned of.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import prunus
from factories_cuts import random_share
from prunus.analysis.score import make_plan
from prunus.criteria.gradients import collect_gradients
from prunus.data.splits import Split
from prunus.foundation import memory_format
from prunus.foundation.memory_format import MemoryFormatWarning
from prunus.measurement.latency import latency_ratio
from prunus.pruner import Pruner
from prunus.pruner.loop import train_pruning_
from prunus.repairs import choose_repairs, repair_
from prunus.repairs.matching import Rounds
from prunus.surgery.cut import cut
from prunus.surgery.proving.gradients import compare_gradients
from prunus.training import TrainingOptions, finetune_

CHANNELS_LAST = torch.channels_last
OPTIONS = TrainingOptions(2, 1e-3, 8)


class Narrow(nn.Module):
    """A convolution, a pointwise one with a stride and few inputs, as a shortcut has it, and a layer behind."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 8, 1, stride=2)
        self.last, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x).relu()).relu()
        out: Tensor = self.head(self.last(x).relu().mean((2, 3)))
        return out


class Functional(Narrow):
    """The same, the layer called as a function of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(self.stem(x).relu(), weight=self.down.weight, bias=self.down.bias, stride=2).relu()
        out: Tensor = self.head(self.last(x).relu().mean((2, 3)))
        return out


class Checkpointed(Narrow):
    """The same, computed once more in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)
        return out


def network(kind: type[Narrow] = Narrow, width: int = 6) -> Narrow:
    """Return one with its channels last."""
    torch.manual_seed(0)
    return kind(width).to(memory_format=CHANNELS_LAST)


def pictures(count: int = 8) -> Tensor:
    """Return pictures with their channels last."""
    return torch.randn(count, 3, 8, 8).to(memory_format=CHANNELS_LAST)


def split(count: int = 16, memory_format: torch.memory_format = CHANNELS_LAST) -> Split:
    """Return pictures with labels."""
    return Split(pictures(count).contiguous(memory_format=memory_format), torch.arange(count) % 4, "train")


def _cut() -> tuple[nn.Module, nn.Module, prunus.graph.coupling.Coupling, prunus.plans.Plan]:  # type: ignore[name-defined]
    model = network(width=12).eval()
    coupling = prunus.couple(prunus.capture(model, pictures(2)))
    plan = make_plan(coupling, random_share(coupling, 0))
    return cut(model, coupling, plan, pictures(2)), model, coupling, plan


def _loop(model: nn.Module, pruner: Pruner, steps: int = 6) -> None:
    """Train in a loop of the user's own, who knows nothing of all this."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    with pruner.attached(optimizer, steps):
        for _ in range(steps):
            model(pictures()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def _pruned_in_a_loop() -> None:
    model = network()
    _loop(model, Pruner(model, {"kept": 0.5}))


def _cut_in_a_loop() -> None:
    model = network(width=20)  # sound until it is cut
    _loop(
        model,
        Pruner(model, {"kept": 0.3, "method": "units", "cut": "final", "end_step": 4}, example_inputs=pictures(2)),
    )
    assert model.down.in_channels < 16


def _recovered(method: str) -> None:
    small, dense, _, plan = _cut()
    options = {"steps": 4, "method": method, "batch_size": 8}
    prunus.recover_(dense, small, split(64), options, plan=plan, example_inputs=pictures(2))


def _repaired(repair: str) -> None:
    small, dense, coupling, plan = _cut()
    repair_(dense, small, coupling, plan, [pictures(32)], repair=repair)


def _gradients(*, per_sample: bool) -> None:
    collect_gradients(
        network(),
        [(pictures(), torch.arange(8) % 4)],
        nn.functional.cross_entropy,
        ["down.weight"],
        per_sample=per_sample,
    )


def _compared() -> None:
    small, model, coupling, plan = _cut()
    compare_gradients(model, small, coupling, plan, pictures(2), dtype=torch.float32)


ENTRIES: dict[str, Callable[[], object]] = {
    "finetune": lambda: finetune_(network(), split(), OPTIONS),
    "finetune, pictures alone": lambda: finetune_(Narrow(), split(), OPTIONS),
    "finetune, weights alone": lambda: finetune_(network(), split(16, torch.contiguous_format), OPTIONS),
    "finetune, functional": lambda: finetune_(network(Functional), split(), OPTIONS),
    "finetune, checkpointed": lambda: finetune_(network(Checkpointed), split(), OPTIONS),
    "train_pruning": lambda: train_pruning_(network(), split(), OPTIONS),
    "latency": lambda: latency_ratio(network(), nn.Conv2d(3, 4, 3), pictures(), backward=True, rounds=1, warmup=0),
    "measure": lambda: prunus.measure(network(), pictures(), baseline=nn.Conv2d(3, 4, 3), rounds=1),
    "pruner": _pruned_in_a_loop,
    "pruner that cuts": _cut_in_a_loop,
    "recover by blocks": lambda: _recovered("blocks"),
    "recover by fine-tuning": lambda: _recovered("finetune"),
    "repair blockwise": lambda: _repaired("blockwise"),
    "repair by matching": lambda: _repaired("matching"),
    "gradients": lambda: _gradients(per_sample=False),
    "gradients of each sample": lambda: _gradients(per_sample=True),
    "compare gradients": _compared,
}


def unguarded() -> None:
    """Take one gradient as the layer lies: too small a picture for the damage to leave the allocation."""
    layer = nn.Conv2d(4, 8, 1, stride=2).to(memory_format=CHANNELS_LAST)
    layer(torch.randn(2, 4, 4, 4).to(memory_format=CHANNELS_LAST)).sum().backward()


def main(names: list[str]) -> None:
    """Call the entries of these names, or all."""
    c_library = ctypes.CDLL(None)
    torch.set_num_threads(1)
    choose_repairs.MINUTES = choose_repairs.BEST = Rounds(3)
    for name in names or list(ENTRIES):
        c_library.puts(f"entry:{name}".encode())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            memory_format._tellers_of_tensors.clear()
            (unguarded if name == "unguarded" else ENTRIES[name])()
        told = sum(issubclass(warning.category, MemoryFormatWarning) for warning in caught)
        c_library.puts(f"warned:{told}".encode())
        c_library.fflush(None)


if __name__ == "__main__":
    main(sys.argv[1:])
