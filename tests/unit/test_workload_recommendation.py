"""The recommendation workload: events from a known world, and what embeddings learn of it."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.errors import OptionError
from prunus.experiments.workloads import WORKLOADS, Split
from prunus.experiments.workloads.recommendation import FIELDS, ClickSizes, load_clicks, make_world
from prunus.experiments.workloads.recommendation.data import click_key
from prunus.experiments.workloads.recommendation.networks import DeepFM
from prunus.measurement.quality import evaluate
from prunus.training import TrainingOptions, finetune_

SMALL = ClickSizes(train=6_000, calibration=100, selection=100, test=1_000)
NAMES = tuple(item.name for item in fields(ClickSizes))


def test_a_seed_decides_all_and_sizes_only_their_own_split() -> None:
    one, same, other = load_clicks(SMALL), load_clicks(replace(SMALL, train=10)), load_clicks(SMALL, seed=1)
    for name in NAMES:
        a, b, c = (getattr(splits, name) for splits in (one, same, other))
        assert isinstance(a, Split)
        assert len(a) == getattr(SMALL, name)
        assert torch.equal(a.inputs, b.inputs) == (name != "train")
        assert not torch.equal(a.inputs, c.inputs)
    assert len({click_key(), click_key(SMALL), click_key(SMALL, 1)}) == 3


def test_indices_lie_in_their_fields_and_the_genre_is_that_of_the_thing() -> None:
    split = load_clicks(SMALL).train
    inputs, targets = next(iter(split.batches(6_000)))
    assert inputs.shape == (6_000, len(FIELDS))
    for column, size in zip(inputs.unbind(1), FIELDS.values(), strict=True):
        assert (int(column.min()), int(column.max())) == (0, size - 1)
    assert np.array_equal(make_world().genre[inputs[:, 1].numpy()], inputs[:, 2].numpy())
    assert set(targets.tolist()) == {0, 1}
    counts = torch.bincount(inputs[:, 0])
    assert counts[:20].float().mean() > 2 * counts[-20:].float().mean(), "a few people make most of the events"


def test_clicks_come_as_often_as_the_world_says() -> None:
    inputs, targets = next(iter(load_clicks(SMALL).train.batches(6_000)))
    person, thing, _, hour, device = inputs.numpy().T
    chance = make_world().chance(person, thing, hour, device)
    assert 0 < chance.min() < chance.max() < 1
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        inside = (chance >= low) & (chance < high)
        assert targets.numpy()[inside].mean() == pytest.approx(chance[inside].mean(), abs=0.04)


def test_the_score_of_a_factorisation_machine_is_the_sum_over_pairs() -> None:
    model = DeepFM(tuple(FIELDS.values()), 4, (8,)).eval()
    nn.init.zeros_(model.mlp[-1].weight)
    nn.init.zeros_(model.mlp[-1].bias)
    inputs = next(iter(load_clicks(SMALL).test.batches(3)))[0]
    for row, logits in zip(inputs, model(inputs).detach(), strict=True):
        vectors = [table.weight[index].detach() for table, index in zip(model.embeddings, row, strict=True)]
        pairs = sum(float(a @ b) for number, a in enumerate(vectors) for b in vectors[:number])
        first = sum(table.weight[index, 0].item() for table, index in zip(model.weights, row, strict=True))
        assert float(logits[1]) == pytest.approx(pairs + first, abs=1e-5)
        assert float(logits[0]) == -float(logits[1])


def test_a_short_training_beats_the_majority() -> None:
    torch.manual_seed(0)
    splits, model = load_clicks(replace(SMALL, train=30_000)), DeepFM(tuple(FIELDS.values()), 8, (16,))
    finetune_(model, splits.train, TrainingOptions(500, 2e-2, 256, weight_decay=0.1, schedule="one_cycle"))
    found = evaluate(model, splits.test.batches(), splits.classes)
    targets = next(iter(splits.test.batches(1_000)))[1]
    assert found.accuracy > max(float((targets == label).float().mean()) for label in (0, 1)) + 0.05


@pytest.mark.parametrize(("name", "tables"), [("recommendation/deepfm", 5), ("recommendation/two-tower", 1)])
def test_the_width_of_embeddings_can_go_and_the_vocabulary_only_where_asked(name: str, tables: int) -> None:
    workload = WORKLOADS.get(name)
    model = workload.build(0).eval()
    coupling = prunus.couple(prunus.capture(model, workload.example_inputs()))
    (width,) = (axis for axis in coupling.axes.values() if axis.id == "embeddings.0:out")
    held = {(m.tensor, m.dim) for m in width.members if m.tensor.startswith("embeddings")}
    assert held == {(f"embeddings.{number}.weight", 1) for number in range(tables)}
    found = prunus.prune(model, workload.example_inputs(), budget={"params": 0.5})
    assert found.check.ok
    small = found.model.get_submodule("embeddings.0")
    assert isinstance(small, nn.Embedding)
    assert (small.num_embeddings, small.embedding_dim) == (FIELDS["person"], small.weight.shape[1])
    assert small.embedding_dim < width.size


def test_the_shift_set_turns_the_ranks_round() -> None:
    rare = WORKLOADS.get("recommendation").shifts["rare"]()
    people = torch.cat([inputs[:, 0] for inputs, _ in rare.batches()])
    half = FIELDS["person"] // 2
    assert float((people >= half).float().mean()) > 0.6
    usual = torch.cat([inputs[:, 0] for inputs, _ in load_clicks(SMALL).test.batches()])
    assert float((usual >= half).float().mean()) < 0.4


def test_bad_sizes_and_seeds() -> None:
    with pytest.raises(OptionError, match=r"ClickSizes\.train is 0"):
        ClickSizes(train=0)
    with pytest.raises(OptionError, match="seed is -1"):
        load_clicks(SMALL, seed=-1)
