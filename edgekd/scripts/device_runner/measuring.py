"""measure: times bundles in turns, block by block, and records energy, predictions and sustained speed."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import threading
import time
import zlib

from edgekd.scripts.device_runner.facts import busy_s, find_facts, found, number, own_s, policies_of, read, state
from edgekd.scripts.device_runner.model import apart, build_engine, check_files, load_model, load_tools, read_manifest
from edgekd.scripts.device_runner.start import Differs, Failure, progress
from edgekd.scripts.device_runner.store import work_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# --------------------------------------------------------------------------------------------------------- measurement


def measure(request: dict[str, Any]) -> dict[str, Any]:
    with work_folder(request) as (bundles, tools):
        return measure_bundles(bundles, tools, os.path.join(request["folder"], "timing"), request)


def measure_bundles(bundles: dict[str, str], tools: str, timing: str, options: dict[str, Any]) -> dict[str, Any]:
    """Label -> the measurements of that bundle here, or `failure`. `options` are those of parse().

    Several bundles are timed in turns, block by block, so that disturbances hit all alike. A bundle that fails does not
    stop the others.
    """
    start, root = time.perf_counter(), options["root"]
    facts = find_facts(root)
    if options["cpus"]:
        pin(options["cpus"])
    cores = len(os.sched_getaffinity(0))
    if max(options["threads"]) > cores:
        raise Failure(
            "{} threads on {} cores would wait for each other; give at most {}".format(
                max(options["threads"]), cores, cores
            )
        )
    before, busy_before = state(root), busy_s(root)
    candidates: dict[str, Candidate] = {}
    failed: dict[str, dict[str, Any]] = {}

    def each(step: Callable[..., None], *words: Any) -> None:
        for label, candidate in candidates.items():
            if label not in failed:
                with noted(failed, label):
                    step(candidate, *words)

    for label, bundle in bundles.items():
        with noted(failed, label):
            candidates[label] = Candidate(label if len(bundles) > 1 else "", bundle, tools, options)
    each(Candidate.build, timing)
    for threads in options["threads"]:
        each(Candidate.load, threads)
        for batch in options["batches"] if options["time"] else []:
            each(Candidate.take, batch)
            time_in_turns(candidates, failed, threads, batch, options)
        if threads == options["threads"][0]:  # only with the first number of threads, as for the cost of loading
            each(Candidate.go_on)
    after, busy_after, taken = state(root), busy_s(root), time.perf_counter() - start
    others = None
    if busy_before is not None and busy_after is not None:
        others = max(0.0, busy_after - busy_before - (own_s() - options["own_s"])) / taken
    shared = {"facts": facts, "before": before, "after": after, "other_load_cores": others, "seconds": taken}
    return {label: failed.get(label) or {**shared, **candidates[label].results} for label in bundles}


@contextlib.contextmanager
def noted(failed: dict[str, dict[str, Any]], label: str) -> Iterator[None]:
    """Records an exception of the block as the label's failure."""
    try:
        yield
    except Exception as failure:  # a runtime's errors share no other base
        failed[label] = told(failure)


def told(failure: Exception) -> dict[str, Any]:
    """A failure in the host's format."""
    if isinstance(failure, Failure):
        return {"failure": str(failure), "differs": isinstance(failure, Differs)}
    if not isinstance(failure, OSError):
        return {"failure": f"{type(failure).__name__}: {failure}", "differs": False}
    where = f"{failure.filename}: " if failure.filename else ""
    remedy = "; free some space there" if failure.errno == errno.ENOSPC else ""
    return {"failure": f"{where}{failure.strerror or failure}{remedy}", "differs": False}


