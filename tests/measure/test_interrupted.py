"""Killed at every change of the file system: what stands on the device is one whole version, and the same command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders.bundles import write

KILL_POINTS = Path(__file__).with_name("kill_points.py")


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("kills") / "base"
    root.mkdir()
    for name, labels in {"o": "xyz", "a": "rgb", "b": "uvw"}.items():
        made = root.parent / f"made-{name}"
        made.mkdir()
        write(made, labels=tuple(labels)).rename(root / name)
    reading, writing = os.pipe()
    try:
        command = [sys.executable, str(KILL_POINTS), str(root)]
        done = subprocess.run(command, stdin=reading, capture_output=True, text=True, timeout=300, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(kills: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    found = [kill for kill in kills if kill["title"] == title]
    assert len(found) > 8  # there is something to interrupt
    return found


@pytest.mark.parametrize(
    ("title", "old", "new"),
    [
        ("first ship", (None, None), ("a", None)),
        ("ship", ("a", "o"), ("b", "a")),
        ("ship the one before", ("a", "o"), ("o", "a")),
        ("ship over a damaged one", ("damaged", "o"), ("a", "o")),
        ("rollback", ("a", "o"), ("o", "a")),
    ],
)
def test_a_kill_leaves_the_old_version_or_the_new_one_with_the_one_before(
    kills: list[dict[str, Any]], title: str, old: tuple[str | None, str | None], new: tuple[str | None, str | None]
) -> None:
    found = of(kills, title)
    stood = [(kill["killed"]["now"], kill["killed"]["before"]) for kill in found]

    assert set(stood) == {old, new} and stood[0] == old and stood[-1] == new
    assert stood == sorted(stood, key=lambda pair: pair == new)  # switched once


@pytest.mark.parametrize("title", ["first ship", "ship", "ship the one before", "ship over a damaged one", "rollback"])
def test_the_same_command_again_finishes_the_work_and_leaves_nothing_behind(
    kills: list[dict[str, Any]], title: str
) -> None:
    found = of(kills, title)

    assert all(kill["repeated"] for kill in found)
    assert {(kill["after"]["now"], kill["after"]["before"]) for kill in found} == {
        (found[-1]["after"]["now"], found[-1]["after"]["before"])
    }
    repeated = [kill for kill in found if title != "rollback" or kill["killed"]["now"] == "a"]
    assert not [kill["after"] for kill in repeated if kill["after"]["drafts"] or kill["after"]["work"]]
