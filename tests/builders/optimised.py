"""What onnxruntime makes of a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime


def optimised(path: Path, **config: str) -> Counter[str]:
    """The operators that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    options.log_severity_level = 3  # it warns that such a file runs on this machine only
    for key, value in config.items():
        options.add_session_config_entry(f"session.{key}", value)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path.with_suffix(".optimised")).graph.node)
