"""What build_engine.py decides without TensorRT, that it is Python 3.8, and that edgekd's own builder is the same source."""

from __future__ import annotations

import ast
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.errors import ExportError
from edgekd.export.to_tensorrt import to_tensorrt
from edgekd.scripts import SCRIPTS, build_engine
from edgekd.scripts.build_engine import (
    Failure,
    Options,
    built_type,
    compare_types,
    describe,
    layers_of,
    profiles,
    source_layers,
    trtexec_line,
    typings,
)

IMAGE = {"image": [-1, 3, 32, 32]}


# ----------------------------------------------------------------------------------------------------------- Python 3.8


# What the standard library got after 3.8 and one could use by habit.
NEWER = {
    "removeprefix", "removesuffix", "cache", "pairwise", "batched", "file_digest", "lcm", "bit_count", "to_thread", "UTC",
    "StrEnum", "tomllib", "zoneinfo", "graphlib", "nextafter", "stdlib_module_names",
}  # fmt: skip


@pytest.mark.parametrize("script", ["build_engine.py", "run.py"])
def test_the_device_s_scripts_are_python_3_8(script: str) -> None:
    tree = ast.parse((SCRIPTS / script).read_text(), feature_version=(3, 8))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    strict = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("strict", "slots", "kw_only")
    ]

    assert not names & NEWER and not strict
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


def test_the_builder_imports_the_standard_library_alone() -> None:
    tree = ast.parse((SCRIPTS / "build_engine.py").read_text())
    modules = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}

    assert {str(module).partition(".")[0] for module in modules} <= set(sys.stdlib_module_names)


def test_the_builder_runs_in_python_3_8_and_says_what_it_lacks(tmp_path: Path, old_python: str) -> None:
    script = tmp_path / "build_engine.py"
    script.write_text((SCRIPTS / "build_engine.py").read_text())
    done = subprocess.run([old_python, script, "--precision", "int8"], capture_output=True, text=True, check=False)

    assert done.returncode == 2 and done.stderr.startswith("error: tensorrt's Python package is not installed")


# -------------------------------------------------------------------------------------------------- typing, shapes, types


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


def test_a_layer_that_several_profiles_list_counts_with_its_widest_type() -> None:
    layers = [layer("a", "Int8"), layer("a [profile 1]", "Half")]

    assert compare_types({"a": "int8"}, layers)[0] == ["a: asked int8, runs fp16"]


def test_a_conversion_that_bears_a_convolution_s_name_does_not_speak_for_it() -> None:
    conversion = {**layer("__myl_cast", "Float", Metadata="[ONNX Layer: a]"), "LayerType": "kgen"}

    assert compare_types({"a": "int8"}, [layer("a", "Int8"), conversion]) == ([], [])
    assert compare_types({"a": "int8"}, [conversion])[0] == ["a: asked int8, runs fp32"]


def test_bf16_is_as_narrow_as_fp16() -> None:
    assert compare_types({"a": "bf16"}, [layer("a", "Row major linear BF16")]) == ([], [])
    assert compare_types({"a": "int8"}, [layer("a", "BFloat16")])[0] == ["a: asked int8, runs bf16"]


def test_the_inspector_s_json_of_release_11_has_the_type_in_a_field_of_its_own() -> None:
    """NVIDIA, "Migrating IEngineInspector usage from TensorRT 10.x to 11.x": Format/Datatype became two fields."""
    information = json.dumps(
        {
            "Layers": [
                {
                    "Name": "/conv1/Conv + /relu/Relu",
                    "LayerType": "CaskConvolution",
                    "Inputs": [{"Name": "x", "DataType": "Half", "Format": "Row major linear FP32 format (kLINEAR)"}],
                    "Metadata": "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /relu/Relu]",
                },
                "a layer of an engine that was built without details",
            ],
            "I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Float", "Dimensions": [1, 3, 8, 8]}],
        }
    )
    layers = layers_of(information)

    assert len(layers) == 1 and built_type(layers[0]) == "fp16"
    assert compare_types({"/conv1/Conv": "int8"}, layers)[0] == ["/conv1/Conv: asked int8, runs fp16"]


