"""The JSON of a `.pt2` file as the records of torch's schema: every key, type, name, op and structure is checked.

torch builds source text, attributes and calls from what stands in these records, so each text in them is of a closed
form: a name, a path of names, an op out of a list, an expression of sizes, or a structure without imports.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import keyword
import re
import types
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from torch._export.serde import schema
from torch._export.serde.union import _Union

from prunus.errors import ModelError
from prunus.exporters.allowed_ops import allowed_op
from prunus.exporters.size_expressions import SYMBOL, parse_size
from prunus.exporters.spec_json import safe_treespec
from prunus.foundation.registry import words

_NAME = re.compile(r"[A-Za-z_]\w{0,255}", re.ASCII)
_PATH = re.compile(r"(\w{1,256}(@\d{1,6})?(\.\w{1,256}(@\d{1,6})?){0,64})?", re.ASCII)
_PAYLOAD = re.compile(r"(weight|tensor)_\d{1,6}", re.ASCII)
_LARGEST = 1 << 63
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}
_DEVICES = words("cpu cuda xpu mps meta hpu npu mtia xla")
_TAKEN = frozenset(words("torch self math operator _operator device inf nan NoneType fx_pytree pytree args kwargs"))
"""Names that the source text which torch writes gives a sense of its own."""
# What a graph calls beside ops that return a tensor: arithmetic on sizes, and checks of them.
_ON_SIZES = frozenset(
    [
        *(
            f"_operator.{name}"
            for name in words("eq ne le ge lt gt neg pos mul add sub floordiv mod pow truediv and_ or_")
        ),
        *("_operator.lshift", "_operator.rshift", "math.trunc"),
        *(f"torch.{name}" for name in words("sym_not sym_int sym_float sym_ite sym_max sym_min sym_sqrt")),
        *(f"torch._sym_{name}" for name in words("sqrt cos sin tan exp log2")),
        *(f"torch.ops.aten.{name}" for name in words("sym_size.int sym_stride.int sym_numel.default")),
        *(f"torch.ops.aten.{name}" for name in words("sym_storage_offset.default sym_is_contiguous.default")),
        *(f"torch.ops.aten.{name}" for name in words("item.default _local_scalar_dense.default is_nonzero.default")),
        *(f"torch.ops.aten.{name}" for name in words("sym_constrain_range.default equal.default numel.default")),
        *(f"torch.ops.aten.{name}" for name in words("sym_constrain_range_for_size.default _assert_scalar.default")),
        *(f"torch.ops.aten.{name}" for name in words("_assert_async.default _assert_async.msg")),
        *(f"torch.ops.aten.{name}" for name in words("_assert_tensor_metadata.default size.int dim.default")),
    ]
)
_WITH_GRAPHS = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in words("wrap_with_set_grad_enabled wrap_with_autocast cond while_loop scan map_impl associative_scan")
)
_WORDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}
_METADATA = ("stack_trace", "nn_module_stack", "torch_fn")
_VERIFIERS = ("TRAINING", "ATEN", "")


def decode_program(data: Any) -> Any:
    """Return the ``ExportedProgram`` record of parsed JSON; expressions in it are sympy's, never text.

    Raises:
        ModelError: an op that is not allowed, or a structure that is not known.
        ValueError: anything else that a program does not have.
    """
    program = _decoded(schema.ExportedProgram, data, "model")
    # Checks of the inputs that torch would turn into source text; it has none for a file without example inputs.
    program.guards_code = []
    program.graph_module.metadata = {}
    return program


def decode_payloads(data: Any) -> Any:
    """Return the ``PayloadConfig`` record of parsed JSON: tensor name → the entry that holds it, its shape and type.

    Raises:
        ModelError: a pickled object.
        ValueError: anything else that it does not have.
    """
    return _decoded(schema.PayloadConfig, data, "config")


def _decoded(kind: Any, value: Any, where: str) -> Any:
    """Build what an annotation of the schema says from JSON, strictly."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _decoded(parts[0], value, where)
    if origin in (Union, types.UnionType):
        return None if value is None else _decoded(parts[0], value, where)
    if origin is list:
        return [_decoded(parts[0], part, where) for part in _typed(value, list, where)]
    if origin is dict:
        return {key: _decoded(parts[1], part, where) for key, part in _typed(value, dict, where).items()}
    if issubclass(kind, _Union):
        return _decoded_choice(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _decoded_record(kind, value, where)
    return _decoded_leaf(kind, value, where)


def _decoded_choice(kind: Any, value: Any, where: str) -> Any:
    hints = _hints(kind)
    if type(value) is not dict or len(value) != 1 or next(iter(value)) not in hints:
        raise ValueError(f"{where}: {_shown(value)} is no {kind.__name__}")
    name, part = next(iter(value.items()))
    found = _checked(kind, name, _decoded(hints[name], part, f"{where}.{name}"), where)
    return kind.create(**{name: found})


def _decoded_record(kind: Any, value: Any, where: str) -> Any:
    hints, fields = _hints(kind), dataclasses.fields(kind)
    given = _typed(value, dict, where)
    unknown = [key for key in given if key not in hints]
    if unknown:
        raise ValueError(f"{where}: a {kind.__name__} has no {str(unknown[0])[:40]!r} in this version of torch")
    made = {}
    for field in fields:
        if field.name in given:
            part = f"{where}.{field.name}"
            found = _decoded(hints[field.name], given[field.name], part)
            made[field.name] = _checked(kind, field.name, found, part)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}: a {kind.__name__} without its {field.name!r}")
    return kind(**made)


