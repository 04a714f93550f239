"""The plot of values: both axes have one scale, so an estimate without error lies on the line."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from edgekd.figures.figures import Fit, Report
from edgekd.report.fit import fit_plots
from edgekd.report.html import render

FIT = Fit(name="age of the <cell>", points=((1.0, 2.0), (3.0, 3.0), (5.0, 6.0)))


def test_an_exact_estimate_lies_on_the_line(report: Report) -> None:
    """The axes span 1 to 6 and a tenth of that at each end: 0.5 to 6.5. The line goes from corner to corner."""
    (plot,) = fit_plots(report.model_copy(update={"fits": (FIT,)}))
    assert (plot.x.low, plot.x.high) == (plot.y.low, plot.y.high) == (0.5, 6.5)
    x, y = plot.points[1]
    along = (x - plot.x.start_px) / (plot.x.end_px - plot.x.start_px)
    assert along == pytest.approx((plot.y.start_px - y) / (plot.y.start_px - plot.y.end_px), abs=1e-3)
    assert along == pytest.approx(2.5 / 6, abs=1e-3)


def test_the_plot_is_told_in_words_and_its_name_cannot_become_markup(report: Report) -> None:
    page = render(report.model_copy(update={"fits": (FIT,)}))
    section = page[page.index("Estimated and true values") :].partition("</section>")[0]
    (drawing,) = re.findall(r"<svg.*?</svg>", section, re.DOTALL)
    title, described, *_ = list(ElementTree.fromstring(drawing))
    assert title.text == "age of the <cell>: value of int8 over true value"
    assert described.text == "3 test samples with true values from 1 to 5" and drawing.count("<circle") == 3


def test_without_points_there_is_no_plot(report: Report) -> None:
    too_far = Fit(name="age", points=((-1e308, 0.0), (1e308, float("nan"))))
    for fit in (Fit(name="age", points=()), too_far):
        assert list(fit_plots(report.model_copy(update={"fits": (fit,)}))) == []
    assert "Estimated and true values" not in render(report)
