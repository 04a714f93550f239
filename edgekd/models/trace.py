"""trace: turns a model into a graph of ATen operators with a dynamic batch and free sizes, or says why that fails."""

from __future__ import annotations

import contextlib
import inspect
import io
import keyword
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from edgekd.errors import ExportError

Batch = Tensor | Sequence[Tensor]
"""What a model is called with: its argument, or its arguments in their order."""


@dataclass(frozen=True)
class FreeSize:
    """A size of an input that callers choose, such as the length of a text.

    The graph takes `at_least` to `at_most` of it (None: as many as there are). The axis bears `name` in the exported file; one
    name is one size, in all inputs that have it.

    Raises ExportError for a name that is no identifier or is "batch", and for bounds that leave nothing free.
    """

    name: str
    at_most: int | None = None
    at_least: int = 1

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or keyword.iskeyword(self.name) or self.name == "batch":
            raise ExportError(f"free size {self.name!r}; give a name in letters, digits and _, other than 'batch'")
        if self.at_least < 1 or (self.at_most is not None and self.at_most <= self.at_least):
            raise ExportError(
                f"free size '{self.name}' of {self.bounds}; give at_least from 1 on, and at_most above it or none"
            )

    @property
    def bounds(self) -> str:
        return f"{self.at_least} to {self.at_most}" if self.at_most is not None else f"{self.at_least} or more"


Free = Sequence[Mapping[int, FreeSize]]
"""Of each input the axes that are free beside the batch, `({1: length}, {1: length})`; empty: none."""

_SOURCE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\n\s*(?P<code>[^\n]+)')
_THIRD_PARTY = re.compile(r"[\\/](site-packages|dist-packages|torch|torchao)[\\/]")


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Silences logs, prints and deprecation warnings of the tracers of torch and onnxscript in the block."""
    loggers = [logging.getLogger(name) for name in ("torch", "torchao", "onnxscript", "onnx_ir")]
    # Child loggers without their own level follow these. Each change of a level clears the caches of all loggers, so only
    # loggers with their own level are added.
    loggers += [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith(("torch.", "torchao.", "onnxscript.", "onnx_ir."))
        and isinstance(logger, logging.Logger)
        and logger.level
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(torch|torchao|onnxscript|onnx_ir|copyreg)\b"
                )
            # The tracer replaces the weights of a recurrent layer, which then lists its weights again.
            warnings.filterwarnings("ignore", r"The tensor attributes \S+_flat_weights\[")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def as_tuple(batch: Batch) -> tuple[Tensor, ...]:
    """A batch as a model's arguments: one tensor is a tuple of one."""
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def trace(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    name: str | None = None,
    batch: int | None = None,
    free: Free = (),
) -> ExportedProgram:
    """The program of `model` in its present mode, as ATen operators.

    The first axis of every input is dynamic, or fixed to `batch`. So are the axes that `free` names: one mapping from axis to
    size for each input. An example of size 1 on such an axis is repeated.

    Raises ExportError, naming the model (`name`, or its class) and the user's source line, where the model's control
    flow depends on its data, where it fixes a free size, or where an operator cannot be traced.
    """
    sizes = sizes_of(example_inputs, free)
    # torch specialises a dimension of size 1: the graph would only take batches, or texts, of one.
    example_inputs = resized(example_inputs, free, {size.name: max(given, 2) for size, given in sizes.items()})
    axes = [{axis: _dimension(size) for axis, size in its.items()} for its in free or ({},) * len(example_inputs)]
    dynamic: tuple[Any, ...] | None = None
    if batch is None:
        example_inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in example_inputs)
        dynamic = _by_parameter(model, [{0: Dim("batch", min=1), **its} for its in axes])
    else:
        example_inputs = tuple(x[:1].expand(batch, *x.shape[1:]).contiguous() for x in example_inputs)
        dynamic = _by_parameter(model, axes) if sizes else None
    try:
        with quiet_torch():
            return torch.export.export(model, example_inputs, dynamic_shapes=dynamic)
    except ExportError:
        raise
    except Exception as error:  # torch raises many unrelated types here, user code any
        raise ExportError(_explain(name or type(model).__name__, error, list(sizes))) from error


