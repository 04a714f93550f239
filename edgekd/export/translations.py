"""translations_read_once: torch's ONNX exporter with its table of translations kept from one export to the next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def translations_read_once() -> Iterator[None]:
    """While the block runs, `torch.onnx.export` makes the table of an opset once, and reads it afterwards.

    Torch makes it anew for each model, from the source text of some 500 functions, and only reads it: a third of the time
    that a small model's export takes. The table leaves out what no library has registered yet, so a further operator makes it
    anew. A torch whose table is made elsewhere exports as it does.
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
