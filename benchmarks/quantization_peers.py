"""Other tools' post-training quantization, each called as its documentation does: an ONNX file and samples to an int8 file.

Runs in the environment of the tool (see quantization.py): python quantization_peers.py TOOL IN.onnx SAMPLES.npy OUT.onnx
Prints the seconds, imports not counted, and the version, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Quantize = Callable[[], None]


def onnxruntime(activations: str, source: Path, samples: np.ndarray, out: Path) -> Quantize:
    """`quantize_static` as QDQ, weights per channel; u8 or s8 activations."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> Any:
            sample = next(self.rest, None)
            return None if sample is None else {name: sample[None]}

    name = onnx.load(source).graph.input[0].name

    def run() -> None:
        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip

    return run


def nncf(source: Path, samples: np.ndarray, out: Path) -> Quantize:
    """`nncf.quantize` with its defaults and all samples."""
    import nncf as tool
    import onnx

    model = onnx.load(source)
    name = model.graph.input[0].name

    def run() -> None:
        dataset = tool.Dataset(list(samples), lambda sample: {name: sample[None]})
        onnx.save(tool.quantize(model, dataset, subset_size=len(samples)), out)

    return run


def modelopt(source: Path, samples: np.ndarray, out: Path) -> Quantize:
    """NVIDIA's ONNX quantizer, made for TensorRT: int8, its default calibration."""
    from modelopt.onnx.quantization import quantize

    def run() -> None:
        quantize(str(source), quantize_mode="int8", calibration_data=samples, output_path=str(out))

    return run


TOOLS: dict[str, tuple[str, Callable[[Path, np.ndarray, Path], Quantize]]] = {
    "onnxruntime-u8": ("onnxruntime", lambda *given: onnxruntime("u8", *given)),
    "onnxruntime-s8": ("onnxruntime", lambda *given: onnxruntime("s8", *given)),
    "nncf": ("nncf", nncf),
    "modelopt": ("nvidia-modelopt", modelopt),
}


def main() -> None:
    tool, source, samples, out = sys.argv[1:]
    package, make = TOOLS[tool]
    run = make(Path(source), np.load(samples), Path(out))
    started = time.perf_counter()
    run()
    print(json.dumps({"seconds": time.perf_counter() - started, "version": version(package)}))


if __name__ == "__main__":
    main()
