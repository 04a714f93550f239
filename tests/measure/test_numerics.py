"""What differs between two machines is found, at the node where it begins, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekd.errors import DeviceError
from edgekd.measure.at_work import Workplace
from edgekd.measure.devices.local import Local
from edgekd.measure.numerics import Difference, compare, tap
from tests.builders.devices import FakeFaultyDevice, here

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
INPUTS = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)}


def stored(folder: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return folder / "model.onnx"


def test_the_same_machine_gives_the_same_bits(tmp_path: Path) -> None:
    found = compare(here(tmp_path), stored(tmp_path, CHAIN), INPUTS)

    assert found.outputs.bit_equal and found.same_top1 == 1.0 and found.n == 6
    assert found.nodes == () and found.nodes_compared == 3 and found.tapped_alike


def test_a_difference_is_named_where_it_begins(tmp_path: Path) -> None:
    found = compare(FakeFaultyDevice(tmp_path), stored(tmp_path, CHAIN), INPUTS)

    assert [node.name for node in found.nodes] == ["b", "c"]
    assert found.outputs.difference == pytest.approx(2 * 0.5)  # of x = 1
    assert found.outputs.share == pytest.approx(0.5 / 3)
    assert found.outputs.elements == np.count_nonzero(INPUTS["x"] > 0)


def test_only_the_integers_of_a_quantized_graph_are_looked_at(tmp_path: Path) -> None:
    model = onnx.load(stored(tmp_path, QUANTIZED))

    assert list(tap(model, tmp_path / "tapped.onnx")) == ["xq", "aq"]
    assert [output.name for output in onnx.load(tmp_path / "tapped.onnx").graph.output] == ["logits", "xq", "aq"]


def test_a_model_that_the_device_cannot_run_is_told_with_its_last_words(tmp_path: Path) -> None:
    class FakeForgetfulDevice(Local):
        def put(self, files: Mapping[str, Path]) -> None:
            super().put({path: source for path, source in files.items() if not path.endswith(".onnx")})

    with pytest.raises(DeviceError, match=r"here: device_outputs\.py .*code 1: .*model\.onnx"):
        compare(FakeForgetfulDevice("here", str(tmp_path)), stored(tmp_path, CHAIN), INPUTS)
    assert not list(tmp_path.glob("task-*"))


def test_a_share_of_nothing_is_none_or_all() -> None:
    assert Difference("a", "Relu", 0.0, 0.0, 0, 1).share == 0.0
    assert Difference("a", "Relu", 0.1, 0.0, 1, 1).share == 1.0


def test_a_file_comes_back_in_pieces_and_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.measure.at_work.PIECE", 4)
    source = tmp_path / "source"
    for content in (b"", b"abcd", b"a longer one"):
        source.write_bytes(content)
        with Workplace(here(tmp_path)) as there:
            there.put(source, "copy")
            assert there.get("copy") == content
    assert list(tmp_path.iterdir()) == [source]
