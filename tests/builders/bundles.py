"""write: a tiny bundle, its report and target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekd.bundle.golden import Golden
from edgekd.bundle.manifest import Preprocess
from edgekd.bundle.write import verify_bundle, write_bundle
from edgekd.figures.candidate import Candidate, Latency, Score
from edgekd.figures.figures import Report
from edgekd.recipe import Recipe
from edgekd.target import Hardware, Runtime, Target

LABELS = ("red", "green", "blue")


# mean over the pixels of each colour: the logits of an image are its mean red, green and blue in 0..1
UINT8 = """
<ir_version: 9, opset_import: ["" : 18]>
means (uint8[N, 4, 4, 3] image) => (float[N, 3] logits)
<int64[2] axes = {1, 2}, float scale = {255.0}>
{
  pixels = Cast <to = 1> (image)
  scaled = Div (pixels, scale)
  logits = ReduceMean <keepdims = 0> (scaled, axes)
}
"""


FLOAT = """
<ir_version: 9, opset_import: ["" : 18]>
means (float[1, 3, 4, 4] image) => (float[1, 3] logits)
<int64[2] axes = {2, 3}>
{ logits = ReduceMean <keepdims = 0> (image, axes) }
"""


def report() -> Report:
    accuracy = Score(value=90.0, low=89.0, high=91.0, n=1000, split="test", runtime="onnxruntime 1.31.1 CPU")
    latency = Latency(
        p50_ms=0.4,
        p90_ms=0.5,
        low_ms=0.39,
        high_ms=0.41,
        n=300,
        block_medians_ms=(0.4, 0.4, 0.4),
        stable=True,
        threads=1,
        machine="Example CPU",
        runtime="onnxruntime 1.31.1 CPU",
    )
    shipped = Candidate(
        name="int8", file="model.onnx", size_mb=0.1, score=accuracy, latency=latency, shipped=True, reason="fastest"
    )
    lost = Candidate(name="fp16", file="model.fp16.onnx", size_mb=0.2, score=accuracy, reason="not measured")
    return Report(
        recipe="tiny",
        target="box",
        target_title="a box",
        created="2026-11-21T00:00:00Z",
        seconds=1.0,
        machine="Example CPU",
        versions={"python": "3.11.7"},
        classes=LABELS,
        teacher=accuracy,
        student=accuracy,
        student_parameters=3,
        candidates=(shipped, lost),
        checks=(),
        stages=({"name": "distill", "key": "77e0", "seconds": 1.0, "reused": False},),
    )


def recipe(**sections: Any) -> Recipe:
    """A small recipe; other sections come as they stand in a file."""
    digits = "python:edgekd.data.digits:load"
    small = {"name": "tiny", "data": {"train": digits, "test": digits}, "student": {"model": "edgekd:resnet8"}}
    return Recipe.model_validate({**small, **sections})


def target(runtime: str = "onnxruntime") -> Target:
    return Target(
        name="box",
        title="a box",
        hardware=Hardware(source="made up", date="2026-11"),
        runtime=Runtime(
            name=runtime, precisions=("int8",), default_opset=18, max_opset=21, source="made up", date="2026-11"
        ),
    )


def write(folder: Path, text: str = UINT8, **changes: Any) -> Path:
    """A bundle of a tiny graph in `folder`/bundle, whose golden outputs numpy computed."""
    model = folder / "made.onnx"
    onnx.save(onnx.parser.parse_model(text), model)
    rng = np.random.default_rng(0)
    inputs: dict[str, Any]
    if text == WORDS:
        inputs = sentences(16, 6)
        outputs = meanings(inputs)
    elif text in (UINT8, TWO_HEADS):
        image = rng.integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
        inputs, outputs = {"image": image}, (image / 255).mean((1, 2)).astype(np.float32)
    else:
        image = rng.normal(size=(16, 3, 4, 4)).astype(np.float32)
        inputs, outputs = {"image": image}, image.mean((2, 3))
    arguments: dict[str, Any] = {
        "report": report(),
        "recipe": recipe(),
        "target": target(),
        "fingerprint": "77e0",
        "models": {"model.onnx": model, "model.fp32.onnx": model},
        "labels": LABELS,
        "tasks": {},
        "golden": Golden(inputs, {"": outputs}, {"": 1e-5}),
        "preprocess": Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3),
    }
    write_bundle(folder / "bundle", **{**arguments, **changes})
    return folder / "bundle"


def listed(bundle: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return manifest


def failures(bundle: Path) -> dict[str, str]:
    return {what: detail for what, ok, detail in verify_bundle(bundle) if not ok}


TWO_HEADS = """
<ir_version: 9, opset_import: ["" : 18]>
means (uint8[N, 4, 4, 3] image) => (float[N, 3] logits, float[N, 2] bright)
<int64[2] axes = {1, 2}, int64[3] all = {1, 2, 3}, float scale = {255.0}, float[2] sides = {1.0, -1.0}>
{
  pixels = Cast <to = 1> (image)
  scaled = Div (pixels, scale)
  logits = ReduceMean <keepdims = 0> (scaled, axes)
  mean = ReduceMean <keepdims = 0> (scaled, all)
  column = Unsqueeze (mean, one)
  bright = Mul (column, sides)
}
""".replace("float scale", "int64[1] one = {1}, float scale")


# the mean meaning of a sentence's words: 1 of a mask are words, 0 is padding; of five words the meanings stand in a table
WORDS = """
<ir_version: 9, opset_import: ["" : 18]>
words (int64[batch, length] ids, float[batch, length] mask) => (float[batch, 3] logits)
<float[5, 3] table = {3, 0, 0, 0, 3, 0, 0, 0, 3, 1, 1, 0, -2, 0, 1}, int64[1] second = {1}, int64[1] last = {2}>
{
  rows = Gather (table, ids)
  column = Unsqueeze (mask, last)
  kept = Mul (rows, column)
  total = ReduceSum <keepdims = 0> (kept, second)
  count = ReduceSum <keepdims = 1> (mask, second)
  logits = Div (total, count)
}
"""
TABLE = np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [1, 1, 0], [-2, 0, 1]], np.float32)


def sentences(n: int, length: int) -> dict[str, Any]:
    """The two inputs of WORDS: sentences of one word to `length`, padded."""
    rng = np.random.default_rng(0)
    mask = np.arange(length) < rng.integers(1, length + 1, (n, 1))
    return {"ids": rng.integers(0, len(TABLE), (n, length)), "mask": mask.astype(np.float32)}


def meanings(inputs: dict[str, Any]) -> Any:
    """What WORDS computes, in numpy."""
    mask = inputs["mask"][:, :, None]
    return ((TABLE[inputs["ids"]] * mask).sum(1) / mask.sum(1)).astype(np.float32)
