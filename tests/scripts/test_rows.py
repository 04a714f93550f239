"""run.py reads the rows of a CSV by the same rules as training."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.check.package import reading_of
from edgekd.inputs import Table, cells
from edgekd.inputs.cells import cell_of
from edgekd.inputs.learn_columns import learned
from edgekd.inputs.table import arrays_of
from edgekd.recipe import TableData
from edgekd.scripts import run
from tests.builders.rows import rows, write_csv


@pytest.mark.parametrize("name", ["number_in", "date_in", "date_numbers"])
def test_both_read_a_text_in_the_same_lines(name: str) -> None:
    """run.py ships alone, so the rules are written down twice; one name differs, for a constant that it has already."""
    text = inspect.getsource(getattr(run, name)).replace("LARGEST_NUMBER", "LARGEST")
    assert text == inspect.getsource(getattr(cells, name))
    assert (run.PARTS, run.NUMBER, run.DATE, run.LARGEST_NUMBER) == (
        cells.PARTS,
        cells.NUMBER,
        cells.DATE,
        cells.LARGEST,
    )


def tables_of(table: list[dict[str, Any]]) -> tuple[Table, list[dict[str, Any]]]:
    """The input of a table's rows, and the tables of the manifest for it, as run.py has them from JSON."""
    data = TableData.model_validate({"input": "table", "train": "a", "test": "b"})
    read = [{name: cell_of(value, data.missing) for name, value in row.items() if name != "label"} for row in table]
    input, tables = Table(learned(read, data), data), []
    for field in input.fields:
        told = reading_of(input)[field.name]
        columns = [column.written() for column in told["columns"]]
        columns = [{**each, "words": [*each["words"]]} if "words" in each else each for each in columns]
        tables.append(
            {"name": field.name, "dtype": field.dtype, "shape": ["batch", *field.shape], "layout": "", "columns": columns,
             "missing": [*told["missing"]]}
        )  # fmt: skip
        assert not run.input_problem(tables[-1])
    return input, tables


def test_the_arrays_of_a_csv_are_those_of_training(tmp_path: Path) -> None:
    table = [*rows(60, 0), {"age": " 7e1", "income": "?", "city": "Rome", "day": "2026-02-28T23:59:59Z", "label": ""}]
    input, tables = tables_of(table)
    found = run.load_rows(str(write_csv(tmp_path / "new.csv", table)), tables)
    for at, row in enumerate(table):
        cells_of = {name: cell_of(value, input.data.missing) for name, value in row.items() if name != "label"}
        for name, array in arrays_of(cells_of, input.columns).items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name][at], array, equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize(
    "content, told",
    [
        ("age,income,city\n1,2,Oslo\n", "lacks the columns day"),
        ("age,income,city,day\n", "holds no rows"),
        ("age,income,city,day\n1,2,Oslo\n", "row 1 has 3 values for 4 columns"),
        ("age,age,income,city,day\n1,1,2,Oslo,\n", "names a column twice"),
        ("age,income,city,day\n1,2,Oslo,2026-02-30\n", "row 1: column day holds '2026-02-30', which is no date"),
    ],
)
def test_a_csv_that_the_model_cannot_read_is_refused(tmp_path: Path, content: str, told: str) -> None:
    _, tables = tables_of(rows(30, 0))
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(run.Failure, match=told.replace("(", r"\(")):
        run.load_rows(str(tmp_path / "new.csv"), tables)


def test_a_code_that_a_category_has_not_is_refused(tmp_path: Path) -> None:
    _, tables = tables_of(rows(30, 0))
    numbers = np.zeros((2, tables[0]["shape"][1]), np.float32)
    for codes, fits in (([[4], [0]], True), ([[5], [0]], False), ([[-1], [0]], False)):
        np.savez(tmp_path / "new.npz", numbers=numbers, categories=np.array(codes, np.int64))
        if fits:
            assert len(run.load_arrays(str(tmp_path / "new.npz"), tables)["categories"]) == 2
        else:
            with pytest.raises(run.Failure, match="holds a code that its category has not"):
                run.load_arrays(str(tmp_path / "new.npz"), tables)
