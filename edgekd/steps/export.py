"""The stages that export: the student as fp32, fp16, bf16 and int8, each compared with its torch model on real samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.cache.stage import Artifact, stage
from edgekd.data import Samples, open_samples
from edgekd.data.batches import to_tensor
from edgekd.data.draw import stratified
from edgekd.errors import QuantizationError
from edgekd.export.to_half import Kept, to_bf16, to_fp16
from edgekd.export.to_onnx import Preprocess, to_onnx
from edgekd.models.memory_format import arranged
from edgekd.quantize.ptq import convert
from edgekd.quantize.same import TOLERANCE
from edgekd.recipe import Data, Export, Student
from edgekd.runtime.check import check
from edgekd.runtime.runners import OnnxRunner
from edgekd.steps.quantize import Plan, Subject, load_compared
from edgekd.steps.trained import load_student

MODEL = "model.onnx"
KEPT = "kept_fp32.json"
TRAINED, SAME = "fake_quantized.npy", "fp32_between.npy"
FROM_MODULE = "from_module.json"
CHECKED = 64  # hold-out samples that each export is compared on
BATCH = 250
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "ml_dtypes")


@stage(1, LIBRARIES)
def export_fp32(
    samples: Artifact, student: Student, distilled: Artifact, data: Data, export: Export, opset: int, *, out: Path
) -> None:
    """Stage: the float student."""
    opened = open_samples(samples.folder, data)
    _export(load_student(student, opened, distilled), student, opened, data, export, opset, out)


@stage(4, LIBRARIES)
def export_fp16(
    samples: Artifact, student: Student, distilled: Artifact, fp32: Artifact, data: Data, export: Export, *, out: Path
) -> None:
    """Stage: the float student with half-precision weights and arithmetic, between the input's and the output's own types.

    Also `kept_fp32.json`: the operators that stay float32, because a hold-out sample takes them out of the safe range.
    """
    opened = open_samples(samples.folder, data)
    _halve(fp32 / MODEL, opened, data, export, out)
    model = load_student(student, opened, distilled)
    _check(out / MODEL, model, student, opened, data, export)


@stage(2, LIBRARIES)
def export_bf16(
    samples: Artifact, student: Student, distilled: Artifact, data: Data, export: Export, opset: int, *, out: Path
) -> None:
    """Stage: the float student in bfloat16, between the input's and the output's own types; `opset` is 22 or later.

    Also `kept_fp32.json`: the operators that stay float32, because ONNX has none of them in bfloat16.
    """
    opened = open_samples(samples.folder, data)
    model = load_student(student, opened, distilled)
    _export(model, student, opened, data, export, opset, out)
    kept = to_bf16(out / MODEL, out / MODEL)
    (out / KEPT).write_text(json.dumps([asdict(found) for found in kept], indent=1))
    _check(out / MODEL, model, student, opened, data, export)


@stage(6, (*LIBRARIES, "torchao"))
def export_int8(subject: Subject, plan: Plan, quantized: Artifact, export: Export, opset: int, *, out: Path) -> None:
    """Stage: the quantized student; also `fake_quantized.npy`, what the torch model computes on the test split, and
    `from_module.json`, how far its graph without quantizers is from the student itself.

    That is the very model that was calibrated or trained, before its conversion. Where the target computes the rest in
    fp16, `fp32_between.npy` is what the graph gives before its rest is made fp16.
    """
    data, student = subject.data, subject.student
    opened = open_samples(subject.samples.folder, data)
    batch = _input(opened.train.get(opened.holdout_ids[:CHECKED]), data, preprocess=False)
    model, apart = load_compared(subject, plan, quantized, batch)
    assert apart is not None
    if apart > TOLERANCE:
        raise QuantizationError(
            f"the graph of int8 computes something else than the student on {len(batch)} hold-out samples, by {apart:.1%} (rms)"
        )
    (out / FROM_MODULE).write_text(json.dumps({"rms": apart, "samples": len(batch)}))
    np.save(out / TRAINED, _logits(model, opened, data))
    model = convert(model)
    _export(model, student, opened, data, export, opset, out)
    if subject.scheme.rest == "fp16":
        between, *_ = _run(OnnxRunner(out / MODEL, threads=torch.get_num_threads()), opened, data, export)
        np.save(out / SAME, between)
        _halve(out / MODEL, opened, data, export, out)
        _check(out / MODEL, model, student, opened, data, export)


@stage(1, ("onnxruntime", "numpy"))
def score(samples: Artifact, model: Artifact, data: Data, export: Export, *, out: Path) -> None:
    """Stage: what an exported model computes in onnxruntime on the whole test split, `test.npy` float32 `[samples, classes]`, and
    `test.TASK.npy` for each further output."""
    opened = open_samples(samples.folder, data)
    runner = OnnxRunner(model / MODEL, threads=torch.get_num_threads())
    for number, logits in enumerate(_run(runner, opened, data, export)):
        np.save(out / (f"test.{runner.outputs[number]}.npy" if number else "test.npy"), logits)
    (out / "runtime.json").write_text(json.dumps(runner.name))


@stage(1, ("torch", "numpy"))
def score_student(samples: Artifact, student: Student, distilled: Artifact, data: Data, *, out: Path) -> None:
    """Stage: what the float student computes in torch on the whole test split, as `score`; for where its export failed."""
    opened = open_samples(samples.folder, data)
    np.save(out / "test.npy", _logits(load_student(student, opened, distilled), opened, data))
    (out / "runtime.json").write_text(json.dumps(f"torch {torch.__version__} CPU"))


def kept_fp32(model: Artifact) -> list[Kept]:
    """The operators of a half-precision export that stayed float32, and why."""
    path = model / KEPT
    return [Kept(**found) for found in json.loads(path.read_text())] if path.exists() else []


def checked_on(samples: Samples) -> np.ndarray:
    """The hold-out samples that an export is compared on, each class in its share: the file may be sorted by class."""
    held = samples.holdout_ids
    return held[stratified(samples.train.labels[held], CHECKED, seed=0)]


def _halve(source: Path, samples: Samples, data: Data, export: Export, out: Path) -> None:
    images = samples.train.get(checked_on(samples))
    kept = to_fp16(source, out / MODEL, np.ascontiguousarray(as_input(images, data, export)))
    (out / KEPT).write_text(json.dumps([asdict(found) for found in kept], indent=1))


def _run(runner: OnnxRunner, samples: Samples, data: Data, export: Export) -> list[np.ndarray]:
    """What a file computes on the whole test split, float32 `[samples, classes]` of each output."""
    batches = (as_input(samples.test.get(ids), data, export) for ids in _batches(len(samples.test)))
    found = [runner.run_all(batch) for batch in batches]
    return [np.concatenate(output).astype(np.float32) for output in zip(*found, strict=True)]


def _logits(model: nn.Module, samples: Samples, data: Data) -> np.ndarray:
    """On the whole test split, float32 `[samples, classes]`, of the first task."""
    batches = (_input(samples.test.get(ids), data, preprocess=False) for ids in _batches(len(samples.test)))
    with torch.inference_mode():
        return np.concatenate([model(batch).numpy() for batch in batches])[:, : len(samples.classes)]


def as_input(images: np.ndarray, data: Data, export: Export) -> np.ndarray:
    """uint8 images `[n, h, w, channels]` as the exported graph takes them: as they are, or normalised `[n, channels, h, w]`."""
    return images if export.preprocess else _input(images, data, preprocess=False).numpy()


def _export(
    model: nn.Module, student: Student, samples: Samples, data: Data, export: Export, opset: int, out: Path
) -> None:
    example = _input(samples.train.get(samples.holdout_ids[:2]), data, preprocess=False)
    write_onnx(model, student, samples, data, export, opset, example, out / MODEL)
    _check(out / MODEL, model, student, samples, data, export)


def write_onnx(
    model: nn.Module,
    student: Student,
    samples: Samples,
    data: Data,
    export: Export,
    opset: int,
    example: Tensor,
    path: Path,
) -> None:
    """Writes what was made of a student as the recipe asks; `example` is float `[2, C, H, W]`, as the student takes it."""
    channels = samples.image_shape[2]
    normalise = (
        Preprocess(_per_channel(data.mean, channels), _per_channel(data.std, channels)) if export.preprocess else None
    )
    batch = None if export.batch == "dynamic" else export.batch
    to_onnx(
        model, path, example, opset=opset, preprocess=normalise, output=export.output, heads=student.heads, batch=batch
    )


def _check(path: Path, model: nn.Module, student: Student, samples: Samples, data: Data, export: Export) -> None:
    images = samples.train.get(checked_on(samples))
    classes = [len(samples.classes), *student.heads.values()]

    def run(batch: Tensor) -> list[Tensor]:
        logits: Tensor = model(_input(batch.numpy(), data, preprocess=False) if export.preprocess else batch)
        each = torch.split(logits, classes, 1)
        return [part.softmax(1) if export.output == "probabilities" else part for part in each]

    batch = torch.from_numpy(np.ascontiguousarray(as_input(images, data, export)))
    # Float outputs are compared as numbers: where two classes tie, a rounding decides. An int8 graph may round a tie of its
    # own in any layer, so that its classes are compared, here of a few samples and later of the whole test split.
    check(path, run, [batch], min_agreement=0.9 if isinstance(model, GraphModule) else 0.0)


def _input(images: np.ndarray, data: Data, *, preprocess: bool) -> Tensor:
    if preprocess:
        return torch.from_numpy(images)
    # As a device gives them; a model's own code may call `view`.
    return arranged(to_tensor(images, data, torch.device("cpu")), torch.contiguous_format)


def _batches(n: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + BATCH, n)) for start in range(0, n, BATCH))


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(float(value) for value in np.broadcast_to(values, channels))
