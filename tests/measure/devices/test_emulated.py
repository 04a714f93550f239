"""The arm64 onnxruntime under qemu computes what the CPU's instructions make of a model: int8 as here, fp16 not."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd.errors import DeviceError
from edgekd.export import to_onnx
from edgekd.export.to_half import to_fp16
from edgekd.measure.devices.emulated import CPUS, Emulated
from edgekd.measure.devices.named import open_device
from edgekd.measure.numerics import compare, outputs_on
from edgekd.measure.on_device import Options, measure_on, ship_to, trial_of, verify_on
from edgekd.measure.remote import probe
from edgekd.models.resnet import resnet8
from edgekd.quantize import calibrate, convert, prepare
from edgekd.runtime.runners import OnnxRunner
from edgekd.target import load_target
from tests.builders.boards import Board, name_device


@pytest.fixture(scope="module")
def devices(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Emulated]]:
    """A CPU without and one with dot product and half precision. The root is kept between runs, in pytest's cache."""
    if not any(shutil.which(name) for name in ("qemu-aarch64-static", "qemu-aarch64")):
        pytest.skip("no qemu-user-static is installed")
    assert request.config.cache is not None
    cache, folder = request.config.cache.mkdir("emulated"), tmp_path_factory.mktemp("device")
    made = {cpu: Emulated(f"emulated:{cpu}", cpu, str(folder), str(cache)) for cpu in ("cortex-a72", "cortex-a76")}
    try:
        for device in made.values():
            assert device.run(["python3", "-c", "pass"], timeout_s=600).code == 0
        yield made
    except DeviceError as error:
        if "could not be made" not in str(error):
            raise
        pytest.skip(f"Debian's arm64 packages or the wheels cannot be had: {error}")
    finally:
        for device in made.values():
            device.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    """A folder with int8.onnx and fp16.onnx, three convolutions and a classifier, and inputs for them."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = nn.Sequential(
        *(layer for i, o in ((3, 16), (16, 16), (16, 32)) for layer in (nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip
    images = torch.randn(16, 3, 32, 32)
    network(images)
    network.eval()
    to_onnx(network, folder / "fp32.onnx", images[:2], opset=20)
    to_fp16(folder / "fp32.onnx", folder / "fp16.onnx")
    prepared = prepare(network, load_target("raspberry-pi-5"), (images[:2],))
    calibrate(prepared, [images])
    to_onnx(convert(prepared), folder / "int8.onnx", images[:2], opset=20)
    prepared = prepare(resnet8().eval(), load_target("jetson-orin-nano"), (images[:2],))
    calibrate(prepared, [images])
    to_onnx(convert(prepared), folder / "jetson-fp32.onnx", images[:2], opset=20)
    to_fp16(folder / "jetson-fp32.onnx", folder / "jetson.onnx")
    return folder, images.numpy()


@pytest.mark.emulated
@pytest.mark.parametrize(("cpu", "native"), [("cortex-a72", False), ("cortex-a76", True)])
def test_int8_is_the_hosts_to_the_bit_and_fp16_only_where_the_cpu_lacks_it(
    devices: dict[str, Emulated], models: tuple[Path, NDArray[np.float32]], cpu: str, native: bool
) -> None:
    """On a host whose int8 sums do not saturate: with VNNI, or with x64quantprecision, which the runner sets."""
    folder, inputs = models
    int8, fp16 = folder / "int8.onnx", folder / "fp16.onnx"

    found, about = outputs_on(devices[cpu], {int8: {"input": inputs}, fp16: {"input": inputs}})

    assert about["machine"] == "aarch64"
    assert {"asimddp", "asimdhp"} & set(about["features"]) == ({"asimddp", "asimdhp"} if native else set())
    np.testing.assert_array_equal(found[int8]["logits"], OnnxRunner(int8).run({"input": inputs}))
    apart = np.abs(found[fp16]["logits"] - OnnxRunner(fp16).run({"input": inputs})).max()
    assert (apart > 1e-5) == native and apart < 0.05


@pytest.mark.emulated
@pytest.mark.parametrize(("cpu", "native"), [("cortex-a72", False), ("cortex-a76", True)])
def test_a_graph_for_tensorrt_with_fp16_scales_runs_also_where_onnxruntime_would_fuse_them(
    devices: dict[str, Emulated], models: tuple[Path, NDArray[np.float32]], cpu: str, native: bool
) -> None:
    """On a processor with fp16 onnxruntime 1.31 makes a QLinearConv of it, which takes no fp16 scales, and refuses the graph."""
    folder, inputs = models
    found, about = outputs_on(devices[cpu], {folder / "jetson.onnx": {"input": inputs}})

    assert ("(Q and DQ apart)" in about["runtime"]) == native
    expected = OnnxRunner(folder / "jetson.onnx").run({"input": inputs})
    assert np.abs(found[folder / "jetson.onnx"]["logits"] - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.emulated
def test_an_emulated_cpu_runs_python_alone_and_on_its_own_architecture(devices: dict[str, Emulated]) -> None:
    device = devices["cortex-a76"]

    assert device.run(["uname", "-m"]).code == 127
    done = device.run(["python3", "-c", "import platform; print(platform.machine(), input())"], stdin=b"given")
    assert (done.code, done.out) == (0, b"aarch64 given\n")


@pytest.mark.emulated
def test_the_runner_for_devices_runs_there_and_gives_no_latency(devices: dict[str, Emulated]) -> None:
    facts = probe(devices["cortex-a76"])

    assert facts.machine == "aarch64" and devices["cortex-a76"].origin == "emulated"


@pytest.mark.emulated
def test_the_whole_path_over_ssh_speaks_to_an_arm64_device(
    devices: dict[str, Emulated], board: Board, bundle: Path, tmp_path: Path
) -> None:
    """A real sshd whose Python is the emulated one: what is asked, copied, verified, measured and shipped is so on aarch64."""
    python = tmp_path / "python-arm64"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(devices["cortex-a76"].command())} "$@"\n')
    python.chmod(0o755)
    name_device(board, tmp_path, python=str(python))

    with open_device("board") as device:
        facts = probe(device)
        verified = verify_on(device, bundle)
        found = measure_on(device, trial_of(bundle), Options(warmup_s=0.02, block_s=0.02, min_n=30))
        ship_to(device, bundle, str(tmp_path / "opt"))

    assert facts.machine == "aarch64" and facts.runtimes["onnxruntime"]
    assert "onnxruntime" in verified.runtime and found.golden_ok
    assert (tmp_path / "opt/model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


@pytest.mark.emulated
def test_the_nodes_that_differ_are_named_in_the_graphs_order(
    devices: dict[str, Emulated], models: tuple[Path, NDArray[np.float32]]
) -> None:
    folder, inputs = models

    found = compare(devices["cortex-a76"], folder / "fp16.onnx", {"input": inputs[:2]}, bound=1e-6)

    assert found.device == "emulated:cortex-a76" and found.precision == "fp16" and found.nodes
    assert all(node.share > 1e-6 for node in found.nodes) and len(found.nodes) < found.nodes_compared


def test_a_cpu_that_is_not_known_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"'cortex-a67' .*have: cortex-a53.*Did you mean cortex-a76\?"):
        Emulated("one", "cortex-a67", cache=str(tmp_path))
    assert not list(tmp_path.iterdir()) and len(CPUS) == 5


def test_without_qemu_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="apt-get install qemu-user-static"):
        Emulated("one", "cortex-a76", cache=str(tmp_path)).run(["python3", "-V"])


def test_a_device_is_opened_by_its_kind_and_cpu() -> None:
    with open_device("emulated:cortex-a53") as device:
        assert device.address == "emulated:cortex-a53" and device.origin == "emulated"
