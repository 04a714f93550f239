"""An accelerator without the hardware: tensors that say they are on `DEVICE`, hold their values here, and refuse to mix.

What fails on a GPU and passes on a processor is nearly always a tensor that was made, or left, on the other side. The
tensors of this file compute as on a processor and are as strict as CUDA's: an operator that gets tensors of both sides
raises, but for numbers (tensors without a dimension) and for indices.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

DEVICE = torch.device("meta")
"""A type of device that torch knows by name and this build has nothing of."""

aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}


class OnAccelerator(torch.Tensor):
    """A tensor on `DEVICE`; `.values` are on the processor."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnAccelerator:
        made: OnAccelerator = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.values = values
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnAccelerator({self.values!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copy = OnAccelerator(self.values.detach().clone()).requires_grad_(self.requires_grad)
        made = torch.nn.Parameter(copy, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copy
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.values.__reduce_ex__(protocol)  # a file holds the values

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Accelerator(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    given: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, given.append, (args, kwargs))
    here = [t for t in given if not isinstance(t, OnAccelerator)]
    there = any(isinstance(t, OnAccelerator) for t in given)
    if there and func not in COPIES:
        compared = given[:1] if func in BY_INDEX else given
        mixed = [t for t in here if t.ndim and any(t is one for one in compared)]
        if mixed or (func in BY_INDEX and not isinstance(given[0], OnAccelerator)):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu")
    asked = kwargs.get("device")
    to = there if asked is None else torch.device(asked).type == DEVICE.type
    if func is aten.copy_.default:
        to = isinstance(args[0], OnAccelerator)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu") if to else asked}
    plain_args, plain_kwargs = tree_map_only(OnAccelerator, lambda t: t.values, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if not to:
        return result
    wrapped = tree_map_only(torch.Tensor, lambda t: t if isinstance(t, OnAccelerator) else OnAccelerator(t), result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


class _Factories(TorchFunctionMode):
    """`torch.tensor` and `new_tensor` copy Python's numbers beneath the dispatcher: here they copy twice."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            of = args[0] if func is torch.Tensor.new_tensor else None
            device = kwargs.pop("device", None) or (of.device if of is not None else torch.device("cpu"))
            if of is not None:
                func, args, kwargs = torch.tensor, args[1:], {"dtype": of.dtype, **kwargs}
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """In the block tensors can be put on, and made on, the device that it gives."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # the values are a processor's: oneDNN's gradients, see memory_format.py
    try:
        with warnings.catch_warnings(), _Accelerator(), _Factories():
            # torch thinks that nothing can be copied to this device; `copy_` does.
            warnings.filterwarnings("ignore", message="for .*: copying from a non-meta parameter", category=UserWarning)
            yield DEVICE
    finally:
        torch._C._set_mkldnn_enabled(before)
