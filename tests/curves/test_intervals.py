"""Estimates: bootstrap against what is known of means, Wilson's interval against its formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moxi_lite.curves import Estimate, bootstrap, wilson


def test_an_estimate_writes_itself_with_its_interval():
    share = Estimate(0.907, 0.815, 0.981)
    assert f"{share.percent:.1f}" == "90.7 (81.5 to 98.1)"
    assert f"{share:.2f}" == "0.91 (0.81 to 0.98)"
    assert f"{Estimate(3.0, np.nan, np.nan):.0f}" == "3 (too few for an interval)"


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    found = bootstrap(values, n_resamples=4000)
    assert found.value == pytest.approx(values.mean())
    error = values.std() / 20
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.1)
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.1)


def test_bootstrap_of_a_median_repeats_and_stays_within_the_values():
    values = [3, 5, 4, 9, 4, 6, 5, 4, 7]
    found = bootstrap(values, np.median)
    assert found == bootstrap(values, np.median)
    assert found.value == 5 and 3 <= found.low <= 5 <= found.high <= 9
    assert bootstrap(np.ones(20)) == (1, 1, 1)


def test_few_values_have_no_interval():
    assert np.isnan(bootstrap(range(7)).low) and not np.isnan(bootstrap(range(8)).low)


@pytest.mark.parametrize("values", [[], [[1, 2], [3, 4]], 5])
def test_bootstrap_takes_a_row_of_values(values):
    with pytest.raises(ValueError, match="a row of one number or more"):
        bootstrap(values)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_the_score_equation(drawn):
    successes, n = drawn
    found = wilson(successes, n)
    assert found.value == successes / n
    assert 0 <= found.low <= found.value <= found.high <= 1
    z = 1.959964
    for end in found[1:]:
        # Where a true share is just rejected, the gap is z standard errors of that share.
        assert (found.value - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-6)


def test_wilson_keeps_a_width_where_the_bootstrap_has_none():
    assert wilson(0, 60).low == pytest.approx(0) and wilson(0, 60).high > 0.05


@pytest.mark.parametrize(
    ("successes", "n"), [(3, 2), (-1, 2), (0, 0), (1.5, 2), (1, 2.5), (float("nan"), 5)]
)
def test_wilson_takes_successes_of_trials(successes, n):
    with pytest.raises(ValueError, match=r"whole number in 0\.\.n"):
        wilson(successes, n)


def test_values_must_be_numbers():
    with pytest.raises(ValueError, match="1 of the 3 values are NaN"):
        bootstrap([1, np.nan, 2])


def test_an_estimate_knows_its_number_and_still_unpacks_into_three():
    value, low, high = found = bootstrap(np.arange(20.0))
    assert (value, low, high) == found and found.n == found.percent.n == 20
    assert wilson(3, 12).n == 12 and Estimate(1, 0, 2).n is None


def test_clusters_are_drawn_in_place_of_values():
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(100), 4)
    values = rng.normal(size=100)[unit]  # equal within a unit: 100 values, not 400
    naive, honest = bootstrap(values), bootstrap(values, clusters=unit)
    width = 2 * 1.96 * values.std() / 10
    assert honest.high - honest.low == pytest.approx(width, rel=0.1)
    assert naive.high - naive.low == pytest.approx(width / 2, rel=0.1)
    # Units of one value each are the values themselves.
    alone = bootstrap(values, clusters=np.arange(400))
    assert alone == pytest.approx(naive)
    assert np.isnan(bootstrap(values, clusters=unit // 20).low)  # only five units


def test_a_value_made_of_several_units_counts_as_often_as_they_are_drawn_together():
    rng = np.random.default_rng(1)
    units = rng.permutation(40).reshape(20, 2)
    values = rng.normal(size=20)
    found = bootstrap(values, clusters=units, n_resamples=300)
    draws = np.random.default_rng(0).integers(0, 40, size=(300, 40))
    times = np.array([np.bincount(draw, minlength=40) for draw in draws])
    weights = times[:, units].prod(axis=2)
    low, high = np.quantile(weights @ values / weights.sum(axis=1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))
