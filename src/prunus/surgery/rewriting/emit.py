"""Write the Python source of a forward from a graph: whole programs, or one module call with its children kept."""

from __future__ import annotations

import dataclasses
import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree

from prunus.errors import CaptureError
from prunus.graph.interpreter import LENIENT, call_arguments
from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, Ref
from prunus.graph.open_outputs import opened_leaves
from prunus.surgery.rewriting.module_calls import CallIndex, module_below, tensor_below
from prunus.surgery.rewriting.symbolic_sizes import Growth
from prunus.surgery.rewriting.training_program import InTraining

_SWITCHED = ("training", "train")


@dataclass(slots=True)
class Emission:
    """The source text of one forward, and the objects that it names."""

    lines: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)


class Emitter:
    """A writer that turns one module call of a graph into the text of ``forward(self, *args, **kwargs)``.

    Args:
        graph: the edited program.
        root: index of the call whose forward is written.
        natives: calls that stay calls of their module; every other call below ``root`` is written out.
        growth: the program at several input sizes; integers that grow become expressions over input shapes.
        index: the call index of the graph, if it was made already.
    """

    def __init__(
        self,
        graph: Graph,
        root: int,
        natives: frozenset[int] = frozenset(),
        growth: Growth | None = None,
        index: CallIndex | None = None,
    ) -> None:
        self.graph = graph
        self._index = index or CallIndex.of(graph)
        self._leaves = graph.calls[root].in_leaves
        existing = (x if not isinstance(x, Ref) or x.node in self._index.names else None for x in self._leaves)
        self.root = dataclasses.replace(graph.calls[root], in_leaves=tuple(existing))
        self.natives = natives
        self.growth = growth
        self.out = Emission()
        self._text: dict[Ref, str] = {}
        self._variables: dict[str, str] = {}
        self._device = ""
        self._read: set[Ref] = set()

    def emit(self) -> Emission:
        """Write the forward."""
        self._open()
        self._body(self.root)
        self.out.lines.append(f"    return {self._structure(self.root.out_leaves, self.root.out_spec)}")
        self.out.lines[:] = _released(self.out.lines)
        self.out.names["_in_literals"] = tuple(self._expected(leaf) for leaf in self._leaves)
        return self.out

    def source(self) -> str:
        """Return the emitted lines as one text."""
        return "\n".join(self.out.lines) + "\n"

    def _open(self) -> None:
        self.out.lines.append("def forward(self, *args, **kwargs):")
        leaves = self.root.in_leaves
        self.out.names["_in_spec"] = self.root.in_spec
        self.out.lines.append("    leaves = _arguments(self, args, kwargs, _in_spec, _in_literals)")
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Ref) and leaf not in self._text:
                self._text[leaf] = f"x{i}"
                self.out.lines.append(f"    x{i} = leaves[{i}]")
                self._device = self._device or f"x{i}.device"

    def _expected(self, leaf: Any) -> tuple[Any, ...] | None:
        """Return the value that `arguments` compares a leaf with: None for a tensor, () if nothing reads the leaf."""
        if isinstance(leaf, Ref):
            return None if leaf in self._read else ()
        return (leaf,)

    def _body(self, call: ModuleCall) -> None:
        events: list[tuple[int, Node | ModuleCall]] = [(n.order, n) for n in self._index.nodes.get(call.index, ())]
        events += [(c.start, c) for c in self._index.children.get(call.index, ())]
        for _, event in sorted(events, key=lambda e: e[0]):
            if isinstance(event, Node):
                self._node(event)
            elif event.index in self.natives:
                if event.index in self._index.live:
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
        self._count_batches(node)
        name = self._variable(node.name)
        namespace, packet, overload = LENIENT.get(node.op, node.op).split(".")
        self.out.lines.append(f"    {name} = ops.{namespace}.{packet}.{overload}({', '.join(texts)})")
        for i in range(len(node.outputs)):
            self._text[Ref(node.name, i)] = f"{name}[{i}]" if node.multi else name

    def _count_batches(self, node: Node) -> None:
        """Make a batch norm that is written out count its training batches, as the module did."""
        mean = node.get("running_mean")
        if node.op != "aten.batch_norm.default" or node.get("training") is not False or not isinstance(mean, Ref):
            return
        source = self.graph.node(mean.node)
        counter = f"{source.tensor.rpartition('.')[0]}.num_batches_tracked".removeprefix(".")
        if source.op == TENSOR and (counter in self.graph.tensors or counter in self.graph.aliases):
            module = self._module(self.graph.calls[node.call].path)
            self.out.lines.append(f"    if {module}.training: {self._tensor(counter)}.add_(1)")

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
            self._read.add(ref)
            return text
        if ref.node not in self._index.names:
            return "None"  # nothing reads this argument any more
        node = self.graph.node(ref.node)
        if node.op == TENSOR:
            return self._tensor(node.tensor)
        raise CaptureError(
            f"{self.root.path or 'The model'} needs the value {ref.node!r}, which is not one of its arguments "
            f"({self.graph.where(node)})."
        )

    def _tensor(self, name: str) -> str:
        if name in self.graph.constants:
            return f"self.{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        path, _, leaf = (tensor_below(self.graph, name, self.root.path) or name).rpartition(".")
        return f"{self._module(path)}.{leaf}" if leaf.isidentifier() else f"getattr({self._module(path)}, {leaf!r})"

    def _module(self, path: str) -> str:
        return module_text(self.root.path, module_below(self.graph, path, self.root.path) or path)

    def _value(self, node: Node, key: str, value: Any, position: int | None = None) -> str:
        if isinstance(value, Ref):
            return self._ref(value)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self._value(node, key, v, i) for i, v in enumerate(value))}]"
        if key in _SWITCHED and value is False:
            return f"{self._module(self.graph.calls[node.call].path)}.training"
        if isinstance(value, InTraining):
            module = self._module(self.graph.calls[node.call].path)
            return f"({value.training!r} if {module}.training else {self._literal(float(value))})"
        if isinstance(value, torch.device):
            return self._device or self._literal(value)
        if self.growth is not None and type(value) is int:
            literal = (node.name, key, position)
            return self.growth.text(self.graph, self.root, self.natives, literal, value) or self._literal(value)
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


