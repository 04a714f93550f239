"""Samples per second of edgekd's training loop with a warm teacher's cache, beside others that train the same student.

    labels only   edgekd's own loop on labels alone: what the distillation adds
    bare loop     hand-written, on labels alone, from augmented pixels that are ready in memory, in the same precision
    torchdistill  live float32 teacher, JPEG decoded by two workers, same student, batch and losses (extra `bench`)

Blocks of all are interleaved, so that the machine's noise hits all of them.
"""

from __future__ import annotations

import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from torch.nn.functional import cross_entropy

from edgekd.cache.stage import Artifact, Cache, default_cache
from edgekd.data import Samples, decode
from edgekd.data.sources import open_source
from edgekd.distill.lesson import Lesson, TaskLesson
from edgekd.distill.train import train
from edgekd.inputs.image import INPUT
from edgekd.models import ExportedModel, OnnxModel
from edgekd.models.accelerator import uses_bf16
from edgekd.recipe import Distill, Network, Recipe, load_recipe
from edgekd.runtime.runners import machine, versions
from edgekd.steps.distill import lesson_of
from edgekd.steps.problem import TrainingSet
from edgekd.steps.teach import record
from edgekd.steps.teaching import TaskTeaching, Teaching
from edgekd.steps.trained import Trained, new_model

EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10"


def main(
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    samples: Annotated[int, typer.Option(help="training samples a block")] = 12800,
    blocks: int = 5,
    batch: Annotated[int, typer.Option(help="batch size")] = 256,
    peer_samples: Annotated[int, typer.Option(help="samples a block of torchdistill")] = 2560,
) -> None:
    """Print the ratios, and the samples per second of E epochs with the recording of V views included."""
    recipe = load_recipe(EXAMPLE, [*set_, f"distill.batch_size={batch}"]).located()
    bf16 = uses_bf16(recipe.distill.precision)
    run = Cache(default_cache())
    on = TrainingSet(run(decode, recipe.data.source("train"), recipe.task.of_labels), recipe.data, recipe.task)
    whole = on.open()
    settings = recipe.distill.model_copy(
        update={"epochs": 1, "precision": "bf16" if bf16 else "fp32", "warmup_epochs": 0.0}
    )
    teachers = tuple(map(Trained, recipe.teachers))
    task = record(run, teachers, on, settings, TaskTeaching(on))
    outputs = task.teachers[0].outputs
    (known,) = lesson_of(Teaching(settings, (task,))).tasks
    part = replace(whole, train_ids=whole.train_ids[:samples], holdout_ids=whole.holdout_ids[:10])
    short = Lesson((replace(known, samples=part),))
    labels = settings.model_copy(update={"losses": (), "label_weight": 1.0})

    ways: dict[str, Callable[[], float]] = {
        "edgekd": lambda: edgekd_epoch(recipe, short, settings),
        "labels only": lambda: edgekd_epoch(recipe, Lesson((TaskLesson(part),)), labels),
        "bare loop": lambda: bare_epoch(recipe, part, settings, bf16),
    }
    teacher = teachers[0].load_teacher(whole)
    if isinstance(teacher, OnnxModel | ExportedModel):
        print("torchdistill is left out: it needs a teacher that is a module (teacher.model=python:FILE.py:FUNCTION)")
    else:
        peer = TorchDistill(recipe, whole, teacher, settings, peer_samples)
        ways[f"torchdistill {version('torchdistill')}"] = peer.block
    for way in ways.values():
        way()  # warm-up
    found: dict[str, list[float]] = {name: [] for name in ways}
    for block in range(blocks):
        for name in list(ways) if block % 2 == 0 else reversed(ways):
            found[name].append(ways[name]())
    about = (
        f"{machine()}; torch {versions()['torch']}, {torch.get_num_threads()} threads, {'bf16' if bf16 else 'float32'}"
    )
    print(f"{about}; batch {batch}, {blocks} blocks of {samples} samples")
    for name, speeds in found.items():
        ratios = [ours / theirs for ours, theirs in zip(found["edgekd"], speeds, strict=True)]
        spread = f"{min(speeds):.0f} to {max(speeds):.0f}"
        against = f"edgekd is {statistics.median(ratios):.3f} times as fast ({min(ratios):.3f} to {max(ratios):.3f})"
        print(
            f"{name:20} {statistics.median(speeds):7.0f} samples/s  ({spread:12}) {'' if name == 'edgekd' else against}"
        )
    table(statistics.median(found["edgekd"]), outputs, settings, len(whole.train_ids), found)


