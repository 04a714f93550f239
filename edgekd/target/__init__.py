"""Target: the facts of a device, its runtime and its int8 scheme. Reads targets/*.toml and the user's own files."""

from edgekd.target.files import list_targets, load_target
from edgekd.target.tables import (
    Hardware,
    JetPack,
    Operator,
    Operators,
    Quantization,
    Runtime,
    Sourced,
    Target,
    version,
)
from edgekd.target.template import write_target

__all__ = [
    "Hardware",
    "JetPack",
    "Operator",
    "Operators",
    "Quantization",
    "Runtime",
    "Sourced",
    "Target",
    "list_targets",
    "load_target",
    "version",
    "write_target",
]
