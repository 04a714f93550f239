"""answer, main: the verbs that the host asks for, and the command for a person."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys

from edgekd.scripts.device_runner.facts import find_facts, own_s
from edgekd.scripts.device_runner.measuring import measure, measure_bundles, told
from edgekd.scripts.device_runner.model import check_files, load_tools, loading, read_manifest
from edgekd.scripts.device_runner.shipping import describe_place, forget, rollback, ship, verify
from edgekd.scripts.device_runner.start import Failure
from edgekd.scripts.device_runner.store import drop_upload, held, lasting, open_upload, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# --------------------------------------------------------------------------------------------------------- the command


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """The machine's facts, the host's files that are missing here, and the state of the place `to`.

    Nothing but the store's folder is touched.
    """
    facts = find_facts(request.get("root", "/"))
    folder = request.get("folder")
    if folder:
        with lasting(folder):
            facts["missing"] = [key for key in request.get("objects", []) if not held(folder, key)]
        facts["free_mb"] = shutil.disk_usage(folder).free / 2**20
    if request.get("to"):
        facts["to"] = describe_place(request["to"])
    return facts


VERBS = {
    "probe": probe, "open_upload": open_upload, "drop_upload": drop_upload, "measure": measure, "verify": verify,
    "ship": ship, "rollback": rollback, "forget": forget, "loading": loading,
}  # fmt: skip


def answer(request: dict[str, Any]) -> int:
    """Prints the reply as JSON after the host's mark, so that a login shell's output is not taken for it."""
    own = own_s()
    try:
        reply: dict[str, Any] = {
            "value": VERBS[request["verb"]](dict({"own_s": own, "root": "/", "python": sys.executable}, **request))
        }
    except (Failure, OSError) as failure:
        reply = told(failure)
    print("\n" + request["mark"] + json.dumps(reply), flush=True)
    return 0


def numbers(text: str) -> list[int]:
    """The numbers of a text: `0,4-7` -> [0, 4, 5, 6, 7]."""
    listed: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        numbered = range(int(low), int(high if dash else low) + 1)
        if not numbered:
            raise ValueError(part)  # argparse reports it
        listed += numbered
    return listed


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="the bundle's folder [this file's own]")
    parser.add_argument("--output", default="figures.json", help="where the figures are written")
    parser.add_argument("--runtime", choices=("onnxruntime", "tensorrt"), help="default: as the manifest says")
    parser.add_argument("--threads", type=numbers, default=[1])
    parser.add_argument("--batch", dest="batches", type=numbers, default=[1])
    parser.add_argument("--cpus", type=numbers, default=[], help="run on these cores only: 4-7")
    parser.add_argument("--warmup-s", type=float, default=1.0)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--block-s", type=float, default=1.0, help="least seconds of a block")
    parser.add_argument("--min-n", type=int, default=60, help="least samples of a series")
    parser.add_argument("--energy-s", type=float, default=3.0, help="seconds of the energy's own run, where readable")
    parser.add_argument("--sustained-s", type=float, default=0.0, help="go on without a rest for so long")
    parser.add_argument("--engine-option", dest="engine_options", action="append", default=[], metavar="WORD")
    parser.set_defaults(time=True, root="/", own_s=own_s(), python=sys.executable)
    given = parser.parse_args(words)
    if given.blocks < 3 or min([*given.threads, *given.batches, 1]) < 1:
        parser.error("--blocks starts at 3, --threads and --batch at 1")
    if given.sustained_s and len(given.threads) * len(given.batches) > 1:
        parser.error("--sustained-s goes with one number of threads and one batch size")
    return given


def summary(result: dict[str, Any], run: Any) -> Iterator[str]:
    """Lines for a person. The host judges whether the figures allow a verdict."""
    import numpy as np

    yield "{}: stored outputs {}".format(result["runtime"], result["golden"]["detail"])
    for series in result["series"]:
        figures = run.summarize([np.asarray(block) for block in series["blocks_ms"]])
        yield "batch {}, {} thread(s), transfers {}: p50 {:.4g} ms, p90 {:.4g} ms, n {}, {}".format(
            series["batch"], series["threads"], series["transfers"], figures["p50_ms"], figures["p90_ms"], figures["n"],
            "stable" if figures["stable"] else "UNSTABLE",
        )  # fmt: skip


def main(words: list[str]) -> int:
    if words[:1] == ["--request"]:
        return answer(json.loads(words[1]))
    given = parse(words)
    bundle = os.path.abspath(given.bundle or os.path.dirname(os.path.abspath(__file__)))
    try:
        check_files(bundle, read_manifest(bundle))
        (result,) = measure_bundles({"": bundle}, bundle, bundle, vars(given)).values()
        if "failure" in result:
            raise Failure(result["failure"])
        result["model_sha256"] = sha256(os.path.join(bundle, "model.onnx"))
        with open(given.output, "w", encoding="utf-8") as file:
            json.dump(result, file)
        for line in summary(result, load_tools(bundle, bundle)):
            print(line)
        print(f"wrote {given.output}")
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    return 0 if result["golden"]["ok"] else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
