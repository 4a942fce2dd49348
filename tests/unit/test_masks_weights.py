"""Which weights may be masked, and putting masks on them."""

import pytest
import torch
from torch import nn

from prunus.errors import ModelError, PlanError, SelectorError
from prunus.masks import apply_masks_, contracted_dims, density, kept_weights, prunable_weights


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


def test_apply_masks_zeroes_only_what_is_masked_even_nan():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[float("nan"), 2.0], [3.0, 4.0]]))
    bias = model.bias.detach().clone()
    mask = torch.tensor([[False, True], [True, False]])
    apply_masks_(model, {"weight": mask})
    assert model.weight.tolist() == [[0.0, 2.0], [3.0, 0.0]]
    assert torch.equal(model.bias, bias)
    assert model.weight.requires_grad
    assert model.weight.is_leaf
    assert mask.tolist() == [[False, True], [True, False]]


def test_apply_masks_reaches_a_tied_weight_by_either_name():
    model = Tied()
    apply_masks_(model, {"head.weight": torch.zeros(10, 8, dtype=torch.bool)})
    assert not model.embed.weight.any()


@pytest.mark.parametrize(
    ("name", "mask", "error", "says"),
    [
        ("wieght", torch.ones(2, 2, dtype=torch.bool), SelectorError, "Did you mean 'weight'"),
        ("weight", torch.ones(2, 2), PlanError, "torch.float32; allowed is torch.bool"),
        ("weight", torch.ones(4, dtype=torch.bool), PlanError, r"shape \(4,\); the parameter has \(2, 2\)"),
    ],
)
def test_apply_masks_checks_all_before_it_writes(name, mask, error, says):
    model = nn.Linear(2, 2)
    before = model.bias.detach().clone()
    with pytest.raises(error, match=says):
        apply_masks_(model, {"bias": torch.zeros(2, dtype=torch.bool), name: mask})
    assert torch.equal(model.bias, before)


def test_density_counts_over_all_tensors():
    masks = {"a": torch.tensor([True, False, False, False]), "b": torch.tensor([[True, True]])}
    assert kept_weights(masks) == 3
    assert density(masks) == 0.5
    assert density({}) == 1.0
