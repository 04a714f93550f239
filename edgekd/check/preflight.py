"""preflight: checks before the training whether the models fit the data and the teacher knows the task."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekd.base.console import say
from edgekd.bundle.write import check_replaceable
from edgekd.cache.stage import Cache
from edgekd.check.batch import batch_size_of, check_batch_size
from edgekd.check.doubts import check_spread, doubts
from edgekd.check.own_losses import try_own
from edgekd.check.students import check_memory, check_no_softmax, check_trains
from edgekd.check.tasks import check_heads, check_tasks, with_heads
from edgekd.check.teachers import SHOWN, check_knowledge, checked_teacher
from edgekd.data import Samples
from edgekd.data.batches import arguments_of, examples_of
from edgekd.data.sources import check_classes
from edgekd.distill.features import Taps
from edgekd.distill.layers import pair_layers
from edgekd.distill.methods import METHODS, Method
from edgekd.distill.objective import ForwardPass, Numbered, TaskObjective
from edgekd.distill.own import method_of
from edgekd.errors import BundleError, EdgekdError, ModelError, RecipeError
from edgekd.models import CalledModel, ExportedModel, OnnxModel, number_of_classes
from edgekd.models.accelerator import uses_bf16
from edgekd.models.heads import parts_of
from edgekd.models.memory_format import arranged
from edgekd.recipe import Distill, Network, Recipe
from edgekd.recipe.losses import Loss, reads_teacher, title_of, with_temperature
from edgekd.steps.export import Form
from edgekd.steps.problem import Problems, TrainingSet
from edgekd.steps.rehearse import REFUSED, rehearse
from edgekd.steps.teach import first_weights
from edgekd.steps.trained import Trained, gives_tuple, initialise, new_model, number_of_outputs
from edgekd.target import Target
from edgekd.tasks.protocol import Labels, Task


@dataclass(frozen=True)
class BuildPlan:
    """The recipe's open settings, decided: the network with its heads, the losses with their layers, the opset."""

    student: Network
    learning: Distill
    form: Form


def preflight(run: Cache, recipe: Recipe, target: Target, problems: Problems) -> BuildPlan:
    """Refuse a recipe that cannot work, and decide the settings that the recipe leaves open.

    Raises ModelError, RecipeError, ExportError or QuantizationError, before anything is trained.
    """
    student = with_heads(recipe, problems)
    losses = check_models(recipe, target, student, problems)
    form = Form(recipe.export, recipe.export.opset or target.runtime.default_opset)
    _rehearse(run, recipe, target, student, problems, form)
    # "auto" depends on this machine and shapes the weights, so the precision it stands for enters their key.
    precision = "bf16" if uses_bf16(recipe.distill.precision) else "fp32"
    # Settings that only decide how often the stages run do not enter their keys.
    settled = {"precision": precision, "losses": losses, "generations": 0, "scheme": "offline"}
    settled["batch_size"] = batch_size_of(recipe, problems.student.open())
    return BuildPlan(student, recipe.distill.model_copy(update=settled), form)


def _rehearse(run: Cache, recipe: Recipe, target: Target, student: Network, problems: Problems, form: Form) -> None:
    """Write the untrained student's graph once, and print the parts that the target's runtime would refuse."""
    scheme = target.int8 if recipe.quantize.mode != "none" else None
    on = TrainingSet(problems.student.train, recipe.data.of_test, recipe.task.of_test)
    untrained, trains_on = student.model_copy(update={"weights": None}), recipe.quantize.mode in ("qat", "auto")
    rehearsed = run(rehearse, untrained, on, form, scheme, recipe.quantize.keep_float, trains_on, target)
    for line in json.loads((rehearsed / REFUSED).read_text()):
        say(f"  {target.title} would refuse this student as it is now: {line}")


def check_output(folder: Path) -> None:
    """Raise BundleError if the bundle could not be written at the end of the build."""
    check_replaceable(folder)
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:  # permissions alone do not tell: a file system may be read-only, or hold no files, as /proc
        Path(tempfile.mkdtemp(prefix=".edgekd-", dir=there)).rmdir()
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle to {folder}: {there} is not a folder that may be written ({error.strerror}); give another with --output"
        ) from error


