"""Function matching: what it lowers, what it draws from, and that it helps beyond blocks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_pruned import same_state
from factories_repair import cut_half, distance, net, samples
from prunus.repairs import repair_
from prunus.repairs.matching import TEMPERATURE, Rounds, matching_loss
from prunus.repairs.mixup import blended
from prunus.repairs.samples import SampleGroup, joined

X = samples(2, 9)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_miss_is_squares_and_softened_divergence() -> None:
    target, answer = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = 1 / (1 + math.exp(-2 / TEMPERATURE))
    divergence = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    wanted = 4 / 4 + TEMPERATURE**2 * divergence
    assert float(matching_loss([answer], [target])) == pytest.approx(wanted, rel=1e-5)
    assert float(matching_loss([target], [target])) == pytest.approx(0, abs=1e-6)


def test_pictures_and_single_numbers_count_by_their_squares_alone() -> None:
    shifted = torch.full((4, 1), 2.0)
    assert float(matching_loss([shifted + 1], [shifted])) == pytest.approx(0.25)
    pictures = torch.full((2, 3, 4, 4), 2.0)
    assert float(matching_loss([pictures + 1], [pictures])) == pytest.approx(0.25)


def test_blends_of_floats_lie_between_two_samples() -> None:
    sample_group = SampleGroup(torch.eye(6).reshape(6, 6), 6, "fit")
    made = blended(sample_group, generator()).inputs
    assert made.shape == (6, 6)
    torch.testing.assert_close(made.sum(1), torch.ones(6))
    assert ((made > 0).sum(1) <= 2).all()
    assert (made.diagonal() >= 0.5).all()
    assert not torch.equal(made, sample_group.inputs)


def test_ids_and_their_mask_exchange_the_same_stretch() -> None:
    rows = torch.arange(8)[:, None].expand(8, 12).contiguous()
    sample_group = SampleGroup({"ids": rows, "mask": rows + 100, "once": torch.arange(3)}, 8, "fit")
    made = blended(sample_group, generator(3)).inputs
    assert torch.equal(made["mask"], made["ids"] + 100)
    assert torch.equal(made["once"], torch.arange(3))
    changed = made["ids"] != rows
    assert 0 < int(changed.sum()) <= 8 * 6
    for row in changed:
        places = row.nonzero().flatten()
        assert len(places) == 0 or len(places) == int(places[-1] - places[0]) + 1


def test_sample_groups_of_one_form_are_joined_and_others_stay() -> None:
    sample_groups = [SampleGroup(torch.zeros(n, t), n, "fit") for n, t in ((4, 3), (2, 3), (4, 5))]
    assert [(group.count, tuple(group.inputs.shape)) for group in joined(sample_groups)] == [(6, (6, 3)), (4, (4, 5))]


def test_matching_comes_closer_than_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.repairs.choose_repairs.BEST", Rounds(300, 2))
    model, fresh = net(), samples(64, 77)
    coupling, result = cut_half(model, X)
    left = {}
    for name in ("blockwise", "matching"):
        small = copy.deepcopy(result.model)
        repair_(model, small, coupling, result.plan, [samples(96)], repair=name)
        left[name] = distance(model, small, fresh)
    assert left["matching"] < left["blockwise"]


def test_the_same_seed_gives_the_same_network() -> None:
    model = net()
    coupling, result = cut_half(model, X)
    made = []
    for seed in (1, 1, 2):
        small = copy.deepcopy(result.model)
        repair_(model, small, coupling, result.plan, [samples(96)], repair="matching", seed=seed)
        made.append(small)
    assert same_state(made[0], made[1])
    assert not same_state(made[0], made[2])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(40, 16), nn.Linear(16, 32), nn.Linear(32, 6)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(self.embed(ids)).relu().mean(1))
        return out


def test_a_network_that_reads_ids_is_matched_too() -> None:
    torch.manual_seed(0)
    model = Words().eval()
    ids = torch.randint(40, (128, 10), generator=generator(5))
    result = prunus.prune(model, ids[:2], budget={"params": 0.5}, data=[ids], repair="matching")
    assert result.repair is not None
    assert result.repair.chosen == "matching"
    assert result.repair.after < result.repair.before
