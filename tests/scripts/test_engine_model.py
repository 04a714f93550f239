"""run.py's EngineModel and its calls of the CUDA runtime, before stand-ins for both libraries whose GPU memory is this process's."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd.scripts import run

TENSORS = {"ids": ("IN", "INT32"), "mask": ("IN", "FLOAT"), "sums": ("OUT", "FLOAT")}


class FakeCudart:
    """Stands for libcudart: memory of this process, copies at once."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    def cudaStreamCreate(self, handle: Any) -> int:
        handle._obj.value = 1
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:
        return 0

    def cudaMalloc(self, address: Any, size: Any) -> int:
        memory = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(memory)
        self.held[ctypes.addressof(memory)] = memory
        return 0

    def cudaFree(self, address: Any) -> int:
        del self.held[address.value]
        return 0

    def cudaMemcpyAsync(self, to: Any, source: Any, size: Any, kind: Any, stream: Any) -> int:
        ctypes.memmove(to, source, size.value)
        return 0


class FakeContext:
    """Stands for an engine of two inputs, of which the second weighs the first: sums `[batch, 1]`."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[1] <= 8

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shapes["ids"] == self.shapes["mask"]
        return (self.shapes["ids"][0], 1)

    def execute_async_v3(self, stream: int) -> bool:
        ids, mask = (self.array(name, kind) for name, kind in (("ids", ctypes.c_int32), ("mask", ctypes.c_float)))
        found = np.ascontiguousarray((ids * mask).sum(1, keepdims=True), np.float32)
        ctypes.memmove(self.addresses["sums"], found.ctypes.data, found.nbytes)
        return True

    def array(self, name: str, kind: Any) -> Any:
        rows, columns = self.shapes[name]
        return np.ctypeslib.as_array((kind * columns * rows).from_address(self.addresses[name]))


class FakeEngine:
    """Stands for an engine that says what its tensors are."""

    num_io_tensors = len(TENSORS)

    def create_execution_context(self) -> FakeContext:
        return FakeContext()

    def get_tensor_name(self, index: int) -> str:
        return [*TENSORS][index]

    def get_tensor_mode(self, name: str) -> str:
        return TENSORS[name][0]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=TENSORS[name][1])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def logger(level: int) -> None:
        return None

    logger.WARNING = 1  # type: ignore[attr-defined]
    trt: Any = SimpleNamespace(
        __version__="8.6.1", Logger=logger, TensorIOMode=SimpleNamespace(INPUT="IN", OUTPUT="OUT"),
        Runtime=lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: FakeEngine()),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    cudart = FakeCudart()
    monkeypatch.setattr(run.ctypes, "CDLL", lambda _: cudart)
    (tmp_path / "model.plan").write_bytes(b"plan")
    return run.EngineModel(str(tmp_path / "model.plan"))


def test_an_engine_is_given_every_input_by_name_in_its_own_type(model: Any) -> None:
    """int64 is taken as int32, as TensorRT 8 reads an ONNX file's; larger batches get new memory."""
    assert model.inputs == ["ids", "mask"] and model.outputs == ["sums"]
    ids, mask = np.int64([[1, 2, 3], [4, 5, 6]]), np.float32([[1, 1, 0], [0, 0, 2]])

    for n in (1, 2, 1):
        (found,) = model({"mask": mask[:n], "ids": ids[:n]})
        np.testing.assert_array_equal(found, np.float32([[3], [12]])[:n])
    assert len(model.cuda.library.held) == 3


def test_what_was_placed_is_run_again_without_copies(model: Any) -> None:
    (result,) = model.place({"ids": np.int32([[7]]), "mask": np.float32([[2]])})
    model.compute()
    model.cuda.to_host(result, model.buffers["sums"][0], model.stream)
    assert result.tolist() == [[14]]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"ids": np.int32([[1]])}, "the model takes the inputs ids, mask; given: ids"),
        (
            {"ids": np.int64([[2**40]]), "mask": np.float32([[1]])},
            "'ids' is int64; the engine takes int32, which does not hold",
        ),
        (
            {"ids": np.zeros((1, 9), np.int32), "mask": np.zeros((1, 9), np.float32)},
            r"no input 'ids' of shape \(1, 9\)",
        ),
    ],
)
def test_what_an_engine_does_not_take_is_told_by_name(model: Any, inputs: dict[str, Any], told: str) -> None:
    with pytest.raises(run.Failure, match=told):
        model(inputs)
