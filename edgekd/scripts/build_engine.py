#!/usr/bin/env python3
"""Builds the TensorRT engine of this bundle, on the device that will run it.

    python3 build_engine.py                     model.onnx -> model.plan, batch 1
    python3 build_engine.py --max-batch 16      an engine for batches of 1 to 16
    python3 build_engine.py --at-most length=64  a free size of the inputs of 1 to 64; without it, up to the manifest's bound
    python3 build_engine.py --trtexec           the same as commands for NVIDIA's trtexec, by TensorRT release
    python3 run.py --engine model.plan cat.png

An engine runs only on the GPU architecture and the TensorRT release that built it: copy the bundle, not the engine.
Works with TensorRT 8.5 to 11 and needs Python 3.8+. Afterwards the type of every convolution and matrix product is
compared with what the graph asks for; one that runs in a wider type is an error that names it.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # this folder holds the sent files and nothing else
    if "__file__" in globals() and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]  # this folder: a json.py or a numpy beside this file must not be imported

import argparse
import ast
import importlib
import json
import os
import shlex
import stat
import struct
import zipfile
from dataclasses import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    # TensorRT's classes, by their own names: the conformance test follows them through this file.
    Builder = Any
    IBuilderConfig = Any
    ICudaEngine = Any
    IExecutionContext = Any
    INetworkDefinition = Any
    ITensor = Any
    OnnxParser = Any
    ParserError = Any
    Profile = Mapping[str, tuple[list[int], list[int], list[int]]]  # input -> smallest, usual, largest shape
    Tables = Sequence[
        Mapping[str, Any]
    ]  # the inputs in the manifest: name, shape with the names of free sizes, their bounds

HERE = os.path.dirname(os.path.abspath(__file__))
LARGEST_TEXT = 1 << 26  # bytes of the manifest and of golden.npz
BITS = {"int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}
FULLY_STRONG = (10, 12)  # before it strong typing refuses some graphs: then the weakly typed network is built instead
LEVELS = {"none": "none", "ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}  # trtexec's words


class Failure(Exception):
    """A failure as a message: the fault and the remedy; printed without a traceback."""


@dataclass(frozen=True)
class Options:
    """Options of the engine. Each is a command-line argument of the same name."""

    model: str = os.path.join(HERE, "model.onnx")
    output: str = os.path.join(HERE, "model.plan")
    timing_cache: str = os.path.join(HERE, "timing.cache")
    precision: str = ""
    typing: str = "auto"
    min_batch: int = 1
    opt_batch: int = 0  # 0: the largest
    max_batch: int = 1
    profile: Sequence[str] = ()
    at_most: Sequence[str] = ()
    workspace_mb: int = 1024
    optimization_level: int | None = None
    dla_core: int | None = None
    gpu_fallback: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    allow_wider: bool = False
    verbose: bool = False


def import_tensorrt() -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ImportError:
        raise Failure(
            "tensorrt's Python package is not installed; JetPack has it as python3-libnvinfer. "
            "Without it, build with trtexec: the command stands in README.txt"
        ) from None


def release(trt: Any) -> tuple[int, int]:
    """(major, minor) of the installed TensorRT."""
    major, minor = trt.__version__.split(".")[:2]
    return int(major), int(minor)


# ------------------------------------------------------------------------------------------------------ network, parser


def typings(trt: Any, asked: str) -> list[str]:
    """The typings of the network to try, in this order. Raise Failure if this release lacks the asked typing."""
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
    """The flags for a new network. Their values differ between releases, so they are read from TensorRT."""
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if typing == "strong" and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def parse_network(
    trt: Any, logger: Any, builder: Builder, path: str, typing: str
) -> tuple[INetworkDefinition, OnnxParser]:
    """(network, parser). The network's weights lie in the parser's memory, so keep the parser alive."""
    network = builder.create_network(network_flags(trt, typing))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        errors = [describe(parser.get_error(i)) for i in range(parser.num_errors)]
        raise Failure("TensorRT cannot read {}:\n  {}".format(path, "\n  ".join(errors)))
    return network, parser


def describe(error: ParserError) -> str:
    """A parser error with its node, by name if the release gives node names."""
    node = f"node {error.node()}"
    if hasattr(error, "node_name") and hasattr(error, "node_operator"):
        node += f" {error.node_name()} ({error.node_operator()})"
    return f"{node}: {error.desc()}"


# ------------------------------------------------------------------------------------------------ optimisation profiles


def input_shapes(network: INetworkDefinition) -> dict[str, list[int]]:
    """Input -> shape, -1 for a free size."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    return {tensor.name: list(tensor.shape) for tensor in tensors}