class Candidate:
    """A bundle under measurement. `results` holds the measurements."""

    def __init__(self, label: str, bundle: str, tools: str, options: dict[str, Any]) -> None:
        self.title = label and label + ": "
        self.bundle, self.tools, self.options = bundle, tools, options
        self.manifest = read_manifest(bundle)
        check_files(bundle, self.manifest)
        self.run = load_tools(bundle, tools)
        self.runtime = options["runtime"] or self.manifest["runtime"]
        clocks = policies_of(options["root"], options["cpus"] or sorted(os.sched_getaffinity(0)))
        self.results: dict[str, Any] = {
            "engine": None, "series": [], "cpus": options["cpus"],
            "clocks_used": ["gpu"] if self.runtime == "tensorrt" else clocks,
        }  # fmt: skip
        self.model: Any = None
        self.calls: dict[str, Callable[[], object]] = {}

    @property
    def right(self) -> bool:
        """Whether the model gives the stored outputs. A wrong model is not measured."""
        return bool(self.results["golden"]["ok"])

    def build(self, timing: str) -> None:
        if self.runtime == "tensorrt":
            progress(self.title + "building the engine")
            self.results["engine"] = build_engine(
                self.bundle, self.tools, timing, max(self.options["batches"]), self.options
            )

    def load(self, threads: int) -> None:
        """Loads the model for this number of threads.

        The first time, the cost of loading, the stored outputs and the samples are examined too.
        """
        progress(f"{self.title}loading and checking the stored outputs, {threads} thread(s)")
        if self.options["time"] and "loading" not in self.results:
            asked = {"bundle": self.bundle, "runtime": self.runtime, "threads": threads}
            self.results["loading"] = apart(self.tools, self.options["python"], "loading", asked)
        self.model = load_model(self.run, self.bundle, self.runtime, threads)
        if "golden" in self.results:
            return
        ok, detail = self.run.verify_outputs(self.model, self.manifest)
        self.results.update(runtime=self.model.name, golden={"ok": ok, "detail": detail})
        if ok and "samples" in self.options:
            samples = os.path.join(self.tools, self.options["samples"])
            self.results["predictions"] = predict(self.run, self.model, samples, self.options["kind"])

    def take(self, batch: int) -> None:
        """Prepares the calls to be timed for a batch, by transfers: with copies and, on a GPU, also without."""
        import numpy as np

        if not self.right:
            return
        stored, model = self.run.golden(self.bundle, self.manifest)[0], self.model
        inputs = self.run.rows_of(stored, np.arange(batch) % len(next(iter(stored.values()))))
        try:
            model(inputs)
        except Exception as error:
            if isinstance(error, Failure) or batch > 1:  # the graph may be fixed to another batch size
                raise Failure("batch {} does not run: {}".format(batch, str(error).split("\n")[0])) from None
            raise
        self.calls = {"included" if hasattr(model, "compute") else "none": lambda: model(inputs)}
        if hasattr(model, "compute"):
            model.place(inputs)
            self.calls["excluded"] = model.compute

    def go_on(self) -> None:
        """Measures energy and the sustained speed that was asked for."""
        if not self.options["time"] or not self.right:
            return
        root, one = self.options["root"], self.run.rows_of(self.run.golden(self.bundle, self.manifest)[0], slice(1))
        self.results["energy"] = measure_energy(root, lambda: self.model(one), self.options["energy_s"])
        if self.calls:
            self.results["sustained"] = sustain(
                self.run, next(iter(self.calls.values())), self.options["sustained_s"], root
            )


