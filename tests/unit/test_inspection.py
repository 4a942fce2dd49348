"""Inspection: exact sums over the module tree, owned axes, frozen dims with their place, folding, text and JSON."""

from __future__ import annotations

import inspect as source_of
import io
import json

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from factories_networks import Grouped, Residual
from prunus import capture, couple
from prunus.cost.price import cost_model
from prunus.report.inspection import Inspection, ModulePart, inspect_model, inspection_of, print_inspection
from prunus.report.inspection.frozen_groups import held_by_reason, meaning
from prunus.report.inspection.text import plain_lines, short_place
from prunus.report.inspection.tree import tree_rows


class Everything(nn.Module):
    """Has a stem, equal blocks, a parameter of its own, a tie, an unused layer, and an op that looks at positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(8) for _ in range(4)), Grouped(8))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.mix = nn.Linear(8, 6)
        self.head = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6, bias=False)
        self.again.weight = self.head.weight
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.blocks(self.stem(x)) * self.scale).mean((2, 3))
        x = self.mix(x).cumsum(-1)
        return self.head(x) + self.again(x)


@pytest.fixture(scope="module")
def found() -> Inspection:
    torch.manual_seed(0)
    return inspect_model(Everything(), torch.randn(2, 3, 6, 6))


def part(found: Inspection, path: str) -> ModulePart:
    return next(m for m in found.modules if m.path == path)


def test_counts_add_up_and_are_those_of_the_model(found: Inspection) -> None:
    model = Everything()
    root = part(found, "")
    assert root.params == found.params == sum(p.numel() for p in model.parameters())
    assert root.macs == found.macs_forward == sum(m.own_macs for m in found.modules)
    assert sum(m.own_params for m in found.modules) == found.params
    for path, module in model.named_modules():
        inside = sum(p.numel() for p in module.parameters())
        tied = part(found, path).tied
        assert part(found, path).params == (0 if tied else inside), path
    assert part(found, "stem").own_macs == 6 * 6 * 8 * 3 * 9
    assert part(found, "mix").macs == 8 * 6
    assert found.inputs == ("2×3×6×6 float32",)


def test_axes_belong_to_the_module_that_they_are_named_after(found: Inspection) -> None:
    assert part(found, "stem").axes == ("stem:out",)
    assert part(found, "blocks.0.a").axes == ("blocks.0.a:out",)
    owned = [axis for module in found.modules for axis in module.axes]
    assert sorted(owned) == sorted(axis.id for axis in found.axes)
    stem = next(axis for axis in found.axes if axis.id == "stem:out")
    assert (stem.module, stem.size) == ("stem", 8)
    assert {"stem.weight[0]", "blocks.0.a.weight[1]", "blocks.3.b.weight[0]"} <= set(stem.members)
    last = next(axis for axis in found.axes if axis.id == "blocks.4.out:out")
    assert {"scale[0]", "mix.weight[1]"} <= set(last.members)


def test_what_lies_on_an_axis_is_what_its_absence_saves(found: Inspection) -> None:
    cost = cost_model(couple(capture(Everything(), torch.randn(2, 3, 6, 6))))
    whole = cost.price()
    for axis in found.axes:
        rest = cost.price({axis.id: 0})
        assert axis.params == whole.params - rest.params
        assert axis.macs == whole.macs_forward - rest.macs_forward


def test_a_frozen_dim_names_the_op_the_module_and_the_line(found: Inspection) -> None:
    lines, first = source_of.getsourcelines(Everything.forward)
    at = first + next(i for i, line in enumerate(lines) if "cumsum" in line)
    reasons = {(f.tensor, f.dim): f for f in found.frozen}
    mixed = reasons["mix.weight", 0]
    assert (mixed.reason, mixed.op, mixed.module, mixed.size, mixed.numel) == ("cumsum", "cumsum", "", 6, 48)
    assert mixed.source.startswith(f"{__file__}:{at} in forward")
    assert reasons["head.weight", 0].reason == "output"
    assert reasons["head.weight", 1].reason == "cumsum"
    assert reasons["spare.weight", 0].reason == "unused"
    assert reasons["spare.weight", 0].op == ""
    assert (reasons["stem.weight", 1].reason, reasons["stem.weight", 1].op) == ("input", "input")
    assert reasons["stem.weight", 2].module == "stem"


def test_the_first_cause_is_kept_through_reshapes() -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(4, 12), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x).flip(-1)
            return self.out(x.view(-1, 4, 3)).sum()

    frozen = {(f.tensor, f.dim): f for f in inspect_model(Reshaped(), torch.randn(2, 4)).frozen}
    assert frozen["into.weight", 0].op == frozen["out.weight", 1].op == "flip"
    assert frozen["into.weight", 0].source == frozen["out.weight", 1].source


def test_a_network_of_torch_modules_alone_has_no_line_of_its_own() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 2))
    frozen = [f for f in inspect_model(net, torch.randn(2, 3)).frozen if f.reason == "softmax"]
    assert (frozen[0].tensor, frozen[0].module, frozen[0].source) == ("0.weight", "1", "")


def test_coverage_is_the_share_on_removable_axes(found: Inspection) -> None:
    on_axes = {m.rpartition("[")[0] for axis in found.axes for m in axis.members}
    model = Everything()
    covered = sum(p.numel() for name, p in model.named_parameters() if name in on_axes)
    assert found.coverage_params == pytest.approx(covered / found.params)
    assert found.coverage_macs == pytest.approx(1 - (2 * 36) / found.macs_forward)


def test_an_unknown_op_is_listed_and_what_it_touches_is_held() -> None:
    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mat = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.det(self.mat(x))

    found = inspect_model(Inverse(), torch.randn(2, 5, 5))
    assert len(found.unknown) == 1
    assert "det" in found.unknown[0].op
    assert __file__ in found.unknown[0].where
    held = next(h for h in held_by_reason(found) if h.reason.startswith("no rule"))
    assert (held.params, held.tensors) == (30, 2)
    assert held.meaning == "an op that the analysis does not know"
    assert found.coverage_params == 0
    assert f"no rule for {found.unknown[0].op}" in str(found)


def test_equal_neighbours_are_one_row_with_the_sum_of_their_counts(found: Inspection) -> None:
    rows = list(tree_rows(found))
    labels = [row.label for row in rows]
    folded = next(row for row in rows if "like" in row.label)
    assert folded.label.endswith("1 … 3 (like 0)")
    assert (folded.kind, folded.params, folded.axes) == ("3× Residual", 3 * part(found, "blocks.0").params, "3 axes")
    assert not any("relu" in label.lower() for label in labels)
    assert next(row for row in rows if row.label.endswith("again")).frozen == "tied to head.weight"
    assert next(row for row in rows if row.label.endswith("spare")).frozen == "unused: weight[0] weight[1] bias[0]"


def test_depth_sums_up_what_lies_deeper(found: Inspection) -> None:
    rows = list(tree_rows(found, 1))
    assert [row.label for row in rows][:3] == ["Everything", "├─ stem", "├─ blocks"]
    assert sum(row.params for row in rows[1:]) + part(found, "").own_params == found.params
    blocks = rows[2]
    assert blocks.axes == f"{sum(len(m.axes) for m in found.modules if m.path.startswith('blocks'))} axes"
    (root,) = tree_rows(found, 0)
    assert (root.params, root.axes) == (found.params, f"{len(found.axes)} axes")


def test_json_holds_everything(found: Inspection) -> None:
    content = json.loads(found.to_json())
    assert content["schema"] == "prunus-inspection/1"
    assert [m["path"] for m in content["modules"]] == [m.path for m in found.modules]
    assert content["modules"][0]["share_params"] == 1.0
    assert next(m for m in content["modules"] if m["path"] == "again")["tied"] == {"again.weight": "head.weight"}
    assert {a["id"]: a["size"] for a in content["axes"]} == {a.id: a.size for a in found.axes}


def test_the_text_says_cost_axes_reasons_and_places(found: Inspection) -> None:
    text = str(found)
    assert f"{found.params:,} params" in text
    assert "stem:out" in text
    assert "cumsum runs along it" in text
    assert "test_inspection.py:" in text
    assert "/" not in short_place(f"x at {__file__}:3 in forward").replace("unit/test_inspection.py", "")


def test_a_terminal_gets_a_table_that_fits_and_a_pipe_the_plain_lines(found: Inspection) -> None:
    plain, drawn = io.StringIO(), io.StringIO()
    print_inspection(found, Console(file=plain, width=40))
    assert plain.getvalue().splitlines() == list(plain_lines(found))
    print_inspection(found, Console(file=drawn, force_terminal=True, width=110, color_system=None), depth=1)
    lines = drawn.getvalue().splitlines()
    assert max(map(len, lines)) <= 110
    assert any("blocks" in line for line in lines)
    assert not any("like 0" in line for line in lines)


def test_a_name_may_be_given_and_an_analysed_graph_is_enough() -> None:
    coupling = couple(capture(nn.Linear(3, 2), torch.randn(1, 3)))
    found = inspection_of(coupling, name="tiny")
    assert str(found).splitlines()[0] == "tiny: Linear"
    assert found.axes == ()
    assert "0 removable axes" in str(found)


@pytest.mark.parametrize(
    ("reason", "text"),
    [("kernel", "kernel"), ("conflict in view", "aligned"), ("sort", "sort runs along it")],
)
def test_every_reason_has_words(reason: str, text: str) -> None:
    assert text in meaning(reason)
