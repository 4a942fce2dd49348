"""A cut network trains as one that was written small: dropout, batch norm and flags, in hybrid and in graph mode."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.analysis.score import make_plan
from prunus.exporters import load, save
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.plans import Plan
from prunus.surgery import cut as cutting
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import verify
from prunus.surgery.record import Surgery
from prunus.surgery.rewriting import recapture
from prunus.surgery.rewriting.splice import Splice

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
WAYS = ("attention", "number", "branch", "twice", "layer", "beside", "returned", "torch")
BOTH = pytest.mark.parametrize("mode", ["hybrid", "graph"])


class Drops(nn.Module):
    """Attention over heads of four, with a dropout that only training shows."""

    def __init__(self, heads: int, how: str) -> None:
        super().__init__()
        self.heads, self.how, self.p, self.layer = heads, how, 0.4, nn.Dropout(0.3)
        self.qkv, self.out = nn.Linear(12, 12 * heads), nn.Linear(4 * heads, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        p = self.p if self.training and self.how == "attention" else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).reshape(*x.shape[:2], -1)
        if self.how == "number":
            y = F.dropout(y, self.p if self.training else 0.0)
        if self.how == "layer" and self.training:
            y = self.layer(y)
        if self.how in ("branch", "twice") and self.training:
            y = y + F.dropout(y, self.p)
            y = F.dropout(F.dropout(y, self.p), 0.1) if self.how == "twice" else F.dropout(y, 0.1)
        elif self.how in ("branch", "twice"):
            y = y + y
        if self.how == "beside":
            y = self.layer(y) + y
        y = self.out(y)
        return F.dropout(y, self.p) if self.how == "returned" and self.training else y


class Torch(nn.Module):
    """Torch's own attention, whose weights are dropped in training alone."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(12, 3, dropout=0.4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, weights = self.inner(x, x, x)
        return y + weights.mean()


class Net(nn.Module):
    def __init__(self, how: str, heads: int = 3, width: int = 8) -> None:
        super().__init__()
        self.attention = Torch(heads) if how == "torch" else Drops(heads, how)
        self.up, self.norm, self.head = nn.Linear(12, width), nn.BatchNorm1d(width), nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.up(self.attention(x)).mean(1)))


def operated(how: str, mode: str, training: bool = False) -> tuple[Net, nn.Module, Plan, Surgery]:
    """Keep two of three heads (where they can go) and five of eight units; the cut is proved."""
    torch.manual_seed(0)
    model = Net(how).train(training)
    coupling = couple(capture(model, X))
    keep = {a: np.arange(x.size) != 1 for a, x in coupling.axes.items() if x.size == 3}
    keep |= {"up:out": np.arange(8) < 5}
    plan = make_plan(coupling, keep)
    small, surgery = cut_with_record(model, coupling, plan, X, mode=mode)
    assert verify(model, small, coupling, plan, X).error < 1e-8
    return model, small, plan, surgery


def seeded(model: nn.Module, *, training: bool) -> torch.Tensor:
    torch.manual_seed(7)
    return model.train(training)(X)


@BOTH
@pytest.mark.parametrize("how", [w for w in WAYS if w != "torch"])
def test_dropout_is_that_of_a_network_written_small(how: str, mode: str) -> None:
    _, small, _, surgery = operated(how, mode)
    assert surgery.mode == mode
    hand = Net(how, heads=2, width=5)
    hand.load_state_dict(small.state_dict())
    for training in (True, False, True):
        torch.testing.assert_close(seeded(small, training=training), seeded(hand, training=training))
    assert not torch.equal(small(X), small(X)), "it drops"
    small.eval()
    assert torch.equal(small(X), small(X))


@BOTH
def test_the_weights_of_torchs_attention_are_dropped_in_training(mode: str) -> None:
    _, small, _, surgery = operated("torch", mode)
    assert surgery.mode == mode
    attention = small.attention.inner if mode == "hybrid" else small
    assert "aten.dropout.default" in getattr(attention, "prunus_source", getattr(attention, "source", ""))
    seen = seeded(small, training=True)
    assert torch.equal(seen, seeded(small, training=True))
    assert not torch.equal(seen, small(X))
    assert torch.equal(seeded(small, training=False), small(X))


