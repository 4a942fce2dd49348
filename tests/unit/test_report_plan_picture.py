"""Pictures of plans and sweeps: valid documents of their own, the same every time, with every layer in them."""

from __future__ import annotations

import builtins
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunus import analyse
from prunus.analysis import Analysis
from prunus.analysis.review import with_savings
from prunus.methods.scored_units import unit_scores
from prunus.plans import Drop, Plan
from prunus.report.pictures import standalone, write_picture
from prunus.report.plan_picture import plan_picture
from prunus.report.sweep_picture import Swept, best_losses, sweep_picture

NAMESPACE = "{http://www.w3.org/2000/svg}"
DENSE = Swept(1.0, 1000, 5000, 4000, 0.1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def parent() -> Analysis:
    torch.manual_seed(0)
    return analyse(Residual(), torch.randn(2, 1, 6, 6))


@pytest.fixture(scope="module")
def plan(parent: Analysis) -> Plan:
    return with_savings(parent.plan({"params": 0.5}), parent.coupling, unit_scores(parent, "magnitude"))


def texts(svg: str, tag: str = "text") -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{NAMESPACE}{tag}")]


def swept(*pairs: tuple[float, float]) -> list[Swept]:
    return [Swept(kept, int(1000 * kept), int(4500 * kept), int(4000 * kept), loss) for kept, loss in pairs]


def test_picture_names_every_layer_with_its_widths_and_prices(parent: Analysis, plan: Plan) -> None:
    svg = plan_picture(parent.coupling, plan, "plan for it")
    words, kept = texts(svg), int(plan.axes["a:out"].sum())
    assert {"plan for it", "stage1", "budget 0.5", "stays", "goes"} <= set(words)
    assert f"{kept} of 16" in words
    assert any(word.endswith("head") for word in words)
    assert "dropped whole" not in words
    tip = next(t for t in texts(svg, "title") if f"{kept} of 16 units stay" in t)
    assert "lowest magnitude of the axis" in tip
    assert "1,168 → " in tip


def test_dropped_branch_is_hatched_and_explained(parent: Analysis, plan: Plan) -> None:
    join = next(n.name for n in parent.coupling.graph.nodes if n.op.startswith("aten.add"))
    svg = plan_picture(parent.coupling, replace(plan, axes={}, drops=(Drop(join, 1, "b"),)), "dropped")
    assert texts(svg).count("dropped") == 3  # the title and both layers of the branch
    assert "dropped whole" in texts(svg)
    assert "<pattern" in svg


def test_bars_keep_the_exact_share(parent: Analysis, plan: Plan) -> None:
    svg = plan_picture(parent.coupling, plan, "shares")
    kept = int(plan.axes["a:out"].sum())
    widths = [
        max(xs) - min(xs)
        for path in re.findall(r'<path d="(M [^"]*?)"', svg)
        if (xs := [float(x) for x in re.findall(r"[ML] (-?[\d.]+) ", path)])
    ]
    longest = 190 - 1.5  # the widest layer fills the column
    assert any(math.isclose(w, longest, abs_tol=0.01) for w in widths)
    assert any(math.isclose(w, longest * kept / 16, abs_tol=0.01) for w in widths)


@pytest.mark.parametrize("title", ["plain", '<b>$a^2$ & "co"'])
def test_pictures_are_documents_of_their_own_and_the_same_every_time(parent: Analysis, plan: Plan, title: str) -> None:
    for make in (
        lambda: standalone(plan_picture(parent.coupling, plan, title)),
        lambda: standalone(sweep_picture(swept((0.5, 0.4), (0.2, 1.4)), DENSE, "params", title)),
    ):
        svg = make()
        root = ElementTree.fromstring(svg)
        assert svg == make()
        assert root[0].tag == f"{NAMESPACE}title"
        assert title in (root[0].text or "")
        assert title in texts(svg)
        for word in ("var(", "currentColor", "@font-face", "<image", "dc:date"):
            assert word not in svg


def test_front_of_a_sweep_is_what_no_smaller_plan_beats() -> None:
    points = swept((0.75, 0.2), (0.5, 0.3), (0.4, 0.6), (0.25, 0.5), (0.1, 2.0))
    assert [p.kept for p in best_losses(points)] == [0.1, 0.25, 0.5, 0.75]


def test_sweep_marks_every_plan_and_the_dense_network() -> None:
    svg = sweep_picture(swept((0.75, 0.2), (0.5, 0.3), (0.1, 20.0)), DENSE, "params", "sweep")
    words = texts(svg)
    assert {"750, 0.2", "500, 0.3", "100, 20", "dense", "params kept, %", "parameters and bytes (1.00k)"} <= set(words)
    assert [t for t in texts(svg, "title") if "loss 0.3000 before recovery" in t]
    assert {"10", "50", "75", "100"} <= set(words)


@pytest.mark.parametrize(
    "points",
    [swept((0.5, 0.1)), swept((0.5, 0.0), (0.2, 0.0)), swept((0.5, 0.2), (0.2, math.inf), (0.1, math.nan))],
    ids=["one", "equal", "not finite"],
)
def test_odd_sweeps_can_be_drawn(points: Sequence[Swept]) -> None:
    svg = sweep_picture(points, replace(DENSE, loss=0.0), "macs", "odd")
    ElementTree.fromstring(svg)
    marks = re.findall(r'id="sweep-point-\d+"', svg)
    assert len(marks) == sum(math.isfinite(p.loss) for p in points)
    assert not re.search(r'd="[^"]*(nan|inf)', svg)


def test_without_matplotlib_one_line_says_why_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    told = write_picture(tmp_path / "plan.svg", lambda: "<svg>")
    assert told == "no picture plan.svg: it needs matplotlib; pip install 'prunus[report]'"
    assert not list(tmp_path.iterdir())
