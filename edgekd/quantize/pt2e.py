"""The names from torchao's PT2E quantization that edgekd uses, imported without log lines on missing GPU kernels."""

from __future__ import annotations

from edgekd.models.trace import quiet_torch

with quiet_torch():
    from torchao.quantization.pt2e import (
        FakeQuantize,
        FakeQuantizeBase,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        ObserverBase,
    )
    from torchao.quantization.pt2e.quantize_pt2e import (
        convert_pt2e,
        prepare_qat_pt2e,
    )
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        QuantizationSpecBase,
        Quantizer,
        SharedQuantizationSpec,
    )

__all__ = [
    "FakeQuantize",
    "FakeQuantizeBase",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "ObserverBase",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "Quantizer",
    "SharedQuantizationSpec",
    "convert_pt2e",
    "prepare_qat_pt2e",
]
