"""Budgets and default floors: what a student must keep though nobody asked, by intervals and with signs that read right."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.check.limits import Limit, floors, limits
from edgekd.figures.candidate import Score
from edgekd.figures.intervals import paired_interval
from edgekd.figures.metric import Drop
from edgekd.figures.words import beside
from edgekd.recipe import Budget
from edgekd.tasks.classify import Classify

CLASSES = ("cat", "dog")


def accuracy(top1: float) -> Score:
    return Score(value=top1, low=top1 - 1, high=top1 + 1, n=1000, split="test", runtime="r")


def right(*runs: tuple[int, int]) -> np.ndarray:
    """(how many, are they right) one after another."""
    return np.concatenate([np.full(number, bool(yes)) for number, yes in runs])


def test_the_paired_interval_is_newcombes() -> None:
    """Both right 1, only the first 1, only the second 7, none 12: -0.507 to -0.026 (Fagerland et al. 2014, method of Newcombe)."""
    a, b = right((1, 1), (1, 1), (7, 0), (12, 0)), right((1, 1), (1, 0), (7, 1), (12, 0))
    assert paired_interval(a, b) == pytest.approx((-50.7, -2.6), abs=0.06)
    a, b = right((36, 1), (12, 1), (2, 0)), right((36, 1), (12, 0), (2, 1))
    assert paired_interval(a, b) == pytest.approx((5.69, 34.04), abs=0.01)  # Newcombe 1998, table II
    low, high = paired_interval(b, a)
    assert (-high, -low) == pytest.approx(paired_interval(a, b))


def test_models_that_agree_on_nearly_all_samples_are_told_apart_where_their_intervals_overlap() -> None:
    a, b = right((1710, 1), (290, 0)), right((1700, 1), (300, 0))
    assert paired_interval(a, b)[0] > 0
    assert paired_interval(a, a)[0] <= 0 <= paired_interval(a, a)[1]


@pytest.mark.parametrize(
    ("drop", "words"), [(1.5, "1.50 points worse"), (-2.67, "2.67 points better"), (0.0, "0.00 points worse")]
)
def test_a_drop_below_zero_is_a_gain_in_words(drop: float, words: str) -> None:
    assert beside(drop) == words


def test_a_student_above_its_teacher_is_said_to_be_above() -> None:
    found = limits(accuracy(92.67), 1.0, Budget(max_drop_from_teacher=1), accuracy(90.0), accuracy(92.67))
    assert found[0].found == "2.67 points better than the teacher" and found[0].keeps


def answers_of(right: np.ndarray, labels: np.ndarray, classes: int = 2) -> np.ndarray:
    return np.where(right, labels, (labels + 1) % classes)


def floor(
    answers: np.ndarray, labels: np.ndarray, key: str, budget: Budget | None = None, **references: np.ndarray
) -> Limit:
    others = {name: answers_of(right, labels) for name, right in references.items()}
    found = floors(Classify(CLASSES), answers, labels, budget or Budget(), others)
    (limit,) = [limit for limit in found if limit.key == key]
    return limit


def test_a_student_that_names_one_class_for_all_is_missed() -> None:
    labels = np.repeat([0, 1], [60, 40])
    limit = floor(np.zeros(100, int), labels, "above_majority")
    assert not limit.keeps and limit.found == "60.00 %; naming cat always gives 60.00 %"
    chance = floor(np.tile([0, 1], 50), labels, "above_majority")
    assert not chance.keeps and chance.miss > limit.miss


def test_a_student_that_is_surely_better_than_one_class_for_all_is_kept() -> None:
    labels = np.repeat([0, 1], [95, 5])
    assert floor(labels, labels, "above_majority").keeps  # 100 % for 95 %
    assert not floor(np.r_[labels[:-1], 0][: len(labels)] * 0, labels, "above_majority").keeps


def test_a_test_split_of_one_class_tells_nothing_of_it() -> None:
    assert [limit.key for limit in floors(Classify(CLASSES), np.zeros(9, int), np.zeros(9, int), Budget(), {})] == []


def test_a_class_that_is_lost_is_missed_whatever_the_whole_says() -> None:
    """cat from 88 to 12 %, dog from 50 to 100 %: in all there is little between them."""
    labels = np.repeat([0, 1], [100, 100])
    fp32 = right((88, 1), (12, 0), (50, 1), (50, 0))
    answers = np.r_[np.zeros(12, int), np.ones(88, int), np.ones(100, int)]
    limit = floor(answers, labels, "max_class_drop", fp32=fp32)
    assert not limit.keeps and limit.found.startswith("cat: 12.0 % of 100 samples, fp32 88.0 %; at least 6")
    assert floor(answers, labels, "max_class_drop", Budget(max_class_drop=100.0), fp32=fp32).keeps
    assert "max_class_drop" not in {
        f.key
        for f in floors(
            Classify(CLASSES), answers, labels, Budget(max_class_drop=None), {"fp32": answers_of(fp32, labels)}
        )
    }


def test_a_class_of_few_samples_is_not_missed_by_chance() -> None:
    """Three of five for five of five is a fall of 40 points that five samples do not prove."""
    labels = np.repeat([0, 1], [5, 100])
    answers = np.r_[[0, 0, 0, 1, 1], np.ones(100, int)]
    assert floor(answers, labels, "max_class_drop", fp32=np.ones(105, bool)).keeps


def test_of_many_equal_classes_none_is_missed_by_chance() -> None:
    """200 classes of 20 samples, two models that are each right on 70 % of every class, at random: no class truly falls."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(200), 20)
    reference = rng.random(len(labels)) < 0.7
    answers = np.where(rng.random(len(labels)) < 0.7, labels, (labels + 1) % 200)
    task, fp32 = Classify(tuple(map(str, range(200)))), answers_of(reference, labels, 200)
    found = list(floors(task, answers, labels, Budget(max_class_drop=5.0), {"fp32": fp32}))
    assert found[-1].key == "max_class_drop" and found[-1].keeps


