"""Board: a real sshd on a loopback port, with throwaway keys, that stands for a device."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(p)), None)


@dataclass
class Board:
    """The server, and the client's configuration that reaches it as `board`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def know(self, key: str = "host_key") -> None:
        """Write a host key into the client's known_hosts."""
        kind, public = (self.folder / f"{key}.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {public}\n")

    def sessions(self) -> list[int]:
        """Process ids of the server's children: one a connection."""
        return children_of(self.process.pid)

    def cut(self) -> None:
        """End every connection as a cable that is pulled would: the server's processes, by their ids."""
        for session in self.sessions():
            for process in (*children_of(session), session):
                with suppress(OSError):  # a process that ends by itself meanwhile has no files and takes no signal
                    if Path(f"/proc/{process}/comm").read_text().startswith("sshd"):
                        os.kill(process, signal.SIGKILL)


def children_of(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found


def start_sshd(folder: Path, *, sftp: bool = True) -> Board:
    for key in ("host_key", "other_key", "user_key"):
        if not (folder / key).exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(command, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nPasswordAuthentication no\nPermitRootLogin yes\nUseDNS no\n"
        + ("Subsystem sftp internal-sftp\n" if sftp else "")
    )
    (folder / "ssh_config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n  IdentityFile {folder}/user_key\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd gives up its privileges; Debian's unit makes it
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen(
        [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stderr=log
    )
    log.close()
    wait_for(port, process, folder / "sshd.log")
    board = Board(folder, port, process)
    board.know()
    return board


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        assert process.poll() is None, log.read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"sshd does not listen: {log.read_text()}")


def stop(board: Board) -> None:
    try:
        board.cut()
    finally:
        board.process.terminate()
        board.process.wait()


def need_sshd() -> None:
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no sshd on this machine: apt-get install openssh-server (or another system's own)")


def name_device(board: Board, tmp_path: Path, name: str = "board", **settings: str) -> None:
    from edgekd.measure.devices.named import write_device

    own = {"ssh": "board", "config": str(board.config), "python": sys.executable, "folder": str(tmp_path / "there")}
    write_device(name, {**own, **settings})
