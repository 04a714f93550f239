"""Recording the teacher: it goes on after a kill, and goes on in halves where the memory ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgekd.distill.features import Taps
from edgekd.distill.methods.sizes import embedding
from edgekd.inputs import Arrays
from edgekd.inputs.image import INPUT
from edgekd.inputs.protocol import number_of
from edgekd.models.forward import in_halves
from edgekd.recipe import Augmentation, load_recipe
from edgekd.steps import record as teacher
from tests.builders.recipes import RECIPE
from tests.builders.training import IDS, network, samples


class Killed(Exception):
    pass


def recorded(out: Path, dies_at: int = -1) -> tuple[NDArray[np.float16], int]:
    """The pictures' means, recorded in batches of 16 with a note after each; and how many batches were computed."""
    (out / "scratch").mkdir(parents=True, exist_ok=True)
    batches = 0

    def values_of(raw: Arrays, ids: Any, view: int) -> dict[str, Any]:
        nonlocal batches
        batches += 1
        if batches == dies_at:
            raise Killed
        return {"mean": raw[INPUT].mean((1, 2)).astype(np.float16)}

    teacher._record(out, samples(), 3, {"mean": (np.float16, (1,))}, values_of, "means")
    return np.load(out / "mean.npy"), batches


def test_a_killed_recording_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "BATCH", 16)
    monkeypatch.setattr(teacher, "SAVE_EVERY", 2)
    whole, batches = recorded(tmp_path / "whole")
    view = samples().views
    expected = np.stack([view(IDS[:80], number).inputs[INPUT].mean((1, 2)) for number in range(3)])
    np.testing.assert_array_equal(whole, expected.astype(np.float16))
    with pytest.raises(Killed):
        recorded(tmp_path / "parts", dies_at=8)  # after seven, of which six are noted
    parts, later = recorded(tmp_path / "parts")
    np.testing.assert_array_equal(parts, whole)
    assert (batches, later) == (15, 9)


def test_features_are_whole_where_the_memory_ends_and_halves_are_taken() -> None:
    """The memory holds 7 samples: of 30 the features of all come back, in order."""
    model = network(1).eval()
    raw = {INPUT: np.random.default_rng(0).integers(0, 255, (30, 6, 6, 1), dtype=np.uint8)}
    with Taps(model, ["2"], "teacher") as taps:

        def pooled(part: Arrays) -> torch.Tensor:
            if number_of(part) > 7:
                raise torch.OutOfMemoryError
            teacher.answers_of(model, samples().input, part, False)
            return embedding(taps.features["2"])

        found = in_halves(pooled, raw, torch.cat)
        teacher.answers_of(model, samples().input, raw, False)
        torch.testing.assert_close(found, embedding(taps.features["2"]))


def test_one_sample_that_does_not_fit_is_told() -> None:
    def full(part: Arrays) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_halves(full, {INPUT: np.zeros((4, 1, 1, 1), np.uint8)}, torch.cat)


def test_teacher_and_student_see_one_picture_where_only_the_teacher_is_normalised_otherwise(tmp_path: Path) -> None:
    """A cut-out is painted in the recipe's mean for both."""
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    given = ("data.mean=[0.5]", "data.augment={cutout=4, crop_padding=1}", "teacher.mean=[0.0]", "teacher.std=[1.0]")
    recipe = load_recipe(tmp_path, given)
    assert recipe.teacher_data.mean == (0.0,) and recipe.teacher_data.augment == Augmentation(
        cutout=4, crop_padding=1, fill=(0.5,)
    )
    student, seen = (samples(data).views(IDS[:50], 1).inputs[INPUT] for data in (recipe.data, recipe.teacher_data))
    np.testing.assert_array_equal(student, seen)
    assert (student == 128).any()
