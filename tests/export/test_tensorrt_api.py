"""What the device's scripts use of TensorRT exists in every release, with these arguments, or is asked for before.

The lists were read from the real bindings and lie outside of the repository, in `shared/tensorrt_api` beside it or where
EDGEKD_SHARED points. That the checker can fail is tested on small sources with a list of its own.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import onnx
import pytest

from edgekd.export.to_tensorrt import to_tensorrt
from edgekd.scripts import SCRIPTS
from tests.builders.places import SHARED
from tests.builders.tensorrt_api import Api, Checker, parameters

RELEASES = ("8.6", "10.3", "10.7", "10.13", "11.4")
SHIPPED = ("build_engine.py", "run.py")
# 8.5 (JetPack 5.1) has no list: these came with 8.6 (its release notes), so that every list has them and 8.5 has not.
SINCE_8_6 = {
    "BuilderFlag.VERSION_COMPATIBLE",
    "HardwareCompatibilityLevel",
    "IBuilderConfig.builder_optimization_level",
    "IBuilderConfig.hardware_compatibility_level",
    "Runtime.engine_host_code_allowed",
}


def api(release: str) -> Api:
    path = SHARED / "tensorrt_api" / f"{release}.json"
    if not path.is_file():
        pytest.skip(f"no list of TensorRT {release}'s names at {path}; set EDGEKD_SHARED to the folder that has them")
    return Api(json.loads(path.read_text()))


def checked(script: str, release: str) -> Checker:
    return Checker(api(release)).check((SCRIPTS / script).read_text())


@pytest.mark.shared
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("script", SHIPPED)
def test_names_members_and_arguments_are_those_of_every_release(script: str, release: str) -> None:
    assert checked(script, release).faults == []


@pytest.mark.shared
@pytest.mark.parametrize("script", SHIPPED)
def test_what_is_asked_for_exists_in_some_release_and_lacks_in_another(script: str) -> None:
    """A misspelt name in hasattr would silently never be used; one that is everywhere needs no hasattr."""
    for name in checked(script, "10.3").guards:
        having = [release for release in RELEASES if api(release).has(name)]
        assert having, name
        assert len(having) < len(RELEASES) or name in SINCE_8_6, name


@pytest.mark.shared
@pytest.mark.parametrize("release", RELEASES)
def test_the_walk_follows_every_object_of_the_build(release: str) -> None:
    """A checker that loses track of a variable would find nothing: these uses it must have seen."""
    found = checked("build_engine.py", release)
    seen = {use.name for use in found.uses}

    assert {
        "Builder.create_network", "Builder.build_serialized_network", "Builder.num_DLA_cores", "OnnxParser.parse_from_file",
        "OnnxParser.get_error", "ParserError.desc", "IOptimizationProfile.set_shape", "IBuilderConfig.set_flag",
        "IBuilderConfig.can_run_on_DLA", "IBuilderConfig.create_timing_cache", "INetworkDefinition.get_layer", "ILayer.name",
        "ILayer.get_input", "ITensor.shape", "ITensor.dtype", "ICudaEngine.create_engine_inspector",
        "EngineInspector.get_engine_information", "IExecutionContext.set_input_shape", "ITimingCache.serialize",
        "Runtime.deserialize_cuda_engine", "BuilderFlag.GPU_FALLBACK", "LayerType.DEQUANTIZE", "DeviceType.DLA",
    } <= seen  # fmt: skip
    asked = {use.name for use in found.uses if use.asked}
    assert {"BuilderFlag.FP16", "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "ParserError.node_name"} <= asked
    assert "ICudaEngine.get_tensor_mode" in {use.name for use in checked("run.py", release).uses}


# ------------------------------------------------------------------------------------------------- the checker can fail

TINY = Api(
    {
        "functions": ["get_plugin_registry"],
        "classes": {
            "Builder": {
                "methods": {
                    "__init__": "__init__(self: Builder, logger: ILogger) -> None",
                    "create_network": "create_network(self: Builder, flags: typing.SupportsInt = 0) -> INetworkDefinition",
                    "create_builder_config": "create_builder_config(self: Builder) -> IBuilderConfig",
                }
            },
            "INetworkDefinition": {
                "attributes": ["num_layers"],
                "methods": {"get_layer": "get_layer(self: INetworkDefinition, index: int) -> ILayer"},
            },
            "ILayer": {"attributes": ["name"]},
            "IBuilderConfig": {"methods": {"set_flag": "set_flag(self: IBuilderConfig, flag: BuilderFlag) -> None"}},
            "BuilderFlag": {"enum": {"REFIT": 4}},
        },
    }
)
START = "def build(trt):\n    builder = trt.Builder(1)\n    config = builder.create_builder_config()\n"


def faults(body: str) -> list[str]:
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return [sentence for _, sentence in Checker(TINY).check(START + indented).faults]


def test_right_use_has_no_fault() -> None:
    body = "network = builder.create_network()\nconfig.set_flag(trt.BuilderFlag.REFIT)\nnetwork.get_layer(0).name"
    assert faults(body) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("trt.Bilder(1)", "Bilder does not exist"),
        ("builder.make_network()", "Builder.make_network does not exist"),
        ("config.set_flag(trt.BuilderFlag.INT8)", "BuilderFlag.INT8 does not exist"),
        ("config.builder_optimization_level = 3", "IBuilderConfig.builder_optimization_level does not exist"),
        ("config.set_flag()", "set_flag takes (flag: BuilderFlag), given 0 arguments"),
        ("config.set_flag(1, 2)", "set_flag takes (flag: BuilderFlag), given 2 arguments"),
        (
            "builder.create_network(mode=1)",
            "create_network takes (flags: typing.SupportsInt = 0), given 0 arguments and mode",
        ),
        ("trt.Builder()", "Builder takes (logger: ILogger), given 0 arguments"),
    ],
)
def test_a_wrong_name_member_or_argument_is_a_fault(body: str, fault: str) -> None:
    assert faults(body) == [fault]


@pytest.mark.parametrize(
    "body",
    [
        "layers = [builder.create_network().get_layer(i) for i in range(3)]\n[layer.nme for layer in layers]",
        "for layer in [builder.create_network().get_layer(0)]:\n    layer.nme",
        "with open('x') as file:\n    builder.create_network().get_layer(0).nme",
        "network, other = builder.create_network(), 1\nnetwork.get_layer(0).nme",
    ],
)
def test_types_are_followed_into_loops_and_comprehensions(body: str) -> None:
    assert faults(body) == ["ILayer.nme does not exist"]


def test_types_are_followed_through_annotations_and_attributes_of_self() -> None:
    source = (
        "class Engine:\n    def __init__(self, trt):\n        self.builder = trt.Builder(1)\n"
        "    def run(self):\n        self.builder.go()\n"
        "def pair(builder: Builder) -> tuple[INetworkDefinition, int]:\n    builder.stop()\n"
        "def use():\n    network, n = pair(1)\n    network.stop()\n"
    )
    assert [sentence for _, sentence in Checker(TINY).check(source).faults] == [
        "Builder.go does not exist", "Builder.stop does not exist", "INetworkDefinition.stop does not exist",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "guarded"),
    [
        ("if hasattr(trt.BuilderFlag, 'FP16'):\n    config.set_flag(trt.BuilderFlag.FP16)", True),
        ("if True and hasattr(trt.BuilderFlag, 'FP16'):\n    config.set_flag(trt.BuilderFlag.FP16)", True),
        ("if not hasattr(trt.BuilderFlag, 'FP16'):\n    raise ValueError\nconfig.set_flag(trt.BuilderFlag.FP16)", True),
        ("x = hasattr(trt.BuilderFlag, 'FP16') and trt.BuilderFlag.FP16", True),
        ("x = trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, 'FP16') else 0", True),
        ("if hasattr(trt.BuilderFlag, 'FP16'):\n    pass\nelse:\n    config.set_flag(trt.BuilderFlag.FP16)", False),
        ("if hasattr(trt.BuilderFlag, 'INT8'):\n    config.set_flag(trt.BuilderFlag.FP16)", False),
        ("if not hasattr(trt.BuilderFlag, 'FP16'):\n    print()\nconfig.set_flag(trt.BuilderFlag.FP16)", False),
        ("if hasattr(trt.BuilderFlag, 'FP16'):\n    pass\nconfig.set_flag(trt.BuilderFlag.FP16)", False),
    ],
)
def test_only_what_was_asked_for_on_the_way_may_lack(body: str, guarded: bool) -> None:
    assert faults(body) == ([] if guarded else ["BuilderFlag.FP16 does not exist"])


def test_signatures_are_read_with_nested_brackets_and_left_open_where_they_tell_nothing() -> None:
    assert parameters("f(self: X, a: Dict[str, int], b: Y = <Y.NONE: 0>) -> Z") == [
        "a: Dict[str, int]",
        "b: Y = <Y.NONE: 0>",
    ]
    assert parameters("f(*args, **kwargs)") is None and parameters("Initialize self. See help(type(self)).") is None


# --------------------------------------------------------------------------------------------------------- the real one


@pytest.mark.tensorrt
def test_the_installed_tensorrt_has_what_the_scripts_use() -> None:
    trt = pytest.importorskip("tensorrt", reason="TensorRT cannot be imported here: its real names are not compared")
    newest = checked("build_engine.py", "11.4" if int(trt.__version__.split(".")[0]) >= 11 else "10.13")
    for use in newest.uses:
        if not use.asked:
            owner, _, member = use.name.partition(".")
            assert hasattr(trt, owner) and (not member or hasattr(getattr(trt, owner), member)), use


@pytest.mark.tensorrt
def test_the_installed_tensorrt_builds_an_engine_and_its_types_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT cannot be imported here: no engine is built")
    if not has_gpu():
        pytest.skip("TensorRT is here, a GPU is not: no engine is built")
    weights = ", ".join(["0.1"] * 256)
    text = (
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,16,8,8] x) => (float[N,16,8,8] y) '
        f"<float[16,16,1,1] w = {{{weights}}}> {{ y = Conv (x, w) }}"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")

    said = to_tensorrt(tmp_path / "model.onnx", tmp_path / "model.plan", precision="fp32", max_batch=4)

    assert "x [1, 16, 8, 8] to [4, 16, 8, 8]" in said and (tmp_path / "model.plan").stat().st_size > 0
    assert (tmp_path / "timing.cache").is_file()


def has_gpu() -> bool:
    """Whether the CUDA driver finds a device."""
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False
