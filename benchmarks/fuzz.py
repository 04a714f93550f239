"""Damaged inputs for everything that edgekd reads from others: python benchmarks/fuzz.py PARSER... --n N --start SEED

A fault is a crash, a traceback, an input that takes more than 20 s or 4 GB, or an error that is no line. Each is printed with its
parser and seed: `--n 1 --start SEED` shows it again. Exit code 3 where there is one. Parsers: see fuzz_parsers.py.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LONGEST_S = 20
MOST_BYTES = 4 << 30  # beyond what the libraries take themselves


class TooLong(BaseException):
    """Beside all that a reader may catch."""


def fault(parser: str, seed: int) -> str:
    """What is wrong with one input; empty where it is read, or refused in a line."""
    from benchmarks.fuzz_parsers import PARSERS

    def end(*_: object) -> None:
        raise TooLong(f"more than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    try:
        with tempfile.TemporaryDirectory(prefix="edgekd-fuzz-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            PARSERS[parser](random.Random(f"{parser} {seed}"), Path(folder))
    except (Exception, TooLong, SystemExit) as error:
        lines = traceback.format_exception(error)
        return f"{type(error).__name__}: {str(error)[:300]}\n{''.join(lines)[-3000:]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ""


def work(parser: str, start: int, n: int) -> None:
    """In a process of its own: each seed is printed before its input is read."""
    import benchmarks.fuzz_parsers  # noqa: F401  # so that its own memory is not counted

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
    for seed in range(start, start + n):
        print(f"seed {seed}", flush=True)
        found = fault(parser, seed)
        if found:
            print("fault " + repr(found), flush=True)


def faults(parser: str, start: int, n: int) -> Iterator[tuple[int, str]]:
    """(seed, what happened); a process that ends is one, and the next goes on behind its seed."""
    end = start + n
    while start < end:
        words = [sys.executable, __file__, parser, "--n", str(end - start), "--start", str(start), "--worker"]
        last = start - 1
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        ) as worker:
            for line in worker.stdout or ():
                kind, _, rest = line.partition(" ")
                if kind == "seed":
                    last = int(rest)
                elif kind == "fault":
                    yield last, line[len("fault ") :].strip()
            code = worker.wait()
        if code == 0:
            return
        yield last, f"the process ended with {code}"
        start = max(last, start) + 1


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("parsers", nargs="*", metavar="PARSER")
    given.add_argument("--n", type=int, default=1000)
    given.add_argument("--start", type=int, default=0)
    given.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = given.parse_args()
    if options.worker:
        work(options.parsers[0], options.start, options.n)
        return 0
    from benchmarks.fuzz_parsers import PARSERS

    total = 0
    for parser in options.parsers or PARSERS:
        began, count = time.perf_counter(), 0
        for seed, what in faults(parser, options.start, options.n):
            count += 1
            print(f"{parser} {seed}: {what}", flush=True)
        seconds = time.perf_counter() - began
        print(f"{parser}: {options.n} inputs from {options.start}, {count} faults, {seconds:.0f} s", flush=True)
        total += count
    return 3 if total else 0


if __name__ == "__main__":
    sys.exit(main())
