"""The rule of scaled dot-product attention, also with grouped queries."""

from __future__ import annotations

from prunus.graph.ir import Node
from prunus.graph.rules.context import Dims, Flow, rule


@rule("scaled_dot_product_attention")
def attention(flow: Flow, node: Node) -> list[Dims]:
    """Relate the dims of softmax(q kᵀ·scale) v with q (…, L, D), k (…, S, D), v (…, S, E) → (…, L, E)."""
    q, k, v = (flow.dims(node.args[n]) for n in ("query", "key", "value"))
    flow.unify(q[-1], k[-1])
    flow.unify(k[-2], v[-2])
    flow.freeze(k[-2], "softmax")
    if node.get("is_causal"):
        flow.freeze(q[-2], "causal")
    if node.get("enable_gqa") and flow.size(q[-3]) != flow.size(k[-3]):
        lead, _ = flow.factor(q[-3], flow.size(q[-3]) // flow.size(k[-3]))
        flow.unify(lead, k[-3])
        flow.unify(k[-3], v[-3])
        batch = (*flow.broadcast([q[:-3], k[:-3], v[:-3]]), q[-3])
    else:
        batch = flow.broadcast([q[:-2], k[:-2], v[:-2]])
    mask = flow.maybe(node.get("attn_mask"))
    if mask:
        flow.broadcast([mask, [*batch, q[-2], k[-2]]])
    return [tuple(flow.norm(e) for e in (*batch, q[-2], v[-1]))]
