"""Tables are read from CSV, parquet and functions alike; statistics are train's, and what cannot be used is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgekd.cache.stage import Cache
from edgekd.data import Samples, Unseen
from edgekd.errors import DataError
from edgekd.recipe import ClassifyTask, TableData
from edgekd.steps.problem import Problem, decoded
from tests.builders.rows import rows, write_csv

TRAIN = [
    {"age": 20 + i, "city": ("Oslo", "Lima")[i % 2], "day": f"2026-01-{i + 1:02}", "label": ("no", "yes")[i // 10]}
    for i in range(20)
]


def problem(folder: Path, train: Any, test: Any, **settings: Any) -> Problem:
    files = {}
    for name, table in (("train", train), ("test", test)):
        files[name] = str(table if isinstance(table, str | Path) else write_csv(folder / f"{name}.csv", table))
    data = TableData.model_validate({"input": "table", "holdout": 0.2, **files, **settings})
    with Cache(folder / "cache") as run:
        return decoded(run, data, ClassifyTask())


def opened(folder: Path, train: Any, test: Any, **settings: Any) -> tuple[Samples, Unseen]:
    found = problem(folder, train, test, **settings)
    return found.open(), found.open_test()


def refusal(folder: Path, train: Any, test: Any, **settings: Any) -> str:
    with pytest.raises(DataError) as told:
        problem(folder, train, test, **settings)
    assert "\n" not in str(told.value)
    return str(told.value)


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    return [{**each, **values} if at == row else each for at, each in enumerate(TRAIN)]


def test_csv_parquet_and_a_function_give_the_same_arrays(tmp_path: Path) -> None:
    table = rows(50, 0)
    columns = {name: [row[name] or None for row in table] for name in table[0]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    (tmp_path / "given.py").write_text(
        "import csv, pathlib\n"
        "def give(split):\n"
        "    rows = list(csv.DictReader((pathlib.Path(__file__).parent / 'train.csv').read_text().splitlines()))\n"
        "    labels = [['no', 'yes'].index(row.pop('label')) for row in rows]\n"
        "    return {name: [row[name] for row in rows] for name in rows[0]}, labels, ['no', 'yes']\n"
    )
    sources = (table, tmp_path / "rows.parquet", f"python:{tmp_path}/given.py:give")
    found = [opened(tmp_path, source, source)[0] for source in sources]
    ids = np.arange(50)
    for other in found[1:]:
        assert other.classes == found[0].classes == ("no", "yes")
        assert other.input.columns == found[0].input.columns  # type: ignore[attr-defined]
        assert np.array_equal(other.train.labels, found[0].train.labels)
        for name, array in found[0].train.get(ids).items():
            assert np.array_equal(other.train.get(ids)[name], array, equal_nan=array.dtype.kind == "f")


def test_the_test_split_is_read_by_the_columns_of_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = [{"age": 900, "city": "Rome", "day": "2030-01-01", "label": "yes"}, {**TRAIN[3]}]
    train, unseen = opened(tmp_path, TRAIN, test)
    assert unseen.input.columns == train.input.columns  # type: ignore[attr-defined]
    assert unseen.get(np.arange(2))["numbers"][0, 0] == 900
    assert unseen.get(np.arange(2))["categories"].tolist() == [[0], [2]]  # unknown; Lima is the first word
    assert unseen.repeated.tolist() == [False, True]
    assert "test: 1 of 2 rows have an unknown category" in capsys.readouterr().err


def test_another_test_split_changes_no_training_key(tmp_path: Path) -> None:
    one = problem(tmp_path, TRAIN, TRAIN[:4])
    other = problem(tmp_path, TRAIN, changed(0, age=77)[:4])
    assert one.train.key == other.train.key and one.test.key != other.test.key


@pytest.mark.parametrize(
    "test, told",
    [
        ([{key: row[key] for key in ("age", "day", "label")} for row in TRAIN], "it lacks city"),
        ([{**row, "more": 1} for row in TRAIN], "train has not more"),
        (changed(4, age="old"), "test.csv row 4 does not decode: column age holds 'old', which is no number"),
        (changed(4, age="inf"), "row 4 does not decode: column age holds 'inf', which is infinite"),
        (changed(4, age="1e39"), "which is beyond the numbers of float32"),
        (changed(4, day="soon"), "column day holds 'soon', which is no date as 2026-11-28"),
        (changed(4, label=""), "test.csv row 4 has no label (column label)"),
        (changed(4, label="NaN"), "test.csv row 4 has no label (column label)"),
        (changed(4, label="maybe"), "data.test has a class that data.train has not: maybe"),
    ],
)
def test_a_test_split_that_does_not_fit_train_is_refused(tmp_path: Path, test: list[dict[str, Any]], told: str) -> None:
    assert told in refusal(tmp_path, TRAIN, test)


@pytest.mark.parametrize(
    "content, told",
    [
        ("a;b\n1;2\n", "names no two columns, separated by commas"),
        ("a,a,label\n1,2,3\n", "names a twice"),
        ("a,label\n1\n", "row 0 has 1 values, the first line names 2 columns"),
        ("a,b\n1,2\n", "no column label; name the column of labels with data.label"),
        ("a,label\n", "no rows"),
        ("", "names no two columns"),
    ],
)
def test_a_csv_that_is_no_table_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    assert told in refusal(tmp_path, tmp_path / "bad.csv", TRAIN)


def test_rows_that_do_not_decode_are_left_out_if_the_recipe_says_so(tmp_path: Path) -> None:
    train, unseen = opened(tmp_path, changed(4, age="inf"), changed(5, age="old"), on_error="skip", numbers=["age"])
    assert len(train.train) == len(unseen) == 19
    assert train.skipped[0].endswith("row 4") and unseen.skipped[0].endswith("row 5")


def test_constant_columns_are_told_and_not_needed_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, _ = opened(
        tmp_path,
        [{**row, "same": 1, "empty": ""} for row in TRAIN],
        [{**row, "same": 2, "empty": "x"} for row in TRAIN],
    )
    assert set(train.input.columns.read) == {"age", "city", "day"}  # type: ignore[attr-defined]
    told = capsys.readouterr().err
    assert "same is not read: one value in every row of train" in told
    assert "empty is not read: no value in any row of train" in told


def test_a_column_is_left_out_by_name(tmp_path: Path) -> None:
    without = [{key: value for key, value in row.items() if key != "city"} for row in TRAIN]
    train, _ = opened(tmp_path, TRAIN, without, drop=["city"])
    assert "city" not in train.input.columns.names  # type: ignore[attr-defined]
    assert "data.drop names town" in refusal(tmp_path, TRAIN, TRAIN, drop=["town"])


def test_labels_may_be_numbers_with_names_in_the_metadata(tmp_path: Path) -> None:
    table = pa.table({"x": list(range(9)), "label": [0.0, 1.0, 2.0] * 3})
    pq.write_table(table, tmp_path / "plain.parquet")
    assert opened(tmp_path, tmp_path / "plain.parquet", tmp_path / "plain.parquet")[0].classes == ("0", "1", "2")
    named = b'{"info": {"features": {"label": {"names": ["a", "b", "c"]}}}}'
    whole = pa.table({"x": list(range(9)), "label": [0, 1, 2] * 3}).replace_schema_metadata({"huggingface": named})
    pq.write_table(whole, tmp_path / "named.parquet")
    assert opened(tmp_path, tmp_path / "named.parquet", tmp_path / "named.parquet")[0].classes == ("a", "b", "c")


def test_values_that_are_no_cells_are_refused_by_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [[1], [2]], "label": [0, 1]}), tmp_path / "lists.parquet")
    told = refusal(tmp_path, tmp_path / "lists.parquet", TRAIN)
    assert "row 0: column x holds a list" in told and "data.drop" in told
