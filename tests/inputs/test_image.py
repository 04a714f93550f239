"""One formula turns bytes into a network's input: the loop, the exported graph and run.py compute the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekd.export.to_onnx import Preprocess, to_onnx
from edgekd.inputs.normalise import Normalise, per_channel
from edgekd.recipe import Data
from edgekd.scripts import run as run_py
from edgekd.target import list_targets
from tests.builders.arguments import argument

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIGURES = [
    IMAGENET,
    ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),  # CIFAR-10's
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((1.0, 0.1, 1 / 3), (1e-3, 7.0, 1 / 255)),
    ((0.31,), (0.38,)),
    ((0.1307,), (0.3081,)),
    ((0.0,), (1 / 255,)),
]
OPSETS = sorted({*range(13, 22), *(target.runtime.default_opset for target in list_targets())})
CPU = torch.device("cpu")


def data(mean: tuple[float, ...], std: tuple[float, ...]) -> Data:
    return Data(train="a", test="b", mean=mean, std=std)


def all_bytes(channels: int, images: int = 1) -> np.ndarray:
    """Each of the 256 values in each channel, in another place of each image."""
    values = np.arange(256, dtype=np.uint8)
    planes = [np.roll(values, 37 * i) for i in range(images * channels)]
    return np.ascontiguousarray(np.stack(planes).reshape(images, channels, 16, 16).transpose(0, 2, 3, 1))


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(
        np.ascontiguousarray(found).view(np.int32), np.ascontiguousarray(expected).view(np.int32)
    )


@pytest.mark.parametrize(("mean", "std"), FIGURES)
@pytest.mark.parametrize("opset", OPSETS)
def test_the_graph_reads_what_the_loop_trained_with(
    tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...], opset: int
) -> None:
    path, channels = tmp_path / "model.onnx", len(mean)
    example = torch.zeros(2, channels, 16, 16)
    to_onnx(nn.Identity().eval(), path, example, opset=opset, preprocess=Preprocess(mean, std))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])  # with all of its optimisations
    for images in (1, 2, 5):
        batch = all_bytes(channels, images)
        (graph,) = session.run(None, {"input": batch})
        assert_same_bits(graph, argument(batch, mean, std).numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_convolution_behind_it_changes_no_bit(tmp_path: Path, channels: int) -> None:
    """onnxruntime fuses operators with a convolution; this one copies its input, and each product but one is 0."""
    copies = nn.Conv2d(channels, channels, 1, bias=False).eval()
    nn.init.dirac_(copies.weight)
    mean, std = (figures[:channels] for figures in IMAGENET)
    to_onnx(copies, tmp_path / "m.onnx", torch.zeros(2, channels, 16, 16), opset=20, preprocess=Preprocess(mean, std))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for images in (1, 4):
        (graph,) = session.run(None, {"input": all_bytes(channels, images)})
        assert_same_bits(graph, argument(all_bytes(channels, images), mean, std).numpy())


def test_the_graph_holds_one_product_and_one_sum_a_channel(tmp_path: Path) -> None:
    to_onnx(
        nn.Identity().eval(), tmp_path / "m.onnx", torch.zeros(2, 3, 4, 4), opset=20, preprocess=Preprocess(*IMAGENET)
    )
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [node.op_type for node in graph.node] == ["Cast", "Transpose", "Mul", "Add"]
    assert [list(tensor.dims) for tensor in graph.initializer] == [[3, 1, 1]] * 2


@pytest.mark.parametrize(("mean", "std"), FIGURES)
def test_run_py_computes_the_bits_of_the_loop(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    (image,) = all_bytes(len(mean))
    graph = {"dtype": "float32", "layout": "NCHW"}
    found = run_py.preprocess(image, graph, {"preprocess": {"mean": list(mean), "std": list(std)}})
    assert_same_bits(found, argument(image[None], mean, std).numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_in_any_memory_format_the_bits_are_the_same(channels: int) -> None:
    """The loop's images are channels_last; of one sample, of one row and of contiguous planes the bits are the same."""
    mean, std = (figures[:channels] for figures in IMAGENET)
    normalise, batch = Normalise(mean, std), all_bytes(channels, 3)
    trained = argument(batch, mean, std)
    assert trained.is_contiguous(memory_format=torch.channels_last)
    planes = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().float()
    assert_same_bits(normalise.normalised(planes).numpy(), trained.numpy())
    for at in range(3):
        assert_same_bits(normalise(torch.from_numpy(batch[at : at + 1])).numpy(), trained[at : at + 1].numpy())
    for row in range(16):
        one = np.ascontiguousarray(batch[:, row : row + 1, :3])
        assert_same_bits(argument(one, mean, std).numpy(), trained[:, :, row : row + 1, :3].numpy())


@pytest.mark.parametrize(("mean", "std"), FIGURES)
def test_each_value_is_the_formula_s(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Against float64: two roundings of the formula and one of each constant, relative to the largest of its terms."""
    batch = all_bytes(len(mean))
    expected = ((batch / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    largest = np.maximum(1, np.array(mean)) / np.array(std)
    apart = np.abs(argument(batch, mean, std).numpy() - expected)
    assert (apart <= 2.0**-22 * largest[:, None, None]).all()


@pytest.mark.parametrize(("mean", "std"), FIGURES)
def test_bytes_come_back_as_they_were(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    batch = torch.from_numpy(all_bytes(len(mean), 2))
    normalise = Normalise(mean, std)
    back = normalise.to_bytes(normalise(batch))
    assert back.dtype is torch.uint8 and torch.equal(back, batch)


def test_what_is_beyond_white_and_black_becomes_white_and_black() -> None:
    normalise = Normalise((0.5,), (0.5,))
    beyond = torch.tensor([-9.0, -1.0, 0.002, 1.0, 9.0]).reshape(1, 1, 1, 5)
    assert normalise.to_bytes(beyond).flatten().tolist() == [0, 0, 128, 255, 255]


def test_gradients_pass_through_it() -> None:
    planes: Tensor = torch.full((2, 3, 2, 2), 7.0, requires_grad=True)
    normalise = Normalise(*IMAGENET)
    normalise.normalised(planes).sum().backward()  # type: ignore[no-untyped-call]
    assert planes.grad is not None and torch.equal(planes.grad, normalise.scale.expand(2, 3, 2, 2))


def test_one_figure_stands_for_all_channels() -> None:
    assert per_channel((0.5,), 3) == (0.5, 0.5, 0.5) and per_channel((0.1, 0.2), 2) == (0.1, 0.2)
    batch = all_bytes(3)
    assert torch.equal(argument(batch, (0.5,), (0.25,)), argument(batch, (0.5,) * 3, (0.25,) * 3))
    with pytest.raises(ValueError):
        per_channel((0.1, 0.2, 0.3), 1)
