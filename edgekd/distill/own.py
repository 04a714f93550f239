"""method_of: the record of a loss's method, a built-in one or the user's own, `python:FILE.py:FUNCTION`.

An own method is written as those of `edgekd.distill.methods` are: its positional arguments name what it reads, its
keyword-only arguments are its options. Without `@method(...)` it may read rows of any kind. It computes in float32 also
under autocast, and no gradient reaches the teacher. What is wrong with it is told with its file and line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import CodeType
from typing import Any

import torch
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from torch import Tensor, nn

from edgekd.base.raised import line_of_user
from edgekd.base.references import load_function
from edgekd.distill.methods import METHODS, Method
from edgekd.distill.methods.declare import ROWS, declared, method
from edgekd.distill.methods.precision import full, taught
from edgekd.errors import EdgekdError, ModelError
from edgekd.recipe.losses import TEACHERS, Loss, is_own

INPUTS = ("z_s", "z_t", "z_ts", "labels", "m_s", "m_t", "mask", "f_s", "f_t", "arguments", "rows", "epoch")


def method_of(name: str) -> Method:
    """The record of a built-in method, or of the user's own. Raises ModelError for one of the user's that cannot be used."""
    return own_method(name) if is_own(name) else METHODS[name]


def own_method(reference: str) -> Method:
    """The record of the user's function or `nn.Module` class. Raises ModelError if it cannot be a method, with its line."""
    call = load_function(reference)
    where = place_of(call)
    if inspect.isclass(call) and not (issubclass(call, nn.Module) and "forward" in vars(call)):
        raise ModelError(
            f"'{reference}' ({where}) is a class; a loss is a function, or an nn.Module with a forward of its own"
        )
    try:
        record = declared(call) or declared(method(rows=ROWS)(call))
    except (TypeError, ValueError, NameError) as error:  # no signature, an annotation of no name, an undeclared prepare
        raise ModelError(f"'{reference}' ({where}) cannot be a loss: {error}") from error
    assert record is not None
    if mistakes := [*_wrong_inputs(record), *_wrong_options(record)]:
        raise ModelError(f"'{reference}' ({where}): {'; '.join(mistakes)}")
    return replace(record, options={name: _annotated(option) for name, option in record.options.items()})


def place_of(call: Callable[..., Any]) -> str:
    """The file and line in which a function is written, or a class's `forward`."""
    code = _code_of(call)
    return "compiled, or without a function" if code is None else f"{code.co_filename}, line {code.co_firstlineno}"


def _code_of(call: Callable[..., Any]) -> CodeType | None:
    """The code of a function, or of a class's `forward`; inspect would look for the class in a module that no one imported."""
    taker = vars(call).get("forward") if inspect.isclass(call) else inspect.unwrap(call)
    code = getattr(taker, "__code__", None)
    return code if isinstance(code, CodeType) else None


def value_of_own(title: str, call: Callable[..., Any], bound: Callable[..., Any], given: Mapping[str, Any]) -> Tensor:
    """The value of an own method, in float32. bound: with its options. given: its arguments by name.

    Raises ModelError with file and line if it raises, gives no scalar, or gives one that does not depend on the student.
    """
    arguments = [_in_full(value, of_teacher=name in TEACHERS) for name, value in given.items()]
    device = next((part.device.type for part in _tensors(arguments)), "cpu")
    try:
        with torch.autocast(device, enabled=False):
            value = bound(*arguments)
    except EdgekdError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything, or end the program
        told = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}".removesuffix(": ")
        raise ModelError(f"loss '{title}' fails in {_line_of(error, call)}: {told}") from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        what = f"a tensor of {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ModelError(
            f"loss '{title}' ({place_of(call)}) gives {what}; return one number as a tensor, as value.mean()"
        )
    if torch.is_grad_enabled() and not value.requires_grad and any(part.requires_grad for part in _tensors(arguments)):
        raise ModelError(
            f"loss '{title}' ({place_of(call)}) has no gradient to the student: it was lost on the way, as by detach(), item(), argmax "
            "or numpy; compute it by torch on what the student gives"
        )
    return value.reshape(())


def _wrong_inputs(record: Method) -> Iterator[str]:
    taker: Callable[..., Any] = vars(record.call)["forward"] if inspect.isclass(record.call) else record.call
    parameters = inspect.signature(taker).parameters
    unknown = [name for name in record.needs if name not in INPUTS]
    for name in unknown:
        if parameters[name].default is not inspect.Parameter.empty:
            yield f"{name} has a default, so it is an option: write * before it, as (z_s, z_t, *, {name}=...)"
        else:
            yield f"it asks for {name}, which is not given; possible are {', '.join(INPUTS)}, and options behind *"
    if not {"z_s", "m_s", "f_s"} & set(record.needs) and not unknown:
        yield "it reads nothing of the student; ask for z_s (its logits), m_s (maps of them) or f_s (its features)"


def _wrong_options(record: Method) -> Iterator[str]:
    for name, option in record.options.items():
        if name in Loss.model_fields:
            yield f"its option {name} is a key of every loss; give it another name"
            continue
        try:
            TypeAdapter(_annotated(option).annotation)
        except (PydanticUserError, TypeError, NameError):
            yield f"its option {name} is a {option.annotation}; an option is a number, a bool, a text or a list of them"


def _annotated(option: inspect.Parameter) -> inspect.Parameter:
    """The option with an annotation: without one, the type of its default."""
    if option.annotation is not inspect.Parameter.empty:
        return option
    kind: Any = type(option.default)
    if kind is int:  # temperature=4 takes 4.5 too
        kind = float
    return option.replace(annotation=kind if kind in (bool, float, str) else Any)


def _in_full(value: Any, *, of_teacher: bool) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_in_full(part, of_teacher=of_teacher) for part in value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return taught(value) if of_teacher else full(value)


def _tensors(arguments: list[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        for part in argument if isinstance(argument, list | tuple) else (argument,):
            if isinstance(part, Tensor):
                yield part


def _line_of(error: BaseException, call: Callable[..., Any]) -> str:
    """The file and line of the user's code that raised, or that called what raised."""
    return line_of_user(error) or place_of(call)
