"""Spread of repeated measurements."""

import math
import statistics

import pytest

from prunus.errors import DataError
from prunus.measurement.stability import spread


def test_spread_is_mean_sample_deviation_and_extremes() -> None:
    values = [0.91, 0.97, 0.94, 0.99]
    result = spread(values)
    assert result.mean == pytest.approx(statistics.fmean(values))
    assert result.std == pytest.approx(statistics.stdev(values))
    assert (result.low, result.high, result.n) == (0.91, 0.99, 4)


def test_one_run_has_no_deviation() -> None:
    result = spread(value for value in [0.5])
    assert (result.mean, result.std, result.low, result.high, result.n) == (0.5, 0.0, 0.5, 0.5, 1)


def test_spread_prints_its_runs() -> None:
    assert str(spread([0.97, 0.99])) == "0.98 ± 0.014 (n=2)"


def test_no_values_are_refused() -> None:
    with pytest.raises(DataError, match="no values; at least 1"):
        spread([])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="as value 1"):
        spread([1.0, bad])