def module_text(root: str, path: str) -> str:
    """Return a Python expression that reaches a module path from the module at ``root``.

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


_NAME = re.compile(r"[A-Za-z_]\w*")
_ASSIGNED = re.compile(r"    ([A-Za-z_]\w*) = ")


def _released(lines: Sequence[str]) -> list[str]:
    """Delete every local after its last reader; otherwise its memory stays allocated until the return."""
    assigned = {match[1] for line in lines if (match := _ASSIGNED.match(line))}
    last: dict[str, int] = {}
    for i, line in enumerate(lines):
        last.update((name, i) for name in _NAME.findall(line) if name in assigned)
    deleted: dict[int, list[str]] = {}
    for name, i in last.items():
        deleted.setdefault(i, []).append(name)
    out: list[str] = []
    for i, line in enumerate(lines):
        out.append(line)
        if i in deleted and i < len(lines) - 1:
            out.append(f"    del {', '.join(deleted[i])}")
    return out


def _children_of(spec: Any) -> list[Any]:
    children = spec.children
    return list(children() if callable(children) else children)


def arguments(module: Any, args: Any, kwargs: Any, spec: Any, literals: Sequence[Any]) -> list[Any]:
    """Flatten call arguments, and require the structure and literals that the forward was captured with.

    Raises:
        ArgumentsError: the structure, a number or a text differs, or None stands for a tensor or a tensor for None.
    """
    leaves, got = pytree.tree_flatten((args, kwargs))
    opening = f"{type(module).__name__} was captured with"
    if got != spec:
        raise ArgumentsError(
            f"{opening} arguments {spec}; got {got}. "
            "Call it as it was called when it was captured, or capture it again with these arguments.",
            module,
        )
    for i, (leaf, literal) in enumerate(zip(leaves, literals, strict=True)):
        if literal == ():
            continue
        if literal is not None and isinstance(leaf, (int, float, str)) and leaf != literal[0]:
            raise ArgumentsError(f"{opening} argument {literal[0]!r}; got {leaf!r}. Capture it again.", module, i)
        if (leaf is None) != (literal is not None and literal[0] is None):
            before, now = ("a tensor", "None") if leaf is None else ("None", f"a {type(leaf).__name__}")
            raise ArgumentsError(f"{opening} {before} as argument {i}; got {now}. Capture it again.", module, i)
    return leaves


class ArgumentsError(TypeError):
    """A rewritten forward was called with other arguments than it was captured with.

    Attributes:
        module: the module that has the forward.
        leaf: number of the argument, in order; None if the structure differs.
    """

    def __init__(self, message: str, module: Any, leaf: int | None = None) -> None:
        super().__init__(message)
        self.module = module
        self.leaf = leaf


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