@BOTH
def test_dropout_follows_the_flag_of_its_own_module(mode: str) -> None:
    _, small, _, _ = operated("attention", mode)
    small.train()
    small.attention.eval()
    small.norm.eval()
    assert torch.equal(small(X), small(X))
    small.eval()
    small.attention.train()
    assert not torch.equal(small(X), small(X))


@BOTH
@pytest.mark.parametrize("how", ["attention", "branch"])
def test_checkpoints_know_it_too(how: str, mode: str, tmp_path: pathlib.Path) -> None:
    _, small, plan, surgery = operated(how, mode)
    folder = save(SimpleNamespace(model=small, plan=plan, surgery=surgery), tmp_path / "small")
    loaded = load(folder, Net(how) if mode == "hybrid" else None)
    assert torch.equal(seeded(loaded, training=True), seeded(small, training=True))


@BOTH
def test_batch_norm_counts_its_batches(mode: str) -> None:
    _, small, _, _ = operated("attention", mode, training=True)
    for expected in (1, 2):
        small(X)
        assert int(small.norm.num_batches_tracked) == expected
    small.eval()(X)
    assert int(small.norm.num_batches_tracked) == 2


def test_where_nothing_drops_the_model_is_not_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:

    called: list[object] = []
    monkeypatch.setattr(recapture, "training_of", lambda *args: called.append(args))
    model = Net("torch").eval()
    model.attention.inner.dropout = 0.0
    coupling = couple(capture(model, X))
    keep = {a: np.arange(x.size) != 1 for a, x in coupling.axes.items() if x.size == 3}
    assert cut_with_record(model, coupling, make_plan(coupling, keep), X)[1].mode == "hybrid"
    assert not called


@BOTH
def test_another_batch_drops_as_well(mode: str) -> None:
    _, small, _, surgery = operated("branch", mode)
    assert surgery.static == ()
    small.train()
    assert small(torch.cat([X, X, X])).shape == (6, 4)


class Path(nn.Module):
    """Drops whole samples, in training alone, by ops of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand(len(x), 1, 1) < 0.5) if self.training else x


class Skips(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.up, self.down, self.path = nn.Linear(12, 6), nn.Linear(6, width), nn.Linear(width, 6), Path()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + self.path(self.down(self.up(x).view(len(x), -1, self.up.out_features)))


def test_a_forward_that_writes_everything_out_still_drops_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Skips(8).eval()
    coupling = couple(capture(model, X))
    plan = make_plan(coupling, {"up:out": np.arange(8) < 5})
    monkeypatch.setattr(Splice, "settle", Splice.take_all)
    monkeypatch.setattr(cutting, "stale_candidates", lambda *_: ({0}, {0}))
    small, surgery = cut_with_record(model, coupling, plan, X)
    assert surgery.spliced == ("",)
    assert "self.path(" in small.prunus_source
    assert "self.up(" not in small.prunus_source
    hand = Skips(5)
    hand.load_state_dict(small.state_dict())
    for training in (True, False):
        torch.testing.assert_close(seeded(small, training=training), seeded(hand, training=training))


class Positions(nn.Module):
    """A table in code that becomes a constant of the rewritten forward."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x).view(*x.shape[:2], -1, 4) + torch.tensor([0.5, 1.0, 2.0, 4.0])
        y = y + torch.arange(x.shape[1]).view(1, -1, 1, 1) * 0.1
        return self.down(y.reshape(*x.shape[:2], self.down.in_features))


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.sized, self.head = Positions(), Drops(3, ""), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.sized(self.inner(x)) * torch.tensor(3.0)
        return self.head(x).mean(1) + torch.tensor([1.0, 2.0, 3.0, 4.0])


@BOTH
def test_constants_of_one_cut_outlive_the_next(mode: str) -> None:
    torch.manual_seed(0)
    model: nn.Module = Tables().eval()
    for seed in range(3):
        coupling = couple(capture(model, X))
        generator = np.random.default_rng(seed)
        keep = {a: generator.permutation(x.size) > 0 for a, x in coupling.axes.items() if x.size > 1}
        plan = make_plan(coupling, keep)
        small, surgery = cut_with_record(model, coupling, plan, X, mode=mode)
        assert surgery.mode == mode
        assert verify(model, small, coupling, plan, X).error < 1e-8
        model = small
