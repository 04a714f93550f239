"""Inputs: they compute a network's arguments from samples, for the training loop and the exported graph alike."""

from collections.abc import Callable, Mapping

from edgekd.inputs.image import Image
from edgekd.inputs.protocol import Arrays, Field, Input
from edgekd.recipe import Data

INPUTS: dict[str, Callable[[Mapping[str, list[int]], Data], Input]] = {"image": Image.of}
"""Name of an input -> function that makes it from the field shapes of a decoded split and the recipe's [data]."""

__all__ = ["INPUTS", "Arrays", "Field", "Image", "Input"]
