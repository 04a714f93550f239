#!/usr/bin/env python3
"""Builds the TensorRT engine of this bundle, on the device that will run it.

    python3 build_engine.py                     model.onnx -> model.plan, batch 1
    python3 build_engine.py --max-batch 16      an engine for batches of 1 to 16
    python3 run.py --engine model.plan cat.png

An engine runs only on the GPU architecture and the TensorRT release that built it: copy the bundle, not the engine.
Works with TensorRT 8.5 to 11 and needs Python 3.8+. Afterwards the type of every convolution and matrix product is
compared with what the graph asks for; one that runs in a wider type is an error that names it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
BITS = {"int8": 8, "fp16": 16, "fp32": 32}
FULLY_STRONG = (10, 12)  # before it strong typing refuses some graphs: then the weakly typed network is built instead


class Failure(Exception):
    """What went wrong and what to do; printed without a traceback."""


def import_tensorrt() -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        raise Failure(
            "tensorrt's Python package is not installed; JetPack has it as python3-libnvinfer. "
            "Without it, build with trtexec: the command stands in README.txt"
        ) from None


def release(trt: Any) -> tuple[int, int]:
    """(major, minor) of the TensorRT that is installed."""
    major, minor = trt.__version__.split(".")[:2]
    return int(major), int(minor)


def typings(trt: Any, asked: str) -> list[str]:
    """How to type the network, in the order to be tried."""
    version = release(trt)
    if version[0] >= 11:
        if asked == "weak":
            raise Failure(f"TensorRT {trt.__version__} has no weakly typed networks; leave --typing out")
        return ["strong"]
    if version[0] < 10:
        if asked == "strong":
            raise Failure(f"TensorRT {trt.__version__} has no strongly typed networks; leave --typing out")
        return ["weak"]
    if asked != "auto":
        return [asked]
    return ["strong"] if version >= FULLY_STRONG else ["strong", "weak"]


def network_flags(trt: Any, typing: str) -> int:
    """The members' values differ between releases, so they are read, never written down."""
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if typing == "strong" and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def parse_network(trt: Any, logger: Any, builder: Any, path: str, typing: str) -> tuple[Any, Any]:
    """(network, parser); the network's weights lie in the parser's memory, so keep it alive."""
    network = builder.create_network(network_flags(trt, typing))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        errors = [describe(parser.get_error(i)) for i in range(parser.num_errors)]
        raise Failure("TensorRT cannot read {}:\n  {}".format(path, "\n  ".join(errors)))
    return network, parser


def describe(error: Any) -> str:
    """A parser error with its node, by name where the release knows it."""
    node = f"node {error.node()}"
    if hasattr(error, "node_name") and hasattr(error, "node_operator"):
        node += f" {error.node_name()} ({error.node_operator()})"
    return f"{node}: {error.desc()}"


def configure(trt: Any, builder: Any, network: Any, typing: str, given: argparse.Namespace) -> tuple[Any, list[int]]:
    """(builder configuration, shape of the input that the engine is tuned for)."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, given.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if typing == "weak":
        allow_types(trt, config, given.precision)
    return config, add_profile(builder, network, config, given.max_batch)


def allow_types(trt: Any, config: Any, precision: str) -> None:
    """The types that a weakly typed network may use; its Q/DQ nodes still say where int8 is used."""
    if precision in ("fp16", "int8") and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8" and hasattr(trt.BuilderFlag, "INT8"):
        config.set_flag(trt.BuilderFlag.INT8)


def add_profile(builder: Any, network: Any, config: Any, max_batch: int) -> list[int]:
    """A range of batch sizes where the graph leaves them free; returns the largest input shape."""
    tensor = network.get_input(0)
    shape = list(tensor.shape)
    free = [i for i, size in enumerate(shape) if size < 0]
    if not free:
        if max_batch not in (1, shape[0]):
            raise Failure(f"the graph's batch size is fixed to {shape[0]}; --max-batch {max_batch} cannot be had")
        return shape
    if free != [0]:
        raise Failure(f"input {tensor.name} is {shape}; only its first dimension may be free")
    profile = builder.create_optimization_profile()
    smallest, largest = [1, *shape[1:]], [max_batch, *shape[1:]]
    profile.set_shape(tensor.name, tuple(smallest), tuple(largest), tuple(largest))
    config.add_optimization_profile(profile)
    return largest


def load_timing_cache(config: Any, path: str) -> None:
    """A later build with the same cache tries no kernel twice; one of another device or release is not taken."""
    content = b""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            content = file.read()
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        print(f"note: {path} was made by another device or release; starting an empty one")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, path: str) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        write(path, cache.serialize())


def write(path: str, content: Any) -> None:
    """Written beside and renamed, so that no half of a file is left behind."""
    with open(path + ".draft", "wb") as file:
        file.write(memoryview(content))
    os.replace(path + ".draft", path)


# -------------------------------------------------------------------------------------- what was asked, what was built


def requested_types(trt: Any, network: Any, typing: str, precision: str) -> dict[str, str]:
    """Layer name -> int8, fp16 or fp32 of every convolution and matrix product of the parsed network.

    int8 where the input comes out of a DequantizeLinear; else the tensor's own type in a strongly typed network, and
    fp16 in a weakly typed one that was allowed to use it.
    """
    heavy = [trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY]
    if hasattr(trt.LayerType, "FULLY_CONNECTED"):  # release 8 makes one of a Gemm
        heavy.append(trt.LayerType.FULLY_CONNECTED)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dequantized = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    asked = {}
    for layer in layers:
        if layer.type not in heavy:
            continue
        tensor = layer.get_input(0)
        if tensor.name in dequantized:
            asked[layer.name] = "int8"
        elif typing == "weak" and precision != "fp32":
            asked[layer.name] = "fp16"
        else:
            asked[layer.name] = "fp16" if tensor.dtype == trt.DataType.HALF else "fp32"
    return asked


def inspect_engine(trt: Any, engine: Any, shape: list[int]) -> list[dict[str, Any]]:
    """The engine's layers as its inspector describes them; types of free shapes are known only for a given input."""
    context = engine.create_execution_context()
    context.set_input_shape(engine.get_tensor_name(0), tuple(shape))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    information = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    layers = information.get("Layers", [])
    return [layer for layer in layers if isinstance(layer, dict)]


