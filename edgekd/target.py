"""Target: the facts of a device, its runtime and its int8 scheme. Reads targets/*.toml, with sources and dates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgekd.base.places import expanded
from edgekd.base.tables import Table
from edgekd.base.texts import FolderName, Shown, Text
from edgekd.base.toml_file import Places, as_json, date_mistakes, parse_toml, read_text, refuse, validation_mistakes
from edgekd.errors import QuantizationError, RecipeError, nearest

Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$", description="when the source was read: YYYY-MM")]
Positive = Annotated[float, Field(gt=0)]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Sourced(Table):
    """A table of figures from a single source, which was read on `date`."""

    shapes_nothing: ClassVar[frozenset[str]] = frozenset({"source", "date"})  # see edgekd.recipe.Section

    source: Text
    date: Date


class Hardware(Sourced):
    """The hardware of a device. A figure that no source states is left out, never guessed.

    Peaks are dense (no sparsity) and of the GPU or CPU alone, unless their name says `dla`.
    """

    cpu: Text | None = None
    ram_gb: tuple[Positive, ...] = Field(default=(), description="one figure for each variant that is sold")
    memory_bandwidth_gbs: Positive | None = None
    peak_int8_tops: Positive | None = None
    peak_int8_dla_tops: Positive | None = Field(default=None, description="of the DLA alone")
    peak_int8_with_dla_tops: Positive | None = Field(default=None, description="of the whole module")
    peak_fp16_tflops: Positive | None = None
    peak_bf16_tflops: Positive | None = None
    peak_fp32_tflops: Positive | None = None
    peak_fp8_tflops: Positive | None = None
    peak_fp4_tflops: Positive | None = None
    kernel_overhead_us: Positive | None = Field(default=None, description="what starting one kernel takes at the least")
    compute_capability: Text | None = None
    power_modes: dict[Text, Shown] = Field(default_factory=dict, description="name -> remark")
    power_w: tuple[Positive, Positive] | None = Field(default=None, description="lowest, highest")
    dla: Text | None = None


class Runtime(Sourced):
    """The software that runs the model on the device."""

    name: Literal["tensorrt", "onnxruntime", "qnn"]
    version: Text | None = None
    precisions: tuple[Precision, ...]
    default_opset: int = Field(ge=13)
    max_opset: int = Field(ge=13)

    @model_validator(mode="after")
    def _runs_something(self) -> Self:
        if not self.precisions:  # min_length would not count a wrong entry, so it would be reported twice
            raise ValueError("precisions is empty; have: fp32, fp16, bf16, int8")
        return self

    @model_validator(mode="after")
    def _opsets_are_ordered(self) -> Self:
        if self.default_opset > self.max_opset:
            raise ValueError(f"default_opset {self.default_opset} is above max_opset {self.max_opset}")
        return self


class JetPack(Sourced):
    """A JetPack release that the board runs."""

    version: Text
    l4t: Text
    cuda: Text
    tensorrt: Text
    python: Text


class Operator(Table):
    """The tensors of an operator that the target computes in integers.

    sites: inputs               its inputs and its weight; the output is float until another operator quantizes it
           inputs_and_output    inputs, weight and output, after an activation that the operator fuses
           among_integers       the same, if an operator before it gives integers; between float operators two conversions
                                would cost more than integer kernels save
           skip                 the shorter branch of a residual addition; the longer branch is fused into its last operator
           passes_on            if its input is quantized, its output too, at the same scale
           commutes             none by itself; quantized tensors before and after it have one scale
    """

    sites: Literal["inputs", "inputs_and_output", "among_integers", "skip", "passes_on", "commutes"]
    activations: tuple[Literal["int8", "uint8", "uint16"], ...] = Field(
        default=("int8", "uint8"), description="types of what it reads and gives"
    )
    weight_per_channel: bool | None = Field(default=None, description="none: as the scheme says")
    rank: Literal[2] | None = Field(default=None, description="of its input: further dimensions are made one before it")
    gives_float: bool = Field(
        default=False, description="can give float where nobody reads integers: logits do not tie"
    )


class Operators(Table):
    """The operators that a target computes in integers; all others stay float. `other`: operators without a name here."""

    conv: Operator | None = None
    conv_transpose: Operator | None = None
    linear: Operator | None = None
    matmul: Operator | None = None
    add: Operator | None = None
    mul: Operator | None = None
    avg_pool: Operator | None = None
    sigmoid: Operator | None = None
    max_pool: Operator | None = None
    concat: Operator | None = None
    move: Operator | None = Field(default=None, description="reshapes and transpositions")
    other: Operator | None = None


class Quantization(Sourced):
    """The target's int8 scheme; it drives calibration, QAT and export (see edgekd.quantize.scheme)."""

    activation: Literal["int8", "uint8", "uint16"]
    activation_symmetric: bool
    weight: Literal["int8"] = "int8"
    weight_per_channel: bool = True
    int32_bias: bool
    min_channels: int = Field(default=1, ge=1, description="below, integer kernels are slower than float ones")
    pad_channels_to: int = Field(
        default=1,
        ge=1,
        description="of uint8 images: the fastest integer convolutions read this many at once; above 1 the normalisation has channels last",
    )
    pad_filters_to: int = Field(default=1, ge=1, description="the fastest integer convolutions write this many at once")
    rest: Literal["fp32", "fp16"] = Field(
        default="fp32", description="type of what is not quantized; fp16 scales of Q/DQ take opset 19"
    )
    fuses: tuple[Literal["relu", "relu6"], ...] = Field(
        default=(), description="activations that are part of the operator before them: nothing is quantized between"
    )
    operators: Operators

    @model_validator(mode="after")
    def _padding_leaves_convolutions_in_integers(self) -> Self:
        if self.pad_channels_to > 1 and self.activation != "uint8":
            raise ValueError(
                f"pad_channels_to is {self.pad_channels_to} and activation {self.activation!r}: onnxruntime would compute a padded "
                'convolution in float; write activation = "uint8", or leave pad_channels_to out'
            )
        return self

    @model_validator(mode="after")
    def _operators_take_the_activation(self) -> Self:
        for name, operator in self.operators:
            if operator is not None and self.activation not in operator.activations:
                raise ValueError(
                    f"activation is {self.activation!r}, and {name} takes {', '.join(operator.activations)}; "
                    "leave the operator out (it stays float) or choose another activation"
                )
        return self


