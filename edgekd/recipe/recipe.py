"""Recipe: the description of a build. Reads edgekd.toml and reports all mistakes at once, with their places."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from edgekd.base.names import class_problem
from edgekd.base.places import expanded
from edgekd.base.texts import FolderName, Text
from edgekd.base.toml_file import (
    Mistake,
    Places,
    as_json,
    beyond,
    date_mistakes,
    parse_toml,
    read_text,
    refuse,
    shown,
    validation_mistakes,
)
from edgekd.errors import RecipeError, nearest
from edgekd.recipe import overrides as command_line
from edgekd.recipe.audio import AudioData
from edgekd.recipe.data import Data
from edgekd.recipe.forms import wrong_forms_in
from edgekd.recipe.losses import Loss, Methods, Own, is_own, losses_in, mistakes_in_losses
from edgekd.recipe.schemes import ELSEWHERE, SCHEMES, with_scheme
from edgekd.recipe.section import MOST, NonNegative, Percent, Positive, Section
from edgekd.recipe.table import RawTableData, TableData
from edgekd.recipe.task import AnyTask, ClassifyTask

FILE = "edgekd.toml"
LOCATED = ("data", "teacher", "student", "tasks")  # the tables that name files


class Model(Section):
    """A model reference with its weights and keyword arguments."""

    references = frozenset({"model", "weights"})

    model: Text = Field(
        description="edgekd:NAME, timm:NAME, python:FILE.py:FUNCTION, exported:FILE.pt2, onnx:FILE (teachers)"
    )
    weights: Text | None = Field(
        default=None, description="a file of weights, for edgekd:, timm: and python: (docs/models.md)"
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model's function")


class TeacherModel(Model):
    """A model that teaches, with the form of its input and outputs.

    edgekd.models.adapt converts both to the form that the data needs.
    """

    outputs: Literal["logits", "probabilities", "log_probabilities"] | None = Field(
        default=None, description="what its outputs are; none: logits, and any other output is refused"
    )
    classes: tuple[Text, ...] | Text | None = Field(
        default=None,
        description="class names in the order of its outputs, or a text file with one name per line; none: the data's order",
    )
    size: tuple[Annotated[int, Field(ge=1, le=MOST)], Annotated[int, Field(ge=1, le=MOST)]] | None = Field(
        default=None,
        description="height, width of its input; pictures are resized to it (bilinear); none: the data's",
    )


class Network(TeacherModel):
    """A network as stages take it. `heads` are further tasks with the shapes of their outputs, behind those of the first."""

    heads: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, heads: Mapping[str, tuple[int, ...]] | None = None) -> Self:
        """The network of a table, without the table's other settings."""
        return cls(
            **{name: value for name, value in model if name in TeacherModel.model_fields}, heads=dict(heads or {})
        )


class Teacher(TeacherModel):
    """The trained model to learn from. With `train_epochs` the teacher is trained on labels first.

    `also` are further teachers. A method that reads one teacher is averaged over all teachers; `eb_kd` and `ca_mkd` weigh
    them. With `column` the teachers see another column of the same rows (cross-modal distillation).
    """

    train_epochs: int = Field(
        default=0, ge=0, le=MOST, description="epochs to train the teacher on labels first; 0: it is already trained"
    )
    also: tuple[TeacherModel, ...] = Field(default=(), description="further teachers, each a table like this")
    column: Text | None = Field(default=None, description="column of the teachers' images; none: the student's")
    mean: tuple[Annotated[float, Field(le=1)], ...] | None = Field(
        default=None, description="mean of the teachers' images, of values in 0..1; none: the data's"
    )
    std: tuple[Positive, ...] | None = Field(
        default=None, description="standard deviation of the teachers' images; none: the data's"
    )
    raw: bool = Field(
        default=False,
        description="true: of a table the teachers get numbers that are not standardised, or are functions of its columns",
    )


