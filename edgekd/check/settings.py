"""check_inputs: refuses missing files, unknown models, and settings that the device cannot run, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from edgekd.base.toml_file import Mistake, refuse
from edgekd.recipe import ClassifyTask, Data, Recipe, TableData
from edgekd.recipe.losses import reads_teacher, title_of
from edgekd.recipe.refusals import missing_files, wrong_forms
from edgekd.recipe.schemes import TEACHERLESS
from edgekd.target import Target


def check_inputs(recipe: Recipe, target: Target) -> None:
    """Raise RecipeError with every mistake of a located recipe that is seen without its data: missing files, models
    of no known form, and settings that `target` cannot run. If there are any, names of models that do not exist are told too.
    """
    found = [*missing_files(recipe), *wrong_forms(recipe), *impossible_settings(recipe, target)]
    if found:  # names need an import of torch, which a current build does without
        from edgekd.check.names import unknown_names

        named = list(unknown_names(recipe))
        places = {mistake.place for mistake in named}  # of a student's bare name they know what to write
        found = [*(mistake for mistake in found if mistake.place not in places), *named]
    refuse(
        f"recipe {recipe.name} for target {target.name}",
        [Mistake(recipe.where(mistake.place), mistake.text) for mistake in found],
    )


def impossible_settings(recipe: Recipe, target: Target) -> Iterator[Mistake]:
    """A mistake for each setting that the device cannot run or that contradicts another setting."""
    if recipe.teacher is None:
        yield from _wants_a_teacher(recipe)
    elif recipe.data.is_synthetic and (recipe.teacher.train_epochs or recipe.teacher.column):
        why = "images are made from a trained teacher: give its weights, no train_epochs or column"
        yield Mistake("data.train", f'"{recipe.data.train}" given; {why}')
    if recipe.teacher is not None and recipe.teacher.train_epochs and recipe.teacher.classes:
        yield Mistake(
            "teacher.classes",
            "given beside train_epochs; a teacher that is trained here has the data's order: leave it out",
        )
    for place, task in (("task", recipe.task), *((f"tasks.{n}.task", of.task) for n, of in enumerate(recipe.tasks))):
        if not isinstance(task, ClassifyTask):
            yield from _only_of_classes(recipe, place, task.kind)
    if not isinstance(recipe.data, Data):
        yield from _only_of_images(recipe)
    yield from _of_tables(recipe)
    least = recipe.budget.min_accuracy
    if least is not None and recipe.task.kind != "regress" and not 1 < least <= 100:
        meant = f"write {100 * least:g} for a share of {least:g}" if least <= 1 else "at most 100 is possible"
        yield Mistake("budget.min_accuracy", f"{least:g} given; it is in percent: {meant}")
    if recipe.student.init is not None and recipe.student.weights is not None:
        yield Mistake("student.init", "given beside student.weights; a student begins with one of them")
    if recipe.tasks:
        from edgekd.check.tasks import mistakes_in_tasks  # imports torch, which a current build does not need

        yield from (Mistake(place, what) for place, what in mistakes_in_tasks(recipe))
    runtime = target.runtime
    if recipe.quantize.mode != "none" and (target.quantization is None or "int8" not in runtime.precisions):
        why = "has no int8 scheme" if target.quantization is None else f"runs {', '.join(runtime.precisions)}, not int8"
        yield Mistake("quantize.mode", f'"{recipe.quantize.mode}" given; {target.name} {why}. Write mode = "none"')
    if recipe.export.opset is not None and recipe.export.opset > runtime.max_opset:
        version = f"{runtime.name} {runtime.version}" if runtime.version else runtime.name
        yield Mistake(
            "export.opset",
            f"{recipe.export.opset} given; {version} on {target.name} takes up to {runtime.max_opset}."
            f" Leave opset out for the target's own, {runtime.default_opset}",
        )
    opset, scheme = recipe.export.opset, target.quantization
    if (
        recipe.quantize.mode != "none"
        and scheme is not None
        and scheme.rest == "fp16"
        and opset is not None
        and opset < 19
    ):
        yield Mistake(
            "export.opset",
            f"{opset} given; int8 with fp16 between, which {target.name} is made for, takes opset 19 or later. "
            f"Leave opset out for the target's own, {runtime.default_opset}",
        )


def _only_of_classes(recipe: Recipe, task: str, kind: str) -> Iterator[Mistake]:
    """A mistake for each setting that a task other than classify does not have. task: its table."""
    if kind == "segment" and not isinstance(recipe.data, Data):
        yield Mistake(f"{task}.kind", f'"segment" given; data.input = "{recipe.data.input}" has no pixels: give images')
    is_first, settings = task == "task", recipe.distill
    weighing = "write task.class_weights" if kind == "segment" else "it is of one class a sample: leave it out"
    for place, given, remedy in (
        ("distill.class_weights", is_first and settings.class_weights is not None, weighing),
        (
            "distill.sampling",
            is_first and settings.sampling == "balanced",
            "it is of one class a sample: leave it out",
        ),
        (
            "data.classes",
            recipe.data.classes is not None and is_first,
            "it is of one class a sample; write task.classes",
        ),
        ("data.train", recipe.data.is_synthetic, "images are made for classes; give training samples"),
        ("export.output", recipe.export.output != "logits", "probabilities are of classes; leave output out"),
    ):
        if given:
            yield Mistake(place, f'given beside {task}.kind = "{kind}"; {remedy}')


def _only_of_images(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each setting that sounds and tables do not have."""
    noun, computes = (
        ("tables", "standardises numbers") if recipe.data.input == "table" else ("sounds", "computes the spectrogram")
    )
    tables = {"teacher": recipe.teacher, **{f"tasks.{n}.teacher": task.teacher for n, task in enumerate(recipe.tasks)}}
    if recipe.teacher is not None:
        tables |= {f"teacher.also.{n}": teacher for n, teacher in enumerate(recipe.teacher.also)}
    for place, table in tables.items():
        for key in ("mean", "std", "size"):
            if getattr(table, key, None) is not None:
                yield Mistake(f"{place}.{key}", f'given; {noun} have none: leave it out, or write data.input = "image"')
    if not recipe.export.preprocess:
        yield Mistake(
            "export.preprocess",
            f"false given; the graph {computes} itself, as run.py does not: leave it out",
        )


