"""Every exception that edgekd raises on purpose.

    EdgekdError            base; the command line prints its text and ends with exit code 2
    ├── RecipeError        a recipe, an override or a target that cannot work
    ├── DataError          a data set, an image or a label that cannot be used
    ├── ModelError         a model reference, weights or a layer path that cannot be used
    ├── CacheError         the cache's folder cannot be read or written, or is held by another build
    ├── QuantizationError  a model or target that cannot be quantized as asked
    │   └── UnknownLayerError  a name in keep_float that stands for no layer; a RecipeError too
    ├── ExportError        a model that cannot be exported, or whose export differs from it
    ├── BundleError        a bundle that is incomplete or was changed
    │   └── NotToShipError a bundle that misses a check, where it is shipped; exit code 3
    └── DeviceError        a device that cannot be reached, lacks something, or failed at what it was asked
        └── DiffersError   a bundle whose files or outputs are others there than they should be; exit code 3

A missed budget is no exception: the build has done its work, the report says `missed`, the exit code is 3.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgekdError(Exception):
    """Base of edgekd's errors. The text says what was given, what is possible and what to do."""


class RecipeError(EdgekdError):
    """A recipe, an override or a target that cannot work."""


class DataError(EdgekdError):
    """A data set, an image or a label that cannot be used."""


class ModelError(EdgekdError):
    """A model reference, weights or a layer path that cannot be used."""


class CacheError(EdgekdError):
    """The cache's folder cannot be read or written, or is held by another build."""


class QuantizationError(EdgekdError):
    """A model or target that cannot be quantized as asked."""


class UnknownLayerError(QuantizationError, RecipeError):
    """A layer's name in `keep_float` that stands for none: the recipe's mistake, not the model's."""


class ExportError(EdgekdError):
    """A model that cannot be exported, or whose export differs from it."""


class BundleError(EdgekdError):
    """A bundle that is incomplete or was changed."""


class NotToShipError(BundleError):
    """A bundle that misses a check of its report."""


class DeviceError(EdgekdError):
    """A device that cannot be reached, lacks something, or failed at what it was asked."""


class DiffersError(DeviceError):
    """A bundle whose files or outputs are others on the device than they should be."""


def nearest(name: str, possible: Iterable[str], also: Iterable[str] = ()) -> str:
    """The end of an error message: `; have: a, b. Did you mean a?` (empty where nothing is possible).

    also: further names that may have been meant, too many to list.
    """
    names = list(possible)
    if not names:
        return ""
    close = difflib.get_close_matches(name, [*names, *also], n=1, cutoff=0.6)
    return f"; have: {', '.join(names)}." + (f" Did you mean {close[0]}?" if close else "")
