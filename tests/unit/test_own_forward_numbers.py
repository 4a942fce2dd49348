"""Where modules hold numbers, and how code computes with them: what is mended, and what freezes an axis."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import sys
import types
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from factories_own_forward import keep_forward, terms_of
from prunus.exporters.checkpoint import save
from prunus.exporters.restore import load
from prunus.surgery.keeping.mending import mend_


class Grouped(nn.Module):
    """A layer whose 16 outputs are seen as 4 groups of 4; subclasses say how the code names them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(10, 16), nn.Linear(16, 3)
        self.init()

    def init(self) -> None:
        raise NotImplementedError

    def view(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.view(self.up(x)).softmax(-1).flatten(-2))


class TorchSize(Grouped):
    def init(self) -> None:
        self.sizes = torch.Size([4, 4])

    def view(self, h: Tensor) -> Tensor:
        return h.view(*h.shape[:-1], *self.sizes)


class Dims(NamedTuple):
    kind: str
    groups: int


class Named(Grouped):
    def init(self) -> None:
        self.dims = Dims("groups", 4)

    def view(self, h: Tensor) -> Tensor:
        return h.view(*h.shape[:-1], self.dims.groups, -1)


class OfClass(Grouped):
    groups = 4

    def init(self) -> None: ...

    def view(self, h: Tensor) -> Tensor:
        return h.view(*h.shape[:-1], self.groups, -1)


@dataclasses.dataclass(frozen=True)
class Spec:
    groups: int = 4


class OfRecord(Grouped):
    def init(self) -> None:
        self.spec = Spec()

    def view(self, h: Tensor) -> Tensor:
        return h.view(*h.shape[:-1], self.spec.groups, -1)


class OfProperty(Grouped):
    def init(self) -> None:
        self.inner, self.groups = 16, 4

    @property
    def width(self) -> int:
        return self.inner // self.groups

    def view(self, h: Tensor) -> Tensor:
        return h.view(*h.shape[:-1], self.groups, self.width)


class Rounded(Grouped):
    """Quotients as floats, made whole again in four ways."""

    how: Any = int

    def init(self) -> None:
        self.groups = 4

    def view(self, h: Tensor) -> Tensor:
        return h.view(*h.shape[:-1], self.groups, self.how(h.shape[-1] / self.groups))


class Floored(Rounded):
    how = math.floor


class Ceiled(Rounded):
    how = math.ceil


class ToEven(Rounded):
    how = round


class Divided(Grouped):
    def init(self) -> None:
        self.groups = 4

    def view(self, h: Tensor) -> Tensor:
        width, _ = divmod(h.shape[-1], self.groups)
        return h.view(*h.shape[:-1], int(self.groups), width)


class Listed(Grouped):
    """As many layers as an attribute says, from a list."""

    def init(self) -> None:
        self.layers, self.count, self.groups = nn.ModuleList(nn.Linear(16, 16) for _ in range(3)), 2, [7, 4]

    def view(self, h: Tensor) -> Tensor:
        for i in range(self.count):
            h = self.layers[i](h)
        return h.view(*h.shape[:-1], self.groups[-1], -1)


KINDS = [TorchSize, Named, OfClass, OfRecord, OfProperty, Rounded, Floored, Ceiled, ToEven, Divided, Listed]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_mended_where_they_are_held(kind: type[Grouped], tmp_path: Any) -> None:
    model, x = kind(), torch.randn(2, 10)
    done = keep_forward(model, (x,), head_dims="free")
    # Softmax sees every unit of a group, so groups go, not units.
    assert done.model.up.out_features == 8
    assert done.surgery.mended
    assert model(x).shape == (2, 3)  # the user's own numbers are as they were
    save(done, tmp_path / "small")
    again = load(tmp_path / "small", kind())
    torch.testing.assert_close(again.eval()(x), done.model.eval()(x), rtol=0, atol=0)


def test_a_number_of_the_class_is_mended_on_the_module_alone() -> None:
    done = keep_forward(OfClass(), (torch.randn(2, 10),))
    assert (done.model.groups, OfClass.groups, OfClass().groups) == (2, 4, 4)


def test_a_share_of_a_width_has_no_formula_and_says_so() -> None:
    class Share(Grouped):
        def init(self) -> None:
            self.share = 0.25

        def view(self, h: Tensor) -> Tensor:
            return h.view(*h.shape[:-1], int(h.shape[-1] * self.share), -1)

    _, own = terms_of(Share(), (torch.randn(2, 10),))
    assert "size is computed as ((linear_0.shape[1] * 0.25) round 1)" in own.frozen["up:out[0]"].reason


def test_a_number_of_the_code_is_not_taken_for_one_that_another_function_computes() -> None:
    class Written(Grouped):
        def init(self) -> None:
            self.groups = 4

        def view(self, h: Tensor) -> Tensor:
            return h.view(*h.shape[:-1], 4, -1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (int(self.groups) > 2)

    _, own = terms_of(Written(), (torch.randn(2, 10),))
    assert "the code writes 4 as size of view" in own.frozen["up:out[0]"].reason


def test_numbers_are_followed_through_the_cache_of_einops(monkeypatch: pytest.MonkeyPatch) -> None:
    # Einops itself is no dependency: this stands for the one function of it that is cached by size.
    module: Any = types.ModuleType("einops.einops")
    module._reconstruct_from_shape = functools.lru_cache(
        lambda shape, groups: [*shape[:-1], groups, shape[-1] // groups]
    )
    cached = module._reconstruct_from_shape
    monkeypatch.setitem(sys.modules, "einops.einops", module)

    class Rearranged(Grouped):
        def init(self) -> None:
            self.groups = 4

        def view(self, h: Tensor) -> Tensor:
            return h.reshape(module._reconstruct_from_shape(tuple(h.shape), self.groups))

    model = Rearranged().eval()
    model(torch.randn(2, 10))
    done = keep_forward(model, (torch.randn(2, 10),))
    assert done.model.groups == 2
    assert module._reconstruct_from_shape is cached


class Split(nn.Module):
    """A stand-in for ``einops.layers.torch.Rearrange("b (g n) -> b g n", g=…)``, with the state that einops keeps."""

    __module__ = "einops.layers.torch"

    def __init__(self, **axes_lengths: int) -> None:
        super().__init__()
        self.axes_lengths = axes_lengths
        self._axes_lengths = tuple(axes_lengths.items())

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), dict(self._axes_lengths)["g"], -1)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.axes_lengths)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def test_layers_of_einops_hold_their_lengths_twice() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 12), Split(g=4), nn.Softmax(-1), nn.Flatten(), nn.Linear(12, 3)).eval()

    model, x = network(), torch.randn(2, 10)
    done = keep_forward(model, (x,))
    layer = done.model[1]
    assert (layer.axes_lengths, layer._axes_lengths) == ({"g": 2}, (("g", 2),))
    assert model[1].axes_lengths == {"g": 4}  # type: ignore[index, union-attr]
    assert torch.equal(copy.deepcopy(done.model)(x), done.model(x))
    assert [str(m.name) for m in done.surgery.mended] == ["axes_lengths[g]"]
    restored = mend_(network(), done.surgery.mended)
    assert restored == done.surgery.mended
