"""The page can be read by everybody: by keyboard and screen reader, on a telephone, in the dark, and without a network."""

from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.figures.candidate import Estimate, KernelTime
from edgekd.figures.figures import (
    ClassScore,
    Confused,
    Confusion,
    LayerSensitivity,
    Mistake,
    Report,
    Share,
)  # fmt: skip
from edgekd.figures.thumbnails import at, size
from edgekd.report.html import render

NAMES = tuple(f"class number {i}" for i in range(1000))
MOST = 1_000_000  # bytes


def noise(width: int, height: int) -> bytes:
    """A JPEG that no encoder makes small."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return file.getvalue()


def whole(report: Report, names: tuple[str, ...] = NAMES) -> Report:
    """The report with every part that a page can have: classes, mistakes, an estimate of 2,000 kernels, long trainings."""
    share = Share(value=90.0, low=80.0, high=96.0)
    parts = {name: 90.0 for name in names}
    kernels = tuple(
        KernelTime(name=f"layer.{i}", kind="conv", precision="int8", operations=10**6, bytes=10**4, ms=1e-3)
        for i in range(2000)
    )
    estimate = Estimate(
        device="box", basis="profile", low_ms=2.0, high_ms=20.0, kernels=kernels, peaks_gops={"int8": 5000.0},
        bandwidth_gbs=100.0,
    )  # fmt: skip
    candidates = tuple(
        c.model_copy(
            update={
                "score": c.score.model_copy(update={"parts": parts}),
                "estimate": estimate,
                "order_origin": "estimate",
            }
        )
        for c in report.candidates
    )
    pairs = tuple(Confused(label=a, answer=b, n=9, of=50, teacher=3) for a, b in itertools.pairwise(names[:21]))
    matrix = tuple(tuple(50 if i == j else 1 for j in range(len(names))) for i in range(len(names)))
    curve = tuple({"epoch": float(i), "loss": 1.0 + i % 7, "holdout": 90.0, "lr": 0.1} for i in range(1, 3001))
    return report.model_copy(
        update={
            "classes": names,
            "candidates": candidates,
            "by_class": tuple(ClassScore(name=name, n=50, shipped=share, teacher=share) for name in names),
            "confusion": Confusion(n=50_000, wrong=5000, pairs=pairs, counts=matrix if len(names) <= 20 else ()),
            "mistakes": tuple(
                Mistake(sample=i, label=names[0], answer=names[1], probability=99.0, teacher=names[0])
                for i in range(24)
            ),
            "curves": curve,
            "summary": (("student", "edgekd:resnet8"),),
            "sensitivity": (LayerSensitivity(layer="fc", divergence=0.1, share=100.0, in_float=False),),
        }
    )


@pytest.fixture
def page(report: Report) -> str:
    return render(whole(report, NAMES[:12]), mistaken=noise(*size(24)))


def test_a_report_of_many_classes_and_pictures_is_one_file_below_a_megabyte(report: Report) -> None:
    html = render(whole(report), mistaken=noise(*size(24)))
    assert "500 more are in report.json" in html and "1600 kernels: the 400 longest are drawn" in html
    assert len(html.encode()) <= MOST


def test_every_picture_of_a_mistake_is_cut_from_one_sheet_and_told_in_words(page: str) -> None:
    found = re.findall(r'<figure><svg viewBox="([^"]*)".*?<use href="#mistaken"/></svg>', page)
    assert found == [f"{at(i)[0]} {at(i)[1]} 96 96" for i in range(24)]
    assert page.count("data:image/jpeg;base64,") == 1
    assert "a picture of class number 0 that int8 takes for class number 1" in page


def test_without_pictures_the_mistakes_are_a_table(report: Report) -> None:
    html = render(whole(report, NAMES[:12]))
    assert "<figure>" not in html and "wrong answers" in html and "data:image" not in html


def test_headings_step_down_one_level_at_a_time(page: str) -> None:
    levels = [int(level) for level in re.findall(r"<h(\d)>", page)]
    assert levels[0] == 1 and levels.count(1) == 1 and {2, 3} <= set(levels)
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_table_has_a_caption_and_every_heading_of_a_row_or_column_its_scope(page: str) -> None:
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) >= 9
    for table in tables:
        assert re.match(r"<table[^>]*>\s*<caption", table)
        headings = re.findall(r"<th\b[^>]*>", table)
        assert headings and all('scope="row"' in heading or 'scope="col"' in heading for heading in headings)


def test_a_table_that_becomes_cards_names_each_cell_as_its_column(page: str) -> None:
    cards = re.findall(r'<table class="cards.*?</table>', page, re.DOTALL)
    assert len(cards) >= 7
    for table in cards:
        columns = re.findall(r'role="columnheader"[^>]*><span[^>]*>([^<]*)</span></th>', table)
        for row in re.findall(r"<tr.*?</tr>", table.partition("<tbody")[2], re.DOTALL):
            assert re.findall(r'<td role="cell" data-label="([^"]*)"', row) == columns[1:]
            assert row.count('role="rowheader"') == 1


def test_every_drawing_has_a_title_and_a_description(page: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    told = [drawing for drawing in drawings if 'aria-hidden="true"' not in drawing.partition(">")[0]]
    assert len(told) == len(drawings) - 1  # the sheet, of which the others are cut
    for drawing in told:
        found = ElementTree.fromstring(drawing)
        first, second, *_ = list(found)
        assert (
            found.get("role") == "img" and (first.tag, second.tag) == ("title", "desc") and first.text and second.text
        )
        assert found.get("aria-labelledby") == f"{first.get('id')} {second.get('id')}"


def test_what_scrolls_can_be_reached_by_keyboard_and_the_focus_is_seen(page: str) -> None:
    regions = re.findall(r'<div class="scroll"[^>]*>', page)
    assert regions and all('tabindex="0"' in region and "aria-label=" in region for region in regions)
    assert re.search(r":focus-visible \{ outline: 3px solid", page)


def luminance(colour: str) -> float:
    """The relative luminance of '#rrggbb' or '#rgb' (WCAG 2.1)."""
    digits = colour.removeprefix("#")
    pairs = [digits[i : i + 2] for i in (0, 2, 4)] if len(digits) == 6 else [2 * digit for digit in digits]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (int(p, 16) / 255 for p in pairs)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_text_has_a_contrast_of_four_and_a_half_in_light_and_dark(page: str, mode: int) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", page, re.DOTALL)[mode]))
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "card")]
    pairs += [("good", "good-bg"), ("bad", "bad-bg"), ("warn", "warn-bg"), ("soft", "note-bg")]
    assert {pair: value for pair in pairs if (value := contrast(colours[pair[0]], colours[pair[1]])) < 4.5} == {}
    graphics = ["teacher", *(f"c{i}" for i in range(8))]
    assert {name: value for name in graphics if (value := contrast(colours[name], colours["card"])) < 3} == {}


def test_a_narrow_screen_gets_drawings_of_its_own_and_cards(page: str) -> None:
    """A wide drawing on 390 pixels would have text of 5 pixels."""
    narrow = re.findall(r'<svg class="narrow" viewBox="0 0 (\d+) ', page)
    assert (
        narrow == ["360", "360"] and page.count('<svg class="wide"') == 2
    )  # accuracy against latency, and the roofline
    style = page[page.index("@media (max-width: 640px)") :].partition("</style>")[0]
    assert "svg.wide { display: none; }" in style and "content: attr(data-label)" in style


def test_a_report_of_the_format_before_is_a_page() -> None:
    old = Report.model_validate_json((Path(__file__).parents[1] / "figures" / "report_format_1.json").read_text())
    page = render(old)
    assert f"{old.chosen.score.value:.2f}" in page and "confuses" not in page and "no sign of" not in page
