"""to_onnx: writes a model as an ONNX file that takes the device's data, such as camera bytes.

The file returns logits or probabilities.
"""

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
from edgekd.export.filters import pad_filters
from edgekd.export.normalisation import normalise_last
from edgekd.export.opset import LOWEST, at_opset
from edgekd.export.translations import translations_read_once
from edgekd.inputs.normalise import Normalise
from edgekd.models.plain import is_plain, plain_copy
from edgekd.models.trace import Batch, Free, as_tuple, quiet_torch, trace, user_line
from edgekd.target import Quantization

aten = torch.ops.aten

LEAST_OPSET, HIGHEST_OPSET = 13, 23
"""Q/DQ with a scale for each channel exist from 13 on. 23 is the newest opset that all our runtimes load."""
MESSAGE_LIMIT = 2**31 - 2**24
"""The 2 GB limit of a protobuf message, less some room for data other than weights."""
WRITTEN_AS_THEY_ARE = frozenset(
    {
        aten.conv2d.default, aten.linear.default, aten.relu.default, aten.hardtanh.default, aten.sigmoid.default,
        aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.mean.dim, aten.max_pool2d.default,
        aten.avg_pool2d.default, aten.cat.default, aten.flatten.using_ints, aten.reshape.default, aten.view.default,
        aten.permute.default, aten.softmax.int, aten._to_copy.default, aten.clone.default,
        aten._assert_tensor_metadata.default,  # the exporter drops it
    }
)  # fmt: skip
"""Operators that the exporter translates without decomposing them first; quantizers and dequantizers are others."""
HIGHEST_IR = 10
"""TensorRT 10.3 and onnxruntime since 1.18 read this IR version."""