def time_in_turns(
    candidates: dict[str, Candidate],
    failed: dict[str, dict[str, Any]],
    threads: int,
    batch: int,
    options: dict[str, Any],
) -> None:
    """Times a block of every call in turns and adds it to `results`. The order is reversed every second round.

    Each call is warmed up first. If another call ran in between, it also runs for a tenth of that time before each block,
    unrecorded. A failing candidate is left out from then on.
    """
    timed = []
    for label, candidate in candidates.items():
        for transfers, call in candidate.calls.items() if label not in failed and candidate.right else []:
            series: dict[str, Any] = {
                "batch": batch, "threads": threads, "transfers": transfers, "blocks_ms": [], "states": []
            }  # fmt: skip
            candidate.results["series"].append(series)
            timed.append((label, candidate.run.time_calls, call, series))
    for label, time_calls, call, series in timed:
        if label not in failed:
            with noted(failed, label):
                progress(f"{candidates[label].title}timing batch {batch}, {threads} thread(s)")
                time_calls(call, options["warmup_s"], 1)
                series["states"].append(state(options["root"]))
    for turn in range(options["blocks"]):
        for label, time_calls, call, series in timed if turn % 2 == 0 else reversed(timed):
            if label in failed:
                continue
            with noted(failed, label):
                if len(timed) > 1:
                    time_calls(call, options["warmup_s"] / 10, 1)
                samples = time_calls(call, options["block_s"], -(-options["min_n"] // options["blocks"]))
                series["states"].append(state(options["root"]))  # at once, because clocks fall as soon as nothing runs
                series["blocks_ms"].append([round(ms, 5) for ms in samples.tolist()])


def pin(cpus: list[int]) -> None:
    have = os.sched_getaffinity(0)
    if not set(cpus) <= have:  # the kernel would silently ignore missing cores
        raise Failure(f"cores {cpus} cannot be used; have: {sorted(have)}")
    os.sched_setaffinity(0, cpus)


def predict(run: Any, model: Any, path: str, kind: str) -> list[Any]:
    """What is scored of every sample's first output, run a sample at a time.

    The file holds an array of samples by the name of each input. kind: what the output is, a word of `task.kind`.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        samples = {name: stored[name] for name in stored.files}
    count = len(next(iter(samples.values())))
    progress(f"running {count} samples")
    return [scored(model(run.rows_of(samples, slice(i, i + 1)))[0][0], kind) for i in range(count)]


def scored(output: Any, kind: str) -> Any:
    """The likeliest class; of labels and values the numbers; of a mask the class of each pixel, compressed, as base64."""
    import numpy as np

    if kind == "classify":
        return int(output.argmax())
    if kind == "segment":
        return base64.b64encode(zlib.compress(output.argmax(0).astype(np.uint8).tobytes())).decode()
    numbers = output.reshape(-1).astype(np.float64)
    if not np.isfinite(numbers).all():
        raise Failure("the model gives NaN or infinity for a sample")
    return numbers.tolist()


def sustain(run: Any, call: Callable[[], object], seconds: float, root: str) -> list[dict[str, Any]]:
    """Runs without a rest for `seconds`, and returns a window of figures every ten seconds, or sixty windows."""
    windows = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        left = seconds - (time.perf_counter() - start)
        samples = run.time_calls(call, min(max(10.0, seconds / 60), left), 1)
        now = state(root)
        window = {"at_s": time.perf_counter() - start, "n": len(samples), "p50_ms": sorted(samples)[len(samples) // 2]}
        window.update({key: now[key] for key in ("clocks_mhz", "temperatures_c", "throttle_counts")})
        windows.append(window)
        progress("{:.0f} s: p50 {:.4g} ms".format(window["at_s"], window["p50_ms"]))
    return windows


# --------------------------------------------------------------------------------------------------------------- energy


def rails(root: str) -> dict[str, tuple[str, str]]:
    """Rail -> (millivolt file, milliampere file) of the readable INA sensors."""
    sensors = {}
    for chip in found(root, "sys/class/hwmon/hwmon*"):
        if not read(root, chip + "/name").startswith("ina"):
            continue
        for path in found(root, chip + "/in*_label"):
            channel = re.sub(r"\D", "", os.path.basename(path))
            volts, amperes = f"{chip}/in{channel}_input", f"{chip}/curr{channel}_input"
            if number(root, volts) is not None and number(root, amperes) is not None:
                sensors[read(root, path).strip()] = (volts, amperes)
    return sensors


def power_mw(root: str, sensors: dict[str, tuple[str, str]]) -> dict[str, float]:
    return {
        rail: (number(root, volts) or 0.0) * (number(root, amperes) or 0.0) / 1e3
        for rail, (volts, amperes) in sensors.items()
    }


def sample_power(root: str, during: Callable[[], object], every_s: float = 0.05) -> dict[str, float]:
    """Mean milliwatts of each rail while `during` runs."""
    sensors, samples, over = rails(root), [], threading.Event()

    def sample() -> None:
        while not over.wait(every_s):
            samples.append(power_mw(root, sensors))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        during()
    finally:
        over.set()
        thread.join()
    return {rail: sum(s[rail] for s in samples) / len(samples) for rail in sensors} if samples else {}


def measure_energy(root: str, call: Callable[[], object], seconds: float) -> dict[str, Any] | None:
    """Power at rest and during inference, or None without sensors.

    Sampled apart from the latency, so that sampling does not slow the latter.
    """
    if not rails(root):
        return None
    idle = sample_power(root, lambda: time.sleep(min(seconds, 1.0)))
    done: list[None] = []

    def infer() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            call()
            done.append(None)

    start = time.perf_counter()
    busy = sample_power(root, infer)
    taken = time.perf_counter() - start
    if not idle or not busy:
        return None
    return {
        "idle_mw": idle,
        "busy_mw": busy,
        "inferences": len(done),
        "mj_per_inference": {rail: power * taken / len(done) for rail, power in busy.items()},
    }
