"""Names in a drawing stand beside their points, and cover neither points nor each other."""

from __future__ import annotations

from itertools import combinations

from edgekd.report.labels import Label, place_labels

SIZE = (360, 270)


def covers(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across > 0 and down > 0


def test_a_lone_name_stands_above_its_point_at_the_right() -> None:
    (label,) = place_labels([(100, 100, "fp32")], SIZE)
    assert label == Label(110, 90, "start", 4 * 7.6)


def test_a_name_at_the_right_edge_stands_at_the_left_of_its_point() -> None:
    (label,) = place_labels([(350, 100, "teacher")], SIZE)
    assert label.anchor == "end" and label.box()[2] == 340


def test_names_of_near_points_cover_neither_points_nor_names() -> None:
    points = [(100.0, 100.0, "int8 (ships)"), (140.0, 96.0, "fp16"), (170.0, 100.0, "fp32"), (101.0, 101.0, "bf16")]
    labels = place_labels(points, SIZE)
    assert not any(covers(one.box(), other.box()) for one, other in combinations(labels, 2))
    dots = [(x - 7, y - 7, x + 7, y + 7) for x, y, _ in points]
    assert not any(covers(label.box(), dot) for label in labels for dot in dots)


def test_a_name_without_any_room_is_shown_all_the_same() -> None:
    (label,) = place_labels([(20, 20, "a name that is wider than the drawing")], (60, 40))
    assert label.x == 30 and label.y == 10
