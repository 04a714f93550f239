"""The stage that makes a training split from the teacher alone, where `data.train` is "synthetic:METHOD"."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from edgekd.cache.stage import SCRATCH, Artifact, stage
from edgekd.data import open_samples
from edgekd.distill.data_free.synthesize import deep_inversion, generate
from edgekd.recipe import Data, Student, Teacher
from edgekd.steps.record import load_teacher
from edgekd.steps.trained import new_model


@stage(3, ("torch", "numpy"))
def synthesize(tested: Artifact, teacher: Teacher, rival: Student | None, data: Data, *, out: Path) -> None:
    """Stage: a store as `decode` writes it, its train split synthetic, its test split that of `tested`.

    The labels are the classes that the images were made for, or that the teacher sees in them. A student learns from
    the teacher's logits: `label_weight = 0` suits it. `rival`: the student that "dfq" plays against; `data`: as the teacher
    sees it. A build that was killed goes on. Raises ModelError for a teacher without gradients.
    """
    opened = open_samples(tested.folder, data)
    model = load_teacher(teacher, None, opened)
    asked = data.synthetic
    common = {
        "n": asked.samples,
        "image_shape": opened.image_shape,
        "mean": data.mean,
        "std": data.std,
        "seed": data.seed,
        "scratch": out / SCRATCH,
    }
    given = asked.model_dump(include={"steps", "batch"}, exclude_none=True)
    match data.train.partition(":")[2]:
        case "deep_inversion":
            images, labels = deep_inversion(model, **common, **given, flip=data.augment.flip)  # type: ignore[arg-type]
        case method:
            against = new_model(rival, opened, data.seed) if rival is not None else None
            images, labels = generate(model, method=method, student=against, **common, **given)  # type: ignore[arg-type]
    (out / "train.decoded").write_bytes(np.ascontiguousarray(images).tobytes())
    np.save(out / "train.labels.npy", labels)
    meta = json.loads((tested / "meta.json").read_text())
    for file in tested.folder.glob("test.*"):
        shutil.copy(file, out / file.name)
    if meta["kind"] == "encoded":  # the pixels of test, so that both splits are of one kind
        rows = range(0, len(opened.test), 256)
        with open(out / "test.decoded", "wb") as decoded:
            for start in rows:
                decoded.write(opened.test.get(np.arange(start, min(start + 256, len(opened.test)))).tobytes())
    np.save(out / "test.repeated.npy", np.zeros(len(opened.test), np.bool_))  # `tested` had test alone, as both splits
    (out / "meta.json").write_text(json.dumps({**meta, "kind": "decoded"}))