def test_a_batch_range_is_one_profile_and_a_fixed_batch_none() -> None:
    (profile,) = profiles(IMAGE, Options(min_batch=1, opt_batch=4, max_batch=8))

    assert profile == {"image": ([1, 3, 32, 32], [4, 3, 32, 32], [8, 3, 32, 32])}
    assert profiles({"image": [1, 3, 4, 4]}, Options()) == []
    with pytest.raises(Failure, match="fixed to 1"):
        profiles({"image": [1, 3, 4, 4]}, Options(max_batch=8))


def test_profiles_are_read_for_several_inputs_and_free_sizes() -> None:
    inputs = {"image": [-1, 3, -1, -1], "mask": [-1, 2], "fixed": [1, 5]}
    text = "image=1x3x8x8,2x3x8x8,4x3x16x16 mask=1x2,2x2,4x2"

    first, second = profiles(inputs, Options(profile=[text, text.replace("4x3x16x16", "8x3x32x32")]))

    assert first == {
        "image": ([1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 16, 16]),
        "mask": ([1, 2], [2, 2], [4, 2]),
    }
    assert second["image"][2] == [8, 3, 32, 32]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "need --profile"),
        ({"profile": ["image=1x3x8x8"]}, "NAME=MIN,USUAL,MAX"),
        ({"profile": ["other=1x3x8x8,1x3x8x8,1x3x8x8"]}, "inputs: image"),
        ({"profile": ["image=1x3xAx8,1x3x8x8,1x3x8x8"]}, "sizes joined by x"),
        ({"profile": ["image=1x4x8x8,1x4x8x8,1x4x8x8"]}, r"no shape of input image, which is \[-1, 3, -1, -1\]"),
        ({"profile": ["image=4x3x8x8,2x3x8x8,8x3x8x8"]}, "every dimension"),
        ({"profile": ["image=1x3x8x8,2x3x8x8,4x3x8x8"], "dla_core": 0}, "DLA takes one size"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(Failure, match=why):
        profiles({"image": [-1, 3, -1, -1]}, Options(**given))


def test_a_free_input_that_a_profile_leaves_out_is_named() -> None:
    with pytest.raises(Failure, match="leaves out mask"):
        profiles({**IMAGE, "mask": [-1, 2]}, Options(profile=["image=1x3x32x32,1x3x32x32,1x3x32x32"]))


SENTENCE = {"ids": [-1, -1], "mask": [-1, -1], "style": [-1, 4]}
TABLES: list[dict[str, Any]] = [
    {"name": "ids", "shape": ["batch", "length"], "at_most": {"length": 128}},
    {"name": "mask", "shape": ["batch", "length"]},
    {"name": "style", "shape": ["batch", 4]},
]


def test_a_named_free_size_goes_from_1_to_its_bound_in_every_input() -> None:
    (profile,) = profiles(SENTENCE, Options(min_batch=2, opt_batch=4, max_batch=8), TABLES)

    lengths = ([2, 1], [4, 128], [8, 128])
    assert profile == {"ids": lengths, "mask": lengths, "style": ([2, 4], [4, 4], [8, 4])}


def test_the_user_s_bound_goes_before_the_manifest_s() -> None:
    (profile,) = profiles(SENTENCE, Options(at_most=["length=64"]), TABLES)
    assert profile["mask"] == ([1, 1], [1, 64], [1, 64])


def test_the_batch_is_fixed_where_every_input_fixes_it() -> None:
    (profile,) = profiles({"ids": [1, -1]}, Options(at_most=["n=5"]), [{"name": "ids", "shape": [1, "n"]}])
    assert profile == {"ids": ([1, 1], [1, 5], [1, 5])}
    with pytest.raises(Failure, match="fixed to 1; --max-batch 2 cannot be had"):
        profiles({"ids": [1, 4], "mask": [1, 4]}, Options(max_batch=2))


UNBOUNDED: list[dict[str, Any]] = [
    {"name": "ids", "shape": ["batch", "length"]},
    {"name": "mask", "shape": ["batch", None]},
]


@pytest.mark.parametrize(
    ("shapes", "given", "why"),
    [
        (
            {"ids": [-1, -1]},
            {},
            r"nobody bounds its free size 'length': give --at-most length=SIZE, or --profile ids=MIN",
        ),
        ({"mask": [-1, -1]}, {}, r"input mask is \[-1, -1\]; sizes other than the batch need --profile mask=MIN"),
        ({"ids": [-1, -1]}, {"at_most": ["width=3"]}, "--at-most width=3: NAME=SIZE is needed; free sizes: length"),
        ({"ids": [-1, -1]}, {"at_most": ["length=0"]}, "NAME=SIZE is needed"),
        ({"ids": [-1, -1]}, {"at_most": ["length"]}, "NAME=SIZE is needed"),
        (
            {"ids": [-1, -1]},
            {"at_most": ["length=3"], "profile": ["ids=1x1,1x2,1x3"]},
            "--at-most goes without --profile",
        ),
        ({"ids": [-1, -1]}, {"at_most": ["length=3"], "dla_core": 0}, "the DLA takes one size"),
    ],
)
def test_a_free_size_that_nobody_bounds_is_refused_with_what_to_do(
    shapes: dict[str, list[int]], given: dict[str, Any], why: str
) -> None:
    with pytest.raises(Failure, match=why):
        profiles(shapes, Options(**given), UNBOUNDED)


def test_a_bound_for_a_graph_without_named_sizes_is_refused() -> None:
    with pytest.raises(Failure, match="free sizes: none has a name"):
        profiles(IMAGE, Options(at_most=["length=3"]))


def test_the_bounds_stand_in_the_manifest_beside_the_model(tmp_path: Path) -> None:
    """It is read where a size that is no batch is free, and only there."""
    options = Options(model=str(tmp_path / "model.onnx"))
    assert build_engine.input_tables(SENTENCE, options) == []  # there is none
    content = {"input": TABLES[0], "further_inputs": TABLES[1:], "golden": {"tolerance": 0.1}, "precision": "fp16"}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert build_engine.input_tables(SENTENCE, options) == TABLES
    for bounds in ([128], {"length": "128"}, {"length": 0}):
        (tmp_path / "manifest.json").write_text(json.dumps({**content, "input": {**TABLES[0], "at_most": bounds}}))
        with pytest.raises(Failure, match="a key of it is of another kind"):
            build_engine.input_tables(SENTENCE, options)
    assert build_engine.input_tables(IMAGE, options) == []


# -------------------------------------------------------------------------------------------------------------- trtexec


def words(major: int, reference: dict[str, Any] | None = None, **options: Any) -> list[str]:
    return shlex.split(trtexec_line(major, IMAGE, Options(precision="int8", **options), reference or {}))


def test_trtexec_s_types_are_flags_before_11_and_the_graph_s_own_from_11_on() -> None:
    assert {"--fp16", "--int8"} <= set(words(8)) and "--stronglyTyped" in words(10)
    assert not {"--fp16", "--int8", "--stronglyTyped"} & set(words(11))


def test_trtexec_times_alike_in_every_release() -> None:
    """10 is told what 11 does by default: no transfers, spinning, CUDA graphs."""
    timing = {"--noDataTransfers", "--useSpinWait", "--useCudaGraph"}
    assert timing <= set(words(8)) and timing <= set(words(10))
    assert not {"--includeDataTransfers", "--noSpinWait", "--noCudaGraph"} & set(words(11))
    assert all({"--warmUp=1000", "--duration=10"} <= set(words(major)) for major in (8, 10, 11))


def test_trtexec_compares_outputs_where_the_release_can() -> None:
    reference = {
        "inputs": {"image": "in.bin"}, "shapes": {"image": [1, 3, 32, 32]}, "output": ("logits", "out.bin"), "tolerance": 0.25
    }  # fmt: skip
    check = [
        "--loadInputs=image:in.bin",
        "--loadRefOutputs=logits:out.bin",
        "--accuracyAlgorithm=lInf",
        "--accuracyThreshold=0.25",
    ]

    assert words(11, reference)[-4:] == check
    assert words(10, reference) == words(10)


def test_trtexec_is_told_the_sizes_and_the_file_of_every_input() -> None:
    files = {"ids": "ids.bin", "mask": "mask.bin", "style": "style.bin"}
    reference: dict[str, Any] = {
        "inputs": files, "shapes": {"ids": [1, 9], "mask": [1, 9], "style": [1, 4]}, "output": ("y", "y.bin"), "tolerance": 1
    }  # fmt: skip
    line = shlex.split(trtexec_line(11, SENTENCE, Options(precision="fp16"), reference, TABLES))

    assert {
        "--minShapes=ids:1x1,mask:1x1,style:1x4", "--optShapes=ids:1x128,mask:1x128,style:1x4",
        "--maxShapes=ids:1x128,mask:1x128,style:1x4", "--shapes=ids:1x9,mask:1x9,style:1x4",
        "--loadInputs=ids:ids.bin,mask:mask.bin,style:style.bin",
    } <= set(line)  # fmt: skip
    reference["shapes"] = {"ids": [1, 128], "mask": [1, 128], "style": [1, 4]}
    same = trtexec_line(11, SENTENCE, Options(precision="fp16"), reference, TABLES)
    assert "--shapes" not in same and "--shapes" not in trtexec_line(10, SENTENCE, Options(), reference, TABLES)


def test_trtexec_is_told_all_that_the_engine_is_asked_for() -> None:
    options = {
        "min_batch": 2, "opt_batch": 2, "max_batch": 2, "dla_core": 1, "gpu_fallback": True, "optimization_level": 5,
        "version_compatible": True, "hardware_compatibility": "same-compute-capability", "workspace_mb": 64,
    }  # fmt: skip
    assert {
        "--minShapes=image:2x3x32x32", "--optShapes=image:2x3x32x32", "--maxShapes=image:2x3x32x32", "--useDLACore=1",
        "--allowGPUFallback", "--builderOptimizationLevel=5", "--versionCompatible", "--memPoolSize=workspace:64",
        "--hardwareCompatibilityLevel=sameComputeCapability",
    } <= set(words(10, **options))  # fmt: skip


def test_the_script_prints_trtexec_s_commands_and_writes_what_11_compares(tmp_path: Path) -> None:
    (tmp_path / "build_engine.py").write_text((SCRIPTS / "build_engine.py").read_text())
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    logits = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "golden.npz", inputs=images, outputs=logits)
    manifest = {
        "precision": "fp16",
        "output": "logits",
        "input": {"name": "image", "shape": ["N", 4, 4, 3]},
        "golden": {"n": 2, "tolerance": 0.05},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "build_engine.py"), "--trtexec", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(":")] == [
        "TensorRT 8:",
        "TensorRT 10:",
        "TensorRT 11:",
    ]
    assert "--loadRefOutputs=logits:reference_output.bin" in done.stdout and "--accuracyThreshold=0.05" in done.stdout
    assert (tmp_path / "reference_input.bin").read_bytes() == images[:1].tobytes()
    assert (tmp_path / "reference_output.bin").read_bytes() == logits[:1].tobytes()

    assert run("--max-batch", "2").returncode == 0
    assert (tmp_path / "reference_output.bin").read_bytes() == logits.tobytes()
    beyond = run("--max-batch", "3")
    assert beyond.returncode == 2 and "golden.npz holds 2 samples" in beyond.stderr


