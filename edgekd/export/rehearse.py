"""rehearse: what a student cannot become is told before it is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from edgekd.data import open_samples
from edgekd.distill.trained import new_model
from edgekd.errors import QuantizationError, UnknownLayerError
from edgekd.export.candidates import LIBRARIES, MODEL, write_onnx
from edgekd.quantize.ptq import calibrate, convert, prepare
from edgekd.quantize.same import ROWS
from edgekd.recipe import Data, Export, Student
from edgekd.stage import Artifact, stage
from edgekd.target import Quantization


@stage(1, (*LIBRARIES, "torchao"))
def rehearse(
    samples: Artifact,
    student: Student,
    data: Data,
    export: Export,
    opset: int,
    scheme: Quantization | None,
    keep_float: tuple[str, ...],
    trained: bool,
    *,
    out: Path,
) -> None:
    """Stage: the student, untrained, is captured, quantized (for training too, where `trained`) and written; nothing is kept.

    It reads noise: what is captured depends on the sizes of the samples alone. Without a `scheme` it is written in float.

    Raises ExportError or QuantizationError, before hours of training, for what a student of this code could not become.
    """
    opened = open_samples(samples.folder, data)
    height, width, channels = opened.image_shape
    noise = torch.randn(ROWS, channels, height, width, generator=torch.Generator().manual_seed(0))
    model = new_model(student, opened, 0).eval()
    if scheme is not None:
        try:
            if trained:
                prepare(model, scheme, (noise,), qat=True, keep_float=keep_float)
            prepared = prepare(model, scheme, (noise,), keep_float=keep_float)
        except UnknownLayerError:  # of keep_float
            raise
        except QuantizationError as error:
            raise QuantizationError(
                f"{error}. This student cannot be int8; mend it, or build it in float with --set quantize.mode=none"
            ) from error
        calibrate(prepared, [noise])
        model = convert(prepared)
    write_onnx(model, student, opened, data, export, opset, noise[:2], out / MODEL)
    (out / MODEL).unlink()
