"""Hybrid mode rewrites what holds a stale size and nothing else; the top-level class survives whatever happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from factories_cuts import random_share
from prunus.analysis.score import make_plan
from prunus.exporters.checkpoint import save
from prunus.exporters.pack import read_tensors
from prunus.exporters.restore import load
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.graph.grouped_mm import NAME as GROUPED
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.precision import grouped_product
from prunus.surgery.proving.verify import verify
from prunus.surgery.record import Surgery
from prunus.surgery.rewriting.emit import ArgumentsError

X = torch.randn(2, 5, 6)


class Attention(nn.Module):
    def __init__(self, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, 12 // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, 12))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.up, self.down = Attention(), nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.attention(x, mask)
        return x + self.down(F.gelu(self.up(x)))


class Net(nn.Module):
    """Two blocks; nothing but the attention in them holds a size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(6, 12), nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Masked(Net):
    """Leaves the mask out where its values say that nothing is hidden, as transformers do."""

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        mask: torch.Tensor | None = torch.where(seen, 0.0, -1e9)[:, None, None, :]
        if "Fake" not in type(seen).__name__ and bool(seen.all()):
            mask = None
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x.mean(1))


class FromShapes(nn.Module):
    """Every size follows from a shape: with one unit left, ``contiguous`` has nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        batch, tokens, width = y.shape
        y = y.permute(0, 2, 1).contiguous().view(batch, width * tokens).view(batch, width, tokens)
        return self.head(F.relu(self.b(y.transpose(1, 2)))).mean(1)


class Checked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.linear = 12, nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != self.width:
            raise ValueError("the width is not the configured one")
        return self.linear(x)


class Stern(nn.Module):
    """A child refuses any other width than the one it was made for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.checked, self.head = nn.Linear(6, 12), Checked(), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.checked(F.relu(self.stem(x)))).mean(1)


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.left = nn.Linear(6, 12), torch.zeros(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left = self.linear(x)
        return F.relu(x)


class Side(nn.Module):
    """A value leaves a child by an attribute, and an attention holds sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.attention, self.head = Maker(), Attention(), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.maker(x).mean(-1, keepdim=True)
        return self.head(self.attention(self.maker.left.reshape(2, -1, 12)) + y).mean(1)


class Idle(Net):
    """Calls a layer and throws its result away."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.idle(x)
        return super().forward(x)


class Sized(nn.Module):
    """Holds a size, and a layer that its owner holds too."""

    def __init__(self, shared: nn.Linear) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shared(x).view(2, 5, 3, 4)).reshape(2, 5, 12)


class Sharing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Linear(6, 12), nn.Linear(12, 12)
        self.sized, self.head = Sized(self.shared), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.sized(self.stem(x))).mean(1)


