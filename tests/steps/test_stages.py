"""Every stage says which model it is about, for the lineage in a report."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

from edgekd import steps
from edgekd.cache.stage import stage
from edgekd.cache.subject import subject_of


def stages() -> Iterator[Callable[..., Any]]:
    """The stages of all modules of edgekd.steps, where they are defined."""
    for module in pkgutil.iter_modules(steps.__path__):
        found = importlib.import_module(f"edgekd.steps.{module.name}")
        yield from (
            value
            for value in vars(found).values()
            if hasattr(value, "stage_version") and value.__module__ == found.__name__
        )


def test_every_stage_that_makes_or_reads_a_model_names_its_parameter() -> None:
    named = {
        function.__name__: (function.stage_of, list(inspect.signature(function).parameters)) for function in stages()
    }  # type: ignore[attr-defined]
    assert len(named) >= 20 and {"distill", "export_int8", "score"} <= named.keys()
    assert {name: parameter for name, (parameter, parameters) in named.items() if parameter not in parameters} == {}


def test_a_stage_of_no_model_says_nothing() -> None:
    @stage(1)
    def counted(number: int) -> None: ...

    assert subject_of(counted, (3,)) == ""
