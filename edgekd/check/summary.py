"""summary: rows for the report with the recipe as it was trained: models, data, losses with options and layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgekd.distill.own import method_of
from edgekd.recipe import Distill, Model, Recipe, TeacherModel
from edgekd.recipe.losses import Loss
from edgekd.recipe.named import file_name, in_words, named


def summary(recipe: Recipe, settings: Distill, curves: Sequence[Mapping[str, float]] = ()) -> Iterator[tuple[str, str]]:
    """The rows (name, value) of the summary, in the order of the flow.

    settings: those that the student was trained by, with paired layers; curves: the figures of its epochs.
    """
    data, train = recipe.data, settings.optimizer
    augmented = data.augment.model_dump(exclude_defaults=True)
    test = (
        file_name(data.test) if isinstance(data.test, str) else f"{100 * data.test:g} % of it (seed {data.test_seed})"
    )
    yield "data", f"train {file_name(data.train)}, test {test}; {in_words(augmented) or 'no augmentation'}"
    for teacher in recipe.teachers:
        yield "teacher", _model(teacher)
    if not recipe.teachers:
        yield "teacher", "none"
    for assistant in recipe.student.assistants:
        yield "assistant", _model(assistant)
    begun = f"; begun by {recipe.student.init.how}" if recipe.student.init else ""
    yield "student", _model(recipe.student) + begun
    for task in recipe.tasks:
        yield f"task {task.name}", f"column {task.label}, weight {task.weight:g}, taught by {_model(task.teacher)}"
    if recipe.distill.scheme != "offline":
        yield "scheme", recipe.distill.scheme
    if settings.label_weight:
        yield "labels", f"{recipe.task.label_loss}, weight {settings.label_weight:g}{_by_class(settings)}"
    for loss in settings.losses:
        yield f"loss {file_name(loss.method)}", _loss(loss)
    yield (
        "training",
        f"{settings.epochs} epochs, batch {settings.batch_size}, {settings.views} views, {train.name} at {train.lr:g}, weight decay "
        f"{train.weight_decay:g}, warm-up of {settings.warmup_epochs:g} epochs, {settings.precision}, seed {settings.seed}"
        + (f", averaged by {settings.ema:g}" if settings.ema else "")
        + (", each class equally often" if settings.sampling == "balanced" else "")
        + (f", {recipe.distill.generations} generations" if recipe.distill.generations else "")
        + _ended(settings, curves),
    )
    yield "quantization", in_words({"mode": recipe.quantize.mode, **recipe.quantize.model_dump(exclude_defaults=True)})


def _by_class(settings: Distill) -> str:
    """The weights of the classes in words; empty if all weigh alike."""
    given = settings.class_weights
    if given is None:
        return ""
    return f", class weights {given if isinstance(given, str) else ', '.join(f'{weight:g}' for weight in given)}"


def _ended(settings: Distill, curves: Sequence[Mapping[str, float]]) -> str:
    """The epoch that `patience` ended the training after, and the epoch that was kept, if these were chosen."""
    early = 0 < len(curves) < settings.epochs
    how = f"ended after epoch {len(curves)}" if early else "not ended early"
    ended = f", {how} (patience {settings.patience})" if settings.patience else ""
    kept = [int(epoch["epoch"]) for epoch in curves if epoch.get("kept")]
    return ended + (f", kept epoch {kept[0]}, the best on the hold-out split" if kept else "")


def _loss(loss: Loss) -> str:
    options = {key: loss.options.get(key, option.default) for key, option in method_of(loss.method).options.items()}
    about = {"weight": loss.weight, **options}
    about |= {key: value for key in ("warmup_epochs", "until_epoch", "layout") if (value := getattr(loss, key))}
    if isinstance(loss.layers, Mapping):
        about |= (
            {"layers": ", ".join(f"{ours} = {theirs}" for ours, theirs in loss.layers.items())} if loss.layers else {}
        )
    else:
        about["layers"] = ", ".join(loss.layers)
    return in_words(about)


def _model(model: Model) -> str:
    own = f", {_own(model)}" if isinstance(model, TeacherModel) and _own(model) else ""
    return named(model) + own


def _own(teacher: TeacherModel) -> str:
    """The settings of a teacher that differ from the data, in words."""
    told = {
        "gives": teacher.outputs and teacher.outputs.replace("_", "-"),
        "takes": teacher.size and f"{teacher.size[0]} x {teacher.size[1]}",
        "classes by": "name" if teacher.classes else None,
    }
    return in_words(told)
