"""Recipe: what to build. Reads edgekd.toml and reports every mistake at once, each with its place in the file."""

from __future__ import annotations

import inspect
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from edgekd.errors import RecipeError, nearest
from edgekd.target import Target
from edgekd.toml_file import (
    Loc,
    Mistake,
    Places,
    as_json,
    date_mistakes,
    dotted,
    parse_toml,
    read_text,
    refuse,
    shown,
    validation_mistakes,
    wording,
)

FILE = "edgekd.toml"
PATH_KEYS: tuple[Loc, ...] = (("data", "train"), ("data", "test"), ("teacher", "weights"), ("student", "weights"))
MODEL_KEYS: tuple[Loc, ...] = (("teacher", "model"), ("student", "model"))
SUFFIXES = (".pt", ".pth", ".pt2", ".onnx", ".safetensors", ".bin", ".ckpt", ".py")  # of a path without a folder
Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Section(BaseModel):
    """A table of the recipe: immutable, and a key that it does not know is an error.

    What of it enters the key of a stage (edgekd.stage): of `references` the file's content instead of its path, of
    `shapes_nothing` nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    references: ClassVar[frozenset[str]] = frozenset()
    shapes_nothing: ClassVar[frozenset[str]] = frozenset()


class Augmentation(Section):
    """How a training view differs from the stored image; a view replays exactly (see edgekd.data.views)."""

    crop_padding: int = Field(
        default=0, ge=0, description="pixels of zero padding before a random crop back to the size"
    )
    flip: bool = False
    cutout: int = Field(default=0, ge=0, description="side in pixels of a square that is set to the mean colour")
    mixup: NonNegative = Field(default=0.0, description="alpha of Beta(alpha, alpha); 0 is off")


class Source(Section):
    """Where samples come from: an image folder, parquet (a file, or a pattern with `*`) or `python:module:function`."""

    references = frozenset({"train", "test"})
    shapes_nothing = frozenset({"store_gb"})

    train: Text
    test: Text
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="height, width that images are resized to; none: as they are"
    )
    on_error: Literal["stop", "skip"] = "stop"
    store_gb: Positive | None = Field(default=None, description="largest decoded store; none: half of the free disk")


class Data(Source):
    """Samples, the hold-out split, normalisation and augmentation."""

    holdout: float = Field(default=0.05, gt=0, lt=0.5, description="share of train kept for every choice")
    mean: tuple[float, ...] = Field(default=(0.5, 0.5, 0.5), description="per channel, of values in 0..1")
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)
    augment: Augmentation = Augmentation()
    seed: int = Field(default=0, ge=0, description="of the hold-out split and of the views")

    @property
    def source(self) -> Source:
        """What decides about the decoded store, and nothing else."""
        return Source.model_construct(**{name: getattr(self, name) for name in Source.model_fields})

    @model_validator(mode="after")
    def _mean_and_std_are_of_the_same_channels(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} channels, std has {len(self.std)}; give one figure a channel each"
            )
        return self


class Model(Section):
    """A model reference, its weights and keyword arguments."""

    references = frozenset({"model", "weights"})

    model: Text
    weights: Text | None = None
    args: dict[str, Any] = Field(default_factory=dict)


class Teacher(Model):
    """The trained model to learn from. `train_epochs` trains it on labels first where it has no weights."""

    train_epochs: int = Field(default=0, ge=0)


class Optimizer(Section):
    name: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.1
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: NonNegative = 5e-4


class Loss(BaseModel):
    """One term: `method`, `weight`, and the method's own keyword arguments, which its signature checks.

    `layers`, for a method that compares features, maps the student's module paths to the teacher's.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: Text
    weight: NonNegative = 1.0
    warmup_epochs: NonNegative = Field(default=0.0, description="the weight rises linearly from 0 over these epochs")

    layers: dict[str, str] = Field(default_factory=dict, description="student module path -> teacher module path")

    @property
    def options(self) -> dict[str, Any]:
        """The method's own hyper-parameters."""
        return dict(self.model_extra or {})


