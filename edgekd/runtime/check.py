"""check: compares the outputs of an exported file with those of the torch model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from edgekd.base.external_data import check_external_data
from edgekd.errors import ExportError, ModelError
from edgekd.runtime import runners
from edgekd.runtime.runners import fixed_batch, in_batches
from edgekd.runtime.sessions import Ended, Refused, Session

# Largest difference relative to the largest output. In int8 onnxruntime rounds ties differently from torch, so only the
# classes are compared.
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 1e-1, "int8": float("inf")}


@dataclass(frozen=True)
class Agreement:
    """The agreement of an exported model with its torch model on `samples` samples.

    `answers` counts the compared classes: one for a sample, or one for each pixel or token of it.
    """

    samples: int
    answers: int
    same_top1: float
    max_difference: float
    max_output: float

    def __str__(self) -> str:
        dense = self.answers != self.samples
        told = f"{self.answers} answers of {self.samples} samples" if dense else f"{self.samples} samples"
        return (
            f"same top-1 on {self.same_top1:.2%} of {told}, "
            f"largest difference {self.max_difference:.3g} at outputs up to {self.max_output:.3g}"
        )


def check(
    path: str | os.PathLike[str],
    torch_fn: Callable[..., Tensor | Sequence[Tensor]],
    samples: Iterable[Tensor | tuple[Tensor, ...]],
    *,
    min_agreement: float = 0.995,
    tolerance: float | None = None,
    class_axis: int | None = None,
) -> Agreement:
    """Validates the file and compares its outputs in onnxruntime with `torch_fn`'s on real samples.

    Each of `samples` is a batch as the file takes it: a tensor `[batch, ...]`, or a tuple with a tensor for each of the
    file's inputs, in their order. `torch_fn(*batch)` gives `[batch, classes]`, or such a tensor for each of the file's
    outputs. The first output decides the class. An output with more axes needs `class_axis`: 1 for `[batch, classes, h,
    w]`, -1 for `[batch, length, classes]`. `tolerance` bounds the largest difference relative to the largest output
    (default: 1e-3 in fp32, 0.05 in fp16, 0.1 in bf16, unbounded in int8).

    Raises ExportError, with the figures, if the outputs differ in values or shape or contain NaN. Raises it also if the
    file is invalid or takes another number of inputs. Raises Ended if the file ends the process that runs it.
    """
    path = os.fspath(path)
    model = read_onnx(path)
    session = open_session(path)
    if tolerance is None:
        tolerance = TOLERANCE[precision_of(model)]
    names, size = [given.name for given in session.get_inputs()], fixed_batch(session)
    count, answers, same, difference, largest = 0, 0, 0, 0.0, 0.0
    with torch.no_grad():
        for each in samples:
            batch = _batch_for(names, each, path)
            given = torch_fn(*batch.values())
            all_expected = [output.float().numpy() for output in ([given] if isinstance(given, Tensor) else given)]
            try:
                arrays = {name: tensor.numpy() for name, tensor in batch.items()}
                all_got = in_batches(lambda part: session.run(None, part), arrays, size)
            except Refused as error:
                raise ExportError(f"onnxruntime does not run {path}: {error}") from error
            shapes, wanted = ([list(output.shape) for output in outputs] for outputs in (all_got, all_expected))
            if shapes != wanted:
                raise ExportError(f"{path} gives {shapes}, the torch model {wanted}")
            if not all(np.isfinite(got).all() for got in all_got):
                raise ExportError(f"{path} gives NaN or infinity for sample {count} or one soon after it")
            axis = _class_axis(all_got[0].shape, class_axis, path)
            equal = all_got[0].argmax(axis) == all_expected[0].argmax(axis)
            count, answers, same = count + len(equal), answers + equal.size, same + int(equal.sum())
            for got, expected in zip(all_got, all_expected, strict=True):
                difference = max(difference, float(np.abs(got - expected).max()))
                largest = max(largest, float(np.abs(expected).max()))
    if not answers:
        raise ExportError(f"no samples to check {path} with")
    result = Agreement(count, answers, same / answers, difference, largest)
    if result.same_top1 < min_agreement or difference > tolerance * largest:
        limit = "" if tolerance == float("inf") else f" and a difference of at most {tolerance * largest:.3g}"
        raise ExportError(f"{path} differs from the torch model: {result}; asked for {min_agreement:.2%}{limit}")
    return result


def _batch_for(names: Sequence[str], tensors: Tensor | tuple[Tensor, ...], path: str) -> dict[str, Tensor]:
    """A batch by the names of the file's inputs.

    Raises ExportError for another number of tensors, and for unequal numbers of samples.
    """
    batch = (tensors,) if isinstance(tensors, Tensor) else tensors
    if len(batch) != len(names):
        raise ExportError(
            f"{path} takes {len(names)} inputs ({', '.join(names)}), and a batch of the samples has {len(batch)} tensors; give a "
            "tuple with one for each"
        )
    if len({len(tensor) for tensor in batch}) != 1:
        raise ExportError(
            f"the inputs of {path} need as many samples each; given: {[list(tensor.shape) for tensor in batch]}"
        )
    return dict(zip(names, batch, strict=True))


def _class_axis(shape: tuple[int, ...], class_axis: int | None, path: str) -> int:
    """The axis of an output's classes. Raises ExportError if an output of more than two axes has no given axis."""
    axis = 1 if class_axis is None and len(shape) == 2 else class_axis
    if axis is None:
        raise ExportError(
            f"{path} gives {list(shape)}, and which axis holds the classes is not told; give class_axis (1 for "
            "[batch, classes, h, w], -1 for [batch, length, classes])"
        )
    if not -len(shape) < axis < len(shape) or axis == 0:
        raise ExportError(f"{path} gives {list(shape)}; class_axis = {axis} is none of its axes behind the batch")
    return axis


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model in a file, with its external data. Raises ExportError for a file that is not valid ONNX."""
    path = os.fspath(path)
    try:
        check_external_data(path)
        model = onnx.load(path)
        onnx.checker.check_model(path, full_check=True)  # by path: a model above 2 GB does not fit a message
    except Exception as error:  # errors of protobuf, onnx's checker and its shape inference share no base class
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"{path} is no valid ONNX model: {first}; export it anew") from error
    return model


def types_of(path: str | os.PathLike[str]) -> dict[str, int]:
    """Element types of all tensors except weights, by name.

    Weights are not loaded, so the 2 GB limit does not apply.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(os.fspath(path), load_external_data=False)).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}


def open_session(path: str | os.PathLike[str], *, optimise: bool = True) -> Session:
    """A single-threaded onnxruntime session of a file, opened as by edgekd.runtime.runners. Raises ExportError or Ended."""
    try:
        return runners.open_session(os.fspath(path), optimise=optimise).session
    except Ended:
        raise
    except ModelError as error:
        raise ExportError(str(error)) from error


def precision_of(model: onnx.ModelProto) -> str:
    """A model's precision: int8 if tensors are quantized, fp16 or bf16 if a weight has that type, else fp32."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    types = {tensor.data_type for tensor in model.graph.initializer}
    return "fp16" if onnx.TensorProto.FLOAT16 in types else "bf16" if onnx.TensorProto.BFLOAT16 in types else "fp32"
