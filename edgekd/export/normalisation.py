"""normalise_last: computes an image's normalisation with the channels last, where integer convolutions read it."""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekd.export.passes import preprocessing


def normalise_last(model: ir.Model) -> None:
    """Normalises images by a product with a diagonal matrix before the transposition; the results stay the same, bit for bit.

    onnxruntime moves the transposition behind the normalisation if integer convolutions follow. There a constant for each
    channel restarts its loop at every pixel, and so does a Pad of channels, whose zeros the matrix gives as well. All
    summands of a product but one are zeros.
    """
    for transpose in preprocessing(model):
        multiply = _only_reader(transpose, "Mul")
        add = _only_reader(multiply, "Add")
        quantize = _only_reader(add, "QuantizeLinear")
        if multiply is None or add is None or quantize is None or not _is_channels_first(transpose):
            continue
        image, scale, shift = transpose.inputs[0], multiply.inputs[1], add.inputs[1]
        assert image is not None and scale is not None and shift is not None
        scales, shifts = (
            each.const_value.numpy() if each.const_value is not None else np.zeros(0) for each in (scale, shift)
        )
        shared = any(len(each.uses()) > 1 for each in (scale, shift))
        if (
            shared
            or image.shape is None
            or scales.shape != shifts.shape
            or scales.shape[1:] != (1, 1)
            or len(scales) == 1
        ):
            continue
        width, pad = image.shape[2], _only_reader(quantize, "Pad")
        wide = len(scales) + (_added(pad) if pad is not None else 0)
        matrix = np.eye(len(scales), wide, dtype=np.float32) * scales[:, :, 0]
        row = np.zeros((width if isinstance(width, int) else 1, wide), np.float32)
        row[:, : len(scales)] = shifts[:, 0, 0]

        multiply.op_type = "MatMul"
        multiply.replace_input_with(0, image)
        _store(scale, matrix)
        _store(shift, row)
        after = ir.node("Transpose", [add.outputs[0]], {"perm": transpose.attributes.get_ints("perm")})
        after.outputs[0].name, after.outputs[0].dtype = f"{add.outputs[0].name}_planes", ir.DataType.FLOAT
        after.metadata_props.update(transpose.metadata_props)
        model.graph.insert_after(add, after)
        quantize.replace_input_with(0, after.outputs[0])
        model.graph.remove(transpose, safe=True)
        if pad is not None:
            pad.outputs[0].replace_all_uses_with(quantize.outputs[0])
            model.graph.remove(pad, safe=True)
        for node in (multiply, add, quantize):
            node.outputs[0].shape = None


def _only_reader(node: ir.Node | None, operator: str) -> ir.Node | None:
    """The node that alone reads a node's output, if it is of this operator."""
    uses = tuple(node.outputs[0].uses()) if node is not None and not node.outputs[0].is_graph_output() else ()
    reader = uses[0].node if len(uses) == 1 else None
    return reader if reader is not None and reader.op_type == operator else None


def _is_channels_first(transpose: ir.Node) -> bool:
    return transpose.op_type == "Transpose" and [*transpose.attributes.get_ints("perm", ())] == [0, 3, 1, 2]


def _added(pad: ir.Node) -> int:
    """The channels that `edgekd.export.passes.pad_channels` adds behind the others."""
    ends = pad.inputs[1]
    assert ends is not None and ends.const_value is not None
    return int(ends.const_value.numpy()[4 + 1])


def _store(constant: ir.Value, array: np.ndarray) -> None:
    constant.const_value, constant.shape = ir.tensor(array, name=constant.name), ir.Shape(array.shape)