class Init(Section):
    """The student's first weights, taken from the teacher or from the model `source`.

    copy: layers by path, or every n-th repeated layer. slice: the strongest channels. wider, deeper: Net2Net, which keeps
    the function (wider: except for the `noise`). extend: everything that fits, and the head's first classes (for `lwf`).
    """

    how: Literal["copy", "slice", "wider", "deeper", "extend"] = Field(description="see docs/distillation.md")
    layers: dict[str, str] | Literal["every_nth"] = Field(
        default="every_nth", description="how = copy: student module path -> teacher module path"
    )
    noise: NonNegative = Field(
        default=1e-5,
        description="how = wider: noise on copied channels, relative to their weights, because equal channels learn alike (Net2Net, "
        "2.3); more noise parts them sooner and changes the function more",
    )
    source: Model | None = Field(default=None, description="model that gives the weights; none: the teacher")


class Student(Model):
    """The model that ships.

    `assistants` (Mirzadeh et al. 2020) are trained before the student: the first learns from the teacher, each next
    assistant from the assistant before. `init` gives the student's first weights if it has none (edgekd.models.init).
    """

    assistants: tuple[Model, ...] = Field(
        default=(), description="models between teacher and student; the first learns from the teacher"
    )
    weights: Text | None = Field(
        default=None,
        description="a file of weights that training begins with, for edgekd:, timm: and python:; tensors of another shape are left out and told",
    )
    init: Init | None = Field(default=None, description="the student's first weights; none: random")


