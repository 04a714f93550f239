"""Samples per second of edgekd's training loop with a warm teacher's cache, beside a bare hand-written loop.

The bare loop trains the same student on hard labels from memory: augmented pixels that are ready in an array, to
float, forward, cross-entropy, backward, SGD. Blocks of both are interleaved, so that the machine's noise hits both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch.nn.functional import cross_entropy

from edgekd.data import decode, open_samples
from edgekd.distill.student import lesson_of, new_model
from edgekd.distill.teacher import record_teacher, views_of
from edgekd.distill.train import Lesson, train
from edgekd.measure.runners import machine, versions
from edgekd.recipe import Distill, Recipe, load_recipe
from edgekd.stage import Cache, default_cache

EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10"


def main(
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    samples: Annotated[int, typer.Option(help="training samples a block")] = 6400,
    blocks: int = 5,
) -> None:
    """Print the ratio, and the samples per second of E epochs with the recording of V views included."""
    recipe = load_recipe(EXAMPLE, set_).located()
    run = Cache(default_cache())
    decoded = run(decode, recipe.data.source)
    outputs = run(record_teacher, decoded, recipe.teacher, None, recipe.data, recipe.distill.views)
    whole = open_samples(decoded.folder, recipe.data)
    settings = recipe.distill.model_copy(update={"epochs": 1, "precision": "fp32"})
    lesson = lesson_of(whole, recipe.data, outputs, recipe.teacher, None, settings)
    assert lesson.cached is not None
    short = Lesson(whole.__class__(**{**vars(whole), "train_ids": whole.train_ids[:samples], "holdout_ids": whole.holdout_ids[:10]}),
                   recipe.data, lesson.cached[:, :samples], None)  # fmt: skip
    ours, bare = [], []
    edgekd_epoch(recipe, short, settings)
    for block in range(blocks):
        for measure in (ours, bare) if block % 2 == 0 else (bare, ours):
            measure.append(
                edgekd_epoch(recipe, short, settings) if measure is ours else bare_epoch(recipe, short, settings)
            )
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    print(
        f"{machine()}; torch {versions()['torch']}, {torch.get_num_threads()} threads; {blocks} blocks of {samples} samples"
    )
    print(f"edgekd    {statistics.median(ours):7.0f} samples/s  ({min(ours):.0f} to {max(ours):.0f})")
    print(f"bare loop {statistics.median(bare):7.0f} samples/s  ({min(bare):.0f} to {max(bare):.0f})")
    print(f"ratio     {statistics.median(ratios):7.3f}  ({min(ratios):.3f} to {max(ratios):.3f})")
    recording = lesson.cached.shape[0] * lesson.cached.shape[1] / outputs.seconds
    print(f"recording {recording:7.0f} samples/s")
    print("samples/s with the recording included:")
    print("views  " + "".join(f"{epochs:>8} epochs" for epochs in (10, 30, 100)))
    for views in (1, 2, 4, 8):
        speeds = [epochs / (epochs / statistics.median(ours) + views / recording) for epochs in (10, 30, 100)]
        print(f"{views:5}  " + "".join(f"{speed:15.0f}" for speed in speeds))


def edgekd_epoch(recipe: Recipe, lesson: Lesson, settings: Distill) -> float:
    """Samples per second of one epoch, as the loop itself logs it."""
    import json

    with tempfile.TemporaryDirectory() as folder:
        train(new_model(recipe.student, lesson.samples, 0), lesson, settings, Path(folder))
        return float(json.loads((Path(folder) / "metrics.jsonl").read_text())["samples_per_s"])


def bare_epoch(recipe: Recipe, lesson: Lesson, settings: Distill) -> float:
    """Samples per second of the bare loop."""
    model = new_model(recipe.student, lesson.samples, 0).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    given = settings.optimizer
    optimizer = torch.optim.SGD(
        model.parameters(), given.lr, given.momentum, nesterov=True, weight_decay=given.weight_decay
    )
    images = torch.from_numpy(views_of(lesson.samples, recipe.data)(lesson.samples.train_ids, 0).images)
    labels = torch.from_numpy(lesson.samples.train.labels[lesson.samples.train_ids])
    mean, std = (255 * torch.from_numpy(np.array(values, np.float32)) for values in (recipe.data.mean, recipe.data.std))
    order = torch.randperm(len(images))
    started = time.perf_counter()
    for rows in order.split(settings.batch_size):
        x = ((images[rows].float() - mean) / std).permute(0, 3, 1, 2)
        loss = cross_entropy(model(x), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(images) / (time.perf_counter() - started)


if __name__ == "__main__":
    typer.run(main)
