"""Is the runner's median that of a plain timing loop, and what does a device by ssh add? Prints a table; no test.

python benchmarks/device_protocol.py build/digits/x86-cpu                  the runner's protocol beside a loop, one process
python benchmarks/device_protocol.py build/digits/x86-cpu --device nano    also: what the command adds to the runner's time
"""

from __future__ import annotations

import importlib.util
import resource
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edgekd.runtime.runners import machine, versions
from edgekd.scripts import SCRIPTS

ROUNDS = 5


def main(
    bundle: Path,
    device: Annotated[list[str] | None, typer.Option(help="May be repeated: several are measured at once.")] = None,
    seconds: Annotated[float, typer.Option(help="Of each block.")] = 2.0,
) -> None:
    """Compare, on one thread, in turns."""
    print(f"{machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}")
    ratios = [compare(bundle, seconds) for _ in range(ROUNDS)]
    print(
        f"runner's p50 / loop's p50: median {np.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}), n {ROUNDS}"
    )
    if device:
        overhead(bundle, device, seconds)


def compare(bundle: Path, seconds: float) -> float:
    """p50 of the runner's loop over that of one written as onnxruntime_perf_test's is: run, note the time, again."""
    spec = importlib.util.spec_from_file_location("run", SCRIPTS / "run.py")
    assert spec is not None and spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    run.HERE = str(bundle)  # type: ignore[attr-defined]
    model = run.OnnxModel(str(bundle / "model.onnx"), 1)
    batch = run.rows_of(run.golden(bundle, run.read_manifest())[0], slice(1))
    run.time_calls(lambda: model(batch), 1.0, 1)
    ours, plain = [], []
    for _ in range(3):
        ours.append(run.time_calls(lambda: model(batch), seconds / 3, 20))
        plain.append(loop(model.session, batch, seconds / 3))
    return float(np.median(np.concatenate(ours)) / np.median(np.concatenate(plain)))


def loop(session: object, feed: dict[str, np.ndarray], seconds: float) -> np.ndarray:
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)  # type: ignore[attr-defined]
        samples.append(1e3 * (time.perf_counter() - start))
    return np.asarray(samples)


def overhead(bundle: Path, names: list[str], seconds: float) -> None:
    """What reaching the devices adds to what the slowest runner itself takes."""
    from edgekd.measure import on_device
    from edgekd.measure.answer import Answer
    from edgekd.measure.on_device import Options
    from edgekd.measure.side_by_side import measure_all

    took: list[float] = []
    understand = on_device.understand

    def noted(kind, said, device):  # type: ignore[no-untyped-def]
        found = understand(kind, said, device)
        if isinstance(found, Answer):
            took.append(found.seconds)
        return found

    on_device.understand = noted
    for _ in range(3):
        took.clear()
        start, busy = time.perf_counter(), own_s()
        measure_all(bundle, names, Options(block_s=seconds))
        whole = time.perf_counter() - start
        print(
            f"{len(names)} device(s): {whole:.2f} s in all, slowest runner {max(took):.2f} s, added {whole - max(took):.2f} s; "
            f"this side of the connections was busy for {own_s() - busy:.2f} s"
        )


def own_s() -> float:
    """Processor seconds of this process and of the ssh clients that it has waited for: not of devices that are this machine."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    sys.exit(typer.run(main))