def sizes_of(inputs: Sequence[Tensor], free: Free) -> dict[FreeSize, int]:
    """What each free size is in some inputs. Raises ExportError for axes that these do not have, and for other sizes."""
    if free and len(free) != len(inputs):
        raise ExportError(
            f"free has {len(free)} entries for {len(inputs)} inputs; give one mapping for each, {{}} for none"
        )
    found: dict[FreeSize, int] = {}
    for index, (x, axes) in enumerate(zip(inputs, free, strict=False)):
        for axis, size in axes.items():
            if not 0 < axis < x.dim():
                raise ExportError(
                    f"free names axis {axis} of input {index}, which has {x.dim()}; give one from 1 on (0 is the batch)"
                )
            if any(other.name == size.name and other != size for other in found):
                raise ExportError(f"free has two sizes '{size.name}' with other bounds; one name is one size")
            given = found.setdefault(size, x.shape[axis])
            if given != x.shape[axis]:
                raise ExportError(
                    f"'{size.name}' is {given} in one example input and {x.shape[axis]} in another; one name is one size"
                )
            if not size.at_least <= given <= (size.at_most or given):
                raise ExportError(f"'{size.name}' is {given} in the example; its bounds are {size.bounds}")
    return found


def resized(inputs: Sequence[Tensor], free: Free, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """The inputs with their free axes at these sizes, by name: cut, or filled up with what they begin with."""

    def one(x: Tensor, axes: Mapping[int, FreeSize]) -> Tensor:
        for axis, size in axes.items():
            wanted = sizes[size.name]
            if wanted != x.shape[axis]:
                x = x.index_select(axis, torch.arange(wanted, device=x.device) % x.shape[axis])
        return x

    return tuple(one(x, axes) for x, axes in zip(inputs, free or ({},) * len(inputs), strict=True))


def _dimension(size: FreeSize) -> Any:
    return Dim(size.name, min=size.at_least, max=size.at_most)


def _by_parameter(model: nn.Module, dims: Sequence[Any]) -> tuple[Any, ...]:
    """An entry for each parameter of the model's forward: what `*others` takes is one."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = (tuple(dims[len(named) :]),) if len(dims) > len(named) else ()
    return (*dims[: len(named)], *rest)


def _explain(name: str, error: Exception, free: Sequence[FreeSize]) -> str:
    """The error in one line: the reason, and the line of the user's code."""
    text = str(error)
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        reason = "its control flow depends on the values of a tensor (torch.where keeps it in the graph)"
    elif told := next((told for size in free if (told := _refused_size(text, size)) is not None), None):
        reason = told
    elif "batch" in text and "specialized" in text:
        reason = "it fixes the batch size to a constant (take it from x.shape[0], or use -1, instead)"
    return f"{name} cannot be traced{_where(error, text)}: {reason}"


def _refused_size(text: str, size: FreeSize) -> str | None:
    """What torch's message says of a free size, and what to do; None where it says nothing of it."""
    name = size.name
    if re.search(rf"\b{name} as dynamic but your code specialized it|^\s*{name} = \d+$", text, re.MULTILINE):
        return f"it fixes the free size '{name}' to a constant (take it from the input's shape, or use -1, instead)"
    taken = re.search(rf"^\s*{name} = Dim\('{name}'(?:, min=(\d+))?(?:, max=(\d+))?\)", text, re.MULTILINE)
    if taken:
        bounds = [f"at_most={taken[2]}"] if taken[2] else [f"at_most={size.at_most}"] if size.at_most else []
        bounds += [f"at_least={max(int(taken[1] or 1), size.at_least)}"]
        return f"it does not take every '{name}' of {size.bounds}; give FreeSize('{name}', {', '.join(bounds)})"
    other = re.search(rf"^\s*{name} = (.+)$", text, re.MULTILINE)
    if other:
        return (
            f"it takes '{name}' = {other[1].strip()} alone (torch's words), not every one of {size.bounds}; mend the model, or pad "
            "its input to one size"
        )
    guard = re.search(rf"Not all values of {name} = .* satisfy the generated guard (.+)", text)
    if guard:
        return f"it does not take every '{name}' of {size.bounds}: {guard[1].rstrip('.')}; give other bounds"
    return None


def user_line(text: str) -> str:
    """The last line of the user's own code in torch's message, as ` at model.py:12 in forward: code`."""
    own = [m for m in _SOURCE_LINE.finditer(text) if not _THIRD_PARTY.search(m["file"])]
    if not own:
        return ""
    last = own[-1]
    return f" at {last['file']}:{last['line']} in {last['function']}: `{last['code'].strip()}`"


def _where(error: Exception, text: str) -> str:
    """The user's line from torch's message, else from the traceback."""
    if quoted := user_line(text):
        return quoted
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not _THIRD_PARTY.search(code.co_filename) and code.co_filename != __file__ and "<" not in code.co_filename:
            frames.append(f" at {code.co_filename}:{traceback.tb_lineno} in {code.co_name}")
        traceback = traceback.tb_next
    inner = [frame for frame in frames if frame.endswith("in forward")]
    return inner[-1] if inner else ""
