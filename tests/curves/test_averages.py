"""Averages of curves over images: by hand, paired, and their intervals."""

import numpy as np
import pytest

from moxi_lite.curves import (
    Curve,
    average_curves,
    average_differences,
    average_table,
    differences,
    mean_curve,
    summary_table,
    wilson,
)


def made(probability, mode="insertion", correct=None, target=0):
    """A curve with given probabilities."""
    p = np.asarray(probability, dtype=np.float64)
    fraction = np.linspace(0, 1, len(p))
    correct = p > 0.5 if correct is None else np.asarray(correct, dtype=bool)
    return Curve(fraction, correct, p, np.log(p / (1 - p)), mode, target)


def test_average_by_hand():
    curves = [made([0.2, 0.4, 0.9]), made([0.6, 0.2, 0.7]), made([0.1, 0.6, 0.8])]
    average = average_curves(curves, "probability")
    np.testing.assert_allclose(average.mean, [0.3, 0.4, 0.8])
    by_image = average_curves(dict(enumerate(curves)), "probability")
    np.testing.assert_array_equal(by_image.mean, average.mean)
    assert average.auc == pytest.approx(np.mean([curve.auc() for curve in curves]))
    assert (average.n_images, average.metric, average.mode) == (3, "probability", "insertion")
    np.testing.assert_allclose(average_curves(curves).mean, [1 / 3, 1 / 3, 1])
    assert (average.lower <= average.mean).all() and (average.mean <= average.upper).all()
    # The last point has no spread in accuracy, and an interval of Wilson's all the same.
    last = average_curves(curves).at(1)
    assert last == pytest.approx(wilson(3, 3)) and last.low < 0.5


def test_interval_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(0.5, 0.05, size=(200, 1)).repeat(3, axis=1)
    curves = [made(value) for value in values]
    average = average_curves(curves, "probability")
    error = values[:, 0].std() / np.sqrt(200)
    np.testing.assert_allclose(average.upper - average.mean, 1.96 * error, rtol=0.1)
    np.testing.assert_allclose(average.mean - average.lower, 1.96 * error, rtol=0.1)
    # All points move together, so the area has the interval of each of them.
    assert average.area.high == pytest.approx(average.upper[0])


def test_bootstrap_repeats_and_one_image_has_no_interval():
    curves = [made([0.2, 0.4]), made([0.6, 0.3])]
    first, again = (average_curves(iter(curves), "probability") for _ in range(2))
    np.testing.assert_array_equal(first.lower, again.lower)
    alone = average_curves(curves[:1], "probability")
    np.testing.assert_array_equal(alone.lower, alone.mean)
    np.testing.assert_array_equal(alone.upper, alone.mean)


def test_values_are_read_off_with_their_interval():
    curves = [made(np.linspace(0.1, 0.9, 6) ** power) for power in (1, 2, 3)]
    average = average_curves(curves, "probability")
    for fraction, step in ((0, 0), (0.29, 1), (0.3, 2), (1, 5)):
        expected = average.mean[step], average.lower[step], average.upper[step]
        assert average.at(fraction) == expected
    assert average.area.value == average.auc and average.area.n == 3
    with pytest.raises(ValueError, match=r"0\.\.1"):
        average.at(4)


def test_differences_are_taken_within_images():
    first = {"a": made([0.2, 0.5]), "b": made([0.6, 0.9]), "c": made([0.3, 0.3])}
    second = {"d": made([0.9, 0.9]), "b": made([0.5, 0.8]), "a": made([0.1, 0.4])}
    found = average_differences(first, second, "probability")
    np.testing.assert_allclose(found.mean, [0.1, 0.1])
    # The images differ by 0.4, the differences not at all.
    np.testing.assert_allclose(found.upper, found.lower)
    assert (found.n_images, found.mode, found.metric) == (2, "insertion", "probability")
    other = {"a": made([0.1, 0.2], "deletion")}  # left out, as only one has it
    assert average_differences(first, {"b": second["b"]} | {"z": other["a"]}).n_images == 1
    accuracy = average_differences(
        {"a": made([0.1, 0.1], correct=[0, 1])}, {"a": made([0.1, 0.1], correct=[1, 1])}
    )
    assert accuracy.mean.tolist() == [-1, 0] and accuracy.auc == -0.5


def test_differences_need_common_images_of_one_kind():
    with pytest.raises(ValueError, match="no image in common"):
        average_differences({"a": made([0.1, 0.9])}, {"b": made([0.1, 0.9])})
    with pytest.raises(ValueError, match="mix deletion of 1 patches, insertion"):
        average_differences({"a": made([0.1, 0.9])}, {"a": made([0.1, 0.9], "deletion")})


