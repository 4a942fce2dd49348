"""The ops that a stored graph may name: tensor ops of this process, and none that touch files or processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch._ops import OpOverload

from prunus.errors import ModelError
from prunus.foundation.registry import words
from prunus.graph.interpreter import resolve
from prunus.graph.recorder import schema_of

_NAME = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)
COMPUTING = frozenset(
    words("aten prims quantized _quantized quantization onednn mkldnn mkldnn_prepacked mkl sparse rngprims")
)
"""The namespaces of torch itself that hold ops of networks; a namespace of no one's list is that of a package."""
REFUSED_NAMESPACES = frozenset(
    words(
        "prim profiler debugprims inductor inductor_prims _inductor_test rpc c10d c10d_functional _c10d_functional "
        "_c10d_functional_autograd _dtensor fsdp symm_mem static_runtime _native debug_mode_ops export _test "
        "higher_order"
    )
)
"""Inspection, files, and talk between processes: nothing that a network computes with."""
# Files, and sparse tensors whose indices nothing compares with their sizes.
_REFUSED_OPS = frozenset(
    [
        *("aten.from_file", "aten.from_file_out"),
        *(f"aten._sparse_{kind}_tensor_unsafe" for kind in words("coo csr csc bsr bsc compressed")),
    ]
)


def allowed_op(name: Any) -> OpOverload:
    """Return the op of a stored name such as ``aten.conv2d.default``.

    Raises:
        ModelError: no op of this process, or one that a network has no use for.
    """
    if type(name) is not str or not _NAME.fullmatch(name):
        raise ModelError(f"The checkpoint names {str(name)[:60]!r} as an op; allowed: names like 'aten.relu.default'.")
    namespace, packet, _ = name.split(".")
    if namespace in REFUSED_NAMESPACES or f"{namespace}.{packet}" in _REFUSED_OPS:
        raise ModelError(f"The checkpoint names the op {name!r}, which no network needs; it is not loaded.")
    try:
        op = resolve(name)
    except (AttributeError, RuntimeError) as error:
        raise ModelError(
            f"The checkpoint needs the op {name!r}, which is not registered; import the package that defines it first."
        ) from error
    if not isinstance(op, OpOverload) or not any("Tensor" in str(r.type) for r in op._schema.returns):
        raise ModelError(f"The checkpoint names {name!r}, which is no op that returns a tensor; it is not loaded.")
    return op


def bound_arguments(op: OpOverload, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in the order of the op's schema; what this version of torch adds gets its default.

    Raises:
        ValueError: an argument that the op does not have.
    """
    schema = schema_of(op)
    unknown = set(args) - {name for name, _, _ in schema}
    if unknown:
        raise ValueError(f"{op} has no argument {min(unknown)!r}")
    return {name: args.get(name, default) for name, default, _ in schema}
