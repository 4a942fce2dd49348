"""Draw the figures of docs/founding.md into this folder: ``python docs/images/founding/draw.py``.

The networks and numbers are those of the page's own examples. The figures hold numbers and formulas only, so both
languages share them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import prunus
from prunus.methods.join_importance import Gates
from prunus.methods.reduction import whole
from prunus.report.plots.canvas import COLOURS, GRID, INK

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "founding.md"
WEIGHT, UNIT, PART = COLOURS["weight"], COLOURS["neuron"], COLOURS["structure"]
WIDE, HIGH, LEFT, TOP, FLOOR = 360, 150, 12, 26, 124
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def examples(*anchors: str) -> dict[str, Any]:
    """Run the first example of the page and those of the named entries, and return their names."""
    text = PAGE.read_text(encoding="utf-8")
    entries = re.split(r'^<a id="([\w.-]+)"></a>$', text, flags=re.MULTILINE)
    code = {None: entries[0], **dict(zip(entries[1::2], entries[2::2], strict=True))}
    names: dict[str, Any] = {}
    for anchor in (None, *anchors):
        for block in re.findall(r"^```python\n(.*?)^```", code[anchor], flags=re.MULTILINE | re.DOTALL):
            exec(block, names)
    return names


def svg(parts: Iterable[str], wide: int = WIDE, high: int = HIGH) -> str:
    """Return an SVG document on white, which stays readable on a dark page."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
    paper = f'<rect width="{wide}" height="{high}" fill="#ffffff"/>'
    return "\n".join([head + 'font-family="sans-serif" font-size="9.5">', paper, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = INK) -> str:
    """Return one line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0, dashed: bool = False) -> str:
    """Return a straight line."""
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{dash}/>'


def shape(kind: str, place: str, colour: str, kept: bool) -> str:
    """Return a filled shape for a part that stays, a dashed outline for one that goes."""
    paint = (
        f'fill="{colour}"' if kept else f'fill="none" stroke="{colour}" stroke-opacity="0.55" stroke-dasharray="3 2"'
    )
    return f"<{kind} {place} {paint}/>"


def bars(
    values: Sequence[float],
    kept: Sequence[int],
    letter: str,
    title: str,
    colour: str,
    threshold: tuple[str, float] | None = None,
) -> str:
    """Draw one bar a part, filled if the part stays, with an optional threshold across them."""
    step = (WIDE - 2 * LEFT) / len(values)
    scale = (FLOOR - TOP - 14) / max(values)
    drawn = [text(LEFT, 14, title, "start"), line(LEFT, FLOOR, WIDE - LEFT, FLOOR, INK)]
    for i, value in enumerate(values):
        x, high = LEFT + i * step, max(0.0, value * scale)
        place = f'x="{x + 5:.1f}" y="{FLOOR - high:.1f}" width="{step - 10:.1f}" height="{high:.1f}"'
        drawn.append(shape("rect", place, colour, i + 1 in kept))
        # A number that the threshold would strike through stands above it.
        struck = threshold is not None and high - 1 < threshold[1] * scale < high + 14
        drawn.append(text(x + step / 2, FLOOR - (threshold[1] * scale if struck else high) - 4, f"{value:.3g}"))
        drawn.append(text(x + step / 2, FLOOR + 14, letter + str(i + 1).translate(SUBSCRIPTS)))
    if threshold is not None:
        y = FLOOR - threshold[1] * scale
        drawn += [line(LEFT, y, WIDE - LEFT, y, INK, 1, dashed=True), text(WIDE - LEFT, 14, threshold[0], "end")]
    return svg(drawn)


def nodes(kept: Sequence[str], only: bool) -> str:
    """Draw the ten nodes with the key path; with ``only``, the nodes beside it and their edges are faint."""
    columns = [["first"], *[[f"upper.{i}", f"lower.{i}"] for i in range(4)], ["last"]]
    at: dict[str, tuple[float, float]] = {}
    for i, column in enumerate(columns):
        for j, name in enumerate(column):
            at[name] = (32 + i * 59, 75.0 if len(column) == 1 else (40.0, 110.0)[j])
    drawn: list[str] = []
    for left, right in pairwise(columns):
        for a in left:
            for b in right:
                on_path = a in kept and b in kept
                if on_path or not only:
                    drawn.append(line(*at[a], *at[b], PART if on_path else GRID, 3 if on_path else 1))
    for number, (name, (x, y)) in enumerate(at.items(), 1):
        stays = name in kept
        drawn.append(f'<circle cx="{x}" cy="{y}" r="12" fill="#ffffff"/>')
        drawn.append(shape("circle", f'cx="{x}" cy="{y}" r="11"', PART if stays else INK, stays))
        drawn.append(text(x, y + 3.5, str(number), colour="#ffffff" if stays else INK))
    return svg(drawn)


def structure(left: Sequence[int], wide: int = WIDE) -> str:
    """Draw the network of ten units before and after, side by side."""
    drawn = [line(wide / 2, 10, wide / 2, HIGH - 10, GRID)]
    for x, kept in ((0.0, range(1, 11)), (wide / 2, left)):
        ends = [(x + 25, 75.0), (x + wide / 2 - 25, 75.0)]
        for unit in range(1, 11):
            y = 7 + 13.5 * unit - 7
            place = f'cx="{x + wide / 4:.1f}" cy="{y:.1f}" r="5"'
            if unit in kept:
                drawn += [line(*end, x + wide / 4, y, GRID) for end in ends]
            drawn.append(shape("circle", place, UNIT, unit in kept))
        drawn += [f'<circle cx="{end[0]:.1f}" cy="{end[1]}" r="6" fill="{INK}"/>' for end in ends]
    return svg(drawn)


def courses(points: Sequence[tuple[str, Sequence[float], bool]], title: str) -> str:
    """Draw lines over the number of units that stay, 1 to 9, with filled or hollow marks."""
    most, step = max(max(values) for _, values, _ in points), (WIDE - 2 * LEFT) / 9
    drawn = [text(LEFT, 14, title, "start"), line(LEFT, FLOOR, WIDE - LEFT, FLOOR, INK)]
    drawn += [text(LEFT + (n - 0.5) * step, FLOOR + 14, str(n)) for n in range(1, 10)]
    for colour, values, filled in points:
        at = [(LEFT + (i + 0.5) * step, FLOOR - (FLOOR - TOP - 8) * value / most) for i, value in enumerate(values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        inside = colour if filled else "#ffffff"
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{inside}" stroke="{colour}"/>' for x, y in at]
        drawn += [text(at[i][0], at[i][1] - 7, f"{values[i]:.2g}") for i in (0, -1)]
    return svg(drawn)


def figures() -> dict[str, str]:
    """Return file name → SVG of every figure."""
    names = examples("first-4.2.1")
    weights, units, modules = names["ten_weights"](), names["ten_units"](), names["TenModules"]()
    left, stay, parts = names["weights_left"], names["units_left"], names["modules_left"]
    all_ten = range(1, 11)

    threshold = prunus.plan(weights, names["x10"], budget={"threshold": 0.1}, levels=("weight",))
    important = prunus.plan(weights, names["x10"], budget={"top_n": 3}, method="importance", **names["gradients"])
    squares = [g * g for g in names["GRADIENTS"]]
    slopes, outputs = ([v * v for v in names[name]] for name in ("SLOPES", "OUTPUTS"))
    analysis = prunus.analyse(units, names["x1"], **names["ones"])
    top = {name: stay(analysis.plan({"top_n": 3}, method=name)) for name in ("sensitivity", "contribution")}
    dropped = {drop.label for drop in names["plan"].drops}
    pairs = (f"{side}.{i}" for i in range(4) for side in ("upper", "lower"))
    path = [name for name in ("first", *pairs, "last") if name not in dropped]
    of_modules = prunus.analyse(modules, names["x4"], **names["random"])
    gates = [value for (_, operand), value in Gates(of_modules).importance(whole(of_modules)).items() if operand == 1]
    best = parts(of_modules.plan({"top_n": 3}, method="modular"))
    found = {
        "01": bars([abs(w) for w in names["WEIGHTS"]], left(threshold), "w", "|w|", WEIGHT, ("τ = 0.1", 0.1)),
        "02": bars(squares, all_ten, "w", "E[g²]", WEIGHT),
        "03": bars(squares, left(important), "w", "E[g²], n = 3", WEIGHT),
        "04": bars(slopes, all_ten, "u", "E[(∂L/∂a)²]", UNIT),
        "05": bars(slopes, top["sensitivity"], "u", "E[(∂L/∂a)²], n = 3", UNIT),
        "06": bars(outputs, all_ten, "u", "E[a²]", UNIT),
        "07": bars(outputs, top["contribution"], "u", "E[a²], n = 3", UNIT),
        "08": nodes(path, only=False),
        "09": nodes(path, only=True),
        "10": bars(gates, all_ten, "m", "E[(∂ℓ/∂γ)²]", PART),
        "11": bars(gates, best, "m", "E[(∂ℓ/∂γ)²], n = 3", PART),
        **effects(analysis, stay),
    }
    return {f"figure-{number}.svg": drawing for number, drawing in found.items()}


def effects(analysis: Any, stay: Any) -> dict[str, str]:
    """Return the four pictures of the effect of pruning, on ten units of which 1 to 9 stay."""
    sweep = {
        method: [analysis.plan({"units": n}, method=method) for n in range(1, 10)]
        for method in ("contribution", "sensitivity")
    }
    plans, samples = sweep["contribution"], analysis.samples
    dense = analysis.user_model(torch.ones(1, 1)).item()
    errors = {
        method: [
            1 - prunus.realise(analysis, plan, repair=None).model(torch.ones(1, 1)).item() / dense for plan in each
        ]
        for method, each in sweep.items()
    }
    forward = [plan.after.macs_forward / samples for plan in plans]
    backward = [plan.after.macs_backward / samples for plan in plans]
    return {
        "7.4a": structure(stay(plans[4])),
        "7.4b": courses([(UNIT, [plan.after.params for plan in plans], True)], "#w"),
        "7.4c": courses([(UNIT, forward, True), (UNIT, backward, False)], "MACs: ● → ○ ←"),
        "7.4d": courses(
            [(UNIT, errors["contribution"], True), (UNIT, errors["sensitivity"], False)],
            "1 − y/y₀: ● E[a²] ○ E[(∂L/∂a)²]",
        ),
    }


if __name__ == "__main__":
    for name, drawing in figures().items():
        (HERE / name).write_text(drawing, encoding="utf-8")
