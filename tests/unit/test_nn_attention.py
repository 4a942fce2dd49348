"""Attention of any width: of torch's widths it is torch's, of others it is torch's with the other heads at zero."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from prunus.nn import Bypass, MultiheadAttention, Zero


def twins(**options: Any) -> tuple[nn.MultiheadAttention, MultiheadAttention]:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(24, 4, **options).eval()
    ours = MultiheadAttention(24, 4, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    for parameter in (*theirs.parameters(),):
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def same(left: Any, right: Any) -> None:
    for a, b in zip(left, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"bias": False},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"kdim": 10, "vdim": 14},
        {"kdim": 10, "vdim": 14, "add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    ],
)
@pytest.mark.parametrize("need_weights", [True, False])
def test_equal_widths_answer_as_torch_does(options: dict[str, Any], need_weights: bool) -> None:
    theirs, ours = twins(**options)
    first = options.get("batch_first", False)

    def sample(length: int, width: int) -> torch.Tensor:
        return torch.randn(3, length, width) if first else torch.randn(length, 3, width)

    query = sample(5, 24)
    key, value = sample(7, options.get("kdim", 24)), sample(7, options.get("vdim", 24))
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    rows = torch.zeros(5, 7, dtype=torch.bool)
    rows[:, 6] = True
    heads = torch.randn(12, 5, 7)
    for mask, pad, average in itertools.product((None, rows, rows.float(), heads), (None, padding), (True, False)):
        call: dict[str, Any] = {"attn_mask": mask, "need_weights": need_weights, "average_attn_weights": average}
        pad = pad if pad is None or mask is None or mask.dtype == torch.bool else torch.randn(3, 7)
        same(ours(query, key, value, pad, **call), theirs(query, key, value, pad, **call))


def test_self_attention_causal_unbatched_and_gradients() -> None:
    theirs, ours = twins()
    x = torch.randn(6, 24)
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    for needs, hint in itertools.product((True, False), (True, False)):
        call = {"attn_mask": causal, "need_weights": needs, "is_causal": hint}
        same(ours(x, x, x, **call), theirs(x, x, x, **call))
    ours(x, x, x)[0].sum().backward()
    theirs(x, x, x)[0].sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_free_widths_are_kept_through_copies_pickles_and_export() -> None:
    module = MultiheadAttention(20, 3, head_dim=5, value_dim=4, batch_first=True, scale=0.3).eval()
    assert module.in_proj_weight.shape == (42, 20)
    assert module.out_proj.weight.shape == (20, 12)
    x = torch.randn(2, 6, 20)
    out, weights = module(x, x, x)
    assert out.shape == (2, 6, 20)
    assert weights.shape == (2, 6, 6)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(x, x, x)[0], out)
    exported = torch.export.export(module, (x, x, x)).module()
    torch.testing.assert_close(exported(x, x, x)[0], out)


def test_way_back_to_torch_where_the_shape_allows() -> None:
    theirs, ours = twins(batch_first=True)
    x = torch.randn(2, 5, 24)
    back = ours.plain()
    assert type(back) is nn.MultiheadAttention
    same(back(x, x, x), theirs(x, x, x))
    with pytest.raises(ValueError, match="3 heads of 5"):
        MultiheadAttention(20, 3, head_dim=5).plain()


def test_an_encoder_layer_around_it_takes_its_masks() -> None:
    layer = nn.TransformerEncoderLayer(24, 4, 32, batch_first=True).eval()
    x, padding = torch.randn(2, 5, 24), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        expected = layer(x, src_key_padding_mask=padding)
        ours = MultiheadAttention(24, 4, batch_first=True)
        ours.load_state_dict(layer.self_attn.state_dict())
        layer.self_attn = ours.eval()
        found = layer(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, :3], expected[1, :3], rtol=1e-4, atol=1e-5)


def test_masks_that_do_not_fit_are_refused_in_one_line() -> None:
    module, x = MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    with pytest.raises(ValueError, match="8 rows of heads; this attention has 2 heads"):
        module(x, x, x, attn_mask=torch.zeros(8, 3, 3))
    with pytest.raises(TypeError, match="allowed: bool"):
        module(x, x, x, key_padding_mask=torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(RuntimeError, match="give the mask too"):
        module(x, x, x, is_causal=True)


def test_bypass_and_zero_take_any_call() -> None:
    x = torch.randn(2, 6, 8, 8)
    assert Bypass()(x, mask=None) is x
    assert Bypass(2)(hidden=x) == (x, None)
    assert Zero(dim=1, width=10, stride=2)(x).shape == (2, 10, 4, 4)
    zero, nothing = Zero(2)(None, hidden=x)
    assert nothing is None
    assert zero.shape == x.shape
    assert not zero.any()