class Task(Section):
    """A further task of the student, with its own head and its own teacher (system-level distillation).

    `name` is the name of the task's output in the exported graph; `label` is the parquet column of its classes.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="name of the task's output")]
    label: Text = Field(description="column of the task's labels")
    task: AnyTask = Field(default=ClassifyTask(), description="the kind of the task's answers, a table like [task]")
    teacher: TeacherModel = Field(description="teacher of the task's classes, a table like [teacher]")
    weight: Positive = Field(default=1.0, description="weight of the task's losses; the first task has 1")


class Optimizer(Section):
    name: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd has Nesterov momentum")
    lr: Positive = Field(
        default=0.1, description="learning rate after the warm-up; then it falls to 0 in half a cosine"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: NonNegative = Field(default=5e-4, description="weight decay of all parameters")


class Recording(Section):
    """The settings for recording a teacher's outputs: `views` augmentations of each sample.

    `format` is a format of edgekd.distill.cache.
    """

    views: int
    format: Literal["float16", "int8", "topk"]
    top_k: int
    bf16: bool


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST


def _balanced_or_weights(value: Any) -> Any:
    """The word "balanced" or positive numbers. Raises ValueError for anything else, in one line for both forms."""
    if value is None or value == "balanced":
        return value
    if isinstance(value, list | tuple) and value and all(map(_is_weight, value)):
        return tuple(map(float, value))
    raise ValueError(f'{shown(value)} given; write "balanced", or a number above 0 for each class, as [1.0, 5.0]')


class Distill(Section):
    """The settings for training the student. Default losses: `kd` at T 4, weight 0.9; labels, weight 0.1 (Hinton 2015)."""

    shapes_nothing = frozenset({"tensorboard"})

    epochs: int = Field(default=30, ge=1, le=MOST, description="epochs of training; `keep` says which epoch ships")
    keep: Literal["last", "best"] = Field(
        default="last",
        description="the epoch whose weights ship; best: by the first task's metric on the hold-out split, of equal epochs the later",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="training ends when the hold-out figure has not improved for so many epochs; the learning rate falls as "
        "for all `epochs`; none: it never ends early",
    )
    batch_size: int = Field(
        default=128,
        ge=2,
        le=MOST,
        description="samples per step, over all processes; of fewer samples the default is smaller",
    )
    views: int = Field(
        default=4, ge=1, le=MOST, description="augmentations per sample for which the teacher's outputs are recorded"
    )
    cache: Literal["float16", "int8", "topk"] = Field(
        default="float16", description="how the teacher's logits are stored (edgekd.distill.cache)"
    )
    top_k: int = Field(default=32, ge=1, le=MOST, description='logits of each sample that cache = "topk" keeps')
    label_weight: NonNegative = Field(default=0.1, description="weight of the cross-entropy with the labels")
    class_weights: Annotated[
        Literal["balanced"] | tuple[Positive, ...] | None, BeforeValidator(_balanced_or_weights)
    ] = Field(
        default=None,
        description="weight of each class in the label loss of the first task; balanced: n / (k * n_c), a rare class weighs more; none: 1",
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        default="shuffled",
        description="shuffled: an epoch has each sample once; balanced: as many samples, each class of the first task equally often",
    )
    losses: tuple[Loss, ...] = Field(
        default=(Loss(method="kd", weight=0.9),), description="losses that are added up; see [[distill.losses]]"
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="see [distill.optimizer]")
    warmup_epochs: NonNegative = Field(
        default=1.0, le=MOST, description="epochs in which the learning rate rises linearly from 0"
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay per step of the averaged weights, which ship; 0 is off"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 if the machine computes in bf16"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the first weights and of the order of samples")
    tensorboard: bool = Field(default=False, description="also writes the curves for TensorBoard")
    scheme: Literal["offline", "born_again", "dml", "one", "byot", "tf_kd", "cs_kd", "adversarial", "lifelong"] = Field(
        default="offline", description="named defaults of this table (edgekd.recipe.schemes)"
    )
    generations: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="times that the trained student teaches a new student of the same kind (born-again networks)",
    )

    @field_validator("scheme", mode="before")
    @classmethod
    def _other_words_say_what_to_write(cls, scheme: Any) -> Any:
        if isinstance(scheme, str) and scheme in ELSEWHERE:
            raise ValueError(f"scheme {scheme!r} is not set here; write {ELSEWHERE[scheme]}")
        return scheme

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        lasting = [loss for loss in self.losses if loss.until_epoch is None or loss.until_epoch >= self.epochs]
        if self.label_weight == 0 and not any(loss.weight for loss in lasting):
            raise ValueError(
                "label_weight is 0 and no loss has a weight to the end: there is nothing to learn from; give one a weight"
            )
        return self

    @model_validator(mode="after")
    def _weighted_labels_are_learnt(self) -> Self:
        if self.class_weights is not None and self.label_weight == 0:
            raise ValueError(
                "class_weights are given and label_weight is 0: they weigh the label loss alone; give label_weight, or "
                'write sampling = "balanced", which serves all losses'
            )
        return self

    @model_validator(mode="after")
    def _every_warmup_ends(self) -> Self:
        for loss in self.losses:
            end = self.epochs if loss.until_epoch is None else min(self.epochs, loss.until_epoch)
            if loss.warmup_epochs > end:
                raise ValueError(
                    f"the warm-up of {loss.method} takes {loss.warmup_epochs:g} epochs, and the term ends after {end:g}: it would "
                    "never have its weight; lower warmup_epochs"
                )
        return self

    @model_validator(mode="after")
    def _the_scheme_is_applied(self) -> Self:
        if missing := SCHEMES[self.scheme].keys() - self.model_fields_set:
            raise ValueError(
                f"scheme = '{self.scheme}' gives defaults to a recipe's file; in Python state {', '.join(sorted(missing))}, as "
                f"Distill(scheme='{self.scheme}', **edgekd.recipe.schemes.SCHEMES['{self.scheme}'])"
            )
        trains_by = {loss["method"] for loss in SCHEMES[self.scheme].get("losses", ())} - {"kd"}
        if lost := trains_by - {loss.method for loss in self.losses}:
            raise ValueError(
                f"scheme = '{self.scheme}' trains by {', '.join(sorted(lost))}, which the recipe's own losses replace; add "
                f'{{ method = "{min(lost)}", ... }} to them, or leave losses or scheme out'
            )
        return self


class Training(Section):
    """The settings of quantization-aware distillation (mode = qat, or auto if its earlier steps do not suffice)."""

    epochs: int = Field(default=3, ge=1, le=MOST, description="epochs of quantization-aware training")
    lr: Positive = Field(
        default=0.001,
        description="learning rate of quantization-aware training: a hundredth of the student's (as in the guide of pytorch-quantization)",
    )


Refinement = Literal["cle", "adaround", "bias_correction"]
REFINEMENTS: tuple[Refinement, ...] = get_args(Refinement)


class Quantize(Training):
    """The settings that turn the student into int8, if the target has int8.

    Calibration sets ranges by the methods of edgekd.quantize.ranges, from one pass over `calibration_samples` training
    images. auto tries ptq, then refinements, then the most sensitive layers in float, then qat. It stops as soon as
    `budget.max_drop_from_fp32` holds on the hold-out split.
    """

    mode: Literal["ptq", "qat", "auto", "none"] = Field(default="ptq", description="see docs/quantization.md")
    calibration: Literal["minmax", "moving_average", "percentile", "entropy", "mse"] = Field(
        default="mse", description="method that sets the ranges of activations"
    )
    calibration_samples: int = Field(default=512, ge=1, le=MOST, description="number of training images, not augmented")
    refine: tuple[Refinement, ...] = Field(default=(), description="refinements of ptq; auto uses all if none is given")
    keep_float: tuple[Text, ...] = Field(
        default=(), description='operators that stay float: "first", "last", or a module by its path'
    )

    @model_validator(mode="after")
    def _refinements_fit(self) -> Self:
        in_order = tuple(step for step in REFINEMENTS if step in self.refine)
        if self.refine != in_order:
            wanted = ", ".join(f'"{step}"' for step in in_order)
            raise ValueError(f"refine runs each step once, in this order: write refine = [{wanted}]")
        if self.refine and self.mode in ("qat", "none"):
            raise ValueError(
                f'refine is given, but mode = "{self.mode}" has no use for it: it improves what calibration alone made; '
                'write mode = "ptq" or "auto", or leave refine out'
            )
        return self

    @property
    def training(self) -> Training:
        """The settings of the quantization-aware training alone."""
        return Training(epochs=self.epochs, lr=self.lr)


class Export(Section):
    opset: int | None = Field(default=None, ge=13, le=100, description="ONNX opset; none: the target's")
    batch: Literal["dynamic", 1] = Field(default="dynamic", description="1: static shapes, as a DLA needs them")
    preprocess: bool = Field(default=True, description="input uint8 NHWC, normalised inside the graph")
    output: Literal["logits", "probabilities"] = Field(default="logits", description="output of the graph")


class Budget(Section):
    """The limits for the shipped model, of the task's metric on the test split (docs/tasks.md).

    A metric in percent has drops in points. Another metric, as MAE, has drops in percent of the other model's figure.
    """

    min_accuracy: Positive | None = Field(
        default=None,
        description="worst score that ships: the least top-1 or mean IoU in percent, the largest MAE in its unit",
    )
    max_drop_from_teacher: Percent | None = Field(
        default=None, description="how much worse than the teacher: in points, of MAE in percent of the teacher's"
    )
    max_drop_from_fp32: Percent | None = Field(
        default=1.0, description="how much worse than fp32 a quantized model: in points, of MAE in percent of fp32's"
    )
    p90_latency_ms: Positive | None = Field(default=None, description="largest p90 latency on the device, in ms")
    size_mb: Positive | None = Field(default=None, description="largest size of the file that ships, in MB")
    above_majority: bool = Field(
        default=True, description="more right answers than always naming the most frequent class, by a 95 % interval"
    )
    max_class_drop: Percent | None = Field(
        default=30.0,
        description="largest certain drop of a class, in points, under fp32 and under a teacher of the same classes; certain: by an "
        "interval that is 95 % over all classes, so a class of few samples is not missed by chance; 100 allows any drop",
    )


def _input_of(data: Any) -> str:
    """The kind of samples that a [data] table names: image where it names none. What is no table is refused as one of images."""
    named = data.get("input", "image") if isinstance(data, Mapping) else getattr(data, "input", "image")
    return named if isinstance(named, str) else shown(named)


AnyInput = Annotated[
    Annotated[Data, Tag("image")] | Annotated[AudioData, Tag("audio")] | Annotated[TableData, Tag("table")],
    Discriminator(_input_of),
]
"""[data] of each kind of input, by the word that `data.input` has for it."""


@dataclass(frozen=True)
class Written:
    """Where a recipe was read, for messages. Two recipes are equal wherever they were read."""

    places: Places | None = field(default=None, compare=False)


class Recipe(Section):
    """The whole of edgekd.toml. `folder` is the recipe's folder, where its relative paths start."""

    name: FolderName = Field(description="names the bundle's folder")
    data: AnyInput
    task: AnyTask = ClassifyTask()
    teacher: Teacher | None = Field(default=None, description="none: the student learns from labels, or from itself")
    student: Student
    distill: Distill = Distill()
    quantize: Quantize = Quantize()
    export: Export = Export()
    budget: Budget = Budget()
    tasks: tuple[Task, ...] = ()
    folder: Path = Field(default=Path("."), exclude=True)
    _written: Written = PrivateAttr(default=Written())

    def where(self, place: str) -> str:
        """A place as "teacher.also.0.model" with its file and line, if the recipe was read from a file."""
        loc = tuple(int(step) if step.isdecimal() else step for step in place.split("."))
        return place if self._written.places is None else self._written.places(loc)

    @property
    def teacher_data(self) -> Data | AudioData | TableData:
        """The data with the column and, of images, the normalisation of the teachers; of tables as they are if they say so."""
        if self.teacher is None:
            return self.data
        if isinstance(self.data, TableData) and self.teacher.raw:
            return RawTableData.model_construct(**dict(self.data))
        keys = ("column", "mean", "std") if isinstance(self.data, Data) else ("column",)
        seen = {key: getattr(self.teacher, key) for key in keys if getattr(self.teacher, key)}
        if isinstance(self.data, Data) and "mean" in seen:
            augment = self.data.augment
            if augment.cutout and augment.fill is None:  # one picture for both
                seen["augment"] = augment.model_copy(update={"fill": self.data.mean})
        return self.data.model_copy(update=seen)

    @property
    def teachers(self) -> tuple[Network, ...]:
        """All teachers, the main teacher first; a recipe may have none."""
        return () if self.teacher is None else tuple(map(Network.of, (self.teacher, *self.teacher.also)))

    def task_data(self, task: Task) -> Data | AudioData | TableData:
        """The data with the labels of a task."""
        return self.data.model_copy(update={"label": task.label, "classes": None})

    def canonical(self) -> Self:
        """The recipe with unused settings at their defaults, so that a change of them runs no stage again."""
        distill = self.distill
        if distill.cache != "topk":
            distill = distill.model_copy(update={"top_k": Distill.model_fields["top_k"].default})
        return self.model_copy(update={"data": self.data.canonical(), "distill": distill})

    def located(self) -> Self:
        """The recipe with absolute paths: `~` is the home, relative paths start at the recipe's folder."""

        def at(reference: str) -> str:
            before, file, after = split_reference(reference)
            return reference if file is None else f"{before}{self.folder / expanded(file)}{after}"

        def inside(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(inside, value))
            if not isinstance(value, Section):
                return value
            located = {
                key: at(item) if key in value.references and isinstance(item, str) and item else inside(item)
                for key, item in value
            }
            if isinstance(located.get("classes"), str):  # a file, whose content is the setting
                located["classes"] = read_classes(self.folder / expanded(located["classes"]))
            return value.model_copy(update=located)

        losses = tuple(
            loss.model_copy(update={"method": at(loss.method)}) if is_own(loss.method) else loss
            for loss in self.distill.losses
        )
        distill = self.distill.model_copy(update={"losses": losses})
        return self.model_copy(update={**{name: inside(getattr(self, name)) for name in LOCATED}, "distill": distill})


