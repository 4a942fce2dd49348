"""One trial of a cut: noisy tensors in a wide float type, and the outputs of the original, masked and cut models."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.graph.capture import preserved, unwrap
from prunus.graph.capture_lock import ALONE
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import flat_inputs, run
from prunus.graph.ir import Graph, Ref
from prunus.graph.open_outputs import opened_leaves
from prunus.graph.recorder import named_tensors
from prunus.graph.rules.context import Dims
from prunus.plans import Plan
from prunus.surgery.copy_module import deep_copy
from prunus.surgery.merging import with_merges
from prunus.surgery.proving.precision import computing_in
from prunus.surgery.proving.random_ops import draws, seeded
from prunus.surgery.proving.reference import masked_run, masked_tensors, zero_removed_
from prunus.surgery.tensors import slice_tensors
from prunus.surgery.token_ids import cut_inputs, kept_inputs

Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """The tensors, inputs and settings with which a masked and a cut model run.

    Attributes:
        coupling: the analysis, on the device of the trial.
        plan: the plan of the cut.
        values: the original's tensors, with noise, in ``dtype``.
        args, kwargs: the call of the cut model.
        inputs: the tensors of the original's call, in the graph's order; removed ids are replaced by kept ones.
        dtype: float type of both runs.
        seed: seed of the noise and of random ops.
        device: device of both runs.
        random: the program draws random numbers.
        zeroed: ``values`` are those of the masked original; see `zero_`.
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
    zeroed: bool = False

    @contextlib.contextmanager
    def computing(self, *, gradients: bool = False) -> Iterator[None]:
        """Run a block in the trial's float type, from its random state."""
        with (
            ALONE,  # the default float type is shared by all threads of the process
            torch.set_grad_enabled(gradients),
            seeded(self.seed, one_number=self.random),
            computing_in(self.dtype),
        ):
            yield

    def uncut(self) -> list[torch.Tensor]:
        """Return the outputs of the original at kept positions."""
        with self.computing():
            return self.kept_outputs(run(self.coupling.graph, self.values, self.inputs, dtype=self.dtype))

    def masked(self) -> list[torch.Tensor]:
        """Return the outputs of the masked original at kept positions."""
        values = self.values if self.zeroed else masked_tensors(self.values, self.coupling, self.plan)
        with self.computing():
            return self.kept_outputs(masked_run(self.coupling, self.plan, values, self.inputs, self.dtype))

    def zero_(self) -> Trial:
        """Zero the removed slices in the trial's own tensors, so that no second copy is needed; return the trial."""
        values = dict(self.values)
        for name, value in self.values.items():
            if self.coupling.graph.tensors[name].kind == "constant" or not value.is_floating_point():
                values |= masked_tensors({name: value}, self.coupling, self.plan)
            else:
                zero_removed_(value, name, self.coupling, self.plan)
        return dataclasses.replace(self, values=values, zeroed=True)

    def cut(self, twin: nn.Module, *, gradients: bool = False) -> list[torch.Tensor]:
        """Return the outputs of a cut model that `twin` returned."""
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (self.args, self.kwargs))
        with preserved(twin), self.computing(gradients=gradients):
            return output_tensors(twin(*args, **kwargs))

    def kept_outputs(self, value: Any) -> list[torch.Tensor]:
        """Return the output tensors at kept positions; a cut may remove others (states, outputs not protected)."""
        refs = [leaf for leaf in self.coupling.graph.outputs if isinstance(leaf, Ref)]
        return [
            self.kept(tensor, self.coupling.values[ref])
            for ref, tensor in zip(refs, output_tensors(value), strict=True)
        ]

    def kept(self, tensor: torch.Tensor, dims: Dims) -> torch.Tensor:
        """Return the kept positions of a value or a tensor."""
        for dim, expr in enumerate(dims):
            mask = self.coupling.mask(expr, self.plan.axes)
            if not mask.all():
                tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device))
        return tensor

    def at(self, coupling: Coupling, example_inputs: Any) -> Trial:
        """Return the same trial on other inputs; ``coupling`` is the analysis at their size."""
        coupling = dataclasses.replace(coupling, graph=_on(coupling.graph, self.device))
        inputs, args, kwargs = _calls(coupling, self.plan, example_inputs, self.dtype, self.device)
        known = {n: v for n, v in self.values.items() if n in coupling.tensors}
        constants = dict(coupling.graph.constants)
        values = known | (masked_tensors(constants, coupling, self.plan) if self.zeroed else constants)
        return dataclasses.replace(self, coupling=coupling, values=values, args=args, kwargs=kwargs, inputs=inputs)

    def twin(self, small: nn.Module) -> nn.Module:
        """Return a copy of a cut model with the slices of the noisy tensors, all floats in the trial's type."""
        return self.holding(small, slice_tensors(self.values, self.coupling, self.plan))

    def original(self, model: nn.Module) -> nn.Module:
        """Return a copy of the original that shares the trial's tensors, so that `zero_` zeroes them in it too."""
        return self.holding(model, self.values, shared=True)

    def holding(self, model: nn.Module, values: Mapping[str, torch.Tensor], *, shared: bool = False) -> nn.Module:
        """Return a copy of a model with the given tensors if they have its shapes, all in the trial's type.

        Args:
            model: a model, cut or not.
            values: tensors by canonical name.
            shared: use the trial's own tensors instead of copies.
        """
        model, aliases = unwrap(model), self.coupling.graph.aliases
        taken = set() if shared else {v.data_ptr() for v in self.values.values()}
        memo: dict[int, Any] = {}
        for name, tensor in named_tensors(model).items():
            value = values.get(aliases.get(name, name))
            fits = value is not None and value.shape == tensor.shape
            own = self._wide(value if value is not None and fits else tensor).detach()
            own = own.clone() if not fits or own.data_ptr() in taken else own
            is_parameter = isinstance(tensor, nn.Parameter)
            memo.setdefault(id(tensor), nn.Parameter(own, own.is_floating_point()) if is_parameter else own)
        for module in model.modules():
            # Tensors in plain attributes need the trial's float type too, and torch copies none with a history.
            for tensor in _attribute_tensors(module):
                if not isinstance(tensor, nn.Parameter):
                    memo.setdefault(id(tensor), self._wide(tensor).detach().clone())
        return deep_copy(model, memo)

    def _wide(self, tensor: torch.Tensor) -> torch.Tensor:
        return widened(tensor, self.dtype, self.device)


