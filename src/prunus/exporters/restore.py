"""Read a checkpoint into a fresh instance of the user's class, or as a program of its own; nothing is traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError, DataError, ModelError, PlanError, PrunusError, UsageError
from prunus.exporters.fit import check_count, check_fit, empty_slots, is_below
from prunus.exporters.header import CONSTANTS, GRAPH, HEADER, LONGEST_TEXT, WEIGHTS, Header, read_header
from prunus.exporters.own_folder import fresh_from, load_pretrained
from prunus.exporters.pack import read_tensors
from prunus.exporters.surgery_json import Rewriting, constant_attribute, decode_surgery
from prunus.foundation.strict_json import decode_record, parse_json, read_text
from prunus.foundation.user_code import one_line
from prunus.graph.capture import unwrap
from prunus.graph.recorder import named_tensors
from prunus.plans import UNPRICED, Plan
from prunus.surgery.bridging import bridged
from prunus.surgery.copy_module import deep_copy
from prunus.surgery.keeping.mending import mend_
from prunus.surgery.keeping.shipped_modules import ship_
from prunus.surgery.record import Shipped
from prunus.surgery.rewriting.edited_program import Program
from prunus.surgery.rewriting.splice import rebind_

Tensors = dict[str, torch.Tensor]


def load(folder: Path | str, model: nn.Module | None = None) -> nn.Module:
    """Return the cut model that `save` wrote; needs no example inputs.

    Args:
        folder: the checkpoint.
        model: a fresh instance of the user's class with the original shapes and any values (the meta device will do);
            it is left untouched. Its mode and device are kept. Not needed where the checkpoint is a whole program,
            which then comes in eval mode on the CPU.

    Raises:
        UsageError: no checkpoint, a damaged or foreign file, or ``model`` is needed, absent, and no class that
            transformers ships.
        PlanError: ``model`` is not what was cut; the first tensor that differs is named.

    Example:
        ``small = prunus.load("small", MyNet())``
    """
    if model is None and not (Path(folder) / HEADER).is_file():
        found = load_pretrained(Path(folder))
        if found is not None:
            return found
    header = read_header(folder)
    if header.mode != "graph" and model is None:
        model = fresh_from(Path(folder))
    if header.mode != "graph" and model is None:
        raise UsageError(
            f"The checkpoint {folder} keeps the class {header.model}; give load a fresh instance of it: "
            f"load({str(folder)!r}, {header.model.rpartition('.')[2]}(...))."
        )
    fresh = None if model is None else unwrap(model)
    plan = Plan.load(folder)
    if fresh is not None and plan.bridges:
        check_count(header, fresh, plan)
        fresh, plan = bridged(fresh, plan.bridges), replace(plan, before=UNPRICED)
    stored = read_tensors(Path(folder) / WEIGHTS)
    stored |= read_tensors(Path(folder) / CONSTANTS) if CONSTANTS in header.files else {}
    try:
        if header.mode == "graph":
            return _program(header, Path(folder), stored, fresh)
        assert fresh is not None
        return _instance(header, Path(folder), stored, fresh, plan)
    except PrunusError as error:
        if isinstance(error, CaptureError):
            raise ModelError(f"The checkpoint {folder} does not fit itself: {error}") from error
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, SyntaxError, TypeError, ValueError) as error:
        raise ModelError(
            f"The checkpoint {folder} is damaged: {type(error).__name__} {one_line(error, 200)}."
        ) from error


def _rewriting(folder: Path, constants: Mapping[str, torch.Tensor]) -> Rewriting:
    path = folder / GRAPH
    try:
        data = parse_json(read_text(path, LONGEST_TEXT), str(path))
    except (OSError, DataError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    names = data["graph"]["constants"]
    # A constant that no new forward reads has no stored value.
    return decode_surgery(data, {n: constants.get(n, torch.empty(0)) for n in names}, str(path))


def _program(header: Header, folder: Path, stored: Tensors, fresh: nn.Module | None) -> nn.Module:
    named = stored | {alias: stored[name] for alias, name in header.aliases.items()}
    found = _rewriting(folder, {})
    graph = found.splice.graph
    values = {
        n: named[constant_attribute(n) if i.kind == "constant" else n]
        for n, i in graph.tensors.items()
        if i.kind != "constant" or n in graph.constants
    }
    for name, value in values.items():
        if tuple(value.shape) != graph.tensors[name].shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the program {graph.tensors[name].shape}")
    program = Program(graph, values, {n: n not in header.frozen for n in values}, found.growth)
    return program.train(fresh is not None and fresh.training)


def _instance(header: Header, folder: Path, stored: Tensors, fresh: nn.Module, plan: Plan) -> nn.Module:
    check_fit(header, stored, fresh, plan)
    small = _copy_around(header, stored, fresh)
    modules = dict(small.named_modules(remove_duplicate=False))
    for path in header.removed:
        _found(modules, path)
        if path in header.shipped:  # another module takes its place in the same order
            continue
        parent, _, leaf = path.rpartition(".")
        del modules[parent]._modules[leaf]
    for name in empty_slots(fresh):
        if name in stored and not is_below(name, header.removed):
            path, _, leaf = name.rpartition(".")
            modules[path]._buffers[leaf] = stored[name].to(_device(fresh))
    for path, values in header.attributes.items():
        for attribute, value in values.items():
            _set_size_(_found(modules, path), attribute, value)
    _mend_(header, small)
    if header.spliced:
        device = _device(fresh)
        constants = {n: stored[at].to(device) for n, at in header.constants.items()}
        found = _rewriting(folder, constants)
        _check_names(found, modules, set(named_tensors(fresh)))
        _splice_(modules, found, constants, set(header.spliced))
    return small


def _mend_(header: Header, small: nn.Module) -> None:
    """Set the numbers that the cut mended, and put the modules of `prunus.nn` into their places.

    Raises:
        PlanError: a fresh model that holds other numbers than the one that was cut.
    """
    try:
        mend_(small, header.mended)
        ship_(small, {path: decode_record(Shipped, record, path) for path, record in header.shipped.items()})
    except LookupError as error:
        raise PlanError(
            f"The checkpoint of {header.model} does not fit this {type(small).__name__}: {error}. "
            "Give an instance of the class, with the settings, that was pruned."
        ) from error


def _copy_around(header: Header, stored: Tensors, fresh: nn.Module) -> nn.Module:
    """Deep-copy the fresh model while its tensors become the stored ones; references inside modules follow."""
    frozen = set(header.frozen)
    made: Tensors = {}
    memo: dict[int, Any] = {}
    origin: dict[int, str] = {}
    for name, tensor in named_tensors(fresh).items():
        if is_below(name, header.removed):
            continue
        at = header.aliases.get(name, name)
        if origin.setdefault(id(tensor), at) != at:
            raise PlanError(
                f"{name!r} and {origin[id(tensor)]!r} are one tensor in this {type(fresh).__name__}, but two in the "
                "checkpoint; give an instance with the ties of the model that was pruned."
            )
        if at not in made:
            device = tensor.device if tensor.device.type != "meta" else _device(fresh)
            value = stored[at].to(device)
            made[at] = nn.Parameter(value, at not in frozen) if isinstance(tensor, nn.Parameter) else value
        memo[id(tensor)] = made[at]
    return deep_copy(fresh, memo)


def _device(model: nn.Module) -> torch.device:
    devices = (t.device for t in named_tensors(model).values() if t.device.type != "meta")
    return next(devices, torch.device("cpu"))


def _set_size_(module: nn.Module, attribute: str, value: Any) -> None:
    """Set a remembered size; only whole numbers that are there already, and tuples of them, are ever set.

    The padding of an embedding may become None: that token is gone.
    """
    if isinstance(module, nn.Embedding) and attribute == "padding_idx" and value is None:
        module.padding_idx = None
        return
    stored = tuple(value) if isinstance(value, list) else value
    old = getattr(module, attribute)
    numbers = stored if isinstance(stored, tuple) else (stored,)
    if type(old) is not type(stored) or not all(type(n) is int for n in numbers):
        raise ValueError(f"the attribute {attribute!r} is {old!r} and cannot become {value!r}")
    setattr(module, attribute, stored)


def _check_names(found: Rewriting, modules: Mapping[str, nn.Module], tensors: set[str]) -> None:
    """Names of modules and tensors become source text: insist that each is one of the model's own."""
    for call in found.splice.graph.calls:
        _found(modules, call.path)
    unknown = [n for n in found.splice.graph.tensors if n not in tensors and n not in found.splice.graph.constants]
    if unknown:
        raise ValueError(f"the graph reads {unknown[0]!r}, which the model does not have")


def _splice_(
    modules: Mapping[str, nn.Module], found: Rewriting, constants: Mapping[str, torch.Tensor], spliced: set[str]
) -> None:
    written = set()
    for path, emission, source in found.forwards():
        rebind_(_found(modules, path), source, emission, found.splice.graph, constants)
        written.add(path)
    if written != spliced:
        raise ValueError(f"the graph rewrites {sorted(written)}, checkpoint.json names {sorted(spliced)}")


def _found(modules: Mapping[str, nn.Module], path: str) -> nn.Module:
    if path not in modules:
        raise PlanError(f"The checkpoint changes the module {path!r}, which this {type(modules['']).__name__} lacks.")
    return modules[path]