# ---------------------------------------------------------------------------------------------------- edgekd's own builder


def test_edgekd_s_own_builder_refuses_what_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'int4' .*possible: int8, fp16, bf16, fp32"):
        to_tensorrt(tmp_path / "model.onnx", tmp_path / "model.plan", precision="int4")
    with pytest.raises(ExportError, match=r"'max_btch'.*Did you mean max_batch\?"):
        to_tensorrt(tmp_path / "model.onnx", tmp_path / "model.plan", precision="int8", max_btch=4)


def test_edgekd_s_own_builder_says_where_tensorrt_is_missing(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    with pytest.raises(ExportError, match="python3-libnvinfer"):
        to_tensorrt(tmp_path / "model.onnx", tmp_path / "model.plan", precision="int8")


@pytest.mark.parametrize("key", ["name", "output", "precision"])
def test_a_manifest_whose_names_hold_control_characters_gives_no_command(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names stand in a command that a user copies into a shell."""
    manifest = {
        "input": {"name": "image", "shape": [None, 4]}, "output": "logits", "precision": "fp32", "golden": {"tolerance": 0.1},
    }  # fmt: skip
    (manifest["input"] if key == "name" else manifest)[key] = "a\nb"  # type: ignore[index]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(build_engine, "HERE", str(tmp_path))
    with pytest.raises(build_engine.Failure, match=r"manifest\.json .*ValueError"):
        build_engine.print_trtexec(build_engine.Options(model="m", output="p"))
