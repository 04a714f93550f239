"""to_onnx: a model as an ONNX file that takes camera bytes and gives logits or probabilities."""

from __future__ import annotations

import inspect
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnxscript import ir
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgekd.errors import ExportError
from edgekd.export import passes
from edgekd.export.opset import LOWEST, at_opset
from edgekd.export.translations import translations_read_once
from edgekd.inputs.image import Normalise
from edgekd.models.plain import is_plain, plain_copy
from edgekd.models.trace import quiet_torch, trace, user_line
from edgekd.target import Quantization

aten = torch.ops.aten

LEAST_OPSET, HIGHEST_OPSET = 13, 23
"""Q/DQ with one scale a channel exist from 13 on; 23 is the newest that every runtime of ours was seen to load."""
MESSAGE_LIMIT = 2**31 - 2**24
"""A protobuf message ends at 2 GB; some room for what is no weight."""
WRITTEN_AS_THEY_ARE = frozenset(
    {
        aten.conv2d.default, aten.linear.default, aten.relu.default, aten.hardtanh.default, aten.sigmoid.default,
        aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.mean.dim, aten.max_pool2d.default,
        aten.avg_pool2d.default, aten.cat.default, aten.flatten.using_ints, aten.reshape.default, aten.view.default,
        aten.permute.default, aten.softmax.int, aten._to_copy.default, aten.clone.default,
        aten._assert_tensor_metadata.default,  # left out of what is written
    }
)  # fmt: skip
"""Operators that the exporter translates without decomposing them first; so it does quantizers and dequantizers."""
HIGHEST_IR = 10
"""TensorRT 10.3 and onnxruntime since 1.18 read it."""


@dataclass(frozen=True)
class Preprocess:
    """It asks for a graph that takes a camera's bytes and normalises them itself (edgekd.inputs.image)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Deployed(nn.Module):
    """`model` with what comes before and after it on a device.

    Without `preprocess` float `[batch, C, H, W]`, with it uint8 `[batch, H, W, C]`, to logits or probabilities
    `[batch, classes]`; with further `heads` (outputs of each) to one such tensor a head, the classes' first. What else the
    model takes and gives stays as it is.
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess | None, output: str, heads: Sequence[int] = ()) -> None:
        super().__init__()
        self.heads = list(heads)
        self.model = model
        self.normalise = Normalise(preprocess.mean, preprocess.std) if preprocess is not None else None
        self.output = output

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        if self.normalise is not None:
            x = self.normalise(x).clone(memory_format=torch.contiguous_format)  # the model's own code may call `view`
        y = self.model(x, *others)
        if not self.heads:
            return y.softmax(1) if self.output == "probabilities" else y
        each = torch.split(y, [y.shape[1] - sum(self.heads), *self.heads], 1)
        return tuple(part.softmax(1) for part in each) if self.output == "probabilities" else each


def to_onnx(
    model: nn.Module | GraphModule,
    path: str | os.PathLike[str],
    example_input: Tensor | tuple[Tensor, ...],
    *,
    opset: int,
    preprocess: Preprocess | None = None,
    output: Literal["logits", "probabilities"] = "logits",
    heads: Mapping[str, int] | None = None,
    batch: int | None = None,
) -> None:
    """Writes `model`, in evaluation mode, to `path`; the same model gives the same bytes.

    `example_input` is float `[batch, C, H, W]`, or a tuple of tensors for a model of several inputs. The batch is
    dynamic, named `batch`, unless `batch` fixes it. The input is called `input`, the output as `output` says; of several
    inputs the names are those of the model's arguments, of several outputs `output_0`, `output_1`... Further `heads` (name:
    number of its classes, the last columns of what the model gives) are outputs of their own, by their names. With
    `preprocess` the (first) input is uint8 `[batch, H, W, C]`. A graph from `edgekd.quantize.convert` is written with a
    Q/DQ pair for each of its sites, its weights as int8. Above 2 GB the weights stand in a file beside it, `<name>.data`.

    Raises ExportError where the model cannot be traced or written at this opset, or would not be the one that was
    trained.
    """
    if not LEAST_OPSET <= opset <= HIGHEST_OPSET:
        raise ExportError(f"opset {opset} given; edgekd writes {LEAST_OPSET} to {HIGHEST_OPSET}")
    first, *others = (example_input,) if isinstance(example_input, Tensor) else example_input
    if preprocess is not None:
        _check_channels(preprocess, first.shape[1])
        first = torch.zeros_like(first.permute(0, 2, 3, 1), dtype=torch.uint8)
    quantized = _quantized_tensors(model) if isinstance(model, GraphModule) else []
    training = {module: module.training for module in model.modules()}
    try:
        for module in training:
            module.training = False  # not eval(): a traced graph refuses it
        # What a weight is computed with needs no translation, and ships no code: the weight does.
        plain = model if is_plain(model) else plain_copy(model)
        deployed = Deployed(plain, preprocess, output, tuple((heads or {}).values()))
        program = trace(deployed, (first, *others), name=type(model).__name__, batch=batch)
        inputs = list(inspect.signature(model.forward).parameters)[: len(others) + 1] if others else ["input"]
        exported = _export(program, max(opset, LOWEST), inputs, [output, *(heads or {})])
    finally:
        for module, was in training.items():
            module.training = was
    passes.simplify(exported)
    if isinstance(model, GraphModule):
        quantization = model.meta.get("quantization")
        passes.name_sites(exported, quantized, _stored_weights(model))
        if isinstance(quantization, Quantization):
            if quantization.int32_bias:
                passes.quantize_biases(exported)
            passes.pad_channels(exported, quantization.pad_channels_to)
        passes.part_integer_weights(exported)
    passes.clean(exported)
    written = at_opset(ir.to_proto(exported), opset)
    written.ir_version = min(HIGHEST_IR, onnx.helper.find_min_ir_version_for(list(written.opset_import)))
    _name_batch(written.graph)
    write(written, path)


