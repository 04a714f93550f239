"""Table: columns are learnt from train, rows become arrays by them, and loop and graph compute the same bits."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.errors import DataError
from edgekd.export.to_onnx import to_onnx
from edgekd.inputs import Table
from edgekd.inputs.cells import cell_of, date_numbers
from edgekd.inputs.columns import Columns
from edgekd.inputs.learn_columns import learned
from edgekd.inputs.table import arrays_of
from edgekd.recipe import RawTableData, TableData
from edgekd.runtime.check import open_session

ROWS = [
    {"age": 20, "pay": None, "city": "Oslo", "same": 1, "when": "2026-01-01"},
    {"age": 30, "pay": 4.0, "city": "Lima", "same": 1, "when": "2026-01-03"},
    {"age": 40, "pay": 8.0, "city": None, "same": 1, "when": None},
    {"age": 70, "pay": 9.0, "city": "Oslo", "same": 1, "when": "2026-07-01"},
]


def data(**settings: Any) -> TableData:
    return TableData.model_validate({"input": "table", "train": "a.csv", "test": "b.csv", **settings})


def table(rows: list[dict[str, Any]] = ROWS, **settings: Any) -> Table:
    given = data(**settings)
    return Table(learned(rows, given), given)


def arrays(rows: list[dict[str, Any]], columns: Columns) -> dict[str, np.ndarray]:
    found = [arrays_of(row, columns) for row in rows]
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


def test_kinds_and_statistics_are_those_of_the_values() -> None:
    columns = table().columns
    assert [number.name for number in columns.numbers][:3] == ["age", "pay", "when.days"]
    age, pay = columns.numbers[:2]
    assert (age.mean, age.median, age.lacking) == (40, 35, 0)
    assert age.std == pytest.approx(math.sqrt((400 + 100 + 0 + 900) / 4))
    assert (pay.mean, pay.median, pay.present, pay.lacking) == (7, 8, 3, 1)
    (city,) = columns.categories
    assert (city.words, city.counts, city.size) == (("Lima", "Oslo"), (0, 1, 1, 2), 4)
    assert columns.dropped == {"same": "one value in every row"}


def test_a_row_becomes_numbers_and_codes() -> None:
    columns = table().columns
    found = arrays_of({"age": "41", "pay": None, "city": "Rome", "same": 1, "when": "1970-01-02"}, columns)
    assert found["numbers"].dtype == np.float32 and found["numbers"][[0, 2]].tolist() == [41, 1]
    assert np.isnan(found["numbers"][1])
    codes = [
        arrays_of({**ROWS[0], "city": city}, columns)["categories"].tolist() for city in ("Rome", None, "Lima", "Oslo")
    ]
    assert codes == [[0], [1], [2], [3]]  # unknown, no value, then the words


def test_rare_categories_count_as_unknown() -> None:
    (city,) = table(min_rows=2).columns.categories
    assert (city.words, city.counts) == (("Oslo",), (1, 1, 2))


def test_a_date_becomes_days_and_places_in_year_week_and_day() -> None:
    """1970-01-01 was a Thursday, the fourth day of the week; 6 o'clock is a quarter of a day."""
    days, year_sin, year_cos, week_sin, week_cos, day_sin, day_cos = date_numbers(datetime.datetime(1970, 1, 1, 6))
    assert (days, day_sin) == (0.25, 1) and day_cos == pytest.approx(0)
    assert (week_sin, week_cos) == pytest.approx((math.sin(6 * math.pi / 7), math.cos(6 * math.pi / 7)))
    assert (year_sin, year_cos) == pytest.approx((math.sin(math.pi / 730.5), math.cos(math.pi / 730.5)))


def test_cells_of_other_types_say_the_same() -> None:
    east = datetime.timezone(datetime.timedelta(hours=2))
    assert cell_of(datetime.datetime(2026, 1, 1, 1, tzinfo=east), ()) == datetime.datetime(2025, 12, 31, 23)
    assert [cell_of(value, ("?",)) for value in ("  a ", " ", "?", float("nan"), True, np.int32(3))] == [
        "a", None, None, None, "True", 3,
    ]  # fmt: skip
    with pytest.raises(TypeError, match="bytes"):
        cell_of(b"a", ())


def test_numbers_are_filled_standardised_and_indicated() -> None:
    """By hand in float64: the median stands for no value, and the number that some rows of train lack has an indicator."""
    input = table()
    raw = arrays(ROWS, input.columns)
    numbers, codes = input.preprocess()(torch.from_numpy(raw["numbers"]), torch.from_numpy(raw["categories"]))
    fills = np.array([number.median for number in input.columns.numbers])
    means = np.array([number.mean for number in input.columns.numbers])
    stds = np.array([number.std for number in input.columns.numbers])
    expected = (np.where(np.isnan(raw["numbers"]), fills, raw["numbers"]) - means) / stds
    width = expected.shape[1]
    np.testing.assert_allclose(numbers[:, :width], expected, atol=1e-6)
    assert numbers[:, width].tolist() == [1, 0, 0, 0]  # pay; after it the parts of the date
    assert numbers.shape[1] == input.arguments[0].shape[0] == width + len(input.indicated)
    assert torch.equal(codes, torch.from_numpy(raw["categories"]))


def test_the_mean_may_stand_for_a_missing_number() -> None:
    input = table(impute="mean")
    raw = arrays(ROWS, input.columns)
    numbers = input.preprocess()(torch.from_numpy(raw["numbers"]))[0]
    assert numbers[0, 1] == 0


