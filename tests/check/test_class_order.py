"""A teacher that numbers the classes otherwise is recognised, and no other teacher is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.check.class_order import mistaken_order

Array = np.ndarray


def answers(labels: Array, outputs: Array, right: float, classes: int, seed: int) -> Array:  # type: ignore[type-arg]
    """What a teacher of this accuracy calls each sample, where output `outputs[c]` stands for class c."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < right, outputs[labels], rng.integers(0, classes, len(labels)))


@pytest.mark.parametrize(("classes", "n", "right"), [(3, 60, 0.9), (12, 240, 0.95), (10, 500, 0.4), (100, 1000, 0.8)])
def test_a_permutation_of_all_classes_is_found_exactly(classes: int, n: int, right: float) -> None:
    labels = np.arange(n) % classes
    order = np.roll(np.arange(classes), 1)
    order[: classes // 2] = np.roll(order[: classes // 2], 1)
    outputs = np.argsort(order)
    found = mistaken_order(answers(labels, outputs, right, classes, 1), labels, classes)
    assert found is not None and found.classes == tuple(order.tolist())
    assert found.by_order > 1.5 * found.as_numbered and found.n == n


def test_names_sorted_as_text_are_found_where_the_teacher_counts() -> None:
    """Twelve folders 0 to 11: edgekd's class 2 is "10"."""
    names = sorted(map(str, range(12)))
    labels = np.arange(240) % 12
    outputs = np.array([int(name) for name in names])
    found = mistaken_order(answers(labels, outputs, 0.95, 12, 0), labels, 12)
    assert found is not None and [names[i] for i in found.classes] == [str(i) for i in range(12)]


def test_two_classes_of_ten_that_are_exchanged_are_found() -> None:
    labels = np.arange(500) % 10
    outputs = np.array([0, 1, 2, 5, 4, 3, 6, 7, 8, 9])
    found = mistaken_order(answers(labels, outputs, 0.85, 10, 0), labels, 10)
    assert found is not None and found.classes == (0, 1, 2, 5, 4, 3, 6, 7, 8, 9)


@pytest.mark.parametrize("right", [0.0, 0.1, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(("classes", "n"), [(2, 20), (3, 180), (10, 500), (100, 1000)])
def test_a_weak_teacher_in_the_data_s_order_is_never_accused(classes: int, n: int, right: float) -> None:
    """100 teachers of each accuracy, down to one that guesses."""
    for seed in range(100):
        labels = np.random.default_rng(1000 + seed).integers(0, classes, n)
        assert mistaken_order(answers(labels, np.arange(classes), right, classes, seed), labels, classes) is None


def test_a_class_that_is_called_by_another_s_name_is_no_permutation() -> None:
    """A frequent class is called the rare one nine times of ten; the rare one is recognised."""
    labels = np.repeat([0, 1, 2], [200, 20, 200])
    predicted = labels.copy()
    predicted[:180] = 1
    assert mistaken_order(predicted, labels, 3) is None
    assert mistaken_order(np.zeros(420, np.int64), labels, 3) is None  # all are called the same


def test_too_few_samples_of_a_class_prove_nothing() -> None:
    labels = np.arange(6)
    assert mistaken_order(np.roll(labels, 1), labels, 6) is None
