"""One build, killed 100 times at random, ends with what an undisturbed one gives: every stored file, every file of the bundle.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--json FILE]

Each try is a process of its own that is ended by SIGKILL: at a random moment, before a random change that a stage makes to the
cache's files, or before a random change that the bundle makes to the output's. What is counted is what the process was
at: writing a stage, writing the bundle, or neither. Latency blocks are milliseconds long: figures of time are not compared.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd.api import build_bundle
from edgekd.base.contents import hash_file
from edgekd.cache.stage import read_stamp
from edgekd.measure.protocol import Timing
from edgekd.pipeline import build  # what a try would import, imported once

assert build
SETTINGS = (
    "teacher.args.width=8", "teacher.train_epochs=2", "student.args.width=16", "distill.epochs=3", "distill.views=1",
    "quantize.mode=qat", "quantize.epochs=1", "budget.max_drop_from_fp32=100",
)  # fmt: skip
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "shutil.copyfile"}
PHASES = {"moment": 0.25, "stage": 0.4, "bundle": 0.35}  # share of the kills; those of the bundle come last
OF_TIME = {
    "created", "seconds", "latency", "teacher_latency", "peak_memory_mb", "reused", "order_ms", "value", "interval", "stable", "n",
    "samples_per_s", "low_ms", "high_ms", "p50_ms", "p90_ms", "p99_ms",
}  # fmt: skip
IMPORTED = {
    "edgekd",
    "torch",
    "torchao",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "sklearn",
    "scipy",
    "jinja2",
    "rich",
    "accelerate",
}
UNSTABLE = '<br><span class="pill unstable">unstable</span>'  # a word on a latency
REPORTS = {"report.json", "report.html", "README.txt"}


class Changes:
    """Counts what a process is about to change in the cache and in the output; kills it before the change `at`."""

    def __init__(self, place: Path, log: Path, phase: str = "", at: int = -1) -> None:
        # of a stage's writing its own draft: what every try writes of the cache itself would take most kills
        self.areas = {"stage": str(place / "cache" / ".draft-"), "bundle": str(place / "build")}
        self.log, self.phase, self.at = log, phase, at
        self.area = ""
        self.counts: Counter[str] = Counter()

    def __call__(self, event: str, words: tuple[Any, ...]) -> None:
        is_write = event == "open" and (
            any(letter in words[1] for letter in "wxa+")
            if isinstance(words[1], str)
            else bool(words[2] & (os.O_WRONLY | os.O_RDWR))
        )
        if not (is_write or event in CHANGES):
            return
        path = os.fsdecode(words[0]) if isinstance(words[0], str | bytes | os.PathLike) else ""
        if path.startswith("/"):  # else a name in the folder that is being removed
            self.area = next((name for name, area in self.areas.items() if path.startswith(area)), "")
        self.counts[self.area] += 1
        if self.area == self.phase and self.counts[self.area] == self.at:
            os.write(2, f"killed before {event} {path}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def tried(
    place: Path, log: Path, phase: str = "", at: int = -1, moment: float | None = None
) -> tuple[int, Counter[str]]:
    """One try in a process of its own: how it ended, and the changes that a whole one made.

    What a whole one imported is imported here: the next need not.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(told, 1), os.dup2(told, 2)
            changes = Changes(place, log, phase, at)
            sys.addaudithook(changes)
            build_bundle(
                None, "jetson", SETTINGS, place / "build", place / "cache", recheck=True, ask=lambda question: False,
                timing=Timing(warmup_s=0.02, min_block_s=0.02),
            )  # fmt: skip
            with os.fdopen(writer, "w") as telling:
                telling.write(json.dumps([changes.counts, list(sys.modules)]) + "\n")
            code = 0
        except BaseException as error:
            os.write(2, f"Traceback {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    os.close(writer)
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    counts, modules = json.loads(told) if told.endswith("\n") else ({}, [])  # killed while it told them
    for name in modules:
        if name.partition(".")[0] in IMPORTED:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), Counter(counts)


def doing(place: Path) -> str:
    """What a try was at when it was killed: a draft of a stage stands, or one of the bundle, or neither."""
    if any((place / "build").glob("*/.*.draft-*")):
        return "bundle"
    drafts = {draft.name for draft in (place / "cache").glob(".draft-*")}
    return f"stage {min(drafts)[7:].rpartition('-')[0]}" if drafts else "between"


