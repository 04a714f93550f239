"""rehearse: refuses a student that cannot be quantized or exported, before it is trained."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from edgekd.cache.stage import stage
from edgekd.data.batches import arguments_of
from edgekd.errors import QuantizationError, UnknownLayerError
from edgekd.export.lint import lint
from edgekd.inputs.protocol import cut
from edgekd.models.free import free_sizes
from edgekd.models.memory_format import arranged
from edgekd.quantize.ptq import calibrate, convert, prepare
from edgekd.quantize.same import ROWS, as_it_was, check_answers
from edgekd.recipe import Network
from edgekd.steps.export import LIBRARIES, MODEL, Form, write_onnx
from edgekd.steps.problem import TrainingSet
from edgekd.steps.trained import new_model
from edgekd.target import Quantization, Target

REFUSED = "refused.json"


@stage(3, (*LIBRARIES, "torchao"), of="student")
def rehearse(
    student: Network,
    on: TrainingSet,
    form: Form,
    scheme: Quantization | None,
    keep_float: tuple[str, ...],
    trained: bool,
    target: Target,
    *,
    out: Path,
) -> None:
    """Stage: capture, quantize and export the untrained student, as a rehearsal.

    With `trained` it is prepared for quantization-aware training too; without a `scheme` it is exported in float. Writes
    the refusals of the target's runtime to `REFUSED`, a list of lines. Raises ExportError or QuantizationError, before
    hours of training, if a student of this code cannot be captured, quantized or exported.
    """
    opened = on.open()
    # Real samples, because a network may accept only values that occur in them.
    raw = opened.train.get(opened.train_ids[:ROWS])
    arguments = arranged(arguments_of(opened.input, raw, torch.device("cpu")), torch.contiguous_format)
    model, free = new_model(student, opened, 0).eval(), free_sizes(opened.input.arguments)
    with as_it_was(model), torch.no_grad():
        check_answers(model.eval(), arguments)  # in float too
    if scheme is not None:
        try:
            if trained:
                prepare(model, scheme, arguments, qat=True, keep_float=keep_float, free=free)
            prepared = prepare(model, scheme, arguments, keep_float=keep_float, free=free)
            calibrate(prepared, [arguments])
            model = convert(prepared)
        except UnknownLayerError:  # keep_float names a layer that does not exist
            raise
        except QuantizationError as error:
            raise QuantizationError(
                f"this student cannot be int8: {error} Mend it, or build it in float: --set quantize.mode=none"
            ) from error
    write_onnx(model, student, opened.input, form, cut(raw, slice(2)), out / MODEL)
    refused = [f"{found.node}: {found.why}" for found in lint(out / MODEL, target) if found.severity == "error"]
    (out / REFUSED).write_text(json.dumps(refused))
    (out / MODEL).unlink()