class Experts(nn.Module):
    """Four experts; token t goes to expert t modulo four."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 24)), nn.Parameter(torch.randn(4, 24, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        ends = torch.tensor([1, 2, 3, 5], dtype=torch.int32)
        rows = [F.relu(torch._grouped_mm(tokens, self.up, ends)) for tokens in x]
        hidden = torch.stack([torch._grouped_mm(row, self.down, ends) for row in rows])
        return self.head(hidden).mean(1)


def operated(model: nn.Module, inputs: object = X, *, one: bool = False) -> tuple[nn.Module, Surgery, Plan]:
    """Cut by random shares (or to a single unit), prove it, and insist that the class survives."""
    coupling = couple(capture(model.eval(), inputs))
    keep = {a: np.arange(x.size) == 1 for a, x in coupling.axes.items()} if one else random_share(coupling, 1, 0.4, 0.7)
    plan = make_plan(coupling, keep)
    small, surgery = cut_with_record(model, coupling, plan, inputs)
    assert verify(model, small, coupling, plan, inputs).error < 1e-8
    assert isinstance(small, type(model))
    assert surgery.mode != "graph"
    return small, surgery, plan


def test_only_what_holds_a_size_is_rewritten() -> None:
    small, surgery, _ = operated(Net())
    assert surgery.spliced == ("blocks.0.attention", "blocks.1.attention")
    assert type(small) is Net
    assert all(type(b) is Block and isinstance(b.attention, Attention) for b in small.blocks)


@pytest.mark.parametrize("one", [False, True])
def test_sizes_that_follow_from_shapes_need_no_rewriting(one: bool) -> None:
    assert operated(FromShapes(), one=one)[1].mode == "module"


def test_a_check_of_sizes_is_rewritten_where_it_stands() -> None:
    assert operated(Stern())[1].spliced == ("checked",)


def test_values_that_travel_by_attributes_are_reached() -> None:
    assert "" in operated(Side())[1].spliced


def test_a_layer_registered_in_two_places_is_reached_by_its_nearer_name() -> None:
    small, surgery, _ = operated(Sharing())
    assert surgery.spliced == ("sized",)
    assert small.sized.shared is small.shared
    assert "self.shared" in small.sized.prunus_source


def test_what_was_idle_before_stays() -> None:
    small, surgery, _ = operated(Idle())
    assert isinstance(small.idle, nn.Linear)
    assert surgery.removed == ()


def test_a_mask_that_values_would_leave_out_is_handed_on() -> None:
    torch.manual_seed(0)
    seen = torch.ones(2, 5, dtype=torch.bool)
    small, surgery, _ = operated(Masked(), (X, seen))
    assert surgery.spliced == ("", "blocks.0.attention", "blocks.1.attention")
    hidden = seen.clone()
    hidden[:, 3:] = False
    changed = X.clone()
    changed[:, 3:] += 1.0
    whole, part = small(X, seen), small(X, hidden)
    assert not torch.allclose(whole, part)
    one, two = small.blocks[0].attention, torch.where(hidden, 0.0, -1e9)[:, None, None, :]
    mixed = small.stem(X), small.stem(changed)
    torch.testing.assert_close(one(mixed[0], two)[:, :3], one(mixed[1], two)[:, :3])


def test_arguments_that_come_and_go_are_refused() -> None:
    small, _, _ = operated(Net())
    with pytest.raises(ArgumentsError, match=r"Attention was captured with None as argument 1; got a Tensor"):
        small.blocks[0].attention(small.stem(X), torch.zeros(2, 1, 1, 5))
    small, _, _ = operated(Masked(), (X, torch.ones(2, 5, dtype=torch.bool)))
    with pytest.raises(ArgumentsError, match=r"captured with a tensor as argument 1; got None\. Capture it again"):
        small.blocks[0].attention(small.stem(X), None)


def test_experts_of_any_width_run() -> None:
    torch.manual_seed(0)
    model = Experts().eval()
    coupling = couple(capture(model, X))
    keep = {a: np.arange(x.size) < x.size // 2 - 1 for a, x in coupling.axes.items()}
    plan = make_plan(coupling, keep)
    small, surgery = cut_with_record(model, coupling, plan, X)
    assert verify(model, small, coupling, plan, X).error < 1e-6
    assert {n.op for n in surgery.splice.graph.nodes} >= {GROUPED}
    small(X).sum().backward()
    assert small.up.shape == (4, 7, 11)
    assert float(small.up.grad.abs().sum()) > 0


@pytest.mark.parametrize(("inner", "width"), [(5, 7), (8, 3), (4, 4)])
def test_the_grouped_product_of_any_sizes(inner: int, width: int) -> None:
    a, b, ends = torch.randn(6, inner), torch.randn(3, inner, width), torch.tensor([2, 2, 6], dtype=torch.int32)
    torch.testing.assert_close(torch.ops.prunus.grouped_mm(a, b, ends), grouped_product(a, b, ends))


def test_loaded_tensors_are_aligned_and_outputs_bit_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, surgery, plan = operated(Net())

    class Result:
        model = small

    result = Result()
    result.plan, result.surgery = plan, surgery
    folder = save(result, tmp_path / "cut")
    assert all(t.data_ptr() % 64 == 0 for t in read_tensors(folder / "weights.safetensors").values() if t.numel())
    assert torch.equal(load(folder, Net().eval())(X), small(X))