def file_of(reference: str) -> Path | None:
    """The file or folder that a reference names, or None.

    A reference is a path, `onnx:FILE`, `exported:FILE` or `python:FILE.py:function`, among others.
    """
    return split_reference(reference)[1]


def split_reference(reference: str) -> tuple[str, Path | None, str]:
    """The text before the file in a reference, the file, and the text after it."""
    kind, colon, name = reference.partition(":")
    if kind in ("onnx", "exported"):
        return f"{kind}:", Path(name), ""
    if kind == "python" and colon:
        module, second, function = name.rpartition(":")
        return ("python:", Path(module), f"{second}{function}") if module.endswith(".py") else (reference, None, "")
    if kind in ("edgekd", "timm", "synthetic") and colon:
        return reference, None, ""
    return "", Path(reference), ""


def read_classes(file: Path) -> tuple[str, ...]:
    """The class names of a text file with one name per line. Raises RecipeError for a bad name."""
    names = tuple(read_text(file).removeprefix("\ufeff").splitlines())
    if problem := class_problem(names):
        raise RecipeError(f"{file}: {problem}; write one name a line, and nothing else")
    return names


def load_recipe(
    path: Path | None = None, overrides: Sequence[str] = (), methods: Methods | None = None, own: Own | None = None
) -> Recipe:
    """The recipe in a folder's edgekd.toml or in a .toml file, changed by `key=value` overrides.

    Without `path` the current folder is read. With `methods` (edgekd.distill.methods.METHODS, which imports torch) the
    options of the losses are checked too, with `own` (edgekd.distill.own.own_method) those of the user's own. Raises
    RecipeError with every mistake and its place.
    """
    file = _recipe_file(path)
    text = read_text(file)
    document = parse_toml(text, file.name)
    overridden, mistakes = command_line.apply(overrides, document)
    places = Places(file.name, text, overridden)
    refuse(str(file), beyond(document, places))  # an override may have written such a value
    mistakes += date_mistakes(document, places)
    folder = file.absolute().parent
    if methods is not None:
        losses = ((loc, _located(loss, folder)) for loc, loss in losses_in(with_scheme(document)))
        mistakes += [Mistake(places(loc), what) for loc, what in mistakes_in_losses(losses, methods, own)]
    if "folder" in document:  # a field of Recipe that is no key of the file
        mistakes.append(Mistake(places(("folder",)), "unknown key 'folder'; it is where the file lies"))
    default_name = (folder.name or "recipe") if file.name == FILE else file.stem
    try:
        recipe = Recipe.model_validate_json(
            as_json({"name": default_name, **with_scheme(document), "folder": str(folder)}), strict=True
        )
    except ValidationError as error:
        mistakes += validation_mistakes(error, Recipe, places)
    if mistakes:  # edgekd.check.settings tells them of a recipe that is right otherwise, beside missing files
        mistakes += [Mistake(places(loc), what) for loc, what in wrong_forms_in(document, folder)]
    refuse(str(file), mistakes)
    recipe._written = Written(places)
    return recipe


def _located(loss: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """A loss of a document. The path of the user's own method starts at the recipe's folder."""
    before, file, after = split_reference(loss["method"]) if is_own(loss["method"]) else ("", None, "")
    return loss if file is None else {**loss, "method": f"{before}{folder / expanded(file)}{after}"}


def _recipe_file(path: Path | None) -> Path:
    path = Path(os.path.abspath(expanded(path or ".")))
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        others = [other.name for other in sorted(file.parent.glob("*.toml"))]
        what = f"{file} does not exist{nearest(file.name, others)}"
        end = "" if what.endswith((".", "?")) else "."
        raise RecipeError(f"{what}{end} Write a first recipe with `edgekd init`, or give the folder of one")
    if file.suffix != ".toml":
        raise RecipeError(f"{file} is no recipe: give a folder with {FILE}, or a .toml file")
    return file
