"""`@method(...)`: declares a method's facts for the trainer; `about` gives the record of a method.

A decorator with keywords is used because Python refuses a misspelt keyword at import, and mypy finds it earlier. A
misspelt attribute on the function would silently leave the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

Auto = Literal["all", "last", "before_last", "refused"]
Rows = Literal["classes", "labels", "values"]
ROWS: tuple[Rows, ...] = ("classes", "labels", "values")
MAPS = frozenset({"m_s", "m_t", "mask"})
LOGITS = frozenset({"z_s", "z_t", "z_ts", "labels", "epoch", *MAPS})
Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """The record of a method for the trainer. edgekd.distill.methods explains the flags.

    call: the function or class itself. needs: names of its positional arguments (for a class, those of `forward`).
    options: its keyword-only arguments with evaluated annotations (for a class, those of the constructor). prepare,
    deployed: the class's functions of these names, which take the object first. prepare_needs: names of the other
    arguments of `prepare`.
    """

    call: Callable[..., Any]
    needs: tuple[str, ...]
    options: dict[str, inspect.Parameter]
    pooled: bool
    auto: Auto
    pairs: bool
    old_classes: bool
    in_one_process: bool
    rows: tuple[Rows, ...]
    per_sample: bool
    prepare: Callable[..., None] | None
    prepare_needs: tuple[str, ...]
    deployed: Callable[..., nn.Module] | None

    @property
    def reads_maps(self) -> bool:
        """Whether the method reads maps, which dense tasks alone have."""
        return bool(MAPS & set(self.needs))

    @property
    def reads_logits_alone(self) -> bool:
        """Whether the method needs no features, arguments or numbers of samples.

        A quantized graph, or one head among several, can give all of its arguments then.
        """
        return set(self.needs) <= LOGITS

    def __call__(self, *given: Any, **options: Any) -> Any:
        """Call the method itself."""
        return self.call(*given, **options)


_RECORDS: dict[Callable[..., Any], Method] = {}


def method(
    *,
    pooled: bool = False,
    auto: Auto | None = None,
    pairs: bool = False,
    old_classes: bool = False,
    in_one_process: bool = False,
    rows: tuple[Rows, ...] = ("classes",),
    per_sample: bool = False,
    prepares: bool = False,
    deploys: bool = False,
) -> Callable[[Call], Call]:
    """The decorator that records a method's declarations. The method itself stays unchanged.

    Put it above other decorators: these make a new function, which would have no record. The default of `auto` is "last"
    for a method with pooled=True, else "all". Raises TypeError for a class that has `prepare` or `deployed` without
    declaring it, or declares a function that it lacks.
    """

    def record(call: Call) -> Call:
        prepare = _own(call, "prepare", prepares, "prepares")
        _RECORDS[call] = Method(
            call=call,
            needs=_positional(call),
            options=_options(call),
            pooled=pooled,
            auto=auto or ("last" if pooled else "all"),
            pairs=pairs,
            old_classes=old_classes,
            in_one_process=in_one_process,
            rows=rows,
            per_sample=per_sample,
            prepare=prepare,
            prepare_needs=_positional(prepare) if prepare is not None else (),
            deployed=_own(call, "deployed", deploys, "deploys"),
        )
        return call

    return record


def declared(call: Callable[..., Any]) -> Method | None:
    """The record of a function or class with `@method(...)`; None for others."""
    return _RECORDS.get(call)


def about(call: Callable[..., Any]) -> Method:
    """The record of a method. Raises TypeError for a function or class without `@method(...)`."""
    if call not in _RECORDS:
        raise TypeError(f"{call.__qualname__} declares nothing: write @method() above it")
    return _RECORDS[call]


def _positional(call: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the positional arguments of a function, or of a class's own `forward`."""
    taker: Callable[..., Any] = vars(call)["forward"] if inspect.isclass(call) else call
    positional = (p for p in inspect.signature(taker).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in positional if p.name != "self")


def _options(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of a function, or of a class's constructor."""
    parameters = inspect.signature(call, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _own(call: Callable[..., Any], name: str, declared: bool, keyword: str) -> Callable[..., Any] | None:
    """The function `name` in a class's body, or None.

    Raises TypeError if the function is declared but absent, or present but not declared.
    """
    found: Callable[..., Any] | None = vars(call).get(name)
    if found is None and declared:
        raise TypeError(f"{call.__qualname__} declares {keyword}=True and has no {name}() of its own")
    if found is not None and not declared:
        raise TypeError(f"{call.__qualname__} has {name}(): declare it, @method({keyword}=True)")
    return found
