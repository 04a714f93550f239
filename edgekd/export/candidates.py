"""The stages that export: the student as fp32, fp16 and int8, each compared with its torch model on real samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.data import Samples, open_samples
from edgekd.data.batches import to_tensor
from edgekd.distill.trained import load_student
from edgekd.export.check import check
from edgekd.export.to_fp16 import to_fp16
from edgekd.export.to_onnx import Preprocess, to_onnx
from edgekd.measure.runners import OnnxRunner
from edgekd.quantize.ptq import convert
from edgekd.quantize.student import Plan, Subject, load_quantized
from edgekd.recipe import Data, Export, Model
from edgekd.stage import Artifact, stage

MODEL = "model.onnx"
CHECKED = 64  # hold-out samples that each export is compared on
BATCH = 250
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")


@stage(1, LIBRARIES)
def export_fp32(
    samples: Artifact, student: Model, distilled: Artifact, data: Data, export: Export, opset: int, *, out: Path
) -> None:
    """Stage: the float student."""
    opened = open_samples(samples.folder, data)
    _export(load_student(student, opened, distilled), opened, data, export, opset, out)


@stage(1, LIBRARIES)
def export_fp16(
    samples: Artifact, student: Model, distilled: Artifact, fp32: Artifact, data: Data, export: Export, *, out: Path
) -> None:
    """Stage: the float student with half-precision weights and arithmetic, between the input's and the output's own types."""
    opened = open_samples(samples.folder, data)
    to_fp16(fp32 / MODEL, out / MODEL)
    model = load_student(student, opened, distilled)
    _check(out / MODEL, model, opened, data, export)


@stage(2, (*LIBRARIES, "torchao"))
def export_int8(subject: Subject, plan: Plan, quantized: Artifact, export: Export, opset: int, *, out: Path) -> None:
    """Stage: the quantized student; also `fake_quantized.npy`, what the torch model computes on the test split.

    After training that is the very model that was trained; after calibration the converted one, with its int32 biases.
    """
    data = subject.data
    opened = open_samples(subject.samples.folder, data)
    model = load_quantized(subject, plan, quantized)
    trained = _logits(model, opened, data) if plan.trained else None
    model = convert(model)
    _export(model, opened, data, export, opset, out)
    np.save(out / "fake_quantized.npy", _logits(model, opened, data) if trained is None else trained)


@stage(1, ("onnxruntime",))
def score(samples: Artifact, model: Artifact, data: Data, export: Export, *, out: Path) -> None:
    """Stage: what an exported model computes in onnxruntime on the whole test split, `test.npy` float32 `[samples, classes]`."""
    opened = open_samples(samples.folder, data)
    runner = OnnxRunner(model / MODEL, threads=torch.get_num_threads())
    outputs = [runner.run(as_input(opened.test.get(ids), data, export)) for ids in _batches(len(opened.test))]
    np.save(out / "test.npy", np.concatenate(outputs).astype(np.float32))
    (out / "runtime.json").write_text(json.dumps(runner.name))


def _logits(model: nn.Module, samples: Samples, data: Data) -> np.ndarray:
    """On the whole test split, float32 `[samples, classes]`."""
    batches = (_input(samples.test.get(ids), data, preprocess=False) for ids in _batches(len(samples.test)))
    with torch.inference_mode():
        return np.concatenate([model(batch).numpy() for batch in batches])


def as_input(images: np.ndarray, data: Data, export: Export) -> np.ndarray:
    """uint8 images `[n, h, w, channels]` as the exported graph takes them: as they are, or normalised `[n, channels, h, w]`."""
    return images if export.preprocess else _input(images, data, preprocess=False).numpy()


def _export(model: nn.Module, samples: Samples, data: Data, export: Export, opset: int, out: Path) -> None:
    channels = samples.image_shape[2]
    normalise = (
        Preprocess(_per_channel(data.mean, channels), _per_channel(data.std, channels)) if export.preprocess else None
    )
    example = _input(samples.train.get(samples.holdout_ids[:2]), data, preprocess=False)
    to_onnx(model, out / MODEL, example, opset=opset, preprocess=normalise, output=export.output)
    _check(out / MODEL, model, samples, data, export)


def _check(path: Path, model: nn.Module, samples: Samples, data: Data, export: Export) -> None:
    images = samples.train.get(samples.holdout_ids[:CHECKED])

    def run(batch: Tensor) -> Tensor:
        logits: Tensor = model(_input(batch.numpy(), data, preprocess=False) if export.preprocess else batch)
        return logits.softmax(1) if export.output == "probabilities" else logits

    batch = torch.from_numpy(np.ascontiguousarray(as_input(images, data, export)))
    # Float outputs are compared as numbers: where two classes tie, a rounding decides. An int8 graph may round a tie of its
    # own in any layer, so that its classes are compared, here of a few samples and later of the whole test split.
    check(path, run, [batch], min_agreement=0.9 if isinstance(model, GraphModule) else 0.0)


def _input(images: np.ndarray, data: Data, *, preprocess: bool) -> Tensor:
    return torch.from_numpy(images) if preprocess else to_tensor(images, data, torch.device("cpu")).contiguous()


def _batches(n: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + BATCH, n)) for start in range(0, n, BATCH))


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(float(value) for value in np.broadcast_to(values, channels))
