"""compare: compares a model on a device with this host: outputs, classes, and the first tensors that differ.

An emulated CPU gives the same figures as the real CPU, because the same kernels run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekd.base.arrays import write_arrays
from edgekd.base.json_text import parse_json
from edgekd.errors import DeviceError, ModelError
from edgekd.measure.at_work import Workplace
from edgekd.measure.devices import Device
from edgekd.runtime.check import precision_of
from edgekd.runtime.runners import Inputs, OnnxRunner, samples_of
from edgekd.scripts import SCRIPTS
from edgekd.scripts.run import rows_of

Array = NDArray[Any]

# A node is named if machines differ by more than this share of a tensor's largest magnitude. Half precision has 11 bits,
# float32 may be summed in another order, and integers must be equal.
BOUNDS = {"int8": 0.0, "fp16": 1e-2, "fp32": 1e-4}
SECONDS = 600  # longest wait for the device's answer
NODE_SAMPLES = 4  # intermediate tensors are large, and a node that differs does so on the first samples
NUMERIC = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8,
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The difference of a tensor between the machines.

    `largest` is the largest magnitude here; `elements` of `of` values differ at all.
    """

    name: str
    operator: str
    difference: float
    largest: float
    elements: int
    of: int

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest magnitude."""
        return self.difference / self.largest if self.largest else float(self.difference > 0)

    @property
    def bit_equal(self) -> bool:
        return self.elements == 0


@dataclass(frozen=True)
class Numerics:
    """The comparison of host and device on the same inputs.

    `nodes` are those beyond `bound`, in the graph's order, of `nodes_compared`. tapped_alike: whether the graph computes
    the same (within `bound`) with its intermediate tensors as outputs, on both machines. If not, onnxruntime fuses less in
    that graph, and the nodes' differences belong to that other arithmetic. on_device, expected: the outputs `[n, classes]`
    there and here. further: the outputs of further heads there, by name.
    """

    device: str
    machine: str
    features: tuple[str, ...]
    runtime: str
    host_runtime: str
    precision: str
    outputs: Difference
    n: int
    same_top1: float
    bound: float
    nodes: tuple[Difference, ...]
    nodes_compared: int
    tapped_alike: bool
    on_device: Array
    expected: Array
    further: Mapping[str, Array]


def compare(device: Device, model: Path, inputs: Inputs, *, bound: float | None = None, nodes: bool = True) -> Numerics:
    """Runs `model` (classes out) here and on the device on `inputs`, `[n, ...]` of each as the graph takes them.

    bound: the share of a tensor's largest magnitude beyond which a node is named (default: `BOUNDS` of the precision);
    nodes: whether intermediate tensors are compared, on the first four samples. Raises DeviceError if the device cannot run
    the model, ModelError if onnxruntime here cannot.
    """
    graph = onnx.load(model)
    precision = precision_of(graph)
    if precision not in BOUNDS:
        raise ModelError(
            f"{model} is {precision}, which onnxruntime computes on no processor; it runs in TensorRT alone"
        )
    bound = BOUNDS[precision] if bound is None else bound
    runner = OnnxRunner(model)
    name = runner.outputs[0]
    few = rows_of(inputs, slice(NODE_SAMPLES))
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        tapped = Path(folder) / "tapped.onnx"
        taps = tap(graph, tapped) if nodes else {}
        device_outputs, about = outputs_on(device, {model: inputs, **({tapped: few} if taps else {})})
        host_outputs = {model: _here(runner, inputs), **({tapped: _here(OnnxRunner(tapped), few)} if taps else {})}
        differences = [
            difference(node, op, host_outputs[tapped][node], device_outputs[tapped][node]) for node, op in taps.items()
        ]
        tapping = [
            difference(name, "output", each[model][name][:NODE_SAMPLES], each[tapped][name])
            for each in (host_outputs, device_outputs)
            if taps
        ]
    expected, on_device = host_outputs[model][name], device_outputs[model][name]
    return Numerics(
        device=device.name, machine=str(about["machine"]), features=tuple(map(str, about["features"])),
        runtime=str(about["runtime"]), host_runtime=runner.name, precision=precision,
        outputs=difference(name, "output", expected, on_device), n=samples_of(inputs),
        same_top1=float((expected.argmax(1) == on_device.argmax(1)).mean()), bound=bound,
        nodes=tuple(item for item in differences if item.share > bound), nodes_compared=len(differences),
        tapped_alike=all(item.share <= bound for item in tapping), on_device=on_device, expected=expected,
        further={further: device_outputs[model][further] for further in runner.outputs[1:]},
    )  # fmt: skip


def outputs_on(device: Device, runs: Mapping[Path, Inputs]) -> tuple[dict[Path, dict[str, Array]], dict[str, Any]]:
    """The outputs that the device computes for each model, `[n, ...]` by name, and the device's description.

    runs: model -> its inputs, `[n, ...]` each; the files' names must differ. Raises DeviceError.
    """
    with Workplace(device) as workplace, tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        arrays = Path(folder) / "arrays"
        words = [workplace.script("device_outputs.py", SCRIPTS / "run.py")]
        for model, inputs in runs.items():
            write_arrays(arrays, inputs)
            words += [workplace.put(arrays, f"{model.name}.inputs.npz"), workplace.put(model)]
        out = workplace.python(words, timeout_s=SECONDS)
        outputs: dict[Path, dict[str, Array]] = {}
        try:
            about = parse_json(out.decode().strip().splitlines()[-1])
            description = {
                "machine": about["machine"],
                "runtime": about["runtime"],
                "features": list(about["features"]),
            }
            for model in runs:
                arrays.write_bytes(workplace.get(f"{model.name}.npz"))
                with np.load(arrays, allow_pickle=False) as stored:
                    outputs[model] = {name: stored[name] for name in stored.files}
        except (ValueError, LookupError, TypeError, EOFError, BadZipFile) as error:
            raise DeviceError(f"{device.name}: the outputs that it gave make no sense: {error!r}") from error
    return outputs, description


def tap(model: onnx.ModelProto, to: Path) -> dict[str, str]:
    """Writes `model` with its intermediate tensors as further outputs. Returns their names and operators, in the graph's
    order.

    Of a quantized graph only the integer tensors are tapped. A float between Q and DQ exists on no machine. As an output it
    would keep the runtime from running the node in int8.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    known = {value.name: value for value in inferred.graph.value_info}
    quantized = precision_of(model) == "int8"
    outputs = {value.name for value in model.graph.output}
    constant = {tensor.name for tensor in model.graph.initializer}
    taps = {
        node.output[0]: node.op_type
        for node in model.graph.node
        if (node.op_type == "QuantizeLinear" and node.input[0] not in constant if quantized else True)
        and node.output[0] in known
        and node.output[0] not in outputs
        and known[node.output[0]].type.tensor_type.elem_type in NUMERIC
    }
    inferred.graph.output.extend(known[name] for name in taps)
    onnx.save(inferred, to)
    return taps


def difference(name: str, operator: str, expected: Array, on_device: Array) -> Difference:
    """The difference of two tensors. Raises ModelError for different shapes, which mean different graphs."""
    if expected.shape != on_device.shape:
        raise ModelError(f"{name} has shape {list(on_device.shape)} on the device, {list(expected.shape)} here")
    a, b = expected.astype(np.float64), on_device.astype(np.float64)
    apart = np.abs(a - b)
    return Difference(
        name=name, operator=operator, difference=float(apart.max(initial=0.0)), largest=float(np.abs(a).max(initial=0.0)),
        elements=int(np.count_nonzero(expected != on_device)), of=expected.size,
    )  # fmt: skip


def _here(runner: OnnxRunner, inputs: Inputs) -> dict[str, Array]:
    """All outputs of the samples, run one at a time as in `device_outputs.py`."""
    found = [runner.run_all(rows_of(inputs, slice(i, i + 1))) for i in range(samples_of(inputs))]
    return {name: np.concatenate([each[i] for each in found]) for i, name in enumerate(runner.outputs)}
