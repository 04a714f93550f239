"""The stages that export and score the student: fp32, fp16, bf16 and int8, each compared with torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekd.cache.stage import Artifact, stage
from edgekd.data import Samples, Unseen
from edgekd.data.batches import arguments_of
from edgekd.data.draw import drawn
from edgekd.errors import QuantizationError
from edgekd.export.to_half import Kept, to_bf16, to_fp16
from edgekd.export.to_onnx import to_onnx
from edgekd.inputs import Arrays, Field, Input
from edgekd.models.free import free_sizes
from edgekd.models.heads import parts_of
from edgekd.models.memory_format import Arguments, arranged
from edgekd.quantize.ptq import convert
from edgekd.quantize.same import TOLERANCE
from edgekd.recipe import Export, Network
from edgekd.runtime.check import check
from edgekd.runtime.runners import OnnxRunner
from edgekd.steps.problem import EvaluationSet, TrainingSet
from edgekd.steps.quantize import Plan, Subject, load_compared, load_quantized
from edgekd.steps.trained import Trained

MODEL, BETWEEN = "model.onnx", "between.onnx"
KEPT = "kept_fp32.json"
TRAINED, SAME = "fake_quantized.npy", "fp32_between.npy"
FROM_MODULE = "from_module.json"
CHECKED = 64  # hold-out samples that each export is compared on
BATCH = 250
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "ml_dtypes")


@dataclass(frozen=True)
class Form:
    """The form of exported graphs: the recipe's settings, and the opset for the target."""

    export: Export
    opset: int


@stage(4, LIBRARIES, of="student")
def export_fp32(student: Trained, on: TrainingSet, form: Form, *, out: Path) -> None:
    """Stage: export the float student as `model.onnx`."""
    _export(student.load(on.open()), student, on, form, out / MODEL)


@stage(7, LIBRARIES, of="student")
def export_fp16(student: Trained, on: TrainingSet, fp32: Artifact, export: Export, *, out: Path) -> None:
    """Stage: export the student in float16. Inputs and outputs keep their own types.

    Also writes `kept_fp32.json`: the operators that stay float32, because a hold-out sample leaves the safe range there.
    """
    _halve(fp32 / MODEL, on, export, out)
    _check(out / MODEL, student.load(on.open()), student, on, export)


@stage(5, LIBRARIES, of="student")
def export_bf16(student: Trained, on: TrainingSet, form: Form, *, out: Path) -> None:
    """Stage: export the student in bfloat16, at opset 22 or later. Inputs and outputs keep their own types.

    Also writes `kept_fp32.json`: the operators that stay float32, because ONNX does not have them in bfloat16.
    """
    model = student.load(on.open())
    _export(model, student, on, form, out / MODEL)
    kept = to_bf16(out / MODEL, out / MODEL)
    (out / KEPT).write_text(json.dumps([asdict(found) for found in kept], indent=1))
    _check(out / MODEL, model, student, on, form.export)


@stage(9, (*LIBRARIES, "torchao"), of="subject")
def export_int8(subject: Subject, plan: Plan, quantized: Artifact, form: Form, *, out: Path) -> None:
    """Stage: export the quantized student.

    Also writes `from_module.json`: the distance of the graph without quantizers from the student itself. If the target
    computes the rest in fp16, `between.onnx` is the graph before that conversion.
    """
    on, student, opened = subject.on, subject.student, subject.on.open()
    arguments = _arguments(opened.input, opened.train.get(opened.holdout_ids[:CHECKED]))
    model, apart = load_compared(subject, plan, quantized, arguments)
    assert apart is not None
    if apart > TOLERANCE:
        raise QuantizationError(
            f"the graph of int8 computes something else than the student on {len(arguments[0])} hold-out samples, by {apart:.1%} (rms)"
        )
    (out / FROM_MODULE).write_text(json.dumps({"rms": apart, "samples": len(arguments[0])}))
    model = convert(model)
    if subject.scheme.rest == "fp16":
        _export(model, student, on, form, out / BETWEEN)
        _halve(out / BETWEEN, on, form.export, out)
        _check(out / MODEL, model, student, on, form.export)
    else:
        _export(model, student, on, form, out / MODEL)


@stage(3, (*LIBRARIES, "torchao"), of="subject")
def score_quantized(
    subject: Subject, plan: Plan, quantized: Artifact, int8: Artifact, on: EvaluationSet, export: Export, *, out: Path
) -> None:
    """Stage: what the task stores of the fake-quantized model's outputs on the test split, `fake_quantized.npy`.

    This is the torch model that was calibrated or trained, before its conversion to int8. If the target computes the rest
    in fp16, `fp32_between.npy` holds that of the graph before the conversion to fp16.
    """
    unseen = on.open()
    np.save(out / TRAINED, _stored(load_quantized(subject, plan, quantized), unseen))
    if (int8 / BETWEEN).exists():
        runner = OnnxRunner(int8 / BETWEEN, threads=torch.get_num_threads())
        (between,) = _run(runner, unseen, export, [unseen.task.stored])
        np.save(out / SAME, between)


@stage(4, ("onnxruntime", "numpy"), of="model")
def score(model: Artifact, on: EvaluationSet, export: Export, *, out: Path) -> None:
    """Stage: what the task stores of an exported model's outputs on the test split in onnxruntime, `test.npy` `[samples, ...]`.

    `test.TASK.npy` holds those of each further output.
    """
    runner, unseen = OnnxRunner(model / MODEL, threads=torch.get_num_threads()), on.open()
    store = [unseen.task.stored, *[_further] * (len(runner.outputs) - 1)]
    for number, stored in enumerate(_run(runner, unseen, export, store)):
        np.save(out / (f"test.{runner.outputs[number]}.npy" if number else "test.npy"), stored)
    (out / "runtime.json").write_text(json.dumps(runner.name))


