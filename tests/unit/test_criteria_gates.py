"""Slopes in unit gates against gates put in by hand: convolutions, streams, heads, groups, labels of one's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.criteria import UNIT_CRITERIA, Calibration, collect_evidence
from prunus.criteria.labels import drawn_loss
from prunus.errors import DataError, OptionError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple


class Stream(nn.Module):
    """A residual stream that two blocks write, with norms; grouped convolution in the middle."""

    def __init__(self):
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.n1 = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 6, 1)
        self.mid = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.head = nn.Linear(6, 3)

    def forward(self, x, stream=None, inner=None):
        one = torch.ones(())
        stream, inner = one if stream is None else stream, one if inner is None else inner
        x = torch.relu(self.n0(self.stem(x)))
        # Gates where consumers read: the branch reads the stream once, the way through the depthwise layer once.
        y = torch.relu(self.n1(self.a(x * stream))) * inner
        x = x + self.b(y)
        return self.head((x + torch.relu(self.mid(x))).mean((2, 3)) * _flat(stream))


def _flat(gate):
    return gate if gate.dim() == 0 else gate.reshape(gate.shape[0], -1)


class Heads(nn.Module):
    """Two heads of width three; the gate of a head sits before the output projection."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(5, 18), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x, heads=None, scores=None):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        q = q if scores is None else q * scores[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v)
        y = y if heads is None else y * heads[:, :, None, None]
        return self.head(self.out(y.transpose(1, 2).reshape(b, t, 6)).relu().mean(1))


def _made(kind, shape):
    torch.manual_seed(0)
    model = kind().eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.bias)
    x = torch.randn(6, *shape)
    return model, couple(capture(model, x[:2])), x, torch.arange(6) % 3


def _by_hand(model, x, y, name, shape):
    """Return ∂ℓ_n/∂γ_u sample by sample."""
    rows = []
    for i in range(len(x)):
        gate = torch.ones(1, *shape, requires_grad=True)
        loss = F.cross_entropy(model(x[i : i + 1], **{name: gate}), y[i : i + 1])
        rows.append(torch.autograd.grad(loss, gate)[0].reshape(-1).double())
    return torch.stack(rows)


CASES = [
    (Stream, (1, 5, 5), "stem:out", "stream", (6, 1, 1)),
    (Stream, (1, 5, 5), "a:out", "inner", (4, 1, 1)),
    (Heads, (4, 5), "qkv:out[1]", "heads", (2,)),
    (Heads, (4, 5), "qkv:out[2]", "scores", (3,)),
]


@pytest.mark.parametrize(("kind", "shape", "axis", "gate", "gate_shape"), CASES)
def test_taylor_equals_gates_by_hand(kind, shape, axis, gate, gate_shape):
    model, coupling, x, y = _made(kind, shape)
    slopes = _by_hand(model, x, y, gate, gate_shape)
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    found = {
        name: UNIT_CRITERIA.get(name)(collect_evidence(name, Calibration(model, coupling, batches, F.cross_entropy)))
        for name in ("taylor-sample", "taylor-batch", "worst-class")
    }
    if gate == "scores":
        # The width of a head is shared by the values: their gate adds to that on the scores.
        values = _values_by_hand(model, x, y)
        slopes = slopes + values
    torch.testing.assert_close(found["taylor-sample"][axis], slopes.square().mean(0) / 2, rtol=1e-3, atol=1e-9)
    batched = torch.stack([slopes[:4].mean(0).square(), slopes[4:].mean(0).square()]).mean(0)
    torch.testing.assert_close(found["taylor-batch"][axis], batched, rtol=1e-3, atol=1e-9)
    worst = torch.stack([slopes[y == c].square().mean(0) / 2 for c in range(3)]).amax(0)
    torch.testing.assert_close(found["worst-class"][axis], worst, rtol=1e-3, atol=1e-9)


