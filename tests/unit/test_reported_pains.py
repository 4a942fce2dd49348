"""What users of other pruning tools report, one small network each: the symptom must not appear here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prunus
from factories_analysis import planned_by
from factories_digits import digits, fresh_subject, trained
from prunus.errors import BudgetError
from prunus.exporters import undo
from prunus.foundation.places import MANIFEST
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.measurement.quality import evaluate
from prunus.outcome import Outcome
from prunus.surgery.cut import cut_with_record
from prunus.training import TrainingOptions, finetune_

Build = Callable[[], nn.Module]
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))


def halved(model: nn.Module, inputs: torch.Tensor, **options: object) -> Outcome:
    result = prunus.prune(model, inputs, **({"budget": {"params": 0.5}, "forward": "rewrite"} | options))  # type: ignore[arg-type]
    assert result.check.error < 1e-8
    assert result.check.change > 1e-6
    assert result.model(torch.cat([inputs, inputs])).shape[0] == 2 * len(inputs)
    return result


class Forward(nn.Module):
    """Named layers and a forward given as a function."""

    def __init__(self, forward: Callable[[nn.Module, torch.Tensor], torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def test_1_graphs_of_densely_joined_layers_are_built_at_once() -> None:
    class Dense(nn.Module):
        def __init__(self, depth: int = 48) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(depth))
            self.head = nn.Conv2d(3 + 4 * depth, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.cat([x, F.relu(layer(x))], 1)
            return self.head(x)

    model, began = Dense(), time.process_time()
    coupling = couple(capture(model, IMAGE))
    assert time.process_time() - began < 5
    assert [a.size for a in coupling.axes.values()] == [4] * 48
    assert halved(model, IMAGE).after.params < 0.5 * sum(p.numel() for p in model.parameters())


def _reshaped(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    a, b = m.stem(x).chunk(2, 1)
    c, d = torch.cat([a * torch.sigmoid(b), a], 1).split([6, 10], 1)
    d = d[:, 2:]
    y = torch.cat([d.view(len(x), 4, 2, 8, 8).mean(2), c[:, -4:]], 1)
    return m.head(y.flatten(2).mean(-1))


def test_2_models_with_view_split_cat_chunk_slice_run_on() -> None:
    halved(Forward(_reshaped, stem=nn.Conv2d(3, 16, 3, padding=1), head=nn.Linear(8, 3)), IMAGE)


def _grouped(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    q, k, v = (f(x).view(len(x), 5, -1, 4).transpose(1, 2) for f in (m.q, m.k, m.v))
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 5, 16))


ATTENTION: dict[str, Build] = {
    "torch": lambda: Forward(
        lambda m, x: m.head(m.attention(x, x, x)[0]),
        attention=nn.MultiheadAttention(12, 3, batch_first=True),
        head=nn.Linear(12, 3),
    ),
    "grouped": lambda: Forward(
        _grouped, q=nn.Linear(12, 16), k=nn.Linear(12, 8), v=nn.Linear(12, 8), o=nn.Linear(16, 3)
    ),
    "encoder layer": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, norm_first=True), nn.Linear(12, 3)
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_3_attention_needs_no_hand_work(name: str) -> None:
    result = halved(ATTENTION[name](), TOKENS)
    assert any("[0]" in axis or "[1]" in axis for axis in result.plan.axes), "heads or head dims went"


def test_4_what_is_cut_is_really_smaller_and_faster() -> None:
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8))
    x = torch.randn(64, 64)
    small = prunus.prune(model, x, budget={"macs": 0.2}, forward="rewrite").model
    assert sum(p.numel() for p in small.parameters()) < 0.3 * sum(p.numel() for p in model.parameters())
    forward = prunus.measure(small, x, baseline=model, rounds=15).forward
    assert forward is not None
    assert forward.median < 0.8


def test_5_nothing_is_pickled(tmp_path: Path) -> None:
    result = halved(ATTENTION["grouped"](), TOKENS)
    folder = prunus.save(result, tmp_path / "small")
    files = {file for file in Path(folder).iterdir() if file.name != MANIFEST}  # the list of their names
    assert {file.suffix for file in files} <= {".json", ".safetensors"}
    loaded = prunus.load(folder, ATTENTION["grouped"]())
    assert torch.equal(loaded(TOKENS), result.model(TOKENS))


def test_6_a_short_training_repairs_what_a_cut_broke() -> None:
    subject = fresh_subject()
    small, _ = cut_with_record(
        trained(), subject.coupling, planned_by("magnitude", subject, 0.3), subject.example_inputs
    )
    before = evaluate(small, digits().test.batches(256)).accuracy
    finetune_(small, digits().train, TrainingOptions(steps=12, lr=5e-3), seed=0)
    assert evaluate(small.eval(), digits().test.batches(256)).accuracy > before + 0.2


def test_7_nothing_pruned_is_never_a_silent_success() -> None:
    for model, options in (
        (nn.Linear(12, 3), {}),
        (nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 3)), {"ignore": ["*"]}),
    ):
        with pytest.raises(BudgetError, match="Nothing can be removed"):
            halved(model, TOKENS, **options)


def test_8_the_optimizer_of_the_original_knows_nothing_of_the_cut_model() -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    old = torch.optim.SGD(model.parameters(), 0.1)
    small = halved(model, TOKENS).model
    held = {p.data_ptr() for group in old.param_groups for p in group["params"]}
    assert not held & {p.data_ptr() for p in small.parameters()}
    small(TOKENS).square().mean().backward()
    assert all(p.grad is None for p in model.parameters())
    before = [p.detach().clone() for p in small.parameters()]
    torch.optim.SGD(small.parameters(), 0.1).step()
    assert all(not torch.equal(p, b) for p, b in zip(small.parameters(), before, strict=True))


def test_9_whole_branches_go() -> None:
    subject = fresh_subject(forward="rewrite")
    plan = planned_by("key-path", subject, 0.3)
    small, surgery = cut_with_record(trained(), subject.coupling, plan, subject.example_inputs)
    assert plan.drops
    assert surgery.removed
    left = {path for path, _ in small.named_modules()}
    assert not left & set(surgery.removed)


def test_10_a_budget_is_an_amount_not_a_channel_ratio() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 4))
    result = prunus.prune(model, IMAGE, budget={"bytes": "9kB", "macs": 60_000}, forward="rewrite")
    assert 0.8 * 60_000 < result.after.macs_forward <= 60_000 or 8_000 < result.after.param_bytes <= 9_000
    assert result.after.param_bytes <= 9_000


def test_11_every_unit_can_be_traced_and_put_back() -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    result = halved(model, TOKENS)
    kept = result.plan.keep["0.weight"][0]
    for new, old in enumerate(kept):
        assert torch.equal(result.model[0].weight[new], model[0].weight[old])
    whole = undo(result.model, result.plan, model)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_12_recurrent_layers_shrink(kind: type[nn.RNNBase]) -> None:
    model = Forward(
        lambda m, x: m.head(m.layer(x)[0][:, -1]),
        layer=kind(12, 10, num_layers=2, batch_first=True),
        head=nn.Linear(10, 3),
    )
    small = halved(model, TOKENS).model
    assert small.layer.hidden_size == small.head.in_features < 10


@pytest.mark.parametrize("name", ["torch", "grouped"])
def test_13_the_second_and_third_step_work_like_the_first(name: str) -> None:
    model, spent = ATTENTION[name](), list[int]()
    for share in (0.8, 0.8, 0.8):
        result = halved(model, TOKENS, budget={"params": share}, criterion="random")
        model = result.model
        spent.append(result.after.params)
    assert spent == sorted(spent, reverse=True)
    assert len(set(spent)) == 3


class Fusion(nn.Module):
    """Weighted sums as in a BiFPN, a token put where a mask says so, a scale per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(12, 10), nn.Linear(12, 10), nn.Linear(10, 3)
        self.mix, self.scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.full((10,), 0.5))
        self.token = nn.Parameter(torch.randn(1, 1, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = F.relu(self.mix)
        weights = weights / (weights.sum() + 1e-4)
        y = weights[0] * self.a(x) + weights[1] * self.b(x) * self.scale
        return self.head(torch.where(x[..., :1] > 0, y, self.token.expand_as(y)))


def test_14_free_parameters_follow() -> None:
    result = halved(Fusion(), TOKENS)
    kept = result.plan.keep["a.weight"][0]
    assert np.array_equal(kept, result.plan.keep["scale"][0])
    assert np.array_equal(kept, result.plan.keep["token"][2])
    assert result.model.mix.shape == (2,)


def _shuffled(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = m.grow(x)
    batch, width, height, columns = x.shape
    x = x.view(batch, 4, width // 4, height, columns).transpose(1, 2).reshape(batch, width, height, columns)
    return m.head(F.pixel_shuffle(m.mix(x), 2))


def _windows(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = m.grow(x).reshape(len(x), 16, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 16)
    y = m.mix(y).reshape(len(x), 2, 2, 4, 4, 16).permute(0, 5, 1, 3, 2, 4).reshape(len(x), 16, 8, 8)
    return m.head(y)


REARRANGED: dict[str, Build] = {
    "pixel shuffle": lambda: Forward(
        _shuffled, grow=nn.Conv2d(3, 16, 1), mix=nn.Conv2d(16, 32, 3, padding=1, groups=4), head=nn.Conv2d(8, 3, 1)
    ),
    "windows": lambda: Forward(_windows, grow=nn.Conv2d(3, 16, 1), mix=nn.Linear(16, 16), head=nn.Conv2d(16, 3, 1)),
}


@pytest.mark.parametrize("name", REARRANGED)
def test_15_shuffles_and_rearrangements_are_followed(name: str) -> None:
    result = halved(REARRANGED[name](), IMAGE)
    assert result.coverage > 0.8


def test_17_ignored_layers_are_not_cut() -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    small = halved(model, TOKENS, budget={"params": 0.9}, ignore=["4"]).model
    assert torch.equal(small[4].weight, model[4].weight)


def test_18_small_groups_keep_at_least_one_unit() -> None:
    model = nn.Sequential(nn.Linear(12, 2), nn.ReLU(), nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 3))
    result = halved(model, TOKENS, budget={"params": 0.1})
    assert all(mask.any() for mask in result.plan.axes.values())
    assert result.after.params <= 0.1 * result.before.params
