"""An ONNX file reads nothing outside of its folder, whoever opens it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.base.external_data import check_external_data, external_files
from edgekd.cli import main
from edgekd.errors import EdgekdError, ModelError
from edgekd.export.lint import lint
from edgekd.measure.estimate.kernels import read_kernels
from edgekd.models import OnnxModel
from edgekd.runtime.check import read_onnx
from edgekd.runtime.runners import OnnxRunner
from edgekd.target import load_target


def external(location: str, offset: str = "", length: str = "") -> TensorProto:
    """Weights [4, 4] in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value:
            tensor.external_data.add(key=key, value=value)
    return tensor


def product(tensor: TensorProto, file: Path, *, where: str = "weight") -> Path:
    """x @ w, with w as a weight, a node's attribute, in a branch, or in a function."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    stored = [tensor] if where == "weight" else []
    nodes, functions = [node] if stored else [constant, node], []
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    if where == "branch":
        branch = helper.make_graph(nodes, "branch", [], [y])
        condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
        nodes = [condition, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    if where == "function":
        functions = [helper.make_function("own", "F", ["x"], ["y"], nodes, opsets[:1])]
        nodes = [helper.make_node("F", ["x"], ["y"], domain="own")]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
    file.write_bytes(model.SerializeToString())
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, beside which lies a secret."""
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "model" / "w.bin").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    return tmp_path / "model"


OPENERS: dict[str, Callable[[Path], object]] = {
    "estimate": read_kernels,
    "lint": lambda file: lint(file, load_target("jetson")),
    "teacher": OnnxModel,
    "check": read_onnx,
    "runner": OnnxRunner,
}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("where", ["absolute", "above", "link", "linked folder"])
def test_what_leaves_the_folder_is_refused_by_all_that_open_a_model(opener: str, where: str, folder: Path) -> None:
    location = {
        "absolute": str(folder.parent / "secret"),
        "above": "../secret",
        "link": "link",
        "linked folder": "up/secret",
    }
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "up").symlink_to(folder.parent)
    file = product(external(location[where]), folder / "m.onnx")
    with pytest.raises(EdgekdError, match=r"'w' .*', .*(leaves|link)") as told:
        OPENERS[opener](file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("where", ["weight", "attribute", "branch", "function"])
def test_tensors_are_found_wherever_they_stand(where: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"'w' .*'\.\./secret', .*leaves"):
        check_external_data(product(external("../secret"), folder / "m.onnx", where=where))


@pytest.mark.parametrize(
    "tensor, told",
    [
        (external(""), "no place"),
        (external("gone.bin"), "no such file"),
        (external("w.bin", "1", "64"), "bytes 1 to 65 of 64"),
        (external("w.bin", "-1"), "bytes -1"),
        (external("w.bin", "x"), "no such place"),
        (external("a/../../secret"), "leaves"),
        (external("..\\secret"), "leaves"),
        (external("C:\\secret"), "leaves"),
        (external("a\0b"), "leaves"),
        (external("pipe"), "no file"),
        (external("."), "no file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_places_are_told(tensor: TensorProto, told: str, folder: Path) -> None:
    """A pipe would be waited for."""
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelError, match=told) as error:
        check_external_data(product(tensor, folder / "m.onnx"))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin"])
def test_data_beside_the_model_is_read(location: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes((folder / "w.bin").read_bytes())
    file = product(external(location, "0", "64"), folder / "m.onnx")
    x = np.arange(4, dtype=np.float32)[None]
    assert np.array_equal(OnnxRunner(file).run({"x": x}), x)
    assert [path.name for path in external_files(file)] == ["w.bin"]


def test_a_model_behind_a_link_reads_beside_itself(folder: Path) -> None:
    """The model may be a link of the user's: its data lies beside what was asked for."""
    file = product(external("w.bin"), folder / "m.onnx")
    (folder / "link.onnx").symlink_to(file)
    check_external_data(folder / "link.onnx")


def test_the_command_says_it_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = product(external("../secret"), folder / "m.onnx")
    for words in (["targets", "jetson", "--model", str(file)], ["lint", str(file), "-t", "jetson"]):
        monkeypatch.setattr(sys, "argv", ["edgekd", *words])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.count("\n") == 1 and "leaves the model's folder" in said


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x08\x07", onnx.ModelProto().SerializeToString()])
def test_what_is_no_onnx_is_told_by_who_reads_it(content: bytes, folder: Path) -> None:
    file = folder / "m.onnx"
    file.write_bytes(content)
    check_external_data(file)
    for opener in OPENERS.values():
        with pytest.raises(EdgekdError) as told:
            opener(file)
        assert "\n" not in str(told.value)
