"""Feature taps: read a model's inner outputs by module path, without editing the model."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekd.errors import ModelError, nearest


class Taps:
    """While the `with` block runs, `taps.features` holds what the modules at `paths` put out last.

    Hooks are set on the instances and removed at the end. Raises ModelError for a path that does not exist, with the
    nearest.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], role: str) -> None:
        modules = dict(model.named_modules())
        for path in paths:
            if path not in modules:
                possible = [name for name in modules if name]
                raise ModelError(f"the {role} has no layer '{path}'{nearest(path, possible)}")
        self.modules = {path: modules[path] for path in paths}
        self.features: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Taps:
        for path, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._keep(path)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.features.clear()

    def _keep(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.features[path] = output

        return hook
