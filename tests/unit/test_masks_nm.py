"""N:M masks on layouts worked out by hand."""

import pytest
import torch
from torch import nn

from prunus.errors import DataError, OptionError
from prunus.masks import contracted_dims, nm_masks


def test_two_of_four_keeps_the_best_two_of_each_group():
    mask = nm_masks({"w": torch.tensor([[1.0, 4.0, 2.0, 3.0, 8.0, 5.0, 6.0, 7.0]])})["w"]
    assert mask.tolist() == [[False, True, False, True, True, False, False, True]]


def test_ties_are_kept_by_index():
    assert nm_masks({"w": torch.ones(1, 4)})["w"].tolist() == [[True, True, False, False]]


def test_the_tail_keeps_its_share_rounded_up():
    assert nm_masks({"w": torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]])})["w"][0, 4:].tolist() == [
        False,
        True,
        True,
    ]
    assert nm_masks({"w": torch.tensor([[1.0, 2.0]])}, n=1, m=4)["w"].tolist() == [[False, True]]


def test_a_convolution_is_grouped_flat_or_along_its_channels():
    scores = torch.rand(3, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    flat = nm_masks({"w": scores}, along="flat")["w"]
    assert (flat.reshape(3, 9, 4).sum(-1) == 2).all()
    channels = nm_masks({"w": scores})["w"]
    assert (channels.sum(1) == 2).all()
    assert not torch.equal(flat, channels)


@pytest.mark.parametrize("along", ["flat", "input"])
def test_a_transposed_convolution_is_the_plain_one_transposed(along):
    scores = torch.rand(3, 8, 2, 2, generator=torch.Generator().manual_seed(1))
    plain = nm_masks({"w": scores}, along=along)["w"]
    turned = nm_masks({"w": scores.transpose(0, 1)}, along=along, input_dims={"w": 0})["w"]
    assert torch.equal(turned.transpose(0, 1), plain)


def test_all_of_m_keeps_everything():
    assert nm_masks({"w": torch.rand(3, 7)}, n=4, m=4)["w"].all()


def test_bad_input_is_refused():
    with pytest.raises(OptionError, match="pattern is 5:4"):
        nm_masks({"w": torch.ones(2, 4)}, n=5)
    with pytest.raises(OptionError, match="pattern is 0:4"):
        nm_masks({"w": torch.ones(2, 4)}, n=0)
    with pytest.raises(OptionError, match="'flat' and 'input'"):
        nm_masks({"w": torch.ones(2, 4)}, along="output")
    with pytest.raises(OptionError, match="1 dims"):
        nm_masks({"w": torch.ones(4)})
    with pytest.raises(DataError, match="'w' has 4 values that are NaN"):
        nm_masks({"w": torch.full((1, 4), float("nan"))})
    with pytest.raises(DataError, match="at least one non-empty tensor"):
        nm_masks({})


def test_the_linear_layer_of_gpt2_is_grouped_along_its_inputs() -> None:
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(3, 8)  # weight (inputs, units)
    dims = contracted_dims(nn.Sequential(layer))
    assert dims == {"0.weight": 0}
    mask = nm_masks({"0.weight": layer.weight.detach().abs()}, input_dims=dims)["0.weight"]
    assert bool((mask.reshape(2, 4, 3).sum(1) == 2).all())
