"""`shrink`: what zeros have made dead goes, all else stays, the function is the same."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import prunus
from prunus.errors import ModelError, OutcomeError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.graph.recorder import named_tensors
from prunus.surgery.averaged_copy import carry_like
from prunus.surgery.dead_units import live_units
from prunus.surgery.optimizer import carry_optimizer

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def convnet(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        activation or nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Flatten(),
        nn.Linear(54, 4),
    )


def zero_(*tensors: torch.Tensor) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()


def dead(model: nn.Module, inputs: object) -> dict[str, list[int]]:
    live = live_units(couple(capture(model, inputs)), named_tensors(model))
    return {axis: [i for i, one in enumerate(units) if not one] for axis, units in live.items() if not units.all()}


def test_masks_of_torch_prune_become_smaller_layers() -> None:
    model = convnet()
    prune.ln_structured(model[4], "weight", 3, n=2, dim=1)
    prune.ln_structured(model[6], "weight", 9, n=2, dim=1)
    model[6].weight_mask[:, 18:27] = 0  # everything that reads unit 2 of the second convolution
    before = model(IMAGES).detach()
    model.eval()
    result = prunus.shrink(model, IMAGES)
    assert [m.shape[0] for m in (result.model[0].weight, result.model[1].weight, result.model[4].weight)] == [5, 5, 5]
    assert {d.node: d.removed for d in result.plan.decisions} == {"0:out": 3, "4:out": 1}
    assert result.check.ok
    assert result.after.params == sum(p.numel() for p in result.model.parameters()) < result.before.params
    torch.testing.assert_close(result.model(IMAGES), model(IMAGES))
    names = set(result.model.state_dict())
    assert names == set(convnet().state_dict())
    assert "weight_orig" in dict(model[4].named_parameters())  # the argument is as it was, masks and all
    assert torch.equal(model.train()(IMAGES), before)


def test_a_zero_filter_behind_a_norm_is_dead_only_without_the_norms_shift() -> None:
    model = convnet().eval()
    zero_(model[0].weight[2:4], model[0].bias[2:4])
    model[1].running_mean.normal_()
    with pytest.raises(OutcomeError, match=r"Nothing is dead in Sequential: on its 2 removable axes .* 14 units"):
        prunus.shrink(model, IMAGES)
    zero_(model[1].running_mean[2:3])  # 0 − 0 scaled, and no bias: still zero; unit 3 is a constant
    assert dead(model, IMAGES) == {"0:out": [2]}
    zero_(model[1].weight[3:4])
    assert dead(model, IMAGES) == {"0:out": [2, 3]}
    zero_(model[1].weight[5:6])
    assert dead(model, IMAGES) == {"0:out": [2, 3, 5]}  # whatever the filter of unit 5 holds
    with torch.no_grad():
        model[1].bias.fill_(0.5)
    assert dead(model, IMAGES) == {}


@pytest.mark.parametrize(
    ("activation", "zero_stays_zero"),
    [
        (nn.ReLU(), True),
        (nn.GELU(), True),
        (nn.SiLU(), True),
        (nn.Tanh(), True),
        (nn.Hardswish(), True),
        (nn.PReLU(8), True),
        (nn.Hardtanh(-1, 1), True),
        (nn.Dropout(0.5), True),
        (nn.LeakyReLU(0.1, inplace=True), True),
        (nn.GroupNorm(8, 8, affine=False), True),
        (nn.InstanceNorm2d(8), True),
        (nn.Sigmoid(), False),
        (nn.Softplus(), False),
        (nn.Hardtanh(0.5, 1), False),
        (nn.Softmax(1), False),
    ],
    ids=repr,
)
def test_zero_is_followed_through_activations(activation: nn.Module, zero_stays_zero: bool) -> None:
    model = convnet(activation).eval()
    zero_(model[1].weight[:2], model[1].bias[:2])
    assert dead(model, IMAGES) == ({"0:out": [0, 1]} if zero_stays_zero else {})


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.Softplus()], ids=repr)
def test_what_nobody_reads_is_dead_whatever_it_is(activation: nn.Module) -> None:
    model = convnet(activation).eval()
    zero_(model[4].weight[:, 3:5])
    assert dead(model, IMAGES) == {"0:out": [3, 4]}
    result = prunus.shrink(model, IMAGES)
    torch.testing.assert_close(result.model(IMAGES), model(IMAGES))


def test_deadness_runs_through_a_chain_both_ways() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(6, 6), nn.ReLU())], nn.Linear(6, 3)).eval()
    zero_(model[4].weight[:, 1:], model[4].bias, model[4].weight[3:])
    # layer 2 is read through one unit only; of layer 4 three units stay zero
    assert dead(model, VECTORS) == {"2:out": [1, 2, 3, 4, 5], "4:out": [3, 4, 5]}
    result = prunus.shrink(model, VECTORS)
    assert [m.out_features for m in result.model if isinstance(m, nn.Linear)] == [6, 1, 3, 6, 3]
    with pytest.raises(OutcomeError, match="Nothing is dead"):
        prunus.shrink(result.model, VECTORS)


def test_one_unit_stays_where_all_are_dead() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    zero_(model[0].weight, model[0].bias)
    result = prunus.shrink(model, VECTORS)
    assert result.model[0].out_features == 1
    torch.testing.assert_close(result.model(VECTORS), model(VECTORS))
    with pytest.raises(OutcomeError, match="Nothing is dead"):
        prunus.shrink(result.model, VECTORS)


class Heads(nn.Module):
    """Attention by hand or by the fused op, and a gated feed-forward part."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 20), nn.Linear(10, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, tokens, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) / 2**0.5, -1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, -1))
        a, b = self.up(x).chunk(2, -1)
        return x + self.down(a * torch.sigmoid(b))


