"""as_on_a_gpu: rewrites a bf16 graph for onnxruntime's CPU kernels, which have no bf16."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

ROUNDED = "bf16 by rounding fp32"
FOLDER = "session.model_external_initializers_file_folder_path"


def as_on_a_gpu(path: Path | str) -> bytes | None:
    """The model with all operators in fp32 between casts to bfloat16, or None for a file without bfloat16 weights.

    A GPU's units compute the same: products of bfloat16, summed in fp32, with a rounded result. An engine that fuses
    operators rounds less often. Weights beside the file stay there, so a session of these bytes needs the entry `FOLDER`.
    """
    model = onnx.load(path, load_external_data=False)
    if not any(tensor.data_type == TensorProto.BFLOAT16 for tensor in model.graph.initializer):
        return None
    inferred = onnx.shape_inference.infer_shapes(model).graph
    short = {tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.BFLOAT16}
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    short |= {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    nodes: list[onnx.NodeProto] = []
    widened: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("Cast", "Constant"):  # onnxruntime has these two in bf16
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            if name not in short:
                continue
            if name not in widened:
                widened.add(name)
                nodes.append(helper.make_node("Cast", [name], [f"{name}/wide"], to=TensorProto.FLOAT))
            node.input[index] = f"{name}/wide"
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in short:
                node.output[index] = f"{name}/sum"
                nodes.append(helper.make_node("Cast", [f"{name}/sum"], [name], to=TensorProto.BFLOAT16))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())
