"""Each rule of lint on the smallest graph that breaks it, and on the same graph put right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekd.errors import DataError, ModelError
from edgekd.export import to_bf16, to_onnx
from edgekd.export.lint import Finding, counted, grouped, lines, lint, listed
from edgekd.export.lint_runtime import lists_around, published
from edgekd.target import Target, load_target
from tests.builders.optimised import optimised

NANO = load_target("jetson-orin-nano")  # JetPack 6, 7 and 5
ORIN = NANO.model_copy(update={"jetpack": NANO.jetpack[:1]})  # TensorRT 10.3 alone
AGX = load_target("jetson-agx-orin").model_copy(update={"jetpack": NANO.jetpack[:1]})  # the same, with a DLA
XAVIER = load_target("jetson-xavier-nx")  # TensorRT 8.5
X86 = load_target("x86-cpu")
WEIGHTS = "int8[32,32,1,1] w = {" + ", ".join(["3"] * 1024) + "}"
PER_CHANNEL = "float[32] s_w = {" + ", ".join(["0.1"] * 32) + "}, int8[32] z_w = {" + ", ".join(["0"] * 32) + "}"


def model(body: str, constants: str = "", shape: str = "1,32,4,4", opset: int = 19, kind: str = "float") -> str:
    return (
        f'<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"g ({kind}[{shape}] x) => ({kind}[{shape}] y) <{constants}> {{ {body} }}"
    )


def conv(
    source: str = "d",
    skip: str = "",
    after: str = "y = Relu (c)",
    weights: str = WEIGHTS,
    per_channel: str = PER_CHANNEL,
) -> str:
    """x -> Q -> DQ -> Conv with dequantized weights -> `after`, as TensorRT likes it."""
    constants = f"{weights}, {per_channel}, float s = {{0.1}}, int8 z = {{0}}{skip}"
    axis = "<axis = 0>" if "[" in per_channel.split("s_w")[0] else ""
    body = (
        "q = QuantizeLinear (x, s, z)\nd = DequantizeLinear (q, s, z)\n"
        f"wf = DequantizeLinear {axis} (w, s_w, z_w)\nc = Conv ({source}, wf)\n{after}"
    )
    return model(body, constants)


def found(tmp_path: Path, text: str, target: Target = ORIN, **options: object) -> list[Finding]:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return lint(path, target, **options)  # type: ignore[arg-type]


def rules(tmp_path: Path, text: str, target: Target = ORIN, **options: object) -> set[tuple[str, str, str]]:
    """(severity, rule, node) of what lint says."""
    return {(f.severity, f.rule, f.node) for f in found(tmp_path, text, target, **options)}


# ------------------------------------------------------------------------------------------------------------ placement


def test_a_graph_as_the_target_likes_it_has_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, conv()) == []


@pytest.mark.parametrize(
    ("zero_point", "dtype", "why"),
    [("7", "int8", "other than 0"), ("0", "uint8", "uint8"), ("128", "uint8", "other than 0")],
)
def test_a_zero_point_that_is_no_int8_zero_is_refused_on_tensorrt(
    tmp_path: Path, zero_point: str, dtype: str, why: str
) -> None:
    body = "q = QuantizeLinear (x, s, z)\ny = DequantizeLinear (q, s, z)"
    text = model(body, f"float s = {{0.1}}, {dtype} z = {{{zero_point}}}")

    (finding,) = found(tmp_path, text)

    assert (finding.severity, finding.rule, finding.node) == ("error", "zero_points", "QuantizeLinear -> q")
    assert why in finding.why and "int8" in finding.remedy
    assert not any(f.rule == "zero_points" for f in found(tmp_path, text, X86))


def test_a_computed_zero_point_is_refused_on_tensorrt(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 19]>
    g (float[1,32,4,4] x, int8 z) => (float[1,32,4,4] y) <float s = {0.1}> {
      q = QuantizeLinear (x, s, z)
      y = DequantizeLinear (q, s, z)
    }"""
    assert [f.why for f in found(tmp_path, text) if f.rule == "zero_points"] == [
        "the zero-point is computed; TensorRT's parser takes constants only"
    ]


