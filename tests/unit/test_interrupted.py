"""Ctrl-C at any line of prunus: model, optimizer, modes, hooks, threads and random state are as they were."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.foundation import interrupted
from prunus.foundation.interrupted import uninterrupted
from prunus.graph.capture_lock import ALONE

SOURCE = str(Path(prunus.__file__).parent)
X = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)
DATA = [(X, torch.tensor([0, 1]))] * 3


@contextmanager
def interrupted_after(lines: int, source: str = SOURCE) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at the n-th line of prunus, or of one file; yield the count of lines that are left."""
    left = [lines]

    def trace(frame: Any, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        # The restoration itself holds Ctrl-C back.
        if not name.startswith(source) or name == interrupted.__file__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(None)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(216, 8),
        nn.Linear(8, 2),
    )
    model[1].eval()
    model[5].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[2].register_forward_hook(lambda *_: None)
    return model


def state(model: nn.Module, optimizer: torch.optim.Optimizer, *, values: bool = True) -> Any:
    return (
        [(m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [(n, p.requires_grad, None if p.grad is None else p.grad.tolist()) for n, p in model.named_parameters()],
        {n: t.tolist() for n, t in model.state_dict().items()} if values else None,
        [[id(p) for p in group["params"]] for group in optimizer.param_groups],
        (
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            gc.isenabled(),
            torch._C._is_torch_function_enabled(),
        ),
        (torch.get_rng_state().tolist(), random.getstate(), torch.backends.mha.get_fastpath_enabled()),
        (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack(), len(torch.zeros(1).shape)),
        (type(torch.ones(1) + 1), signal.getsignal(signal.SIGINT)),
    )


def states(dense: nn.Module, small: nn.Module | None, optimizer: torch.optim.Optimizer) -> Any:
    return state(dense, optimizer), None if small is None else state(small, optimizer, values=False)


def work(name: str) -> tuple[nn.Module, nn.Module | None, Callable[[], object]]:
    """Return the model whose values stay, the one that is changed in place, and the call."""
    dense = network()
    if name == "prune":
        budget = {"params": 0.6}
        return dense, None, lambda: prunus.prune(dense, X, budget=budget, data=DATA, criterion="taylor", repair="auto")
    outcome = prunus.prune(dense, X, budget={"params": 0.6})
    small, plan = outcome.model, outcome.plan
    small.train()
    if name == "repair_":
        coupling = prunus.couple(prunus.capture(dense, X))
        return dense, small, lambda: prunus.repair_(dense, small, coupling, plan, DATA)
    return dense, small, lambda: prunus.recover_(dense, small, DATA * 4, {"steps": 4}, plan=plan)


def lock_is_free() -> bool:
    taken: list[bool] = []

    def take() -> None:
        taken.append(ALONE.acquire(timeout=5))
        if taken[0]:
            ALONE.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return taken[0]


@pytest.mark.parametrize("name", ["prune", "repair_", "recover_"])
def test_an_interruption_at_any_line_leaves_everything_as_it_was(name: str) -> None:
    call = work(name)[2]
    with interrupted_after(1 << 60) as left:
        call()
    total = (1 << 60) - left[0]
    dice, points = random.Random(0), int(os.environ.get("PRUNUS_TEST_EXAMPLES", "1")) * 12
    struck = 0
    for _ in range(points):
        dense, small, call = work(name)
        optimizer = torch.optim.SGD([p for p in dense.parameters() if p.requires_grad], 0.1)

        before = states(dense, small, optimizer)
        at = dice.randrange(1, total)
        try:
            with interrupted_after(at):
                call()
        except KeyboardInterrupt:
            struck += 1
        else:
            continue
        assert states(dense, small, optimizer) == before, at
        assert lock_is_free(), at
        assert all(bool(t.isfinite().all()) for t in (small or dense).state_dict().values()), at
    assert struck > points // 2
    # And all of it works afterwards.
    work(name)[2]()


@pytest.mark.parametrize("file", ["graph/capture.py", "graph/observer.py", "foundation/as_found.py"])
def test_an_interruption_where_a_context_begins_or_ends_leaves_everything_as_it_was(file: str) -> None:
    """Context managers alone do not restore there."""
    dense = network()
    optimizer = torch.optim.SGD([p for p in dense.parameters() if p.requires_grad], 0.1)
    before = states(dense, None, optimizer)

    def call() -> None:
        prunus.capture(dense, X)
        if file.startswith("foundation"):
            prunus.plan(dense, X, budget={"params": 0.6}, data=DATA, criterion="taylor")

    with interrupted_after(1 << 60, f"{SOURCE}/{file}") as left:
        call()
    total = (1 << 60) - left[0]
    for at in range(1, total, max(1, total // 60)):
        with pytest.raises(KeyboardInterrupt), interrupted_after(at, f"{SOURCE}/{file}"):
            call()
        assert states(dense, None, optimizer) == before, at
        assert lock_is_free(), at


def test_ctrl_c_waits_for_the_end_of_a_block_that_must_run_whole() -> None:
    done: list[str] = []

    def run() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
