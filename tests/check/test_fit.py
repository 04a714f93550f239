"""The samples of values in the report: spread over the true values, extremes among them."""

from __future__ import annotations

import numpy as np

from edgekd.check.fit import fits_of


def test_the_least_and_the_largest_true_value_have_a_point_and_the_rest_is_spread() -> None:
    """Of 3,000 samples, shuffled, 300 are taken: those of ranks 0, 10, 20, ... and the last."""
    order = np.random.default_rng(0).permutation(3000)
    labels = order.astype(np.float32)[:, None] / 4
    (found,) = fits_of(["age"], labels, labels + 1)
    expected = np.linspace(0, 2999, 300).astype(int) / 4
    assert found.name == "age" and len(found.points) == 300
    np.testing.assert_allclose([true for true, _ in found.points], expected, rtol=1e-4)
    np.testing.assert_allclose([value for _, value in found.points], expected + 1, rtol=1e-4)


def test_each_value_has_its_own_points_and_an_infinite_answer_has_none() -> None:
    labels = np.array([[1, 30], [2, 20], [3, 10]], np.float32)
    answers = np.array([[1.5, 30], [np.inf, 21], [2.5, 9]], np.float32)
    first, second = fits_of(["a", "b"], labels, answers)
    assert first.points == ((1, 1.5), (3, 2.5))
    assert second.points == ((10, 9), (20, 21), (30, 30))
