"""Other batch sizes and sequence lengths: what a rewritten forward follows, what stays as captured, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_networks import NetSpec
from factories_pruned import Cut, cut_at_random
from prunus.errors import ModelError
from prunus.exporters import load, save
from prunus.exporters.header import FileMark
from prunus.foundation.checksum import with_sum
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.surgery.proving.verify import compare_models
from prunus.surgery.rewriting.recapture import growth

EXACT = 1e-6
BOTH = pytest.mark.parametrize("mode", ["hybrid", "graph"])
ATTENTION = NetSpec("sequence", (0, 2, 3), width=8)


def assert_exact_at(cut: Cut, inputs: Any, model: nn.Module | None = None) -> None:
    """The cut model equals the masked original at other sizes: the original captured there, with the same axes kept."""
    coupling = couple(capture(cut.original, inputs))
    assert {a.id: a.size for a in coupling.axes.values()} == {a.id: a.size for a in cut.coupling.axes.values()}
    check = compare_models(cut.original, model or cut.model, coupling, cut.plan, inputs)
    assert check.failure == ""
    assert check.values_equal
    assert check.error <= EXACT, check


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, length, 5, generator=torch.Generator().manual_seed(seed))


@BOTH
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 7, 9])
def test_attention_takes_any_batch_and_length(mode: str, batch: int, length: int) -> None:
    cut = cut_at_random(ATTENTION.build(), tokens(2, 7), seed=1, mode=mode)
    assert cut.surgery.mode == mode
    assert cut.surgery.static == ()
    assert_exact_at(cut, tokens(batch, length, seed=2))


class Decoder(nn.Module):
    """Ids and a mask of one length; positions from a table; folds batch and tokens together on the way."""

    def __init__(self, rows: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.register_buffer("places", torch.randn(rows, 8))
        self.q, self.kv, self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places[: ids.shape[1]]
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, 2, 4).transpose(1, 2)
        k, v = self.kv(x).view(batch, length, 2, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.view(batch, 1, 1, length))
        x = x + self.out(y.transpose(1, 2).reshape(batch * length, 8)).view(batch, length, 8)
        return self.head(x.reshape(batch * length, 8)).view(batch, length, 4).sum(1) / length


def ids(batch: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)
    mask = torch.rand(batch, length, generator=generator) > 0.3
    mask[:, 0] = True
    return {"ids": torch.randint(0, 11, (batch, length), generator=generator), "mask": mask}


@BOTH
@pytest.mark.parametrize("rows", [32, 9, 7])
def test_inputs_of_one_length_grow_together(mode: str, rows: int, tmp_path: Path) -> None:
    # The table ends at once, after a little, or far away; shorter sequences always fit.
    torch.manual_seed(0)
    cut = cut_at_random(Decoder(rows).eval(), ids(2, 7), seed=3, mode=mode)
    assert cut.surgery.growth is not None
    assert [o.name for o in cut.surgery.growth.others] == [
        "dim 0 of the inputs (size 2)",
        "the sequence length (size 7)",
    ]
    loaded = load(save(cut, tmp_path / "small"), Decoder(rows).eval())
    for batch, length in ((1, 7), (3, 4), (2, rows), (1, 2)):
        assert_exact_at(cut, ids(batch, length))
        x = ids(batch, length)
        assert torch.equal(loaded(**x), cut.model(**x))


class Across(nn.Module):
    """Two sequences of their own lengths; one attends to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 4))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        batch, length, other = x.shape[0], x.shape[1], context.shape[1]
        q = self.q(x).view(batch, length, 3, 4).transpose(1, 2)
        k = self.k(context).view(batch, other, 3, 4).transpose(1, 2)
        v = self.v(context).view(batch, other, 3, 4).transpose(1, 2)
        y = (q @ k.transpose(2, 3)).reshape(batch * 3, length, other).softmax(-1) @ v.reshape(batch * 3, other, 4)
        return self.out(y.view(batch, 3, length, 4).transpose(1, 2).reshape(batch, length, 12))


