"""Attempts: what is made of each candidate; one that fails is dropped with its reason, and the others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edgekd.base import processes
from edgekd.base.console import say
from edgekd.cache.stage import Artifact
from edgekd.errors import BundleError, CacheError, DataError, DeviceError, EdgekdError, ExportError, RecipeError

T = TypeVar("T")
NOT_THE_CANDIDATE = (BundleError, CacheError, DataError, DeviceError, OSError, RecipeError)
"""What would fail for each candidate alike: the build ends there."""


class Attempts:
    """`candidates`: name -> the model that was exported; `dropped`: name -> why it is none of them."""

    def __init__(self) -> None:
        self.candidates: dict[str, Artifact] = {}
        self.dropped: dict[str, str] = {}

    def export(self, name: str, make: Callable[[], Artifact]) -> None:
        """The model of a candidate, if it can be made and computes what it should."""
        if (made := self.of(name, make)) is not None:
            self.candidates[name] = made

    def of(self, name: str, make: Callable[[], T]) -> T | None:
        """What `make` gives; None, and the candidate dropped, where it fails."""
        try:
            return make()
        except NOT_THE_CANDIDATE:
            raise
        except Exception as error:  # exporters, quantizers and the user's code raise anything
            if processes.RANK == 0 and processes.SIZE > 1:
                processes.dismiss()  # the others wait for the stage that failed
            self.drop(name, reason_of(error))
            return None

    def drop(self, name: str, reason: str) -> None:
        self.candidates.pop(name, None)
        self.dropped[name] = reason
        say(f"  {name} was dropped: {reason}")

    def left(self) -> dict[str, Artifact]:
        """The candidates. Raises ExportError, with every reason, where none is left."""
        if not self.candidates:
            raise ExportError(none_left(self.dropped))
        return self.candidates


def none_left(dropped: dict[str, str]) -> str:
    reasons = "; ".join(f"{name} was dropped: {reason}" for name, reason in dropped.items())
    return f"no candidate is left to ship: {reasons}. What was trained is kept in the cache"


def reason_of(error: BaseException) -> str:
    """In one line; the type of what edgekd did not raise itself, for a KeyError's text alone says nothing."""
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, EdgekdError) else f"{type(error).__name__}: {text}".removesuffix(": ")
