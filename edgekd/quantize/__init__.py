"""Quantization as the target does it: `prepare`, `calibrate` or train, `convert`."""

from edgekd.models.trace import FreeSize
from edgekd.quantize.ptq import calibrate, convert, prepare
from edgekd.quantize.qat import eval_mode, freeze_bn, freeze_observers, train_mode
from edgekd.quantize.scheme import Scheme, Site, sites

__all__ = [
    "FreeSize",
    "Scheme",
    "Site",
    "calibrate",
    "convert",
    "eval_mode",
    "freeze_bn",
    "freeze_observers",
    "prepare",
    "sites",
    "train_mode",
]
