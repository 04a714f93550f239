"""Every TensorRT name that the device scripts use exists in each release, or is asked for before it is used.

The name lists were read from the real bindings and lie outside of the repository, in `shared/tensorrt_api` beside it
or where EDGEKD_SHARED points. What the script decides without TensorRT is tested without it.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.export.bundle import FILES
from edgekd.export.bundle_files.build_engine import (
    Failure,
    add_profile,
    built_type,
    compare_types,
    describe,
    source_layers,
    typings,
)

SHARED = Path(os.environ.get("EDGEKD_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
RELEASES = ("8.6", "10.3", "10.7", "10.13", "11.4")
SCRIPTS = ("build_engine.py", "run.py")

# the scripts' variable names -> the class of what they hold
VARIABLES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "layer": "ILayer",
    "tensor": "ITensor",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
# members of variables of the same name that hold no TensorRT object: argparse's parser, the inspector's dictionaries
OTHERS = {("layer", "get"), ("parser", "add_argument"), ("parser", "parse_args"), ("parser", "error")}


def chain(node: ast.AST) -> tuple[str, ...]:
    """`trt.BuilderFlag.FP16` -> ("trt", "BuilderFlag", "FP16"); of `self.x.y` only ("x", "y"); empty for others."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ()
    return tuple(reversed(names)) if node.id == "self" else (node.id, *reversed(names))


def guards(test: ast.expr) -> set[tuple[str, ...]]:
    """The chains that a condition asks for with hasattr, alone or joined by `and`."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return set().union(*(guards(value) for value in test.values))
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
        owner, name = test.args
        assert isinstance(name, ast.Constant)
        return {(*chain(owner), str(name.value))}
    return set()


def uses(node: ast.AST, known: frozenset[tuple[str, ...]] = frozenset()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """(chain, is guarded by a hasattr around it) of every attribute chain below a node, the longest ones only."""
    if isinstance(node, ast.Attribute) and chain(node):
        yield chain(node), chain(node) in known
        return
    if isinstance(node, ast.If):
        inner = known | guards(node.test)
        for statement in node.body:
            yield from uses(statement, inner)
        children: list[ast.AST] = [node.test, *node.orelse]
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from uses(child, known)


def script_uses(script: str) -> set[tuple[tuple[str, ...], bool]]:
    return set(uses(ast.parse((FILES / script).read_text())))


def api(release: str) -> dict[str, Any]:
    path = SHARED / "tensorrt_api" / f"{release}.json"
    if not path.is_file():
        pytest.skip(f"no list of TensorRT {release}'s names at {path}; set EDGEKD_SHARED to the folder that has them")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def members(names: dict[str, Any], owner: str) -> set[str]:
    described = names["classes"].get(owner, {})
    inherited = [members(names, base) for base in described.get("bases", [])]
    own = {*described.get("attributes", []), *described.get("methods", {}), *described.get("enum", {})}
    return own.union(described.get("nested", []), *inherited)


SEVERITIES = {"VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"}


def exists(names: dict[str, Any], used: tuple[str, ...]) -> bool:
    """Whether a release has `trt.X`, `trt.X.Y` or `variable.member`."""
    if used[0] != "trt":
        return used[1] in members(names, VARIABLES[used[0]])
    if used[1] == "__version__":
        return True
    if len(used) == 2:
        return used[1] in names["classes"] or used[1] in names["functions"]
    if used[1] == "Logger" and used[2] in SEVERITIES:  # the enum's members are exported into the class by pybind11
        return "Severity" in members(names, "Logger")
    return used[2] in members(names, used[1])


def relevant(script: str) -> list[tuple[tuple[str, ...], bool]]:
    found = [(c, asked) for c, asked in script_uses(script) if len(c) > 1 and c[0] in {"trt", *VARIABLES}]
    return sorted((c, g) for c, g in found if c[:2] not in OTHERS)


@pytest.mark.shared
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_that_is_used_unasked_exists_in_every_release(script: str, release: str) -> None:
    names = api(release)

    missing = [".".join(used) for used, guarded in relevant(script) if not guarded and not exists(names, used)]

    assert not missing


@pytest.mark.shared
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_that_is_asked_for_exists_in_some_release_and_lacks_in_another(script: str) -> None:
    """A misspelt name in hasattr would silently never be used; one that is everywhere needs no hasattr."""
    for used, guarded in relevant(script):
        if guarded:
            having = [release for release in RELEASES if exists(api(release), used)]
            assert 0 < len(having) < len(RELEASES), used


@pytest.mark.shared
def test_releases_8_6_and_11_4_differ_where_the_script_asks() -> None:
    """The walk itself finds what it must: both flags that 11 lacks, and the one that 8 lacks."""
    guarded = {used[-1] for used, asked in relevant("build_engine.py") if asked}

    assert {"EXPLICIT_BATCH", "STRONGLY_TYPED", "FP16", "INT8", "node_name"} <= guarded


def test_an_unguarded_name_is_told_from_a_guarded_one() -> None:
    tree = ast.parse("if hasattr(trt.A, 'B') and x:\n    trt.A.B\nelse:\n    trt.A.C\ntrt.A.B")

    assert set(uses(tree)) >= {(("trt", "A", "B"), True), (("trt", "A", "C"), False), (("trt", "A", "B"), False)}


# --------------------------------------------------------------------------------------------- decided without TensorRT


@pytest.mark.parametrize(
    ("version", "asked", "order"),
    [
        ("8.5.2", "auto", ["weak"]),
        ("10.3.0", "auto", ["strong", "weak"]),
        ("10.3.0", "weak", ["weak"]),
        ("10.13.3.9", "auto", ["strong"]),
        ("11.4.0", "auto", ["strong"]),
    ],
)
def test_the_typing_follows_the_release(version: str, asked: str, order: list[str]) -> None:
    assert typings(SimpleNamespace(__version__=version), asked) == order


@pytest.mark.parametrize(("version", "asked"), [("11.4.0", "weak"), ("8.6.1", "strong")])
def test_a_typing_that_the_release_lacks_is_refused(version: str, asked: str) -> None:
    with pytest.raises(Failure, match=version):
        typings(SimpleNamespace(__version__=version), asked)


def layer(name: str, datatype: str, **more: Any) -> dict[str, Any]:
    """An engine layer in the inspector's form."""
    return {"Name": name, "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": datatype}], **more}


