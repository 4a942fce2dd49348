"""Random DAGs of small pieces: every step reads earlier values, adds or joins some, and may feed any later one."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Shuffle(nn.Module):
    """Swap two halves of the channels, as channel shuffles do."""

    def forward(self, x: Tensor) -> Tensor:
        batch, width, *rest = x.shape
        return x.view(batch, 2, width // 2, *rest).transpose(1, 2).reshape(x.shape)


class Excite(nn.Module):
    """Scale each channel by what the averages of all say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Uneven(nn.Module):
    """Split at an odd place, transform the first part, swap the two."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.sizes, self.dim = (width // 2 - 1, width - width // 2 + 1), dim

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.split(self.sizes, self.dim)
        return torch.cat([second, F.relu(first)], self.dim)


class Gate(nn.Module):
    """One half opens the other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, self.dim)
        return a * torch.sigmoid(b)


class GroupedAttention(nn.Module):
    """Grouped queries: four heads over two key-value heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(width, 12), nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, 4, 3).transpose(1, 2)
        k, v = self.kv(x).view(batch, tokens, 2, 2, 3).permute(2, 0, 3, 1, 4)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.o(y.transpose(1, 2).reshape(batch, tokens, -1))


class First(nn.Module):
    """The output sequence of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class OverTokens(nn.Module):
    """A one-dim convolution over the tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class RootMeanSquare(nn.Module):
    """A hand-written RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


Piece = Callable[[int, int], nn.Module]

# (width in, wished width out) → piece; widths in are even and at least 4. Pieces keep the space, not the width.
IMAGE: tuple[Piece, ...] = (
    lambda w, o: nn.Conv2d(w, o, 3, padding=1),
    lambda w, o: nn.Conv2d(w, o, 1, bias=False),
    lambda w, o: nn.Sequential(nn.Conv2d(w, w, 3, padding=1, groups=w), nn.ReLU6()),
    lambda w, o: nn.Conv2d(w, o, 3, padding=1, groups=2),
    lambda w, o: nn.Sequential(nn.BatchNorm2d(w), nn.SiLU()),
    lambda w, o: nn.GroupNorm(2, w),
    lambda w, o: nn.Sequential(nn.PReLU(w), nn.Dropout(0.2)),
    lambda w, o: Excite(w),
    lambda w, o: Shuffle(),
    lambda w, o: Uneven(w, 1),
    lambda w, o: nn.Sequential(nn.Conv2d(w, 2 * o, 1), Gate(1)),
    lambda w, o: nn.Sequential(nn.ConvTranspose2d(w, o, 2, 2), nn.MaxPool2d(2)),
    lambda w, o: nn.Sequential(nn.Conv2d(w, 4 * o, 1), nn.PixelShuffle(2), nn.AvgPool2d(2)),
)
TOKENS: tuple[Piece, ...] = (
    lambda w, o: nn.Linear(w, o),
    lambda w, o: nn.Sequential(nn.LayerNorm(w), nn.Linear(w, 2 * o), nn.GELU(), nn.Linear(2 * o, o)),
    lambda w, o: nn.Sequential(nn.Linear(w, 2 * o), nn.GLU(-1)),
    lambda w, o: RootMeanSquare(w),
    lambda w, o: GroupedAttention(w),
    lambda w, o: nn.MultiheadAttention(w, 2, batch_first=True),
    lambda w, o: First(nn.LSTM(w, o, batch_first=True, bidirectional=True)),
    lambda w, o: First(nn.GRU(w, o, batch_first=True)),
    lambda w, o: OverTokens(w),
    lambda w, o: Uneven(w, -1),
)


class RandomNet(nn.Module):
    """A random DAG, reproducible from its seed; every value that nobody read ends in the classifier.

    Shapes: images (B, 3, 6, 6) or tokens (B, 5, 4) → (B, 4).
    """

    def __init__(self, seed: int, steps: int = 6) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.image = rng.random() < 0.5
        self.dim = 1 if self.image else -1
        pieces = IMAGE if self.image else TOKENS
        self.stem: nn.Module = nn.Conv2d(3, 6, 3, padding=1) if self.image else nn.Linear(4, 6)
        self.pieces = nn.ModuleList()
        self.plan: list[tuple[str, tuple[int, ...]]] = []
        widths = [6]
        for _ in range(steps):
            how = rng.choice(("piece", "piece", "piece", "add", "times", "cat"))
            first, second = rng.randrange(max(0, len(widths) - 3), len(widths)), rng.randrange(len(widths))
            if how in ("add", "times") and (first == second or widths[first] != widths[second]):
                how = "piece"
            piece: nn.Module = nn.Identity()
            if how == "piece":
                piece, second = rng.choice(pieces)(widths[first], rng.choice((4, 6, 8))), first
            self.pieces.append(piece)
            self.plan.append((how, (first, second)))
            widths.append(self._width(how, piece, widths[first], widths[second]))
        read = {i for _, places in self.plan for i in places}
        self.ends = [i for i in range(len(widths)) if i not in read]
        self.head = nn.Linear(sum(widths[i] for i in self.ends), 4)

    def _width(self, how: str, piece: nn.Module, first: int, second: int) -> int:
        if how == "cat":
            return first + second
        shape = (1, first, 6, 6) if self.image else (1, 5, first)
        with torch.no_grad():
            out = piece.eval()(*self._inputs(piece, torch.zeros(shape)))
        return (out[0] if isinstance(out, tuple) else out).shape[self.dim]

    @staticmethod
    def _inputs(piece: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return (x, x, x) if isinstance(piece, nn.MultiheadAttention) else (x,)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.stem(x)]
        for piece, (how, (i, j)) in zip(self.pieces, self.plan, strict=True):
            if how == "cat":
                values.append(torch.cat([values[i], values[j]], self.dim))
            elif how == "piece":
                out = piece(*self._inputs(piece, values[i]))
                values.append(out[0] if isinstance(out, tuple) else out)
            else:
                values.append(values[i] + values[j] if how == "add" else values[i] * values[j])
        ends = torch.cat([values[i] for i in self.ends], self.dim)
        return self.head(ends.mean((2, 3) if self.image else 1))


def random_net(seed: int, steps: int = 6) -> RandomNet:
    """Build a network in eval mode, with norms that do not start at 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = RandomNet(seed, steps).eval()
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor) * 0.3)
    return model


def random_inputs(model: RandomNet, batch: int = 2, seed: int = 0) -> Tensor:
    """Return example inputs."""
    shape = (batch, 3, 6, 6) if model.image else (batch, 5, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
