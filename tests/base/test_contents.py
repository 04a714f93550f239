"""Contents: a hash is remembered as long as nothing can have changed, and no longer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.base import contents
from edgekd.base.contents import Contents


@pytest.fixture(autouse=True)
def _files_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written now is not in doubt: so what is remembered is tried, and not what is hashed again."""
    monkeypatch.setattr(contents, "DOUBT_S", 0.0)


def of(folder: Path, path: Path, *, afresh: bool = False, is_onnx: bool = False) -> object:
    return Contents(folder / "hashes.json", afresh=afresh).of(path, is_onnx=is_onnx)


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"one")
    times = file.stat()
    before = of(tmp_path, file)
    for write in (lambda: file.write_bytes(b"two"), lambda: os.replace(_other(tmp_path, b"six"), file)):
        write()
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
        assert of(tmp_path, file) != before


def _other(folder: Path, content: bytes) -> Path:
    (folder / "other").write_bytes(content)
    return folder / "other"


def test_what_changed_a_moment_before_it_was_hashed_is_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one tick of a coarse clock a file can change twice."""
    monkeypatch.setattr(contents, "DOUBT_S", 60.0)
    (tmp_path / "w.bin").write_bytes(b"one")
    of(tmp_path, tmp_path / "w.bin")
    assert "w.bin" not in (tmp_path / "hashes.json").read_text()
    monkeypatch.setattr(contents, "DOUBT_S", 0.0)
    of(tmp_path, tmp_path / "w.bin")
    assert "w.bin" in (tmp_path / "hashes.json").read_text()


def test_afresh_reads_the_content_whatever_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"one")
    right = of(tmp_path, tmp_path / "w.bin")
    remembered = tmp_path / "hashes.json"
    remembered.write_text(remembered.read_text().replace(str(right), "0" * 64))
    assert of(tmp_path, tmp_path / "w.bin") == "0" * 64
    assert of(tmp_path, tmp_path / "w.bin", afresh=True) == right


def test_links_count_by_what_they_point_to(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "1.png").write_text(name)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat").symlink_to(tmp_path / "a" / "cat")  # the decoder reads through it
    before = of(tmp_path, tmp_path / "train")
    assert before == {"cat": {"1.png": of(tmp_path, tmp_path / "a/cat/1.png")}}
    (tmp_path / "train" / "cat").unlink()
    (tmp_path / "train" / "cat").symlink_to(tmp_path / "b" / "cat")
    after = of(tmp_path, tmp_path / "train")
    (tmp_path / "b" / "cat" / "1.png").write_text("c")
    assert len({str(before), str(after), str(of(tmp_path, tmp_path / "train"))}) == 3


def test_an_empty_class_counts_and_a_file_that_is_no_image_does_not(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.png").write_text("x")
    before = of(tmp_path, tmp_path / "train")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    assert of(tmp_path, tmp_path / "train") == before
    (tmp_path / "train" / "dog").mkdir()
    assert of(tmp_path, tmp_path / "train") != before


def _model_with_weights_outside(path: Path) -> None:
    """Weights in a file of their own: at the top and in the body of an If."""

    def weight(name: str, value: float) -> TensorProto:
        tensor = numpy_helper.from_array(np.full(4, value, np.float32), name)
        onnx.external_data_helper.set_external_data(tensor, f"{name}.data")
        (path.parent / f"{name}.data").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        return tensor

    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    body = helper.make_graph([helper.make_node("Identity", ["inner"], ["y"])], "b", [], [out], [weight("inner", 1.0)])
    node = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.BOOL, [])], [out], [weight("top", 2.0)]
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("name", ["top", "inner"])
def test_the_files_that_an_onnx_file_keeps_its_weights_in_count(tmp_path: Path, name: str) -> None:
    _model_with_weights_outside(tmp_path / "teacher.bin")
    before = of(tmp_path, tmp_path / "teacher.bin", is_onnx=True)
    assert before == of(tmp_path, tmp_path / "teacher.bin", is_onnx=True)
    data = tmp_path / f"{name}.data"
    data.write_bytes(bytes(len(data.read_bytes())))
    assert of(tmp_path, tmp_path / "teacher.bin", is_onnx=True) != before


def test_what_was_asked_for_keeps_its_answer_and_a_change_is_told(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"one")
    asked = Contents(tmp_path / "hashes.json")
    before = asked.of(tmp_path / "w.bin")
    assert asked.changed() == []
    (tmp_path / "w.bin").write_bytes(b"two")
    assert asked.of(tmp_path / "w.bin") == before and asked.changed() == [tmp_path / "w.bin"]


@pytest.mark.parametrize(
    "text", ["[]", "null", "[" * 100_000, '{"a": 1}', "{", "1" * 9999, '{"a": [[1,2,3,4,1e999], "", []]}', "\ud800"]
)
def test_a_damaged_list_of_hashes_is_made_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"one")
    right = of(tmp_path, tmp_path / "w.bin")
    (tmp_path / "hashes.json").write_text(text, errors="surrogatepass")
    assert of(tmp_path, tmp_path / "w.bin") == right
    assert "w.bin" in (tmp_path / "hashes.json").read_text()


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert of(tmp_path, tmp_path / "pipe") is None and of(tmp_path, Path("/dev/zero")) is None


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_files_that_a_list_names_in_any_column_count(name: str, tmp_path: Path) -> None:
    """An edited mask was not read again: only the columns `path` and `file` counted."""
    for file in ("a.png", "m.png", "unlisted.png"):
        (tmp_path / file).write_bytes(b"before")
    (tmp_path / "list.csv").write_text("picture,outline,label\na.png,m.png,cat\n")
    (tmp_path / "list.jsonl").write_text('{"picture": "a.png", "outline": "m.png", "label": "cat"}\n')

    def content() -> object:
        return Contents(tmp_path / "known.json", afresh=True).of(tmp_path / name)

    before = content()
    (tmp_path / "unlisted.png").write_bytes(b"after")
    assert content() == before
    for file in ("a.png", "m.png"):
        (tmp_path / file).write_bytes(b"after")
        assert content() != before
        (tmp_path / file).write_bytes(b"before")


def test_the_metadata_of_a_folder_counts_with_the_files_that_it_lists(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"before")
    (folder / "metadata.csv").write_text("file_name,label\na.png,cat\n")

    def content() -> object:
        return Contents(tmp_path / "known.json", afresh=True).of(folder)

    before = content()
    (folder / "a.png").write_bytes(b"after")
    assert content() != before
    (folder / "a.png").write_bytes(b"before")
    (folder / "metadata.csv").write_text("file_name,label\na.png,dog\n")
    assert content() != before