def test_a_left_out_zero_point_means_uint8(tmp_path: Path) -> None:
    text = model("q = QuantizeLinear (x, s)\ny = DequantizeLinear (q, s)", "float s = {0.1}")
    assert ("error", "zero_points", "QuantizeLinear -> q") in rules(tmp_path, text)


def test_one_scale_for_all_channels_of_a_weight(tmp_path: Path) -> None:
    text = conv(per_channel="float s_w = {0.1}, int8 z_w = {0}")
    assert rules(tmp_path, text) == {("warning", "per_tensor_weights", "Conv -> c")}


def test_a_layer_with_one_float_operand(tmp_path: Path) -> None:
    (finding,) = [
        f for f in found(tmp_path, conv(source="x", after="e = Relu (c)\ny = Add (e, d)")) if "half" in f.rule
    ]
    assert finding.node == "Conv -> c" and finding.why.startswith("its input is not quantized")


def test_a_float_skip_beside_an_int8_convolution(tmp_path: Path) -> None:
    bad, good = conv(after="y = Add (c, x)"), conv(after="y = Add (c, d)")

    assert rules(tmp_path, bad) == {("warning", "unquantized_skips", "Add -> y")}
    assert found(tmp_path, good) == []


def test_onnxruntime_adds_in_int8_where_both_inputs_are(tmp_path: Path) -> None:
    one = conv(after="y = Add (c, d)")
    both = conv(after="p = QuantizeLinear (c, s, z)\ne = DequantizeLinear (p, s, z)\ny = Add (e, d)")

    assert ("warning", "unquantized_skips", "Add -> y") in rules(tmp_path, one, X86)
    assert found(tmp_path, both, X86) == []


def test_a_bias_is_no_skip(tmp_path: Path) -> None:
    assert found(tmp_path, conv(skip=", float[1] b = {1}", after="y = Add (c, b)")) == []


@pytest.mark.parametrize("follower", ["Relu", "HardSwish"])
def test_a_pair_between_a_convolution_and_its_activation(tmp_path: Path, follower: str) -> None:
    text = conv(after=f"p = QuantizeLinear (c, s, z)\ne = DequantizeLinear (p, s, z)\ny = {follower} (e)")
    assert rules(tmp_path, text) == {("warning", "pairs_inside_a_fusion", "QuantizeLinear -> p")}


def test_a_pair_between_a_convolution_and_its_batch_normalization(tmp_path: Path) -> None:
    ones = ", ".join(f"float[32] {name} = {{{', '.join(['1'] * 32)}}}" for name in ("g1", "b1", "m1", "v1"))
    after = "p = QuantizeLinear (c, s, z)\ne = DequantizeLinear (p, s, z)\ny = BatchNormalization (e, g1, b1, m1, v1)"
    assert rules(tmp_path, conv(skip=f", {ones}", after=after)) == {
        ("warning", "pairs_inside_a_fusion", "QuantizeLinear -> p")
    }


def test_a_pair_before_x_times_its_sigmoid_is_inside_a_fusion_and_before_a_gate_it_is_not(tmp_path: Path) -> None:
    pair = "p = QuantizeLinear (c, s, z)\ne = DequantizeLinear (p, s, z)\n"
    silu = conv(after=pair + "g = Sigmoid (e)\ny = Mul (e, g)")
    other = conv(after=pair + "y = Mul (e, x)")

    assert rules(tmp_path, silu) == {("warning", "pairs_inside_a_fusion", "QuantizeLinear -> p")}
    assert found(tmp_path, other) == []


