"""Runs verbs of device_runner.py that write, and kills each before its first, its second, ... change of the file system.

python kill_points.py FOLDER: of the bundles o, a and b that lie there, a was shipped to `place` after o. For each of five
commands and each point it prints a line of JSON: what stood at the place after the kill, and after the same command again.
Its standard input stays open: the runner takes its end for a lost connection.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy
import onnxruntime

from edgekd.scripts import run as run_module
from edgekd.scripts.device_runner import NAME, joined
from edgekd.scripts.device_runner.commands import answer
from edgekd.scripts.device_runner.shipping import current_version, version_before
from edgekd.scripts.device_runner.store import lasting, sha256

assert numpy and onnxruntime  # read once here and not after every fork
CHANGES = {"os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
RUN = Path(str(run_module.__file__))


def request(root: Path, bundle: str) -> dict[str, Any]:
    """As the host asks for a shipment (a name) or a rollback (no name)."""
    files = {path.name: sha256(str(path)) for path in (root / bundle).iterdir()} if bundle else {}
    tools = {"run.py": sha256(str(RUN)), NAME: hashlib.sha256(joined().encode()).hexdigest()}
    bundles = {"bundle": files} if bundle else {}
    about = {"verb": "ship" if bundle else "rollback", "to": str(root / "place"), "folder": str(root / "store")}
    return {
        **about,
        "id": "0",
        "bundles": bundles,
        "tools": tools,
        "runtime": "",
        "engine_options": [],
        "mark": "answer:",
    }


def fill(root: Path) -> None:
    """Every file that any of the commands needs lies in the store; the runner is one of a bundle's."""
    with lasting(str(root / "store")):
        for path in [RUN, *(f for name in "oab" for f in (root / name).iterdir())]:
            shutil.copyfile(path, root / "store/objects" / sha256(str(path)))


def forked(asked: dict[str, Any], kill_at: int | None = None) -> bool:
    """Do it in a process of its own; false: it was killed, before its change number `kill_at`."""
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the process ends with it)
        done = 0

        def hook(event: str, words: tuple[Any, ...]) -> None:
            nonlocal done
            writes = event == "open" and isinstance(words[1], str) and words[1][0] in "wxa"
            if event in CHANGES or writes:
                if done == kill_at:
                    os._exit(9)
                done += 1

        if kill_at is not None:
            sys.addaudithook(hook)
        os._exit(answer(asked))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def seen(root: Path) -> dict[str, Any]:
    """Which bundle stands at the place, which one a rollback would bring, and what was left behind."""
    place, versions = root / "place", root / ".place.edgekd"
    now = current_version(str(place))
    before = version_before(str(versions), now) if now else None
    drafts = [path.name for path in versions.glob("draft-*")] if versions.is_dir() else []
    return {"now": name_of(root, place) if now else None, "before": name_of(root, versions / before) if before else None,
            "drafts": drafts, "work": os.listdir(root / "store/work")}  # fmt: skip


def name_of(root: Path, folder: Path) -> str:
    """The bundle that a folder is to the byte; `damaged` where it is none."""
    for name in "oab":
        files = {path.name for path in (root / name).iterdir()}
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if held == files and all((folder / f).read_bytes() == (root / name / f).read_bytes() for f in files):
            return name
    return "damaged"


def main() -> None:
    base = Path(sys.argv[1])
    fill(base)
    scene = base.with_name("scene")
    for title, bundle, shipped in (
        ("first ship", "a", ""),
        ("ship", "b", "oa"),
        ("ship the one before", "o", "oa"),
        ("ship over a damaged one", "a", "oa"),
        ("rollback", "", "oa"),
    ):
        point, ended = 0, False
        while not ended:
            shutil.rmtree(scene, ignore_errors=True)
            shutil.copytree(base, scene, symlinks=True)
            for name in shipped:
                assert forked(request(scene, name)), f"{name} could not be shipped"
            if title == "ship over a damaged one":
                (scene / "place" / "labels.txt").write_text("changed\n")
            ended = forked(request(scene, bundle), kill_at=point)
            killed = seen(scene)
            again = title != "rollback" or killed["now"] == "a"
            repeated = forked(request(scene, bundle)) if again else True
            print(
                json.dumps(
                    {"title": title, "point": point, "killed": killed, "repeated": repeated, "after": seen(scene)}
                ),
                flush=True,
            )
            point += 1


if __name__ == "__main__":
    main()
