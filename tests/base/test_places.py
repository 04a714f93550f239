"""The user's own folders: a home that cannot be told is a line, not a traceback."""

import pwd
import sys
from pathlib import Path

import pytest

from edgekd.base.places import expanded, user_folder
from edgekd.cli import main
from edgekd.errors import EdgekdError


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an entry, as in a container that was started with `--user 1234`."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "EDGEKD_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_the_home_of_a_user_that_does_not_exist_stays_as_it_is_written() -> None:
    assert expanded("~no-such-user/a.toml") == Path("~no-such-user/a.toml")
    assert expanded("~/a.toml") == Path.home() / "a.toml"


def test_a_variable_names_the_folder_before_the_home_does(monkeypatch: pytest.MonkeyPatch, homeless: None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/kept")
    assert user_folder("XDG_CACHE_HOME", ".cache") == Path("/kept")


def test_without_a_home_the_variables_are_named(homeless: None) -> None:
    with pytest.raises(EdgekdError, match="HOME or XDG_CACHE_HOME"):
        user_folder("XDG_CACHE_HOME", ".cache")


@pytest.mark.parametrize("words", [["cache"], ["device", "list"]])
def test_a_command_says_so_in_a_line(
    words: list[str], homeless: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgekd", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") <= 2
