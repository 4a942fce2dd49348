"""Labels of a drawing: shapes in which every axis has its colour, in Graphviz's HTML-like language."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from html import escape

from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, Node, Ref, refs_in
from prunus.graph.layout import Expr, Prod, Sum, atoms_of
from prunus.graph.rules.context import base_name

_MOST_ATOMS, _MOST_RESULTS, _MOST_NAMED, _NAMED_A_ROW = 6, 3, 32, 4
# The hue turns by the golden ratio, so that no two axes near each other look alike.
_TURN = 0.61803398875
_MIXED, _GREY, _WHITE = "#dddddd", "#f2f2f2", "white"


class Labels:
    """Writes the labels of one network, with one colour for each removable axis."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling, self._graph = coupling, coupling.graph
        self._colours = {axis.atom: _colour(i) for i, axis in enumerate(coupling.axes.values())}

    def of_op(self, node: Node, name: str) -> str:
        """Show an op: its name, the shapes of its results and of the parameters that it reads."""
        rows = [("", Ref(node.name, i)) for i, meta in enumerate(node.outputs[:_MOST_RESULTS]) if meta is not None]
        if node.op == INPUT:
            return self._table("<B>input</B>", rows, _GREY)
        for ref in refs_in(node.args):
            tensor = self._graph.node(ref.node).tensor
            if tensor and self._graph.tensors[tensor].kind == "parameter":
                rows.append((tensor.rpartition(".")[2], ref))
        return self._table(f"<B>{escape(base_name(node.op))}</B> {escape(name)}".rstrip(), rows, _WHITE)

    def of_call(self, call: int, name: str) -> str:
        """Show a whole module call: its name, its class, the shapes of its results."""
        leaves = [leaf for leaf in self._graph.calls[call].out_leaves if isinstance(leaf, Ref)]
        rows = [("", leaf) for leaf in leaves[:_MOST_RESULTS]]
        return self._table(self.title(call, name), rows, _GREY)

    def of_output(self) -> str:
        """Show that a value leaves the network."""
        return self._table("<B>output</B>", [], _GREY)

    def title(self, call: int, name: str) -> str:
        """Return the name and the class of a called module."""
        kind = self._graph.modules.get(self._graph.calls[call].path, "").rpartition(".")[2]
        return f"<B>{escape(name)}</B> {escape(kind)}"

    def legend(self) -> str:
        """Return a table of the axes in their colours, in the order of the network."""
        axes = list(self._coupling.axes.values())
        if not axes:
            return "no axis can be cut"
        cells = [_cell(f"{escape(a.id)} {a.size}", self._colours[a.atom]) for a in axes[:_MOST_NAMED]]
        if len(axes) > _MOST_NAMED:
            cells.append(_cell(f"and {len(axes) - _MOST_NAMED} more axes"))
        rows = ["".join(cells[i : i + _NAMED_A_ROW]) for i in range(0, len(cells), _NAMED_A_ROW)]
        body = "".join(f"<TR>{row}</TR>" for row in rows)
        return f'<TABLE BORDER="0" CELLSPACING="2">{body}</TABLE>'

    def _table(self, title: str, rows: Sequence[tuple[str, Ref]], fill: str) -> str:
        shapes = "".join(
            '<TR><TD><TABLE BORDER="0" CELLSPACING="0" CELLPADDING="1"><TR>'
            f"{_cell(escape(name) + ' ') if name else ''}{self._shape(ref)}</TR></TABLE></TD></TR>"
            for name, ref in rows
        )
        return (
            f'<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2" STYLE="rounded" BGCOLOR="{fill}">'
            f"<TR><TD>{title}</TD></TR>{shapes}</TABLE>"
        )

    def _shape(self, ref: Ref) -> str:
        dims = self._coupling.values.get(ref, ())
        return _cell("×").join(self._dim(e) for e in dims) or _cell("scalar")

    def _dim(self, expr: Expr) -> str:
        atoms = list(atoms_of(expr))
        coloured = any(a in self._colours for a in atoms)
        if not coloured or len(atoms) > _MOST_ATOMS:
            return _cell(str(self._coupling.size(expr)), _MIXED if coloured else "")
        tokens = [("(", ""), *self._tokens(expr), (")", "")] if isinstance(expr, Sum) else self._tokens(expr)
        return "".join(_cell(text, colour) for text, colour in tokens)

    def _tokens(self, expr: Expr) -> Iterator[tuple[str, str]]:
        if isinstance(expr, int):
            yield str(self._coupling.sizes[expr]), self._colours.get(expr, "")
            return
        if isinstance(expr, Prod) and not expr.factors:
            yield "1", ""
            return
        parts, sign = (expr.factors, "·") if isinstance(expr, Prod) else (expr.terms, "+")
        for i, part in enumerate(parts):
            if i:
                yield sign, ""
            if sign == "·" and isinstance(part, Sum):
                yield "(", ""
                yield from self._tokens(part)
                yield ")", ""
            else:
                yield from self._tokens(part)


def _colour(index: int) -> str:
    red, green, blue = colorsys.hsv_to_rgb((index * _TURN) % 1, 0.3 + 0.2 * (index % 2), 0.97)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _cell(text: str, colour: str = "") -> str:
    fill = f' BGCOLOR="{colour}"' if colour else ""
    return f'<TD BORDER="0"{fill}>{text}</TD>'
