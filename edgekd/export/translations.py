"""translations_read_once: keeps the translation table of torch's ONNX exporter from one export to the next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def translations_read_once() -> Iterator[None]:
    """Makes `torch.onnx.export` build the table of an opset only once while the block runs.

    Torch builds the table for each model, from the source text of some 500 functions, but only reads it. This takes a third
    of a small model's export time. The table lacks operators that no library has registered yet, so it is built again when
    an operator was added. A torch version that builds its table elsewhere exports as usual.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        made = ONNXRegistry.__dict__["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return
    operators = len(torch._C._dispatch_get_all_op_names())
    ONNXRegistry.from_torchlib = staticmethod(_kept(made.__func__, ONNXRegistry, operators))  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = made  # type: ignore[method-assign]


@functools.lru_cache(maxsize=1)
def _kept(make: Callable[..., Any], registry: type, operators: int) -> Callable[..., Any]:
    return functools.cache(functools.partial(make, registry))