def test_a_tensor_that_is_quantized_again_with_the_same_scale(tmp_path: Path) -> None:
    again = "p = QuantizeLinear (d, s, z)\ne = DequantizeLinear (p, s, z)\n"
    text = conv(source="e").replace("wf =", again + "wf =")
    assert rules(tmp_path, text) == {("warning", "surplus_pairs", "QuantizeLinear -> p")}


def test_onnxruntime_removes_a_second_pair_itself(tmp_path: Path) -> None:
    again = "p = QuantizeLinear (d, s, z)\ne = DequantizeLinear (p, s, z)\n"
    assert ("note", "surplus_pairs", "QuantizeLinear -> p") in rules(
        tmp_path, conv(source="e").replace("wf =", again + "wf ="), X86
    )


def test_a_tensor_that_two_pairs_quantize_alike(tmp_path: Path) -> None:
    text = conv(after="p = QuantizeLinear (x, s, z)\ne = DequantizeLinear (p, s, z)\ny = Add (c, e)")
    assert rules(tmp_path, text) == {("warning", "surplus_pairs", "QuantizeLinear -> p")}


def test_a_pair_before_what_computes_in_float(tmp_path: Path) -> None:
    text = conv(after="r = Relu (c)\np = QuantizeLinear (r, s, z)\ne = DequantizeLinear (p, s, z)\ny = Exp (e)")
    assert rules(tmp_path, text) == {("warning", "surplus_pairs", "QuantizeLinear -> p")}


def test_an_int32_bias_is_refused_by_tensorrt_s_parser_and_taken_by_onnxruntime(tmp_path: Path) -> None:
    text = with_bias(0.01)
    assert rules(tmp_path, text) == {("error", "int32_biases", "DequantizeLinear -> bf")}
    assert found(tmp_path, text, X86) == []


def with_bias(scale: float) -> str:
    """A convolution whose int32 bias has this scale; that of input times weight is 0.01."""
    bias = f", int32[32] b = {{{', '.join(['5'] * 32)}}}, float[32] s_b = {{{', '.join(['0.01'] * 31)}, {scale}}}"
    after = "c_q = QuantizeLinear (c, s, z)\ny = DequantizeLinear (c_q, s, z)"
    text = conv(skip=bias, after=after)
    return text.replace("c = Conv (d, wf)", "bf = DequantizeLinear <axis = 0> (b, s_b)\nc = Conv (d, wf, bf)")


@pytest.mark.parametrize(("scale", "integer"), [(0.01, True), (0.010005, True), (0.0105, False), (0.02, False)])
def test_a_bias_in_other_steps_than_the_sums_makes_onnxruntime_compute_in_float(
    scale: float, integer: bool, tmp_path: Path
) -> None:
    expected = set() if integer else {("warning", "bias_scales", "Conv -> c")}
    assert rules(tmp_path, with_bias(scale), X86) == expected
    # onnxruntime itself: int8 activations have integer kernels behind this key
    assert ("QLinearConv" in optimised(tmp_path / "model.onnx", qdqisint8allowed="1")) == integer


def test_a_bias_beside_an_input_of_a_scale_for_each_row_ends_in_no_error_of_numpy(tmp_path: Path) -> None:
    text = with_bias(0.01).replace(
        "float s = {0.1}, int8 z = {0}", "float[4] s = {0.1, 0.1, 0.1, 0.1}, int8[4] z = {0, 0, 0, 0}"
    )
    text = (
        text.replace("Linear (x, s", "Linear <axis = 2> (x, s")
        .replace("Linear (q, s", "Linear <axis = 2> (q, s")
        .replace("Linear (c", "Linear <axis = 2> (c")
    )
    assert not {finding.rule for finding in found(tmp_path, text, X86)} & {"bias_scales"}


