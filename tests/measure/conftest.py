"""`board`: a real sshd on a loopback port, with throwaway keys, that stands for a device; `bundle`: a tiny bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.boards import Board, name_device, need_sshd, start_sshd, stop
from tests.builders.bundles import write


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    need_sshd()
    board = start_sshd(tmp_path_factory.mktemp("sshd"))
    yield board
    stop(board)


@pytest.fixture
def board(server: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """The device `board` has a name in a registry of the test's own; its files go to `there` in the test's folder."""
    server.know()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    name_device(server, tmp_path)
    return server


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Three means over the pixels of an image, for onnxruntime."""
    (tmp_path / "made").mkdir()
    return write(tmp_path / "made")
