"""The runtimes agree with numpy on a tiny model, and say what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekd.errors import ModelError
from edgekd.runtime.runners import OnnxRunner, TorchRunner, int8_saturates, machine, peak_memory_mb, versions

DOUBLE = """
<ir_version: 9, opset_import: ["" : 19]>
double (float[N, 3] x) => (float[N, 3] y) { y = Add(x, x) }
"""
TWO_INPUTS = """
<ir_version: 9, opset_import: ["" : 19]>
minus (float[N, 3] a, float[N, 3] b) => (float[N, 3] y) { y = Sub(a, b) }
"""


def stored(folder: Path, text: str) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_onnx_runner_computes_the_graph_for_any_batch(tmp_path: Path) -> None:
    runner = OnnxRunner(stored(tmp_path, DOUBLE))
    batch = np.arange(6, dtype=np.float32).reshape(2, 3)

    np.testing.assert_array_equal(runner.run({"x": batch}), 2 * batch)
    assert runner.name.startswith("onnxruntime 1.")


def test_torch_runner_gives_arrays_without_gradients() -> None:
    module = torch.nn.Linear(3, 2)
    batch = np.ones((4, 3), np.float32)

    output = TorchRunner(module).run({"input": batch})

    expected = module.weight.detach().numpy().sum(1) + module.bias.detach().numpy()
    np.testing.assert_allclose(output, np.tile(expected, (4, 1)), atol=1e-6)


def test_torch_runner_evaluates_rather_than_trains() -> None:
    output = TorchRunner(torch.nn.Dropout(0.9)).run({"input": np.ones((1, 100), np.float32)})

    np.testing.assert_array_equal(output, 1.0)


def test_a_model_of_two_inputs_takes_them_by_name_in_any_order(tmp_path: Path) -> None:
    runner = OnnxRunner(stored(tmp_path, TWO_INPUTS))
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([[1, 1, 1], [0, 0, 0]])

    assert runner.inputs == ["a", "b"]
    np.testing.assert_array_equal(runner.run({"b": b, "a": a}), a - b)
    np.testing.assert_array_equal(runner.timed({"b": b, "a": a})()[0], a - b)
    assert peak_memory_mb(tmp_path / "model.onnx", {"a": a, "b": b}) is not None or not Path("/proc/self").exists()


def test_the_inputs_are_a_module_s_arguments_in_their_order() -> None:
    class Minus(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x - y

    found = TorchRunner(Minus()).run({"first": np.ones((1, 2), np.float32), "a": np.zeros((1, 2), np.float32)})

    np.testing.assert_array_equal(found, 1.0)


def test_a_graph_of_a_fixed_batch_runs_several_inputs_in_parts(tmp_path: Path) -> None:
    """Five rows in parts of two; the second input alone fixes the batch."""
    runner = OnnxRunner(stored(tmp_path, TWO_INPUTS.replace("float[N, 3] b", "float[2, 3] b")))
    a = np.arange(15, dtype=np.float32).reshape(5, 3)

    np.testing.assert_array_equal(runner.run({"a": a, "b": a / 2}), a / 2)
    with pytest.raises(ModelError, match="written for a batch of 2; 5 were to be timed"):
        runner.timed({"a": a, "b": a})


FREE = """
<ir_version: 9, opset_import: ["" : 19]>
free (float[N, length] a, float[M, length] b) => (float[N, K] y) { y = Concat<axis = 1>(a, b) }
"""


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"a": (2, 3)}, r"takes the inputs \['a', 'b'\]; given: \['a'\]"),
        ({"a": (2, 3), "b": (2, 3), "c": (2, 3)}, r"given: \['a', 'b', 'c'\]"),
        ({"a": (2, 3), "b": (2, 4)}, "the size 'length' is 3 in 'a' and 4 in 'b'; it is one size in all inputs"),
        ({"a": (2, 3), "b": (1, 3)}, "there are 2 samples of 'a', 1 samples of 'b'; every input needs as many"),
    ],
)
def test_inputs_that_do_not_fit_together_are_told_by_name(
    tmp_path: Path, inputs: dict[str, tuple[int, ...]], told: str
) -> None:
    runner = OnnxRunner(stored(tmp_path, FREE))
    arrays = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}

    for run in (runner.run, runner.run_all, runner.timed):
        with pytest.raises(ModelError, match=told):
            run(arrays)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")

    with pytest.raises(ModelError, match="cannot load"):
        OnnxRunner(path)


BF16 = """
<ir_version: 10, opset_import: ["" : 22]>
twice (float[N, 64] x) => (float[N, 64] y)
{
    short = Cast<to = 16>(x)
    scaled = Mul(short, weight)
    again = Mul(scaled, weight)
    y = Cast<to = 1>(again)
}
"""


def test_a_bf16_graph_is_rounded_after_every_operator(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(BF16)
    torch.manual_seed(0)
    x, weight = torch.randn(8, 64), torch.randn(64).bfloat16()
    stored = onnx.helper.make_tensor("weight", onnx.TensorProto.BFLOAT16, [64], weight.float().tolist())
    model.graph.initializer.append(stored)
    onnx.save(model, tmp_path / "model.onnx")

    runner = OnnxRunner(tmp_path / "model.onnx")

    # A product of two bfloat16 is exact in fp32, so there is one right answer; without the rounding between it is another.
    expected = (x.bfloat16() * weight) * weight
    assert torch.equal(torch.from_numpy(runner.run({"x": x.numpy()})), expected.float())
    assert not torch.equal(expected, (x.bfloat16().float() * weight.float() * weight.float()).bfloat16())
    assert runner.rounds_to_bf16 and runner.name.endswith("bf16 by rounding fp32)")


@pytest.mark.parametrize(
    ("architecture", "features", "saturates"),
    [
        ("x86_64", {"avx2"}, True),
        ("AMD64", set(), True),
        ("x86_64", {"avx2", "avx512_vnni"}, False),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("aarch64", {"asimd"}, False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(architecture: str, features: set[str], saturates: bool) -> None:
    assert int8_saturates(architecture, frozenset(features)) is saturates


def test_the_versions_are_those_that_are_loaded() -> None:
    assert torch.__version__.startswith(versions()["torch"])
    assert versions()["onnx"] == onnx.__version__


def test_the_machine_is_one_line_with_its_cores() -> None:
    assert "core" in machine()
    assert "\n" not in machine()


def test_peak_memory_holds_the_weights(tmp_path: Path) -> None:
    """A graph with 32 MB of weights needs at least these; that of one addition needs far less."""
    weight = onnx.numpy_helper.from_array(np.ones((2048, 4096), np.float32), "w")
    graph = onnx.parser.parse_graph("large (float[N, 2048] x) => (float[N, 4096] y) { y = MatMul(x, w) }")
    graph.initializer.append(weight)
    large = tmp_path / "large.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9), large)

    needed = peak_memory_mb(large, {"x": np.ones((1, 2048), np.float32)})
    little = peak_memory_mb(stored(tmp_path, DOUBLE), {"x": np.ones((1, 3), np.float32)})

    if needed is None or little is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert needed > 30
    assert little < 20
