"""Labels, class names and images of any content: read right, or refused in a line that names the row, the column or the class."""

from __future__ import annotations

import io
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edgekd.data.sources import open_source
from edgekd.errors import DataError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def write(file: Path, labels: Any, *, images: Any = None, metadata: Any = None) -> Path:
    """A file of black pictures; `labels` and `images` are lists or Arrow arrays, `metadata` what stands in `huggingface`."""
    labels = labels if isinstance(labels, pa.Array) else pa.array(labels)
    pictures = pa.array([{"bytes": png(), "path": None}] * len(labels), IMAGE) if images is None else images
    table = pa.table({"image": pictures, "label": labels})
    if metadata is not None:
        content = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
        table = table.replace_schema_metadata({"huggingface": content})
    pq.write_table(table, file)
    return file


def names(*given: Any) -> dict[str, Any]:
    return {
        "info": {"features": {"label": {"names": given[0] if len(given) == 1 else list(given), "_type": "ClassLabel"}}}
    }


def refusal(reference: object, split: str = "train") -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as told:
        open_source(str(reference), split)
    assert "\n" not in str(told.value) and len(str(told.value)) < 1500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    return str(told.value)


@pytest.mark.parametrize(
    "labels, told",
    [
        ([0, 1, 2**62], "row 2 has label 4611686018427387904"),
        ([0, 1, 2**61], "row 2 has label 2305843009213693952"),
        ([0, 1, 100_000], "at most 100,000 classes"),
        (pa.array([0, 2**64 - 1], pa.uint64()), "row 1 has label 18446744073709551615"),
        ([0, -1, 1], "row 1 has label -1"),
        ([0, 1, None], "row 2 has no label"),
        ([0.0, 1.0], "column label is double"),
        ([0.5, None], "column label is double"),
        ([True, False], "column label is bool"),
        ([[0], [1]], "column label is list"),
        (["cat", None], "row 1 has no label"),
        (["cat", " "], "row 1 has no label"),
        (pa.nulls(3), "column label is null"),
        (pa.array([], pa.int64()), "no samples"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_label_that_is_no_class_is_told_with_its_row(labels: Any, told: str, tmp_path: Path) -> None:
    """2^62 without names would be as many classes."""
    assert told in refusal(write(tmp_path / "train.parquet", labels))


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_whole_numbers_of_any_width_are_labels(kind: pa.DataType, tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "train.parquet", pa.array([1, 0, 2], kind))), "train")
    assert source.labels.tolist() == [1, 0, 2] and source.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    "images, told",
    [
        (pa.array([{"bytes": "text", "path": ""}] * 2), "of binary"),
        (pa.array([{"bytes": {"a": b""}}] * 2), "of binary"),
        (pa.array([{"bytes": 7}] * 2), "of binary"),
        (pa.array([{"bytes": [b""]}] * 2), "of binary"),
        (pa.array([{"path": "a.png"}] * 2), "a struct with the field bytes"),
        (pa.array(["a", "b"]), "a struct with the field bytes"),
        (pa.nulls(2), "a struct with the field bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_another_type_are_refused(images: pa.Array, told: str, tmp_path: Path) -> None:
    assert told in refusal(write(tmp_path / "train.parquet", [0, 1], images=images))


def test_large_binary_and_missing_images_are_read(tmp_path: Path) -> None:
    """A missing one does not decode, which is told or skipped where images are."""
    kind = pa.struct([("bytes", pa.large_binary())])
    images = pa.array([{"bytes": png()}, {"bytes": None}, None], kind)
    source = open_source(str(write(tmp_path / "train.parquet", [0, 1, 0], images=images)), "train")
    assert [source.read(i) for i in range(3)] == [png(), b"", b""]


@pytest.mark.parametrize(
    "metadata, told",
    [
        (b"{", "JSONDecodeError"),
        (b'{"\xff": 1}', "UnicodeDecodeError"),
        (b"[" * 100_000, "nested too deep"),
        ([], "AttributeError"),
        (7, "AttributeError"),
        ({"info": []}, "AttributeError"),
        ({"info": {"features": {"label": None}}}, "AttributeError"),
        (names(None), "names is NoneType"),
        (names({"0": "cat"}), "names is dict"),
        (names("cat"), "names is str"),
        (names("cat", None), "class 1 is NoneType"),
        (names("cat", 1), "class 1 is int"),
        (names("cat", ""), "class 1, '': it is empty"),
        (names("cat", "d\x1b[2Jog"), "U+001B"),
        (names("cat", "\ud800"), "U+D800"),
        (names("cat", "x" * 501), "at most 500"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_class_names_in_metadata_are_read_or_refused(metadata: Any, told: str, tmp_path: Path) -> None:
    assert told in refusal(write(tmp_path / "train.parquet", [0, 1], metadata=metadata))


@pytest.mark.parametrize("metadata", [None, {}, {"info": {}}, {"info": {"features": {"label": {"dtype": "int64"}}}}])
def test_metadata_without_class_names_is_none(metadata: Any, tmp_path: Path) -> None:
    assert open_source(str(write(tmp_path / "train.parquet", [0, 1], metadata=metadata)), "train").classes == ("0", "1")


def test_shards_are_read_by_the_names_of_their_classes(tmp_path: Path) -> None:
    """The second counts them in another order; half of its labels would be wrong."""
    write(tmp_path / "a-0.parquet", [0, 1, 2], metadata=names("cat", "dog", "owl"))
    write(tmp_path / "a-1.parquet", [0, 1, 2], metadata=names("owl", "cat", "dog"))
    source = open_source(str(tmp_path / "a-*.parquet"), "train")
    assert source.classes == ("cat", "dog", "owl") and source.labels.tolist() == [0, 1, 2, 2, 0, 1]
    assert source.name(4).endswith("a-1.parquet row 1")


@pytest.mark.parametrize("second", [names("cat", "dog"), names("cat", "dog", "elk"), None])
def test_shards_of_other_classes_are_refused(second: Any, tmp_path: Path) -> None:
    write(tmp_path / "a-0.parquet", [0, 1, 2], metadata=names("cat", "dog", "owl"))
    write(tmp_path / "a-1.parquet", [0, 1], metadata=second)
    assert "have different classes" in refusal(tmp_path / "a-*.parquet")


def test_a_shard_of_other_columns_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a-0.parquet", [0, 1])
    pq.write_table(pa.table({"image": pa.array([{"bytes": png()}])}), tmp_path / "a-1.parquet")
    assert "it has no label" in refusal(tmp_path / "a-*.parquet")


@pytest.mark.parametrize(
    "classes, told",
    [
        ("[None, 'dog']", "class 0 is NoneType"),
        ("None", "it returned NoneType"),
        ("'ab'", "it returned str"),
        ("7", "it returned int"),
        ("['cat', '']", "class 1"),
        ("['cat', 'd\\x1b[2Jog']", "U+001B"),
        ("[True, False]", "class 0 is bool"),
        ("[1.5, 2.5]", "class 0 is float"),
    ],
)
def test_class_names_of_a_function_are_texts(classes: str, told: str, tmp_path: Path) -> None:
    """A number is taken as its text."""
    (tmp_path / "d.py").write_text(
        f"import numpy as np\ndef load(split):\n    return np.zeros((2, 4, 4, 3), np.uint8), np.arange(2), {classes}\n"
        "def numbers(split):\n    return np.zeros((2, 4, 4, 3), np.uint8), np.arange(2), np.arange(2)\n"
    )
    assert told in refusal(f"python:{tmp_path}/d.py:load")
    assert open_source(f"python:{tmp_path}/d.py:numbers", "train").classes == ("0", "1")


def test_a_function_that_ends_the_program_is_an_error(tmp_path: Path) -> None:
    """It was exit code 0, without a bundle and without a word."""
    (tmp_path / "d.py").write_text("import sys\ndef load(split):\n    sys.exit(0)\n")
    assert "SystemExit" in refusal(f"python:{tmp_path}/d.py:load")


def test_a_class_folder_whose_name_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "d\x1b[2Jog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.png").write_bytes(png())
    assert "rename the folder" in refusal(tmp_path / "train")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\xff" * 1000])
def test_what_is_no_parquet_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    assert "not a parquet file" in refusal(tmp_path / "train.parquet")


@pytest.mark.parametrize("stored", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_a_column_of_texts_holds_class_names_in_sorted_order(stored: pa.DataType, tmp_path: Path) -> None:
    labels = pa.array(["owl", "cat", "owl", "dog"]).cast(stored)
    source = open_source(str(write(tmp_path / "train.parquet", labels)), "train")
    assert source.classes == ("cat", "dog", "owl") and source.labels.tolist() == [2, 0, 2, 1]


def test_texts_that_are_numbers_are_sorted_by_their_value(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "train.parquet", ["10", "9", "10"])), "train")
    assert source.classes == ("9", "10") and source.labels.tolist() == [1, 0, 1]


def test_a_column_of_plain_bytes_holds_pictures(tmp_path: Path) -> None:
    images = pa.array([png(), b"other"], pa.binary())
    source = open_source(str(write(tmp_path / "train.parquet", [0, 1], images=images)), "train")
    assert [source.read(i) for i in range(2)] == [png(), b"other"]


def test_classes_of_the_recipe_decide_the_order_of_names_and_the_names_of_numbers(tmp_path: Path) -> None:
    asked = ("owl", "cat", "dog")
    texts = write(tmp_path / "texts.parquet", ["cat", "dog", "owl"])
    named = write(tmp_path / "named.parquet", [0, 1, 2], metadata=names("cat", "dog", "owl"))
    bare = write(tmp_path / "bare.parquet", [1, 2, 0])
    for file in (texts, named, bare):
        source = open_source(str(file), "train", classes=asked)
        assert source.classes == asked and source.labels.tolist() == [1, 2, 0]


def test_a_label_that_is_none_of_the_classes_is_told_with_its_row_and_the_nearest(tmp_path: Path) -> None:
    asked = ("cat", "dog")
    with pytest.raises(DataError, match=r"row 1 has label dogg, which is none of data.classes .* Did you mean dog\?"):
        open_source(str(write(tmp_path / "a.parquet", ["cat", "dogg"])), "train", classes=asked)
    with pytest.raises(DataError, match=r"row 1 has label 2, but there are 2 classes"):
        open_source(str(write(tmp_path / "b.parquet", [0, 2])), "train", classes=asked)
    with pytest.raises(DataError, match=r"has the class owl, which is none of data\.classes"):
        open_source(str(write(tmp_path / "c.parquet", [0], metadata=names("owl", "cat"))), "train", classes=asked)


def test_a_file_of_no_format_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.xlsx").write_bytes(b"PK")
    told = refusal(tmp_path / "train.xlsx")
    assert ".xlsx is no format that is read" in told
    assert all(word in told for word in ("metadata.csv", "parquet", "JSONL", "npz", "WebDataset", "python:"))


def test_a_pattern_takes_the_files_that_it_describes_and_no_others(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "train-9", "train-old"):
        write(tmp_path / f"{name}.parquet", [0, 1])
    assert len(open_source(str(tmp_path / "train-[01].parquet"), "train")) == 4
    assert len(open_source(str(tmp_path / "train-?.parquet"), "train")) == 6
    assert len(open_source(str(tmp_path / "train-*.parquet"), "train")) == 8