@dataclass(frozen=True)
class Preprocess:
    """The request for a graph that takes a camera's bytes and normalises them itself (edgekd.inputs.image)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Camera(nn.Module):
    """The module for `Preprocess`: it normalises the first input's bytes and passes the other inputs through.

    The first input is mapped from uint8 `[batch, H, W, C]` to float `[batch, C, H, W]`.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalise = Normalise(preprocess.mean, preprocess.std)

    def forward(self, image: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        return (self.normalise(image), *others)


class Deployed(nn.Module):
    """`model` with its preprocessing and its output layer on a device.

    `preprocess` maps the device's data to the model's arguments, a tensor or a tuple of them. Without it the device
    provides the arguments. The answer is logits or probabilities `[batch, classes]`. With further `heads` (outputs of each)
    each head has such a tensor, the classes' first; a tuple with a tensor for each stays unchanged. So do other answers.
    """

    def __init__(self, model: nn.Module, preprocess: nn.Module | None, output: str, heads: Sequence[int] = ()) -> None:
        super().__init__()
        self.heads = list(heads)
        self.model = model
        self.preprocess = preprocess
        self.output = output

    def forward(self, *raw: Tensor) -> Any:
        arguments = raw if self.preprocess is None else as_tuple(self.preprocess(*raw))
        # In order of memory: the model's own code may call `view`.
        y = self.model(*(x.clone(memory_format=torch.contiguous_format) if x.dim() == 4 else x for x in arguments))
        if self.heads and isinstance(y, tuple) and self.output == "logits":
            if len(y) != 1 + len(self.heads):
                raise ExportError(
                    f"{type(self.model).__name__} gives {len(y)} tensors; heads names {len(self.heads)} beside the first"
                )
            return y
        if (self.heads or self.output == "probabilities") and (not isinstance(y, Tensor) or y.dim() != 2):
            # With more axes the classes may lie on the second (maps) or on the last (tokens).
            gives = f"a tensor of {y.dim()} axes" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise ExportError(
                f"{type(self.model).__name__} gives {gives}; probabilities and heads are of [batch, classes] alone: write logits"
            )
        if not self.heads:
            return y.softmax(1) if self.output == "probabilities" else y
        each = torch.split(y, [y.shape[1] - sum(self.heads), *self.heads], 1)
        return tuple(part.softmax(1) for part in each) if self.output == "probabilities" else each


def to_onnx(
    model: nn.Module | GraphModule,
    path: str | os.PathLike[str],
    example_input: Batch,
    *,
    opset: int,
    preprocess: Preprocess | nn.Module | None = None,
    output: Literal["logits", "probabilities"] = "logits",
    heads: Mapping[str, int] | None = None,
    batch: int | None = None,
    inputs: Sequence[str] = (),
    free: Free = (),
) -> None:
    """Writes `model`, in evaluation mode, to `path`. The same model gives the same bytes.

    example_input   the model's argument, `[batch, ...]`, or the tuple of its arguments; with a `preprocess` module, that module's
    preprocess      a module that maps the file's inputs to the model's arguments. Or `Preprocess`: the file's first input
                    is then uint8 `[batch, H, W, C]`, while `example_input` is float `[batch, C, H, W]`, as the model takes it
    heads           further outputs (name: number of its classes), the last columns of the model's output; or the model gives
                    a tuple with a tensor for each
    batch           the only batch size that the file takes; without it the batch is dynamic, and named `batch`
    inputs          names of the file's inputs, in their order; without them a single one is `input`, and several have the names
                    of the arguments
    free            further free sizes: a mapping from axis to `FreeSize` for each input of the file

    A single output is called as `output`
    says; several are `output_0`, `output_1`... A free axis has its size's name, in inputs and outputs. A graph from
    `edgekd.quantize.convert` is written with a Q/DQ pair for each of its sites and with int8 weights. Above 2 GB the
    weights are stored beside the file, in `<name>.data`.

    Raises ExportError if the model cannot be traced or written at this opset, or fixes a free size. Raises it also if the
    written model would differ from the trained one.
    """
    if not LEAST_OPSET <= opset <= HIGHEST_OPSET:
        raise ExportError(f"opset {opset} given; edgekd writes {LEAST_OPSET} to {HIGHEST_OPSET}")
    file_inputs, before = _as_the_file_takes(as_tuple(example_input), preprocess)
    quantized = _quantized_tensors(model) if isinstance(model, GraphModule) else []
    training = {module: module.training for part in (model, before) if part is not None for module in part.modules()}
    try:
        for module in training:
            module.training = False  # not eval(): a traced graph refuses it
        # Code that only computes a weight is not exported, because the weight itself ships.
        plain = model if is_plain(model) else plain_copy(model)
        deployed = Deployed(plain, before, output, tuple((heads or {}).values()))
        program = trace(deployed, file_inputs, name=type(model).__name__, batch=batch, free=free)
        names = list(inputs or _names(preprocess if isinstance(preprocess, nn.Module) else model, len(file_inputs)))
        exported = _export(program, max(opset, LOWEST), names, [output, *(heads or {})])
    finally:
        for module, was in training.items():
            module.training = was
    passes.simplify(exported)
    if isinstance(model, GraphModule):
        _write_sites(exported, model, quantized)
    passes.clean(exported, name_preprocessing=before is not None and any(x.is_floating_point() for x in file_inputs))
    written = at_opset(ir.to_proto(exported), opset)
    written.ir_version = min(HIGHEST_IR, onnx.helper.find_min_ir_version_for(list(written.opset_import)))
    _name_sizes(written.graph, free)
    write(written, path)


def _write_sites(exported: ir.Model, model: GraphModule, quantized: list[passes.QuantizedTensor]) -> None:
    """The Q/DQ pairs of a converted graph, by its names and as its target's scheme asks."""
    quantization = model.meta.get("quantization")
    passes.name_sites(exported, quantized, _stored_weights(model))
    if isinstance(quantization, Quantization):
        if quantization.int32_bias:
            passes.quantize_biases(exported)
        pad_filters(exported, quantization.pad_filters_to)
        passes.pad_channels(exported, quantization.pad_channels_to)
        if quantization.pad_channels_to > 1:
            normalise_last(exported)
    passes.part_integer_weights(exported)


def _as_the_file_takes(
    example_inputs: tuple[Tensor, ...], preprocess: Preprocess | nn.Module | None
) -> tuple[tuple[Tensor, ...], nn.Module | None]:
    """Examples of the file's inputs, and the module that maps the inputs to the model's arguments."""
    if not isinstance(preprocess, Preprocess):
        return example_inputs, preprocess
    first, *others = example_inputs
    _check_channels(preprocess, first.shape[1])
    return (torch.zeros_like(first.permute(0, 2, 3, 1), dtype=torch.uint8), *others), Camera(preprocess)


def _names(module: nn.Module, count: int) -> list[str]:
    """The names of a file's inputs: `input` for a single one, otherwise those of the module's arguments."""
    if count == 1:
        return ["input"]
    names: list[str] = []
    for name, parameter in inspect.signature(module.forward).parameters.items():
        left = count - len(names)
        several = parameter.kind is parameter.VAR_POSITIONAL and left > 1
        names += [f"{name}_{index}" for index in range(left)] if several else [name]
    return names[:count]


def _check_channels(preprocess: Preprocess, channels: int) -> None:
    if not len(preprocess.mean) == len(preprocess.std) == channels:
        raise ExportError(
            f"preprocess has {len(preprocess.mean)} means and {len(preprocess.std)} standard deviations for images of "
            f"{channels} channels; give {channels} of each"
        )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators in a model."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def write(model: onnx.ModelProto, path: str | os.PathLike[str], *, limit: int = MESSAGE_LIMIT) -> None:
    """Checks a model and writes it beside `path`, then renames it, so that a reader never sees half a file.

    If the weights exceed `limit` bytes, they go to `<name>.data`, which is in place before the model that names it. Raises
    ExportError for an invalid graph.
    """
    path = Path(path)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.draft-") as folder:
        draft, data = Path(folder) / path.name, Path(folder) / f"{path.name}.data"
        if size > limit:
            external = onnx.ModelProto()
            external.CopyFrom(model)
            # Only tensors from 1 kB on leave the file, so small ones such as shapes stay inside.
            onnx.save(external, draft, save_as_external_data=True, location=data.name)
            data.chmod(draft.stat().st_mode)  # onnx gives it to its owner only
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
        # The decomposition of a global pool reads the memory's strides. An equal mean exports as a single node.
        if node.target is aten.adaptive_avg_pool2d.default and tuple(node.args[1]) == (1, 1):
            node.target, node.args = aten.mean.dim, (node.args[0], [-2, -1], True)
        elif node.target is aten.scaled_dot_product_attention.default and node.args[0].meta["val"].dim() == 3:
            _add_head(program.graph, node)
        # The exporter translates only one of the two names of a cast.
        elif node.target is aten.to.dtype and len(node.args) == 2 and not node.kwargs:
            node.target, node.args, node.kwargs = aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    if all(of in WRITTEN_AS_THEY_ARE or getattr(of, "namespace", "") == "quantized_decomposed" for of in operators):
        # The exporter always decomposes, which traces the whole graph again and takes half of its time.
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
    """Gives attention of `[batch, tokens, width]` a head axis: the exporter translates four dimensions only."""
    heads: list[Any] = []
    with graph.inserting_before(attention):
        for x in attention.args[:4]:
            if not isinstance(x, Node) or x.meta["val"].dim() != 3:  # no mask, or a mask for all samples
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
    """The texts of an error and of its causes."""
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


def _name_sizes(graph: onnx.GraphProto, free: Free) -> None:
    """Names dynamic dimensions `batch` and as in `free`, and drops the inner shapes, which hold torch's own symbols.

    A computed size, such as half of a length, is written with these names.
    """
    names: dict[str, str] = {}
    for value, axes in zip(graph.input, free or ({},) * len(graph.input), strict=True):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and (axis == 0 or axis in axes):
                names[dim.dim_param] = axes[axis].name if axis else "batch"
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), dim.dim_param)
    del graph.value_info[:]


def _stored_weights(model: GraphModule) -> list[tuple[str, np.ndarray]]:
    """The names of the weights that a converted graph stores as integers, each with its scales."""
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
    """The activations that a converted graph quantizes, in order. Raises ExportError if the graph was not converted."""
    found = []
    for node in model.graph.nodes:
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            source, scale, zero_point = node.args[:3]
            assert isinstance(source, Node)
            found.append(passes.QuantizedTensor(source.name, scale, zero_point))
        elif node.op == "call_module" and "activation_post_process" in str(node.target):
            raise ExportError("the graph still has observers; call edgekd.quantize.convert before the export")
    return found
