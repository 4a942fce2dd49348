"""Selection of the n-th best by a sample: what it returns is what sorting everything returns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prunus.masks import top_masks
from prunus.masks.selection import Cut, find_cut, kept_by


def drawn(seed: int, kind: str) -> dict[str, Tensor]:
    """Return more scores than a selection looks at whole, in several shapes, dtypes and layouts."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(260, 33, 3, 3, generator=generator)
    values = {
        "normal": normal,
        "few values": normal.round(),
        "all equal": torch.zeros_like(normal),
        "sorted": torch.arange(normal.numel(), dtype=torch.float32).reshape(normal.shape),
        "one in a row is large": torch.where(torch.arange(3) == 1, normal.abs() + 9, normal.abs()),
    }[kind]
    return {
        "a": values.to(memory_format=torch.channels_last),
        "b": values[:3, :7].half().reshape(21, 9).T,
        "c": torch.randn(5, generator=generator, dtype=torch.float64 if seed % 2 else torch.float32),
        "none": torch.zeros(0, 4),
    }


def sorted_masks(scores: dict[str, Tensor], count: int, floor: bool, within: dict[str, Tensor]) -> Tensor:
    """Return by a stable sort of everything which scores stay, joined."""
    parts = [s.double().masked_fill(~within[n], -math.inf) if n in within else s.double() for n, s in scores.items()]
    flat = [part.reshape(-1).clone() for part in parts]
    for part in flat:
        if floor and part.numel():
            part[int((part == part.max()).nonzero()[0])] = math.inf
    joined = torch.cat(flat)
    kept = torch.zeros(len(joined), dtype=torch.bool)
    kept[joined.argsort(descending=True, stable=True)[:count]] = True
    return kept


@pytest.mark.parametrize("kind", ["normal", "few values", "all equal", "sorted", "one in a row is large"])
@pytest.mark.parametrize("part", [False, True], ids=["of all", "of some"])
@pytest.mark.parametrize("floor", [False, True], ids=["free", "floor"])
def test_large_selections_are_those_of_a_sort(kind: str, part: bool, floor: bool) -> None:
    for seed, share in enumerate((0.0005, 0.2, 0.5, 0.97)):
        scores = drawn(seed, kind)
        generator = torch.Generator().manual_seed(seed)
        within = {n: torch.rand(s.shape, generator=generator) < 0.7 for n, s in scores.items()} if part else {}
        count = int(share * sum(score.numel() for score in scores.values()))
        masks = top_masks(scores, keep_count=count, floor=floor, within=within)
        found = torch.cat([mask.reshape(-1) for mask in masks.values()])
        assert torch.equal(found, sorted_masks(scores, count, floor, within))


def test_a_sample_that_misleads_costs_time_and_nothing_else() -> None:
    # Every score that the sample sees is large, no other one is.
    scores = torch.rand(300_000, generator=torch.Generator().manual_seed(0))
    scores[::127] += 10
    for count in (1, 100, 2_000, 5_000, 299_000):
        cut = find_cut([(scores, None)], count)
        assert cut == Cut(float(scores.sort(descending=True).values[count - 1]), cut.ties, cut.whole)
        assert int(kept_by(cut, [(scores, None)])[0].sum()) == count


def test_thresholds_of_many_scores_are_values_that_occur() -> None:
    scores = drawn(1, "few values")
    flat = torch.cat([score.double().reshape(-1) for score in scores.values()]).sort(descending=True).values
    for count in (0, 7, 40_000, len(flat) - 1):
        assert find_cut([(score.double(), None) for score in scores.values()], count + 1).least == float(flat[count])
