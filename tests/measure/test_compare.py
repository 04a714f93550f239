"""A bundle verified on a device: the stored outputs, the accuracy on the recipe's own test split, what differs inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekd
from edgekd.bundle.golden import Golden
from edgekd.measure.compare import compare_on
from edgekd.recipe import load_recipe
from tests.builders.bundles import write
from tests.builders.devices import FakeFaultyDevice, here
from tests.builders.measuring import SHORT
from tests.builders.recipes import RECIPE


def test_the_accuracy_there_is_that_of_the_same_samples_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    recipe = load_recipe(tmp_path, ["quantize.mode=none"])
    report = edgekd.build(recipe, "x86-cpu", output=tmp_path / "build", cache=tmp_path / "cache", timing=SHORT)
    bundle = tmp_path / "build" / recipe.name / "x86-cpu"

    rows = compare_on(here(tmp_path / "work"), bundle, samples=10**6)

    assert all(ok for _, ok, _ in rows)
    found = {what: detail for what, _, detail in rows}
    assert f"{report.chosen.score.value:.2f} %" in found["top-1 on here"] and "100.00%" in found["top-1 on here"]
    assert "bit-equal" in found["stored outputs on here"]


def test_a_changed_bundle_is_not_run_on_the_device(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    (bundle / "labels.txt").write_text("other\n")

    rows = compare_on(here(tmp_path / "work"), bundle)

    assert ("labels.txt", False, "changed") in rows
    assert not [what for what, _, _ in rows if "here" in what] and not list((tmp_path / "work").iterdir())


def test_a_tensor_inside_the_graph_that_differs_is_named_also_where_the_outputs_are_right(tmp_path: Path) -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 18]>
    means (uint8[N, 4, 4, 3] image) => (float[N, 3] logits) <int64[2] axes = {1, 2}, float scale = {255.0}, float three = {3.0}>
    { pixels = Cast <to = 1> (image) scaled = Div (pixels, scale) m = ReduceMean <keepdims = 0> (scaled, axes)
      bigger = Mul (m, three) logits = Div (bigger, three) }
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
    golden = Golden({"image": images}, {"": (images / 255).mean((1, 2)).astype(np.float32)}, {"": 1e-5})
    model = tmp_path / "scaled.onnx"
    onnx.save(onnx.parser.parse_model(text), model)
    bundle = write(tmp_path, models={"model.onnx": model}, golden=golden)

    device = FakeFaultyDevice(tmp_path)  # it divides by what it multiplied with: the outputs are right
    rows = {what: (ok, detail) for what, ok, detail in compare_on(device, bundle)}

    assert rows["stored outputs on here"][0]
    assert rows["  bigger"][1].startswith("Mul: ") and "1 of 4 tensors inside the graph" in rows