def _decoded_leaf(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        if type(value) is str and value in _FLOATS:
            return _FLOATS[value]
        if type(value) not in (int, float):
            raise ValueError(f"{where}: {_shown(value)} is no number")
        return float(value)
    if issubclass(kind, IntEnum):
        if type(value) is not int or value not in kind._value2member_map_:
            raise ValueError(f"{where}: {_shown(value)} is no {kind.__name__}")
        return value
    found = _typed(value, kind, where)
    if kind is int and not -_LARGEST <= found < _LARGEST:
        raise ValueError(f"{where}: {_shown(value)} is too large a number")
    return found


def _typed(value: Any, kind: Any, where: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{where}: got {_shown(value)}, expected {_WORDS[kind]}")
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, globalns=vars(schema), include_extras=True)


def _checked(kind: Any, name: str, value: Any, where: str) -> Any:
    """Return a value after the check that its place asks for; None stands for what is absent."""
    check = _CHECKS.get((kind.__name__, name))
    if check is None or value is None:
        return value
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or keyword.iskeyword(value) or value in _TAKEN:
        raise ValueError(f"{_shown(value)} is no name of a value")
    return value


def _argument_name(value: str) -> str:
    if value and not _NAME.fullmatch(value):
        raise ValueError(f"{_shown(value)} is no name of an argument")
    return value


def _path(value: str) -> str:
    if not _PATH.fullmatch(value) or "__class__" in value:
        raise ValueError(f"{_shown(value)} is no path of a module or a tensor")
    return value


def _names(values: Any) -> Any:
    for value in values:
        _name(value)
    return values


def _target(value: str) -> str:
    if value in _ON_SIZES or value in _WITH_GRAPHS:
        return value
    if not value.startswith("torch.ops."):
        raise ModelError(f"it calls {_shown(value)}, which no network needs")
    allowed_op(value.removeprefix("torch.ops."))
    return value


def _metadata(value: dict[str, str]) -> dict[str, str]:
    """Keep where an op comes from; the rest would make torch look up attributes, and computes nothing."""
    return {key: value[key] for key in _METADATA if key in value}


def _structure(text: str) -> str:
    found = safe_treespec(text)
    _, node = json.loads(found)
    parts = node["children_spec"]
    if [node["type"], *(p["type"] for p in parts)] == ["builtins.tuple", "builtins.tuple", "builtins.dict"]:
        _names(json.loads(parts[1]["context"]))  # the names of keyword arguments become source text
    return found


def _constraints(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not SYMBOL.fullmatch(name):
            raise ValueError(f"{_shown(name)} is no symbol of a size")
    return value


def _verifiers(value: list[str]) -> list[str]:
    if any(name not in _VERIFIERS for name in value):
        raise ValueError(f"the verifiers {_shown(value)}; allowed: {', '.join(_VERIFIERS)}")
    return value


def _device(value: str) -> str:
    if value not in _DEVICES:
        raise ValueError(f"{_shown(value)} is no device")
    return value


def _device_number(value: int) -> int:
    if not 0 <= value < 256:
        raise ValueError(f"{value} is no number of a device")
    return value


def _payload(value: str) -> str:
    if not _PAYLOAD.fullmatch(value):
        raise ModelError(f"it names {_shown(value)} as a tensor: pickled objects or code, which loading would run")
    return value


def _no_pickle(value: bool) -> bool:
    if value:
        raise ModelError("it holds pickled objects or code, which loading would run")
    return value


def _nothing(value: Any) -> Any:
    if value:
        raise ModelError(f"it holds {_shown(value)}: pickled objects or code, which loading would run")
    return value


def _refused(value: Any) -> Any:
    raise ModelError("it holds an object that is no tensor: pickled objects or code, which loading would run")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_CHECKS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("SymExpr", "expr_str"): parse_size,
    ("Device", "type"): _device,
    ("Device", "index"): _device_number,
    ("Node", "target"): _target,
    ("Node", "metadata"): _metadata,
    ("Node", "name"): _name,
    ("NamedArgument", "name"): _argument_name,
    ("TensorArgument", "name"): _name,
    ("GraphArgument", "name"): _name,
    ("SymIntArgument", "as_name"): _name,
    ("SymFloatArgument", "as_name"): _name,
    ("SymBoolArgument", "as_name"): _name,
    ("Argument", "as_custom_obj"): _refused,
    ("Argument", "as_operator"): _refused,
    ("InputSpec", "custom_obj"): _refused,
    ("InputSpec", "token"): _refused,
    ("OutputSpec", "token"): _refused,
    ("InputToParameterSpec", "parameter_name"): _path,
    ("InputToBufferSpec", "buffer_name"): _path,
    ("InputToTensorConstantSpec", "tensor_constant_name"): _path,
    ("InputToConstantInputSpec", "name"): _name,
    ("BufferMutationSpec", "buffer_name"): _path,
    ("ParameterMutationSpec", "parameter_name"): _path,
    ("GradientToParameterSpec", "parameter_name"): _path,
    ("GradientToUserInputSpec", "user_input_name"): _name,
    ("UserInputMutationSpec", "user_input_name"): _name,
    ("Graph", "tensor_values"): _names,
    ("Graph", "sym_int_values"): _names,
    ("Graph", "sym_bool_values"): _names,
    ("Graph", "sym_float_values"): _names,
    ("Graph", "custom_obj_values"): _nothing,
    ("ModuleCallSignature", "in_spec"): _structure,
    ("ModuleCallSignature", "out_spec"): safe_treespec,
    ("ModuleCallSignature", "forward_arg_names"): _names,
    ("ModuleCallEntry", "fqn"): _path,
    ("ExportedProgram", "verifiers"): _verifiers,
    ("ExportedProgram", "range_constraints"): _constraints,
    ("PayloadMeta", "path_name"): _payload,
    ("PayloadMeta", "use_pickle"): _no_pickle,
}
