"""The stages that train, on little data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from edgekd.cache.stage import Cache
from edgekd.recipe import ClassifyTask, Data, Network
from edgekd.steps.distill import train_teacher
from edgekd.steps.problem import decoded
from edgekd.steps.trained import WEIGHTS
from tests.builders.pictures import LABELS, parquet, png


def test_a_teacher_is_trained_on_fewer_samples_than_its_batch(tmp_path: Path) -> None:
    """12 pictures, of which one is held out; the batch of 64 left no step, and ended in an assertion."""
    images = [png(image) for image in np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)]
    file = parquet(tmp_path / "a.parquet", images, LABELS)
    with Cache(tmp_path / "cache") as run:
        on = decoded(run, Data(train=file, test=file), ClassifyTask()).training
        trained = run(train_teacher, on, Network(model="edgekd:resnet8", args={"width": 4}), 1)
    assert all(np.isfinite(weights.numpy()).all() for weights in load_file(trained / WEIGHTS).values())