def profiles(inputs: Mapping[str, list[int]], options: Options, tables: Tables = ()) -> list[Profile]:
    """The ranges of sizes that the engine is built for. Empty for a graph without free sizes.

    inputs   input -> its shape in the graph, -1 for a free size
    tables   the manifest's tables of the inputs, with names and bounds of free sizes
    """
    if options.profile and options.at_most:
        raise Failure("--at-most goes without --profile, which tells the largest sizes itself")
    found = [read_profile(text, inputs) for text in options.profile] or [usual_profile(inputs, options, tables)]
    for profile in found:
        for name, (least, usual, most) in profile.items():
            if not all(0 < a <= b <= c for a, b, c in zip(least, usual, most)):  # noqa: B905 (Python 3.8)
                raise Failure(f"input {name}: {least} <= {usual} <= {most} does not hold in every dimension")
            if options.dla_core is not None and least != most:
                raise Failure(f"input {name} is {least} to {most}; the DLA takes one size: give the same three times")
    return [profile for profile in found if profile]


def usual_profile(inputs: Mapping[str, list[int]], options: Options, tables: Tables) -> Profile:
    """The profile of every input with free sizes.

    Batches range from `min_batch` to `max_batch`, and each other free size from 1 to its bound.
    """
    given = read_bounds(options.at_most, tables)
    batches = (options.min_batch, options.opt_batch or options.max_batch, options.max_batch)
    fixed = [shape[0] for shape in inputs.values() if shape]
    if fixed and min(fixed) > 0 and options.max_batch not in (1, *fixed):
        raise Failure(f"the graph's batch size is fixed to {fixed[0]}; --max-batch {options.max_batch} cannot be had")
    profile = {}
    for name, shape in inputs.items():
        if min(shape, default=1) < 0:
            largest = [bound(name, shape, i, given, tables) if i and n < 0 else n for i, n in enumerate(shape)]
            smallest = [1 if n < 0 else n for n in shape]
            sizes = zip(batches, (smallest, largest, largest))  # noqa: B905 (Python 3.8)
            least, usual, most = ([n if shape[0] < 0 else shape[0], *rest[1:]] for n, rest in sizes)
            profile[name] = (least, usual, most)
    return profile


def bound(name: str, shape: list[int], axis: int, bounds: Mapping[str, int], tables: Tables) -> int:
    """The largest value of a free size other than the batch. Raise Failure if neither the user nor the manifest gives it."""
    named = [table["shape"] for table in tables if table["name"] == name and len(table["shape"]) == len(shape)]
    size = named[0][axis] if named else None
    if not isinstance(size, str):
        raise Failure(f"input {name} is {shape}; sizes other than the batch need --profile {name}=MIN,USUAL,MAX")
    known = {key: most for table in tables for key, most in table.get("at_most", {}).items()}
    known.update(bounds)
    if size not in known:
        raise Failure(
            f"input {name} is {named[0]}, and nobody bounds its free size {size!r}: give --at-most {size}=SIZE, or --profile "
            f"{name}=MIN,USUAL,MAX"
        )
    return int(known[size])


