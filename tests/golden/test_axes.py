"""The axes of six well-known blocks, as text to read: PRUNUS_REGENERATE=1 writes the files anew; look at the diff."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_cuts import assert_exact, half_of
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.graph.layout import Expr, Prod, Sum

FOLDER = Path(__file__).parent / "axes"


class Bottleneck(nn.Module):
    """As in a ResNet: 1×1, 3×3, 1×1, with a projected shortcut where the width changes."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Conv2d(width, out, 1, bias=False) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.shortcut(x))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        Bottleneck(8, 4, 16),
        Bottleneck(16, 6, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


class Encoder(nn.Module):
    """As in a ViT: class token, positions, pre-norm attention with one projection for q, k and v, MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 12)), nn.Parameter(torch.zeros(1, 5, 12))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.fc1, self.fc2, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        q, k, v = self.qkv(self.norm1(x)).reshape(len(x), 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 5, 12))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Decoder(nn.Module):
    """As in a Llama: grouped queries, rotary positions, RMS norm, gated MLP, embedding tied to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.norm1, self.norm2 = nn.RMSNorm(16), nn.RMSNorm(16)
        self.q, self.k, self.v = (nn.Linear(16, n, bias=False) for n in (24, 12, 12))
        self.o = nn.Linear(24, 16, bias=False)
        self.gate, self.up, self.down = nn.Linear(16, 20), nn.Linear(16, 20), nn.Linear(20, 16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight
        angles = torch.arange(5)[:, None] * torch.rand(3)
        self.register_buffer("angles", torch.cat([angles, angles], -1), persistent=False)

    def _turned(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, -1)
        return x * self.angles.cos() + torch.cat([-two, one], -1) * self.angles.sin()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        y = self.norm1(x)
        q, k, v = (f(y).view(len(ids), 5, -1, 6).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(2, 1) for t in (self._turned(k), v))
        z = F.scaled_dot_product_attention(self._turned(q), k, v, is_causal=True)
        x = x + self.o(z.transpose(1, 2).reshape(len(ids), 5, -1))
        y = self.norm2(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


class Recurrent(nn.Module):
    """A tagger: embedding, LSTM of two layers in both directions, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids))[0])


class Shuffled(nn.Module):
    """As in a ShuffleNetV2: split in halves, transform one, join, shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pointwise, self.depthwise = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.last, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        right = self.last(self.norm(self.depthwise(F.relu(self.pointwise(right)))))
        x = torch.cat([left, right], 1)
        batch, width, height, columns = x.shape
        x = x.view(batch, 2, width // 2, height, columns).transpose(1, 2).reshape(batch, width, height, columns)
        return self.head(x).mean((2, 3))


class Windows(nn.Module):
    """As in a Swin: shifted windows of 2×2, attention with a bias for every relative position, patches merged 2×2."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.zeros(9, 2))
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = place[:, :, None] - place[:, None] + 1
        self.register_buffer("apart", apart[0] * 3 + apart[1])
        self.fc1, self.fc2 = nn.Linear(8, 12), nn.Linear(12, 8)
        self.merged, self.reduction = nn.LayerNorm(32), nn.Linear(32, 16, bias=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def _attended(self, x: Tensor) -> Tensor:
        windows = torch.roll(x, (-1, -1), (1, 2)).view(len(x), 2, 2, 2, 2, 8).transpose(2, 3).reshape(-1, 4, 8)
        q, k, v = self.qkv(windows).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        bias = self.bias[self.apart.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        scores = (q * 0.5 @ k.transpose(-2, -1) + bias[None]).softmax(-1)
        y = self.proj((scores @ v).transpose(1, 2).reshape(-1, 4, 8))
        y = y.view(len(x), 2, 2, 2, 2, 8).transpose(2, 3).reshape(len(x), 4, 4, 8)
        return torch.roll(y, (1, 1), (1, 2))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).permute(0, 2, 3, 1)
        x = x + self._attended(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.head(self.norm(self.reduction(self.merged(x))).mean((1, 2)))


IDS = torch.arange(10).reshape(2, 5)
BLOCKS = {
    "resnet": (resnet, torch.randn(2, 3, 8, 8)),
    "vit": (Encoder, torch.randn(2, 3, 8, 8)),
    "gqa_decoder": (Decoder, IDS),
    "lstm": (Recurrent, IDS),
    "swin": (Windows, torch.randn(2, 3, 8, 8)),
    "shufflenet": (Shuffled, torch.randn(2, 3, 6, 6)),
}


def written(coupling: Coupling, expr: Expr) -> str:
    """Write a dim: axes by name, what cannot go by its size."""
    if isinstance(expr, int):
        return f"[{coupling.axis_of[expr]}]" if expr in coupling.axis_of else str(coupling.sizes[expr])
    if isinstance(expr, Prod):
        texts = [f"({written(coupling, f)})" if isinstance(f, Sum) else written(coupling, f) for f in expr.factors]
        return " × ".join(texts) or "1"
    return " + ".join(written(coupling, t) for t in expr.terms)


def listing(coupling: Coupling) -> str:
    """List every axis with its size and members, then what is frozen and why."""
    lines = []
    for axis in coupling.axes.values():
        lines.append(f"{axis.id}  {axis.size} units" + ("  (a norm averages over it)" if axis.statistic else ""))
        lines += [f"    {m.tensor}.{m.dim} = {written(coupling, m.expr)}" for m in axis.members]
    lines += [f"frozen {f.tensor}.{f.dim}: {f.reason}" for f in coupling.frozen]
    lines += [f"tied {alias} → {name}" for alias, name in coupling.graph.aliases.items()]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", BLOCKS)
def test_axes_are_as_written_down(name: str) -> None:
    build, inputs = BLOCKS[name]
    torch.manual_seed(0)
    model = build().eval()
    coupling = couple(capture(model, inputs))
    found, file = listing(coupling), FOLDER / f"{name}.txt"
    if os.environ.get("PRUNUS_REGENERATE") == "1":
        file.write_text(found, encoding="utf-8")
    expected = file.read_text(encoding="utf-8")
    diff = "\n".join(difflib.unified_diff(expected.splitlines(), found.splitlines(), file.name, "found", lineterm=""))
    assert found == expected, f"{diff}\nIf this is meant, run again with PRUNUS_REGENERATE=1 and read the diff."
    assert_exact(model, inputs, coupling, half_of(coupling))


def test_no_listing_is_left_behind() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(BLOCKS)
