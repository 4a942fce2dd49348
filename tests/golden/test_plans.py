"""Plans of three small networks by every allocator, as text to read: PRUNUS_REGENERATE=1 writes the files anew."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest
import torch
from test_axes import BLOCKS
from torch import nn

from prunus import analyse
from prunus.analysis.review import with_savings
from prunus.budget import ALLOCATORS
from prunus.methods.scored_units import unit_scores
from prunus.report.plan_table import plan_lines

FOLDER = Path(__file__).parent / "plans"
BUDGETS = ({"params": 0.5}, {"macs": 0.3}, {"bytes": 0.6, "macs": 0.5})


def waved(model: nn.Module) -> nn.Module:
    """Give every parameter values that no random generator decides."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((torch.sin(0.7 * places + i) * (1 + 0.1 * torch.cos(places))).reshape(parameter.shape))
    return model.eval()


def listing(name: str) -> str:
    build, inputs = BLOCKS[name]
    parent = analyse(waved(build()), inputs, forward="rewrite")
    lines = []
    for budget in BUDGETS:
        for allocator in ALLOCATORS.names():
            plan = with_savings(
                parent.plan(budget, allocator=allocator), parent.coupling, unit_scores(parent, "magnitude")
            )
            lines += [f"== {', '.join(f'{m} {v}' for m, v in budget.items())} by {allocator}"]
            lines += plan_lines(plan)
            lines += [f"  {axis}: {text['keep']}" for axis, text in plan.describe()["axes"].items()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["resnet", "vit", "lstm"])
def test_plans_are_as_written_down(name: str) -> None:
    found, file = listing(name), FOLDER / f"{name}.txt"
    if os.environ.get("PRUNUS_REGENERATE") == "1":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(found, encoding="utf-8")
    expected = file.read_text(encoding="utf-8")
    diff = "\n".join(difflib.unified_diff(expected.splitlines(), found.splitlines(), file.name, "found", lineterm=""))
    assert not diff, f"\n{diff}\nIf the new plans are right: PRUNUS_REGENERATE=1 pytest {__file__}"
