"""Weight criteria: their formulas, what they need, what they leave alone."""

import pytest
import torch

from prunus.criteria import CRITERIA, Evidence, magnitude
from prunus.errors import DataError, OptionError, SelectorError

WEIGHTS = {"w": torch.tensor([[-2.0, 0.5], [1.0, 0.0]])}
GRADS = {"w": torch.tensor([[1.0, -2.0], [3.0, 4.0]])}
FULL = Evidence(
    WEIGHTS,
    grad_sq={"w": GRADS["w"].square()},
    grad_abs={"w": GRADS["w"].abs()},
    grad=GRADS,
)
EXPECTED = {
    "magnitude": [[2.0, 0.5], [1.0, 0.0]],
    "gradient": [[1.0, 2.0], [3.0, 4.0]],
    "importance": [[1.0, 4.0], [9.0, 16.0]],
    "importance_weighted": [[4.0, 1.0], [9.0, 0.0]],
    "taylor_weight": [[4.0, 1.0], [9.0, 0.0]],
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


@pytest.mark.parametrize("name", ["gradient", "importance", "importance_weighted", "taylor_weight"])
def test_a_criterion_names_the_statistic_it_misses(name):
    with pytest.raises(OptionError, match=f"'{name}' needs grad"):
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
