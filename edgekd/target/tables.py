"""Target: the facts of a device, its runtime and its int8 scheme. Reads targets/*.toml, with sources and dates."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edgekd.base.tables import Table
from edgekd.base.texts import FolderName, Shown, Text
from edgekd.errors import QuantizationError

NUMBERS = re.compile(r"\d{1,6}(\.\d{1,6})*")
ARM = re.compile(r"Cortex|Neoverse|Carmel|Oryon|Kryo|Apple M", re.IGNORECASE)


def _numbered(text: str) -> str:
    if not NUMBERS.fullmatch(text):
        raise ValueError(f'"{text[:60]}" given; write numbers with dots between them: "10.3.0"')
    return text


def _dated(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", text):
        raise ValueError(f'"{text[:60]}" given; write YYYY-MM or YYYY-MM-DD')
    return text


Date = Annotated[str, AfterValidator(_dated)]
Numbered = Annotated[str, AfterValidator(_numbered)]
"""A release that is compared by its numbers."""
Positive = Annotated[float, Field(gt=0)]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
OWN = "own figures"


def version(release: str) -> tuple[int, ...]:
    """A release as numbers: `10.13.3` is (10, 13). The files that TensorRT reads depend on these two."""
    return tuple(int(part) for part in release.split(".")[:2])


class Sourced(Table):
    """A table of figures from a single source, which was read on `date`."""

    shapes_nothing: ClassVar[frozenset[str]] = frozenset({"source", "date"})  # see edgekd.recipe.Section

    source: Text | None = Field(
        default=None, description="who states the figures of this table. Left out: they are told as your own figures"
    )
    date: Date | None = Field(default=None, description="when the source was read: YYYY-MM or YYYY-MM-DD")

    @property
    def origin(self) -> str:
        """Where the table's figures come from: its source and date, or `own figures` if it states no source."""
        return ", ".join([self.source or OWN, *([self.date] if self.date else [])])


class Hardware(Sourced):
    """The hardware of a device. A figure that no source states is left out, never guessed.

    Peaks are dense (no sparsity) and of the GPU or CPU alone, unless their name says `dla`.
    """

    cpu: Text | None = Field(
        default=None,
        description="the processor in words. Without `architecture` its name tells it: Cortex, Neoverse, Apple M and others are arm64",
    )
    architecture: Literal["arm64", "x86-64"] | None = Field(
        default=None,
        description="instruction set of the CPU: a machine of another one decides no budget and no order of candidates. "
        "Left out: as `cpu` tells, arm64 with tensorrt and qnn, else x86-64",
    )
    ram_gb: tuple[Positive, ...] = Field(
        default=(), description="GB, a figure for each variant; weights larger than the largest are refused"
    )
    memory_bandwidth_gbs: Positive | None = Field(
        default=None, description="GB/s; estimates need it. Left out: no latency is estimated"
    )
    peak_int8_tops: Positive | None = Field(
        default=None, description="10^12 int8 operations/s, dense; roof of int8 in estimates"
    )
    peak_int8_dla_tops: Positive | None = Field(
        default=None, description="10^12 int8 operations/s of the DLA alone; shown only"
    )
    peak_int8_with_dla_tops: Positive | None = Field(
        default=None, description="10^12 int8 operations/s of the whole module; shown only"
    )
    peak_fp16_tflops: Positive | None = Field(
        default=None,
        description="10^12 fp16 operations/s, dense; roof of fp16 in estimates, and of fp32 and bf16 without a peak",
    )
    peak_bf16_tflops: Positive | None = Field(
        default=None, description="10^12 bf16 operations/s, dense; roof of bf16 in estimates"
    )
    peak_fp32_tflops: Positive | None = Field(
        default=None, description="10^12 fp32 operations/s, dense; roof of fp32 in estimates"
    )
    peak_fp8_tflops: Positive | None = Field(default=None, description="10^12 fp8 operations/s, dense; shown only")
    peak_fp4_tflops: Positive | None = Field(default=None, description="10^12 fp4 operations/s, dense; shown only")
    kernel_overhead_us: Positive | None = Field(
        default=None,
        description="µs that the start of one kernel takes at least; in estimates. Left out: 0 at the low end, 20 at the high end",
    )
    compute_capability: Numbered | None = Field(
        default=None, description="of an NVIDIA GPU: lint refuses number formats that it lacks; bf16 needs 8.0"
    )
    power_modes: dict[Text, Shown] = Field(default_factory=dict, description="name -> remark; shown only")
    power_w: tuple[Positive, Positive] | None = Field(default=None, description="W, lowest and highest; shown only")
    dla: Text | None = Field(
        default=None, description="the deep learning accelerator in words; left out or `none...`: lint --dla refuses"
    )


