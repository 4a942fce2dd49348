"""The fit of a bridge: ridge regression from the input of a run of modules to its output in the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.data.batches import answer
from prunus.errors import DataError
from prunus.foundation.as_found import in_eval_mode
from prunus.substitutes import Bridge
from prunus.surgery.bridging import bridged

RIDGE = 1e-3
"""Ridge of the fit of a bridge, in units of the mean variance of its inputs."""
ROWS = 2**13
"""Most rows that one batch adds to the moments of a fit."""
CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True, slots=True)
class Run:
    """A run of modules that one bridge may replace.

    Attributes:
        path: the module in whose place the bridge stands.
        skipped: the other modules of the run, which then return their argument.
        target: the module whose output the bridge has to give.
        kind: ``Bypass``, ``Pool``, ``Scale``, ``Linear`` or a convolution.
        kernel: positions of the kernel of a convolution in each dim.
        results: number of results of the module, 0 for a plain tensor.
        ready: the bridge itself, where it needs no data: an identity, or two linear maps folded into one.
        reason: words for the plan.
        layers: the layers or modules that the run holds.
        stays: number of them that are still there: 1 where a layer takes the place of layers.
    """

    path: str
    skipped: tuple[str, ...]
    target: str
    kind: str
    kernel: tuple[int, ...] = ()
    results: int = 0
    ready: Bridge | None = None
    reason: str = ""
    layers: tuple[str, ...] = ()
    stays: int = 0

    @property
    def removed(self) -> int:
        """The number of layers or modules that go."""
        return len(self.layers) - self.stays


class _Reached(Exception):
    """The value that a fit needs has been read; the rest of the forward is not run."""


def fitted(dense: nn.Module, current: nn.Module, run: Run, data: Any) -> Bridge | None:
    """Return the bridge of a run, fitted by ridge regression of the run's output in the dense network on its input now.

    Args:
        dense: the network whose values are the targets.
        current: the network in which the bridge will stand.
        run: the run.
        data: calibration batches (inputs, …).

    Returns:
        None where shapes do not allow it, or where the data do not reach the run.
    """
    if run.ready is not None:
        return run.ready
    try:
        opened = bridged(current, [Bridge(path) for path in run.skipped]) if run.skipped else current
        sums = _Regression()
        for inputs, _ in data.batches():
            x, t = (_value(m, p, inputs, out) for m, p, out in ((opened, run.path, False), (dense, run.target, True)))
            if x is None or t is None or not sums.add(x, t, run):
                return None
        return sums.bridge(run)
    except (DataError, RuntimeError):
        return None


def _value(model: nn.Module, path: str, inputs: Any, output: bool) -> Tensor | None:
    """Return the first argument or the first result of a module in one call of the model."""
    found: list[Any] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any = None) -> None:
        value = result if output else next(iter((*args, *kwargs.values())), None)
        found.append(value[0] if isinstance(value, (tuple, list)) else value)
        raise _Reached

    module = model.get_submodule(path)
    hook = (
        module.register_forward_hook(note, with_kwargs=True)
        if output
        else module.register_forward_pre_hook(note, with_kwargs=True)
    )
    try:
        with in_eval_mode(model), torch.no_grad():
            answer(model, inputs)
    except _Reached:
        pass
    except DataError:
        if not found:
            raise
    finally:
        hook.remove()
    return found[0].detach() if found and isinstance(found[0], Tensor) else None


class _Regression:
    """Moments of a regression t ≈ W x + b over all rows, or of one scale a channel."""

    def __init__(self) -> None:
        self.count = 0
        self.x = self.t = self.xx = self.tx = torch.zeros(0)
        self.stride = 1
        self.dim = -1

    def add(self, x: Tensor, t: Tensor, run: Run) -> bool:
        """Add a batch; return False where the shapes do not fit the kind of the bridge."""
        spatial = run.kind in CONVOLUTIONS or (run.kind in ("Pool", "Scale") and x.dim() > 3)
        if x.dim() != t.dim() or x.dim() < 2 or len(x) != len(t) or not x.is_floating_point():
            return False
        if spatial:
            strides = {round(a / b) for a, b in zip(x.shape[2:], t.shape[2:], strict=True)}
            if len(strides) != 1 or 0 in strides:
                return False
            self.stride, self.dim = strides.pop(), 1
            if any(-(-a // self.stride) != b for a, b in zip(x.shape[2:], t.shape[2:], strict=True)):
                return False
            if run.kind == "Scale" and (self.stride != 1 or x.shape != t.shape):
                return False
        elif x.shape[:-1] != t.shape[:-1] or (run.kind == "Scale" and x.shape != t.shape):
            return False
        if run.kind == "Pool":
            self.count, self.x, self.t = len(x), torch.zeros(x.shape[self.dim]), torch.zeros(t.shape[self.dim])
            return self.dim == 1
        rows = _patches(x, run.kernel, self.stride) if run.kind in CONVOLUTIONS else x.movedim(self.dim, -1)
        rows, goals = rows.reshape(-1, rows.shape[-1]), t.movedim(self.dim, -1).reshape(-1, t.shape[self.dim])
        step = max(1, len(rows) // ROWS)
        rows, goals = rows[::step].double().cpu(), goals[::step].double().cpu()
        cross = (goals * rows).sum(0) if run.kind == "Scale" else goals.T @ rows
        square = rows.square().sum(0) if run.kind == "Scale" else rows.T @ rows
        if not self.count:
            self.x, self.t = torch.zeros_like(rows[0]), torch.zeros_like(goals[0])
            self.xx, self.tx = torch.zeros_like(square), torch.zeros_like(cross)
        self.count += len(rows)
        for total, part in ((self.x, rows.sum(0)), (self.t, goals.sum(0)), (self.xx, square), (self.tx, cross)):
            total += part
        return True

    def bridge(self, run: Run) -> Bridge | None:
        """Return the bridge of least squares."""
        if not self.count:
            return None
        results = {"results": run.results} if run.results else {}
        if run.kind == "Pool":
            sizes = {"stride": self.stride, "width": len(self.t), **results}
            return Bridge(run.path, run.skipped, "Pool", sizes)
        mx, mt = self.x / self.count, self.t / self.count
        if run.kind == "Scale":
            variance = (self.xx / self.count - mx * mx).clamp_min(0)
            scale = (self.tx / self.count - mt * mx) / (variance + RIDGE * variance.mean() + 1e-30)
            sizes = {"dim": self.dim, **results}
            return Bridge(run.path, run.skipped, "Scale", sizes, _floats(scale), _floats(mt - scale * mx))
        covariance = self.xx / self.count - torch.outer(mx, mx)
        cross = self.tx / self.count - torch.outer(mt, mx)
        ridge = RIDGE * float(covariance.diagonal().mean()) + 1e-12
        matrix = torch.linalg.solve(covariance + ridge * torch.eye(len(mx)).double(), cross.T).T
        bias = mt - matrix @ mx
        if run.kind == "Linear":
            return Bridge(run.path, run.skipped, "Linear", results, _floats(matrix), _floats(bias))
        weight = matrix.reshape(len(mt), -1, *run.kernel)
        sizes = {"stride": self.stride, "padding": max(run.kernel) // 2, **results}
        return Bridge(run.path, run.skipped, run.kind, sizes, _floats(weight), _floats(bias))


def _floats(value: Tensor) -> Any:
    return value.float().contiguous().numpy()


def _patches(x: Tensor, kernel: Sequence[int], stride: int) -> Tensor:
    """Return the inputs of every output position of a convolution. Shapes: (N, C, …) → (N, …, C · kernel)."""
    if max(kernel) == 1:
        at = (slice(None), slice(None), *[slice(None, None, stride)] * (x.dim() - 2))
        return x[at].movedim(1, -1)
    padding = [side for size in reversed(kernel) for side in (size // 2, size // 2)]
    padded = nn.functional.pad(x, padding)
    for dim, size in enumerate(kernel):
        padded = padded.unfold(dim + 2, size, stride)
    # (N, C, positions …, kernel …) → (N, positions …, C, kernel …)
    return padded.movedim(1, len(kernel) + 1).flatten(len(kernel) + 1)
