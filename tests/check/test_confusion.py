"""The answers by class: counts, shares with their intervals, and the most frequent confusions."""

from __future__ import annotations

import numpy as np

from edgekd.check.confusion import classes_found, confusion_of, labels_found
from edgekd.figures.figures import ClassScore, Confused

NAMES = ("cat", "dog", "owl", "never seen")
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
ANSWERS = np.array([0, 0, 1, 1, 1, 2, 1, 2, 0])
TAUGHT = np.array([0, 0, 1, 0, 1, 1, 1, 2, 2])


def test_a_class_has_its_samples_its_share_and_its_interval() -> None:
    """Wilson's interval of 2 of 4 is (0.5 + z²/8 ± z sqrt(1/16 + z²/64)) / (1 + z²/4) with z = 1.96: 15.0 to 85.0."""
    cat, dog, owl = classes_found(NAMES, LABELS, ANSWERS)
    assert cat.shipped is not None and dog.shipped is not None and owl.shipped is not None
    assert [(found.name, found.n, found.shipped.value) for found in (cat, dog, owl)] == [
        ("cat", 4, 50.0), ("dog", 3, 66.67), ("owl", 2, 50.0)
    ]  # fmt: skip
    assert (cat.shipped.low, cat.shipped.high) == (15.0, 85.0)
    assert cat.teacher is None


def test_a_teacher_of_the_first_classes_has_no_share_of_the_others() -> None:
    cat, dog, owl = classes_found(NAMES, LABELS, ANSWERS, TAUGHT, known=2)
    assert cat.teacher is not None and dog.teacher is not None and owl.teacher is None
    assert (cat.teacher.value, dog.teacher.value) == (75.0, 100.0)


def test_the_matrix_counts_answers_by_class() -> None:
    found = confusion_of(NAMES, LABELS, ANSWERS)
    assert found.counts == ((2, 2, 0, 0), (0, 2, 1, 0), (1, 0, 1, 0), (0, 0, 0, 0))
    assert (found.n, found.wrong) == (9, 4)


def test_the_most_frequent_confusions_come_first_beside_the_teachers() -> None:
    found = confusion_of(NAMES, LABELS, ANSWERS, TAUGHT, known=4)
    assert found.pairs == (
        Confused(label="cat", answer="dog", n=2, of=4, teacher=1),
        Confused(label="dog", answer="owl", n=1, of=3, teacher=0),
        Confused(label="owl", answer="cat", n=1, of=2, teacher=0),
    )
    assert confusion_of(NAMES, LABELS, ANSWERS, TAUGHT, known=2).pairs[1].teacher is None


def test_many_classes_have_pairs_and_no_matrix() -> None:
    """20,000 classes would need a matrix of 400 million cells."""
    names = [f"class {i}" for i in range(20_000)]
    labels = np.arange(20_000)
    answers = labels.copy()
    answers[[3, 9_999]] = 19_999, 0
    found = confusion_of(names, labels, answers)
    assert found.counts == () and found.wrong == 2
    assert {(pair.label, pair.answer) for pair in found.pairs} == {
        ("class 3", "class 19999"),
        ("class 9999", "class 0"),
    }


def test_a_label_has_the_number_of_samples_that_have_it_and_no_share() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
    assert list(labels_found(("disc", "dark", "none"), labels)) == [
        ClassScore(name="disc", n=2), ClassScore(name="dark", n=1)
    ]  # fmt: skip
