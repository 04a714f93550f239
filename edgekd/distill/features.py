"""Feature taps: they read the outputs of a model's inner modules by path, without editing the model."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekd.errors import ModelError, nearest
from edgekd.recipe.losses import Layout


def as_tokens(feature: Any, layout: Layout | None, path: str, loss: str) -> Any:
    """A feature with three axes as tokens `[batch, positions, channels]`. Other features stay as they are.

    Raises ModelError if a feature with three axes has no layout: an average over the wrong axis would be a wrong number.
    """
    if not isinstance(feature, Tensor) or feature.ndim != 3 or layout == "tokens":
        return feature
    if layout == "channels_first":
        return feature.transpose(1, 2)
    raise ModelError(
        f"layer '{path}', which loss '{loss}' reads, puts out {list(feature.shape)}; say which axis is which: "
        "layout = 'tokens' for [batch, positions, channels], 'channels_first' for [batch, channels, positions]"
    )


class Taps:
    """Reads the outputs of the modules at `paths` in the model's last pass, while the `with` block runs.

    `taps.features` holds the outputs by path. Hooks are set on the instances and removed at the end. Raises ModelError
    for a path that does not exist, with the nearest paths. A module that is called more than once in a pass, or whose
    output the model overwrites before the pass ends, is a ModelError too.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], role: str) -> None:
        self.model, self.role = model, role
        modules = dict(model.named_modules())
        for path in paths:
            if path not in modules:
                possible = [name for name in modules if name]
                raise ModelError(f"the {role} has no layer '{path}'{nearest(path, possible)}")
        self.modules = {path: modules[path] for path in paths}
        self.features: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._calls: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Taps:
        for path, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._keep(path)))
        if self.modules:
            self._handles.append(self.model.register_forward_pre_hook(self._begun()))
            self._handles.append(self.model.register_forward_hook(self._checked()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.features.clear()
        self._versions.clear()

    def _keep(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.features[path] = output
            self._calls[path] = self._calls.get(path, 0) + 1
            self._versions.pop(path, None)
            if isinstance(output, Tensor) and not output.is_inference():  # inference tensors have no version
                self._versions[path] = output._version

        return hook

    def _begun(self) -> Any:
        def hook(model: nn.Module, inputs: Any) -> None:
            self._calls.clear()

        return hook

    def _checked(self) -> Any:
        def hook(
            model: nn.Module, inputs: Any, output: Any
        ) -> None:  # no method: a copy of the model would copy the taps
            for path, calls in self._calls.items():
                if calls > 1:
                    raise ModelError(
                        f"the {self.role}'s layer '{path}' is called {calls} times in one pass, so that its output is not one "
                        "feature; give each use a module of its own, or read another layer"
                    )
            for path, version in self._versions.items():
                if self.features[path]._version != version:
                    raise ModelError(
                        f"what the {self.role}'s layer '{path}' puts out is written over by what follows it (as "
                        "ReLU(inplace=True) does): set inplace=False there, or read the layer that writes"
                    )

        return hook
