"""Forwards that stay the user's: what is mended, what is tied, what is frozen, and what the message says."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_own_forward import keep_forward, kept_units, terms_of
from prunus.analysis.score import make_plan
from prunus.budget import Limit, fit_units
from prunus.cost.price import cost_model
from prunus.errors import CaptureError, OptionError, PlanError
from prunus.exporters.checkpoint import save
from prunus.exporters.restore import load
from prunus.exporters.undo import undo
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import verify
from prunus.tree.branches import find_branches


class Attention(nn.Module):
    """Attention as people write it; ``width`` says how the inner width is spelled."""

    def __init__(self, width: int = 24, heads: int = 4, spelling: str = "attribute") -> None:
        super().__init__()
        self.heads, self.head_dim, self.inner, self.spelling = heads, width // heads, width, spelling
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (layer(x).view(b, t, self.heads, self.head_dim).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(y.reshape(b, t, self.inner if self.spelling == "attribute" else c))


class Tower(nn.Module):
    def __init__(self, block: nn.Module, width: int = 24) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(10, width), block, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(x + self.block(x))


def sequence(width: int = 10) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 6, width)


def test_attributes_are_mended_and_told() -> None:
    done = keep_forward(Tower(Attention()), (sequence(),))
    mended = {f"{m.path}.{m.name}": (m.old, m.new) for m in done.surgery.mended}
    assert mended == {"block.heads": (4, 2), "block.inner": (24, 12)}
    assert done.surgery.forward == "keep"
    assert done.surgery.spliced == ()
    assert done.check.on_example
    assert done.check.sizes == ("batch 3 of length 4", "batch 1 of length 4")


def test_an_inner_width_spelled_as_the_residual_width_ties_heads_to_channels() -> None:
    _, own = terms_of(Tower(Attention(spelling="shape")), (sequence(),))
    assert [dict(t.units) for t in own.ties] == [{"stem:out": 6, "block.q:out[0]": 1}]
    done = keep_forward(Tower(Attention(spelling="shape")), (sequence(),))
    assert done.model.stem.out_features == 12
    assert done.model.block.heads == 2


def test_head_dims_go_where_they_are_asked_for_and_the_code_allows_it() -> None:
    class Scaled(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.scale = self.head_dim**-0.5

        def forward(self, x: Tensor) -> Tensor:
            b, t, _ = x.shape
            q, k, v = (f(x).view(b, t, self.heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = ((q @ k.transpose(-1, -2)) * self.scale).softmax(-1) @ v
            return self.out(y.transpose(1, 2).flatten(2))

    whole, free = (terms_of(Tower(Scaled()), (sequence(),), head_dims=how)[1] for how in ("whole", "free"))
    assert "head dims stay whole" in whole.frozen["block.q:out[1]"].reason
    assert "block.q:out[1]" not in free.frozen
    done = keep_forward(Tower(Scaled()), (sequence(),), head_dims="free")
    assert done.model.block.head_dim == 3
    assert done.model.block.scale == pytest.approx(6**-0.5)
    _, default = terms_of(Tower(Attention()), (sequence(),), head_dims="free")
    assert "scale of attention" in default.frozen["block.q:out[1]"].reason


@pytest.mark.parametrize("root", ["math", "pow"])
def test_a_scale_computed_from_a_width_holds_the_width(root: str) -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.up, self.down = 16, nn.Linear(24, 16), nn.Linear(16, 24)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x).view(*x.shape[:2], self.width)
            return self.down(h / (math.sqrt(self.width) if root == "math" else self.width**0.5))

    _, own = terms_of(Tower(Gate()), (sequence(),))
    assert "must not change" in own.frozen["block.up:out"].reason


def test_numbers_written_in_the_code_freeze_what_they_count_with_the_line() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(24, 16), nn.Linear(16, 24)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x).view(-1, 6, 16))

    coupling, own = terms_of(Tower(Written()), (sequence(),))
    why = own.frozen["block.up:out"]
    assert "the code writes 16 as size of view; write -1" in why.reason
    assert "test_own_forward.py" in coupling.graph.node(why.node).source
    reasons = {f.tensor: f.reason for f in own.on(coupling).frozen}
    assert "the code writes 16" in reasons["block.up.weight"]


def test_a_number_that_stays_right_freezes_nothing() -> None:
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(24, 16), nn.Linear(12, 24)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x)[..., :12])

    _, own = terms_of(Tower(Slices()), (sequence(),))
    assert dict(own.emptied) == {"block.up:out[1]": ("block.up:out[0]",)}
    done = keep_forward(Tower(Slices()), (sequence(),))
    assert done.model.block.down.in_features == 6
    scores = {a.id: np.ones(a.size) for a in done.coupling.axes.values()}
    smaller = fit_units(cost_model(done.coupling), scores, Limit("params", 700))
    assert not smaller["block.up:out[1]"].any()


def test_equal_pieces_tie_their_widths() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(24, 32), nn.Linear(16, 24)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.up(x).chunk(2, -1)
            return self.down(torch.cat([a.sigmoid().mean(-1, keepdim=True) + b * 0 + b], -1))

    done = keep_forward(Tower(Gated()), (sequence(),))
    assert [sorted(t.units.values()) for t in done.own.ties] == [[1, 1]]
    assert done.model.block.up.out_features == 16


def test_checks_of_the_code_are_kept_true() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.up, self.down = 16, nn.Linear(24, 16), nn.Linear(16, 24)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x)
            if h.shape[-1] != self.width:
                raise ValueError("another width")
            return self.down(h)

    done = keep_forward(Tower(Strict()), (sequence(),))
    assert done.model.block.width == 8


def test_each_module_gets_settings_of_its_own() -> None:
    class Config:
        def __init__(self) -> None:
            self.heads, self.width = 4, 24

    class Block(nn.Module):
        def __init__(self, config: Config) -> None:
            super().__init__()
            self.config, self.mix, self.out = config, nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            h = self.mix(x).view(*x.shape[:2], self.config.heads, -1)
            return self.out(h.softmax(-1).reshape(*x.shape[:2], self.config.width))

    config = Config()
    model = Tower(nn.Sequential(Block(config), Block(config)))
    done = keep_forward(model, (sequence(),))
    first, second = done.model.block
    assert first.config is not second.config
    assert (config.heads, config.width) == (4, 24)
    assert first.config.heads == 2


def test_training_is_part_of_the_network() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.up, self.down, self.aux = 16, nn.Linear(24, 16), nn.Linear(16, 24), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x)
            if self.training:
                h = h * F.dropout(torch.ones(x.shape[0], 1, self.hidden), 0.5) + self.aux(x).sum()
            return self.down(h)

    done = keep_forward(Tower(Masked()), (sequence(),))
    assert done.model.block.hidden == 8
    assert done.model.stem.out_features == done.model.block.aux.in_features == 12
    done.model.train()(sequence()).sum().backward()


def test_torch_attention_takes_any_heads_and_every_call() -> None:
    model = nn.Sequential(nn.Linear(10, 24), nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), nn.Linear(24, 3))
    done = keep_forward(model, (sequence(),))
    small, x = done.model.eval(), sequence()
    assert small[1].self_attn.num_heads == 2
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    with torch.no_grad():
        hidden = small[0](x)
        padded = small[1](hidden, src_key_padding_mask=padding)
        short = small[1](hidden[:, :4])
    torch.testing.assert_close(padded[1, :4], short[1], rtol=1e-4, atol=1e-5)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), small(x))
    torch.testing.assert_close(copy.deepcopy(small)(x), small(x))


def test_torch_attention_stays_torchs_where_the_heads_fill_the_width() -> None:
    model = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    coupling, own = terms_of(model, (torch.randn(2, 6, 24),))
    coupling = own.on(coupling)
    plan = make_plan(coupling, {"linear1:out": np.arange(48) < 20})
    small, _ = cut_with_record(model, coupling, plan, (torch.randn(2, 6, 24),))
    assert type(small.self_attn) is nn.MultiheadAttention
    assert small.self_attn._qkv_same_embed_dim  # the fused path of the layer stays open


def test_dropped_branches_answer_zero() -> None:
    model, x = Tower(Attention()), (sequence(),)
    coupling, own = terms_of(model, x)
    coupling = own.on(coupling)
    branch = next(b for b in find_branches(coupling) if b.drop is not None)
    plan = make_plan(coupling, {}, drops=(branch.drop,))
    small, surgery = cut_with_record(model, coupling, plan, x)
    assert verify(model, small, coupling, plan, x).ok
    assert type(small.block).__name__ == "Zero"
    assert type(small).forward is Tower.forward
    assert surgery.removed == ("block",)


def test_a_branch_that_returns_an_object_is_refused_in_one_line() -> None:
    class InADict(Attention):
        def forward(self, x: torch.Tensor) -> Any:
            return {"y": super().forward(x)}

    class Reads(Tower):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.stem(x))
            return self.head(x + self.block(x)["y"])

    model, x = Reads(InADict()), (sequence(),)
    coupling, own = terms_of(model, x)
    coupling = own.on(coupling)
    branch = next(b for b in find_branches(coupling) if b.drop is not None)
    with pytest.raises(PlanError, match=r"^'block' cannot be replaced by zeros: .* Keep the branch, or use forward="):
        cut_with_record(model, coupling, make_plan(coupling, {}, drops=(branch.drop,)), x)


def test_checkpoints_mend_a_fresh_instance(tmp_path: Any) -> None:
    model, x = Tower(Attention(spelling="shape")).eval(), sequence()
    done = keep_forward(model, (x,))
    save(done, tmp_path / "small")
    again = load(tmp_path / "small", Tower(Attention(spelling="shape")))
    torch.testing.assert_close(again.eval()(x), done.model.eval()(x), rtol=0, atol=0)
    assert type(again.block).forward is Attention.forward
    with pytest.raises(PlanError, match=r"block\.head_dim|block\.heads is 8 where the cut found 4|heads"):
        load(tmp_path / "small", Tower(Attention(heads=8, spelling="shape")))
    whole = undo(done.model, done.plan, model)
    torch.testing.assert_close(whole(x), model(x))
    assert whole.block.heads == 4


def test_checkpoints_keep_shipped_attention_and_silent_branches(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(10, 24), nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), nn.Linear(24, 3))
    x = sequence()
    coupling, own = terms_of(model, (x,))
    coupling = own.on(coupling)
    drop = [b.drop for b in find_branches(coupling) if b.drop is not None][-1]
    plan = make_plan(coupling, kept_units(coupling), drops=(drop,))
    small, surgery = cut_with_record(model, coupling, plan, (x,))

    class Result:
        pass

    result = Result()
    result.model, result.plan, result.surgery = small, plan, surgery  # type: ignore[attr-defined]
    save(result, tmp_path / "small")
    again = load(tmp_path / "small", copy.deepcopy(model))
    torch.testing.assert_close(again.eval()(x), small.eval()(x), rtol=0, atol=0)


def test_plans_that_break_the_terms_are_refused_in_one_line() -> None:
    model, x = Tower(Attention(spelling="shape")), (sequence(),)
    coupling, own = terms_of(model, x)
    uneven = make_plan(coupling, {"stem:out": np.arange(24) < 12})
    with pytest.raises(PlanError, match=r"breaks .*shape is .*forward='rewrite'"):
        cut_with_record(model, own.on(coupling), uneven, x)
    narrow = make_plan(coupling, {"block.q:out[1]": np.arange(6) < 3})
    with pytest.raises(PlanError, match="would lose units, but"):
        cut_with_record(model, coupling, narrow, x, forward="keep")
    assert cut_with_record(model, coupling, narrow, x, forward="rewrite")[1].spliced
    with pytest.raises(OptionError, match="allowed: keep, rewrite"):
        cut_with_record(model, coupling, narrow, x, forward="kept")


def test_a_model_that_was_changed_after_planning_is_refused() -> None:
    model, x = Tower(Attention()), (sequence(),)
    coupling, own = terms_of(model, x)
    coupling = own.on(coupling)
    plan = make_plan(coupling, kept_units(coupling))
    model.block.inner = 99
    with pytest.raises(CaptureError, match=r"block\.inner is 99 where the cut found 24"):
        cut_with_record(model, coupling, plan, x)


def test_a_cut_that_changes_a_number_that_the_code_hides_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.more = nn.Linear(24, 16), nn.Linear(16, 24), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x)
            return self.down(h / float(np.sqrt(h.shape[-1]))) + F.relu(self.more(x))

    model, x = Tower(Hidden()), (sequence(),)
    coupling, own = terms_of(model, x)
    kept = own.on(coupling)
    with pytest.raises(CaptureError, match=r"computes a number from a size that is cut \(other = "):
        cut_with_record(model, kept, make_plan(kept, kept_units(kept)), x)