@pytest.mark.parametrize(("most", "told"), [(1.0, "1000 samples cannot tell"), (3.0, "")])
def test_a_drop_has_its_interval_and_a_limit_within_it_is_told(most: float, told: str) -> None:
    """990 and 975 right of 1000: 1.5 points, surely between 0.7 and 2.5."""
    drops = {"fp32": Drop(1.5, 0.7, 2.5)}
    (found,) = limits(accuracy(97.5), 1.0, Budget(max_drop_from_fp32=most), None, accuracy(99.0), drops=drops)
    assert found.found.startswith("1.50 points worse than fp32 (95 %: 0.70 to 2.50 points worse)")
    assert told in found.found and ("cannot tell" in found.found) == bool(told)
    assert found.keeps == (most > 1.5)


def test_a_budget_of_an_error_is_a_share_of_the_other_s_error() -> None:
    """0.09 beside 0.08 is 12.5 % worse; in the unit of the data any drop would be below 1."""
    mae = {
        "metric": "MAE",
        "unit": "",
        "better": "lower",
        "low": 0.0,
        "high": 1.0,
        "n": 10,
        "split": "test",
        "runtime": "r",
    }
    int8, fp32 = (Score(value=value, **mae) for value in (0.09, 0.08))
    (found,) = limits(int8, 1.0, Budget(max_drop_from_fp32=10), None, fp32)
    assert (found.found, found.limit) == ("0.0100 worse than fp32, 12.5 % of its MAE", "at most 10 %")
    assert not found.keeps and limits(int8, 1.0, Budget(max_drop_from_fp32=13), None, fp32)[0].keeps


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.7, 2.5, "(95 %: 0.70 to 2.50 points worse)"),
        (-0.34, 2.35, "(95 %: 0.34 points better to 2.35 points worse)"),
        (-2.5, -0.7, "(95 %: 0.70 to 2.50 points better)"),
    ],
)
def test_the_ends_of_an_interval_have_their_directions(low: float, high: float, told: str) -> None:
    drops = {"fp32": Drop((low + high) / 2, low, high)}
    (found,) = limits(accuracy(97.5), 1.0, Budget(max_drop_from_fp32=5.0), None, accuracy(99.0), drops=drops)
    assert told in found.found
