"""The teacher's cache: what is stored is what is read, in every format, and no more than was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from edgekd.distill.cache import bytes_of, format_of
from edgekd.errors import ModelError
from tests.builders.training import stored

RNG = np.random.default_rng(0)
LOGITS = (4 * RNG.normal(size=(2, 50, 12))).astype(np.float32)


ROWS = np.array([7, 3, 49])


def test_float16_keeps_eleven_bits(tmp_path: Path) -> None:
    cached = stored(tmp_path, LOGITS)
    assert cached.shape == LOGITS.shape[:2]
    np.testing.assert_allclose(cached[1, ROWS], LOGITS[1, ROWS], rtol=2**-11)


def test_int8_is_off_by_half_a_step_of_the_rows_range_at_most(tmp_path: Path) -> None:
    found, given = stored(tmp_path, LOGITS, "int8")[1, ROWS], LOGITS[1, ROWS]
    half_a_step = (given.max(1) - given.min(1)) / 255 / 2
    assert (np.abs(found - given).max(1) <= half_a_step * 1.001).all() and np.abs(found - given).max() > 0
    assert (found.argmax(1) == given.argmax(1)).all()


def test_top_k_keeps_the_soft_targets_of_the_largest_and_the_mass_of_the_others(tmp_path: Path) -> None:
    found, given = stored(tmp_path, LOGITS, "topk")[0, ROWS], LOGITS[0, ROWS]
    top = np.argsort(-given, axis=1)[:, :4]
    p_found, p_given = softmax(found, axis=1), softmax(given, axis=1)
    kept, expected = np.take_along_axis(p_found, top, 1), np.take_along_axis(p_given, top, 1)
    np.testing.assert_allclose(kept, expected, rtol=5e-3)
    np.testing.assert_allclose(p_found.sum(1) - kept.sum(1), p_given.sum(1) - expected.sum(1), rtol=2e-2, atol=1e-6)
    np.testing.assert_allclose(logsumexp(found, axis=1), logsumexp(given, axis=1), rtol=1e-3)


def test_a_constant_row_is_stored_in_every_format(tmp_path: Path) -> None:
    for name in ("float16", "int8", "topk"):
        (tmp_path / name).mkdir()
        found = stored(tmp_path / name, np.full((1, 2, 6), 3.0, np.float32), name)[0, np.array([1])]
        np.testing.assert_allclose(found, 3.0, rtol=1e-3)


@pytest.mark.parametrize(("name", "of_a_sample"), [("float16", 2 * 1000), ("int8", 1000 + 8), ("topk", 32 * 6 + 4)])
def test_the_size_is_known_before_anything_is_recorded(name: str, of_a_sample: int) -> None:
    assert bytes_of(format_of(name, (1000,), 32).arrays, 10) == 10 * of_a_sample


@pytest.mark.parametrize("name", ["float16", "topk"])
def test_logits_beyond_float16_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"1e\+06.*float16"):
        stored(tmp_path, np.full((1, 2, 6), 1e6, np.float32), name)
