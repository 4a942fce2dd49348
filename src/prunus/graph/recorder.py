"""Record the ATen program of one forward call, on fake tensors, with the module calls around it."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, Ref, TensorInfo, TensorMeta, refs_in
from prunus.graph.opening import opened

_SKIPPED = ("aten._assert", "aten.sym_", "prim.", "aten.is_", "aten.size", "aten.stride", "aten._has_", "profiler.")
_LIBRARY = (torch.__file__.rsplit("/", 1)[0] + "/", __file__.rsplit("/", 2)[0] + "/", "<")


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
        # torch.zeros, zeros_like and so on hand the caller another object than the op returned; the memory tells.
        self._made: dict[int, Ref] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
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
        """Enter one tensor of the example inputs; returns its node name."""
        return self._add(INPUT, {}, tensor, source="").name

    def record(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Append one executed op."""
        name = str(func)
        if name.startswith(_SKIPPED) or not _has_tensor(out):
            return
        bound = _bind(func, args, kwargs)
        node = self._add(name, {k: self._encode(v) for k, v in bound.items()}, out, source=_source_line())
        makes = "_like" in name or next(refs_in(node.args), None) is None
        if makes and isinstance(out, torch.Tensor) and _storage(out):
            self._made[_storage(out)] = Ref(node.name)
            self._shapes[node.name] = node.shape

    def ref(self, tensor: torch.Tensor) -> Ref:
        """Return the value a tensor object stands for; unknown objects become named tensors or constants."""
        known = self._ids.get(id(tensor))
        if known is not None:
            return known
        made = self._made.get(_storage(tensor))
        if made is not None and self._shapes[made.node] == tuple(tensor.shape):
            self._ids[id(tensor)] = made
            self._alive.append(tensor)
            return made
        name = self._owned.get(id(tensor))
        if name is None:
            key = _place(tensor)
            name = self._pointers.get(key) if key else None
        if name is None:
            name = f"_constant_{len(self.constants)}"
            value = getattr(tensor, "constant", None)
            if value is None:
                value = tensor
            if "FakeTensor" in type(value).__name__:
                raise UnknownValueError(f"a tensor of shape {tuple(tensor.shape)} made outside the recorded program")
            with _real():
                value = value.detach().clone()
            self.constants[name] = value
            self.tensors[name] = TensorInfo(name, "constant", tuple(value.shape), value.dtype, False)
        node = self._add(TENSOR, {}, tensor, tensor_name=name, source="")
        return Ref(node.name)

    def leaves(self, value: Any) -> tuple[tuple[Any, ...], Any]:
        """Flatten a pytree into leaves (tensors as refs) and its spec."""
        flat, spec = pytree.tree_flatten(value)
        return tuple(self.ref(x) if isinstance(x, torch.Tensor) else x for x in flat), spec

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> int:
        """Open a module call; returns its index, or -1 for modules outside the captured tree."""
        path = self._paths.get(id(module))
        if path is None:
            return -1
        index = len(self.calls)
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
        return node


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


def _storage(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return 0


def _has_tensor(out: Any) -> bool:
    if isinstance(out, torch.Tensor):
        return True
    return isinstance(out, (tuple, list)) and any(isinstance(o, torch.Tensor) for o in out)


@functools.cache
def schema_of(func: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Return (name, default, keyword-only) of every argument of an op."""
    return tuple(
        (a.name, a.default_value if a.has_default_value() else None, a.kwarg_only) for a in func._schema.arguments
    )


def _bind(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound = {}
    for i, (name, default, _) in enumerate(schema_of(func)):
        bound[name] = args[i] if i < len(args) else kwargs.get(name, default)
    return bound


def _source_line() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARY):
            return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def _stand_in(func: Any) -> Any:
    """Return what computes the result's shape: the op itself, except where torch's own shape function is too strict."""
    if func is torch.ops.aten._grouped_mm.default:
        return _grouped_mm
    return func


def _grouped_mm(mat_a: torch.Tensor, mat_b: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Accept any float type on fake tensors (torch's shape function takes bfloat16 alone)."""
    if "FakeTensor" not in type(mat_a).__name__ or (mat_a.dim(), mat_b.dim()) != (2, 3):
        result: torch.Tensor = torch.ops.aten._grouped_mm.default(mat_a, mat_b, *args, **kwargs)
        return result
    return mat_a.new_empty(mat_a.shape[0], mat_b.shape[-1])


def _mode_class() -> type:
    from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class _Mode(ProxyTorchDispatchMode):  # type: ignore[no-untyped-call]
        """Sees every op before autograd decomposes it (the pre-dispatch key admits only this mode's family)."""

        def __init__(self, recorder: Recorder) -> None:
            TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)  # type: ignore[no-untyped-call]
            self.recorder = recorder

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            for value in pytree.tree_leaves((args, kwargs)):
                if isinstance(value, torch.Tensor):
                    self.recorder.ref(value)
            out = _stand_in(func)(*args, **kwargs)
            self.recorder.record(func, args, kwargs, out)
            return out

        def __enter__(self) -> Any:
            return TorchDispatchMode.__enter__(self)  # type: ignore[no-untyped-call]

        def __exit__(self, *error: Any) -> None:
            TorchDispatchMode.__exit__(self, *error)  # type: ignore[no-untyped-call]

    return _Mode


@contextlib.contextmanager
def _module_calls(recorder: Recorder) -> Iterator[None]:
    original = nn.Module.__call__

    @functools.wraps(original)
    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        index = recorder.enter(module, args, kwargs)
        out = original(module, *args, **kwargs)
        recorder.leave(index, out)
        return out

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging a traceback for every shape error: a failed fake run is one of several attempts."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def record(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, fake: bool) -> Graph:
    """Run ``model`` once and return its program.

    With ``fake`` the run allocates no activations and computes nothing; data-dependent control flow needs a real run.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses.fake_tensor import FakeTensorMode

    recorder = Recorder(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if fake:
            stack.enter_context(_quiet())
            mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, (args, dict(kwargs)))
        flat, in_spec = pytree.tree_flatten((args, dict(kwargs)))
        inputs = tuple(recorder.add_input(x) for x in flat if isinstance(x, torch.Tensor))
        stack.enter_context(_module_calls(recorder))
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(_mode_class()(recorder))
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
    )