def test_shares_count_the_nearest_number_of_patches():
    curves = [
        made([0.3] * 6, correct=[0, 0, 1, 1, 1, 1]),
        made([0.3] * 6, correct=[0, 1, 1, 0, 1, 1]),
    ]
    average = average_curves(curves)
    fractions = [0, 0.09, 0.1, 0.2, 0.3, 0.6, 1]
    assert [average.at(f).value for f in fractions] == [0, 0, 0.5, 0.5, 1, 0.5, 1]
    # 4 % of the 196 patches of the paper's models
    step = average_curves([made([0.3] * 197, correct=np.arange(197) >= 8)])
    assert step.at(0.04).value == 1 and step.at(0.038).value == 0


def by_image(first_right, n=10):
    """Images i = 0..9 that are right from `first_right` + i patches of 20 on."""
    return {
        f"image {i}": made([0.5] * 21, correct=np.arange(21) >= first_right + i) for i in range(n)
    }


def test_a_table_has_a_row_a_method_and_a_column_a_share():
    found = average_table({"MoXI": by_image(1), "own": by_image(5, n=5)}, [0.1, 0.25, 1])
    assert found.index.tolist() == ["MoXI", "own"]
    assert found.columns.tolist() == ["n", "10 %", "25 %", "100 %"]
    assert found["n"].tolist() == [10, 5]
    average = average_curves(by_image(1))
    assert found.loc["MoXI", "25 %"] == f"{average.at(0.25).percent:.0f}"
    assert found.loc["MoXI", "25 %"].startswith("50 (")
    assert found.loc["own", "100 %"] == "100 (57 to 100)"


def test_differences_from_several_rivals_are_paired_and_in_points():
    curves = {"MoXI": by_image(1), "near": by_image(2), "far": by_image(9, n=5)}
    found = differences(curves, "MoXI", ["near", "far"])
    assert list(found) == ["near", "far"] and [each.n for each in found.values()] == [10, 5]
    # Each image is right one patch of 20 earlier, so the area differs by 5 points throughout.
    assert found["near"].value == found["near"].low == pytest.approx(5)
    assert differences(curves, "MoXI", ["near"], share=0.5)["near"].value == pytest.approx(10)
    with pytest.raises(ValueError, match=r"unknown label 'nearby'.*Did you mean 'near'"):
        differences(curves, "MoXI", ["nearby"])


def test_a_rise_is_the_mean_height_up_to_a_share():
    slow, quick = by_image(9), by_image(1)
    rise = average_curves({image: curve.until(0.5) for image, curve in quick.items()})
    assert rise.fraction[-1] == 0.5 and rise.at(0.1) == average_curves(quick).at(0.1)
    by_hand = np.mean([curve.correct[:11].sum() - 0.5 for curve in quick.values()]) / 10
    assert rise.auc == pytest.approx(by_hand)
    gap = differences({"quick": quick, "slow": slow}, "quick", ["slow"], until=0.5)["slow"]
    late = average_curves([curve.until(0.5) for curve in slow.values()])
    assert gap.value == pytest.approx(100 * (rise.auc - late.auc)) and gap.low > 0
    assert slow["image 0"].until(1e-9).fraction.tolist() == [0, 0.05]
    for share in (0, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            slow["image 0"].until(share)


def test_the_summary_counts_patches_to_the_flip_and_whether_it_lasts():
    lasting = made([0.1, 0.2, 0.7, 0.8, 0.9])
    lost_again = made([0.1, 0.6, 0.2, 0.3, 0.4])
    never = made([0.1, 0.2, 0.2, 0.3, 0.4])
    found = summary_table({"a": {"x": lasting, "y": lost_again, "z": never}, "b": {"x": lasting}})
    assert found["n"].tolist() == [3, 1]
    assert found.loc["b", "area, accuracy (%)"].startswith("62.5 ")  # (0 + 0 + 1 + 1 + 1/2) / 4
    assert found.loc["b", "area, probability (%)"].startswith("55.0 ")
    assert found["median patches"].str.split().str[0].tolist() == ["2.0", "2.0"]  # of 2, 1, 4
    assert found["stays (%)"].tolist() == ["33", "100"]  # never is not "stays"
    gone = made([0.9, 0.8, 0.3, 0.2, 0.1], mode="deletion")
    assert summary_table({"a": {"x": gone}}).loc["a", "stays (%)"] == "100"
    mostly = mean_curve([lasting, lasting, lost_again])  # of two orders in three
    assert summary_table({"a": {"x": mostly}}).loc["a", "stays (%)"] == "100"


def test_bad_arguments():
    curve = made([0.2, 0.4])
    with pytest.raises(ValueError, match="unknown metric"):
        average_curves([curve], "accuracy")
    with pytest.raises(ValueError, match="got none"):
        average_curves([])
    with pytest.raises(ValueError, match="deletion of 1 patches, insertion of 1 patches"):
        average_curves([curve, made([0.2, 0.4], "deletion")])
    with pytest.raises(ValueError, match="insertion of 1 patches, insertion of 2 patches"):
        average_curves([curve, made([0.2, 0.4, 0.4])])
    for outside in (4, -0.1, np.nan):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            average_curves([curve]).at(outside)