class Target(Table):
    """A device with its runtime. On a board with JetPack `runtime` is that of the first `jetpack`."""

    name: FolderName = Field(description="names the bundle's folder")
    title: Text
    aliases: tuple[FolderName, ...] = ()
    notes: tuple[Text, ...] = ()
    hardware: Hardware
    runtime: Runtime
    jetpack: tuple[JetPack, ...] = ()
    quantization: Quantization | None = None

    @property
    def int8(self) -> Quantization:
        """The int8 scheme of the target. Raises QuantizationError if the target has none."""
        if self.quantization is None:
            raise QuantizationError(
                f"target '{self.name}' has no int8 scheme; quantize with mode = \"none\", or choose a target that has one"
            )
        return self.quantization

    @model_validator(mode="after")
    def _runtime_is_that_of_the_first_jetpack(self) -> Self:
        if self.jetpack and self.jetpack[0].tensorrt != self.runtime.version:
            raise ValueError(
                f"runtime.version is {self.runtime.version}, and the first jetpack has {self.jetpack[0].tensorrt}"
            )
        return self

    @model_validator(mode="after")
    def _the_rest_of_int8_can_be_written(self) -> Self:
        runtime = self.runtime
        if self.quantization is None or self.quantization.rest == "fp32":
            return self
        if "fp16" not in runtime.precisions or runtime.default_opset < 19:
            raise ValueError(
                f'quantization.rest = "fp16" takes fp16 among runtime.precisions, which has {", ".join(runtime.precisions)}, '
                f"and opset 19 for fp16 scales; runtime.default_opset is {runtime.default_opset}"
            )
        return self

    @model_validator(mode="after")
    def _bf16_can_be_written_and_run(self) -> Self:
        runtime, capability = self.runtime, self.hardware.compute_capability
        if "bf16" not in runtime.precisions:
            return self
        release = version(runtime.version or "9.0")
        if (
            runtime.name != "tensorrt"
            or release < (9, 0)
            or version(capability or "8.0") < (8, 0)
            or runtime.max_opset < 22
        ):
            raise ValueError(
                "bf16 takes TensorRT 9.0 or later, a GPU of compute capability 8.0 or later, and ONNX opset 22, in which convolutions "
                f"have it; this is {runtime.name} {runtime.version}, {capability}, opset up to {runtime.max_opset}"
            )
        return self

    @model_validator(mode="after")
    def _tensorrt_has_constant_zero_points(self) -> Self:
        scheme = self.quantization
        if self.runtime.name != "tensorrt" or scheme is None:
            return self
        if scheme.activation != "int8" or not scheme.activation_symmetric or scheme.int32_bias:
            raise ValueError(
                'TensorRT quantizes with activation = "int8", activation_symmetric = true, int32_bias = false only'
            )
        return self


def version(release: str) -> tuple[int, ...]:
    """A release as numbers: `10.13.3` is (10, 13). The files that TensorRT reads depend on these two."""
    return tuple(int(part) for part in release.split(".")[:2])


def load_target(name: str) -> Target:
    """The target of a name or alias, or of the user's own file (a path that ends in .toml).

    Raises RecipeError for an unknown name, with the nearest names, and for a file with mistakes, with all of them.
    """
    if name.endswith(".toml"):
        return _read_target(expanded(name))
    known = {called: target for target in list_targets() for called in (target.name, *target.aliases)}
    if name not in known:
        raise RecipeError(f"target {name!r} not found{nearest(name, known)}")
    return known[name]


def list_targets() -> list[Target]:
    """The targets that come with edgekd, in the order of their names."""
    return list(_own_targets())


@cache
def _own_targets() -> tuple[Target, ...]:
    return tuple(_read_target(file) for file in sorted(_target_files(), key=lambda file: file.name))


def _target_files() -> Iterator[Traversable]:
    folder: Traversable = files("edgekd") / "targets"
    if not folder.is_dir():  # a checkout: the wheel alone has the folder inside the package
        folder = Path(__file__).parent.parent / "targets"
    return (file for file in folder.iterdir() if file.name.endswith(".toml"))


def _read_target(file: Traversable) -> Target:
    if not file.is_file():
        raise RecipeError(f"target file {file} does not exist; give a target's name, or the path of a target's .toml")
    text = read_text(file)
    document = parse_toml(text, file.name)
    places = Places(file.name, text)
    mistakes = date_mistakes(document, places)
    try:
        target = Target.model_validate_json(as_json(document), strict=True)
    except ValidationError as error:
        mistakes += validation_mistakes(error, Target, places)
    refuse(str(file), mistakes)
    return target