def _values_by_hand(model, x, y):
    rows = []
    for i in range(len(x)):
        gate = torch.ones(3, requires_grad=True)
        b, t = 1, x.shape[1]
        q, k, v = model.qkv(x[i : i + 1]).view(b, t, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        z = (F.scaled_dot_product_attention(q, k, v) * gate).transpose(1, 2).reshape(b, t, 6)
        loss = F.cross_entropy(model.head(model.out(z).relu().mean(1)), y[i : i + 1])
        rows.append(torch.autograd.grad(loss, gate)[0].double())
    return torch.stack(rows)


def test_weights_behind_a_norm_give_the_same_derivative_as_the_gate():
    model, coupling, x, y = _made(Stream, (1, 5, 5))
    evidence = collect_evidence("taylor", Calibration(model, coupling, [(x, y)], F.cross_entropy))
    by_hand = _by_hand(model, x, y, "inner", (4, 1, 1)).mean(0).square()
    # γ·∂γ + β·∂β of the norm is the gate behind it; the ReLU passes gates on.
    torch.testing.assert_close(UNIT_CRITERIA.get("taylor")(evidence)["a:out"], by_hand, rtol=1e-3, atol=1e-9)


def test_fisher_is_half_the_curvature_of_the_divergence():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    x = torch.randn(4000, 4)
    coupling = couple(capture(model, x[:2]))
    scores = UNIT_CRITERIA.get("fisher")(
        collect_evidence("fisher", Calibration(model, coupling, list(x.split(500)), F.cross_entropy, seed=3))
    )["0:out"]
    with torch.no_grad():
        dense = model(x).log_softmax(-1)
        hidden = model[1](model[0](x))
        step = 0.05
        for unit in range(5):
            gate = torch.ones(5)
            gate[unit] -= step
            moved = model[2](hidden * gate).log_softmax(-1)
            divergence = float((dense.exp() * (dense - moved)).sum(-1).mean()) / step**2
            assert float(scores[unit]) == pytest.approx(divergence, rel=0.15)


def test_drawn_labels_depend_on_seed_and_sample_alone():
    model, coupling, x, _ = _made(Stream, (1, 5, 5))

    def scores(batches, seed=0):
        return UNIT_CRITERIA.get("fisher")(
            collect_evidence("fisher", Calibration(model, coupling, batches, F.cross_entropy, seed))
        )["stem:out"]

    whole = scores([x])
    torch.testing.assert_close(scores([x.flip(0)[:2], x.flip(0)[2:]]), whole, rtol=1e-4, atol=1e-12)
    assert not torch.allclose(scores([x], seed=1), whole, rtol=1e-3)


def test_regression_draws_noise_around_the_prediction():
    x = torch.randn(5, 2)
    outputs = torch.randn(5, 3, requires_grad=True)
    loss, predictions = drawn_loss(outputs, [x], torch.zeros(5, 3), seed=0)
    noise = torch.autograd.grad(loss, outputs)[0] * 5
    assert predictions == 3
    assert 0.3 < float(noise.std()) < 2
    again, _ = drawn_loss(outputs[2:3], [x[2:3]], torch.zeros(1, 3), seed=0)
    torch.testing.assert_close(again, (noise[2] * outputs[2]).sum())


def test_language_models_draw_a_token_at_every_place():
    logits = torch.zeros(2, 7, 11)
    logits[:, :, 4] = 50.0
    loss, predictions = drawn_loss(logits, [torch.arange(14).reshape(2, 7)], None, seed=0)
    assert predictions == 7
    # A network that is sure has nothing to lose.
    assert abs(float(loss)) < 1e-3


def test_weights_make_up_for_how_labels_are_drawn():
    torch.manual_seed(0)
    logits = torch.tensor([3.0, 0.0, 1.0], requires_grad=True)
    chances = logits.detach().softmax(0)
    exact = sum(p * (torch.eye(3)[c] - chances).square() for c, p in enumerate(chances))
    inputs = torch.randn(20_000, 2)
    rows = logits.expand(20_000, 3).detach().requires_grad_(True)
    loss, _ = drawn_loss(rows, [inputs], None, seed=0)
    slopes = torch.autograd.grad(loss, rows)[0] * len(rows)
    torch.testing.assert_close(slopes.square().mean(0), exact, rtol=0.05, atol=0)
    assert slopes.mean(0).abs().max() < 0.02
    assert slopes.square().sum(1).std() < 1e-3  # every draw is worth the same


def test_labels_that_are_missing_are_named():
    model, coupling, x, _ = _made(Stream, (1, 5, 5))
    with pytest.raises(DataError, match="Add the labels"):
        collect_evidence("taylor-sample", Calibration(model, coupling, [x], F.cross_entropy))
    with pytest.raises(OptionError, match="needs a running training"):
        collect_evidence("movement", Calibration(model, coupling, [x], F.cross_entropy))


class Tokens(nn.Module):
    """Predictions for every token, as (B, T, C) or laid below each other, as (B·T, C)."""

    def __init__(self, flat: bool):
        super().__init__()
        self.table, self.up, self.down, self.out = (
            nn.Embedding(9, 6),
            nn.Linear(6, 10),
            nn.Linear(10, 6),
            nn.Linear(6, 9),
        )
        self.flat = flat

    def forward(self, ids):
        x = self.table(ids)
        x = self.out(x + self.down(torch.relu(self.up(x))))
        return x.reshape(-1, 9) if self.flat else x


def test_fisher_counts_predictions_laid_below_each_other_as_those_of_their_sample():
    torch.manual_seed(0)
    wide, flat = Tokens(False), Tokens(True)
    flat.load_state_dict(wide.state_dict())
    ids = torch.randint(0, 9, (12, 5))
    found = []
    for model in (wide, flat):
        coupling = couple(capture(model, ids[:3]))
        evidence = collect_evidence("fisher", Calibration(model, coupling, [ids], F.cross_entropy))
        found.append(UNIT_CRITERIA.get("fisher")(evidence))
    assert found[0].keys() == found[1].keys() >= {"up:out"}
    for axis, scores in found[0].items():
        torch.testing.assert_close(found[1][axis], scores)