class Distill(Section):
    """How the student is trained. Without `losses`: `kd` at T 4, weight 0.9, and labels at 0.1 (Hinton 2015)."""

    shapes_nothing = frozenset({"tensorboard"})

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=2)
    views: int = Field(
        default=4, ge=1, description="different augmentations of each sample that the teacher is asked for"
    )
    label_weight: NonNegative = 0.1
    losses: tuple[Loss, ...] = (Loss(method="kd", weight=0.9),)
    optimizer: Optimizer = Optimizer()
    warmup_epochs: NonNegative = 1.0
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay a step of the averaged weights that are shipped; 0 is off"
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        if self.label_weight == 0 and not any(loss.weight for loss in self.losses):
            raise ValueError(
                "label_weight is 0 and no loss has a weight: there is nothing to learn from; give one a weight"
            )
        return self


class Quantize(Section):
    mode: Literal["ptq", "qat", "none"] = "ptq"
    calibration_samples: int = Field(default=512, ge=1)
    epochs: int = Field(default=3, ge=1, description="of quantization-aware distillation (mode = qat)")
    lr: Positive = 0.005


class Export(Section):
    opset: int | None = Field(default=None, ge=13, description="none: the target's")
    preprocess: bool = Field(default=True, description="input uint8 NHWC, normalised inside the graph")
    output: Literal["logits", "probabilities"] = "logits"


class Budget(Section):
    """What the shipped model must hold; points are percentage points of top-1 accuracy on the test split."""

    min_accuracy: Percent | None = None
    max_drop_from_teacher: Percent | None = None
    max_drop_from_fp32: Percent | None = 1.0
    p90_latency_ms: Positive | None = None
    size_mb: Positive | None = None


class Recipe(Section):
    """All of edgekd.toml. `folder` is where it was read from; relative paths in it start there."""

    name: Annotated[
        str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$", description="names the bundle's folder, so it has no / or \\")
    ]
    data: Data
    teacher: Teacher
    student: Model
    distill: Distill = Distill()
    quantize: Quantize = Quantize()
    export: Export = Export()
    budget: Budget = Budget()
    folder: Path = Field(default=Path("."), exclude=True)

    def located(self) -> Self:
        """The same recipe with absolute paths: `~` is the home, a relative one starts at the recipe's folder."""

        def at(reference: str) -> str:
            file = file_of(reference)
            return reference if file is None else reference.replace(str(file), str(self.folder / file.expanduser()))

        sections = {
            name: section.model_copy(
                update={key: at(getattr(section, key)) for key in section.references if getattr(section, key)}
            )
            for name, section in (("data", self.data), ("teacher", self.teacher), ("student", self.student))
        }
        return self.model_copy(update=sections)


def file_of(reference: str) -> Path | None:
    """The file or folder that a reference speaks of, if any: a path, `onnx:FILE`, `exported:FILE`, `python:FILE.py:function`."""
    kind, colon, name = reference.partition(":")
    if kind in ("onnx", "exported"):
        return Path(name)
    if kind == "python" and colon:
        module = name.rpartition(":")[0]
        return Path(module) if module.endswith(".py") else None
    return None if kind in ("edgekd", "timm") and colon else Path(reference)


Methods = Mapping[str, Callable[..., Any]]


def load_recipe(path: Path | None = None, overrides: Sequence[str] = (), methods: Methods | None = None) -> Recipe:
    """The recipe in a folder (its edgekd.toml; none: this folder) or in a .toml file, changed by `key=value` overrides.

    With `methods` (edgekd.distill.methods.METHODS, which imports torch) the options of the losses are checked too.
    Raises RecipeError with every mistake and its place.
    """
    file = _recipe_file(path)
    text = read_text(file)
    document = parse_toml(text, file.name)
    overridden, mistakes = _apply(overrides, document)
    places = Places(file.name, text, overridden)
    mistakes += date_mistakes(document, places)
    if methods is not None:
        mistakes += [Mistake(places(loc), what) for loc, what in _loss_mistakes(_losses(document), methods)]
    if "folder" in document:  # a field of Recipe that is no key of the file
        mistakes.append(Mistake(places(("folder",)), "unknown key 'folder'; it is where the file lies"))
    folder = file.absolute().parent
    default_name = (folder.name or "recipe") if file.name == FILE else file.stem
    try:
        recipe = Recipe.model_validate_json(
            as_json({"name": default_name, **document, "folder": str(folder)}), strict=True
        )
    except ValidationError as error:
        mistakes += validation_mistakes(error, Recipe, places)
    refuse(str(file), mistakes)
    return recipe


