"""The lines of a build are kept for its log, without the user's folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekd.base.console import log_text, recorded, say, time_left


def test_a_log_has_each_line_with_its_time_and_ends_with_the_block() -> None:
    with recorded():
        say("one")
        with recorded():
            say("inner")
            assert log_text().endswith(" inner\n") and "one" not in log_text()
        say("two")
        assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (one|inner|two)\n){3}", log_text())
    assert log_text() == ""


def test_the_root_is_no_folder_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir("/")
    with recorded():
        say("built in /opt/build")
        assert log_text().endswith(" built in /opt/build\n")


def test_a_log_holds_no_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with recorded():
        say(f"stages kept in {tmp_path / 'me' / '.cache'}, built in {tmp_path / 'work' / 'build'}")
        assert log_text().endswith("stages kept in ~/.cache, built in ./build\n")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, ""),
        (89.0, ""),
        (90.0, ", about 2 min left"),
        (1500.0, ", about 25 min left"),
        (9000.0, ", about 2.5 h left"),
    ],
)
def test_the_time_left_is_told_of_long_stages(seconds: float, told: str) -> None:
    assert time_left(seconds) == told
