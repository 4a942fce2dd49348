"""Computing in another float type: equal to torch with that default type, and seen by one thread alone."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F

from prunus.surgery.proving.precision import computing_in

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