def _check_channels(preprocess: Preprocess, channels: int) -> None:
    if not len(preprocess.mean) == len(preprocess.std) == channels:
        raise ExportError(
            f"preprocess has {len(preprocess.mean)} means and {len(preprocess.std)} standard deviations for images of "
            f"{channels} channels; give {channels} of each"
        )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def write(model: onnx.ModelProto, path: str | os.PathLike[str], *, limit: int = MESSAGE_LIMIT) -> None:
    """Checks a model and writes it beside `path`, then renames: a reader never sees half of it.

    Weights of more than `limit` bytes in all go to `<name>.data`, which is in place before the model that names it.
    """
    path = Path(path)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.draft-") as folder:
        draft, data = Path(folder) / path.name, Path(folder) / f"{path.name}.data"
        if size > limit:
            external = onnx.ModelProto()
            external.CopyFrom(model)
            onnx.save(external, draft, save_as_external_data=True, location=data.name)  # from 1 kB on: shapes stay
            data.chmod(draft.stat().st_mode)  # onnx makes it for its owner alone
        else:
            draft.write_bytes(model.SerializeToString(deterministic=True))
        try:
            onnx.checker.check_model(str(draft), full_check=True)  # by path: a message ends at 2 GB
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
        for file, place in ((data, path.with_name(data.name)), (draft, path)):
            if file.exists():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                os.replace(file, place)


def _export(program: ExportedProgram, opset: int, inputs: list[str], outputs: list[str]) -> ir.Model:
    count = len(program.graph_signature.user_outputs)
    for node in program.graph.nodes:
        # The decomposition of a global pool reads the memory's strides; a mean is the same and exports as one node.
        if node.target is aten.adaptive_avg_pool2d.default and tuple(node.args[1]) == (1, 1):
            node.target, node.args = aten.mean.dim, (node.args[0], [-2, -1], True)
        elif node.target is aten.scaled_dot_product_attention.default and node.args[0].meta["val"].dim() == 3:
            _add_head(program.graph, node)
        # And of the two names of a cast the exporter itself translates one.
        elif node.target is aten.to.dtype and len(node.args) == 2 and not node.kwargs:
            node.target, node.args, node.kwargs = aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    if all(of in WRITTEN_AS_THEY_ARE or getattr(of, "namespace", "") == "quantized_decomposed" for of in operators):
        # The exporter decomposes whatever it is given, which traces the whole graph once more: half of the time that it takes.
        program.run_decompositions = lambda decomp_table=None: program
    try:
        with quiet_torch(), translations_read_once():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                optimize=True,
                input_names=inputs,
                output_names=outputs if count == len(outputs) else [f"output_{index}" for index in range(count)],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        text = _chain(error)
        operator = re.search(r"op='([^']+)'", text)
        named = f" operator {operator[1]}" if operator else f": {_first_line(error)}"
        raise ExportError(f"ONNX has no translation for{named}{user_line(text)}; replace it in the model") from error
    assert exported is not None
    model: ir.Model = exported.model
    return model


def _add_head(graph: Graph, attention: Node) -> None:
    """Attention of `[batch, tokens, width]` as one head: the exporter translates four dimensions alone."""
    heads: list[Any] = []
    with graph.inserting_before(attention):
        for x in attention.args[:4]:
            if not isinstance(x, Node) or x.meta["val"].dim() != 3:  # no mask, or one for all samples
                heads.append(x)
                continue
            head = graph.call_function(aten.unsqueeze.default, (x, 1))
            head.meta = {**x.meta, "val": x.meta["val"].unsqueeze(1)}
            heads.append(head)
    value = attention.meta["val"]
    with graph.inserting_after(attention):
        back = graph.call_function(aten.squeeze.dim, (attention, 1))
    attention.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
    back.meta = {**attention.meta, "val": value}
    attention.args = (*heads, *attention.args[4:])
    attention.meta["val"] = value.unsqueeze(1)


def _chain(error: BaseException | None) -> str:
    """The texts of an error and of what caused it."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return "\n".join(texts)


def _first_line(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)


def _name_batch(graph: onnx.GraphProto) -> None:
    """Calls the dynamic dimension `batch` and drops the inner shapes, which hold torch's own symbols for it."""
    shape = graph.input[0].type.tensor_type.shape.dim
    symbol = shape[0].dim_param if shape else ""
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = "batch"
    del graph.value_info[:]


def _stored_weights(model: GraphModule) -> list[tuple[str, np.ndarray]]:
    """The weights that a converted graph stores as integers, each with its scales."""
    quantized = torch.ops.quantized_decomposed
    found = []
    for node in model.graph.nodes:
        if node.target is quantized.dequantize_per_channel.default and node.args[0].op == "get_attr":
            scale = attrgetter(str(node.args[1].target))(model).detach().float().numpy()
        elif node.target is quantized.dequantize_per_tensor.default and node.args[0].op == "get_attr":
            scale = np.asarray(node.args[1], np.float32)
        else:
            continue
        found.append((str(node.args[0].target).removesuffix("_quantized"), scale))
    return found


def _quantized_tensors(model: GraphModule) -> list[passes.QuantizedTensor]:
    """The activations that a converted graph quantizes, in order."""
    found = []
    for node in model.graph.nodes:
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            source, scale, zero_point = node.args[:3]
            assert isinstance(source, Node)
            found.append(passes.QuantizedTensor(source.name, scale, zero_point))
        elif node.op == "call_module" and "activation_post_process" in str(node.target):
            raise ExportError("the graph still has observers; call edgekd.quantize.convert before the export")
    return found
