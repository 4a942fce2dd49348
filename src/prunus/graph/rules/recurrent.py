"""Rules of LSTM, GRU and plain RNN layers and cells: 4H = gate×H with the gate factor frozen."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.graph.ir import Node, Ref
from prunus.graph.layout import Expr, concat
from prunus.graph.rules.context import Dims, Flow, rule


def _cell(flow: Flow, params: Sequence[Ref], x: Expr, hidden: Expr, state: Expr) -> None:
    """Unify the dims of one cell: w_ih (g·H, I), w_hh (g·H, P), biases (g·H,).

    ``state`` is H, ``hidden`` is P, which equals H unless the output is projected.
    """
    rows, inputs = flow.dims(params[0])
    recurrent = flow.dims(params[1])
    flow.unify(inputs, x)
    flow.unify(recurrent[1], hidden)
    gate, inner = flow.factor(rows, flow.size(state))
    flow.freeze(gate, "gates")
    flow.unify(inner, state)
    flow.unify(rows, recurrent[0])
    for bias in params[2:4]:
        flow.unify(rows, flow.dims(bias)[0])


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(flow: Flow, node: Node) -> list[Dims | None]:
    """Chain the layers, concatenate the directions; one state tensor gives all layers one hidden size."""
    if "input" not in node.args:
        return _packed(flow, node)
    x = flow.dims(node.args["input"])
    states = node.args["hx"]
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    dims = [flow.dims(s) for s in states]
    flow.freeze(dims[0][0], "layers")
    for d in dims[1:]:
        flow.freeze(d[0], "layers")
    hidden = dims[0][-1]
    state = dims[1][-1] if len(dims) > 1 else hidden
    feature = _layers(flow, node, x[-1], hidden, state)
    out = (*x[:-1], flow.norm(feature))
    return [out, *(tuple(flow.norm(e) for e in d) for d in dims)]


def _layers(flow: Flow, node: Node, feature: Expr, hidden: Expr, state: Expr) -> Expr:
    params = list(node.args["params"])
    directions = 2 if node.args["bidirectional"] else 1
    layers = int(node.args["num_layers"])
    each = len(params) // (layers * directions)
    biases = bool(node.args["has_biases"])
    for layer in range(layers):
        outs = []
        for direction in range(directions):
            at = (layer * directions + direction) * each
            group = params[at : at + each]
            _cell(flow, group[: 4 if biases else 2], feature, hidden, state)
            projected = each == (5 if biases else 3)
            if not projected:
                flow.unify(hidden, state)
            if projected:
                weight = flow.dims(group[-1])  # (P, H)
                flow.unify(weight[1], state)
                flow.unify(weight[0], hidden)
            outs.append(flow.norm(hidden))
        feature = concat(*outs)
    return feature


def _packed(flow: Flow, node: Node) -> list[Dims | None]:
    """Relate the dims of packed sequences: data (T, I), the same layers."""
    x = flow.dims(node.args["data"])
    states = node.args["hx"]
    dims = [flow.dims(s) for s in (states if isinstance(states, (list, tuple)) else [states])]
    for d in dims:
        flow.freeze(d[0], "layers")
    hidden = dims[0][-1]
    feature = _layers(flow, node, x[-1], hidden, dims[1][-1] if len(dims) > 1 else hidden)
    return [(x[0], flow.norm(feature)), *(tuple(flow.norm(e) for e in d) for d in dims)]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(flow: Flow, node: Node) -> list[Dims | None]:
    """Relate the dims of one step: x (B, I), states (B, H)."""
    x = flow.dims(node.args["input"])
    states = node.args["hx"]
    dims = [flow.dims(s) for s in (states if isinstance(states, (list, tuple)) else [states])]
    flow.unify_all([d[-1] for d in dims])
    params = [node.args[n] for n in ("w_ih", "w_hh", "b_ih", "b_hh") if node.get(n) is not None]
    _cell(flow, params, x[-1], dims[0][-1], dims[0][-1])
    out = tuple(flow.norm(e) for e in dims[0])
    return [out for _ in node.outputs]
