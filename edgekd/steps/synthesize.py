"""The stage that makes a training split from the teacher alone, for `data.train` = "synthetic:METHOD"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.cache.stage import SCRATCH, Cache, stage
from edgekd.data.store import write_decoded
from edgekd.distill.data_free.synthesize import deep_inversion, generate
from edgekd.inputs.image import INPUT, Image
from edgekd.recipe import Data, Network, Recipe
from edgekd.steps.problem import Problems, with_training_split
from edgekd.steps.trained import Trained, new_model
from edgekd.tasks.classify import Classify


@dataclass(frozen=True)
class Wanted:
    """The classes and the shape of the images to make, both taken from the test split."""

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @property
    def task(self) -> Classify:
        """The task of naming one of the classes."""
        return Classify(self.classes)

    @property
    def input(self) -> Image:
        """The input for images of this shape."""
        return Image(self.image_shape)


@stage(7, ("torch", "numpy"), of="teacher")
def synthesize(wanted: Wanted, data: Data, teacher: Network, rival: Network | None, *, out: Path) -> None:
    """Stage: make a synthetic training split, in the form that `decode` stores.

    wanted: the shape and classes of the images; data: as the teacher sees it; rival: the student that "dfq" plays against.
    The labels are the classes that the images were made for, or that the teacher sees in them. The student should learn
    from the teacher's logits, with `label_weight = 0`. A build resumes after a kill. Raises ModelError for a teacher
    without gradients.
    """
    model = Trained(teacher).load_teacher(wanted)
    asked = data.synthetic
    common = {
        "n": asked.samples,
        "image_shape": wanted.image_shape,
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
            against = new_model(rival, wanted, data.seed, partly=True) if rival is not None else None
            images, labels = generate(model, method=method, student=against, **common, **given)  # type: ignore[arg-type]
    write_decoded(out, "image", {INPUT: images}, labels, wanted.classes)


def synthesized(run: Cache, recipe: Recipe, problems: Problems, student: Network) -> Problems:
    """The problems, with images made from the teacher if the recipe has no training data."""
    if not recipe.data.is_synthetic:
        return problems
    (teacher,), rival = recipe.teachers[:1], student if recipe.data.train == "synthetic:dfq" else None
    tested = problems.student.open()
    seen = problems.teacher.data
    assert isinstance(tested.input, Image) and isinstance(seen, Data)
    wanted = Wanted(tested.classes, tested.input.shape)
    train = run(synthesize, wanted, seen, teacher, rival)
    own = with_training_split(run, train, problems.student.data, problems.student.task)
    return Problems(own, replace(own, data=seen), problems.tasks)