def read_bounds(texts: Sequence[str], tables: Tables) -> dict[str, int]:
    """`length=128`: a free size and its largest value."""
    free = sorted({size for table in tables for size in table["shape"][1:] if isinstance(size, str)})
    bounds = {}
    for text in texts:
        size, _, most = text.rpartition("=")
        if size not in free or not most.isdigit() or int(most) < 1:
            raise Failure(f"--at-most {text}: NAME=SIZE is needed; free sizes: {', '.join(free) or 'none has a name'}")
        bounds[size] = int(most)
    return bounds


def read_profile(text: str, inputs: Mapping[str, list[int]]) -> Profile:
    """`image=1x3x32x32,4x3x32x32,8x3x64x64 mask=...`: the smallest, usual and largest shape of each free input."""
    profile = {}
    for entry in text.split():
        name, _, shapes = entry.partition("=")
        try:
            sizes = [[int(size) for size in shape.split("x")] for shape in shapes.split(",")]
        except ValueError:
            raise Failure(f"--profile {entry}: shapes are sizes joined by x, as 1x3x32x32") from None
        if name not in inputs or len(sizes) != 3:
            raise Failure(f"--profile {entry}: NAME=MIN,USUAL,MAX is needed; inputs: {', '.join(inputs)}")
        for shape in sizes:
            graph = inputs[name]
            if len(shape) != len(graph) or any(size not in (-1, n) for size, n in zip(graph, shape)):  # noqa: B905
                raise Failure(f"--profile {entry}: {shape} is no shape of input {name}, which is {graph}")
        profile[name] = (sizes[0], sizes[1], sizes[2])
    missing = [name for name, shape in inputs.items() if min(shape, default=1) < 0 and name not in profile]
    if missing:
        raise Failure(f"--profile {text} leaves out {', '.join(missing)}, whose shape is free")
    return profile


def add_profiles(builder: Builder, config: IBuilderConfig, ranges: Sequence[Profile]) -> None:
    for shapes in ranges:
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in shapes.items():
            profile.set_shape(name, tuple(least), tuple(usual), tuple(most))
        config.add_optimization_profile(profile)


# -------------------------------------------------------------------------------------------------------- configuration


