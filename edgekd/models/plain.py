"""plain_copy: copies a model as it ships, with stored weights and folded branches. The model itself stays unchanged."""

from __future__ import annotations

import warnings

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm

from edgekd.errors import ExportError
from edgekd.models.branches import fold_of
from edgekd.models.copies import copy_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of the model in evaluation mode, with each computed weight stored as a parameter and all branches folded.

    Weight normalisation, spectral normalisation and parametrizations compute weights. The computed weight ships, so
    quantization-aware training goes on with that weight and not with its origins. The same holds for a module that folds
    its branches into one layer (edgekd.models.branches). Raises ExportError if such a module's own code fails.
    """
    copied = copy_of(model).eval()
    for module in copied.modules():
        if parametrize.is_parametrized(module):
            _store_parametrized(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    for path, module in list(copied.named_modules()):
        if (fold := fold_of(module)) is not None:
            try:
                fold()
            except Exception as error:  # a user's method may raise anything
                called = f"{type(module).__name__}.{fold.__name__}()" + (f" of '{path}'" if path else "")
                raise ExportError(
                    f"{called} failed: {type(error).__name__}: {error}; mend it, or give it another name if it folds no branches"
                ) from error
    return copied


def is_plain(model: nn.Module) -> bool:
    """Whether all weights of a model are stored, so that none is computed from others, and no module folds branches."""
    return not any(
        parametrize.is_parametrized(module)
        or fold_of(module) is not None
        or any(isinstance(hook, WeightNorm | SpectralNorm) for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )


def _store_parametrized(module: nn.Module) -> None:
    """Store the weights that parametrizations compute.

    Torch's own removal would delete the weight's property from the class, which the user's module shares.
    """
    names = [str(name) for name in module.parametrizations]  # type: ignore[union-attr]
    values = {name: getattr(module, name).detach().clone() for name in names}
    of = dict(module.parametrizations.named_children())  # type: ignore[union-attr]
    learns = {name: any(parameter.requires_grad for parameter in of[name].parameters()) for name in names}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=learns[name]))