def check_models(recipe: Recipe, target: Target, network: Network, problems: Problems) -> tuple[Loss, ...]:
    """Raise ModelError or RecipeError if teachers, students, data and losses do not fit each other.

    Returns the losses with each `layers = "auto"` replaced by pairs.
    """
    samples, by_teacher = problems.student.open(), problems.teacher.open()
    _check_data(recipe, problems, samples, by_teacher)
    student = new_model(network, samples, recipe.distill.seed, lambda told: say(f"  the student {told}"), partly=True)
    check_memory(student, target)
    places = ("teacher", *(f"teacher.also.{n}" for n in range(len(recipe.teachers) - 1)))[: len(recipe.teachers)]
    checked = [
        checked_teacher(teacher, place, by_teacher) for place, teacher in zip(places, recipe.teachers, strict=True)
    ]
    teachers, sizes = [teacher for teacher, _ in checked], [classes for _, classes in checked]
    _check_first_weights(recipe, student, samples)
    assistants = [
        new_model(Network.of(assistant), samples, 0, lambda told: say(f"  the assistant {told}"), partly=True)
        for assistant in recipe.student.assistants
    ]
    named = [("student", student), *(("assistant", assistant) for assistant in assistants)]
    _check_classes(recipe, network, named, sizes, samples)
    for task in (samples.task, *(further.open().task for further in problems.tasks.values())):
        check_fit(recipe.distill.losses, task)
    for (role, model), reference in zip(named, (recipe.student, *recipe.student.assistants), strict=True):
        if isinstance(model, OnnxModel | ExportedModel | CalledModel):
            raise ModelError(
                f"{role} '{reference.model}' cannot be trained; give edgekd:NAME, python:module:function or timm:NAME"
            )
        check_trains(model, role, samples)
        if not (role == "student" and network.heads):  # the rows of such a student belong to several tasks
            raw = samples.train.get(samples.train_ids[:SHOWN])
            shown = arguments_of(samples.input, raw, torch.device("cpu"))
            check_no_softmax(model, role, arranged(shown, torch.contiguous_format), samples.task.holds)
    check_tasks(recipe, problems)
    return _check_losses(recipe, student, next(iter(teachers), None), samples, by_teacher)


def _check_data(recipe: Recipe, problems: Problems, samples: Samples, by_teacher: Samples) -> None:
    """Raise RecipeError for settings that do not fit the images, and print doubts about the test split."""
    for table, input in (("data", samples.input), ("teacher", by_teacher.input)):
        if mistakes := [f"{table}.{key} {why}" for key, why in input.mistakes().items()]:
            raise RecipeError("; ".join(mistakes))
    unseen, unseen_by_teacher = problems.student.open_test(), problems.teacher.open_test()
    same = np.array_equal(samples.train.labels, by_teacher.train.labels)
    if not same or not np.array_equal(unseen.labels, unseen_by_teacher.labels):
        raise RecipeError(f"teacher.column = '{recipe.teacher_data.column}' holds other rows than the student's images")
    if not recipe.data.is_synthetic:  # synthetic images do not exist yet
        for doubt in doubts(unseen):  # the report repeats the doubts at the end
            say(f"  {doubt}")
    for opened in (samples, *(task.open() for task in problems.tasks.values())):
        for line in check_spread(opened):
            say(f"  {line}")
    check_class_weights(recipe.distill, samples)
    check_batch_size(recipe, samples)


def check_class_weights(settings: Distill, samples: Samples) -> None:
    """Raise RecipeError for another number of class weights than classes."""
    given, names = settings.class_weights, samples.classes
    if isinstance(given, tuple) and len(given) != len(names):
        more = ", ..." if len(names) > 10 else ""
        raise RecipeError(
            f"distill.class_weights has {len(given)} numbers, the data has {len(names)} classes; give one for each, in the "
            f'order {", ".join(names[:10])}{more}, or write "balanced"'
        )


def _check_first_weights(recipe: Recipe, student: nn.Module, samples: Samples) -> None:
    """Raise ModelError or RecipeError if `student.init` cannot give the student its first weights."""
    begins_with = first_weights(recipe, tuple(map(Trained, recipe.teachers)))
    if begins_with is None:
        return
    initialise(copy.deepcopy(student), begins_with, samples)
    if (begins_with.source.network.classes or samples.classes) != samples.classes:
        raise RecipeError(
            "student.init takes the teacher's head too, whose classes stand in the order of teacher.classes; leave "
            "student.init out, or give a source of the data's order"
        )