@BOTH
@pytest.mark.parametrize("lengths", [(6, 6), (6, 4)])
def test_sequences_grow_apart_even_when_equally_long(mode: str, lengths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    cut = cut_at_random(Across().eval(), (tokens(2, lengths[0]), tokens(2, lengths[1])), seed=2, mode=mode)
    assert cut.surgery.static == ()
    for batch, one, two in ((1, 9, 3), (3, 3, 8)):
        assert_exact_at(cut, (tokens(batch, one), tokens(batch, two)))


class Positions(nn.Module):
    """Makes its positions from the length: folded while it is analysed, computed again in the cut model."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = ATTENTION.build().pieces[0], nn.Linear(8, 4)
        self.stem = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.stem(x) + torch.arange(x.shape[1]).view(1, -1, 1) * 0.1))


def test_a_constant_of_one_length_is_computed_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Positions().eval()
    whole = cut_at_random(model, tokens(2, 7), seed=1, mode="graph")
    assert whole.surgery.static == ()
    assert "ops.aten.arange.default(x0.shape[1]" in whole.model.source
    for size, length in ((3, 7), (1, 9), (2, 4)):
        assert_exact_at(whole, tokens(size, length))
    loaded = load(save(whole, tmp_path / "small"))
    assert loaded.source == whole.model.source
    # The user's own forward makes the positions: only the attention below it is rewritten, and follows.
    part = cut_at_random(model, tokens(2, 7), seed=1)
    assert part.surgery.spliced == ("attention",)
    assert part.surgery.static == ()
    assert_exact_at(part, tokens(3, 9))


class Waves(Positions):
    """Its positions differ from channel to channel, so that a cut takes a part of them."""

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.arange(x.shape[1]).view(1, -1, 1) * torch.arange(8) * 0.01
        return self.head(self.attention(self.stem(x) + waves.sin()))


@BOTH
def test_a_cut_constant_of_one_length_makes_its_forward_static(mode: str) -> None:
    torch.manual_seed(0)
    whole = cut_at_random(Waves().eval(), tokens(2, 7), seed=1, mode=mode)
    assert len(whole.surgery.static) == 1
    assert whole.surgery.static[0].startswith(
        "dim 1 of input 0 (size 7) is static in the top level: a constant of shape (1, 7, 8) was made for it"
    )
    assert_exact_at(whole, tokens(3, 7))
    with pytest.raises(RuntimeError):
        whole.model(tokens(2, 9))


class Handed(nn.Module):
    """Makes a constant of the length and hands it to its child as an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(5, 8), Inner(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.unsqueeze(0), self.stem(x), torch.arange(x.shape[1]).view(1, -1, 1) * 0.1))


class Inner(nn.Module):
    """Remembers its sizes; has no use for its first argument."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, idle: Tensor, x: Tensor, places: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return self.out((self.up(x + places).view(batch, length, 3, 4) * 2).reshape(batch, length, 12))


def test_a_constant_that_arrives_as_an_argument_is_followed() -> None:
    torch.manual_seed(0)
    cut = cut_at_random(Handed().eval(), tokens(2, 7), seed=1)
    assert cut.surgery.spliced == ("inner",)
    assert cut.surgery.static == ()
    assert_exact_at(cut, tokens(3, 9))


class Rounded(nn.Module):
    """Half the tokens, rounded up; a scale from the length; a number handed to a child."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.up, self.down = how, nn.Linear(5, 8), nn.Linear(8, 4)
        self.conv = nn.Conv1d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if self.how == "stride":
            h = self.conv(h.transpose(1, 2))
            return self.down(h.transpose(1, 2).reshape(h.shape[0] * h.shape[2], h.shape[1]))
        if self.how == "scale":
            return self.down(h.view(*x.shape[:2], 2, 4).flatten(2) * x.shape[1] ** -0.5)
        return self.down(h if x.shape[1] < 10 else h.relu())


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("stride", "is static in the top level: shape of aten.reshape.default is no multiple of a size"),
        ("scale", "is static in the top level: other of aten.mul.Tensor was computed from it"),
        ("branch", "is static: at 17, aten.relu.default takes the place of aten.linear.default"),
    ],
)
def test_what_cannot_be_followed_is_said(how: str, why: str) -> None:
    torch.manual_seed(0)
    cut = cut_at_random(Rounded(how).eval(), tokens(2, 7), seed=1, mode="graph")
    assert len(cut.surgery.static) == 1
    assert why in cut.surgery.static[0]
    assert_exact_at(cut, tokens(3, 7))


def test_images_are_captured_for_the_batch_alone() -> None:
    spec = NetSpec("image", (0,), width=4)
    model, x = spec.build(), spec.inputs()
    assert [o.name for o in growth(model, capture(model, x), x).others] == ["dim 0 of the inputs (size 2)"]


def test_checkpoints_that_know_the_batch_alone_are_still_read(tmp_path: Path) -> None:
    cut = cut_at_random(ATTENTION.build(), tokens(2, 7), seed=1)
    path = save(cut, tmp_path / "small") / "graph.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    stored = data["growth"]
    assert len(stored["names"]) == 2
    rows = [*(row for node in stored["literals"].values() for row in node.values()), *stored["shapes"]]
    for row in rows:
        row.pop()
    for name, node in stored["literals"].items():
        stored["literals"][name] = {k: v for k, v in node.items() if v[0] != v[1]}
    del stored["names"]
    rewritten(tmp_path / "small", json.dumps(data))
    loaded = load(tmp_path / "small", ATTENTION.build())
    x = tokens(3, 7)
    assert torch.equal(loaded(x), cut.model(x))
    stored["names"] = ["dim 0", "dim 1"]
    rewritten(tmp_path / "small", json.dumps(data))
    with pytest.raises(ModelError, match="a size without its value in each of 2 variations"):
        load(tmp_path / "small", ATTENTION.build())


def rewritten(folder: Path, text: str) -> None:
    """Put another graph.json into a checkpoint, with the mark that goes with it."""
    (folder / "graph.json").write_text(text, encoding="utf-8")
    header = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    mark = FileMark.of(folder / "graph.json")
    header["files"]["graph.json"] = {"size_bytes": mark.size_bytes, "sha256": mark.sha256}
    (folder / "checkpoint.json").write_text(json.dumps(with_sum(header)), encoding="utf-8")
