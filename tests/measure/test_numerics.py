"""What differs between two machines is found, at the node where it begins, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import numpy as np
import onnx
import pytest

from edgekd.errors import DeviceError
from edgekd.measure.numerics import Difference, compare, tap

CHAIN = """
<ir_version: 9, opset_import: ["" : 18]>
chain (float[N, 4] x) => (float[N, 4] logits) <float two = {2.0}, float three = {3.0}>
{ a = Mul (x, two) b = Mul (a, three) c = Relu (b) logits = Neg (c) }
"""
QUANTIZED = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[N, 4] x) => (float[N, 4] logits) <float s = {0.1}, uint8 z = {128}>
{ xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z) a = Relu (xd) aq = QuantizeLinear (a, s, z)
  logits = DequantizeLinear (aq, s, z) }
"""
INPUTS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)


class Here:
    """This machine, in a folder."""

    name = "here"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()

    def run(self, words: Sequence[str], *, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words[1:]], cwd=self.folder, capture_output=True, text=True, check=False
        )

    def put(self, source: Path, to: str) -> None:
        copyfile(source, self.folder / to)

    def get(self, source: str, to: Path) -> None:
        copyfile(self.folder / source, to)


class FakeFaultyDevice(Here):
    """Multiplies by 3.5 where the graph says 3."""

    def put(self, source: Path, to: str) -> None:
        super().put(source, to)
        if to.endswith(".onnx"):
            model = onnx.load(source)
            three = next(tensor for tensor in model.graph.initializer if tensor.name == "three")
            three.CopyFrom(onnx.numpy_helper.from_array(np.float32(3.5), "three"))
            onnx.save(model, self.folder / to)


def stored(folder: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return folder / "model.onnx"


def test_the_same_machine_gives_the_same_bits(tmp_path: Path) -> None:
    found = compare(Here(tmp_path / "work"), stored(tmp_path, CHAIN), INPUTS)

    assert found.outputs.bit_equal and found.same_top1 == 1.0 and found.n == 6
    assert found.nodes == () and found.nodes_compared == 3 and found.tapped_alike


def test_a_difference_is_named_where_it_begins(tmp_path: Path) -> None:
    found = compare(FakeFaultyDevice(tmp_path / "work"), stored(tmp_path, CHAIN), INPUTS)

    assert [node.name for node in found.nodes] == ["b", "c"]
    assert found.outputs.difference == pytest.approx(2 * 0.5)  # of x = 1
    assert found.outputs.share == pytest.approx(0.5 / 3)
    assert found.outputs.elements == np.count_nonzero(INPUTS > 0)


def test_only_the_integers_of_a_quantized_graph_are_looked_at(tmp_path: Path) -> None:
    model = onnx.load(stored(tmp_path, QUANTIZED))

    assert list(tap(model, tmp_path / "tapped.onnx")) == ["xq", "aq"]
    assert [output.name for output in onnx.load(tmp_path / "tapped.onnx").graph.output] == ["logits", "xq", "aq"]


def test_a_model_that_the_device_cannot_run_is_told_with_its_last_words(tmp_path: Path) -> None:
    class FakeEmptyDevice(Here):
        def put(self, source: Path, to: str) -> None:
            if not to.endswith(".onnx"):
                super().put(source, to)

    with pytest.raises(DeviceError, match=r"here cannot run model\.onnx, tapped\.onnx \(exit code 1\).*model\.onnx"):
        compare(FakeEmptyDevice(tmp_path / "work"), stored(tmp_path, CHAIN), INPUTS)


def test_a_share_of_nothing_is_none_or_all() -> None:
    assert Difference("a", "Relu", 0.0, 0.0, 0, 1).share == 0.0
    assert Difference("a", "Relu", 0.1, 0.0, 1, 1).share == 1.0