def _check_classes(
    recipe: Recipe, network: Network, students: list[tuple[str, nn.Module]], sizes: list[int], samples: Samples
) -> None:
    """Raise ModelError if a network gives another number of classes than the data. sizes: those of the teachers."""
    apart = gives_tuple(network, samples.task)
    if apart:
        check_heads(students[0][1], network, samples)
    found = [
        (
            role,
            number_of_classes(
                model, examples_of(samples, 2), f"the {role}", noun=samples.input.noun, maps=samples.task.shape[1:]
            ),
        )
        for role, model in ([] if apart else students)
    ]
    for role, classes in (*found, *(("teacher", classes) for classes in sizes)):
        knows_fewer = role == "teacher" and classes < len(samples.classes) and _reads_old_classes_only(recipe)
        expected = number_of_outputs(network, samples) if role == "student" else len(samples.classes)
        if classes != expected and not knows_fewer:
            if network.heads and role == "student":
                raise ModelError(f"the student gives {classes} logits, the classes of all tasks are {expected}")
            raise ModelError(
                f"the {role} gives {classes} classes, the data has {len(samples.classes)} ({', '.join(samples.classes[:10])})"
            )
    if len(set(sizes)) > 1:
        raise ModelError(f"the teachers give {', '.join(map(str, sizes))} classes; several teachers know the same ones")
    if not recipe.data.is_synthetic and samples.task.strata(samples.train.labels) is not None:
        known = sizes[0] if sizes and sizes[0] < len(samples.classes) else 0  # old classes may have no samples
        check_classes(samples.train.labels, samples.classes, f"data.train = '{recipe.data.train}'", known=known)


def check_fit(losses: Sequence[Loss], task: Task) -> None:
    """Raise RecipeError for a loss that reads rows of another kind than the task's, or maps that the task has not."""
    for n, loss in enumerate(losses):
        if why := _misfit(method_of(loss.method), task):
            possible = [name for name, other in METHODS.items() if not _misfit(other, task)]
            raise RecipeError(
                f"distill.losses.{n}.method: {title_of(loss.method)} {why}; for this task take {', '.join(possible)}"
            )


def _misfit(method: Method, task: Task) -> str:
    """The reason why a method does not fit a task's rows; empty if it fits."""
    is_dense = len(task.shape) > 1
    if task.holds not in method.rows:
        return f"reads {' or '.join(method.rows)}, and the task has {task.holds}"
    if is_dense and method.per_sample:
        return "reads a row for each sample, and the task has one for each pixel"
    return "reads maps of logits, and the task has none" if method.reads_maps and not is_dense else ""


def _reads_old_classes_only(recipe: Recipe) -> bool:
    """Whether every loss that reads a teacher allows a teacher that knows the first classes only."""
    readers = [loss.method for loss in recipe.distill.losses if reads_teacher(method_of(loss.method))]
    return all(method_of(method).old_classes for method in readers)


def _check_losses(
    recipe: Recipe, student: nn.Module, teacher: nn.Module | None, opened: Samples, by_teacher: Samples
) -> tuple[Loss, ...]:
    losses = recipe.distill.losses
    reads_features = [loss.method for loss in losses if loss.weight and "f_t" in method_of(loss.method).needs]
    if reads_features and isinstance(teacher, OnnxModel | ExportedModel | CalledModel):
        possible = [name for name, method in METHODS.items() if "f_t" not in method.needs]
        raise RecipeError(
            f"teacher '{recipe.teachers[0].model}' has no modules that {', '.join(map(title_of, reads_features))} could read; use a method "
            f"without its features ({', '.join(possible)}), or give the teacher as python:module:function"
        )
    if reads_features and (recipe.student.assistants or recipe.distill.generations):
        raise RecipeError(
            f"{', '.join(map(title_of, reads_features))} pair the layers of one teacher and one student; with assistants or generations every "
            "link has others: use methods that read logits"
        )
    if recipe.distill.ema and (more := [name for name in reads_features if method_of(name).deployed is not None]):
        raise RecipeError(f"distill.ema averages the student alone, and {more[0]} ships more beside it; set ema = 0")
    links = (
        "student.assistants"
        if recipe.student.assistants
        else "distill.generations"
        if recipe.distill.generations
        else ""
    )
    if links and not any(loss.weight and {"z_t", "z_ts", "m_t"} & set(method_of(loss.method).needs) for loss in losses):
        raise RecipeError(f"{links} given, but no loss reads a teacher; add one, as distill.losses=[{{method='kd'}}]")
    if reads_features and recipe.teacher is not None and recipe.teacher.column:
        raise RecipeError(
            f"{', '.join(map(title_of, reads_features))} read the teacher's features while the student trains, and this teacher sees another "
            f"column ('{recipe.teacher.column}'); use methods that read its logits"
        )
    losses = pair_layers(losses, student, teacher, examples_of(opened, 2))
    for loss, given in zip(losses, recipe.distill.losses, strict=True):
        if given.layers == "auto":
            shown = loss.layers.items() if isinstance(loss.layers, dict) else [(path, "") for path in loss.layers]
            say(
                f"  {title_of(loss.method)} reads "
                + ", ".join(f"{ours} = {theirs}" if theirs else ours for ours, theirs in shown)
            )
    objective = TaskObjective(with_temperature(losses, 4.0), recipe.distill.label_weight)
    _ = objective.pooled_features  # raises RecipeError for a layer with two layouts
    try_losses(objective, student, teacher, opened, by_teacher)
    return losses


