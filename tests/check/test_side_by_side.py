"""Bundles side by side: paired where they were judged on the same samples, and with the reason where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekd.check.side_by_side import Judgement, compared, difference, recipe_differences
from edgekd.errors import BundleError
from edgekd.figures.figures import Report
from edgekd.figures.intervals import paired_interval
from edgekd.report.comparison import figures, letters, page
from edgekd.tasks.classify import TOP1, judged
from tests.builders.bundles import report, write
from tests.builders.typed import typed


def judgement(right: np.ndarray, labels: np.ndarray, samples: str = "test.parquet") -> Judgement:
    return Judgement(TOP1, judged(right), labels, frozenset({samples}))


def two(folder: Path) -> list[Path]:
    """Two bundles whose data is not here."""
    for name in ("a", "b"):
        (folder / name).mkdir()
    return [write(folder / name) for name in ("a", "b")]


def test_a_difference_on_the_same_samples_has_newcombes_interval() -> None:
    labels, a, b = np.zeros(50, int), np.arange(50) < 48, np.arange(50) < 40
    found = difference("b", report(), report(), judgement(a, labels), judgement(b, labels))
    assert found.value == 16.0 and (found.low, found.high) == pytest.approx(paired_interval(a, b), abs=1e-3)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (judgement(np.arange(50) < 40, np.ones(50, int)), "the test samples or the metrics are others"),
        # Other pictures may have the same labels in the same order.
        (
            judgement(np.arange(50) < 40, np.zeros(50, int), "other.parquet"),
            "the test samples or the metrics are others",
        ),
        ("data/test does not exist", "data/test does not exist"),
    ],
)
def test_a_difference_that_is_not_paired_has_no_interval_and_says_why(own: Judgement | str, why: str) -> None:
    first = judgement(np.arange(50) < 48, np.zeros(50, int))
    other = report().chosen.model_copy(update={"score": report().chosen.score.model_copy(update={"value": 85.0})})
    found = difference("b", report(), report().model_copy(update={"candidates": (other,)}), first, own)
    assert (found.value, found.low, found.high, found.why_not_paired) == (5.0, None, None, why)


def test_what_differs_is_told_by_key_in_the_order_of_the_recipe() -> None:
    a = {"data": {"train": "t", "size": [8, 8]}, "distill": {"epochs": 5, "ema": None}}
    b = {"data": {"train": "t", "size": [8, 9]}, "distill": {"epochs": 7}, "budget": {"size_mb": 2}}
    found = [(each.key, each.values) for each in recipe_differences([a, b])]
    assert found == [("data.size", ("[8, 8]", "[8, 9]")), ("distill.epochs", ("5", "7")), ("budget.size_mb", ("", "2"))]


def test_one_bundle_and_a_folder_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="two or more can be compared"):
        compared([write(tmp_path)])
    done = typed("compare", str(tmp_path), str(tmp_path / "none"), cwd=tmp_path)
    assert (
        done.returncode == 2 and "holds no report.json; give a bundle" in done.stderr and "Traceback" not in done.stderr
    )


def test_bundles_whose_data_is_not_here_are_compared_by_their_reports(tmp_path: Path) -> None:
    found = compared(two(tmp_path))
    assert letters(found) == ["A", "B"] and found.differences[0].why_not_paired
    rows = dict((row[0], row[1:]) for row in figures(found))
    assert rows["top-1 %"] == ("90.00 ±1.00 (n 1000)",) * 2 and rows["p50 ms, host"] == ("0.400", "0.400")
    assert rows["beside A"][1].startswith("0.00 points worse; not paired: ")


def test_a_bundle_beside_its_fp32_twin_is_paired_and_printed_and_is_a_page(
    words: tuple[Report, Path], tmp_path: Path
) -> None:
    """The twin has the same recipe and ships model.fp32.onnx."""
    _, bundle = words
    twin = shutil.copytree(bundle, tmp_path / "<twin>")
    shutil.copyfile(twin / "model.fp32.onnx", twin / "model.onnx")

    done = typed("compare", str(bundle), str(twin), "--json", "--html", str(tmp_path / "c.html"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["differences"]
    assert found["why_not_paired"] == "" and found["low"] <= found["value"] <= found["high"]
    written = (tmp_path / "c.html").read_text()
    assert "&lt;twin&gt;" in written and "<twin>" not in written and "http" not in written

    printed = typed("compare", str(bundle), str(twin), cwd=tmp_path).stdout
    assert "beside A" in printed and max(map(len, printed.splitlines())) <= 80


def test_the_page_names_each_cell_s_bundle_for_narrow_screens(tmp_path: Path) -> None:
    text = page(compared(two(tmp_path)))
    assert text.count('data-head="A"') == text.count('data-head="B"') > 3 and 'scope="row"' in text
