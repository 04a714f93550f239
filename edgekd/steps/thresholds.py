"""The stage that chooses the threshold of each label, for a task of several labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from edgekd.cache.stage import Artifact, stage
from edgekd.recipe import Export
from edgekd.runtime.runners import OnnxRunner
from edgekd.steps.export import BATCH, MODEL, as_input
from edgekd.steps.problem import TrainingSet
from edgekd.tasks.multilabel import best_thresholds

FILE = "thresholds.json"


@stage(1, ("onnxruntime", "numpy"), of="model")
def choose_thresholds(model: Artifact, on: TrainingSet, export: Export, *, out: Path) -> None:
    """Stage: the threshold of each label that gives the largest F1 on the hold-out split, a list of numbers."""
    samples = on.open()
    runner, ids = OnnxRunner(model / MODEL, threads=torch.get_num_threads()), samples.holdout_ids
    batches = (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
    logits = [runner.run_all(as_input(samples.input, samples.train.get(part), export))[0] for part in batches]
    probabilities = samples.task.answered(np.concatenate(logits).astype(np.float32))
    found = best_thresholds(probabilities, samples.train.labels[ids])
    (out / FILE).write_text(json.dumps([float(f"{threshold:.4g}") for threshold in found]))