def _of_tables(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each setting that tables alone have, or alone have not."""
    is_table = isinstance(recipe.data, TableData)
    if recipe.teacher is not None and recipe.teacher.raw and not is_table:
        yield Mistake("teacher.raw", 'true given; it is of tables, data.input = "table": leave it out')
    if recipe.teacher is not None and recipe.teacher.column and is_table:
        yield Mistake(
            "teacher.column", "given; a teacher of a table reads the same columns as the student: leave it out"
        )
    if recipe.tasks and is_table:
        yield Mistake("tasks", "given; a table has one task so far, whose labels data.label names")


def _wants_a_teacher(recipe: Recipe) -> Iterator[Mistake]:
    """A mistake for each setting that needs a [teacher], for a recipe without one."""
    losses, readers = [loss for loss in recipe.distill.losses if loss.weight], []
    if losses:
        from edgekd.distill.own import method_of  # imports torch

        readers = [title_of(loss.method) for loss in losses if reads_teacher(method_of(loss.method))]
    if readers and not recipe.distill.generations:
        yield Mistake(
            "teacher",
            f"missing, and {', '.join(readers)} {'read' if len(readers) > 1 else 'reads'} one: write [teacher] with a model, or learn "
            f'without one: distill.scheme = "{TEACHERLESS[0]}" (or {", ".join(TEACHERLESS[1:])}), or from labels alone: '
            "distill.losses = [], label_weight = 1",
        )
    init = recipe.student.init
    for place, given, why in (
        ("data.train", recipe.data.is_synthetic, "images are made from a teacher"),
        ("student.assistants", bool(recipe.student.assistants), "the first of them learns from a teacher"),
        ("student.init", init is not None and init.source is None, "it begins with a teacher's weights, or those of its source"),
        ("distill.losses", any(loss.options.get("temperature") == "auto" for loss in losses), 'temperature = "auto" is tried on a teacher\'s logits'),
        ("budget.max_drop_from_teacher", recipe.budget.max_drop_from_teacher is not None, "it is about a teacher"),
    ):  # fmt: skip
        if given:
            yield Mistake(place, f"given, but the recipe has no [teacher]; {why}")