def configure(trt: Any, builder: Builder, network: INetworkDefinition, typing: str, options: Options) -> IBuilderConfig:
    """The builder's configuration, without profiles and timing cache."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if typing == "weak":
        allow_types(trt, config, options.precision)
    if options.optimization_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise Failure(f"TensorRT {trt.__version__} has no --optimization-level; 8.6 and later have")
        config.builder_optimization_level = options.optimization_level
    set_compatibility(trt, config, options)
    if options.dla_core is not None:
        use_dla(trt, builder, network, config, options.dla_core, options)
    return config


def allow_types(trt: Any, config: IBuilderConfig, precision: str) -> None:
    """Allows a weakly typed network to use the types of `precision`. Its Q/DQ nodes still decide where int8 is used."""
    if precision in ("fp16", "int8") and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8" and hasattr(trt.BuilderFlag, "INT8"):
        config.set_flag(trt.BuilderFlag.INT8)
    if precision == "bf16":
        if not hasattr(trt.BuilderFlag, "BF16"):
            raise Failure(f"TensorRT {trt.__version__} has no bf16; 9.0 and later have")
        config.set_flag(trt.BuilderFlag.BF16)


def set_compatibility(trt: Any, config: IBuilderConfig, options: Options) -> None:
    """Sets the other releases and GPUs that the engine may run on.

    Compatibility costs speed, and JetPack allows no other GPU.
    """
    if options.version_compatible:
        if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
            raise Failure(f"TensorRT {trt.__version__} has no --version-compatible; 8.6 and later have")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility == "none":
        return
    if not hasattr(config, "hardware_compatibility_level") or not hasattr(trt, "HardwareCompatibilityLevel"):
        raise Failure(f"TensorRT {trt.__version__} has no --hardware-compatibility; 8.6 and later have")
    levels = trt.HardwareCompatibilityLevel
    if options.hardware_compatibility == "ampere+":
        config.hardware_compatibility_level = levels.AMPERE_PLUS
        return
    if not hasattr(levels, "SAME_COMPUTE_CAPABILITY"):
        raise Failure(f"TensorRT {trt.__version__} knows only ampere+ for --hardware-compatibility")
    config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY


def use_dla(
    trt: Any, builder: Builder, network: INetworkDefinition, config: IBuilderConfig, core: int, options: Options
) -> None:
    """Puts all layers on a DLA core. Layers that the core does not take run on the GPU if allowed, else raise Failure."""
    if options.precision == "fp32":
        raise Failure("the DLA computes in fp16 and int8; this model is fp32")
    if not 0 <= core < builder.num_DLA_cores:
        raise Failure(f"--dla-core {core}: this device has {builder.num_DLA_cores} DLA cores, from 0")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if options.max_batch > builder.max_DLA_batch_size:
        raise Failure(f"--max-batch {options.max_batch}: the DLA takes at most {builder.max_DLA_batch_size}")
    if options.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        return
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    refused = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if refused:
        raise Failure("the DLA does not take these layers; --gpu-fallback allows the GPU:\n  " + "\n  ".join(refused))


def load_timing_cache(config: IBuilderConfig, path: str) -> None:
    """Loads the timing cache, with which a later build tries no kernel twice.

    The cache of another device or release is not used.
    """
    content = b""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            content = file.read()
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        print(f"note: {path} was made by another device or release; starting an empty one")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: IBuilderConfig, path: str) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        write(path, cache.serialize())


def write(path: str, content: Any) -> None:
    """Write a file beside its place and rename it, so that no half-written file is left behind."""
    with open(path + ".draft", "wb") as file:
        file.write(memoryview(content))
    os.replace(path + ".draft", path)


# -------------------------------------------------------------------------------------- what was asked, what was built


def requested_types(trt: Any, network: INetworkDefinition, typing: str, precision: str) -> dict[str, str]:
    """Layer name -> int8, fp16, bf16 or fp32, for every convolution and matrix product of the parsed network.

    The type is int8 if the input comes from a DequantizeLinear. Otherwise it is the tensor's own type in a strongly typed
    network. In a weakly typed network it is the half precision that was allowed.
    """
    heavy = [trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY]
    if hasattr(trt.LayerType, "FULLY_CONNECTED"):  # release 8 reads a Gemm as this layer
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
            asked[layer.name] = "bf16" if precision == "bf16" else "fp16"
        else:
            asked[layer.name] = float_type(trt, tensor)
    return asked


def float_type(trt: Any, tensor: ITensor) -> str:
    """The name of a float tensor's type."""
    if tensor.dtype == trt.DataType.HALF:
        return "fp16"
    if hasattr(trt.DataType, "BF16") and tensor.dtype == trt.DataType.BF16:
        return "bf16"
    return "fp32"


