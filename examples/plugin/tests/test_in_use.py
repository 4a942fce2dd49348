"""The members do what they say, and every door of prunus takes them by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.budget import ALLOCATORS
from prunus.criteria import CRITERIA, UNIT_CRITERIA, Evidence
from prunus.errors import OptionError
from prunus.methods import METHODS
from prunus.methods.scored_units import unit_scores
from prunus.repairs import REPAIRS
from prunus.training.schedules import KEPT_SCHEDULES, kept_at
from prunus_example.gated import Gated, gated


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), Gated(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))


def test_names_are_listed() -> None:
    for registry, name in (
        (UNIT_CRITERIA, "path-norm"),
        (CRITERIA, "relative-importance"),
        (ALLOCATORS, "square-root"),
        (METHODS, "path-units"),
        (KEPT_SCHEDULES, "exponential"),
        (REPAIRS, "line-search"),
    ):
        assert name in registry
        assert name in registry.names()


def test_prune_takes_them(tmp_path: Path) -> None:
    x, data = torch.randn(2, 3, 6, 6), [torch.randn(8, 3, 6, 6) for _ in range(8)]
    result = prunus.prune(
        network(),
        x,
        budget={"params": 0.6},
        criterion="path-norm",
        allocator="square-root",
        data=data,
        repair="line-search",
    )
    assert result.check.ok
    assert result.model[1].gate.shape == (result.model[0].out_channels,), "the gates went with their channels"
    path = prunus.save(result, tmp_path / "small.npz", metadata={"run": 3})
    stored = np.load(path)
    assert np.array_equal(stored["0.weight"], result.model[0].weight.detach().numpy())
    assert json.loads(str(stored["plan"]))["settings"]["criterion"] == "path-norm"
    assert json.loads(str(stored["metadata"])) == {"run": 3}
    with pytest.raises(OptionError, match=r"'npz' is a NumPy archive .*; prunus\.load does not read it"):
        prunus.load(path)


def test_path_norms_do_not_hang_on_the_scale() -> None:
    model, x = network(), torch.randn(2, 3, 6, 6)
    before = unit_scores(prunus.analyse(model, x), "path-norm")
    with torch.no_grad():
        model[3].weight.mul_(4)
        model[5].weight.div_(4)
    after = unit_scores(prunus.analyse(model, x), "path-norm")
    np.testing.assert_allclose(after["3:out"], before["3:out"], rtol=1e-6)


def test_relative_importance_by_hand() -> None:
    scores = CRITERIA.get("relative-importance")(Evidence({"w": torch.tensor([[1.0, 3.0], [1.0, 1.0]])}))["w"]
    torch.testing.assert_close(scores, torch.tensor([[0.25 + 0.5, 0.75 + 0.75], [0.5 + 0.5, 0.5 + 0.25]]))


def test_the_schedule_by_hand() -> None:
    assert kept_at("exponential", 0.5, 0.25, end=1.0) == 0.5


def test_the_op_learns() -> None:
    x, gate = torch.randn(2, 3, 4, dtype=torch.double), torch.randn(3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(gated, (x.requires_grad_(), gate))
    torch.library.opcheck(gated, (torch.randn(2, 3, 4), torch.randn(3)))


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, prunus.pipeline, prunus.exporters; print('prunus_example' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
