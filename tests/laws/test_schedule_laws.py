"""Laws of pruning schedules: exact at both ends, never rising, the last third at the final level."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.errors import OptionError
from prunus.training.schedules import KEPT_SCHEDULES, RAMP, kept_at

names = st.sampled_from(KEPT_SCHEDULES.names())
fractions = st.floats(0.001, 1.0)
times = st.floats(0.0, 1.0)


@given(names, fractions)
def test_exact_at_both_ends(name: str, kept: float) -> None:
    assert kept_at(name, 0.0, kept) == 1.0
    assert kept_at(name, 1.0, kept) == kept
    assert KEPT_SCHEDULES.get(name)(0.0, kept) == pytest.approx(1.0, abs=1e-15)
    assert KEPT_SCHEDULES.get(name)(1.0, kept) == pytest.approx(kept, abs=1e-15)


@given(names, fractions, st.floats(RAMP, 1.0))
def test_the_last_third_is_at_the_final_level(name: str, kept: float, t: float) -> None:
    assert kept_at(name, t, kept) == kept


@given(names, fractions, times, times)
def test_never_rises(name: str, kept: float, one: float, other: float) -> None:
    early, late = sorted((one, other))
    assert kept <= kept_at(name, late, kept) <= kept_at(name, early, kept) <= 1.0


def test_shapes_differ_where_they_should() -> None:
    middle = {name: kept_at(name, RAMP / 2, 0.1) for name in KEPT_SCHEDULES}
    assert middle["one_shot"] == 0.1
    assert middle["linear"] == pytest.approx(0.55)
    assert middle["cubic"] == pytest.approx(0.1 + 0.9 / 8)
    assert middle["cosine"] == pytest.approx(0.55)
    assert middle["geometric"] == pytest.approx(0.9**11)
    assert middle["steps"] == pytest.approx(0.55)
    assert kept_at("steps", RAMP * 0.24, 0.2) == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cubik", 0.5, 0.5), "Did you mean 'cubic'"),
        (("cubic", 1.5, 0.5), "t is 1.5"),
        (("cubic", 0.5, 0.0), "kept is 0.0; allowed: a number above 0"),
        (("cubic", 0.5, float("nan")), "kept is nan"),
    ],
)
def test_refused(arguments: tuple[str, float, float], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        kept_at(*arguments)
    with pytest.raises(OptionError, match="0 ≤ begin ≤ end"):
        kept_at("cubic", 0.5, 0.5, begin=0.8, end=0.5)
