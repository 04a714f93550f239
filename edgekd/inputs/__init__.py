"""Inputs: what a network reads is computed here, for the training loop and for the exported graph alike."""

from collections.abc import Callable, Mapping

from edgekd.inputs.image import Image
from edgekd.inputs.protocol import Arrays, Field, Input
from edgekd.recipe import Data

INPUTS: dict[str, Callable[[Mapping[str, list[int]], Data], Input]] = {"image": Image.of}
"""Each kind by its name: an input made of the shapes of a decoded split's fields, and of the recipe's [data]."""

__all__ = ["INPUTS", "Arrays", "Field", "Image", "Input"]