def _recipe_file(path: Path | None) -> Path:
    path = Path(os.path.abspath(Path(path or ".").expanduser()))
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        others = [other.name for other in sorted(file.parent.glob("*.toml"))]
        what = f"{file} does not exist{nearest(file.name, others)}"
        raise RecipeError(f"{what.rstrip('.')}. Write a first recipe with `edgekd init`, or give the folder of one")
    if file.suffix != ".toml":
        raise RecipeError(f"{file} is no recipe: give a folder with {FILE}, or a .toml file")
    return file


# Overrides: --set key=value


def _apply(overrides: Sequence[str], document: dict[str, Any]) -> tuple[tuple[Loc, ...], list[Mistake]]:
    """Write the overrides into the document: their keys, and the mistakes of those that cannot be written."""
    overridden: list[Loc] = []
    mistakes: list[Mistake] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        try:
            if not equals:
                raise ValueError(f"{override!r} given; write key=value, as in distill.epochs=5")
            overridden.append(_write(document, _split(key.strip()), _value(value)))
        except ValueError as error:
            mistakes.append(Mistake(f"--set {key}", str(error)))
    return tuple(overridden), mistakes


def _split(key: str) -> list[str]:
    """The steps of a dotted TOML key; one that has a dot itself stands in quotes: layers."block.0"."""
    try:
        rest: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        raise ValueError(f"{key!r} given; a key is written as in distill.losses.0.weight") from None
    steps = []
    while isinstance(rest, dict):
        step = next(iter(rest))
        steps.append(step)
        rest = rest[step]
    return steps


def _value(text: str) -> object:
    """A TOML value, or the text as it stands where it is none: `--set quantize.mode=qat` needs no quotes."""
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = content["value"]
    return text if len(content) > 1 or isinstance(value, date | datetime | time) else value


def _write(document: dict[str, Any], steps: list[str], value: object) -> Loc:
    """Set one value and return its place. Raises ValueError where the document has no such place."""
    loc: Loc = ()
    container: Any = document
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(container, list):
            if not (step.isdecimal() and int(step) < len(container)):
                raise ValueError(f"no entry {step}; {dotted(loc)} has {len(container)}, counted from 0")
            loc += (int(step),)
        elif isinstance(container, dict):
            loc += (step,)
            if following is not None and step not in container:
                if following.isdecimal():
                    raise ValueError(f"the file states no {dotted(loc)}; set all of it: --set '{dotted(loc)}=[...]'")
                container[step] = {}
        else:
            raise ValueError(f"{dotted(loc)} is {shown(container)}, not a table")
        if following is None:
            container[loc[-1]] = _from_here(loc, value)
        else:
            container = container[loc[-1]]
    return loc


def _from_here(loc: Loc, value: object) -> object:
    """A relative path that was typed on the command line starts at the current directory, not at the recipe."""
    if not isinstance(value, str):
        return value
    scheme, colon, rest = value.partition(":")
    if loc in PATH_KEYS and scheme != "python":
        always = loc[0] == "data"  # weights may be a name that the model's library knows
        return _absolute(value) if always or _looks_like_a_path(value) else value
    if loc in MODEL_KEYS and colon and scheme in ("onnx", "exported"):
        return f"{scheme}:{_absolute(rest)}"
    if loc in (*MODEL_KEYS, *PATH_KEYS) and colon and scheme == "python":
        module, function_colon, function = rest.rpartition(":")
        return f"python:{_absolute(module)}{function_colon}{function}" if _looks_like_a_path(module) else value
    return value


def _looks_like_a_path(text: str) -> bool:
    return text.startswith(("~", ".")) or "/" in text or os.path.splitext(text)[1] in SUFFIXES or os.path.exists(text)


def _absolute(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)) if text else text


# Losses: a method's signature is the schema of its options


