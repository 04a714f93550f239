"""LightGBM on the columns of a table: `fit` trains it, and `make` is the teacher of a recipe with raw = true."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

FILES = Path(__file__).parent
TREES, WORDS = "trees.txt", "words.json"  # beside this file
SETTINGS = {
    "objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 40, "cat_smooth": 20,
    "feature_fraction": 0.7, "bagging_fraction": 0.8, "bagging_freq": 1, "seed": 0, "num_threads": 1, "verbosity": -1,
}  # fmt: skip
Table = Mapping[str, npt.NDArray[Any]]


def matrix(table: Table, words: Mapping[str, list[str]]) -> npt.NDArray[np.float64]:
    """The columns as LightGBM takes them: categories by number, NaN for a word that is unknown or missing."""
    number = {name: {word: i for i, word in enumerate(known)} for name, known in words.items()}
    columns = [
        [number[name].get(value, np.nan) for value in column] if name in words else column
        for name, column in table.items()
    ]
    return np.array(columns, np.float64).T


def fit(table: Table, labels: npt.NDArray[np.int64], rounds: int, folder: Path) -> None:
    """Train on rows, and write the trees into a folder."""
    words = {
        name: sorted({word for word in column if word is not None})
        for name, column in table.items()
        if column.dtype == object
    }
    places = [at for at, name in enumerate(table) if name in words]
    data = lightgbm.Dataset(matrix(table, words), labels, categorical_feature=places)
    lightgbm.train(SETTINGS, data, rounds).save_model(folder / TREES)
    (folder / WORDS).write_text(json.dumps(words))


def make(num_classes: int) -> Callable[[Table], npt.NDArray[np.float64]]:
    """The teacher: columns to probabilities `[rows, 2]`."""
    trees, words = lightgbm.Booster(model_file=FILES / TREES), json.loads((FILES / WORDS).read_text())

    def probabilities(table: Table) -> npt.NDArray[np.float64]:
        positive = np.asarray(trees.predict(matrix(table, words), num_threads=1))
        return np.stack([1 - positive, positive], 1)

    return probabilities
