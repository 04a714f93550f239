"""Metrics: one bootstrap for all, a paired one for drops, either direction; reports of the format before are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekd.figures.figures import Report
from edgekd.figures.intervals import paired_interval, wilson_interval
from edgekd.figures.metric import Judged, Metric, bootstrap, drop_of, score_of
from edgekd.figures.words import beside, signed, valued
from edgekd.tasks.classify import TOP1, judged

MEAN = Metric("mean", "", "higher", lambda judged: float(judged[:, 0].mean()))
ERROR = Metric("error", "ms", "lower", lambda judged: float(judged[:, 0].mean()))
RATIO = Metric("f", "%", "higher", lambda judged: 100 * float(judged[:, 0].sum() / max(judged[:, 1].sum(), 1.0)))


def values(n: int, seed: int, shift: float = 0.0) -> Judged:
    return np.random.default_rng(seed).normal(5.0 + shift, 2.0, (n, 1))


def test_the_bootstrap_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    """Half the interval is 1.96 s / √n."""
    found = values(2000, 0)
    low, high = bootstrap(MEAN, found)
    expected = 1.96 * found.std(ddof=1) / np.sqrt(2000)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)
    assert low < found.mean() < high


def test_the_bootstrap_covers_the_true_mean_19_times_in_20() -> None:
    covered = [low <= 5.0 <= high for low, high in (bootstrap(MEAN, values(60, seed)) for seed in range(200))]
    assert 0.90 <= np.mean(covered) <= 0.985


def test_a_metric_that_is_no_mean_has_its_interval_too() -> None:
    """A ratio of sums, as an F score or a perplexity is: the figure of all samples, not the mean of their figures."""
    parts = np.array([[1.0, 4.0], [3.0, 4.0], [0.0, 8.0], [8.0, 8.0]] * 50)
    score = score_of(RATIO, parts, runtime="r")
    assert score.value == 50.0 and score.low < 50.0 < score.high and score.n == 200


def test_a_drop_is_drawn_on_the_same_samples() -> None:
    """Two models whose errors go together differ surely, though their own intervals overlap."""
    reference = values(300, 1)
    other = reference - 0.1 + np.random.default_rng(2).normal(0, 0.05, reference.shape)
    apart, together = bootstrap(MEAN, reference), drop_of(MEAN, reference, other)
    assert apart[0] < other.mean() < apart[1]
    assert together.low > 0.09 and together.high < 0.11
    assert together.value == pytest.approx(float((reference - other).mean()), abs=1e-3)


def test_where_less_is_better_a_larger_value_is_a_drop() -> None:
    small, large = values(300, 1), values(300, 1, shift=1.0)
    drop = drop_of(ERROR, small, large)
    assert drop.value == pytest.approx(1.0) and drop.low == pytest.approx(1.0) and drop.high == pytest.approx(1.0)
    assert drop_of(ERROR, large, small).value == pytest.approx(-1.0)
    assert beside(drop.value, ERROR.unit) == "1.00 ms worse"
    assert beside(-1.0, ERROR.unit) == "1.00 ms better"


def test_top1_keeps_wilsons_interval_and_newcombes() -> None:
    a, b = np.arange(50) < 48, np.arange(50) < 40
    score = score_of(TOP1, judged(a), runtime="r")
    assert (score.value, (score.low, score.high)) == (96.0, wilson_interval(48, 50))
    drop = drop_of(TOP1, judged(a), judged(b))
    assert drop.value == 16.0 and (drop.low, drop.high) == pytest.approx(paired_interval(a, b), abs=1e-3)


def test_a_report_that_edgekd_0_1_wrote_is_read() -> None:
    text = (Path(__file__).parent / "report_format_1.json").read_text()
    old, report = json.loads(text), Report.model_validate_json(text)
    assert report.format == 2
    assert [c.score.value for c in report.candidates] == [c["accuracy"]["top1"] for c in old["candidates"]]
    assert report.chosen.score.parts == next(c for c in old["candidates"] if c["shipped"])["accuracy"]["per_class"]
    assert "accuracy" in report.chosen.score.parts  # the name of a class stays
    assert report.quantization_path[0].holdout == 91.5
    assert report.curves[0]["holdout"] == old["curves"][0]["holdout_top1"]
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_small_error_keeps_its_digits() -> None:
    """Three decimals would make 0.00042 a zero."""
    errors = np.full((10, 1), 0.000421234)
    score = score_of(ERROR, errors, runtime="r")
    assert score.value == 0.000421234 and score.low == pytest.approx(0.000421234)
    assert valued(score.value, "") == "0.000421" and valued(1234.5, "") == "1234" and valued(84.2, "%") == "84.20 %"


@pytest.mark.parametrize(
    ("points", "unit", "told"),
    [(0.56, "%", "+0.56"), (-2.0, "%", "-2.00"), (-0.001, "%", "0.00"), (0.0, "", "0"), (-0.0042, "", "-0.00420")],
)
def test_a_difference_has_a_sign_unless_it_is_shown_as_zero(points: float, unit: str, told: str) -> None:
    assert signed(points, unit) == told
