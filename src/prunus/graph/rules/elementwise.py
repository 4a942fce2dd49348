"""Rules of elementwise ops: align dims on the right, unify all that are not of size one."""

from __future__ import annotations

from prunus.graph.ir import Node, Ref, refs_in
from prunus.graph.rules.context import RULES, Dims, Flow, rule

_POINTWISE = """
add sub rsub mul div true_divide floor_divide remainder fmod pow maximum minimum fmax fmin atan2 hypot
eq ne lt le gt ge less greater less_equal greater_equal logical_and logical_or logical_xor logical_not
bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__
where masked_fill addcmul addcdiv lerp clamp clamp_min clamp_max clip copysign xlogy heaviside isclose
abs neg exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sign sgn floor ceil round trunc frac
sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc erfinv digamma lgamma sigmoid logit
relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign softshrink hardshrink hardtanh hardsigmoid
hardswish tanhshrink threshold log_sigmoid rrelu isnan isinf isfinite nan_to_num negative absolute positive
special_expit special_erf sinc rad2deg deg2rad conj resolve_conj resolve_neg real imag angle float_power
polar complex multiply divide subtract not_equal arccos arcsin arctan arctan2 arccosh arcsinh arctanh fix
nextafter ldexp logaddexp logaddexp2 gcd lcm signbit special_erfc special_xlog1py isneginf isposinf
i0 special_i0 special_ndtr isreal
"""

_FIRST_ONLY = """
to _to_copy type_as contiguous clone detach alias lift_fresh lift_fresh_copy lift dropout feature_dropout alpha_dropout
native_dropout zeros_like ones_like full_like empty_like rand_like randn_like randint_like fill zero bernoulli
uniform normal log_normal requires_grad data view_dtype _conj data_clone cpu cuda float half double bool long int
new_empty_strided fill_diagonal exponential random geometric pin_memory _reshape_alias_copy
"""


def _pointwise(flow: Flow, node: Node) -> list[Dims]:
    out = flow.broadcast([flow.dims(r) for r in refs_in(node.args) if flow.values.get(r) is not None])
    return [out for _ in node.outputs]


def _first_only(flow: Flow, node: Node) -> list[Dims]:
    first = next(refs_in(node.args))
    out = tuple(flow.dims(first))
    return [out for _ in node.outputs]


def _compared(flow: Flow, node: Node) -> list[Dims]:
    if isinstance(node.get("other"), int) and isinstance(node.args["self"], Ref):
        flow.ids.compared(node.args["self"], node)
    return _pointwise(flow, node)


for _name in _POINTWISE.split():
    RULES.register(_name)(_compared if _name in ("eq", "ne", "not_equal") else _pointwise)
for _name in _FIRST_ONLY.split():
    RULES.register(_name)(_first_only)


@rule("copy")
def copy(flow: Flow, node: Node) -> list[Dims]:
    """Unify destination and source of ``dst.copy_(src)``."""
    out = flow.broadcast([flow.dims(node.args["self"]), flow.dims(node.args["src"])])
    return [out]


@rule("expand_as")
def expand_as(flow: Flow, node: Node) -> list[Dims]:
    """Expand to the dims of another value."""
    return [flow.broadcast([flow.dims(node.args["self"]), flow.dims(node.args["other"])])]


@rule("prelu")
def prelu(flow: Flow, node: Node) -> list[Dims]:
    """Unify C of x (B, C, …) with that of the weight (C,); a weight (1,) is left alone."""
    x, weight = flow.dims(node.args["self"]), flow.dims(node.args["weight"])
    if weight and flow.size(weight[0]) != 1 and len(x) > 1:
        flow.unify(x[1], weight[0])
    return [tuple(x)]


@rule("glu")
def glu(flow: Flow, node: Node) -> list[Dims]:
    """Unify the two halves a and b of a dim: the result is a·sigmoid(b)."""
    x = flow.dims(node.args["self"])
    dim = node.args["dim"] % len(x)
    half = flow.size(x[dim]) // 2
    first, second = flow.cuts(x[dim], [half, half])
    flow.unify(first, second)
    x[dim] = flow.norm(first)
    return [tuple(x)]


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(flow: Flow, node: Node) -> list[Dims]:
    """Unify v and g in every dim that g spans: the result is g·v/‖v‖."""
    out = flow.broadcast([flow.dims(node.args["v"]), flow.dims(node.args["g"])])
    return [out for _ in node.outputs]