_OF_TORCH = frozenset(vars(nn.Module())) - {"_buffers"}


def _attribute_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors in a module's own attributes, and in containers in them."""
    for name, value in vars(module).items():
        if name in _OF_TORCH or isinstance(value, (int, float, str, nn.Module)):
            continue
        yield from (x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor))


def trial(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Trial:
    """Prepare a trial on the device of the model, or on the CPU if that device lacks the float type."""
    full = with_merges(original_tensors(model, coupling.graph), plan)
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
    """Return the tensors of the original's call, and the arguments of the cut model's call."""
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
    """Return copies in a wide dtype; add noise of 0.1 to vectors, buffers and tensors of one repeated value.

    Integers and constants are returned unchanged.
    """
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, value in values.items():
        kind = graph.tensors[name].kind
        if not value.is_floating_point() or kind == "constant":
            out[name] = value
            continue
        wide = value.to(device or value.device, dtype, copy=True)
        if value.dim() <= 1 or kind == "buffer" or _is_constant(value):
            noise = torch.randn(value.shape, generator=generator, dtype=dtype).to(wide.device)
            positive_only = bool((wide >= 0).all())
            wide = wide + 0.1 * noise
            wide = wide.abs() + 1e-3 if positive_only and kind == "buffer" else wide
        out[name] = wide
    return out


def _is_constant(value: torch.Tensor) -> bool:
    flat = value.reshape(-1)
    return flat.numel() > 1 and all(bool((part == flat[0]).all()) for part in (flat[:64], flat))


def widened(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device, real floats in ``dtype``."""
    return tensor.to(device).to(dtype) if tensor.is_floating_point() else tensor.to(device)


def has_dtype(device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if a device computes in a float type; some accelerators have no float64."""
    try:
        return bool((torch.ones((), dtype=dtype, device=device) + 1).isfinite())
    except (RuntimeError, TypeError):
        return False


def output_tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors of a result, including those inside objects such as caches."""
    return [x for x in opened_leaves(value) if isinstance(x, torch.Tensor)]


def relative_error(got: list[torch.Tensor], expected: list[torch.Tensor], *, least: float = 1e-12) -> float:
    """Return the largest ‖got − expected‖∞ / max(‖expected‖∞, least) over pairs; ∞ for NaN and for other shapes.

    Equal infinities count as equal: masked scores are −∞ on purpose.
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
    """Return a program with its device literals and constants moved to ``device``."""
    nodes = tuple(
        dataclasses.replace(n, args={k: device if isinstance(v, torch.device) else v for k, v in n.args.items()})
        for n in graph.nodes
    )
    constants = {name: value.to(device) for name, value in graph.constants.items()}
    return dataclasses.replace(graph, nodes=nodes, constants=constants, _by_name={})
