"""Export: a torch model as an ONNX file for the target, checked against the model."""

from edgekd.export.to_half import to_bf16, to_fp16
from edgekd.export.to_onnx import Preprocess, to_onnx
from edgekd.export.to_tensorrt import to_tensorrt
from edgekd.models.trace import FreeSize
from edgekd.runtime.check import check

__all__ = ["FreeSize", "Preprocess", "check", "to_bf16", "to_fp16", "to_onnx", "to_tensorrt"]
