"""Rules of pooling, resampling, padding and patches: channels are kept, spatial dims are frozen."""

from __future__ import annotations

from prunus.graph.ir import Node
from prunus.graph.layout import Expr, concat, product
from prunus.graph.rules.context import RULES, Dims, Flow, rule

_POOLS = """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool2d max_pool1d_with_indices
max_pool2d_with_indices max_pool3d_with_indices"""
_RESAMPLE = """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d
replication_pad1d replication_pad2d replication_pad3d reflection_pad3d"""


def _numbers(value: object, count: int, default: int) -> list[int]:
    if value is None or value == []:
        return [default] * count
    items = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]  # type: ignore[call-overload]
    return items * count if len(items) == 1 else items


def _pool(flow: Flow, node: Node) -> list[Dims]:
    x = flow.dims(next(iter(node.args.values())))
    digit = [c for c in node.op.split(".")[1] if c.isdigit()]
    rank = int(digit[0])
    kernel = _numbers(node.args["kernel_size"], rank, 1)
    stride = _numbers(node.get("stride"), rank, 0)
    padding = _numbers(node.get("padding"), rank, 0)
    out: list[Expr] = list(x[:-rank])
    for e, k, s, p, size in zip(x[-rank:], kernel, stride, padding, node.shape[-rank:], strict=True):
        if k == 1 and s in (0, 1) and p == 0:
            out.append(e)
        else:
            flow.freeze(e, "pool")
            out.append(flow.fresh(size, "pool"))
    return [tuple(out) for _ in node.outputs]


def _resample(flow: Flow, node: Node) -> list[Dims]:
    x = flow.dims(next(iter(node.args.values())))
    rank = int(next(c for c in node.op.split(".")[1] if c.isdigit()))
    for e in x[-rank:]:
        flow.freeze(e, "resample")
    out = (*x[:-rank], *(flow.fresh(s, "resample") for s in node.shape[-rank:]))
    return [out for _ in node.outputs]


for _names, _rule in ((_POOLS, _pool), (_RESAMPLE, _resample)):
    RULES.register(*_names.split())(_rule)


