"""`prunus.prune(…, recover=…)` and `prunus.recover_`: the whole way from a loader to a recovered network."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from factories_recovery import EXAMPLE, dense, task
from prunus.errors import DataError, ModelError, OptionError
from prunus.measurement.quality import evaluate
from prunus.pipeline import prune
from prunus.pipeline.recovering import recover_


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(task()[0].inputs, task()[0].targets), 32, shuffle=True)


def test_prune_recovers_on_the_data_it_gets() -> None:
    plain = prune(dense(), EXAMPLE, budget={"macs": 0.1})
    recover = {"steps": 60, "lr": 5e-3}
    result = prune(
        dense(), EXAMPLE, budget={"macs": 0.1}, criterion="magnitude", data=loader(), repair="none", recover=recover
    )
    assert plain.recovery is None
    assert result.recovery is not None
    assert result.after == plain.after
    assert result.recovery.after < 0.7 * result.recovery.before
    before, after = (evaluate(r.model, task()[1].batches(64)).nll for r in (plain, result))
    assert after < 0.8 * before
    assert "held-out loss" in str(result)
    assert "held-out loss" not in str(plain)


def test_weight_masks_survive_the_recovery() -> None:
    result = prune(dense(), EXAMPLE, budget={"params": 0.3}, levels=("weight",), data=loader(), recover={"steps": 9})
    assert result.plan.masks
    for name, mask in result.plan.masks.items():
        assert not result.model.get_parameter(name)[~torch.from_numpy(mask)].any()


def test_a_request_that_cannot_be_met_is_refused_before_anything_is_cut() -> None:
    with pytest.raises(OptionError, match="needs data=train_loader"):
        prune(dense(), EXAMPLE, budget={"macs": 0.5}, recover={"steps": 5})
    with pytest.raises(OptionError, match="recover has 0 steps"):
        prune(dense(), EXAMPLE, budget={"macs": 0.5}, data=loader(), recover={"steps": 0})
    with pytest.raises(DataError, match="got 1 sample to learn from"):
        recover_(dense(), dense(), [(EXAMPLE, torch.tensor([0, 1]))], {"steps": 5})


def test_a_model_without_a_plan_is_recovered_as_far_as_its_shapes_allow() -> None:
    small = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4))
    report = recover_(dense(), small, loader(), {"steps": 40, "lr": 1e-2})
    assert report.after < 0.8 * report.before
    assert {attempt.method: attempt.reason for attempt in report.attempts}[
        "refold"
    ] == "it is not known how the network was cut"
    with pytest.raises(ModelError, match="must have the same outputs"):
        recover_(dense(), torch.nn.Linear(8, 3), loader(), {"steps": 4})
