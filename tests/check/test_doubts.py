"""Doubts about the values that a student should learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgekd.cache.stage import Cache
from edgekd.check.doubts import check_spread
from edgekd.data import Samples
from edgekd.errors import DataError
from edgekd.recipe import RegressTask, TableData
from edgekd.steps.problem import decoded


def samples(folder: Path, values: np.ndarray) -> Samples:
    pq.write_table(pa.table({"a": np.arange(len(values)) % 7, "price": values}), folder / "train.parquet")
    data = TableData.model_validate(
        {
            "input": "table",
            "train": str(folder / "train.parquet"),
            "test": str(folder / "train.parquet"),
            "label": "price",
        }
    )
    with Cache(folder / "cache") as run:
        return decoded(run, data, RegressTask(kind="regress")).open()


@pytest.mark.parametrize(("scale", "told"), [(1.0, False), (3.0, False), (12.0, True), (9e4, True), (1e-3, True)])
def test_values_of_another_scale_are_told_with_their_spread(scale: float, told: bool, tmp_path: Path) -> None:
    opened = samples(tmp_path, scale * (3 + np.random.default_rng(0).standard_normal(100)))
    lines = list(check_spread(opened))
    assert len(lines) == told
    if told:
        spread = opened.train.labels[opened.train_ids].std()
        assert f"a standard deviation of {spread:.3g}, and losses" in lines[0]


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_a_constant_value_is_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the values of price are .* in all .* samples; there is nothing to learn"):
        list(check_spread(samples(tmp_path, np.full(40, value))))


def test_only_the_samples_that_train_count(tmp_path: Path) -> None:
    opened = samples(tmp_path, np.r_[np.zeros(40), 5.0])
    held = replace(opened, train_ids=np.arange(40))
    with pytest.raises(DataError, match="nothing to learn"):
        list(check_spread(held))
