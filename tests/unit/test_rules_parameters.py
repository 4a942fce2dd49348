"""Norms, parametrised, shared, unused and tied tensors: cuts are exact and nobody is forgotten."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from factories_cuts import assert_exact, half_of, prove
from prunus.graph.capture import capture
from prunus.graph.coupling import couple

torch.set_num_threads(1)
IMAGES = torch.randn(2, 3, 6, 6)


class Normed(nn.Module):
    """Convolution, norm, convolution, mean, classifier."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 3), norm, nn.Conv2d(12, 6, 1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.b(F.gelu(self.norm(self.a(x))))).mean((2, 3)))


class ChannelLast(nn.Module):
    """A layer norm over the channels of an image."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS = {
    "batch": (nn.BatchNorm2d(12), {"a:out": 12}),
    "batch without statistics": (nn.BatchNorm2d(12, track_running_stats=False), {"a:out": 12}),
    "batch without scale": (nn.BatchNorm2d(12, affine=False), {"a:out": 12}),
    "group": (nn.GroupNorm(3, 12), {"a:out[0]": 3, "a:out[1]": 4}),
    "one group": (nn.GroupNorm(1, 12), {"a:out": 12}),
    "instance": (nn.InstanceNorm2d(12, affine=True), {"a:out": 12}),
    "instance tracked": (nn.InstanceNorm2d(12, affine=True, track_running_stats=True), {"a:out": 12}),
    "layer": (ChannelLast(nn.LayerNorm(12)), {"a:out": 12}),
    "root mean square": (ChannelLast(nn.RMSNorm(12)), {"a:out": 12}),
    "response": (nn.LocalResponseNorm(3), {}),
    "prelu": (nn.PReLU(12), {"a:out": 12}),
    "one prelu": (nn.PReLU(), {"a:out": 12}),
    "dropout": (nn.Dropout(0.5), {"a:out": 12}),
    "identity": (nn.Identity(), {"a:out": 12}),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str) -> None:
    norm, axes = NORMS[name]
    torch.manual_seed(0)
    prove(Normed(norm), IMAGES, axes={**axes, "b:out": 6})


def _parametrised(kind: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    if kind == "weight_norm":
        parametrizations.weight_norm(net[2])
    elif kind == "old weight_norm":
        torch.nn.utils.weight_norm(net[2])
    elif kind == "spectral_norm":
        parametrizations.spectral_norm(net[2])
    else:
        parametrizations.orthogonal(net[2])
    return net


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_weights_are_cut_exactly_or_frozen(kind: str) -> None:
    net = _parametrised(kind).eval()
    inputs = torch.randn(2, 5)
    coupling = couple(capture(net, inputs))
    sizes = sorted(a.size for a in coupling.axes.values())
    if kind == "orthogonal":
        assert sizes in ([], [8], [12], [8, 12])
    else:
        assert sizes == [8, 12]
    if sizes:
        assert_exact(net, inputs, coupling, half_of(coupling))


def test_a_module_used_twice_is_one_set_of_units() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.fc = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.tanh(self.shared(torch.tanh(self.shared(torch.tanh(self.stem(x)))))))

    prove(Twice(), torch.randn(2, 5), axes={"stem:out": 8})


def test_unused_parameters_stay_whole_and_stay() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
            self.mask_token = nn.Parameter(torch.zeros(1, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    net, inputs = Spare().eval(), torch.randn(2, 5)
    coupling = prove(net, inputs, axes={"a:out": 8})
    assert [f.reason for f in coupling.frozen if f.tensor == "mask_token"] == ["unused"]
    small = assert_exact(net, inputs, coupling, half_of(coupling))
    assert small.state_dict()["mask_token"].shape == (1, 8)


def test_free_parameters_join_what_they_are_added_to() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.place = nn.Parameter(torch.randn(1, 5, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.cat([self.token.expand(len(x), -1, -1), self.a(x)], 1) + self.place
            return self.b(y[:, 0])

    coupling = prove(Token(), torch.randn(2, 4, 5), axes={"a:out": 8})
    assert {m.tensor for m in coupling.axis("a:out").members} == {"a.weight", "a.bias", "b.weight", "token", "place"}


def test_a_training_mode_buffer_update_is_captured_in_eval() -> None:
    net = Normed(nn.BatchNorm2d(12)).train()
    capture(net, IMAGES)
    assert net.training
    assert int(net.norm.num_batches_tracked) == 0


def test_an_unknown_op_freezes_and_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.linalg.matrix_exp(self.a(x)))

    net, inputs = Odd().eval(), torch.randn(2, 6, 5)
    coupling = couple(capture(net, inputs))
    assert coupling.axes == {}
    assert list(coupling.unknown) == ["linalg_matrix_exp"]
    assert "in forward" in coupling.unknown["linalg_matrix_exp"]
