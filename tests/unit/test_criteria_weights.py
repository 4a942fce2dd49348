"""Weight criteria: their formulas, what they need, what they leave alone."""

import pytest
import torch

from prunus.criteria import CRITERIA, Evidence, MovementSums, magnitude
from prunus.errors import DataError, OptionError, SelectorError

WEIGHTS = {"w": torch.tensor([[-2.0, 0.5], [1.0, 0.0]])}
GRADS = {"w": torch.tensor([[1.0, -2.0], [3.0, 4.0]])}
FULL = Evidence(
    WEIGHTS,
    grad_sq={"w": GRADS["w"].square()},
    grad_abs={"w": GRADS["w"].abs()},
    grad=GRADS,
    movement={"w": torch.tensor([[0.5, 0.0], [2.0, 1.0]])},
    input_norm={"w": torch.tensor([[3.0, 2.0]]).expand(2, 2)},
)
EXPECTED = {
    "magnitude": [[2.0, 0.5], [1.0, 0.0]],
    "gradient": [[1.0, 2.0], [3.0, 4.0]],
    "importance": [[1.0, 4.0], [9.0, 16.0]],
    "importance-weighted": [[4.0, 1.0], [9.0, 0.0]],
    "taylor-weight": [[4.0, 1.0], [9.0, 0.0]],
    "snip": [[2.0, 1.0], [3.0, 0.0]],
    "lamp": [[1.0, 0.25 / 5.25], [1.0 / 5.0, 0.0]],
    "relative-max": [[1.0, 0.25], [0.5, 0.0]],
    "movement": [[0.5, 0.0], [2.0, 1.0]],
    "wanda": [[6.0, 1.0], [3.0, 0.0]],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_formula(name):
    assert CRITERIA.get(name)(FULL)["w"].tolist() == EXPECTED[name]


@pytest.mark.parametrize("name", CRITERIA.names())
def test_every_criterion_scores_every_weight_and_shares_no_memory(name):
    before = {field: getattr(FULL, field)["w"].clone() for field in ("weights", "grad_sq", "grad_abs", "grad")}
    scores = CRITERIA.get(name)(FULL)
    assert list(scores) == ["w"]
    assert scores["w"].shape == WEIGHTS["w"].shape
    assert (scores["w"] >= 0).all()
    scores["w"].fill_(-1.0)
    assert all(torch.equal(getattr(FULL, field)["w"], value) for field, value in before.items())


NEEDS = dict.fromkeys(["gradient", "importance", "importance-weighted", "taylor-weight", "snip"], "grad")


@pytest.mark.parametrize(("name", "field"), [*NEEDS.items(), ("movement", "movement"), ("wanda", "input_norm")])
def test_a_criterion_names_the_statistic_it_misses(name, field):
    with pytest.raises(OptionError, match=f"'{name}' needs {field}"):
        CRITERIA.get(name)(Evidence(WEIGHTS))


def test_magnitude_powers():
    assert magnitude(FULL, p=2)["w"].tolist() == [[4.0, 0.25], [1.0, 0.0]]
    with pytest.raises(OptionError, match="p is 3"):
        magnitude(FULL, p=3)


def test_half_precision_is_scored_in_single():
    weights = {"w": torch.full((1, 1), 300.0, dtype=torch.float16)}
    assert magnitude(Evidence(weights), p=2)["w"].item() == 90000.0


def test_random_depends_on_name_and_seed_alone():
    score = CRITERIA.get("random")
    torch.manual_seed(1)
    both = score(Evidence({"a": torch.zeros(3, 3), "b": torch.zeros(3, 3)}, seed=4))
    torch.manual_seed(2)
    alone = score(Evidence({"b": torch.ones(3, 3)}, seed=4))
    assert torch.equal(both["b"], alone["b"])
    assert not torch.equal(both["a"], both["b"])
    assert not torch.equal(alone["b"], score(Evidence({"b": torch.ones(3, 3)}, seed=5))["b"])


def test_evidence_checks_names_and_shapes():
    with pytest.raises(SelectorError, match="grad_sq has no entry 'w'"):
        Evidence(WEIGHTS, grad_sq={})
    with pytest.raises(DataError, match=r"grad of 'w' has shape \(4,\)"):
        Evidence(WEIGHTS, grad={"w": torch.zeros(4)})


def test_movement_adds_up_over_steps():
    sums = MovementSums()
    for weight, grad in ((1.0, -0.5), (1.5, -1.0), (2.0, None)):
        sums.add_({"w": torch.full((1, 1), weight)}, {"w": None if grad is None else torch.full((1, 1), grad)})
    scores = CRITERIA.get("movement")(Evidence({"w": torch.ones(1, 1)}, movement=sums.sums))
    assert scores["w"].item() == 2.0
    assert MovementSums(sums.sums).sums["w"].item() == 2.0


def test_relative_std_counts_standard_deviations():
    weight = torch.tensor([[-3.0, 1.0], [1.0, 1.0]])
    score = CRITERIA.get("relative-std")(Evidence({"w": weight}))["w"]
    torch.testing.assert_close(score, weight.abs().double() / weight.double().std(correction=0))
