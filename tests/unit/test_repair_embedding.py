"""A narrower embedding needs no repair of its own; the layer that reads it is fitted."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from factories_repair import cut_half, distance
from prunus.repairs import repair_


class Words(nn.Module):
    """Embeds, adds positions, and answers for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(6, 16)
        self.hidden, self.out = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        out: Tensor = self.out(self.hidden(x).relu())
        return out


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 20, (count, 6), generator=torch.Generator().manual_seed(seed))


def test_the_entries_that_stay_are_exact_and_the_reader_is_fitted() -> None:
    torch.manual_seed(0)
    model = Words().eval()
    coupling, result = cut_half(model, tokens(2), budget={"params": 0.5})
    small = copy.deepcopy(result.model)
    kept = torch.from_numpy(result.plan.keep["words.weight"][1])
    assert 0 < len(kept) < 16
    report = repair_(model, small, coupling, result.plan, [tokens(64)], repair="refold")
    assert torch.equal(small.words(tokens(8)), model.words(tokens(8))[..., kept])
    layers = {layer.name: layer for layer in report.layers}
    assert set(layers) == {"hidden.weight", "out.weight"}
    assert layers["hidden.weight"].after < layers["hidden.weight"].before
    assert "words.weight" in str(report)
    assert distance(model, small, tokens(64, 5)) < 0.7 * distance(model, result.model, tokens(64, 5))
