"""Convolutions, pooling, padding, shuffles: the coupled axes are the right ones and cuts are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from factories_cuts import prove

torch.set_num_threads(1)


class Head(nn.Module):
    """A body between a first convolution and a linear classifier."""

    def __init__(self, body: nn.Module, out: int, start: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, start, 3, padding=1)
        self.body = body
        self.fc = nn.Linear(out, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.stem(x))
        return self.fc(self.body(y).mean((2, 3)))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


IMAGES = torch.randn(2, 3, 8, 8)
CASES = {
    "plain": (nn.Conv2d(12, 10, 3), 10, {"stem:out": 12, "body:out": 10}),
    "grouped": (
        nn.Conv2d(12, 16, 3, groups=4),
        16,
        {"stem:out[0]": 4, "stem:out[1]": 3, "body:out[1]": 4},
    ),
    "depthwise": (nn.Conv2d(12, 12, 3, groups=12), 12, {"stem:out": 12}),
    "depthwise multiplier": (nn.Conv2d(12, 24, 3, groups=12), 24, {"stem:out": 12, "body:out[1]": 2}),
    "transposed": (nn.ConvTranspose2d(12, 8, 2, stride=2), 8, {"stem:out": 12, "body:out": 8}),
    "transposed grouped": (
        nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2),
        8,
        {"stem:out[0]": 2, "stem:out[1]": 6, "body:out": 4},
    ),
    "pixel shuffle": (nn.Sequential(nn.Conv2d(12, 24, 1), nn.PixelShuffle(2)), 6, {"stem:out": 12, "body.0:out[0]": 6}),
    "pixel unshuffle": (nn.PixelUnshuffle(2), 48, {"stem:out": 12}),
    "channel shuffle": (nn.ChannelShuffle(3), 12, {"stem:out[0]": 3, "stem:out[1]": 4}),
    "shuffle by views": (
        Apply(lambda x: x.view(2, 3, 4, 8, 8).transpose(1, 2).reshape(2, 12, 8, 8)),
        12,
        {"stem:out[0]": 3, "stem:out[1]": 4},
    ),
    "padded places": (nn.Sequential(nn.ZeroPad2d(2), nn.MaxPool2d(3, 2)), 12, {"stem:out": 12}),
    "padded channels": (
        Apply(lambda x: F.pad(x, (0, 0, 0, 0, 2, 3))),
        17,
        {"stem:out": 12, "fc:in[0]": 2, "fc:in[2]": 3},
    ),
    "reflect": (
        nn.Sequential(nn.ReflectionPad2d(1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)),
        12,
        {"stem:out": 12},
    ),
    "adaptive pools": (
        Apply(lambda x: torch.cat([F.adaptive_avg_pool2d(x, 2), F.adaptive_max_pool2d(x, 2)], 1)),
        24,
        {"stem:out": 12},
    ),
    "unfold": (
        nn.Sequential(nn.Unfold(3, padding=1), nn.Unflatten(2, (8, 8))),
        108,
        {"stem:out": 12},
    ),
    "grid sample": (
        Apply(lambda x: F.grid_sample(x, torch.zeros(2, 4, 4, 2) + 0.1, align_corners=False)),
        12,
        {"stem:out": 12},
    ),
    "squeeze excite": (
        Apply(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
        12,
        {"stem:out": 12},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_image_nets_are_cut_exactly(name: str) -> None:
    body, out, axes = CASES[name]
    torch.manual_seed(0)
    prove(Head(body, out), IMAGES, axes=axes)


@pytest.mark.parametrize(("rank", "side"), [(1, (16,)), (3, (4, 4, 4))])
def test_other_ranks(rank: int, side: tuple[int, ...]) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
    torch.manual_seed(0)
    net = nn.Sequential(conv(4, 8, 3, padding=1), norm(8), nn.ReLU(), conv(8, 6, 1), nn.Flatten(2), nn.Flatten(1))
    wide = nn.Sequential(net, nn.Linear(6 * side[0] ** rank, 3))
    prove(wide, torch.randn(2, 4, *side), axes={"0.0:out": 8, "0.3:out": 6})


def test_a_residual_joins_its_branches() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(torch.relu(self.a(x)))

    coupling = prove(Head(Residual(), 12), IMAGES, axes={"stem:out": 12, "body.a:out": 8})
    assert {m.tensor for m in coupling.axis("stem:out").members} == {
        "stem.weight",
        "stem.bias",
        "body.a.weight",
        "body.b.weight",
        "body.b.bias",
        "fc.weight",
    }
