"""Loss: a term of a recipe's loss, and the check of its options. A method's signature is the schema of its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError

from edgekd.base.texts import Text
from edgekd.base.toml_file import Loc, as_json, dotted, shown, wording
from edgekd.errors import ModelError, nearest

Layout = Literal["tokens", "channels_first"]
"""The order of a feature's three axes: `[batch, positions, channels]` or `[batch, channels, positions]`."""
NonNegative = Annotated[float, Field(ge=0)]

TEACHERS = frozenset({"z_t", "z_ts", "m_t", "f_t"})
"""Arguments of a method that come from a teacher: its logits, those of several teachers, its maps, its features."""


class Signature(Protocol):
    """The parts of a method that the check reads: names of positional arguments, and hyper-parameters by name."""

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def options(self) -> Mapping[str, inspect.Parameter]: ...


Own = Callable[[str], Signature]  # edgekd.distill.own.own_method: the user's own, by its reference
Methods = Mapping[str, Signature]  # edgekd.distill.methods.METHODS, whose import costs importing torch


def _layers(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, dict) and all(isinstance(path, str) for path in value.values()):
        return value
    if isinstance(value, list | tuple) and all(isinstance(path, str) for path in value):
        return tuple(value)
    raise ValueError(f'{shown(value)} given; write {{ student path = teacher path }}, a list of paths, or "auto"')


class Loss(BaseModel):
    """A term of the loss: `method`, `weight`, and the method's own keyword arguments, checked by its signature.

    For a method that compares features, `layers` maps the student's module paths to the teacher's. For a method that
    reads the student's features alone, `layers` lists the student's paths. "auto": see edgekd.distill.layers.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: Text = Field(
        description="name of a method, see the options of the methods; or python:FILE.py:FUNCTION (docs/models.md)"
    )
    weight: NonNegative = Field(default=1.0, description="weight of the term")
    warmup_epochs: NonNegative = Field(default=0.0, description="epochs in which the weight rises linearly from 0")

    until_epoch: NonNegative | None = Field(default=None, description="epoch at which the term ends; none: never")
    layers: Annotated[dict[str, str] | tuple[str, ...] | Literal["auto"], PlainValidator(_layers)] = Field(
        default_factory=dict, description="student module path -> teacher module path"
    )
    layout: Layout | None = Field(
        default=None,
        description="axes of features with three axes: 'tokens' [batch, positions, channels], 'channels_first' [batch, channels, positions]",
    )

    @property
    def options(self) -> dict[str, Any]:
        """The method's own hyper-parameters."""
        return dict(self.model_extra or {})

    @property
    def references(self) -> frozenset[str]:
        """The fields that name files: the code of the user's own method enters the keys of stages (edgekd.cache.stage)."""
        return frozenset({"method"} if is_own(self.method) else ())


def is_own(method: str) -> bool:
    """Whether a method is the user's own, `python:FILE.py:FUNCTION`."""
    return method.startswith("python:")


def title_of(method: str) -> str:
    """The name of a method in curves and messages: of the user's own the function's."""
    return method.rpartition(":")[2] if is_own(method) else method


def check_losses(losses: Sequence[Loss], methods: Methods, own: Own | None = None) -> list[str]:
    """The mistakes in the methods and options of losses, each as `distill.losses.0.temperature: ...`.

    own: gives the signature of the user's own methods, which are not checked without it.
    """
    placed: Iterator[tuple[Loc, Mapping[str, Any]]] = (
        (
            ("distill", "losses", n),
            {"method": loss.method, "layers": loss.layers, "layout": loss.layout, **loss.options},
        )
        for n, loss in enumerate(losses)
    )
    return [f"{dotted(loc)}: {text}" for loc, text in mistakes_in_losses(placed, methods, own)]


def losses_in(document: Mapping[str, Any]) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    """The losses of a document with their places. Other parts of the document may be wrong."""
    distill = document.get("distill")
    losses = distill.get("losses") if isinstance(distill, dict) else None
    for n, loss in enumerate(losses if isinstance(losses, list) else ()):
        if isinstance(loss, dict) and isinstance(loss.get("method"), str):
            yield ("distill", "losses", n), loss


def mistakes_in_losses(
    losses: Iterator[tuple[Loc, Mapping[str, Any]]], methods: Methods, own: Own | None = None
) -> Iterator[tuple[Loc, str]]:
    for loc, loss in losses:
        name = loss["method"]
        if is_own(name) and own is None:
            continue
        try:
            method = own(name) if own is not None and is_own(name) else methods[name]
        except KeyError:
            more = "; a function of a file is python:FILE.py:FUNCTION" if ".py" in name or ":" in name else ""
            yield (*loc, "method"), f"method {name!r} not found{more}{nearest(name, methods)}"
            continue
        except ModelError as error:
            yield (*loc, "method"), str(error)
            continue
        options = {key: value for key, value in loss.items() if key not in Loss.model_fields}
        title = title_of(name)
        for inner, text in (
            *_layer_mistakes(title, method, loss.get("layers"), loss.get("layout")),
            *_option_mistakes(title, method, options),
        ):
            yield loc + inner, text


def reads_teacher(method: Signature) -> bool:
    """Whether a method reads a teacher's logits or features."""
    return not TEACHERS.isdisjoint(method.needs)


def _layer_mistakes(name: str, method: Signature, layers: object, layout: object) -> Iterator[tuple[Loc, str]]:
    """Mistakes in `layers` and `layout`: a method that reads features needs layers, other methods take none."""
    needs = method.needs
    if layout is not None and "f_s" not in needs:
        yield ("layout",), f"{shown(layout)} given; method {name} reads logits only, so no feature has a layout"
    if "f_t" in needs:
        example = 'layers = { "layer3" = "layer3" } (student module path = teacher module path), or layers = "auto"'
        if not layers:
            yield ("layers",), f"missing; method {name} compares features: say which, for example {example}"
        elif layers != "auto" and not isinstance(layers, dict):
            yield ("layers",), f"{shown(layers)} given; method {name} compares features: write {example}"
    elif "f_s" in needs:
        if layers != "auto" and (not layers or not isinstance(layers, list | tuple)):
            example = 'layers = ["layer1", "layer2"] (module paths, shallow to deep), or layers = "auto"'
            yield ("layers",), f"{shown(layers)} given; method {name} reads the student's own features: write {example}"
    elif layers:
        yield ("layers",), f"{shown(layers)} given; method {name} reads logits only, so it takes no layers"


def _option_mistakes(name: str, method: Signature, options: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    parameters = method.options
    common = [key for key in Loss.model_fields if key not in ("layers", "layout") or "f_s" in method.needs]
    for key, value in options.items():
        if key == "temperature" and key in parameters and value == "auto":
            if not {"z_t", "z_ts", "m_t"} & set(method.needs):
                yield (key,), f"'auto' softens a teacher's logits, which method {name} does not read; give a number"
            continue  # chosen by edgekd.steps.temperature
        if key in parameters:
            yield from (((key, *inner), text) for inner, text in _value_mistakes(value, parameters[key].annotation))
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


def is_auto(losses: Sequence[Loss]) -> bool:
    """Whether any loss has temperature "auto", which is chosen on the hold-out split."""
    return any(loss.options.get("temperature") == "auto" for loss in losses)


def with_temperature(losses: Sequence[Loss], temperature: float) -> tuple[Loss, ...]:
    """The losses with each temperature "auto" replaced by `temperature`."""
    return tuple(
        Loss(**{**loss.model_dump(), "temperature": temperature}) if is_auto([loss]) else loss for loss in losses
    )
