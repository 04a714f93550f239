"""Ssh: a device reached with the user's OpenSSH client and its configuration, which also governs host keys.

This module does not touch StrictHostKeyChecking or known_hosts. An unknown key is refused without a question (BatchMode),
and so is a changed key. A single connection is opened and reused (ControlMaster) until `close`.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import DeviceError
from edgekd.figures.candidate import Origin
from edgekd.measure.devices.process import OnLine, Result, TimedOut, last_line, run_process

CONNECT_TIMEOUT_S = 10
COPY_TIMEOUT_S = 1800
FAILED = 255  # ssh's own exit code
PROGRESS = "edgekd: "  # the prefix of the runner's lines of progress
REMEDIES = (  # a message of ssh -> its meaning and the remedy
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is another than known_hosts has: the device was set up anew, or somebody stands between. Make sure "
        "of it, then remove the old key (ssh-keygen -R) and connect once by hand",
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "its host key is not known yet: connect once by hand (`ssh {how}`) and compare the fingerprint that it shows",
    ),
    (
        r"Permission denied",
        "it does not let this user in without a password: install a key (`ssh-copy-id {how}`) or load it into the agent",
    ),
    (r"Can't open user config file", "the file that --ssh-config names cannot be read"),
    (r"Could not resolve hostname", "no machine of that name is found: check the name, or give an address"),
    (
        r"Connection (refused|timed out)|No route to host|Network is unreachable|Operation timed out",
        "it cannot be reached: is it switched on, in this network, and does sshd run there?",
    ),
)


class Ssh:
    """The device at `host` (user@name or an alias of the user's configuration).

    folder: the folder for files there, relative to the home; python: the interpreter there; config: a file in place of
    ~/.ssh/config (ssh -F).
    """

    origin: Origin = "device"

    def __init__(self, name: str, host: str, folder: str, python: str = "python3", config: str = "") -> None:
        if not re.fullmatch(r"[^\s\-'\"\\$`;&|<>()][^\s'\"\\$`;&|<>()]*", host):
            raise DeviceError(f"{host!r} is no host that ssh takes; write user@name, or an alias of ~/.ssh/config")
        folder = folder.removeprefix("~/")  # a session starts at home anyway
        if not re.fullmatch(r"[\w./][\w./-]*", folder):
            raise DeviceError(f"folder {folder!r} of {name}; letters, digits, and ._-/ are possible")
        self.name, self.host, self.folder, self.python, self._config = name, host, folder, python, config
        self._options = [*(["-F", config] if config else []), "-o", "BatchMode=yes"]
        self._options += ["-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
        # notices a dead link within a minute, also while the device is silent
        self._options += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        self._sockets: Path | None = None

    @property
    def address(self) -> str:
        return f"ssh {self.host}"

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: bytes = b"",
        hold: bool = False,
        timeout_s: float = 60,
        on_line: OnLine | None = None,
    ) -> Result:
        # the login shell at the other end splits the command again, so each word is quoted
        command = ["ssh", "-T", *self._connection(), "--", self.host, shlex.join(words)]
        try:
            result = run_process(command, stdin=stdin, hold=hold, timeout_s=timeout_s, on_line=on_line)
        except TimedOut as error:
            raise DeviceError(f"{self.name}: {error}; is the device busy, or the link down?") from None
        if result.code == FAILED:
            raise DeviceError(self._explain(result.err))
        return result

    def put(self, files: Mapping[str, Path]) -> None:
        """Copies files with scp, or through `cat` if the device has no sftp server."""
        if files and not self._copied(files):
            for path, source in files.items():
                self._pour(path, source)

    def close(self) -> None:
        """Ends the shared connection."""
        if self._sockets is not None:
            run_process(["ssh", *self._connection(), "-O", "exit", "--", self.host], timeout_s=10)
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None

    def _connection(self) -> list[str]:
        if self._sockets is None:
            # a socket's path is limited to about 100 characters, so a folder of the user may be too deep
            short = Path("/tmp")
            self._sockets = Path(tempfile.mkdtemp(prefix="edgekd-", dir=short if short.is_dir() else None))
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._sockets}/c", "-o", "ControlPersist=60"]
        return [*self._options, *shared]

    def _copied(self, files: Mapping[str, Path]) -> bool:
        with _named_as_there(files) as folders:
            for there, paths in folders.items():
                command = ["scp", "-q", *self._connection(), "--", *map(str, paths), f"{self.host}:{there}/"]
                if run_process(command, timeout_s=COPY_TIMEOUT_S).code != 0:
                    return False
        return True

    def _pour(self, path: str, source: Path) -> None:
        script = f"cat > {shlex.quote(path)}"
        result = self.run(["sh", "-c", script], stdin=source.read_bytes(), timeout_s=COPY_TIMEOUT_S)
        if result.code != 0:
            raise DeviceError(f"{self.name}: {path} cannot be written: {last_line(result.err)}")

    def _explain(self, stderr: str) -> str:
        for pattern, remedy in REMEDIES:
            if re.search(pattern, stderr):
                how = f"-F {shlex.quote(self._config)} {self.host}" if self._config else self.host
                return f"{self.name} ({self.host}): {remedy.format(how=how)}"
        own = "\n".join(line for line in stderr.splitlines() if not line.startswith(PROGRESS))
        return f"{self.name} ({self.host}): the connection was lost: {last_line(own)}; run the command again"


@contextmanager
def _named_as_there(files: Mapping[str, Path]) -> Iterator[dict[str, list[Path]]]:
    """Folder there -> local links with the names that the files get there."""
    with tempfile.TemporaryDirectory(prefix="edgekd-") as links:
        folders: dict[str, list[Path]] = {}
        for n, (path, source) in enumerate(files.items()):
            folder, _, name = path.rpartition("/")
            link = Path(links, str(n), name)
            link.parent.mkdir()
            link.symlink_to(source.resolve())
            folders.setdefault(folder, []).append(link)
        yield folders