def test_the_graph_computes_the_bits_of_the_loop(tmp_path: Path) -> None:
    input = table()
    raw = {name: torch.from_numpy(each) for name, each in arrays(ROWS, input.columns).items()}

    class Both(torch.nn.Module):
        def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return torch.cat([numbers, codes.to(torch.float32)], 1)

    to_onnx(Both(), tmp_path / "m.onnx", tuple(raw.values()), opset=17, preprocess=input.preprocess(), inputs=list(raw))
    found = open_session(tmp_path / "m.onnx").run(None, {name: each.numpy() for name, each in raw.items()})[0]
    expected = Both()(*input.preprocess()(*raw.values()))
    assert np.array_equal(found, expected.numpy())


def test_a_teacher_gets_the_stored_arrays() -> None:
    given = data()
    raw = Table(table().columns, RawTableData.model_construct(**dict(given)))
    assert raw.arguments == raw.fields and raw.offers["columns"] == raw.columns
    x = torch.tensor([[float("nan"), 1.0]])
    assert raw.preprocess()(x)[0] is x
    assert "columns" not in table().offers


def test_a_table_may_have_numbers_or_categories_alone() -> None:
    numbers = table([{"age": 1}, {"age": 2}])
    words = table([{"city": "a"}, {"city": "b"}])
    assert [field.name for field in numbers.fields] == ["numbers"] and numbers.offers["categories"] == ()
    assert [field.name for field in words.fields] == ["categories"] and words.offers["numbers"] == 0


def many(n: int = 4000, **augment: float) -> tuple[Table, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    rows = [{"x": float(i % 100), "y": float(i % 9), "city": "abc"[i % 3] if i % 10 else None} for i in range(n)]
    rng.shuffle(rows)  # type: ignore[arg-type]
    input = table(rows, augment=augment)
    return input, arrays(rows, input.columns), np.arange(n)


def test_a_view_replays_alone_and_in_any_order() -> None:
    input, raw, ids = many(swap=0.3, noise=0.1)
    whole = input.view(raw, ids, 3, 7)
    some = np.array([900, 4, 17])
    alone = input.view({name: each[some] for name, each in raw.items()}, some, 3, 7)
    for name, each in alone.items():
        assert np.array_equal(each, whole[name][some])
        assert not np.array_equal(each, input.view(raw, ids, 4, 7)[name][some]) or name == "categories"


def test_swapped_values_are_distributed_as_in_train() -> None:
    """All swapped: the column keeps its mean and its share of words and missing values, and no row its own value."""
    input, raw, ids = many(swap=0.999)
    changed = input.view(raw, ids, 0, 0)
    assert abs(changed["numbers"][:, 0].mean() - 49.5) < 2 and changed["numbers"].dtype == np.float32
    assert set(np.unique(changed["numbers"][:, 0])) <= set(map(float, range(100)))
    shares = np.bincount(changed["categories"][:, 0], minlength=5) / len(ids)
    assert np.allclose(shares, [0, 0.1, 0.3, 0.3, 0.3], atol=0.03)
    assert (changed["numbers"][:, 0] == raw["numbers"][:, 0]).mean() < 0.05


def test_a_share_of_the_values_is_swapped() -> None:
    input, raw, ids = many(swap=0.2)
    changed = input.view(raw, ids, 0, 0)["numbers"][:, 0] != raw["numbers"][:, 0]
    assert changed.mean() == pytest.approx(0.2, abs=0.03)


def test_noise_is_in_standard_deviations_and_leaves_missing_values_missing() -> None:
    input, raw, ids = many(noise=0.5)
    raw["numbers"][0, 0] = np.nan
    moved = input.view(raw, ids, 0, 0)["numbers"] - raw["numbers"]
    assert np.isnan(moved[0, 0])
    assert np.nanstd(moved[:, 0]) == pytest.approx(0.5 * input.columns.numbers[0].std, rel=0.05)


def test_mixup_is_refused_for_categories_and_defined_for_numbers() -> None:
    assert "a category lies between no two others" in table(augment={"mixup": 0.2}).mistakes()["augment.mixup"]
    numbers = table([{"age": 1}, {"age": 2}], augment={"mixup": 0.2})
    assert not numbers.mistakes()
    mixed = numbers.mixed({"numbers": np.float32([[1.0]])}, {"numbers": np.float32([[3.0]])}, np.array([0.75]))
    assert mixed["numbers"].tolist() == [[1.5]]


@pytest.mark.parametrize(
    "rows, settings, told",
    [
        ([{"a": 1}, {"a": 1}], {}, "no column of data.train is left"),
        ([{}, {}], {}, "data.train has no other columns than the labels"),
        (
            [{"a": "x"}, {"a": "y"}],
            {"numbers": ["a"]},
            "named under data.numbers, but row 0 holds 'x', which is no number",
        ),
        (
            [{"a": "2026-01-01"}, {"a": "y"}],
            {"dates": ["a"]},
            "named under data.dates, but row 1 holds 'y', which is no date",
        ),
        ([{"a": 1}, {"a": 2}], {"numbers": ["b"]}, "data.numbers names b, which data.train has not"),
        ([{"a": str(i)} for i in range(20)] + [{"a": "x7"}], {}, "in 1 of 21 rows; the first is row 20: 'x7'"),
        ([{"a": f"name {i}"} for i in range(80)], {}, "80 different texts in 80 rows, which is no category"),
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(
    rows: list[dict[str, Any]], settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError) as error:
        learned(rows, data(**settings))
    assert told in str(error.value)


def test_codes_with_leading_zeros_are_words_and_the_recipe_overrules(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"zip": "0151", "kind": 1, "x": i} for i in range(3)] + [{"zip": "0250", "kind": 2, "x": 9}]
    columns = learned(rows, data(categories=["kind"]))
    assert [(each.column, each.words) for each in columns.categories] == [
        ("zip", ("0151", "0250")),
        ("kind", ("1", "2")),
    ]
    assert "1 numbers: x" in capsys.readouterr().err
