"""The outline of a plan: its prices are those of the plan, and it stays readable however long the network is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from prunus import analyse
from prunus.analysis import Analysis
from prunus.analysis.review import with_savings
from prunus.methods.scored_units import unit_scores
from prunus.plans import Drop, Plan
from prunus.report.outline import MOST_CELLS, Part, lines, outline


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.norm(self.a(x))))


def network(blocks: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *(Block(8) for _ in range(blocks)), nn.Linear(8, 3))


def scored(blocks: int = 2) -> Analysis:
    torch.manual_seed(0)
    return analyse(network(blocks), torch.randn(4, 6))


def planned(parent: Analysis, share: float = 0.5) -> Plan:
    return with_savings(parent.plan({"params": share}), parent.coupling, unit_scores(parent, "magnitude"))


def part(root: Part, ending: str) -> Part:
    return next(p for p in root.leaves() if p.id.endswith(ending))


def test_root_has_the_price_of_the_plan() -> None:
    parent = scored()
    plan = planned(parent)
    root = outline(parent.coupling, plan)
    assert root.params == (plan.before.params, plan.after.params)
    assert root.macs == (plan.before.macs_forward, plan.after.macs_forward)
    assert root.stored == plan.after.params


def test_layers_come_in_order_with_their_widths_and_reasons_and_norms_are_counted_in_their_block() -> None:
    parent = scored(1)
    plan = planned(parent)
    root = outline(parent.coupling, plan)
    assert [p.id.rsplit("/", 1)[-1] for p in root.leaves()] == ["0", "a", "b", "2"]
    first = part(root, "/a")
    axis = next(m for name, m in plan.axes.items() if name == "1.a:out")
    assert first.units == (16, int(axis.sum()))
    assert first.units[1] < 16
    assert first.why == ("lowest magnitude of the axis",)
    assert part(root, "2").units == (3, 3)
    listed = sum(p.params[0] for p in root.leaves())
    assert root.params[0] - listed == 2 * 16  # the norm's scale and shift


def test_dropped_branch_is_dropped_and_nothing_else_is() -> None:
    parent = scored()
    whole = planned(parent)
    joins = [n.name for n in parent.coupling.graph.nodes if n.op.startswith("aten.add")]
    plan = replace(whole, axes={}, drops=(Drop(joins[0], 1, "1"),))
    root = outline(parent.coupling, plan)
    assert [p.id.rsplit("/", 1)[-1] for p in root.leaves() if p.dropped] == ["a", "b"]
    assert root.params[0] - root.params[1] == sum(p.numel() for p in Block(8).parameters())


def test_masked_weights_are_stored_but_not_counted() -> None:
    parent = scored()
    mask = np.ones((16, 8), bool)
    mask[:, ::2] = False
    plan = replace(planned(parent), axes={}, masks={"1.a.weight": mask})
    root = outline(parent.coupling, plan)
    assert root.stored - root.params[1] == 64
    assert root.stored == root.params[0]
    layer = part(root, "/a")
    assert (layer.units, layer.stored - layer.params[1]) == ((16, 16), 64)


@pytest.mark.parametrize("most", [200, 64, 20, 3])
def test_long_networks_are_laid_out_in_few_lines_and_lose_no_layer(most: int) -> None:
    parent = scored(24)
    root = outline(parent.coupling, planned(parent))
    layers = [p.id for p in root.leaves()]
    shown = lines(root, most)
    assert [cell.id for line in shown for cell in line.cells] == layers
    assert len(layers) == 50
    # 50 layers, 16 side by side, need 4 lines however few are asked for.
    assert len(shown) <= max(most, 4 + len(root.children))
    assert all(len(line.cells) <= MOST_CELLS for line in shown)


def test_a_chain_without_blocks_goes_on_over_several_lines() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(*(m for _ in range(70) for m in (nn.Linear(6, 6), nn.ReLU())))
    parent = analyse(chain, torch.randn(2, 6))
    (stage,) = outline(parent.coupling, planned(parent)).children
    shown = lines(outline(parent.coupling, planned(parent)))
    assert [(line.part.id, line.start, len(line.cells)) for line in shown] == [
        (stage.id, start, min(MOST_CELLS, 70 - start)) for start in range(0, 70, MOST_CELLS)
    ]


def test_short_networks_get_a_line_for_each_layer() -> None:
    parent = scored(2)
    root = outline(parent.coupling, planned(parent))
    shown = lines(root)
    assert [line.part.id for line in shown if line.cells] == [p.id for p in root.leaves()]
    assert [line.depth for line in shown if line.part.level == "stage"] == [0] * len(root.children)