def test_fewer_than_16_channels_in_int8(tmp_path: Path) -> None:
    weights = "int8[32,8,1,1] w = {" + ", ".join(["3"] * 256) + "}"
    thin = conv(weights=weights).replace("x) =>", "x) =>").replace("[1,32,4,4] x", "[1,8,4,4] x")
    depthwise = conv(weights="int8[32,1,1,1] w = {" + ", ".join(["3"] * 32) + "}").replace(
        "Conv (", "Conv <group = 32> ("
    )

    (finding,) = found(tmp_path, thin)

    assert (finding.severity, finding.rule) == ("note", "few_channels")  # wide on one side, which still gains
    assert "8 channels in and 32 out" in finding.why
    narrow = "int8[8,8,1,1] w = {" + ", ".join(["3"] * 64) + "}"
    eight = "float[8] s_w = {" + ", ".join(["0.1"] * 8) + "}, int8[8] z_w = {" + ", ".join(["0"] * 8) + "}"
    small = conv(weights=narrow, per_channel=eight).replace("[1,32,4,4]", "[1,8,4,4]")
    found_there = rules(tmp_path, small)
    assert any(severity == "warning" and rule == "few_channels" for severity, rule, _ in found_there), found_there
    assert found(tmp_path, depthwise) == []


def test_a_constant_with_too_few_numbers_is_told(tmp_path: Path) -> None:
    text = conv(per_channel=PER_CHANNEL.replace("float[32] s_w", "float[8] s_w"))
    with pytest.raises(ModelError, match=r"model\.onnx .*valid ONNX"):
        found(tmp_path, text)


# -------------------------------------------------------------------------------------------------------------- runtime


def test_a_layer_that_stays_in_fp32_beside_int8_ones_is_told_where_engines_are_strongly_typed(tmp_path: Path) -> None:
    text = conv(after="r = Relu (c)\ny = MatMul (r, m)", skip=", float[4,4] m = {" + ", ".join(["1"] * 16) + "}")

    assert rules(tmp_path, text) == {("warning", "fp32_layers", "MatMul -> y")}
    assert not any(f.rule == "fp32_layers" for f in found(tmp_path, text, XAVIER))
    assert found(tmp_path, model("y = MatMul (x, x)", shape="4,4")) == []


def test_an_operator_that_the_parser_does_not_list_is_refused(tmp_path: Path) -> None:
    text = model("y = Det (x)", shape="1,4,4").replace("float[1,4,4] y", "float[1] y")
    (finding,) = found(tmp_path, text)
    assert (finding.severity, finding.rule, finding.node) == ("error", "tensorrt_operators", "Det -> y")
    assert "TensorRT 10.3.0" in finding.why and "docs/operators.md" in finding.why


@pytest.mark.parametrize(("target", "severity"), [(XAVIER, "error"), (ORIN, None)])
def test_an_operator_is_refused_before_the_release_that_brought_it(
    tmp_path: Path, target: Target, severity: str | None
) -> None:
    ones = ", ".join(f"float[4] {name} = {{1, 1, 1, 1}}" for name in ("a", "b"))
    text = model("y = LayerNormalization (x, a, b)", ones, shape="1,4", opset=17)
    assert {f.severity for f in found(tmp_path, text, target)} == ({severity} if severity else set())


def test_an_operator_of_unknown_release_between_two_lists_is_doubtful(tmp_path: Path) -> None:
    assert ("warning", "tensorrt_operators", "Gelu -> y") in rules(tmp_path, model("y = Gelu (x)", opset=20))


def test_an_operator_of_another_domain_needs_a_plugin(tmp_path: Path) -> None:
    text = model("y = com.microsoft.FusedGelu (x)")
    assert ("error", "tensorrt_operators", "FusedGelu -> y") in rules(tmp_path, text)


