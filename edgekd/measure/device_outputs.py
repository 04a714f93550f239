#!/usr/bin/env python3
"""Runs on a device: what onnxruntime computes there from given inputs, one at a time.

    python3 device_outputs.py inputs.npy model.onnx ...     pairs; writes model.onnx.npz beside each model, all of its outputs

Prints one line of JSON: machine, features and runtime. Needs Python 3.8+, numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
import platform
import sys

import numpy as np
import onnxruntime as ort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    for i in range(1, len(sys.argv), 2):
        inputs, model = sys.argv[i : i + 2]
        found: dict[str, Any] = outputs(model, np.load(inputs, allow_pickle=False))
        np.savez(model + ".npz", **found)
    runtime = f"onnxruntime {ort.__version__} CPU" + (" (x64quantprecision)" if x86_without_vnni() else "")
    print(json.dumps({"machine": platform.machine(), "features": features(), "runtime": runtime}))


def outputs(path: str, inputs: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Output name -> [n, ...]: every output of each input alone, for a graph may be fixed to batch 1."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if x86_without_vnni():  # 16-bit saturation would change int8 outputs there
        options.add_session_config_entry("session.x64quantprecision", "1")
    # A float bias beside quantized inputs stays float, as in the model that was trained.
    keep = {"disabled_optimizers": ["WeightBiasQuantization"]}
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], **keep)
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: inputs[i : i + 1]}) for i in range(len(inputs))]
    names = [output.name for output in session.get_outputs()]
    return {name: np.concatenate([each[i] for each in found]) for i, name in enumerate(names)}


def x86_without_vnni() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(features())


def features() -> list[str]:
    """The CPU's features as Linux names them; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])


if __name__ == "__main__":
    main()
