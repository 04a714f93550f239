"""time_models: times exported models here in turns, at batch 1 on a single thread.

A model whose runtime fails is left out with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.errors import ModelError
from edgekd.measure.protocol import PROTOCOL, Call, Series, Timing, interleave
from edgekd.runtime.runners import Inputs, OnnxRunner, TimedThere, peak_memory_mb
from edgekd.runtime.sessions import Ended


@dataclass
class Timings:
    """Results by the model's name: runtime, series and memory in MB, or the reason of a failure."""

    runtimes: dict[str, str] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    memory_mb: dict[str, float | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def time_models(
    models: Mapping[str, Path], one: Inputs, others: Mapping[str, Call], timing: Timing = PROTOCOL
) -> Timings:
    """Times each model in a separate process, with `others` beside them, on the batch `one`.

    `one` is by input name, as the models take it. A model that this machine only rounds to bf16 is opened but not timed,
    because its casts would count.
    """
    results = Timings()
    runners: dict[str, OnnxRunner] = {}
    for name, path in models.items():
        try:
            runners[name] = OnnxRunner(path)
            results.runtimes[name] = runners[name].name
        except ModelError as error:
            results.failed[name] = str(error)
    calls = {name: runner.timed(one) for name, runner in runners.items() if not runner.rounds_to_bf16}
    results.series = _in_turns({**calls, **others}, timing, results.failed)
    for runner in runners.values():
        runner.close()
    for name in calls:
        if name not in results.failed:
            try:
                results.memory_mb[name] = peak_memory_mb(models[name], one)
            except ModelError as error:
                results.failed[name] = str(error)
    return results


def _in_turns(calls: dict[str, Call], timing: Timing, failed: dict[str, str]) -> dict[str, Series]:
    """Times the calls in turns. If one fails, the others start again, because all must see the same rounds."""
    while calls:
        try:
            return interleave(calls, timing)
        except Ended as error:
            name = next(
                name for name, call in calls.items() if isinstance(call, TimedThere) and call.session is error.session
            )
            failed[name] = str(error)
            del calls[name]
    return {}
