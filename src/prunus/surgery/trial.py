"""One trial of a cut: noisy tensors in a wide float type, and what the original, its masked form and the cut do."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.graph.capture import preserved, unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph, Ref
from prunus.graph.opening import opened_leaves
from prunus.graph.recorder import named_tensors
from prunus.graph.rules.flow import Dims
from prunus.graph.run import flat_inputs, run
from prunus.plans import Plan
from prunus.surgery.draws import draws, seeded
from prunus.surgery.precision import computing_in
from prunus.surgery.reference import masked_run
from prunus.surgery.tensors import slice_tensors
from prunus.surgery.tokens import cut_inputs, kept_inputs

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """Everything that a masked and a cut model are run with.

    Attributes:
        coupling: the analysis, on the device of the trial.
        plan: what goes.
        values: the original's tensors, with noise, in ``dtype``.
        args, kwargs: the call of the cut model.
        inputs: the tensors of the original's call, in the graph's order; ids that go are replaced by some that stay.
        dtype: float type of everything.
        seed: of noise and random ops.
        device: where it runs.
        random: the program draws random numbers.
    """

    coupling: Coupling
    plan: Plan
    values: Tensors
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[torch.Tensor]
    dtype: torch.dtype
    seed: int
    device: torch.device
    random: bool

    @contextlib.contextmanager
    def computing(self, *, gradients: bool = False) -> Iterator[None]:
        """Run a block in the trial's float type, from its random state."""
        with (
            torch.set_grad_enabled(gradients),
            seeded(self.seed, one_number=self.random),
            computing_in(self.dtype),
        ):
            yield

    def uncut(self) -> list[torch.Tensor]:
        """Return the outputs of the original, at the positions that stay."""
        with self.computing():
            return self.kept_outputs(run(self.coupling.graph, self.values, self.inputs, dtype=self.dtype))

    def masked(self) -> list[torch.Tensor]:
        """Return the outputs of the masked original, at the positions that stay."""
        with self.computing():
            return self.kept_outputs(masked_run(self.coupling, self.plan, self.values, self.inputs, self.dtype))

    def cut(self, twin: nn.Module, *, gradients: bool = False) -> list[torch.Tensor]:
        """Return the outputs of a cut model made by `twin`."""
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (self.args, self.kwargs))
        with preserved(twin), self.computing(gradients=gradients):
            return output_tensors(twin(*args, **kwargs))

    def kept_outputs(self, value: Any) -> list[torch.Tensor]:
        """Return the output tensors without what a cut removes from them (states; outputs that are not protected)."""
        refs = [leaf for leaf in self.coupling.graph.outputs if isinstance(leaf, Ref)]
        return [
            self.kept(tensor, self.coupling.values[ref])
            for ref, tensor in zip(refs, output_tensors(value), strict=True)
        ]

    def kept(self, tensor: torch.Tensor, dims: Dims) -> torch.Tensor:
        """Return the positions of a value, or a tensor, that stay."""
        for dim, expr in enumerate(dims):
            mask = self.coupling.mask(expr, self.plan.axes)
            if not mask.all():
                tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device))
        return tensor

    def at(self, coupling: Coupling, example_inputs: Any) -> Trial:
        """Return the same trial on other inputs, of which ``coupling`` is the analysis."""
        coupling = dataclasses.replace(coupling, graph=_on(coupling.graph, self.device))
        inputs, args, kwargs = _calls(coupling, self.plan, example_inputs, self.dtype, self.device)
        known = {n: v for n, v in self.values.items() if n in coupling.tensors}
        values = {**known, **coupling.graph.constants}
        return dataclasses.replace(self, coupling=coupling, values=values, args=args, kwargs=kwargs, inputs=inputs)

    def twin(self, small: nn.Module) -> nn.Module:
        """Return a copy of a cut model that holds the slices of the noisy tensors, all floats in the trial's type."""
        return self.holding(small, slice_tensors(self.values, self.coupling, self.plan))

    def holding(self, model: nn.Module, values: Mapping[str, torch.Tensor]) -> nn.Module:
        """Return a copy of a model that holds these tensors where they have its shapes, all in the trial's type."""
        model, aliases = unwrap(model), self.coupling.graph.aliases
        memo: dict[int, Any] = {}
        for name, tensor in named_tensors(model).items():
            value = values.get(aliases.get(name, name))
            fits = value is not None and value.shape == tensor.shape
            own = self._wide(value if value is not None and fits else tensor).detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo.setdefault(id(tensor), nn.Parameter(own, own.is_floating_point()) if is_parameter else own)
        for module in model.modules():
            # Tensors in plain attributes meet those in the model's float type, and torch copies none with a history.
            for held in pytree.tree_leaves(list(vars(module).values())):
                if isinstance(held, torch.Tensor) and not isinstance(held, nn.Parameter):
                    memo.setdefault(id(held), self._wide(held).detach().clone())
        return copy.deepcopy(model, memo)

    def _wide(self, tensor: torch.Tensor) -> torch.Tensor:
        return widened(tensor, self.dtype, self.device)


