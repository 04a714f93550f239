"""How far are estimates from measurements, on networks that the calibration was not fitted on?

    python benchmarks/estimate_error.py [--device NAME] [--rounds 6]

Calibrates the device (this machine where none is named) on edgekd's generated networks, and holds out edgekd's four students in fp32
and int8 and, where timm is installed, 15 of its networks. All are timed in the same interleaved rounds, on one thread in
onnxruntime. timm beside a CPU build of torch: pip install --no-deps timm torchvision.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgekd.export import to_onnx
from edgekd.measure.devices.named import open_device
from edgekd.measure.estimate.calibrate import calibrate
from edgekd.measure.estimate.held_out import write_held_out
from edgekd.measure.estimate.words import print_calibration
from edgekd.runtime.runners import machine

# Name and image size; chosen for the variety of their blocks before any was timed.
TIMM = (
    ("densenet121", 96), ("efficientnet_lite0", 224), ("ghostnet_100", 224), ("hardcorenas_a", 224), ("lcnet_100", 224),
    ("mnasnet_small", 224), ("mobilenetv2_100", 224), ("mobilenetv3_small_100", 224), ("regnetx_002", 224), ("repvgg_a0", 128),
    ("resnet18", 224), ("resnet26", 128), ("resnet34", 160), ("resnext26ts", 160), ("semnasnet_075", 160),
)  # fmt: skip


def write_timm(folder: Path) -> dict[str, Path]:
    """Name -> file, of each with random weights; none where timm is absent."""
    if not importlib.util.find_spec("timm"):
        print("timm is not installed: edgekd's own students alone are held out")
        return {}
    # A torchvision without its compiled part declares no operators, and then does not import.
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor a, Tensor b, float c) -> Tensor",
    ):
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            operators.define(schema)
    import timm

    found = {}
    for name, size in TIMM:
        found[f"{name} {size}"] = folder / f"{name}.onnx"
        model = timm.create_model(name, pretrained=False).eval()
        to_onnx(model, found[f"{name} {size}"], torch.randn(2, 3, size, size), opset=18)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="local")
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, open_device(given.device) as device:
        networks = {"edgekd": write_held_out(Path(folder)), "timm": write_timm(Path(folder))}
        found = calibrate(device, {**networks["edgekd"], **networks["timm"]}, rounds=given.rounds)
    print_calibration(found)
    for family, members in networks.items():
        errors = [abs(network.error) for network in found.held_out if network.name in members]
        if errors:
            print(f"{family}: median error {np.median(errors):.1%}, largest {max(errors):.1%}, {len(errors)} networks")
    print(machine() if given.device == "local" else device.address)


if __name__ == "__main__":
    main()
