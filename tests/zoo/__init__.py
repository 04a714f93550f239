"""The zoo: small students of every kind that people train, each of which is to ship on every target."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from tests.zoo import activations, attention, convolutions, shared, writes

FAMILIES = {
    "convolutions": convolutions.STUDENTS,
    "activations and norms": activations.STUDENTS,
    "shared and computed weights": shared.STUDENTS,
    "attention and tokens": attention.STUDENTS,
    "writes, views and indices": writes.STUDENTS,
}
ZOO = cast(
    dict[str, Callable[[], nn.Module]], {name: make for family in FAMILIES.values() for name, make in family.items()}
)
