"""Attention, recurrent layers, embeddings: heads, groups, head dims and states are found and cut exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from factories_cuts import prove

torch.set_num_threads(1)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, between two linear layers."""

    def __init__(self, heads: int, groups: int, width: int, *, rotary: bool = False, native: bool = False) -> None:
        super().__init__()
        self.heads, self.groups, self.width, self.native = heads, groups, width, native
        self.q = nn.Linear(6, heads * width)
        self.k = nn.Linear(6, groups * width)
        self.v = nn.Linear(6, groups * width)
        self.o = nn.Linear(heads * width, 4)
        self.rotary = rotary
        self.register_buffer("rates", torch.rand(width // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (f(x).view(batch, length, -1, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.rotary:
            angle = torch.arange(length)[:, None] * self.rates
            angle = torch.cat([angle, angle], -1)
            q, k = (t * angle.cos() + self._turn(t) * angle.sin() for t in (q, k))
        times = self.heads // self.groups
        if not self.native and times > 1:
            k, v = (t.repeat_interleave(times, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.native)
        return self.o(y.transpose(1, 2).reshape(batch, length, -1))

    def _turn(self, t: torch.Tensor) -> torch.Tensor:
        half = self.width // 2
        return torch.cat([-t[..., half:], t[..., :half]], -1)


TOKENS = torch.randn(2, 5, 6)


def test_heads_and_head_dims() -> None:
    prove(Attention(3, 3, 4), TOKENS, axes={"q:out[0]": 3, "q:out[1]": 4, "v:out[1]": 4})


@pytest.mark.parametrize("native", [False, True])
def test_grouped_queries(native: bool) -> None:
    axes = {"q:out[0]": 2, "q:out[1]": 3, "q:out[2]": 4, "v:out[1]": 4}
    prove(Attention(6, 2, 4, native=native), TOKENS, axes=axes)


def test_rotary_pairs_stay_together() -> None:
    prove(Attention(3, 3, 8, rotary=True), TOKENS, axes={"q:out[0]": 3, "q:out[1]": 4, "v:out[1]": 8})


class Fused(nn.Module):
    """One projection for q, k and v, softmax written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o, self.norm = nn.Linear(6, 36), nn.Linear(12, 4), nn.LayerNorm(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, 3, 4).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 2).softmax(-1)
        return self.o(self.norm((weights @ v).transpose(1, 2).reshape(batch, length, 12)))


def test_a_fused_projection_shares_heads() -> None:
    prove(Fused(), TOKENS, axes={"qkv:out[1]": 3, "qkv:out[2]": 4})


def test_torch_multihead_attention() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(6, 12)
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
            self.fc = nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.stem(x)
            return self.fc(self.attention(y, y, y, need_weights=False)[0])

    coupling = prove(
        Net(),
        TOKENS,
        axes={
            "stem:out": 12,
            "attention:in_proj_weight.0[1]": 3,
            "attention:in_proj_weight.0[2]": 4,
            "attention.out_proj:out": 12,
        },
    )
    assert coupling.coverage() > 0.9


def test_transformer_encoder_layers() -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Linear(6, 12), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(12, 4))
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    sizes = sorted(a.size for a in couple(capture(net.eval(), TOKENS)).axes.values())
    assert sizes == [3, 3, 4, 4, 12, 20, 20]


class Recurrent(nn.Module):
    """A recurrent layer and a classifier on its last step and its states."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.fc = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer(x)[0])


RECURRENT = {
    "lstm": (nn.LSTM(6, 8, batch_first=True), 8, [8]),
    "gru": (nn.GRU(6, 8, batch_first=True), 8, [8]),
    "rnn": (nn.RNN(6, 8, batch_first=True, nonlinearity="relu"), 8, [8]),
    "two layers": (nn.LSTM(6, 8, num_layers=2, batch_first=True), 8, [8]),
    "both ways": (nn.GRU(6, 8, batch_first=True, bidirectional=True), 16, [8]),
    "both ways, two layers": (nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True), 16, [8]),
    "projected": (nn.LSTM(6, 8, batch_first=True, proj_size=4), 4, [4, 8]),
    "without biases": (nn.LSTM(6, 8, batch_first=True, bias=False), 8, [8]),
    "time first": (nn.GRU(6, 8), 8, [8]),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name: str) -> None:
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    layer, width, sizes = RECURRENT[name]
    net = Recurrent(layer, width).eval()
    axes = {a.id: a.size for a in couple(capture(net, TOKENS)).axes.values()}
    assert sorted(axes.values()) == sizes
    prove(net, TOKENS, axes=axes)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(kind: type[nn.Module]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.fc = kind(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.fc(state[0] if isinstance(state, tuple) else state)

    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple

    net = Net().eval()
    axes = {a.id: a.size for a in couple(capture(net, TOKENS)).axes.values()}
    assert list(axes.values()) == [8]
    prove(net, TOKENS, axes=axes)


class Language(nn.Module):
    """A language model whose output weights are its embedding."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(20, 8), nn.Embedding(5, 8)
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)
        self.head = nn.Linear(8, 20, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        return self.head(x + self.down(F.gelu(self.up(x))))


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_follow_the_width(tied: bool) -> None:
    ids = torch.randint(0, 20, (2, 5))
    net = Language(tied=tied)
    coupling = prove(net, ids, axes={"embed:out": 8, "up:out": 10})
    members = {m.tensor for m in coupling.axis("embed:out").members}
    assert {"embed.weight", "position.weight", "up.weight", "down.weight"} <= members
    assert ("head.weight" in members) is not tied
    assert coupling.graph.aliases == ({"head.weight": "embed.weight"} if tied else {})


def test_embedding_bags() -> None:
    net = nn.Sequential(nn.EmbeddingBag(20, 8, mode="mean"), nn.Linear(8, 3))
    prove(net, torch.randint(0, 20, (2, 5)), axes={"0:out": 8})
