"""The recorder turns one forward call into its ATen program, with the module calls around the ops."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, Ref, TensorInfo, TensorMeta
from prunus.graph.observer import bind, module_calls, recording, schema_of, source_line
from prunus.graph.open_outputs import opened

_SKIPPED = ("aten._assert", "aten.sym_", "prim.", "aten.is_", "aten.size", "aten.stride", "aten._has_", "profiler.")


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer by every name it has, ties included."""
    named: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    return named


class Recorder:
    """Collects nodes and module calls while a model runs under its dispatch mode."""

    def __init__(self, model: nn.Module) -> None:
        self.nodes: list[Node] = []
        self.calls: list[dict[str, Any]] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self.aliases: dict[str, str] = {}
        self._ids: dict[int, Ref] = {}
        self._alive: list[Any] = []
        # torch.zeros, x.data and the like return an object that no recorded op made: its memory identifies it.
        self._places: dict[tuple[Any, ...] | None, Ref] = {}
        self._storages: set[Any] = set()
        self._owned: dict[int, str] = {}
        self._pointers: dict[tuple[Any, ...], str] = {}
        self._counts: dict[str, int] = {}
        self._stack: list[int] = []
        self._order = 0
        self._paths: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), path)
        self._index_tensors(model)

    def _index_tensors(self, model: nn.Module) -> None:
        for name, tensor in named_tensors(model).items():
            key = _place(tensor)
            first = self._owned.get(id(tensor)) or (self._pointers.get(key) if key else None)
            if first is not None:
                self.aliases[name] = first
                self._owned[id(tensor)] = first
                continue
            self._owned[id(tensor)] = name
            if key:
                self._pointers[key] = name
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            self.tensors[name] = TensorInfo(name, kind, tuple(tensor.shape), tensor.dtype, tensor.requires_grad)

    def add_input(self, tensor: torch.Tensor) -> str:
        """Add one tensor of the example inputs and return its node name."""
        return self._add(INPUT, {}, tensor, source="").name

    def record(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Append one executed op."""
        name = str(func)
        if name.startswith(_SKIPPED) or not _has_tensor(out):
            return
        bound = bind(func, args, kwargs)
        self._add(name, {k: self._encode(v) for k, v in bound.items()}, out, source=source_line())

    def ref(self, tensor: torch.Tensor) -> Ref:
        """Return the value that a tensor object is; unknown objects become named tensors or constants."""
        known = self._ids.get(id(tensor))
        if known is not None:
            return known
        memory = _memory(tensor)
        if memory in self._places:
            self._ids[id(tensor)] = self._places[memory]
            self._alive.append(tensor)
            return self._places[memory]
        name = self._owned.get(id(tensor))
        if name is None:
            key = _place(tensor)
            name = self._pointers.get(key) if key else None
        if name is None:
            name = self._constant_name()
            value = getattr(tensor, "constant", None)
            if value is None:
                value = tensor
            if "FakeTensor" in type(value).__name__ or (memory and memory[0] in self._storages):
                raise UnknownValueError(f"a tensor of shape {tuple(tensor.shape)} made outside the recorded program")
            with _real():
                value = value.detach().clone()
            self.constants[name] = value
            self.tensors[name] = TensorInfo(name, "constant", tuple(value.shape), value.dtype, False)
        node = self._add(TENSOR, {}, tensor, tensor_name=name, source="")
        return Ref(node.name)

    def _constant_name(self) -> str:
        """Return a name that no module uses for a tensor: rewritten modules have constants of their own."""
        taken = {name.rpartition(".")[2] for name in (*self.tensors, *self.aliases)}
        number = len(self.constants)
        while f"_constant_{number}" in taken:
            number += 1
        return f"_constant_{number}"

    def known(self, tensor: torch.Tensor) -> Ref | str | None:
        """Return the value, or the name of the model's tensor, that a tensor object is; None for an unknown one."""
        return self._ids.get(id(tensor)) or self._owned.get(id(tensor))

    def leaves(self, value: Any) -> tuple[tuple[Any, ...], Any]:
        """Flatten a pytree into leaves (tensors as refs) and its spec."""
        flat, spec = pytree.tree_flatten(value)
        return tuple(self.ref(x) if isinstance(x, torch.Tensor) else x for x in flat), spec

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> int:
        """Open a module call and return its index, or -1 for modules outside the captured tree."""
        path = self._paths.get(id(module))
        if path is None:
            return -1
        index = len(self.calls)
        if not kwargs and type(args) is tuple and all(isinstance(x, torch.Tensor) for x in args):
            in_leaves, in_spec = tuple(self.ref(x) for x in args), _spec_of_tensors(len(args))
        else:
            in_leaves, in_spec = self.leaves((args, kwargs))
        parent = self._stack[-1] if self._stack else -1
        self.calls.append(
            {"index": index, "path": path, "kind": f"{type(module).__module__}.{type(module).__qualname__}"}
            | {"parent": parent, "start": self._tick(), "in_leaves": in_leaves, "in_spec": in_spec}
        )
        self._stack.append(index)
        return index

    def leave(self, index: int, out: Any) -> None:
        """Close a module call."""
        if index < 0:
            return
        if isinstance(out, torch.Tensor):
            out_leaves, out_spec = (self.ref(out),), _LEAF
        else:
            out_leaves, out_spec = self.leaves(opened(out))
        self.calls[index] |= {"stop": self._tick(), "out_leaves": out_leaves, "out_spec": out_spec}
        self._stack.pop()

    def current_path(self) -> str:
        """Return the path of the innermost open module call."""
        return str(self.calls[self._stack[-1]]["path"]) if self._stack else ""

    def _tick(self) -> int:
        self._order += 1
        return self._order

    def _encode(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.ref(value)
        if isinstance(value, (list, tuple)):
            return [self._encode(v) for v in value]
        return value

    def _add(self, op: str, args: dict[str, Any], out: Any, *, source: str, tensor_name: str = "") -> Node:
        multi = isinstance(out, (tuple, list))
        results = list(out) if multi else [out]
        stem = (tensor_name or op.split(".")[1 if op.count(".") else 0]).replace(".", "_")
        count = self._counts.get(stem, 0)
        self._counts[stem] = count + 1
        metas = tuple(
            TensorMeta(tuple(int(s) for s in r.shape), r.dtype) if isinstance(r, torch.Tensor) else None
            for r in results
        )
        node = Node(
            f"{stem}_{count}" if count or not tensor_name else stem,
            op,
            args,
            metas,
            multi,
            tensor_name,
            self._stack[-1] if self._stack else 0,
            self._tick(),
            source,
        )
        self.nodes.append(node)
        for i, r in enumerate(results):
            if isinstance(r, torch.Tensor):
                self._ids[id(r)] = Ref(node.name, i)
                self._alive.append(r)
                memory = _memory(r)
                if memory:
                    self._places[memory] = Ref(node.name, i)
                    self._storages.add(memory[0])
        return node


# Most modules take tensors and return one: their structure is cached, because flattening is slow.
_LEAF = pytree.tree_structure(0)


@functools.cache
def _spec_of_tensors(count: int) -> Any:
    return pytree.tree_structure(((0,) * count, {}))


class UnknownValueError(RuntimeError):
    """A fake tensor appeared that no recorded op made."""


def _real() -> Any:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    return unset_fake_temporarily()


def _place(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    if tensor.device.type == "meta" or "FakeTensor" in type(tensor).__name__ or tensor.layout != torch.strided:
        return None
    try:
        pointer = tensor.data_ptr()
    except RuntimeError:
        return None
    if pointer == 0 or tensor.numel() == 0:
        return None
    return (pointer, tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _memory(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """Return the memory of a tensor and its form; None for a tensor without memory. Recorded tensors are kept alive."""
    try:
        storage = tensor.untyped_storage()
        where = ("fake", storage._cdata) if "FakeTensor" in type(tensor).__name__ else storage.data_ptr()
        return (where, tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype) if where else None
    except (RuntimeError, NotImplementedError):
        return None


def _has_tensor(out: Any) -> bool:
    if isinstance(out, torch.Tensor):
        return True
    return isinstance(out, (tuple, list)) and any(isinstance(o, torch.Tensor) for o in out)


Watch = Callable[["Recorder"], contextlib.AbstractContextManager[Any]]


def record(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, fake: bool, watch: Watch | None = None
) -> Graph:
    """Run ``model`` once and return its program.

    With ``fake`` the run allocates no activations and computes nothing; data-dependent control flow needs a real run.
    ``watch`` turns the recorder into a context in which the model runs.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses.fake_tensor import FakeTensorMode

    recorder = Recorder(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if fake:
            mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, (args, dict(kwargs)))
        flat, in_spec = pytree.tree_flatten((args, dict(kwargs)))
        inputs = tuple(recorder.add_input(x) for x in flat if isinstance(x, torch.Tensor))
        stack.enter_context(module_calls(recorder, model))
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(recording(recorder))
        if watch is not None:
            stack.enter_context(watch(recorder))
        try:
            out = model(*args, **kwargs)
        except Exception as error:
            error.module_path = recorder.current_path()  # type: ignore[attr-defined]
            raise
        outputs, out_spec = recorder.leaves(opened(out))
    return Graph(
        nodes=tuple(recorder.nodes),
        inputs=inputs,
        in_spec=in_spec,
        outputs=outputs,
        out_spec=out_spec,
        tensors=recorder.tensors,
        aliases=recorder.aliases,
        constants=recorder.constants,
        calls=tuple(ModuleCall(**call) for call in recorder.calls),
        modules={path: type(m).__qualname__ for path, m in model.named_modules(remove_duplicate=False)},
        how="record on fake tensors" if fake else "record on real tensors",
        notes=() if fake else ("What Python read from tensors (item, numpy) is fixed to the example inputs.",),
    )


__all__ = ["Recorder", "UnknownValueError", "named_tensors", "record", "schema_of"]