def killed(place: Path, kills: int, seed: int, whole: Counter[str], log: Path) -> dict[str, Any]:
    """The kills and the last, whole try; what was killed where."""
    draw = random.Random(seed)
    phases = [name for name in ("moment", "stage") for _ in range(round(PHASES[name] * kills))]
    draw.shuffle(phases)
    phases += ["bundle"] * (kills - len(phases))
    counted: Counter[str] = Counter()
    wrong, done, tries = [], 0, 0
    while done < kills:
        phase, tries = phases[done], tries + 1
        if phase == "moment":
            code, _ = tried(place, log, moment=draw.uniform(0.1, 5.0))
        else:
            # a stage's changes are few in a try, so that the build lasts through its kills
            most = (
                whole["bundle"]
                if phase == "bundle"
                else max(2, 2 * whole["stage"] // sum(p == "stage" for p in phases) + 2)
            )
            code, _ = tried(place, log, phase, draw.randint(1, most))
        if code == -signal.SIGKILL:
            done += 1
            counted[f"{phase}: {doing(place)}"] += 1
        elif code != 0:
            wrong.append(f"try {tries} ended with {code}")
            done += 1
        elif phase != "bundle":  # every stage is made: the rest falls on the bundle
            phases[done] = "bundle"
    code, _ = tried(place, log)
    wrong += [f"the last try ended with {code}"] if code else []
    return {"kills": sum(counted.values()), "tries": tries + 1, "at": dict(sorted(counted.items())), "wrong": wrong}


def artifacts(place: Path) -> dict[str, str]:
    """The hash of every stored file by its stage; whatever else lies in the cache or the output is listed too."""
    found = {}
    for folder in sorted((place / "cache").iterdir()):
        stamp = read_stamp(folder)
        for file in sorted(folder.rglob("*")) if stamp is not None else ():
            if file.name != "artifact.json":
                found[f"{folder.name}/{file.relative_to(folder)}"] = content_of(file) if file.is_file() else "folder"
        if stamp is None and folder.name not in (".locks", "hashes.json"):
            found[f"stray {folder.name}"] = ""
    strays = [path.name for path in (place / "build").glob("*/.*")]
    return found | {f"stray {name}": "" for name in strays}


def content_of(file: Path) -> str:
    """The hash of a file; of the curves of a training what they say without their speed."""
    if file.name != "metrics.jsonl":
        return hash_file(file)
    return json.dumps([timeless(json.loads(line)) for line in file.read_text().splitlines()])


def timeless(value: Any, key: str = "") -> Any:
    """Without figures of time; numbers in sentences are masked, as latencies stand among them."""
    if isinstance(value, dict):
        return {name: timeless(item, name) for name, item in value.items() if name not in OF_TIME | REPORTS}
    if isinstance(value, list):
        return [timeless(item) for item in value]
    return masked(value) if isinstance(value, str) and key not in ("key", "fingerprint") else value


def masked(text: str) -> str:
    text = re.sub(r"\d[\d.,:e+-]*", "#", text)
    return re.sub(r"# (s|min|h)\b", "# s", text).replace(">ran<", "><").replace(">reused<", "><").replace(UNSTABLE, "")


def bundle(place: Path) -> Iterator[tuple[str, Any]]:
    """Every file of the bundle: its bytes, or what it says without figures of time."""
    (folder,) = (place / "build").glob("*/jetson*")
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".json":
            yield file.name, timeless(json.loads(file.read_text()))
        elif file.name in REPORTS:
            yield file.name, masked(file.read_text())
        else:
            yield file.name, hash_file(file)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="edgekd-kills-"))
    os.chdir(base)
    log = base / "log"
    started = time.time()
    code, whole = tried(base / "whole", log)
    if code:
        sys.exit(f"the undisturbed build ended with {code}: {log.read_text()[-2000:]}")
    result = killed(base / "killed", asked.kills, asked.seed, whole, log)
    tracebacks = log.read_text(errors="replace").count("Traceback")
    stored = differences(artifacts(base / "whole"), artifacts(base / "killed"))
    shipped = differences(dict(bundle(base / "whole")), dict(bundle(base / "killed")))
    result |= {
        "seed": asked.seed, "changes_of_a_whole_build": dict(whole), "files_stored": len(artifacts(base / "whole")),
        "stored_that_differ": stored, "files_in_bundle": len(dict(bundle(base / "whole"))), "bundle_files_that_differ": shipped,
        "tracebacks": tracebacks, "seconds": round(time.time() - started),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if asked.json is not None:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")
    if stored or shipped or tracebacks or result["wrong"]:
        sys.exit(f"differences; see {base}")
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
