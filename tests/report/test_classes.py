"""The rows of classes and the confusion matrix of the page."""

from __future__ import annotations

from edgekd.figures.figures import ClassScore, Confusion, Report, Share
from edgekd.report.classes import Cell, class_rows, matrix, other_figures
from edgekd.report.html import render


def test_without_a_teacher_the_weakest_classes_come_first(report: Report) -> None:
    alone = report.model_copy(update={"teacher": None, "teacher_latency": None})
    rows, _ = class_rows(alone)
    shipped = [row.shipped.value for row in rows]
    assert shipped == sorted(shipped) and len(rows) == 3
    assert all(row.teacher is None and row.change is None for row in rows)
    assert [row.change for row in class_rows(report)[0]] == sorted(row.change for row in class_rows(report)[0])
    assert "less changed" not in render(alone)


def test_a_class_shows_its_samples_and_intervals_and_its_line_holds_them(report: Report) -> None:
    """cat: 77 % of 50 samples, 63.0 to 87.0; the teacher 80 %, 67.0 to 88.8. The line begins at the ten below 63 - 2."""
    shipped, teacher = Share(value=77, low=63.0, high=87.0), Share(value=80, low=67.0, high=88.8)
    counted = (ClassScore(name="cat", n=50, shipped=shipped, teacher=teacher),)
    rows, start = class_rows(report.model_copy(update={"by_class": counted}))
    (cat,) = (row for row in rows if row.name == "cat")
    assert start == 60 and cat.n == 50 and cat.shipped.interval == shipped
    assert (cat.shipped.low, cat.shipped.at, cat.shipped.high) == (7.5, 42.5, 67.5)
    assert cat.teacher is not None and (cat.teacher.low, cat.teacher.high) == (17.5, 72.0)
    page = render(report.model_copy(update={"by_class": counted}))
    assert "63.0–87.0" in page and "67.0–88.8" in page and "The lines go from 60 to 100 %" in page


def test_the_matrix_has_a_row_for_each_class_and_shades_by_the_share_of_it(report: Report) -> None:
    confusion = Confusion(n=16, wrong=3, counts=((8, 2, 0), (0, 5, 0), (1, 0, 0)))
    (first, cells), _, (_, last) = matrix(report.model_copy(update={"confusion": confusion}))
    assert first == "cat" and cells == [Cell(8, "right", 80), Cell(2, "wrong", 20), Cell(0, "zero", 0)]
    assert last == [Cell(1, "wrong", 100), Cell(0, "zero", 0), Cell(0, "right", 0)]


def test_an_earlier_report_has_no_matrix(report: Report) -> None:
    assert matrix(report) == [] and "confuses" not in render(report)


def test_figures_of_no_class_stand_apart_and_on_no_line(report: Report) -> None:
    """R² and RMSE are no classes: one line for both would compare what cannot be compared."""
    int8 = report.candidates[1]
    score = int8.score.model_copy(update={"parts": {"RMSE": 2.25, "cat": 77.0}})
    assert report.teacher is not None
    teacher = report.teacher.model_copy(update={"parts": {"RMSE": 2.0, "cat": 80.0}})
    changed = report.model_copy(
        update={"candidates": (report.candidates[0], int8.model_copy(update={"score": score})), "teacher": teacher}
    )
    assert other_figures(changed) == [("RMSE", 2.25, 2.0)] and [row.name for row in class_rows(changed)[0]] == ["cat"]
    page = render(changed)
    further = page[page.index("Further figures") :].partition("</section>")[0]
    assert "+0.25" in further and 'class="line"' not in further and "Further figures" not in render(report)