def test_uint8_is_read_by_cast_alone_on_tensorrt(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (uint8[1,4,4,3] x) => (float[1,3,4,4] y) { BODY }"""
    first = text.replace("BODY", "t = Transpose <perm = [0, 3, 1, 2]> (x)\ny = Cast <to = 1> (t)")
    last = text.replace("BODY", "c = Cast <to = 1> (x)\ny = Transpose <perm = [0, 3, 1, 2]> (c)")

    assert rules(tmp_path, first) == {("error", "tensorrt_types", "Transpose -> t")}
    for target in (ORIN, XAVIER):
        assert found(tmp_path, last, target) == []


def test_the_shape_of_a_uint8_tensor_is_doubtful_alone(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (uint8[N,4] x) => (int64[2] y) { y = Shape (x) }"""
    assert rules(tmp_path, text) == {("warning", "tensorrt_types", "Shape -> y")}


def test_the_type_of_a_constant_of_shape_is_its_elements(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (int64[2] x) => (float[N,M] y) { y = ConstantOfShape (x) }"""
    assert found(tmp_path, text, XAVIER) == []


def test_fp64_is_cast_and_unsigned_words_are_refused_on_tensorrt(tmp_path: Path) -> None:
    assert rules(tmp_path, model("y = Relu (x)", kind="double")) == {("warning", "tensorrt_types", "Relu -> y")}
    assert rules(tmp_path, model("y = Identity (x)", kind="uint32")) == {("error", "tensorrt_types", "Identity -> y")}


def test_a_type_of_a_newer_gpu_or_release_is_refused(tmp_path: Path) -> None:
    bf16 = model("y = Relu (x)", kind="bfloat16", opset=17)
    assert any("8.5.2; 9.0 brought it" in f.why for f in found(tmp_path, bf16, XAVIER))
    assert found(tmp_path, bf16, ORIN) == []
    fp8 = model("h = Cast <to = 17> (x)\ny = Cast <to = 1> (h)")
    assert any("compute capability 8.9, jetson-orin-nano has 8.7" in f.why for f in found(tmp_path, fp8, ORIN))


def test_onnxruntime_is_asked_for_every_operator_that_it_lacks(tmp_path: Path) -> None:
    """On the CPU it has neither Softplus nor Selu in fp64; the Exp between them is there."""
    text = model("a = Softplus (x)\nb = Exp (a)\ny = Selu (b)", kind="double")
    lacking = [f for f in found(tmp_path, text, X86) if f.rule == "onnxruntime_operators"]
    assert [f.node for f in lacking] == ["Softplus -> a", "Selu -> y"]
    assert all(f.severity == "error" and "onnxruntime" in f.why for f in lacking)


def test_an_operator_of_onnxruntime_s_own_is_taken_there(tmp_path: Path) -> None:
    assert found(tmp_path, model("y = com.microsoft.Gelu (x)"), X86) == []


def test_a_precision_that_the_target_does_not_run(tmp_path: Path) -> None:
    text = model("y = Relu (x)", kind="float16")
    assert rules(tmp_path, text, X86) == {("warning", "precisions", "Relu -> y")}
    assert found(tmp_path, text, ORIN) == []


def test_bf16_is_taken_where_the_target_has_it_and_told_elsewhere(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(576, 4)
    ).eval()
    to_onnx(model, tmp_path / "fp32.onnx", torch.zeros(2, 3, 8, 8), opset=22)
    to_bf16(tmp_path / "fp32.onnx", tmp_path / "model.onnx")
    assert lint(tmp_path / "model.onnx", load_target("jetson-thor")) == []
    rules = {found.rule for found in lint(tmp_path / "model.onnx", load_target("x86-cpu")) if found.severity != "note"}
    assert rules == {"onnxruntime_operators", "precisions"}
    large = {"input": 1e6 * np.ones((2, 3, 8, 8), np.float32)}
    assert lint(tmp_path / "model.onnx", load_target("jetson-thor"), samples=large) == []
    assert "fp16_values" in {f.rule for f in lint(tmp_path / "fp32.onnx", load_target("jetson-thor"), samples=large)}


def test_an_opset_beyond_the_target_s_is_refused_and_that_of_an_older_jetpack_noted(tmp_path: Path) -> None:
    text = model("y = Relu (x)", opset=20)
    assert rules(tmp_path, text, XAVIER) == {("error", "opsets", "the graph")}
    (note,) = found(tmp_path, text, NANO)
    assert note.severity == "note" and "TensorRT 8.5.2 takes up to 17" in note.why
    assert {f.severity for f in found(tmp_path, model("y = Relu (x)", opset=22), ORIN)} == {"error"}


def test_weights_beyond_the_device_s_memory(tmp_path: Path) -> None:
    """32 x 32 floats are 4,096 bytes."""
    text = model("y = Conv (x, w)", "float[32, 32, 1, 1] w = {" + ", ".join(["0.5"] * 1024) + "}")
    for bytes_of_memory, expected in ((4097, set()), (4095, {("error", "memory", "the graph")})):
        hardware = ORIN.hardware.model_copy(update={"ram_gb": (bytes_of_memory / 2e9, bytes_of_memory / 1e9)})
        small = ORIN.model_copy(update={"hardware": hardware})
        assert {rule for rule in rules(tmp_path, text, small) if rule[1] == "memory"} == expected


def test_a_constant_that_fp16_cannot_hold(tmp_path: Path) -> None:
    text = model("y = Add (x, m)", "float m = {-100000}")
    (finding,) = found(tmp_path, text)
    assert (finding.severity, finding.rule, finding.node) == ("warning", "fp16_constants", "Add -> y")
    assert "1e+05" in finding.why and found(tmp_path, text, X86) == []


def test_a_constant_that_overflowed_in_the_conversion_is_an_error(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(model("y = Add (x, m)", "float16 m = {1}", kind="float16"))
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(np.inf, np.float16), "m"))
    onnx.save(proto, tmp_path / "model.onnx")
    assert [(f.severity, f.rule) for f in lint(tmp_path / "model.onnx", ORIN)] == [("error", "fp16_constants")]


def test_values_beyond_fp16_are_found_on_samples(tmp_path: Path) -> None:
    text = model("a = Mul (x, k)\nb = Mul (a, k)\ny = Tanh (b)", "float k = {300}")
    samples = {"x": np.ones((3, 32, 4, 4), np.float32)}  # a = 300, b = 90,000

    assert rules(tmp_path, text, samples=samples) == {("warning", "fp16_values", "Mul -> b")}
    assert rules(tmp_path, text, samples={"x": 2 * samples["x"]}) == {
        ("warning", "fp16_values", "Mul -> b"),
        ("note", "fp16_values", "Mul -> a"),
    }
    assert found(tmp_path, text) == []


def test_a_model_with_external_weights_is_read_and_run(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(model("a = Mul (x, k)\ny = Tanh (a)", "float k = {1}"))
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(1e5, np.float32), "k"))
    onnx.save(proto, tmp_path / "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    assert (tmp_path / "big.bin").stat().st_size == 4

    findings = lint(tmp_path / "big.onnx", ORIN, samples={"x": np.ones((1, 32, 4, 4), np.float32)})

    assert [(f.rule, f.node) for f in findings] == [("fp16_constants", "Mul -> a"), ("fp16_values", "Mul -> a")]
    assert lint(tmp_path / "big.onnx", X86) == []


def test_a_value_that_is_infinite_in_fp16_is_an_error(tmp_path: Path) -> None:
    text = model("a = Mul (x, x)\ny = Tanh (a)", kind="float16")
    samples = {"x": np.full((1, 32, 4, 4), 300, np.float16)}
    assert rules(tmp_path, text, samples=samples) == {("error", "fp16_values", "Mul -> a")}


def test_samples_that_the_model_does_not_take_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"takes x FLOAT"):
        found(tmp_path, model("y = Relu (x)"), samples={"x": np.ones((2, 7), np.float32)})
    for nothing in ({}, {"x": np.ones((0, 32, 4, 4), np.float32)}):
        with pytest.raises(DataError, match=r"model\.onnx hold no rows"):
            found(tmp_path, model("y = Relu (x)"), samples=nothing)


def test_samples_are_read_by_name_or_for_the_only_input(tmp_path: Path) -> None:
    text = model("a = Mul (x, x)\ny = Tanh (a)")
    rows = np.full((2, 32, 4, 4), 300, np.float32)
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", x=rows)

    for name in ("rows.npy", "rows.npz"):
        assert rules(tmp_path, text, samples=tmp_path / name) == {("warning", "fp16_values", "Mul -> a")}
    (tmp_path / "text.npz").write_text("no array")
    with pytest.raises(DataError, match=r"text\.npz .*\.npy or \.npz"):
        found(tmp_path, text, samples=tmp_path / "text.npz")


def test_the_dla_takes_static_shapes(tmp_path: Path) -> None:
    batch, both = (model("y = Relu (x)", shape=shape) for shape in ("N,32,4,4", "N,32,H,W"))

    assert {f.severity for f in found(tmp_path, batch, AGX)} == {"note"}
    assert {f.severity for f in found(tmp_path, batch, AGX, dla=True)} == {"warning"}
    assert {f.severity for f in found(tmp_path, both, AGX, dla=True)} == {"error"}
    assert found(tmp_path, model("y = Relu (x)"), AGX, dla=True) == [] == found(tmp_path, both, ORIN)
    assert {f.severity for f in found(tmp_path, batch, ORIN, dla=True)} == {"error"}


# ---------------------------------------------------------------------------------------------------------- files, words


def test_what_is_no_onnx_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    invalid = onnx.parser.parse_model(model("y = Relu (x)"))
    invalid.graph.node[0].input[0] = "nothing"
    for content in (b"", b"no protobuf at all", invalid.SerializeToString()):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.onnx .*valid ONNX") as caught:
            lint(path, ORIN)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"none\.onnx does not exist"):
        lint(tmp_path / "none.onnx", ORIN)


def test_functions_and_constants_are_looked_into(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 19, "own" : 1]>
    g (float[1,4,4] x) => (float[1] y) { y = own.f (x) }
    <domain: "own", opset_import: ["" : 19]>
    f (a) => (b) { b = Det (a) }"""
    assert [f.rule for f in found(tmp_path, text)] == ["tensorrt_operators"]


def test_errors_come_first_and_alike_findings_share_a_block(tmp_path: Path) -> None:
    findings = found(tmp_path, conv(after="r = Relu (c)\ny = Add (r, x)\nz1 = Det (x)"))
    assert counted([]) == "nothing found" and counted(findings).startswith("1 error")
    twice = [Finding("note", "r", node, "why", "remedy") for node in ("a", "b")]
    assert [(f.node, nodes) for f, nodes in grouped(twice)] == [("a", ["a", "b"])]
    assert listed(["n"] * 10) == "n, n, n, n, n, n, n, n and 2 more"
    assert list(lines(twice)) == ["note     r: a, b", "         why", "         remedy: remedy"]


def test_lists_hold_for_the_releases_up_to_the_next_one() -> None:
    lists, since = published()
    assert [listed.release for listed in lists] == ["8.5", "9.2", "10.15"]
    assert [listed.release for listed in lists_around("8.5.2")] == ["8.5", "8.5"]
    assert [listed.release for listed in lists_around("10.3.0")] == ["9.2", "10.15"]
    assert [listed.release for listed in lists_around("11.4")] == ["10.15", "10.15"]
    # What the change log dates is in no list before that release, and in each list from it on.
    for name, first in since.items():
        for entry in lists:
            older = tuple(map(int, entry.release.split("."))) < tuple(map(int, first.split(".")))
            assert (name in entry.types) != older, (name, entry.release)
