"""Write the Python source of a forward from a graph: whole programs, or one module call with its children kept."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree

from prunus.errors import CaptureError
from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, Ref
from prunus.graph.opening import opened_leaves
from prunus.graph.run import call_arguments

_SWITCHED = ("training", "train")

SizeText = Callable[[Node, str, int | None, int], "str | None"]


@dataclass(slots=True)
class Emission:
    """Source text of one forward, and the objects it names."""

    lines: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)


class Emitter:
    """Turns one module call of a graph into the text of ``forward(self, *args, **kwargs)``.

    Args:
        graph: the edited program.
        root: index of the call whose forward is written.
        natives: calls that stay calls of the module they were; every other call below ``root`` is written out.
        size_text: replaces an integer literal by an expression over input shapes (dynamic batch).
    """

    def __init__(
        self, graph: Graph, root: int, natives: frozenset[int] = frozenset(), size_text: SizeText | None = None
    ) -> None:
        self.graph = graph
        self.root = graph.calls[root]
        self.natives = natives
        self.size_text = size_text
        self.out = Emission()
        self._text: dict[Ref, str] = {}
        self._variables: dict[str, str] = {}
        self._device = ""
        self._live = live_calls(graph)
        self._names = {n.name for n in graph.nodes}
        self._children: dict[int, list[ModuleCall]] = {}
        for call in graph.calls:
            self._children.setdefault(call.parent, []).append(call)
        self._nodes: dict[int, list[Node]] = {}
        for node in graph.nodes:
            self._nodes.setdefault(node.call, []).append(node)

    def emit(self) -> Emission:
        """Write the forward."""
        self._open()
        self._body(self.root)
        self.out.lines.append(f"    return {self._structure(self.root.out_leaves, self.root.out_spec)}")
        return self.out

    def source(self) -> str:
        """Return the emitted lines as one text."""
        return "\n".join(self.out.lines) + "\n"

    def _open(self) -> None:
        self.out.lines.append("def forward(self, *args, **kwargs):")
        leaves = self.root.in_leaves
        self.out.names["_in_spec"] = self.root.in_spec
        self.out.names["_in_literals"] = tuple(None if isinstance(x, Ref) else (x,) for x in leaves)
        self.out.lines.append("    leaves = _arguments(self, args, kwargs, _in_spec, _in_literals)")
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Ref) and leaf not in self._text:
                self._text[leaf] = f"x{i}"
                self.out.lines.append(f"    x{i} = leaves[{i}]")
                self._device = self._device or f"x{i}.device"

    def _body(self, call: ModuleCall) -> None:
        events: list[tuple[int, Node | ModuleCall]] = [(n.order, n) for n in self._nodes.get(call.index, ())]
        events += [(c.start, c) for c in self._children.get(call.index, ())]
        for _, event in sorted(events, key=lambda e: e[0]):
            if isinstance(event, Node):
                self._node(event)
            elif event.index in self.natives:
                if event.index in self._live:
                    self._native(event)
            else:
                self._body(event)

    def _node(self, node: Node) -> None:
        if node.op in (INPUT, TENSOR):
            return
        args, kwargs = call_arguments(node, node.args)
        names = list(node.args)
        texts = [self._value(node, name, value) for name, value in zip(names[: len(args)], args, strict=True)]
        texts += [f"{k}={self._value(node, k, v)}" for k, v in kwargs.items() if v is not None]
        name = self._variable(node.name)
        namespace, packet, overload = node.op.split(".")
        self.out.lines.append(f"    {name} = ops.{namespace}.{packet}.{overload}({', '.join(texts)})")
        for i in range(len(node.outputs)):
            self._text[Ref(node.name, i)] = f"{name}[{i}]" if node.multi else name

    def _native(self, call: ModuleCall) -> None:
        arguments, keywords = self._call_text(call)
        target = self._module(call.path)
        outs = [leaf for leaf in call.out_leaves if isinstance(leaf, Ref)]
        name = self._variable(f"call_{call.index}")
        self.out.lines.append(f"    {name} = {target}({', '.join([*arguments, *keywords])})")
        if call.out_spec.is_leaf():
            for leaf in outs:
                self._text[leaf] = name
            return
        self.out.lines.append(f"    {name} = _leaves({name})")
        for i, leaf in enumerate(call.out_leaves):
            if isinstance(leaf, Ref):
                self._text[leaf] = f"{name}[{i}]"

    def _call_text(self, call: ModuleCall) -> tuple[list[str], list[str]]:
        texts = [self._leaf(leaf) for leaf in call.in_leaves]
        positional, named = _children_of(call.in_spec)
        used = 0
        arguments = []
        for spec in _children_of(positional):
            arguments.append(self._spec(spec, texts[used : used + spec.num_leaves]))
            used += spec.num_leaves
        keywords = []
        for key, spec in zip(named.context or (), _children_of(named), strict=True):
            keywords.append(f"{key}={self._spec(spec, texts[used : used + spec.num_leaves])}")
            used += spec.num_leaves
        return arguments, keywords

    def _structure(self, leaves: Sequence[Any], spec: Any) -> str:
        return self._spec(spec, [self._leaf(leaf) for leaf in leaves])

    def _leaf(self, leaf: Any) -> str:
        return self._ref(leaf) if isinstance(leaf, Ref) else self._literal(leaf)

    def _spec(self, spec: Any, texts: Sequence[str]) -> str:
        if spec.is_leaf():
            return texts[0]
        parts, used = [], 0
        for child in _children_of(spec):
            parts.append(self._spec(child, texts[used : used + child.num_leaves]))
            used += child.num_leaves
        if spec.type is tuple:
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if spec.type is list:
            return f"[{', '.join(parts)}]"
        if spec.type is dict and all(isinstance(k, str) for k in spec.context):
            return "{" + ", ".join(f"{k!r}: {p}" for k, p in zip(spec.context, parts, strict=True)) + "}"
        name = f"_spec_{len(self.out.names)}"
        self.out.names[name] = spec
        return f"_unflatten([{', '.join(texts)}], {name})"

    def _variable(self, name: str) -> str:
        text = self._variables.get(name)
        if text is None:
            text = re.sub(r"\W", "_", name)
            text = f"v_{text}" if keyword.iskeyword(text) or text[0].isdigit() or len(text) < 4 else text
            self._variables[name] = text
        return text

    def _ref(self, ref: Ref) -> str:
        text = self._text.get(ref)
        if text is not None:
            return text
        if ref.node not in self._names:
            return "None"  # an argument that nothing reads any more
        node = self.graph.node(ref.node)
        if node.op == TENSOR:
            return self._tensor(node.tensor)
        raise CaptureError(
            f"Value {ref.node!r} reaches {self.root.path or 'the model'} by a way that is not its arguments "
            f"({self.graph.where(node)})."
        )

    def _tensor(self, name: str) -> str:
        if name in self.graph.constants:
            return f"self.{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        path, _, leaf = name.rpartition(".")
        return f"{self._module(path)}.{leaf}" if leaf.isidentifier() else f"getattr({self._module(path)}, {leaf!r})"

    def _module(self, path: str) -> str:
        return module_text(self.root.path, path)

    def _value(self, node: Node, key: str, value: Any, position: int | None = None) -> str:
        if isinstance(value, Ref):
            return self._ref(value)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self._value(node, key, v, i) for i, v in enumerate(value))}]"
        if key in _SWITCHED and value is False:
            return f"{self._module(self.graph.calls[node.call].path)}.training"
        if isinstance(value, torch.device):
            return self._device or self._literal(value)
        if self.size_text is not None and type(value) is int:
            text = self.size_text(node, key, position, value)
            if text is not None:
                return text
        return self._literal(value)

    def _literal(self, value: Any) -> str:
        if value is None or isinstance(value, (bool, int, str, torch.dtype)):
            return repr(value)
        if isinstance(value, float):
            return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
        if isinstance(value, (torch.memory_format, torch.layout)):
            return repr(value)
        if isinstance(value, torch.device):
            return f"torch.device({str(value)!r})"
        for i, leaf in enumerate(self.root.in_leaves):
            if leaf is value:
                return f"leaves[{i}]"
        name = f"_literal_{len(self.out.names)}"
        self.out.names[name] = value
        return name


def live_calls(graph: Graph) -> set[int]:
    """Return the calls that compute something live, or that hand their input on (dropout and drop-path in eval)."""
    live = {node.call for node in graph.nodes if node.op not in (INPUT, TENSOR)}
    for call in reversed(graph.calls):
        if call.index in live and call.parent >= 0:
            live.add(call.parent)
    names = {node.name for node in graph.nodes}
    for call in graph.calls:
        ins = {x for x in call.in_leaves if isinstance(x, Ref)}
        passed = [x for x in call.out_leaves if isinstance(x, Ref) and x in ins and x.node in names]
        if passed and call.index not in live:
            live.add(call.index)
    return live


def module_text(root: str, path: str) -> str:
    """Return the expression for a module path as seen from the module at ``root``.

    Raises:
        CaptureError: ``path`` does not lie below ``root``.
    """
    if path == root:
        return "self"
    prefix = f"{root}." if root else ""
    if not path.startswith(prefix):
        raise CaptureError(f"{path!r} does not lie below {root!r}.")
    text = "self"
    for part in path[len(prefix) :].split("."):
        text += f".{part}" if part.isidentifier() and not keyword.iskeyword(part) else f"._modules[{part!r}]"
    return text


def _children_of(spec: Any) -> list[Any]:
    children = spec.children
    return list(children() if callable(children) else children)


def arguments(module: Any, args: Any, kwargs: Any, spec: Any, literals: Sequence[Any]) -> list[Any]:
    """Flatten call arguments and insist on the structure and literals the forward was captured with."""
    leaves, got = pytree.tree_flatten((args, kwargs))
    if got != spec:
        raise TypeError(
            f"{type(module).__name__} was captured with arguments {spec}; got {got}. "
            "Call it as it was called when it was captured, or capture it again with these arguments."
        )
    for leaf, literal in zip(leaves, literals, strict=True):
        if literal is not None and isinstance(leaf, (int, float, str)) and leaf != literal[0]:
            raise ValueError(
                f"{type(module).__name__} was captured with argument {literal[0]!r}; got {leaf!r}. Capture it again."
            )
    return leaves


def compile_forward(source: str, names: Mapping[str, Any], title: str) -> Callable[..., Any]:
    """Compile emitted source into a function."""
    namespace: dict[str, Any] = {
        "torch": torch,
        "ops": torch.ops,
        "_arguments": arguments,
        "_leaves": opened_leaves,
        "_unflatten": pytree.tree_unflatten,
        **names,
    }
    exec(compile(source, f"<prunus {title}>", "exec"), namespace)
    function: Callable[..., Any] = namespace["forward"]
    return function
