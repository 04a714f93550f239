"""trace: a model as a graph of ATen operators with a dynamic batch, or one line about what cannot be traced."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from edgekd.errors import ExportError

_SOURCE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\n\s*(?P<code>[^\n]+)')
_THIRD_PARTY = re.compile(r"[\\/](site-packages|dist-packages|torch|torchao)[\\/]")


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Without what torch's and onnxscript's tracers log and print, and without their own deprecation warnings."""
    loggers = [logging.getLogger(name) for name in ("torch", "torchao", "onnxscript", "onnx_ir")]
    # Those without a level of their own follow these; each change makes every logger there is look up its level anew.
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
            # A recurrent layer lists its own weights anew where they are replaced by what the tracer sees.
            warnings.filterwarnings("ignore", r"The tensor attributes \S+_flat_weights\[")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def trace(
    model: nn.Module, example_inputs: tuple[Tensor, ...], *, name: str | None = None, batch: int | None = None
) -> ExportedProgram:
    """`model` in its present mode as ATen operators; the first dimension of every input is dynamic, or fixed to `batch`.

    Raises ExportError, naming the model (`name`, or its class) and the user's source line, where the model's control
    flow depends on its data or where an operator cannot be traced.
    """
    if batch is None:
        # torch specialises a dimension of size 1: the graph would only take batches of one.
        example_inputs = tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in example_inputs)
        dims: tuple[Any, ...] = tuple({0: Dim("batch", min=1)} for _ in example_inputs)
        named = [p for p in inspect.signature(model.forward).parameters.values() if p.kind is not p.VAR_POSITIONAL]
        rest = (dims[len(named) :],) if len(dims) > len(named) else ()  # what `*others` takes is one entry
        dynamic = (*dims[: len(named)], *rest)
    else:
        example_inputs = tuple(x[:1].expand(batch, *x.shape[1:]).contiguous() for x in example_inputs)
        dynamic = None
    try:
        with quiet_torch():
            return torch.export.export(model, example_inputs, dynamic_shapes=dynamic)
    except Exception as error:  # torch raises many unrelated types here, user code any
        raise ExportError(_explain(name or type(model).__name__, error)) from error


def _explain(name: str, error: Exception) -> str:
    """One line: what failed, and at which line of the user's code."""
    text = str(error)
    reason = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        reason = "its control flow depends on the values of a tensor (torch.where keeps it in the graph)"
    elif "batch" in text and "specialized" in text:
        reason = "it fixes the batch size to a constant (take it from x.shape[0], or use -1, instead)"
    return f"{name} cannot be traced{_where(error, text)}: {reason}"


def user_line(text: str) -> str:
    """` at model.py:12 in forward: code`, the last line of the user's own code that torch's message quotes."""
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
