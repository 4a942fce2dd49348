"""What people who know only the docs met: options forgotten, budgets broken, labels invented, files lost."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import BudgetError, DataError, OptionError

EXAMPLE = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
SAMPLES = torch.randn(160, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(160) % 4
BATCHES = [(SAMPLES[i : i + 16], LABELS[i : i + 16]) for i in range(0, 160, 16)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def conv_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def test_another_budget_keeps_criterion_and_bounds() -> None:
    bounds = {"0:out": {"frozen": True}}
    found = prunus.prune(network(), EXAMPLE, budget={"params": 0.7}, criterion="l1", bounds=bounds)
    smaller = found.rebudget({"params": 0.6})
    assert smaller.model[0].out_features == 32
    assert smaller.plan == prunus.plan(network(), EXAMPLE, budget={"params": 0.6}, criterion="l1", bounds=bounds)


def test_another_budget_keeps_levels_and_repair_and_takes_changes() -> None:
    masked = prunus.prune(network(), EXAMPLE, budget={"params": 0.8}, levels=("weight",))
    assert masked.rebudget({"params": 0.6}).plan.masks
    repaired = prunus.prune(network(), EXAMPLE, budget={"params": 0.8}, data=BATCHES, repair="bias")
    assert repaired.rebudget({"params": 0.6}).repair is not None
    changed = repaired.rebudget({"params": 0.6}, repair=None, criterion="l1")
    assert changed.repair is None
    assert changed.plan.settings["criterion"] == "l1"
    again = changed.rebudget({"params": 0.5})
    assert (again.repair, again.plan.settings["criterion"]) == (None, "l1")


def test_an_allocator_that_breaks_the_budget_is_refused() -> None:
    def greedy_for_more(problem):
        return dict(problem.most)

    with pytest.raises(BudgetError, match=r"'greedy_for_more' leaves params at 1,476"):
        prunus.prune(network(), EXAMPLE, budget={"params": 0.5}, allocator=greedy_for_more)


@pytest.mark.parametrize("answer", [None, {}, {"0:out": 3}, {"0:out": "a", "2:out": "b"}])
def test_an_allocator_without_a_count_for_every_axis_is_refused(answer) -> None:
    with pytest.raises(OptionError, match="for every axis"):
        prunus.prune(network(), EXAMPLE, budget={"params": 0.5}, allocator=lambda problem: answer)


@pytest.mark.parametrize("method", ["multi-scale", "incremental", "units-incremental", "key-path-moving"])
@pytest.mark.parametrize("form", ["tensor", "list", "noise"])
def test_methods_that_learn_from_labels_refuse_rows_without_any(method: str, form: str) -> None:
    """A row of samples was read as (input, target) where the shapes allowed it."""
    for model, samples in ((network(), SAMPLES), (conv_network(), torch.randn(32, 3, 8, 8))):
        data = {"tensor": samples, "list": [samples[:16], samples[16:32]], "noise": "noise"}[form]
        analysis = prunus.analyse(model, samples[:2], data=data)
        with pytest.raises(DataError, match="Add the labels"):
            analysis.plan({"params": 0.5}, method=method)


def test_a_dataset_is_data() -> None:
    data = torch.utils.data.TensorDataset(SAMPLES, LABELS)
    loader = torch.utils.data.DataLoader(data, 64)
    for options in ({"criterion": "taylor"}, {"method": "multi-scale"}, {}):
        from_set = prunus.prune(network(), EXAMPLE, budget={"params": 0.5}, data=data, **options)
        assert from_set.plan == prunus.prune(network(), EXAMPLE, budget={"params": 0.5}, data=loader, **options).plan
        assert from_set.repair is not None


def test_a_repair_by_name_without_data_is_refused() -> None:
    with pytest.raises(OptionError, match="'refold', which refits weights on data"):
        prunus.prune(network(), EXAMPLE, budget={"params": 0.5}, repair="refold")
    assert prunus.prune(network(), EXAMPLE, budget={"params": 0.5}, repair="auto").repair is None


def test_saving_over_something_else_loses_nothing(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    found = prunus.prune(network(), EXAMPLE, budget={"params": 0.5})
    for save in (found.save, found.plan.save):
        with pytest.raises(OptionError, match="thesis"):
            save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for _ in range(2):
        found.save(tmp_path / "small")


def test_folders_are_replaced_by_their_own_kind_alone(tmp_path) -> None:
    found = prunus.prune(network(), EXAMPLE, budget={"params": 0.5})
    found.save(tmp_path / "small")
    (tmp_path / "small" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"contains 'notes.txt', which prunus did not write into such a folder"):
        found.save(tmp_path / "small")
    (tmp_path / "small" / "notes.txt").unlink()
    with pytest.raises(OptionError, match=r"contains 'checkpoint.json'"):
        found.plan.save(tmp_path / "small")
    found.save(tmp_path / "small")
    assert prunus.load(tmp_path / "small", network()) is not None


_PLANNED = """
import torch, prunus
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU(),
                          torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), torch.nn.Linear(32, 4))
prunus.plan(net, torch.ones(2, 5, 8), budget={"params": 0.5}).save("plan")
prunus.plan(net, torch.ones(2, 5, 8), budget={"params": 0.5}, method="units-weights").save("both")
"""


def test_a_plan_file_is_the_same_in_every_process(tmp_path) -> None:
    """Nothing in it follows the order of a set of names, which differs between processes."""
    sums = set()
    for seed in ("1", "2", "3"):
        place = tmp_path / seed
        place.mkdir()
        subprocess.run(
            [sys.executable, "-c", _PLANNED], cwd=place, env=os.environ | {"PYTHONHASHSEED": seed}, check=True
        )
        content = b"".join(path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file())
        sums.add(hashlib.sha256(content).hexdigest())
    assert len(sums) == 1


def test_what_shrink_made_is_an_outcome_like_any_other() -> None:
    net = network()
    net[2].weight.data[:, :6] = 0
    found = prunus.shrink(net, EXAMPLE)
    assert found.model[0].out_features == 26
    assert prunus.verify(found).ok
    back = found.undo()
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), net.parameters(), strict=True))
    assert prunus.repair(found, BATCHES).repair is not None
    assert prunus.recover(found, BATCHES, {"steps": 1}).recovery is not None
    assert found.rebudget({"params": 0.5}).after.params <= 0.5 * found.before.params
