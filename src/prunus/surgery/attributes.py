"""Mend the integers that torch.nn-like modules remember: groups, widths, normalised shapes."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunus.graph.ir import Graph
from prunus.graph.rules.context import base_name


def mend_attributes_(model: nn.Module, before: Graph, after: Graph) -> dict[str, dict[str, Any]]:
    """Set shape attributes from the tensors and literals of the edited graph; returns path → attribute → value."""
    modules = dict(model.named_modules(remove_duplicate=False))
    changes: dict[str, dict[str, Any]] = {}
    for path, module in modules.items():
        _note(changes, path, module, _from_tensors(module))
    for node in after.nodes:
        found = _from_literals(node.op, node.args)
        if found and node.call < len(after.calls):
            path = after.calls[node.call].path
            if path in modules:
                _note(changes, path, modules[path], found)
        if base_name(node.op) == "embedding" and node.call < len(after.calls):
            _mend_padding(changes, after.calls[node.call].path, modules, int(node.args.get("padding_idx", -1)))
    return changes


def _mend_padding(changes: dict[str, dict[str, Any]], path: str, modules: dict[str, nn.Module], padding: int) -> None:
    """Tell an embedding the new number of the token whose row learns nothing, or that it is gone."""
    module, new = modules.get(path), padding if padding >= 0 else None
    if isinstance(module, nn.Embedding) and module.padding_idx not in (None, new):
        module.padding_idx = new
        changes.setdefault(path, {})["padding_idx"] = new


def _note(changes: dict[str, dict[str, Any]], path: str, module: nn.Module, found: dict[str, Any]) -> None:
    for name, value in found.items():
        old = getattr(module, name, None)
        if old is None or old == value or type(old) is not type(value) or isinstance(old, nn.Module):
            continue
        setattr(module, name, value)
        changes.setdefault(path, {})[name] = value


def _from_tensors(module: nn.Module) -> dict[str, Any]:
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.RNNBase):
        own = dict(module.named_parameters())
        first, again = own["weight_ih_l0"], own["weight_hh_l0"]
        hidden = again.shape[0] // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        found = {"input_size": first.shape[1], "hidden_size": hidden}
        if module.proj_size:
            found["proj_size"] = again.shape[1]
        return found
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    if weight is None or not hasattr(weight, "shape"):
        return {}
    shape = weight.shape
    if isinstance(module, nn.Linear):
        return {"in_features": shape[1], "out_features": shape[0]}
    if isinstance(module, nn.Embedding):
        return {"embedding_dim": shape[1], "num_embeddings": shape[0]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": shape[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if len(shape) == 2 and type(module).__name__ == "Conv1D":  # the transposed linear layer of GPT-2
        return {"nx": shape[0], "nf": shape[1]}
    return {}


def _from_literals(op: str, args: Any) -> dict[str, Any]:
    name = base_name(op)
    if name in ("layer_norm", "rms_norm"):
        return {"normalized_shape": tuple(args["normalized_shape"])}
    if name == "group_norm":
        return {"num_groups": args["num_groups"]}
    if name in ("channel_shuffle", "native_channel_shuffle"):
        return {"groups": args["groups"]}
    return {}


def mend_convolutions_(model: nn.Module, after: Graph) -> dict[str, dict[str, Any]]:
    """Set groups and channel counts of convolutions from the edited graph."""
    modules = dict(model.named_modules(remove_duplicate=False))
    changes: dict[str, dict[str, Any]] = {}
    for node in after.nodes:
        name = base_name(node.op)
        if not name.startswith(("conv1d", "conv2d", "conv3d", "conv_transpose")) or node.call >= len(after.calls):
            continue
        path = after.calls[node.call].path
        module = modules.get(path)
        weight = after.meta(node.args["weight"]).shape
        groups = int(node.args["groups"])
        transposed = "transpose" in name
        outer, inner = weight[0], weight[1] * groups
        found = {
            "groups": groups,
            "in_channels": outer if transposed else inner,
            "out_channels": inner if transposed else outer,
        }
        if module is not None:
            _note(changes, path, module, found)
    return changes