def built_type(layer: dict[str, Any]) -> str:
    """int8, fp16 or fp32 of a layer's first input; empty where the inspector does not say."""
    inputs = layer.get("Inputs") or [{}]
    text = inputs[0].get("Format/Datatype", "") if isinstance(inputs[0], dict) else ""
    words = text.lower().replace(".", " ").split()
    for name, spellings in (("int8", ("int8",)), ("fp16", ("half", "fp16")), ("fp32", ("float", "fp32"))):
        if any(word in spellings for word in words):
            return name
    return ""


def source_layers(layer: dict[str, Any]) -> set[str]:
    """Names of the network's layers that were fused into one of the engine's, from its name and its metadata."""
    names = {part.strip() for part in str(layer.get("Name", "")).split(" + ")}
    metadata = str(layer.get("Metadata", "")).replace("\x1e", "\n").replace("]", "\n").splitlines()
    return names | {line.split("[ONNX Layer: ", 1)[1].strip() for line in metadata if "[ONNX Layer: " in line}


def compare_types(asked: dict[str, str], layers: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """(layers that run in a wider type than asked, layers whose type the inspector does not tell), as sentences."""
    found = {}  # name -> type
    for layer in layers:
        if str(layer.get("LayerType", "")) in ("Reformat", "NoOp", "Constant"):
            continue
        for name in source_layers(layer) & set(asked):
            found[name] = built_type(layer)
    wider = [
        f"{name}: asked {want}, runs {found[name]}"
        for name, want in sorted(asked.items())
        if found.get(name) and BITS[found[name]] > BITS[want]
    ]
    unknown = [f"{name}: asked {want}" for name, want in sorted(asked.items()) if not found.get(name)]
    return wider, unknown


def build(trt: Any, given: argparse.Namespace, typing: str) -> tuple[Any, dict[str, str], list[int]]:
    """(serialized engine, requested types, input shape)."""
    logger = trt.Logger(trt.Logger.INFO if given.verbose else trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network, parser = parse_network(trt, logger, builder, given.model, typing)
    config, shape = configure(trt, builder, network, typing, given)
    load_timing_cache(config, given.timing_cache)
    asked = requested_types(trt, network, typing, given.precision)
    plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        raise Failure(f"TensorRT {trt.__version__} could not build a {typing}ly typed engine; its messages stand above")
    save_timing_cache(config, given.timing_cache)
    return plan, asked, shape


def build_as_typed(trt: Any, given: argparse.Namespace) -> tuple[Any, dict[str, str], list[int], str]:
    """The first typing that builds; a fallback is said, never silent."""
    order = typings(trt, given.typing)
    for i, typing in enumerate(order):
        try:
            return (*build(trt, given, typing), typing)
        except Failure as failure:
            if i + 1 == len(order):
                raise
            print(f"note: {failure}\nnote: falling back to a {order[i + 1]}ly typed network")
    raise AssertionError("there is always a typing to try")


def check_types(trt: Any, plan: Any, asked: dict[str, str], shape: list[int], allow_wider: bool) -> None:
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(plan)
    wider, unknown = compare_types(asked, inspect_engine(trt, engine, shape))
    counts = {name: sum(1 for want in asked.values() if want == name) for name in BITS}
    print("asked for: {}".format(", ".join(f"{n} layers in {name}" for name, n in counts.items() if n)))
    if unknown:
        print("not compared, the inspector does not tell their type:\n  {}".format("\n  ".join(unknown)))
    if wider and not allow_wider:
        raise Failure(
            "these layers run in a wider type than the graph asks for:\n  {}\nThe engine was not written; "
            "--allow-wider writes it all the same".format("\n  ".join(wider))
        )
    for line in wider:
        print(f"wider than asked: {line}")


def bundle_precision() -> str:
    """The precision of model.onnx, from the manifest."""
    try:
        with open(os.path.join(HERE, "manifest.json"), encoding="utf-8") as file:
            return str(json.load(file)["precision"])
    except (OSError, ValueError, KeyError) as error:
        raise Failure(f"manifest.json does not tell the precision ({error!r}); give --precision") from error


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.path.join(HERE, "model.onnx"))
    parser.add_argument("--output", default=os.path.join(HERE, "model.plan"))
    parser.add_argument("--timing-cache", default=os.path.join(HERE, "timing.cache"))
    parser.add_argument("--precision", choices=sorted(BITS), help="of the model; default: as the manifest says")
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument("--workspace-mb", type=int, default=1024, help="most GPU memory that a kernel may use")
    parser.add_argument("--typing", choices=("auto", "strong", "weak"), default="auto")
    parser.add_argument("--allow-wider", action="store_true", help="write an engine whose layers run wider than asked")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    if given.max_batch < 1 or given.workspace_mb < 1:
        parser.error("--max-batch and --workspace-mb start at 1")
    return given


def main() -> int:
    given = arguments()
    try:
        given.precision = given.precision or bundle_precision()
        trt = import_tensorrt()
        plan, asked, shape, typing = build_as_typed(trt, given)
        check_types(trt, plan, asked, shape, given.allow_wider)
        write(given.output, plan)
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    print(f"wrote {given.output}: TensorRT {trt.__version__}, {typing}ly typed, batch up to {shape[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
