"""Each entry of tensorrt_restrictions.toml is broken by an example and kept by a like one, and names what ONNX has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekd.errors import ModelError
from edgekd.export.lint import lint, read_model
from edgekd.export.lint_restrictions import restrictions
from edgekd.target import load_target

ORIN, XAVIER = load_target("jetson-orin-nano"), load_target("jetson-xavier-nx")
THOR = load_target("jetson-thor")
RULE = "tensorrt_restrictions"


def graph(body: str, *, inputs: str, constants: str = "", opset: int = 17, outputs: str = "float[A] y") -> str:
    return f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}'


def resize(attributes: str, opset: int = 18) -> str:
    return graph(
        f'y = Resize <mode = "linear", {attributes}> (x, , s)' if "mode =" not in attributes.replace("_mode", "")
        else f"y = Resize <{attributes}> (x, , s)",
        inputs="float[1,3,8,8] x", constants="float[4] s = {1,1,2,2}", opset=opset, outputs="float[1,3,16,16] y",
    )  # fmt: skip


def pool(body: str, shape: str = "1,3,8,8", outputs: str = "float[A,B,C,D] y") -> str:
    return graph(body, inputs=f"float[{shape}] x", outputs=outputs)


def recurrent(kind: str, gates: int, attributes: str, directions: int = 1) -> str:
    w = f"float[{directions},{gates * 4},3] w, float[{directions},{gates * 4},4] r"
    return graph(
        f"y = {kind} <hidden_size = 4, {attributes}> (x, w, r)", inputs=f"float[5,2,3] x, {w}", opset=14,
        outputs=f"float[A,{directions},B,C] y",
    )  # fmt: skip


BOTH = 'direction = "bidirectional", activations = '
IMAGE = "float[1,3,8,8] x"
ATTENTION = "float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v"
# what breaks a restriction -> what is said, and a like graph that breaks none
BROKEN: dict[str, tuple[str, str, str]] = {
    "resize mode": ("mode is area", resize('mode = "area"'), resize('mode = "cubic"')),
    "resize coordinates": ("coordinate_transformation_mode is tf_crop_and_resize",
        resize('coordinate_transformation_mode = "tf_crop_and_resize"'), resize('coordinate_transformation_mode = "asymmetric"')),
    "resize nearest": ("nearest_mode is simple", resize('mode = "nearest", nearest_mode = "simple"'),
        resize('mode = "nearest", nearest_mode = "floor"')),
    "antialias": ("antialias is 1", resize("antialias = 1"), resize("antialias = 0")),
    "aspect": ("keep_aspect_ratio_policy is not_larger", graph('y = Resize <keep_aspect_ratio_policy = "not_larger"> (x, , , s)',
        inputs=IMAGE, constants="int64[4] s = {1,3,16,16}", opset=18, outputs="float[A,B,C,D] y"),
        resize('keep_aspect_ratio_policy = "stretch"')),
    "upsample": ("mode is cubic", graph('y = Upsample <mode = "cubic"> (x, s)', inputs=IMAGE, constants="float[4] s = {1,1,2,2}", opset=9,
        outputs="float[1,3,16,16] y"), graph('y = Upsample <mode = "linear"> (x, s)', inputs=IMAGE, constants="float[4] s = {1,1,2,2}",
        opset=9, outputs="float[1,3,16,16] y")),
    "dilated pool": ("dilations is 2", pool("y = MaxPool <kernel_shape = [2,2], dilations = [2,1]> (x)"),
        pool("y = MaxPool <kernel_shape = [2,2], dilations = [1,1]> (x)")),
    "4-d pool": ("has rank 6", pool("y = MaxPool <kernel_shape = [2,2,2,2]> (x)", "1,3,8,8,8,8", "float[A,B,C,D,E,F] y"),
        pool("y = MaxPool <kernel_shape = [2]> (x)", "1,3,8", "float[A,B,C] y")),
    "p of a pool": ("p is 3", pool("y = LpPool <kernel_shape = [2,2], p = 3> (x)"), pool("y = LpPool <kernel_shape = [2,2], p = 1> (x)")),
    "indices": ("output i is read", pool("y, i = MaxPool <kernel_shape = [2,2]> (x)",
        outputs="float[A,B,C,D] y, int64[A,B,C,D] i"), pool("y = MaxPool <kernel_shape = [2,2]> (x)")),
    "training": ("training_mode is 1", graph("y, m, v = BatchNormalization <training_mode = 1> (x, a, a, a, a)",
        inputs=f"{IMAGE}, float[3] a", opset=15, outputs="float[1,3,8,8] y"),
        graph("y = BatchNormalization (x, a, a, a, a)", inputs=f"{IMAGE}, float[3] a", opset=15, outputs="float[1,3,8,8] y")),
    "sorted": ("sorted is 0", graph("y, i = TopK <sorted = 0> (x, k)", inputs="float[9] x", constants="int64[1] k = {3}"),
        graph("y, i = TopK <sorted = 1> (x, k)", inputs="float[9] x", constants="int64[1] k = {3}")),
    "k": ("is 3840", graph("y, i = TopK (x, k)", inputs="float[9000] x", constants="int64[1] k = {3840}"),
        graph("y, i = TopK (x, k)", inputs="float[9000] x", constants="int64[1] k = {3839}")),
    "axis of a sum": ("input a is computed from the samples or from free sizes", graph("y = CumSum (x, a)", inputs="float[9] x, int64 a"),
        graph("y = CumSum (x, a)", inputs="float[9] x", constants="int64 a = {0}")),
    "sliced axes": ("input a is computed from the samples or from free sizes", graph("y = Slice (x, s, e, a)", inputs="float[9] x, int64[1] a",
        constants="int64[1] s = {0}, int64[1] e = {3}"), graph("y = Slice (x, s, e, a)", inputs="float[9] x",
        constants="int64[1] s = {0}, int64[1] e = {3}, int64[1] a = {0}")),
    "depth": ("input d is computed from the samples or from free sizes", graph("y = OneHot (x, d, v)", inputs="int64[9] x, int64 d",
        constants="float[2] v = {0,1}", outputs="float[A,B] y"), graph("s = Shape (x) d = Squeeze (s) y = OneHot (x, d, v)",
        inputs="int64[9] x", constants="float[2] v = {0,1}", outputs="float[A,B] y")),
    "reduced axes": ("input a is computed from the samples or from free sizes", graph("y = ReduceSum (x, a)", inputs="float[9,3] x, int64[1] a"),
        graph("b = Neg (a) y = ReduceSum <keepdims = 0> (x, b)", inputs="float[9,3] x", constants="int64[1] a = {1}")),
    "eye": ("has the shape [N,3]", graph("y = EyeLike (x)", inputs="float[N,3] x", outputs="float[N,3] y"),
        graph("y = EyeLike (x)", inputs="float[3,3] x", outputs="float[3,3] y")),
    "grid of a volume": ("has rank 5", graph("y = GridSample (x, g)", inputs="float[1,1,4,4,4] x, float[1,2,2,2,3] g", opset=20,
        outputs="float[1,1,2,2,2] y"), graph("y = GridSample (x, g)", inputs="float[1,1,4,4] x, float[1,2,2,2] g", opset=16,
        outputs="float[1,1,2,2] y")),
    "scattered sums": ("reduction is add", graph('y = ScatterND <reduction = "add"> (x, i, u)',
        inputs="float[9] x, int64[2,1] i, float[2] u"), graph("y = ScatterND (x, i, u)", inputs="float[9] x, int64[2,1] i, float[2] u")),
    "coupled gates": ("input_forget is 1", recurrent("LSTM", 4, "input_forget = 1"), recurrent("LSTM", 4, "input_forget = 0")),
    "batch first": ("layout is 1", graph("y = LSTM <hidden_size = 4, layout = 1> (x, w, r)", opset=14,
        inputs="float[2,5,3] x, float[1,16,3] w, float[1,16,4] r", outputs="float[A,B,C,D] y"), recurrent("LSTM", 4, "layout = 0")),
    "halves": ("directions have other activations", recurrent("RNN", 1, f'{BOTH} ["Tanh", "Relu"]', 2),
        recurrent("RNN", 1, f'{BOTH} ["Relu", "Relu"]', 2)),
    "capitals": ("equation is Bi,iB->B", graph('y = Einsum <equation = "Bi,iB->B"> (x, z)', inputs="float[3,4] x, float[4,3] z"),
        graph('y = Einsum <equation = "bi,ib->b"> (x, z)', inputs="float[3,4] x, float[4,3] z")),
    "random type": ("dtype is 11", graph("y = RandomUniform <shape = [3], dtype = 11> ()", inputs="float[3] x", outputs="double[3] y"),
        graph("y = RandomUniform <shape = [3], dtype = 1> ()", inputs="float[3] x", outputs="float[3] y")),
}  # fmt: skip
NEWER: dict[str, tuple[str, str, str]] = {
    "spectrum's step": ("input f is computed from the samples or from free sizes", graph("y = STFT (x, f, w)",
        inputs="float[1,64,1] x, int64 f", constants="float[2] w = {1,1}", outputs="float[A,B,C,D] y"), graph("y = STFT (x, f, w)",
        inputs="float[1,64,1] x", constants="int64 f = {8}, float[2] w = {1,1}", outputs="float[A,B,C,D] y")),
    "spectrum's window": ("input w is computed from the samples or from free sizes", graph("y = STFT (x, f, w)",
        inputs="float[1,64,1] x, float[16] w", constants="int64 f = {8}", outputs="float[A,B,C,D] y"), graph("y = STFT (x, f, w)",
        inputs="float[1,64,1] x", constants="int64 f = {8}, float[2] w = {1,1}", outputs="float[A,B,C,D] y")),
    "deformed": ("has rank 5", graph("y = DeformConv (x, w, o)", inputs="float[1,1,4,4,4] x, float[1,1,2,2,2] w, float[1,24,3,3,3] o",
        opset=19, outputs="float[1,1,3,3,3] y"), graph("y = DeformConv (x, w, o)",
        inputs="float[1,1,4,4] x, float[1,1,2,2] w, float[1,8,3,3] o", opset=19, outputs="float[1,1,3,3] y")),
    "scattered cache": ("axis is -1", graph("y = TensorScatter <axis = -1> (x, u)", inputs="float[1,2,4,8] x, float[1,2,4,2] u",
        opset=24, outputs="float[1,2,4,8] y"), graph("y = TensorScatter <axis = -2> (x, u)",
        inputs="float[1,2,4,8] x, float[1,2,2,8] u", opset=24, outputs="float[1,2,4,8] y")),
    "cache of three axes": ("has rank 3", graph("y = TensorScatter (x, u)", inputs="float[1,4,8] x, float[1,2,8] u",
        opset=24, outputs="float[1,4,8] y"), graph("y = TensorScatter (x, u)", inputs="float[1,2,4,8] x, float[1,2,2,8] u",
        opset=24, outputs="float[1,2,4,8] y")),
    "attention of three axes": ("has rank 3", graph("y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)",
        inputs="float[1,4,8] q, float[1,4,8] k, float[1,4,8] v", opset=23, outputs="float[1,4,8] y"),
        graph("y = Attention (q, k, v)", inputs=ATTENTION, opset=23, outputs="float[1,2,4,8] y")),
    "attention's past": ("it has input 4", graph("y, pk, pv = Attention (q, k, v, , a, b)", opset=23,
        inputs=f"{ATTENTION}, float[1,2,3,8] a, float[1,2,3,8] b", outputs="float[1,2,4,8] y"),
        graph("y = Attention (q, k, v)", inputs=ATTENTION, opset=23, outputs="float[1,2,4,8] y")),
    "attention's products": ("output s is read", graph("y, , , s = Attention (q, k, v)", inputs=ATTENTION, opset=23,
        outputs="float[1,2,4,8] y, float[1,2,4,4] s"), graph("y = Attention (q, k, v)", inputs=ATTENTION, opset=23,
        outputs="float[1,2,4,8] y")),
    "attention's cap": ("softcap is 30.0", graph("y = Attention <softcap = 30.0> (q, k, v)", inputs=ATTENTION, opset=23,
        outputs="float[1,2,4,8] y"), graph("y = Attention <softcap = 0.0> (q, k, v)", inputs=ATTENTION, opset=23,
        outputs="float[1,2,4,8] y")),
    "attention's mode": ("qk_matmul_output_mode is 1", graph("y = Attention <qk_matmul_output_mode = 1> (q, k, v)", inputs=ATTENTION,
        opset=23, outputs="float[1,2,4,8] y"), graph("y = Attention (q, k, v)", inputs=ATTENTION, opset=23, outputs="float[1,2,4,8] y")),
}  # fmt: skip
LIFTED: dict[str, str] = {  # asked for by release 8.5 alone
    "k": graph("y, i = TopK (x, k)", inputs="float[9] x, int64[1] k"),
    "scale": graph("y = InstanceNormalization (x, s, b)", inputs=f"{IMAGE}, float[3] s", constants="float[3] b = {0,0,0}",
        outputs="float[1,3,8,8] y"),
    "shift": graph("y = InstanceNormalization (x, s, b)", inputs=f"{IMAGE}, float[3] b", constants="float[3] s = {1,1,1}",
        outputs="float[1,3,8,8] y"),
    "rank": graph("y = InstanceNormalization (x, s, s)", inputs="float[1,3,2,2,2,2] x", constants="float[3] s = {1,1,1}",
        outputs="float[1,3,2,2,2,2] y"),
    "reversed": graph("y = ReverseSequence (x, l)", inputs="float[N,3] x, int64[3] l", outputs="float[N,3] y"),
    "ellipsis": graph('y = Einsum <equation = "...i->..."> (x)', inputs="float[3,4] x"),
    "diagonal": graph('y = Einsum <equation = "ii->i"> (x)', inputs="float[3,3] x"),
}  # fmt: skip


def found(text: str, folder: Path, target: object) -> list[tuple[str, str]]:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return [(f.severity, f.why) for f in lint(path, target) if f.rule == RULE]  # type: ignore[arg-type]


@pytest.mark.parametrize(("said", "broken", "kept"), BROKEN.values(), ids=BROKEN)
def test_what_the_parser_refuses_is_an_error_and_its_like_is_not(
    said: str, broken: str, kept: str, tmp_path: Path
) -> None:
    severity = "warning" if "Slice" in broken else "error"  # the newest list asks for no constant any more
    assert [(s, said in why) for s, why in found(broken, tmp_path, ORIN)] == [(severity, True)]
    assert found(kept, tmp_path, ORIN) == []


@pytest.mark.parametrize(("said", "broken", "kept"), NEWER.values(), ids=NEWER)
def test_operators_of_newer_releases_are_looked_at_where_they_are(
    said: str, broken: str, kept: str, tmp_path: Path
) -> None:
    assert [(s, said in why) for s, why in found(broken, tmp_path, THOR)] == [("error", True)]
    assert found(kept, tmp_path, THOR) == []
    assert found(broken, tmp_path, XAVIER) == []  # which has no such operator: tensorrt_operators says so


@pytest.mark.parametrize("text", LIFTED.values(), ids=LIFTED)
def test_what_only_release_8_5_asks_for_is_no_finding_later(text: str, tmp_path: Path) -> None:
    assert [severity for severity, _ in found(text, tmp_path, XAVIER)] == ["error"]
    assert found(text, tmp_path, ORIN) == []


def test_each_restriction_names_what_onnx_has() -> None:
    """A misspelt attribute would be a rule that never speaks."""
    known, source = restrictions()
    assert sum(map(len, known.values())) >= 60 and "onnx-tensorrt" in source
    for operator, listed in known.items():
        schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == operator and s.domain == ""]
        attributes = {name: attribute for schema in schemas for name, attribute in schema.attributes.items()}
        for restriction in listed:
            for name in filter(None, (restriction.attribute, restriction.halves)):
                assert name in attributes, (operator, name)
            if restriction.attribute and (default := attributes[restriction.attribute].default_value).type:
                value = onnx.helper.get_attribute_value(default)
                assert (value.decode() if isinstance(value, bytes) else value) in restriction.takes, restriction
            if not restriction.attribute:
                most = max(schema.max_input for schema in schemas)
                assert all(index < most for index in (restriction.input, *restriction.without)), restriction


def test_every_restriction_is_broken_by_an_example(tmp_path: Path) -> None:
    known, _ = restrictions()
    texts = [*(broken for _, broken, _ in (*BROKEN.values(), *NEWER.values())), *LIFTED.values()]
    broken = set()
    for text in texts:
        onnx.save(onnx.parser.parse_model(text), path := tmp_path / "model.onnx")
        for node in read_model(path).graph:
            broken |= {restriction for restriction in known.get(node.op_type, ()) if restriction.broken(node)}
    assert {restriction for listed in known.values() for restriction in listed} == broken


def test_free_sizes_are_told_with_shapes(tmp_path: Path) -> None:
    """A shape that follows from the input's is a constant where the input's sizes are told."""
    text = graph("s = Shape <start = 0, end = 1> (x) d = Squeeze (s) y = OneHot (x, d, v)", inputs="int64[N] x",
        constants="float[2] v = {0,1}", outputs="float[N,M] y")  # fmt: skip
    onnx.save(onnx.parser.parse_model(text), path := tmp_path / "model.onnx")
    assert [f.rule for f in lint(path, ORIN) if f.rule == RULE] == [RULE]
    assert [f for f in lint(path, ORIN, shapes={"x": (9,)}) if f.rule == RULE] == []
    for shapes, message in (({"z": (9,)}, "has no input z; its inputs: x"), ({"x": (9, 1)}, "2 sizes; x has 1 axes")):
        with pytest.raises(ModelError, match=message):
            lint(path, ORIN, shapes=shapes)


@pytest.mark.parametrize(
    ("reads", "fixed"),
    [
        ("s = Shape <start = 1, end = 2> (x) d = Squeeze (s)", True),
        ("s = Shape (x) d = Gather (s, one)", True),
        ("s = Shape (x) d = Gather (s, none)", False),
        ("s = Shape <start = 0, end = 1> (x) d = Squeeze (s)", False),
    ],
)
def test_a_fixed_size_beside_a_free_batch_is_a_constant(reads: str, fixed: bool, tmp_path: Path) -> None:
    text = graph(f"{reads} y = OneHot (x, d, v)", inputs="int64[N,9] x",
        constants="float[2] v = {0,1}, int64 one = {1}, int64 none = {0}", outputs="float[A,B,C] y")  # fmt: skip
    assert (found(text, tmp_path, ORIN) == []) is fixed


def test_a_chain_of_ten_thousand_constants_is_followed(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Neg", [f"a{i}"], [f"a{i + 1}"]) for i in range(10_000)]
    nodes.append(onnx.helper.make_node("CumSum", ["x", "a10000"], ["y"]))
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [9]) for name in "xy"]
    start = onnx.numpy_helper.from_array(np.array(0, np.int64), "a0")
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [start]),
        opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9,
    )  # fmt: skip
    onnx.save(model, tmp_path / "model.onnx")
    assert [f for f in lint(tmp_path / "model.onnx", ORIN) if f.rule == RULE] == []