def table(warm: float, outputs: Artifact, settings: Distill, n: int, found: dict[str, list[float]]) -> None:
    """The first run, the recording counted in, for some views and epochs; beside it, how many times as fast as the peer."""
    recording = settings.views * n / outputs.seconds
    peer = next((statistics.median(speeds) for name, speeds in found.items() if name.startswith("torchdistill")), None)
    print(f"recording {recording:.0f} samples/s. Samples/s of a first run, the recording counted in:")
    print("views  " + "".join(f"{f'{epochs} epochs':>22}" for epochs in (10, 30, 100)))
    for views in (1, 2, 4, 8):
        speeds = [epochs / (epochs / warm + views / recording) for epochs in (10, 30, 100)]
        print(
            f"{views:5}  "
            + "".join(f"{f'{s:.0f}' + (f' ({s / peer:.1f} x peer)' if peer else ''):>22}" for s in speeds)
        )


def edgekd_epoch(recipe: Recipe, lesson: Lesson, settings: Distill) -> float:
    """Samples per second of one epoch, as the loop itself logs it."""
    with tempfile.TemporaryDirectory() as folder:
        train(new_model(Network.of(recipe.student), lesson.samples, 0), lesson, settings, Path(folder))
        return float(json.loads((Path(folder) / "metrics.jsonl").read_text())["samples_per_s"])


def bare_epoch(recipe: Recipe, samples: Samples, settings: Distill, bf16: bool) -> float:
    """Samples per second of the bare loop."""
    model = new_model(Network.of(recipe.student), samples, 0).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    given = settings.optimizer
    optimizer = torch.optim.SGD(
        model.parameters(), given.lr, given.momentum, nesterov=True, weight_decay=given.weight_decay
    )
    images = torch.from_numpy(samples.views(samples.train_ids, 0).inputs[INPUT])
    labels = torch.from_numpy(samples.train.labels[samples.train_ids])
    mean, std = (255 * torch.from_numpy(np.array(values, np.float32)) for values in (recipe.data.mean, recipe.data.std))
    order = torch.randperm(len(images))
    started = time.perf_counter()
    for rows in order.split(settings.batch_size):
        x = ((images[rows].float() - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            z = model(x)
        loss = cross_entropy(z.float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(images) / (time.perf_counter() - started)


class TorchDistill:
    """The same student, teacher, batch and losses by torchdistill's `DistillationBox`."""

    def __init__(self, recipe: Recipe, samples: Samples, teacher: nn.Module, settings: Distill, n: int) -> None:
        library = torch.library.Library("torchvision", "DEF")  # its import looks for operators that a CPU build lacks
        for name in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor a, Tensor b, float c) -> Tensor",
        ):
            library.define(name)
        self.library = library  # its operators go when it goes
        from torchdistill.core.distillation import get_distillation_box
        from torchvision import transforms

        logging.getLogger("torchdistill").setLevel(logging.ERROR)
        for name in [name for name in logging.root.manager.loggerDict if "torchdistill" in name]:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.n, given = n, settings.optimizer
        steps = [
            transforms.RandomCrop(samples.image_shape[:2], recipe.data.augment.crop_padding),
            transforms.RandomHorizontalFlip(),
        ]
        steps += [transforms.ToTensor(), transforms.Normalize(recipe.data.mean, recipe.data.std)]
        optimizer = {"lr": given.lr, "momentum": given.momentum, "nesterov": True, "weight_decay": given.weight_decay}
        whole = {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
        }
        kd = {**whole, "temperature": 4.0, "alpha": settings.label_weight, "beta": 1 - settings.label_weight}
        config = {
            "num_epochs": 1,
            "train_data_loader": {
                "dataset_id": "train",
                "sampler": {"class_or_func": torch.utils.data.RandomSampler},
                "kwargs": {"batch_size": settings.batch_size, "num_workers": 2, "drop_last": True},
            },
            "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "SGD", "kwargs": optimizer},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
            },
        }
        dataset = Jpegs(recipe.data.train, transforms.Compose(steps))
        student = new_model(Network.of(recipe.student), samples, 0)
        self.box: Any = get_distillation_box(
            teacher, student, {"train": dataset}, config, torch.device("cpu"), None, False, 1
        )

    def block(self) -> float:
        """Samples per second, from the first batch on: starting the workers is not counted."""
        box, seen = self.box, 0
        box.pre_epoch_process(epoch=0)
        batches = iter(box.train_data_loader)
        batch, targets, more = next(batches)
        started = time.perf_counter()
        while seen < self.n:
            box.pre_forward_process()
            box.post_forward_process(loss=box.forward_process(batch, targets, more))
            seen += len(batch)
            batch, targets, more = next(batches)
        return seen / (time.perf_counter() - started)


class Jpegs(torch.utils.data.Dataset[Any]):
    """Encoded images that are decoded when asked for, as an image folder's are."""

    def __init__(self, reference: str, transform: Callable[[Any], torch.Tensor]) -> None:
        self.source, self.transform = open_source(reference, "train"), transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        image = Image.open(io.BytesIO(self.source.read(i))).convert("RGB")  # type: ignore[arg-type]
        return self.transform(image), int(self.source.labels[i])


if __name__ == "__main__":
    typer.run(main)