class Runtime(Sourced):
    """The software that runs the model on the device."""

    name: Literal["tensorrt", "onnxruntime", "qnn"] = Field(
        description="decides what is exported, the rules of lint, and what measures on the device"
    )
    version: Text | None = Field(
        default=None,
        description="its release; lint checks operators and types against that TensorRT. Left out: 10.15 there",
    )
    precisions: tuple[Precision, ...] = Field(
        description="number formats that gain something there: the candidates of a build"
    )
    default_opset: int = Field(ge=13, description="ONNX opset of the export; `export.opset` of a recipe changes it")
    max_opset: int = Field(ge=13, description="newest ONNX opset that the runtime reads; more is refused")

    @model_validator(mode="after")
    def _tensorrt_has_a_numbered_release(self) -> Self:
        if self.name == "tensorrt" and self.version is not None and not NUMBERS.fullmatch(self.version):
            raise ValueError(f'version is "{self.version}"; write the numbers of a TensorRT release: "10.3.0"')
        return self

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

    version: Text = Field(description="JetPack release, as messages name it")
    l4t: Text = Field(description="Jetson Linux release; shown only")
    cuda: Text = Field(description="CUDA release; shown only")
    tensorrt: Numbered = Field(
        description="TensorRT release; of the first entry the same as `runtime.version`. Lint also checks the others"
    )
    python: Text = Field(description="Python on the device; shown only")


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

    sites: Literal["inputs", "inputs_and_output", "among_integers", "skip", "passes_on", "commutes"] = Field(
        description="which of its tensors are quantized; see below"
    )
    activations: tuple[Literal["int8", "uint8", "uint16"], ...] = Field(
        default=("int8", "uint8"), description="types of what it reads and gives; the scheme's `activation` must be one"
    )
    weight_per_channel: bool | None = Field(
        default=None, description="a scale for each output channel of its weight. Left out: as the scheme says"
    )
    rank: Literal[2] | None = Field(
        default=None, description="dimensions of its input: further ones are made one before it. Left out: any"
    )
    gives_float: bool = Field(
        default=False, description="can give float where nobody reads integers, so that logits do not tie"
    )


class Operators(Table):
    """The operators that a target computes in integers; all others stay float. `other`: operators without a name here."""

    conv: Operator | None = Field(default=None, description="convolutions")
    conv_transpose: Operator | None = Field(
        default=None,
        description="transposed convolutions; left out with `conv` given: they are written as convolutions",
    )
    linear: Operator | None = Field(default=None, description="matrix products with a constant weight")
    matmul: Operator | None = Field(default=None, description="other matrix products")
    add: Operator | None = Field(default=None, description="additions")
    mul: Operator | None = Field(default=None, description="multiplications")
    avg_pool: Operator | None = Field(default=None, description="average pools and means over the image")
    sigmoid: Operator | None = Field(default=None, description="sigmoids; with `mul` also SiLU")
    max_pool: Operator | None = Field(default=None, description="max pools")
    concat: Operator | None = Field(default=None, description="concatenations")
    move: Operator | None = Field(default=None, description="reshapes and transpositions")
    other: Operator | None = Field(default=None, description="every operator without a name here")


class Quantization(Sourced):
    """The target's int8 scheme; it drives calibration, QAT and export (see edgekd.quantize.scheme)."""

    activation: Literal["int8", "uint8", "uint16"] = Field(
        description="type of quantized activations; tensorrt takes int8"
    )
    activation_symmetric: bool = Field(description="zero-points of activations are 0; tensorrt takes true")
    weight: Literal["int8"] = Field(default="int8", description="type of quantized weights")
    weight_per_channel: bool = Field(
        default=True, description="a scale for each output channel of a weight, not one for all"
    )
    int32_bias: bool = Field(
        description="biases are int32 too, at input scale times weight scale; tensorrt takes false"
    )
    min_channels: int = Field(
        default=1, ge=1, description="layers with fewer channels stay float: their integer kernels are slower there"
    )
    pad_channels_to: int = Field(
        default=1,
        ge=1,
        description="channels of uint8 images are padded to a multiple, which integer convolutions read at once; above 1 the "
        "normalisation has channels last",
    )
    pad_filters_to: int = Field(
        default=1, ge=1, description="fewer filters are padded to as many, which integer convolutions write at once"
    )
    rest: Literal["fp32", "fp16"] = Field(
        default="fp32",
        description="type of what is not quantized; fp16 takes opset 19 and fp16 in `runtime.precisions`",
    )
    fuses: tuple[Literal["relu", "relu6"], ...] = Field(
        default=(), description="activations that are part of the operator before them: nothing is quantized between"
    )
    operators: Operators = Field(description="the operators with integer kernels; a table of its own")

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

    name: FolderName = Field(description="names the bundle's folder: build/RECIPE/NAME")
    title: Text = Field(description="the device in words, in reports and messages")
    aliases: tuple[FolderName, ...] = Field(
        default=(),
        description="further names of a target that comes with edgekd; a file of your own is named by its path",
    )
    notes: tuple[Text, ...] = Field(
        default=(), description="what a user should know; `edgekd targets NAME` prints them"
    )
    hardware: Hardware = Field(description="a table of its own")
    runtime: Runtime = Field(description="a table of its own")
    jetpack: tuple[JetPack, ...] = Field(default=(), description="tables of their own; none: the board has no JetPack")
    quantization: Quantization | None = Field(
        default=None, description="a table of its own. Left out: nothing is quantized for this target"
    )

    @property
    def architecture(self) -> Literal["arm64", "x86-64"]:
        """The instruction set of the CPU: as the file states it, else as the processor's name and the runtime tell."""
        if self.hardware.architecture is not None:
            return self.hardware.architecture
        is_arm = bool(ARM.search(self.hardware.cpu or "")) or self.runtime.name in ("tensorrt", "qnn")
        return "arm64" if is_arm else "x86-64"

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
