#!/usr/bin/env python3
"""Runs on a device: computes with onnxruntime the outputs for given inputs, a sample at a time.

    python3 device_outputs.py inputs.npz model.onnx ...     pairs; writes model.onnx.npz beside each model, all of its outputs

`inputs.npz` holds an array of samples by the name of each input. Prints a line of JSON: machine, features and runtime.
Needs Python 3.8+, numpy, onnxruntime, and run.py and device_task.py beside it.
"""

from __future__ import annotations

import json
import platform
import sys

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from edgekd.scripts.device_task import end_with_connection
    from edgekd.scripts.run import OnnxModel, rows_of
else:
    from device_task import end_with_connection
    from run import OnnxModel, rows_of


def main() -> None:
    end_with_connection()
    name = ""
    for i in range(1, len(sys.argv), 2):
        inputs, path = sys.argv[i : i + 2]
        model = OnnxModel(path, 1)
        name = name or model.name
        with np.load(inputs, allow_pickle=False) as stored:
            found: dict[str, Any] = outputs(model, {name: stored[name] for name in stored.files})
        np.savez(path + ".npz", **found)
    print(json.dumps({"machine": platform.machine(), "features": features(), "runtime": name}))


def outputs(model: OnnxModel, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Output name -> `[n, ...]`: every output, computed for each sample alone, because a graph may be fixed to batch 1."""
    count = len(next(iter(inputs.values())))
    found = [model(rows_of(inputs, slice(i, i + 1))) for i in range(count)]
    return {name: np.concatenate([each[i] for each in found]) for i, name in enumerate(model.outputs)}


def features() -> list[str]:
    """The CPU's features as Linux names them. Empty on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])


if __name__ == "__main__":
    main()
