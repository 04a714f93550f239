"""The data sets of a folder, by the names of its files: which are one split, which are beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.base.contents import matching
from edgekd.start.data_sets import data_sets, pattern_of


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["train.parquet"], "train.parquet"),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], "train-0000[01]-of-00002.parquet"),
        ([f"train-{n:02}.tar" for n in range(12)], "train-[01][0-9].tar"),
        (["train_9.parquet", "train_10.parquet"], "train*[0-9].parquet"),
        (["a[1]-0.npz", "a[1]-1.npz"], "a[[]1]-[01].npz"),
    ],
)
def test_a_pattern_stands_for_exactly_its_files(names: list[str], pattern: str, tmp_path: Path) -> None:
    files = [tmp_path / name for name in names]
    lay(tmp_path, *names)
    assert pattern_of(files) == pattern
    found = matching(tmp_path / pattern)
    assert found == sorted(files) or pattern == names[0]


def test_a_file_that_comes_later_is_not_taken_into_a_pattern(tmp_path: Path) -> None:
    """`train*.parquet` took in a train_old.parquet that was copied beside the parts afterwards."""
    lay(tmp_path, "train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
    (found,) = data_sets(tmp_path)
    lay(tmp_path, "train_old.parquet", "train-old-of-00002.parquet", "train-00001-of-00002.copy.parquet")
    assert len(matching(tmp_path / found.train)) == 2


@pytest.mark.parametrize(
    ("files", "sets"),
    [
        (["train.parquet", "test.parquet"], [("train.parquet", "test.parquet")]),
        (["train.csv", "val.csv"], [("train.csv", "val.csv")]),
        (["train.parquet", "train_str.parquet"], [("train.parquet", None), ("train_str.parquet", None)]),
        (["train_small.parquet", "test.parquet"], [("train_small.parquet", "test.parquet")]),
        (["mnist_train.npz", "mnist_test.npz"], [("mnist_train.npz", "mnist_test.npz")]),
        (["train-0.tar", "train-1.tar", "val-0.tar"], [("train-[01].tar", "val-0.tar")]),
        (["data/train.jsonl", "data/test.jsonl"], [("data/train.jsonl", "data/test.jsonl")]),
        (["iris.csv"], [("iris.csv", None)]),
        (["train/a/0.png", "train/b/0.png", "test/a/1.png", "test/b/1.png"], [("train", "test")]),
        (["train.parquet", "test/a/1.png", "test/b/1.png"], [("train.parquet", "test")]),
        (["photos/a/0.png", "photos/b/0.png"], [("photos", None)]),
        (["photos/a/0.png", "photos/b/0.png", "notes.csv"], [("photos", None), ("notes.csv", None)]),
        (["a/0.png", "b/0.png"], []),  # builds would lie among the classes
        (["images/0.png", "masks/0.png"], [(".", None)]),
        (["words/metadata.jsonl", "words/0.wav"], [("words", None)]),
        (["build/x/train.parquet", ".hidden/train.parquet"], []),
        (
            ["one/train.csv", "two/train.csv", "two/test.csv"],
            [("two/train.csv", "two/test.csv"), ("one/train.csv", None)],
        ),
    ],
    ids=lambda value: ",".join(map(str, value)),
)
def test_data_sets_are_found_by_their_names(
    files: list[str], sets: list[tuple[str, str | None]], tmp_path: Path
) -> None:
    assert [(each.train, each.test) for each in data_sets(lay(tmp_path, *files))] == sets


def test_a_further_split_is_told(tmp_path: Path) -> None:
    (found,) = data_sets(lay(tmp_path, "train.csv", "validation.csv", "test.csv"))
    assert (found.test, found.further) == ("test.csv", ("validation.csv",))