@pytest.mark.parametrize("fused", [True, False])
def test_heads_without_values_and_units_of_closed_gates_go(fused: bool) -> None:
    torch.manual_seed(0)
    model = Heads(fused).eval()
    zero_(model.qkv.weight[18:20], model.qkv.bias[18:20])  # the values of head 1; its queries and keys live on
    zero_(model.up.weight[3:5], model.up.bias[3:5])  # gated to zero, though the gate itself is open
    result = prunus.shrink(model, TOKENS, forward="rewrite")
    assert {d.node: d.removed for d in result.plan.decisions} == {"qkv:out[1]": 1, "up:out": 2}
    assert result.model.qkv.out_features == 18
    torch.testing.assert_close(result.model(TOKENS), model(TOKENS))


class Pieces(nn.Module):
    """Two halves of one layer with readers of their own; ``chunk`` needs them equally wide."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.up, self.left, self.right = 2, nn.Linear(6, 12), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.up(x).chunk(2, -1)
        return self.left(a) + self.right(b)


def test_forwards_are_kept_and_tied_widths_shrink_as_far_as_both_can() -> None:
    torch.manual_seed(0)
    model = Pieces().eval()
    zero_(model.left.weight[:, :3], model.right.weight[:, 4:])
    result = prunus.shrink(model, VECTORS)
    assert result.surgery.spliced == ()
    assert type(result.model).forward is Pieces.forward
    assert (result.model.left.in_features, result.model.right.in_features) == (4, 4)
    torch.testing.assert_close(result.model(VECTORS), model(VECTORS))
    freer = prunus.shrink(model, VECTORS, forward="rewrite")
    assert (freer.model.left.in_features, freer.model.right.in_features) == (3, 4)


class Sliced(nn.Module):
    """The last two units of a layer are behind a slice: nothing reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.layer(x))[..., :6])


def test_units_behind_a_slice_go_before_those_in_front_of_it() -> None:
    torch.manual_seed(0)
    model = Sliced().eval()
    zero_(model.head.weight[:, 1:3])
    result = prunus.shrink(model, VECTORS)
    assert result.surgery.spliced == ()
    assert (result.model.layer.out_features, result.model.head.in_features) == (4, 4)
    torch.testing.assert_close(result.model(VECTORS), model(VECTORS))


def test_what_only_rewriting_frees_is_named() -> None:
    model = Pieces().eval()
    zero_(model.left.weight[:, :3])
    with pytest.raises(OutcomeError, match="or forward='rewrite', which also frees axes"):
        prunus.shrink(model, VECTORS)


class Awkward(nn.Module):
    """Zeros that look dead and are not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if self.kind == "summed":  # a sigmoid of zero enters a sum
            return self.b(torch.ones(8)) + torch.sigmoid(x).sum(-1, keepdim=True)
        if self.kind == "averaged":  # the zero counts in the mean
            return self.b(F.relu(x)) * F.relu(x).mean(-1, keepdim=True)
        if self.kind == "shifted":
            return self.b(F.relu(x + 1))
        if self.kind == "shown":
            return self.b(x), F.relu(x)
        return self.b(F.layer_norm(x, (8,)))


@pytest.mark.parametrize("kind", ["summed", "averaged", "shifted", "shown", "normed"])
def test_zeros_that_count_stay(kind: str) -> None:
    torch.manual_seed(0)
    model = Awkward(kind)
    zero_(model.a.weight[:3], model.a.bias[:3])
    with pytest.raises(OutcomeError, match="Nothing is dead"):
        prunus.shrink(model, VECTORS)


class Hidden(nn.Module):
    """Writes into a view and reads the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x[:, :4].add_(1)
        return self.b(x)


def test_hidden_writes_are_refused_by_place() -> None:
    model = Hidden()
    zero_(model.a.weight[:2], model.a.bias[:2])
    with pytest.raises(OutcomeError, match=re.escape("cannot follow aten.add_.Tensor") + ".*test_shrink"):
        prunus.shrink(model, VECTORS)


def test_a_mask_on_one_use_of_a_tied_weight_leaves_the_other_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(self.second(F.relu(self.first(x)))))

    torch.manual_seed(0)
    model = Tied()
    prune.ln_structured(model.head, "weight", 2, n=1, dim=1)
    prune.random_unstructured(model.second, "weight", 5)
    result = prunus.shrink(model, VECTORS)
    torch.testing.assert_close(result.model(VECTORS), model(VECTORS))
    assert result.model.second.out_features == 4


def test_training_state_of_a_masked_model_is_carried() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.ln_structured(model[2], "weight", 3, n=2, dim=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.autograd.backward(model(VECTORS).sum())
    optimizer.step()
    result = prunus.shrink(model, VECTORS)
    carried = carry_optimizer(optimizer, model, result.model, result.plan)
    kept = result.plan.keep["2.weight"][1]
    old, new = optimizer.state[model[2].weight_orig], carried.state[result.model[2].weight]
    assert torch.equal(new["momentum_buffer"], old["momentum_buffer"][:, kept])
    average = copy.deepcopy(result.model)
    assert average[2].in_features == 5
    fresh = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    prune.custom_from_mask(fresh[2], "weight", model[2].weight_mask)
    other = carry_like(fresh, result.model, result.plan, model)
    torch.testing.assert_close(other(VECTORS), fresh(VECTORS))


def test_bad_models_are_refused_and_the_model_stays_whole() -> None:
    model = convnet()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        prunus.shrink(model, IMAGES)
    model = convnet()
    zero_(model[4].weight[:, 3:5])
    state = copy.deepcopy(model.state_dict())
    result = prunus.shrink(model, IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    assert model.training
    assert result.model.training
