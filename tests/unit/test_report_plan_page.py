"""The page of a plan: everything inside it, every decision in its table, sortable, nothing asked of the network."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from prunus import analyse
from prunus.analysis import Analysis
from prunus.analysis.review import with_savings
from prunus.measurement.forecast import Forecast
from prunus.methods.scored_units import unit_scores
from prunus.plans import Plan
from prunus.report.plan_page import PlanAbout, render_plan_page


@pytest.fixture(scope="module")
def parent() -> Analysis:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    return analyse(net, torch.randn(4, 8))


@pytest.fixture(scope="module")
def plan(parent: Analysis) -> Plan:
    return with_savings(parent.plan({"params": 0.5}), parent.coupling, unit_scores(parent, "magnitude"))


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.keys: list[list[str]] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
            self.keys.append([])
        if tag in ("th", "td"):
            self.inside = tag
            self.rows[-1].append("")
            self.keys[-1].append(dict(attrs).get("data-value") or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data.strip()


def table(page: str) -> Cells:
    cells = Cells()
    cells.feed(page[page.index('<table id="runs">') : page.index("</table>")])
    return cells


def test_every_decision_has_a_row_with_numbers_to_sort_by(parent: Analysis, plan: Plan) -> None:
    found = table(render_plan_page(parent.coupling, plan, PlanAbout("a plan")))
    heads, *rows = found.rows
    assert heads[0] == "node"
    assert {row[0] for row in rows} == {d.node for d in plan.decisions}
    assert all(len(row) == len(heads) for row in rows)
    first = max(plan.decisions, key=lambda d: d.saves_params)
    assert rows[0][0] == first.node
    assert rows[0][heads.index("saves params")] == f"{first.saves_params:,}"
    assert found.keys[1][heads.index("saves MACs")] == str(first.saves_macs)
    assert rows[0][-1] == first.reason


def test_page_holds_everything_and_asks_for_nothing(parent: Analysis, plan: Plan) -> None:
    page = render_plan_page(parent.coupling, plan, PlanAbout('<b>"odd"</b>', edits=("0:out: 9 units went, now 3",)))
    assert "://" not in page
    assert not re.search(r"@import|\bsrc=|url\((?!#)|fetch\(", page)
    assert "default-src 'none'" in page
    assert "<b>&#34;odd" not in page
    assert "0:out: 9 units went, now 3" in page
    assert page.count("<svg") == 1
    targets = set(re.findall(r'href="#([a-z]+)"', page))
    assert targets <= set(re.findall(r'<section id="([a-z]+)"', page))
    assert page == render_plan_page(
        parent.coupling, plan, PlanAbout('<b>"odd"</b>', edits=("0:out: 9 units went, now 3",))
    )


def test_forecast_is_shown_with_its_warnings_only_where_there_is_one(parent: Analysis, plan: Plan) -> None:
    slow = Forecast(0.99, None, None, 4000, 2000, ("no onnx here",), 4, 1)
    told = render_plan_page(parent.coupling, plan, PlanAbout("a plan", forecast=slow))
    assert "It will not pay on eager PyTorch" in told
    assert "no onnx here" in told
    quick = render_plan_page(parent.coupling, plan, PlanAbout("a plan", forecast=replace(slow, eager=0.4)))
    assert "will not pay" not in quick
    assert "Will it pay?" not in render_plan_page(parent.coupling, plan, PlanAbout("a plan"))