def check_losses(recipe: Recipe, methods: Methods) -> list[str]:
    """The mistakes in the losses' methods and options, each as `distill.losses.0.temperature: what is wrong`."""
    losses: Iterator[tuple[Loc, Mapping[str, Any]]] = (
        (("distill", "losses", n), {"method": loss.method, "layers": loss.layers, **loss.options})
        for n, loss in enumerate(recipe.distill.losses)
    )
    return [f"{dotted(loc)}: {text}" for loc, text in _loss_mistakes(losses, methods)]


def _losses(document: Mapping[str, Any]) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    """The losses of a document whose other parts may be wrong."""
    distill = document.get("distill")
    losses = distill.get("losses") if isinstance(distill, dict) else None
    for n, loss in enumerate(losses if isinstance(losses, list) else ()):
        if isinstance(loss, dict) and isinstance(loss.get("method"), str):
            yield ("distill", "losses", n), loss


def _loss_mistakes(losses: Iterator[tuple[Loc, Mapping[str, Any]]], methods: Methods) -> Iterator[tuple[Loc, str]]:
    for loc, loss in losses:
        name = loss["method"]
        if name not in methods:
            yield (*loc, "method"), f"method {name!r} not found{nearest(name, methods)}"
            continue
        options = {key: value for key, value in loss.items() if key not in Loss.model_fields}
        for inner, text in (
            *_layer_mistakes(name, methods[name], loss.get("layers")),
            *_option_mistakes(name, methods[name], options),
        ):
            yield loc + inner, text


def _compares_features(method: Callable[..., Any]) -> bool:
    """A method says so by taking `f_t`, the teacher's features; a method with weights takes it in `forward`."""
    call: Callable[..., Any] = getattr(method, "forward", method)
    return "f_t" in inspect.signature(call).parameters


def _layer_mistakes(name: str, method: Callable[..., Any], layers: object) -> Iterator[tuple[Loc, str]]:
    """A method that compares features needs layers; another has no use for them."""
    compares_features = _compares_features(method)
    if compares_features and not layers:
        example = 'layers = { "layer3" = "layer3" } (student module path = teacher module path)'
        yield ("layers",), f"missing; method {name} compares features: say which, for example {example}"
    if layers and not compares_features:
        yield ("layers",), f"{shown(layers)} given; method {name} reads logits only, so it takes no layers"


def _option_mistakes(name: str, method: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    # A method with weights is a class: its options are those of its constructor.
    function: Callable[..., Any] = getattr(method, "__init__") if inspect.isclass(method) else method  # noqa: B009
    hints = get_type_hints(function, include_extras=True)
    parameters = {
        parameter.name: parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    common = [key for key in Loss.model_fields if key != "layers" or _compares_features(method)]
    for key, value in options.items():
        if key in parameters:
            yield from (((key, *inner), text) for inner, text in _value_mistakes(value, hints.get(key, Any)))
        else:
            yield (key,), f"unknown key {key!r} of method {name}{nearest(key, [*parameters, *common])}"
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            yield (key,), f"missing; method {name} requires it"


def _value_mistakes(value: object, annotation: Any) -> Iterator[tuple[Loc, str]]:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    try:
        adapter.validate_json(as_json(value), strict=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            yield item["loc"], wording(item, Loss)


# The recipe and the device


def check_target(recipe: Recipe, target: Target) -> None:
    """Raise RecipeError with every setting of the recipe that the device cannot run."""
    runtime = target.runtime
    mistakes = []
    if recipe.quantize.mode != "none" and (target.quantization is None or "int8" not in runtime.precisions):
        why = "has no int8 scheme" if target.quantization is None else f"runs {', '.join(runtime.precisions)}, not int8"
        mistakes.append(
            Mistake("quantize.mode", f'"{recipe.quantize.mode}" given; {target.name} {why}. Write mode = "none"')
        )
    if recipe.export.opset is not None and recipe.export.opset > runtime.max_opset:
        version = f"{runtime.name} {runtime.version}" if runtime.version else runtime.name
        mistakes.append(
            Mistake(
                "export.opset",
                f"{recipe.export.opset} given; {version} on {target.name} takes up to {runtime.max_opset}."
                f" Leave opset out for the target's own, {runtime.default_opset}",
            )
        )
    refuse(f"recipe {recipe.name} for target {target.name}", mistakes)
