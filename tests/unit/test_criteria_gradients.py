"""Gradient statistics against loops written out, and the model left as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.criteria import collect_gradients
from prunus.errors import DataError, ModelError, OptionError, SelectorError


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3))


def _batches(count: int = 3, size: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def _loop(model, batches, name):
    model.eval()
    parameter = model.get_parameter(name)
    return torch.stack([torch.autograd.grad(F.cross_entropy(model(x), y), parameter)[0] for x, y in batches])


def test_batch_estimator_is_the_mean_over_batches():
    model, batches = _model(), _batches()
    evidence = collect_gradients(model, batches, F.cross_entropy, ["0.weight", "4.weight"], seed=3)
    for name in ("0.weight", "4.weight"):
        grads = _loop(model, batches, name)
        torch.testing.assert_close(evidence.grad[name], grads.mean(0))
        torch.testing.assert_close(evidence.grad_abs[name], grads.abs().mean(0))
        torch.testing.assert_close(evidence.grad_sq[name], grads.square().mean(0))
        assert torch.equal(evidence.weights[name], model.get_parameter(name))
    assert evidence.seed == 3


def test_sample_estimator_equals_batches_of_one_and_counts_samples():
    model = _model()
    uneven = [*_batches(1, 5), *_batches(1, 2)]
    singles = [(x[i : i + 1], y[i : i + 1]) for x, y in uneven for i in range(len(x))]
    together = collect_gradients(model, uneven, F.cross_entropy, ["0.weight"], per_sample=True)
    apart = collect_gradients(model, singles, F.cross_entropy, ["0.weight"])
    for field in ("grad", "grad_abs", "grad_sq"):
        torch.testing.assert_close(getattr(together, field)["0.weight"], getattr(apart, field)["0.weight"])
    batch = collect_gradients(model, uneven, F.cross_entropy, ["0.weight"])
    assert batch.grad_sq["0.weight"].sum() < together.grad_sq["0.weight"].sum()


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_model_is_left_as_found(per_sample):
    model = _model().train()
    model[1].eval()
    F.cross_entropy(model(_batches()[0][0]), _batches()[0][1]).backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        collect_gradients(model, _batches(), F.cross_entropy, ["4.weight"], per_sample=per_sample)
        assert not torch.is_grad_enabled()
    assert [module.training for module in model] == [True, False, True, True, True]
    assert model.training
    assert all(torch.equal(parameter.grad, grads[name]) for name, parameter in model.named_parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_modes_return_after_a_failure():
    model = _model().train()
    with pytest.raises(DataError):
        collect_gradients(
            model, [(torch.full((2, 4), torch.nan), torch.zeros(2).long())], F.cross_entropy, ["4.weight"]
        )
    assert all(module.training for module in model.modules())


def test_named_and_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(2, 2)

        def forward(self, left, right):
            return self.mix(left) + right

    model, left, right, y = Sum(), torch.ones(3, 2), torch.ones(3, 2), torch.zeros(3, 2)
    found = [
        collect_gradients(model, [(inputs, y)], F.mse_loss, ["mix.weight"], per_sample=each).grad["mix.weight"]
        for inputs in ((left, right), {"left": left, "right": right})
        for each in (False, True)
    ]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)


def test_an_unreached_weight_has_gradient_zero():
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "idle": nn.Linear(4, 3)})
    model.forward = lambda x: model["used"](x)
    evidence = collect_gradients(model, _batches(), F.cross_entropy, ["used.weight", "idle.weight"])
    assert evidence.grad_sq["used.weight"].sum() > 0
    assert not evidence.grad_sq["idle.weight"].any()


def test_progress_counts_batches():
    seen: list[tuple[int, int]] = []
    model = _model()
    collect_gradients(model, _batches(2), F.cross_entropy, ["4.weight"], progress=lambda *at: seen.append(at))
    collect_gradients(model, iter(_batches(1)), F.cross_entropy, ["4.weight"], progress=lambda *at: seen.append(at))
    assert seen == [(1, 2), (2, 2), (1, 1)]


def test_a_recurrent_network_has_gradients_and_says_why_not_per_sample():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.recur = nn.GRU(4, 3, batch_first=True)

        def forward(self, x):
            return self.recur(x)[0][:, -1]

    batches = [(torch.randn(2, 5, 4), torch.tensor([0, 2]))]
    evidence = collect_gradients(Last(), batches, F.cross_entropy, ["recur.weight_hh_l0"])
    assert evidence.grad_sq["recur.weight_hh_l0"].any()


@pytest.mark.parametrize(
    ("batches", "names", "error", "says"),
    [
        ([], ["4.weight"], DataError, "no calibration batches"),
        ([torch.zeros(2, 4)], ["4.weight"], DataError, "batch 0 is one Tensor; allowed is a pair"),
        ([(torch.zeros(2, 4),)], ["4.weight"], DataError, "batch 0 is 1 items"),
        (_batches(), [], OptionError, "no names"),
        (_batches(), ["4.wieght"], SelectorError, "Did you mean '4.weight'"),
        (
            [*_batches(1), (torch.full((2, 4), torch.inf), torch.zeros(2).long())],
            ["4.weight"],
            DataError,
            "'4.weight' is NaN or infinite in calibration batch 1",
        ),
    ],
)
def test_bad_input_is_refused(batches, names, error, says):
    with pytest.raises(error, match=says):
        collect_gradients(_model(), batches, F.cross_entropy, names)


def test_a_frozen_weight_and_a_bad_loss_are_refused():
    model = _model()
    with pytest.raises(OptionError, match=r"shape \(5,\); allowed is a tensor with one number"):
        collect_gradients(model, _batches(), lambda out, y: F.cross_entropy(out, y, reduction="none"), ["4.weight"])
    with pytest.raises(ModelError, match="carries no gradient"):
        collect_gradients(model, _batches(), lambda out, y: F.cross_entropy(out.detach(), y), ["4.weight"])
    model[4].weight.requires_grad_(False)
    with pytest.raises(OptionError, match="does not require grad"):
        collect_gradients(model, _batches(), F.cross_entropy, ["4.weight"])


def test_what_cannot_be_vectorised_says_what_to_do():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    with pytest.raises(ModelError, match="Batches of size 1 with per_sample=False"):
        collect_gradients(Branching(4, 3), _batches(), F.cross_entropy, ["weight"], per_sample=True)