@pytest.mark.parametrize(
    ("datatype", "name"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major FP16 format where channel % 4 == 0", "fp16"),
        ("Two wide channel vectorized row major Half format", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("N/A due to dynamic shapes", ""),
    ],
)
def test_the_inspector_s_words_are_read(datatype: str, name: str) -> None:
    assert built_type(layer("conv", datatype)) == name


def test_fused_layers_are_found_by_name_and_by_metadata() -> None:
    by_name = layer("w + QuantizeLinear_1 + /conv1/Conv + /relu/Relu", "Int8")
    by_metadata = layer("__myl_1", "Int8", Metadata="[ONNX Layer: /conv2/Conv]\x1e[ONNX Layer: /relu/Relu]")

    assert "/conv1/Conv" in source_layers(by_name)
    assert "/conv2/Conv" in source_layers(by_metadata)


def test_silent_fp32_is_named_and_a_narrower_type_is_no_fault() -> None:
    asked = {"a": "int8", "b": "int8", "c": "fp32", "d": "fp16"}
    layers = [layer("a", "Int8"), layer("b + relu", "Row major linear FP32"), layer("c", "Half"), layer("d", "Half")]

    wider, unknown = compare_types(asked, layers)

    assert wider == ["b: asked int8, runs fp32"]
    assert unknown == []


def test_int8_that_runs_in_fp16_is_wider_than_asked() -> None:
    assert compare_types({"a": "int8"}, [layer("a", "Half")])[0] == ["a: asked int8, runs fp16"]


def test_a_layer_that_the_inspector_does_not_show_is_not_passed_over() -> None:
    wider, unknown = compare_types({"a": "int8", "b": "int8"}, [layer("{ForeignNode[a...b]}", "Int8")])

    assert wider == []
    assert unknown == ["a: asked int8", "b: asked int8"]


def test_a_reformat_of_a_layer_s_input_is_not_the_layer() -> None:
    reformat = {**layer("a", "Float"), "LayerType": "Reformat"}

    assert compare_types({"a": "int8"}, [layer("a", "Int8"), reformat]) == ([], [])


def test_parser_errors_name_their_node_where_the_release_does() -> None:
    old = SimpleNamespace(node=lambda: 3, desc=lambda: "no such operator")
    new = SimpleNamespace(**vars(old), node_name=lambda: "/head/Foo", node_operator=lambda: "Foo")

    assert describe(old) == "node 3: no such operator"
    assert describe(new) == "node 3 /head/Foo (Foo): no such operator"


def test_a_fixed_batch_is_kept_and_another_refused() -> None:
    network = SimpleNamespace(get_input=lambda i: SimpleNamespace(name="image", shape=(1, 3, 4, 4)))

    assert add_profile(None, network, None, max_batch=1) == [1, 3, 4, 4]
    with pytest.raises(Failure, match="fixed to 1"):
        add_profile(None, network, None, max_batch=8)