def _further(outputs: NDArray[np.float32]) -> NDArray[Any]:
    """What is stored of a further task's outputs: of maps the class of each pixel, as Segment does."""
    return outputs if outputs.ndim == 2 else np.asarray(outputs.argmax(1), np.uint8)


@stage(4, ("torch", "numpy"), of="student")
def score_student(student: Trained, on: EvaluationSet, *, out: Path) -> None:
    """Stage: the float student's outputs on the test split in torch, as `score`. Used if the fp32 export failed."""
    unseen = on.open()
    np.save(out / "test.npy", _stored(student.load(unseen), unseen))
    (out / "runtime.json").write_text(json.dumps(f"torch {torch.__version__} CPU"))


def kept_fp32(model: Artifact) -> list[Kept]:
    """The operators of a half-precision export that stayed float32, with reasons."""
    path = model / KEPT
    return [Kept(**found) for found in json.loads(path.read_text())] if path.exists() else []


def checked_on(samples: Samples) -> np.ndarray:
    """The hold-out samples on which an export is compared, each class in its share."""
    held = samples.holdout_ids
    return held[drawn(samples.task.strata(samples.train.labels[held]), len(held), CHECKED, seed=0)]


def _halve(source: Path, on: TrainingSet, export: Export, out: Path) -> None:
    samples = on.open()
    inputs = as_input(samples.input, samples.train.get(checked_on(samples)), export)
    kept = to_fp16(source, out / MODEL, inputs)
    (out / KEPT).write_text(json.dumps([asdict(found) for found in kept], indent=1))


def _run(
    runner: OnnxRunner, unseen: Unseen, export: Export, store: Sequence[Callable[[NDArray[Any]], NDArray[Any]]]
) -> list[NDArray[Any]]:
    """What `store` makes of each output of an exported file on the test split, `[samples, ...]`."""
    batches = (as_input(unseen.input, unseen.get(ids), export) for ids in _batches(len(unseen)))
    found = [
        [keep(output.astype(np.float32)) for keep, output in zip(store, runner.run_all(batch), strict=False)]
        for batch in batches
    ]
    return [np.concatenate(output) for output in zip(*found, strict=True)]


def _stored(model: nn.Module, unseen: Unseen) -> NDArray[Any]:
    """What the first task stores of a network's outputs on the test split, `[samples, ...]`."""
    batches = (_arguments(unseen.input, unseen.get(ids)) for ids in _batches(len(unseen)))
    task = unseen.task
    with torch.inference_mode():
        outputs = (parts_of(model(*batch), [task.outputs])[0] for batch in batches)
        return np.concatenate([task.stored(own.numpy()) for own in outputs])


def as_input(input: Input, raw: Arrays, export: Export) -> dict[str, NDArray[Any]]:
    """The inputs of the exported graph by name: raw samples, or a network's arguments without `preprocess`."""
    fields = graph_fields(input, export)
    arrays = [raw[field.name] for field in fields] if export.preprocess else list(_arguments(input, raw))
    return {field.name: np.ascontiguousarray(array) for field, array in zip(fields, arrays, strict=True)}


def graph_fields(input: Input, export: Export) -> tuple[Field, ...]:
    """What the exported graph takes: raw arrays, or a network's arguments."""
    return input.fields if export.preprocess else input.arguments


def _export(model: nn.Module, student: Trained, on: TrainingSet, form: Form, path: Path) -> None:
    samples = on.open()
    write_onnx(model, student.network, samples.input, form, samples.train.get(samples.holdout_ids[:2]), path)
    _check(path, model, student, on, form.export)


def write_onnx(model: nn.Module, network: Network, input: Input, form: Form, example: Arrays, path: Path) -> None:
    """Write a network's graph in the form that the recipe asks for. example: two raw samples."""
    export = form.export
    batch = None if export.batch == "dynamic" else export.batch
    to_onnx(
        model,
        path,
        tuple(torch.from_numpy(each) for each in as_input(input, example, export).values()),
        opset=form.opset,
        preprocess=input.preprocess() if export.preprocess else None,
        inputs=[field.name for field in graph_fields(input, export)],
        free=free_sizes(graph_fields(input, export)),
        output=export.output,
        heads={name: shape[0] for name, shape in network.heads.items()},
        batch=batch,
    )


def _check(path: Path, model: nn.Module, student: Trained, on: TrainingSet, export: Export) -> None:
    samples = on.open()
    raw = samples.train.get(checked_on(samples))
    outputs = [samples.task.outputs, *(shape[0] for shape in student.network.heads.values())]

    def run(*given: Tensor) -> list[Tensor]:
        each = parts_of(model(*_arguments(samples.input, raw)), outputs)
        return [part.softmax(1) if export.output == "probabilities" else part for part in each]

    batch = tuple(torch.from_numpy(each) for each in as_input(samples.input, raw, export).values())
    # Float outputs are compared as numbers, because rounding decides between classes that tie. An int8 graph may round a
    # tie in any layer, so its classes are compared: here of a few samples, later of the whole test split.
    names_classes = isinstance(model, GraphModule) and samples.task.holds == "classes"
    check(path, run, [batch], min_agreement=0.9 if names_classes else 0.0, class_axis=1)


def _arguments(input: Input, raw: Arrays) -> Arguments:
    # Contiguous, as a device gives them, because a model's own code may call `view`.
    return arranged(arguments_of(input, raw, torch.device("cpu")), torch.contiguous_format)


def _batches(n: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + BATCH, n)) for start in range(0, n, BATCH))
