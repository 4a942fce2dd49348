"""Computing in another float type: equal to torch with that default type, and seen by one thread alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from prunus.surgery.proving.precision import computing_in, small_images

N, X = torch.arange(6).view(2, 3), torch.rand(2, 3, dtype=torch.float64)
NEW = (
    *(
        "torch.zeros(3)",
        "torch.ones(2, 3)",
        "torch.rand(3)",
        "torch.randn(3)",
        "torch.linspace(0, 1, 5)",
        "torch.eye(3)",
    ),
    *(
        "torch.tensor(1.5)",
        "torch.tensor([1, 2])",
        "torch.tensor([1, .1])",
        "torch.as_tensor([.1])",
        "torch.tensor(1j)",
    ),
    *("torch.full((2,), .1)", "torch.full((2,), 1)", "torch.arange(3)", "torch.arange(3.)", "torch.arange(0, 1, .1)"),
    *("N / 2", "N / N", "N * 0.1", "0.1 * N", "N.sqrt()", "torch.sigmoid(N)", "(N > 2) * 0.5", "N ** -1.0", "N + 1"),
    *("torch.where(N > 2, 0.1, 1.0)", "torch.where(N > 2, X, 0.)", "N.new_zeros(3)", "torch.zeros_like(N)", "X * N"),
    *("torch.hann_window(4)", "torch.normal(0., 1., (3,))", "torch.empty(3).uniform_()", "torch.bernoulli(X)"),
    *("F.interpolate(X[None], scale_factor=2.)", "F.grid_sample(X[None, None], torch.zeros(1, 2, 2, 2))"),
    *("F.scaled_dot_product_attention(X, X, X, is_causal=True)", "F.one_hot(N)", "torch.tensor(2) * 0.1"),
)


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize("text", NEW)
def test_new_tensors_are_those_of_another_default_type(text: str) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        expected = eval(text)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    with computing_in(torch.float64):
        found = eval(text)
    assert found.dtype == expected.dtype
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert F is not None


def test_another_thread_keeps_its_type() -> None:
    seen = []
    with computing_in(torch.float64):
        thread = threading.Thread(target=lambda: seen.extend([torch.get_default_dtype(), torch.zeros(1).dtype]))
        thread.start()
        thread.join()
        assert torch.zeros(1).dtype is torch.float64
    assert seen == [torch.float32, torch.float32]


@pytest.mark.parametrize(
    ("shape", "out", "kernel", "options"),
    [
        ((2, 32, 5, 4), 32, (3, 3), {"padding": 1}),
        ((1, 32, 9, 6), 64, (3, 2), {"stride": (2, 3), "padding": (0, 1), "dilation": (2, 1)}),
        ((3, 64, 4, 4), 32, (1, 1), {}),
        ((1, 48, 3, 3), 48, (7, 7), {"padding": 3}),
        ((3, 10, 5, 4), 7, (3, 2), {"padding": (1, 0), "stride": (2, 1)}),
        ((2, 10, 4, 4), 7, (1, 1), {}),
    ],
)
def test_small_images_are_convolved_as_one_product(
    shape: tuple[int, ...], out: int, kernel: tuple[int, int], options: dict[str, Any]
) -> None:
    groups = {32: 32, 64: 32, 48: 48, 10: 1}[shape[1]]
    x, w = torch.randn(shape).double(), torch.randn(out, shape[1] // groups, *kernel).double()
    bias = torch.randn(out).double()
    expected = F.conv2d(x, w, bias, groups=groups, **options)
    sizes = {
        name: _pair(options.get(name, default)) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    found = small_images(x, w, bias, *sizes.values(), False, (0, 0), groups)
    assert found is not None
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
    assert found.stride() == expected.stride()
    with computing_in(torch.float64):
        assert torch.equal(F.conv2d(x, w, bias, groups=groups, **options), found)
    assert small_images(x.float(), w.float(), None, *sizes.values(), False, (0, 0), groups) is None
    assert small_images(x, w, None, *sizes.values(), True, (0, 0), groups) is None
    assert small_images(x.transpose(2, 3), w, None, *sizes.values(), False, (0, 0), groups) is None


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def test_large_images_and_few_groups_are_left_to_torch() -> None:
    one = ((1, 1), (0, 0), (1, 1), False, (0, 0))
    for groups, side in ((32, 30), (8, 3), (1, 3)):
        x, w = torch.randn(1, 32, side, side).double(), torch.randn(32, 32 // groups, 3, 3).double()
        assert small_images(x, w, None, *one, groups) is None


def test_gradients_pass_through_the_product() -> None:
    x, w = torch.randn(1, 32, 4, 4).double(), torch.randn(32, 1, 3, 3).double().requires_grad_()
    F.conv2d(x, w, groups=32).square().sum().backward()
    expected, w.grad = w.grad, None
    with computing_in(torch.float64):
        F.conv2d(x, w, groups=32).square().sum().backward()
    assert torch.allclose(w.grad, expected)  # type: ignore[arg-type]