def try_losses(
    objective: TaskObjective, student: nn.Module, teacher: nn.Module | None, samples: Samples, by_teacher: Samples
) -> None:
    """Compute the losses once on four blank samples, so that a bad pair of layers is refused before training."""
    arguments, task = examples_of(samples, 4), samples.task
    ids = samples.train_ids[np.arange(4) % len(samples.train_ids)]
    labels = torch.from_numpy(np.array(samples.train.labels[ids]))
    if task.strata(samples.train.labels) is not None:
        labels = torch.tensor([0, 1, 0, 1])  # samples of one class would form no pairs
    with (
        torch.no_grad(),
        Taps(student, objective.layers_of("student"), "student") as ours,
        Taps(teacher or nn.Identity(), objective.layers_of("teacher"), "teacher") as theirs,
    ):
        (outputs,) = parts_of(student.eval()(*arguments), [task.outputs])
        # A student that teaches itself has no teacher yet: its own logits stand for the first generation's.
        of_teacher = outputs if teacher is None else teacher.cpu()(*examples_of(by_teacher, 4))
        forward = ForwardPass.of(
            task.rows,
            Numbered(ids, torch.arange(4), 0),
            arguments,
            Labels(labels, labels, torch.ones(4)),
            outputs,
            task.rows.kept(of_teacher, ids, 0)[None],
            ours.features,
            theirs.features,
        )
        tried = copy.deepcopy(objective)
        for term in tried.terms:
            try:
                tried.prepare_one(term, forward, student, teacher, task.outputs, len(samples.train_ids))
                if term.is_own:
                    try_own(term, forward)
                else:
                    term(forward, 0.0)
            except EdgekdError:
                raise
            except Exception as error:  # on features of the wrong kind a method may raise any error
                f_s = [f"{path} {_shape(ours.features.get(path))}" for path in term.student_layers]
                f_t = [_shape(theirs.features.get(path)) for path in term.teacher_layers]
                f_t = [f"{path} {shape}" for path, shape in zip(term.teacher_layers, f_t, strict=True)]
                shapes = ", ".join(" = ".join(pair) for pair in zip(f_s, f_t or f_s, strict=True))
                raise RecipeError(f"loss '{term.name}' cannot compare {shapes or 'these logits'}: {error}") from error
        tried.deployed(student)


def _shape(feature: object) -> str:
    return str(list(feature.shape)) if isinstance(feature, torch.Tensor) else f"({type(feature).__name__})"


def check_teachers(
    recipe: Recipe, problems: Problems, teachers: tuple[Trained, ...], confirm: Callable[[str], bool]
) -> None:
    """Refuse a teacher that numbers the classes differently from the data.

    Ask whether to go on with a teacher that is no better than chance.
    """
    if recipe.data.is_synthetic:  # images made from the teacher cannot judge the teacher
        return
    seen = problems.teacher
    for teacher in teachers:
        check_knowledge(teacher, seen.open(), confirm)
    for task in recipe.tasks:
        own = problems.tasks[task.name]
        check_knowledge(Trained(Network.of(task.teacher)), own.open(), confirm)
