"""Modules of `prunus.nn` that a cut puts into a model: attention of any width, and modules that return zeros."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from torch import nn

from prunus.errors import CaptureError
from prunus.graph.coupling import Coupling
from prunus.graph.layout import UNIT, Expr, Prod, Sum, atoms_of
from prunus.nn import Bypass, Zero
from prunus.nn.attention import widened_
from prunus.plans import Plan
from prunus.surgery.record import Shipped

ATTENTION = "MultiheadAttention"


def ship_(model: nn.Module, shipped: Mapping[str, Shipped]) -> None:
    """Put the modules that a record describes into a model whose tensors are cut already.

    Raises:
        ValueError: a record does not fit the module that it replaces.
        LookupError: the model has no such module.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, record in shipped.items():
        if path not in modules or (not path and record.kind != ATTENTION):
            raise LookupError(f"there is no module {path!r}")
        if record.kind == ATTENTION:
            _ship_attention_(modules[path], record)
            continue
        kinds: dict[str, type[nn.Module]] = {"Bypass": Bypass, "Zero": Zero}
        if record.kind not in kinds:
            raise ValueError(f"the module {record.kind!r} at {path!r} is not known")
        parent, _, leaf = path.rpartition(".")
        made = kinds[record.kind](**record.sizes)
        made.training = modules[path].training
        modules[parent]._modules[leaf] = made


def widen_attention_(
    small: nn.Module, coupling: Coupling, plan: Plan, silent: Collection[str] = ()
) -> dict[str, Shipped]:
    """Give every `torch.nn.MultiheadAttention` that lost units its new widths.

    An attention beside a module that has to return zeros (``silent``) is replaced by `prunus.nn`'s too, because torch's
    fused kernels of whole encoder layers read the weights of both.
    """
    beside = {path.rpartition(".")[0] for path in silent}
    shipped = {}
    for path, module in small.named_modules(remove_duplicate=True):
        if type(module) is not nn.MultiheadAttention or path in silent:
            continue
        prefix = f"{path}." if path else ""
        names = {
            n: coupling.graph.aliases.get(f"{prefix}{n}", f"{prefix}{n}")
            for n in ("out_proj.weight", "in_proj_weight", "q_proj_weight")
        }
        inner = coupling.tensors[names["out_proj.weight"]][1]
        heads, width = _heads_of(coupling, inner, module.head_dim)
        num_heads, value_dim = coupling.kept(heads, plan.axes), coupling.kept(width, plan.axes)
        rows = (
            coupling.kept(coupling.tensors[names["in_proj_weight"]][0], plan.axes) - num_heads * value_dim
            if module._qkv_same_embed_dim
            else 2 * coupling.kept(coupling.tensors[names["q_proj_weight"]][0], plan.axes)
        )
        head_dim, scale = rows // (2 * num_heads), 1 / math.sqrt(module.head_dim)
        apart = path.rpartition(".")[0] in beside
        record = _resized(module, num_heads, head_dim, value_dim, scale, apart=apart)
        if record is not None:
            shipped[path] = record
    return shipped


def _resized(
    module: nn.MultiheadAttention, num_heads: int, head_dim: int, value_dim: int, scale: float, *, apart: bool
) -> Shipped | None:
    """Set the widths of an attention, and return the record; None if nothing changed.

    The module remains torch's if torch's class allows these widths.
    """
    first = module.in_proj_weight if module.in_proj_weight is not None else module.q_proj_weight
    width, query = module.out_proj.weight.shape[0], first.shape[1]
    sizes = {
        "embed_dim": width,
        "query_dim": query,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "value_dim": value_dim,
    }
    old = module.embed_dim, module.embed_dim, module.num_heads, module.head_dim, module.head_dim
    if tuple(sizes.values()) == old and not apart:
        return None
    if apart:
        sizes["apart"] = 1
    for name, weight in (("kdim", module.k_proj_weight), ("vdim", module.v_proj_weight)):
        sizes[name] = query if weight is None else weight.shape[1]
    record = Shipped(ATTENTION, sizes, scale)
    _ship_attention_(module, record)
    return record


def _ship_attention_(module: nn.Module, record: Shipped) -> None:
    """Turn a module of torch into the one that a record describes; its parameters are cut already."""
    if not isinstance(module, nn.MultiheadAttention):
        raise ValueError(f"a {type(module).__name__} where the cut found a MultiheadAttention")
    sizes = record.sizes
    module.embed_dim, module.kdim, module.vdim = sizes["embed_dim"], sizes["kdim"], sizes["vdim"]
    inner = sizes["num_heads"] * sizes["head_dim"]
    fills = inner == sizes["embed_dim"] == sizes["query_dim"] and sizes["value_dim"] == sizes["head_dim"]
    if fills and "apart" not in sizes and math.isclose(record.scale, 1 / math.sqrt(sizes["head_dim"])):
        module.num_heads, module.head_dim = sizes["num_heads"], sizes["head_dim"]
        return
    widened_(module, sizes["num_heads"], sizes["head_dim"], sizes["value_dim"], record.scale)


def _heads_of(coupling: Coupling, inner: Expr, head_dim: int) -> tuple[Expr, Expr]:
    """Split the inner width of an attention into heads × width of a head."""
    if isinstance(inner, Prod):
        for at in range(1, len(inner.factors)):
            trail = Prod(inner.factors[at:])
            if coupling.size(trail) == head_dim:
                return Prod(inner.factors[:at]), trail
    size = coupling.size(inner)
    if size == head_dim:
        return Prod(()), inner  # a single head
    if not any(a in coupling.axis_of for a in atoms_of(inner)):
        return _constant(size // head_dim), _constant(head_dim)
    raise CaptureError(
        "The inner width of an attention could not be split into heads and their width; use forward='rewrite'."
    )


def _constant(size: int) -> Expr:
    """Return an expression with a size that no cut changes."""
    return Sum((UNIT,) * size)
