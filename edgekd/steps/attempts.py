"""Attempts: makes the candidates. A candidate that fails is dropped with its reason, and the others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edgekd.base import processes
from edgekd.base.console import say
from edgekd.cache.stage import Artifact
from edgekd.errors import BundleError, CacheError, DataError, DeviceError, EdgekdError, ExportError, RecipeError

T = TypeVar("T")
NOT_THE_CANDIDATE = (BundleError, CacheError, DataError, DeviceError, OSError, RecipeError)
"""Errors that would occur for every candidate alike: they end the build."""


class Attempts:
    """The attempts so far. candidates: name -> exported model; dropped: name -> reason."""

    def __init__(self) -> None:
        self.candidates: dict[str, Artifact] = {}
        self.dropped: dict[str, str] = {}

    def export(self, name: str, make: Callable[[], Artifact]) -> None:
        """Add the model of a candidate, if `make` succeeds."""
        if (made := self.of(name, make)) is not None:
            self.candidates[name] = made

    def of(self, name: str, make: Callable[[], T]) -> T | None:
        """The result of `make`. If `make` fails, the candidate is dropped and the result is None."""
        try:
            return make()
        except NOT_THE_CANDIDATE:
            raise
        except Exception as error:  # exporters, quantizers and the user's code raise anything
            if processes.RANK == 0 and processes.SIZE > 1:
                processes.dismiss()  # the other processes wait for the stage that failed
            self.drop(name, reason_of(error))
            return None

    def drop(self, name: str, reason: str) -> None:
        self.candidates.pop(name, None)
        self.dropped[name] = reason
        say(f"  {name} was dropped: {reason}")

    def left(self) -> dict[str, Artifact]:
        """The remaining candidates. Raises ExportError with every reason if none is left."""
        if not self.candidates:
            raise ExportError(none_left(self.dropped))
        return self.candidates


def none_left(dropped: dict[str, str]) -> str:
    reasons = "; ".join(f"{name} was dropped: {reason}" for name, reason in dropped.items())
    return f"no candidate is left to ship: {reasons}. What was trained is kept in the cache"


def reason_of(error: BaseException) -> str:
    """The text of an error on one line.

    Errors of other packages get their type, because the text of a KeyError alone says nothing.
    """
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, EdgekdError) else f"{type(error).__name__}: {text}".removesuffix(": ")
