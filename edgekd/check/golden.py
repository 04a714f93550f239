"""golden_of: real inputs of the test split with the model's outputs for them, for a bundle or a device."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekd.bundle.golden import Golden
from edgekd.data import Unseen
from edgekd.recipe import Recipe
from edgekd.steps.export import as_input

SAMPLES = 16
MOST_BYTES = 1 << 25  # of their inputs: run.py reads files of at most 64 MB


def golden_of(model: Path, precision: str, recipe: Recipe, test: Unseen) -> Golden:
    """Inputs and outputs for a few samples, evenly spaced in the split.

    Another machine sums in another order; the tolerance allows that.
    """
    size = sum(array.nbytes for array in as_input(test.input, test.get(np.zeros(1, np.int64)), recipe.export).values())
    number = max(1, min(SAMPLES, len(test), MOST_BYTES // size))
    ids = np.linspace(0, len(test) - 1, number).astype(np.int64)
    inputs = as_input(test.input, test.get(ids), recipe.export)
    return Golden.of(model, inputs, share=0.05 if precision != "fp32" else 1e-3)