@rule("pad", "constant_pad_nd")
def pad(flow: Flow, node: Node) -> list[Dims]:
    """Add fresh atoms for constant padding, split the dim for negative amounts; mirrored padding freezes it."""
    x = flow.dims(node.args["self"])
    amounts = list(node.args["pad"])
    constant = node.get("mode", "constant") == "constant"
    aux: list[Expr] = []
    for i in range(len(amounts) // 2):
        dim, pair = len(x) - 1 - i, amounts[2 * i : 2 * i + 2]
        if any(pair) and (not constant or flow.layout.is_frozen(x[dim])):
            flow.freeze(x[dim], "pad")
            x[dim] = flow.fresh(node.shape[dim], "pad")
            aux += [flow.fresh(abs(n), "pad") for n in pair]
            continue
        left, right = (flow.fresh(max(n, 0), None if n else "empty") for n in pair)
        size = flow.size(x[dim])
        removed = [max(-n, 0) for n in pair]
        pieces = (
            flow.cuts(x[dim], [removed[0], size - sum(removed), removed[1]]) if any(removed) else [left, x[dim], right]
        )
        aux += [left if pair[0] >= 0 else pieces[0], right if pair[1] >= 0 else pieces[2]]
        x[dim] = concat(*(e for e, n in ((left, pair[0] > 0), (pieces[1], 1), (right, pair[1] > 0)) if n))
    flow.set_aux(node, "pad", *aux)
    return [tuple(flow.norm(e) for e in x)]


@rule("pixel_shuffle")
def pixel_shuffle(flow: Flow, node: Node) -> list[Dims]:
    """Relate (…, C·r², H, W) → (…, C, H·r, W·r); the r² factor is frozen."""
    x = flow.dims(node.args["self"])
    factor = int(node.args["upscale_factor"])
    channels, trail = flow.factor(x[-3], factor * factor)
    flow.freeze(trail, "pixel_shuffle")
    for e in x[-2:]:
        flow.freeze(e, "spatial")
    return [(*x[:-3], channels, *(flow.fresh(s, "spatial") for s in node.shape[-2:]))]


@rule("pixel_unshuffle")
def pixel_unshuffle(flow: Flow, node: Node) -> list[Dims]:
    """Relate (…, C, H·r, W·r) → (…, C·r², H, W)."""
    x = flow.dims(node.args["self"])
    factor = int(node.args["downscale_factor"])
    for e in x[-2:]:
        flow.freeze(e, "spatial")
    channels = product(x[-3], flow.fresh(factor * factor, "pixel_shuffle"))
    return [(*x[:-3], channels, *(flow.fresh(s, "spatial") for s in node.shape[-2:]))]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(flow: Flow, node: Node) -> list[Dims]:
    """Relate (B, G×C, …) → (B, C×G, …)."""
    x = flow.dims(node.args["self"])
    group, inner = flow.factor(x[1], flow.size(x[1]) // int(node.args["groups"]))
    flow.set_aux(node, "groups", group)
    x[1] = product(inner, group)
    return [tuple(x)]


@rule("im2col")
def im2col(flow: Flow, node: Node) -> list[Dims]:
    """Relate (…, C, H, W) → (…, C×kk, L)."""
    x = flow.dims(node.args["self"])
    kernel = node.args["kernel_size"]
    for e in x[-2:]:
        flow.freeze(e, "spatial")
    patch = flow.fresh(kernel[0] * kernel[1], "kernel")
    return [(*x[:-3], product(x[-3], patch), flow.fresh(node.shape[-1], "spatial"))]


@rule("col2im")
def col2im(flow: Flow, node: Node) -> list[Dims]:
    """Relate (…, C×kk, L) → (…, C, H, W)."""
    x = flow.dims(node.args["self"])
    kernel = node.args["kernel_size"]
    channels, patch = flow.factor(x[-2], kernel[0] * kernel[1])
    flow.freeze(patch, "kernel")
    flow.freeze(x[-1], "spatial")
    return [(*x[:-2], channels, *(flow.fresh(s, "spatial") for s in node.shape[-2:]))]


@rule("unfold")
def unfold(flow: Flow, node: Node) -> list[Dims]:
    """Freeze the dim of sliding windows; the window is a new frozen dim."""
    x = flow.dims(node.args["self"])
    dim = node.args["dimension"] % len(x)
    flow.freeze(x[dim], "window")
    x[dim] = flow.fresh(node.shape[dim], "window")
    return [(*x, flow.fresh(node.shape[-1], "window"))]


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(flow: Flow, node: Node) -> list[Dims]:
    """Sample x (B, C, …) at a grid: channels are kept, spatial dims are frozen."""
    x, grid = flow.dims(node.args["input"]), flow.dims(node.args["grid"])
    for e in (*x[2:], *grid[1:]):
        flow.freeze(e, "spatial")
    return [(*x[:2], *(flow.fresh(s, "spatial") for s in node.shape[2:]))]


@rule("torchvision.deform_conv2d", "torchvision.roi_align", "torchvision.nms", "torchvision.roi_pool")
def vision(flow: Flow, node: Node) -> list[Dims]:
    """Keep the channels of region pooling; freeze all dims of other vision ops."""
    from prunus.graph.ir import refs_in

    values = list(refs_in(node.args))
    if "roi" in node.op:
        x = flow.dims(node.args["input"])
        for e in x[2:]:
            flow.freeze(e, "spatial")
        rest = tuple(flow.fresh(s, "spatial") for s in node.shape[2:])
        return [(flow.fresh(node.shape[0], "index"), x[1], *rest)]
    for r in values:
        for e in flow.dims(r):
            flow.freeze(e, "vision op")
    return [tuple(flow.fresh(s, "vision op") for s in node.shape)]
