"""Every layout of the same samples gives the same arrays and labels; what is damaged is refused in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.cache.stage import Cache
from edgekd.data import decode, open_samples
from edgekd.data.sources import open_source
from edgekd.data.tables import open_table
from edgekd.errors import DataError
from edgekd.inputs.picture import decode_image
from edgekd.recipe import ClassifyTask, Data, MultilabelTask, RegressTask, SegmentTask, TableData
from tests.builders.pictures import png
from tests.builders.sets import coloured, every_layout, write_folders, write_tar
from tests.builders.sounds import tone, write_wav


def test_every_layout_gives_the_same_pictures_and_classes(tmp_path: Path) -> None:
    samples = coloured(2)
    for name, path in every_layout(tmp_path, samples).items():
        source = open_source(str(path), "train")
        assert source.classes == ("blue", "green", "red"), name
        assert source.labels.tolist() == [0, 0, 1, 1, 2, 2], name
        for i, (_, pixels) in enumerate(samples):
            np.testing.assert_array_equal(decode_image(source.read(i)), pixels, err_msg=name)


def test_every_layout_takes_the_order_of_classes_from_the_recipe(tmp_path: Path) -> None:
    for name, path in every_layout(tmp_path, coloured(1)).items():
        source = open_source(str(path), "train", classes=("red", "blue", "green"))
        assert source.classes == ("red", "blue", "green") and source.labels.tolist() == [1, 2, 0], name
        with pytest.raises(DataError, match=r"none of data.classes .*blue, green, re"):
            open_source(str(path), "train", classes=("blue", "green", "re"))


@pytest.mark.parametrize("layout", ["list.csv", "list.jsonl", "flat_csv", "flat_jsonl", "arrays.npz", "cls.tar"])
def test_a_changed_sample_of_a_layout_is_decoded_anew(layout: str, tmp_path: Path) -> None:
    def first() -> int:
        data = Data(train=str(path), test=str(path))
        with Cache(tmp_path / "cache") as run:
            made = run(decode, data.source("train"), ClassifyTask())
        return int(open_samples(made.folder, data, ClassifyTask()).train.get(np.array([0]))["input"].sum())

    path = every_layout(tmp_path, coloured(1))[layout]
    before = first()
    again = tmp_path / "again"
    again.mkdir()
    other = every_layout(again, coloured(1, seed=9))
    for file in again.rglob("*"):
        if file.is_file() and file.suffix not in (".csv", ".jsonl"):  # the lists stay
            (tmp_path / file.relative_to(again)).write_bytes(file.read_bytes())
    assert other[layout].name == path.name and first() != before


def test_shards_are_read_one_after_the_other(tmp_path: Path) -> None:
    for n, colour in enumerate(("red", "blue")):
        write_tar(tmp_path / f"train-{n}.tar", [{"png": png(np.zeros((2, 2, 3), np.uint8)), "cls": colour.encode()}])
    source = open_source(str(tmp_path / "train-[0-9].tar"), "train")
    assert source.labels.tolist() == [1, 0] and source.name(1).endswith("train-1.tar: 000000")


def test_numbers_in_a_tar_are_places_in_the_classes(tmp_path: Path) -> None:
    picture = png(np.zeros((2, 2, 3), np.uint8))
    tar = write_tar(tmp_path / "a.tar", [{"png": picture, "cls": number} for number in (b"1", b"0")])
    assert open_source(str(tar), "train", classes=("cat", "dog")).labels.tolist() == [1, 0]


def test_sounds_are_read_from_lists_folders_and_tars(tmp_path: Path) -> None:
    content = [write_wav(tmp_path / f"{n}.wav", tone(400, 800, n)).read_bytes() for n in range(2)]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{n}.wav", "label": "ab"[n]}) for n in range(2))
    )
    tar = write_tar(tmp_path / "a.tar", [{"wav": content[n], "cls": b"ab"[n : n + 1]} for n in range(2)])
    for path in (tmp_path, tmp_path / "metadata.jsonl", tar):
        source = open_source(str(path), "train", kind="audio")
        assert source.classes == ("a", "b") and [source.read(i) for i in range(2)] == content


def test_masks_lists_and_values_are_read_from_jsonl(tmp_path: Path) -> None:
    for name, pixels in (("a", np.zeros((2, 2, 3))), ("m", np.ones((2, 2)))):
        (tmp_path / f"{name}.png").write_bytes(png(pixels.astype(np.uint8)))
    row = {"path": "a.png", "mask": "m.png", "labels": ["sea", "sky"], "value": 2.5}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    path = str(tmp_path / "a.jsonl")
    masked = open_source(path, "train", task=SegmentTask(kind="segment", classes=("no", "yes")))
    assert masked.labels[0] == (tmp_path / "m.png").read_bytes()
    labelled = open_source(path, "train", task=MultilabelTask(kind="multilabel"))
    assert labelled.labels.tolist() == [[1, 1]] and labelled.classes == ("sea", "sky")
    assert open_source(path, "train", task=RegressTask(kind="regress")).labels.tolist() == [[2.5]]


def test_a_function_may_give_names_as_labels(tmp_path: Path) -> None:
    code = (
        "import numpy as np\ndef load(split):\n    return np.zeros((3, 2, 2, 1), np.uint8), {labels}, ['sky', 'sea']\n"
    )
    (tmp_path / "right.py").write_text(code.format(labels="['sea', 'sky', 'sea']"))
    (tmp_path / "wrong.py").write_text(code.format(labels="['sea', 'sky', 'see']"))
    right = open_source(f"python:{tmp_path}/right.py:load", "train")
    assert right.labels.tolist() == [1, 0, 1] and right.classes == ("sky", "sea")
    asked = open_source(f"python:{tmp_path}/right.py:load", "train", classes=("sea", "sky"))
    assert asked.labels.tolist() == [0, 1, 0] and asked.classes == ("sea", "sky")
    with pytest.raises(
        DataError, match="sample 2 has label see, which is none of the class names that the function gives"
    ):
        open_source(f"python:{tmp_path}/wrong.py:load", "train")


def test_one_npz_holds_both_splits_by_their_names(tmp_path: Path) -> None:
    x, y = np.zeros((3, 4, 4), np.uint8), np.array([0, 1, 1])
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:2] + 9, y_test=y[:2])
    train, test = (open_source(str(tmp_path / "mnist.npz"), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 2)
    assert train.read(0).shape == (4, 4, 1) and test.read(0).max() == 9


def rows_of(path: Path, **settings: Any) -> tuple[list[Any], list[int], tuple[str, ...]]:
    data = TableData.model_validate({"input": "table", "train": str(path), "test": str(path), **settings})
    found = open_table(data.source("train"), "train", ClassifyTask())
    return [found.read(i) for i in range(len(found))], found.labels.tolist(), found.classes


def test_rows_of_a_table_are_read_from_jsonl_and_npz(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1, "b": "x", "label": "yes"}\n\n{"a": 2, "label": "no"}\n')
    assert rows_of(tmp_path / "a.jsonl") == ([{"a": 1, "b": "x"}, {"a": 2, "b": None}], [1, 0], ("no", "yes"))
    assert rows_of(tmp_path / "a.jsonl", classes=("yes", "no"))[1:] == ([0, 1], ("yes", "no"))
    np.savez(tmp_path / "a.npz", x=np.array([[1, 2], [3, 4]]), label=np.array([1, 0]))
    assert rows_of(tmp_path / "a.npz") == ([{"x0": 1, "x1": 2}, {"x0": 3, "x1": 4}], [1, 0], ("0", "1"))


def test_one_npz_holds_the_rows_of_both_splits(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.eye(3), y_train=np.arange(3), x_test=np.ones((1, 3)), y_test=np.array([2]))
    data = TableData.model_validate({"input": "table", "train": "a", "test": "a", "label": "y"})
    source = data.source("train").model_copy(update={"files": str(tmp_path / "a.npz")})
    assert len(open_table(source, "train", ClassifyTask())) == 3
    test = open_table(source, "test", ClassifyTask())
    assert test.read(0) == {"x0": 1, "x1": 1, "x2": 1} and test.classes == ("2",)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"path": 1', "line 1 is no JSON"),
        ("a.jsonl", b"[1]", "line 1 is list"),
        ("a.jsonl", b'{"path": 7, "label": "a"}', "row 0: 7 names no image"),
        ("a.jsonl", b'{"path": "no.png", "label": "a"}', "no.png does not exist"),
        ("a.csv", b"path,label\n" + b"a" * 400 + b",cat\n", "does not exist"),  # longer than a name can be
        ("a.jsonl", b'{"path": "a.jsonl", "label": [1]}', "a label is a text or a whole number"),
        ("a.jsonl", b'{"path": "a.jsonl", "label": null}', "row 0: no label"),
        ("a.jsonl", b"\xff\xfe", "not a JSONL that can be read"),
        ("a.npz", b"PK\x03\x04", "not a file of numpy's arrays"),
        ("a.tar", b"no tar", "not a tar that can be read"),
    ],
)
def test_a_damaged_file_is_refused_in_a_line(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        open_source(str(tmp_path / name), "train")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_several_columns_of_labels_are_values_and_no_classes(tmp_path: Path) -> None:
    for name, path in every_layout(tmp_path, coloured(1)).items():
        if name != "classes":
            with pytest.raises(DataError, match=r"data\.label lists a, b; task\.kind = .classify. has one column"):
                open_source(str(path), "train", label=("a", "b"))
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), width=np.array([1.5, 2]), height=np.array([3, 4]))
    values = open_source(str(tmp_path / "a.npz"), "train", label=("height", "width"), task=RegressTask(kind="regress"))
    assert values.labels.tolist() == [[3, 1.5], [4, 2]] and values.classes == ("height", "width")


def test_arrays_that_are_no_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for arrays, told in (
        ({"x": np.zeros((2, 4, 4), np.float32), "y": np.zeros(2, np.int64)}, "must be uint8"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(3, np.int64)}, "2 images, and 3 labels"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros((2, 5), np.int64)}, "one a sample"),
        ({"pictures": np.zeros((2, 4, 4), np.uint8)}, "no array x or images"),
        ({"x": np.array([None, 1])}, "not a file of numpy's arrays"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=told):
            open_source(str(path), "train")


def test_a_sample_of_a_tar_without_a_label_or_with_two_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.tar: 000000 has no label; .*cls.*: png"):
        open_source(str(write_tar(tmp_path / "a.tar", [{"png": b""}])), "train")
    with pytest.raises(DataError, match=r"a.tar: 000000 has 2 images among its files \(png, jpg, cls\)"):
        open_source(str(write_tar(tmp_path / "a.tar", [{"png": b"", "jpg": b"", "cls": b"1"}])), "train")


def test_a_folder_of_splits_is_no_folder_of_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folders(tmp_path / split, [("a", b""), ("b", b"")])
    with pytest.raises(DataError, match=r"holds the splits test, train; name one of them"):
        open_source(str(tmp_path), "train")
