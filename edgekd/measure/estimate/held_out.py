"""write_held_out: writes four of edgekd's students, fp32 and int8, to check a calibration; it is never fitted on them."""

from __future__ import annotations

from pathlib import Path

import torch

from edgekd.export.to_half import to_fp16
from edgekd.export.to_onnx import to_onnx
from edgekd.models.reference import BUILT_IN
from edgekd.quantize import calibrate, convert, prepare
from edgekd.target import load_target

STUDENTS = ("resnet8", "resnet20", "wrn-16-2", "mobilenetv2-0.5")  # those made for pictures of this size
SIZE, OPSET = 32, 20
SCHEME = {"onnxruntime": "x86-cpu", "tensorrt": "jetson"}  # the schemes of the networks that are fitted on


def write_held_out(folder: Path, runtime: str = "onnxruntime") -> dict[str, Path]:
    """Name -> file of each student, with random weights, at 32 x 32 pixels.

    For tensorrt fp16 is written too, and int8 has fp16 between.
    """
    files = {}
    torch.manual_seed(0)
    images = torch.randn(4, 3, SIZE, SIZE)
    for name in STUDENTS:
        model = BUILT_IN[name](num_classes=10).eval()
        files[f"{name} fp32"] = folder / f"{name}-fp32.onnx"
        to_onnx(model, files[f"{name} fp32"], images[:2], opset=OPSET)
        prepared = prepare(model, load_target(SCHEME[runtime]), (images[:2],))
        calibrate(prepared, [images])
        files[f"{name} int8"] = folder / f"{name}-int8.onnx"
        to_onnx(convert(prepared), files[f"{name} int8"], images[:2], opset=OPSET)
        if runtime == "tensorrt":
            files[f"{name} fp16"] = folder / f"{name}-fp16.onnx"
            to_fp16(files[f"{name} fp32"], files[f"{name} fp16"])
            to_fp16(files[f"{name} int8"], files[f"{name} int8"])
    return files
