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
from tests.builders.restrictions import ATTENTION, BROKEN, IMAGE, graph

ORIN, XAVIER = load_target("jetson-orin-nano"), load_target("jetson-xavier-nx")
THOR = load_target("jetson-thor")
RULE = "tensorrt_restrictions"


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
    for shapes, message in (({"z": (9,)}, "no input z; .*inputs: x"), ({"x": (9, 1)}, "--shape x: 2 sizes.* 1 axes")):
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
