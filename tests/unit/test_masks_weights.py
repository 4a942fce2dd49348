"""Which weights may be masked, and how many are kept."""

import pytest
import torch
from torch import nn

from prunus.errors import ModelError
from prunus.masks import contracted_dims, kept_weights, prunable_weights


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.zeros(1, 5, 8))
        self.embed = nn.Embedding(10, 8)
        self.attend = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.norm = nn.LayerNorm((5, 8))
        self.recur = nn.LSTM(8, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.single = nn.Linear(8, 1)
        self.head = nn.Linear(8, 10)
        self.head.weight = self.embed.weight


def test_prunable_weights_are_matrices_that_train_each_once():
    model = Tied()
    weights = prunable_weights(model)
    assert list(weights) == [
        "position",
        "embed.weight",
        "attend.in_proj_weight",
        "attend.out_proj.weight",
        "recur.weight_ih_l0",
        "recur.weight_hh_l0",
        "conv.weight",
        "single.weight",
    ]
    assert weights["conv.weight"].data_ptr() == model.conv.weight.data_ptr()
    assert not weights["conv.weight"].requires_grad


def test_prunable_weights_refuses_lazy_parameters():
    with pytest.raises(ModelError, match=r"'0.weight' is lazy"):
        prunable_weights(nn.Sequential(nn.LazyLinear(3)))


def test_contracted_dims_names_transposed_convolutions():
    assert contracted_dims(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ConvTranspose2d(3, 2, 1))) == {"1.weight": 0}


def test_kept_weights_are_counted_over_all_tensors():
    masks = {"a": torch.tensor([True, False, False, False]), "b": torch.tensor([[True, True]])}
    assert kept_weights(masks) == 3