def inspect_engine(trt: Any, engine: ICudaEngine, shapes: Mapping[str, list[int]]) -> list[dict[str, Any]]:
    """The engine's layers as its inspector describes them. With free shapes, types are known only for a given input."""
    context: IExecutionContext = engine.create_execution_context()
    for name, shape in shapes.items():
        context.set_input_shape(name, tuple(shape))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return layers_of(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def layers_of(information: str) -> list[dict[str, Any]]:
    """The layers in the inspector's JSON. An engine built without details has plain names there, which are left out."""
    layers = json.loads(information).get("Layers", [])
    return [layer for layer in layers if isinstance(layer, dict)]


def built_type(layer: Mapping[str, Any]) -> str:
    """The type of a layer's first input. Empty if the inspector does not report the type.

    Up to release 10 it stands within `Format/Datatype` ("... row major Int8 format"), from 11 on in `DataType`.
    """
    inputs = layer.get("Inputs") or [{}]
    tensor = inputs[0] if isinstance(inputs[0], dict) else {}
    known = {key.lower(): str(value) for key, value in tensor.items()}
    text = known.get("datatype") or known.get("format/datatype") or ""
    words = text.lower().replace(".", " ").replace("(", " ").replace(")", " ").split()
    spellings = {"int8": ("int8",), "fp16": ("half", "fp16"), "bf16": ("bf16", "bfloat16"), "fp32": ("float", "fp32")}
    return next((name for name, spelt in spellings.items() if any(word in spelt for word in words)), "")


def source_layers(layer: Mapping[str, Any]) -> set[str]:
    """Names of the network's layers that an engine's layer fuses, from the latter's name and metadata."""
    name = str(layer.get("Name", "")).split(" [profile ")[0]
    names = {part.strip() for part in name.split(" + ")}
    metadata = str(layer.get("Metadata", "")).replace("\x1e", "\n").replace("]", "\n").splitlines()
    return names | {line.split("[ONNX Layer: ", 1)[1].strip() for line in metadata if "[ONNX Layer: " in line}


def is_heavy(layer: Mapping[str, Any]) -> bool:
    """Whether an engine layer is a convolution or matrix product itself, and not a conversion with its name."""
    kind = "{} {}".format(layer.get("LayerType", ""), layer.get("ParameterType", "")).lower().replace("convert", "")
    return any(word in kind for word in ("conv", "gemm", "matrix", "matmul", "fullyconnected"))


def compare_types(asked: Mapping[str, str], layers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(layers that run in a wider type than asked, layers of unknown type), as sentences.

    asked    layer name -> type, see `requested_types`
    layers   the inspector's JSON, see `layers_of`; a layer may stand there once for each profile, the widest type counts
    """
    built: dict[str, str] = {}
    for heavy in (True, False):
        settled = set(built)  # the types of convolutions and products are not overruled by layers fused around them
        for layer in layers:
            name_type = built_type(layer)
            if is_heavy(layer) != heavy or not name_type or layer.get("LayerType") in ("Reformat", "NoOp", "Constant"):
                continue
            for name in (source_layers(layer) & set(asked)) - settled:
                built[name] = max(built.get(name, name_type), name_type, key=BITS.__getitem__)
    wider = [
        f"{name}: asked {want}, runs {built[name]}"
        for name, want in sorted(asked.items())
        if name in built and BITS[built[name]] > BITS[want]
    ]
    return wider, [f"{name}: asked {want}" for name, want in sorted(asked.items()) if name not in built]


# ---------------------------------------------------------------------------------------------------------------- build


def build(trt: Any, options: Options, typing: str) -> tuple[Any, dict[str, str], list[Profile]]:
    """(serialized engine, requested types, profiles) of a typing. Raise Failure if TensorRT builds no engine."""
    logger = trt.Logger(trt.Logger.INFO if options.verbose else trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network, parser = parse_network(trt, logger, builder, options.model, typing)
    config = configure(trt, builder, network, typing, options)
    shapes = input_shapes(network)
    ranges = profiles(shapes, options, input_tables(shapes, options))
    add_profiles(builder, config, ranges)
    load_timing_cache(config, options.timing_cache)
    asked = requested_types(trt, network, typing, options.precision)
    plan = builder.build_serialized_network(network, config)
    del parser
    if plan is None:
        raise Failure(f"TensorRT {trt.__version__} could not build a {typing}ly typed engine; its messages stand above")
    save_timing_cache(config, options.timing_cache)
    return plan, asked, ranges


def build_as_typed(trt: Any, options: Options) -> tuple[Any, dict[str, str], list[Profile], str]:
    """The engine of the first typing that builds. A fallback is printed, never silent."""
    order = typings(trt, options.typing)
    for i, typing in enumerate(order):
        try:
            return (*build(trt, options, typing), typing)
        except Failure as failure:
            if i + 1 == len(order):
                raise
            print(f"note: {failure}\nnote: falling back to a {order[i + 1]}ly typed network")
    raise AssertionError("there is always a typing to try")


def check_types(trt: Any, plan: Any, asked: Mapping[str, str], ranges: Sequence[Profile], options: Options) -> None:
    """Raise Failure, naming the layers, if the engine computes in a wider type than the network asks for."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    if options.version_compatible and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # such an engine contains a runtime; safe, because it was just built
    engine: ICudaEngine = runtime.deserialize_cuda_engine(plan)
    usual = {name: shapes[1] for name, shapes in ranges[0].items()} if ranges else {}
    wider, unknown = compare_types(asked, inspect_engine(trt, engine, usual))
    counts = {name: sum(1 for want in asked.values() if want == name) for name in BITS}
    print("asked for: {}".format(", ".join(f"{n} layers in {name}" for name, n in counts.items() if n)))
    if unknown:
        print("not compared, the inspector does not tell their type:\n  {}".format("\n  ".join(unknown)))
    if wider and not options.allow_wider:
        raise Failure(
            "these layers run in a wider type than the graph asks for:\n  {}\nThe engine was not written; "
            "--allow-wider writes it all the same".format("\n  ".join(wider))
        )
    for line in wider:
        print(f"wider than asked: {line}")


def build_engine(options: Options) -> str:
    """Build, compare and write the engine. Returns a description of the engine. Raises Failure."""
    trt = import_tensorrt()
    plan, asked, ranges, typing = build_as_typed(trt, options)
    check_types(trt, plan, asked, ranges, options)
    write(options.output, plan)
    sizes = "; ".join(f"{name} {least} to {most}" for shapes in ranges for name, (least, _, most) in shapes.items())
    return f"wrote {options.output}: TensorRT {trt.__version__}, {typing}ly typed{', ' if sizes else ''}{sizes}"


# -------------------------------------------------------------------------------------------------------------- trtexec


def majors(precision: str) -> tuple[int, ...]:
    """The releases known to `trtexec_line` that build this precision. Release 8 has no bf16."""
    return (10, 11) if precision == "bf16" else (8, 10, 11)


def trtexec_line(
    major: int, inputs: Mapping[str, list[int]], options: Options, reference: Mapping[str, Any], tables: Tables = ()
) -> str:
    """The command of NVIDIA's own tool that builds and times the same engine, on release 8, 10 or 11.

    Release 11 has only strong typing. By default it times without transfers, with spinning and with a CUDA graph. The older
    releases get these options here, because their figures would not compare otherwise. Only release 11 compares outputs,
    with `reference` (empty for no check): `inputs` holds a raw file by the name of each input, `shapes` their shapes.
    `output` is a pair of a tensor's name and a raw file, and `tolerance` the largest difference. `tables`: see `profiles`.
    """
    words = ["trtexec", f"--onnx={os.path.basename(options.model)}", f"--saveEngine={os.path.basename(options.output)}"]
    words += [f"--timingCacheFile={os.path.basename(options.timing_cache)}"]
    words += [f"--memPoolSize=workspace:{options.workspace_mb}", "--profilingVerbosity=detailed"]
    ranges = profiles(inputs, options, tables)
    for at, which in enumerate(("min", "opt", "max") if ranges else ()):
        words.append(f"--{which}Shapes=" + shape_words({name: sizes[at] for name, sizes in ranges[0].items()}))
    if major < 10:
        words += {"int8": ["--fp16", "--int8"], "fp16": ["--fp16"]}.get(options.precision, [])
    elif major == 10:
        words.append("--stronglyTyped")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.dla_core is not None:
        words += [f"--useDLACore={options.dla_core}"] + ["--allowGPUFallback"] * options.gpu_fallback
    if options.version_compatible:
        words.append("--versionCompatible")
    if options.hardware_compatibility != "none":
        words.append(f"--hardwareCompatibilityLevel={LEVELS[options.hardware_compatibility]}")
    words += ["--warmUp=1000", "--duration=10"]
    if major < 11:
        return shlex.join([*words, "--noDataTransfers", "--useSpinWait", "--useCudaGraph"])
    if reference:
        usual = {name: sizes[1] for name, sizes in ranges[0].items()} if ranges else {}
        stored = {name: reference["shapes"][name] for name in usual}
        if stored != usual:  # by default trtexec runs the usual shapes
            words.append("--shapes=" + shape_words(stored))
        words += ["--loadInputs=" + ",".join(f"{name}:{file}" for name, file in reference["inputs"].items())]
        words += ["--loadRefOutputs={}:{}".format(*reference["output"])]
        words += ["--accuracyAlgorithm=lInf", "--accuracyThreshold={:.6g}".format(reference["tolerance"])]
    return shlex.join(words)


def shape_words(shapes: Mapping[str, list[int]]) -> str:
    """Shapes in trtexec's form, e.g. `ids:1x16,mask:1x16`."""
    return ",".join("{}:{}".format(name, "x".join(map(str, shape))) for name, shape in shapes.items())


def plain(name: str, folder: str = "") -> str:
    """The path of a plain file of a bundle. Raise Failure for a link, device, pipe or oversized file."""
    path = os.path.join(folder or HERE, name)
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_TEXT:
        raise Failure(
            f"{name} is no plain file of at most {LARGEST_TEXT >> 20} MB; the bundle is not as it was written"
        )
    return path


def bundle_manifest(folder: str = "") -> dict[str, Any]:
    """A bundle's manifest with its tolerance and with `tables`, a table for each input.

    Raise Failure if a key that is read here has another kind of value than edgekd writes.
    """
    try:
        with open(plain("manifest.json", folder), encoding="utf-8") as file:
            manifest = json.load(file)
        tables, tolerance = [manifest["input"], *manifest.get("further_inputs", [])], manifest["golden"]["tolerance"]
        texts = [*(table["name"] for table in tables), manifest.get("output", ""), manifest["precision"]]
        if (
            not all(shape_is_one(table["shape"], table.get("at_most", {})) for table in tables)
            or not all(isinstance(text, str) and text.isprintable() for text in texts)
            or type(tolerance) not in (int, float)
        ):
            raise ValueError("a key of it is of another kind")
        return dict(manifest, tolerance=float(tolerance), tables=tables)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Failure(
            f"manifest.json of this bundle cannot be read ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def shape_is_one(shape: Any, bounds: Any) -> bool:
    """Whether an input's shape and the bounds of its free sizes are of the kinds that edgekd writes."""
    if not isinstance(shape, list) or not shape or not isinstance(bounds, dict):
        return False
    names = [size for size in shape if isinstance(size, str)]
    if not all(size is None or size in names or isinstance(size, int) for size in shape):
        return False
    return all(name.isprintable() for name in names) and all(type(most) is int and most > 0 for most in bounds.values())


def input_tables(shapes: Mapping[str, list[int]], options: Options) -> Tables:
    """The manifest's tables of the inputs of the model beside it. Empty without a manifest or need."""
    folder = os.path.dirname(os.path.abspath(options.model))
    free = any(size < 0 for shape in shapes.values() for size in shape[1:])
    if not free or options.profile or not os.path.lexists(os.path.join(folder, "manifest.json")):
        return []
    return list(bundle_manifest(folder)["tables"])


def print_trtexec(options: Options) -> None:
    """Prints the commands of every release.

    For release 11 the stored inputs and output are written as the raw files that it compares.
    """
    manifest = bundle_manifest()
    if "output" not in manifest:
        raise Failure("manifest.json of this bundle names no output that could be compared")
    tables, batch = manifest["tables"], options.opt_batch or options.max_batch
    shapes = {table["name"]: [size if isinstance(size, int) else -1 for size in table["shape"]] for table in tables}
    reference: dict[str, Any] = {"tolerance": manifest["tolerance"], "inputs": {}, "shapes": {}}
    for number, name in enumerate(shapes):
        file = f"reference_input_{number}.bin" if number else "reference_input.bin"
        content, shape = first_samples(f"inputs.{name}" if number else "inputs", batch)
        write(os.path.join(HERE, file), content)
        reference["inputs"][name], reference["shapes"][name] = file, shape
    write(os.path.join(HERE, "reference_output.bin"), first_samples("outputs", batch)[0])
    reference["output"] = (manifest["output"], "reference_output.bin")
    for major in majors(manifest["precision"]):
        print(f"TensorRT {major}:\n{trtexec_line(major, shapes, options, reference, tables)}\n")


def first_samples(name: str, n: int) -> tuple[bytes, list[int]]:
    """(raw bytes, shape) of the first n rows of an array of golden.npz, read without numpy.

    The format is described in numpy.lib.format. Raise Failure.
    """
    try:
        with zipfile.ZipFile(plain("golden.npz")) as stored:
            member = stored.getinfo(name + ".npy")
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is packed")
            content = stored.read(member)
        wide = content[6] >= 2
        size = struct.unpack("<I" if wide else "<H", content[8 : 12 if wide else 10])[0]
        start = (12 if wide else 10) + size
        shape = ast.literal_eval(content[start - size : start].decode("latin1").strip())["shape"]
        rows = shape[0]
        if size > 10_000 or not all(type(each) is int for each in shape) or not 0 < rows <= len(content):
            raise ValueError("its header makes no sense")
    except Failure:
        raise
    except Exception as error:  # a damaged file makes zipfile and ast raise errors of many kinds
        raise Failure(f"golden.npz cannot be read: {type(error).__name__} {str(error)[:200]}") from None
    if n > rows:
        raise Failure(f"golden.npz holds {rows} samples; a batch of {n} cannot be compared, give a smaller --max-batch")
    return content[start : start + (len(content) - start) // rows * n], [n, *shape[1:]]


# -------------------------------------------------------------------------------------------------------------- command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default=Options.model)
    add("--output", default=Options.output)
    add("--timing-cache", default=Options.timing_cache)
    add("--precision", choices=sorted(BITS), default="", help="of the model; default: as the manifest says")
    add("--min-batch", type=int, default=1)
    add("--opt-batch", type=int, default=0, help="the batch that kernels are chosen for; default: the largest")
    add("--max-batch", type=int, default=1)
    add("--profile", action="append", default=[], metavar="NAME=MIN,USUAL,MAX", help=read_profile.__doc__)
    add("--at-most", action="append", default=[], metavar="NAME=SIZE", help=read_bounds.__doc__)
    add("--workspace-mb", type=int, default=1024, help="most GPU memory that a kernel may use")
    add("--optimization-level", type=int, choices=range(6), help="0 builds fastest, 5 searches longest; default: 3")
    add("--typing", choices=("auto", "strong", "weak"), default="auto")
    add("--dla-core", type=int, help="run on this DLA core; fp16 and int8, one size of input")
    add("--gpu-fallback", action="store_true", help="what the DLA does not take may run on the GPU")
    add(
        "--version-compatible", action="store_true", help="newer TensorRT releases of the same major may run the engine"
    )
    add("--hardware-compatibility", choices=list(LEVELS), default="none", help="other GPUs may run it; not on JetPack")
    add("--allow-wider", action="store_true", help="write an engine whose layers run wider than asked")
    add("--trtexec", action="store_true", help="print trtexec's commands instead of building")
    add("--verbose", action="store_true")
    given = parser.parse_args()
    given.opt_batch = given.opt_batch or given.max_batch
    if not 1 <= given.min_batch <= given.opt_batch <= given.max_batch or given.workspace_mb < 1:
        parser.error("1 <= --min-batch <= --opt-batch <= --max-batch and 1 <= --workspace-mb are needed")
    if given.gpu_fallback and given.dla_core is None:
        parser.error("--gpu-fallback goes with --dla-core")
    return given


def main() -> int:
    given = arguments()
    try:
        given.precision = given.precision or str(bundle_manifest().get("precision", ""))
        if given.precision not in BITS:
            raise Failure(f"the manifest's precision is {given.precision!r}; give --precision {'|'.join(BITS)}")
        options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
        if given.trtexec:
            print_trtexec(options)
        else:
            print(build_engine(options))
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
