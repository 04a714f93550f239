#!/usr/bin/env python3
"""Measures a bundle on the machine that it lies on, and says under which conditions; needs nothing of edgekd.

    python3 device_runner.py bundle/                        hashes, stored outputs, latency; writes figures.json
    python3 device_runner.py bundle/ --threads 1,4 --batch 1,8 --cpus 4-7
    python3 device_runner.py bundle/ --sustained-s 1800
    edgekd measure bundle/ --figures figures.json           on the host: into the bundle's report

Needs Python 3.8+, numpy and onnxruntime, or tensorrt and the CUDA runtime (through ctypes, as run.py does).
`edgekd measure`, `verify --device` and `ship` send this file through the connection and ask it with --request.
What runs the model is run.py, what builds an engine is build_engine.py: of the bundle here, of the host's edgekd there.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # this folder holds the sent files and nothing else
    if "__file__" in globals() and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]  # this folder: a json.py or a numpy beside this file must not be imported


# ------------------------------------------------------------------------------------- what every part raises and says

FORMAT = 1


class Failure(Exception):
    """A failure as a message: the fault and the remedy; sent to the host, or printed without a traceback."""


class Differs(Failure):
    """The bundle's files, or the outputs computed here, differ from the stored ones."""


def progress(text: str) -> None:
    print("edgekd: " + text, file=sys.stderr, flush=True)