def trial(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Trial:
    """Prepare a trial on the device of the model, or on the CPU where that device has no such float type."""
    full = original_tensors(model, coupling.graph)
    device = next((t.device for t in full.values()), torch.device("cpu"))
    if not has_dtype(device, dtype):
        device = torch.device("cpu")
        coupling = dataclasses.replace(coupling, graph=_on(coupling.graph, device))
    noisy = {n: v.to(device) for n, v in perturbed(full, coupling.graph, seed, dtype, device).items()}
    inputs, args, kwargs = _calls(coupling, plan, example_inputs, dtype, device)
    return Trial(coupling, plan, noisy, args, kwargs, inputs, dtype, seed, device, draws(coupling.graph))


def _calls(
    coupling: Coupling, plan: Plan, example_inputs: Any, dtype: torch.dtype, device: torch.device
) -> tuple[list[torch.Tensor], tuple[Any, ...], dict[str, Any]]:
    """Return the tensors of the original's call, and the arguments of the cut model's."""
    calls = [f(coupling, plan.axes, example_inputs) for f in (kept_inputs, cut_inputs)]
    original, (args, kwargs) = pytree.tree_map_only(
        torch.Tensor, lambda t: widened(t.detach(), dtype, device if t.dim() else t.device), calls
    )
    return flat_inputs(coupling.graph, *original), args, kwargs


def original_tensors(model: nn.Module, graph: Graph) -> Tensors:
    """Return the tensors that a graph reads, by canonical name."""
    named = named_tensors(unwrap(model))
    full = {n: named[n].detach() for n, i in graph.tensors.items() if i.kind != "constant"}
    return full | dict(graph.constants)


def perturbed(
    values: Mapping[str, torch.Tensor],
    graph: Graph,
    seed: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensors:
    """Return tensors in a wide dtype with noise of 0.1; variances stay positive, integers and constants as they are."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, value in values.items():
        if not value.is_floating_point() or graph.tensors[name].kind == "constant":
            out[name] = value
            continue
        wide = widened(value, dtype, device or value.device)
        noise = torch.randn(value.shape, generator=generator, dtype=dtype).to(wide.device)
        constant = value.numel() > 1 and bool((value == value.reshape(-1)[0]).all())
        if value.dim() <= 1 or constant or graph.tensors[name].kind == "buffer":
            positive_only = bool((wide >= 0).all())
            wide = wide + 0.1 * noise
            wide = wide.abs() + 1e-3 if positive_only and graph.tensors[name].kind == "buffer" else wide
        out[name] = wide
    return out


def widened(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device, real floats in ``dtype``."""
    return tensor.to(device).to(dtype) if tensor.is_floating_point() else tensor.to(device)


def has_dtype(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device computes in a float type; some accelerators have no float64."""
    try:
        return bool((torch.ones((), dtype=dtype, device=device) + 1).isfinite())
    except (RuntimeError, TypeError):
        return False


def output_tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors of a result, those inside its objects included."""
    return [x for x in opened_leaves(value) if isinstance(x, torch.Tensor)]


def relative_error(got: list[torch.Tensor], expected: list[torch.Tensor], *, least: float = 1e-12) -> float:
    """Return the largest ‖got − expected‖∞ / max(‖expected‖∞, least) over pairs; ∞ for NaN and for other shapes.

    Equal infinities agree: masked scores are −∞ on purpose.
    """
    if len(got) != len(expected):
        return float("inf")
    return max((_difference(a, b, least) for a, b in zip(got, expected, strict=True)), default=0.0)


def _difference(a: torch.Tensor, b: torch.Tensor, least: float) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    a, b = a.detach().cpu().to(wide), b.detach().cpu().to(wide)
    same = a == b
    finite = b[b.isfinite()].abs()
    scale = max(float(finite.max()) if finite.numel() else 0.0, least)
    value = float((a - b).abs().masked_fill(same, 0).max()) / scale
    return value if value == value else float("inf")


def _on(graph: Graph, device: torch.device) -> Graph:
    """Return a program whose device literals and constants lie on ``device``."""
    nodes = tuple(
        dataclasses.replace(n, args={k: device if isinstance(v, torch.device) else v for k, v in n.args.items()})
        for n in graph.nodes
    )
    constants = {name: value.to(device) for name, value in graph.constants.items()}
    return dataclasses.replace(graph, nodes=nodes, constants=constants, _by_name={})
