"""Random small networks: chains and DAGs of the usual pieces, reproducible from a frozen description."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation; the second convolution is depthwise where ``depthwise``."""

    def __init__(self, width: int, depthwise: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width * 2)
        groups = width * 2 if depthwise else 1
        self.back = nn.Conv2d(width * 2, width * 2, 3, padding=1, groups=groups)
        self.out = nn.Conv2d(width * 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.out(F.relu(self.back(F.relu(self.norm(self.conv(x)))))))


class Depthwise(ConvNorm):
    """A `ConvNorm` with a depthwise middle."""

    def __init__(self, width: int) -> None:
        super().__init__(width, depthwise=True)


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width + 2, 3, padding=1)
        self.b = nn.Conv2d(width + 2, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.b(F.relu(self.a(x)))))


class Branches(nn.Module):
    """Two branches side by side, concatenated and mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.Conv2d(width, width, 1)
        self.right = nn.Conv2d(width, width // 2, 3, padding=1)
        self.mix = nn.Conv2d(width + width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1))


class Grouped(nn.Module):
    """Grouped convolution and group norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(width, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 8)
        self.out = nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.grouped(self.into(x)))))


class Mlp(nn.Module):
    """Pre-norm residual two-layer perceptron over the last dim."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width * 3)
        self.down = nn.Linear(width * 3, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Gated(nn.Module):
    """Two halves of one projection, one gates the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, width * 2, bias=False)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(x).chunk(2, -1)
        return self.down(a * torch.sigmoid(b))


class Attention(nn.Module):
    """Self-attention whose forward remembers its sizes: cutting heads makes it stale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads, self.depth = 2, width // 2
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.register_buffer("slope", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.depth).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v) * self.slope
        return x + self.out(y.transpose(1, 2).reshape(batch, tokens, self.heads * self.depth))


class Recurrent(nn.Module):
    """A GRU between the pieces."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width + 2, batch_first=True)
        self.out = nn.Linear(width + 2, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0])


PIECES: dict[str, tuple[type[nn.Module], ...]] = {
    "image": (ConvNorm, Depthwise, Residual, Branches, Grouped),
    "vector": (Mlp, Gated),
    "sequence": (Attention, Recurrent, Mlp, Gated),
}


class Network(nn.Module):
    """Stem, pieces, head; ``tied`` uses the last piece's weights twice."""

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        image = spec.family == "image"
        self.stem: nn.Module = nn.Conv2d(3, spec.width, 3) if image else nn.Linear(5, spec.width)
        kinds = PIECES[spec.family]
        self.pieces = nn.ModuleList([kinds[i % len(kinds)](spec.width) for i in spec.choices])
        if spec.tied:
            self.pieces.append(self.pieces[0])
        self.head = nn.Linear(spec.width, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for piece in self.pieces:
            x = piece(x)
        if x.dim() == 4:
            x = x.mean((2, 3))
        elif x.dim() == 3:
            x = x.mean(1)
        return self.head(x)


@dataclass(frozen=True, slots=True)
class NetSpec:
    """Description of a random network: equal descriptions and seeds build equal networks."""

    family: str
    choices: tuple[int, ...]
    width: int = 6
    tied: bool = False

    @classmethod
    def random(cls, seed: int) -> NetSpec:
        """Draw a description."""
        rng = random.Random(seed)
        family = rng.choice(("image", "sequence", "sequence", "vector"))
        choices = tuple(rng.randrange(8) for _ in range(rng.randint(1, 3)))
        return cls(family, choices, rng.choice((4, 6, 8)), rng.random() < 0.3)

    def build(self, seed: int = 0) -> Network:
        """Build the network in eval mode, with norms that do not start at 0 and 1."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Network(self).eval()
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    if tensor.is_floating_point():
                        tensor.add_(torch.rand_like(tensor) * 0.3)
        return model

    def inputs(self, batch: int = 2, seed: int = 0) -> Tensor:
        """Return example inputs."""
        shapes = {"image": (batch, 3, 7, 7), "vector": (batch, 5), "sequence": (batch, 4, 5)}
        return torch.randn(shapes[self.family], generator=torch.Generator().manual_seed(seed))
