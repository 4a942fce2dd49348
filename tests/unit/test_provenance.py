"""Where the numbers of a program come from, seen on a twin that leaves the model alone."""

from __future__ import annotations

import copy
import math
import pickle
import threading
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.graph.capture import capture
from prunus.graph.provenance import Provenance, provenance
from prunus.graph.traced import Attribute, Trace, TracedInt, plain


def known(model: nn.Module, *inputs: Any) -> tuple[Any, Provenance]:
    graph = capture(model.eval(), inputs)
    return graph, provenance(model, graph, inputs)


def told(model: nn.Module, *inputs: Any) -> dict[str, list[str]]:
    """Return op → the origins of its numbers, as text."""
    graph, found = known(model, *inputs)
    assert not found.why
    by_op: dict[str, list[str]] = {}
    for (name, key, position), origin in found.origins.items():
        place = key if position is None else f"{key}[{position}]"
        by_op.setdefault(graph.node(name).op.split(".")[1], []).append(f"{place} = {origin}")
    return by_op


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.config = types.SimpleNamespace(heads=3, other={"width": 4})
        self.parts = (12, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, kv = self.qkv(x).split(self.parts, -1)
        q = q.view(x.shape[0], x.size(1), self.config.heads, self.config.other["width"])
        scale = (q.shape[-1] * 2) ** -0.5
        return (q.flatten(2) * scale + kv[..., : self.parts[0]]) / math.sqrt(self.config.heads)


def test_attributes_settings_sizes_slices_and_floats_are_seen() -> None:
    found = told(Heads(), torch.randn(5, 7, 12))
    assert found["split_with_sizes"] == ["split_sizes[0] = parts[0]", "split_sizes[1] = parts[1]"]
    assert found["view"] == [
        "size[0] = input_0.shape[0]",
        "size[1] = input_0.shape[1]",
        "size[2] = config.heads",
        "size[3] = config.other[width]",
    ]
    assert found["slice"] == ["end = parts[0]"]
    assert found["mul"] == ["other = ((view_0.shape[3] * 2) ** -0.5)"]
    assert found["div"] == ["other = (config.heads ** 0.5)"]


def test_a_number_is_matched_by_its_place_not_by_its_value() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=2, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    found = told(Strided(), torch.randn(2, 4, 9, 9))["conv2d"]
    assert "groups = conv.groups" in found
    assert "stride[0] = conv.stride[0]" in found
    assert "padding[1] = conv.padding[1]" in found


def test_the_model_is_left_alone_and_may_run_meanwhile() -> None:
    class Noting(Heads):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.config.heads
            return super().forward(x)

    model, x = Noting().eval(), torch.randn(5, 7, 12)
    before, kinds = dict(vars(model)), []

    def look() -> None:
        for _ in range(200):
            kinds.append({type(model.config.heads), type(model.parts[0]), type(model(x))})

    graph = capture(model, (x,))  # capture lends the modules tensors of its own; what follows lends them nothing
    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(3):
        provenance(model, graph, (x,))
    thread.join()
    assert {k for found in kinds for k in found} == {int, Tensor}
    assert {k: v for k, v in vars(model).items() if k != "seen"} == before
    assert type(model.seen) is int


def test_a_forward_that_fails_leaves_nothing_behind() -> None:
    class Fails(Heads):
        def forward(self, x: Tensor) -> Tensor:
            if type(self.config.heads) is not int:
                raise ValueError("no such number")
            return super().forward(x)

    model, x = Fails(), torch.randn(5, 7, 12)
    _, found = known(model, x)
    assert "no such number" in found.why
    assert not found.origins
    assert type(model.config.heads) is int


def test_traced_numbers_are_plain_for_copies_pickles_and_once_the_trace_is_closed() -> None:
    trace = Trace()
    number = trace.attribute(6, Attribute("a", "n"))
    assert pickle.loads(pickle.dumps(number)) == 6
    for other in (copy.copy(number), copy.deepcopy([number])[0], plain(number)):
        assert type(other) is int
    assert {6: "six"}[number] == "six"
    assert isinstance(number * 2, TracedInt)
    trace.open = False
    assert type(number * 2) is int


@pytest.mark.parametrize("expression", ["n + 2", "2 * n", "n // 4", "n % 5", "-n", "3 - n", "n ** 2", "24 // n"])
def test_arithmetic_is_that_of_integers(expression: str) -> None:
    number = Trace().attribute(8, Attribute("", "n"))
    found = eval(expression, {"n": number})
    assert plain(found) == eval(expression, {"n": 8})
    assert "n" in str(found.origin)
