"""The store holds sent files by their hash. A task's folder is assembled from it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from edgekd.scripts.device_runner.start import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# ------------------------------------------------------------------------------------------------ files, by their hash

MARK = "made-by-edgekd"  # a file in the store
PARTS = ("objects", "incoming", "timing", "work")
STALE_S = 24 * 3600  # age of an abandoned upload


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def object_path(folder: str, key: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise Failure(f"{key!r} is no SHA-256")
    return os.path.join(folder, "objects", key)


def held(folder: str, key: str) -> bool:
    """Whether the store has these bytes. A damaged file is removed."""
    path = object_path(folder, key)
    if not os.path.isfile(path) or os.path.islink(path):
        return False
    if sha256(path) == key:
        return True
    os.remove(path)
    return False


def own(folder: str) -> None:
    """Makes sure that the store is ours before files are removed in it. Raise Failure for a folder of other files."""
    is_new = not os.path.isdir(folder)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    # Folders of tasks do not count.
    content = [name for name in os.listdir(folder) if not re.fullmatch(r"task-[0-9a-f]{16}", name)]
    if os.stat(folder).st_uid != os.geteuid() or (content and MARK not in content):
        raise Failure(
            f"{folder} holds other files and was not made by edgekd, which removes what it no longer needs in its folder: "
            "choose another one (edgekd device add --folder)"
        )
    links = [name for name in (*PARTS, "lock", MARK) if os.path.islink(os.path.join(folder, name))]
    if links:
        raise Failure("{} has links: {}; edgekd made none, remove them".format(folder, ", ".join(links)))
    if MARK not in content:
        with open(os.path.join(folder, MARK), "w", encoding="utf-8") as file:
            file.write("made" if is_new else "given")


@contextlib.contextmanager
def lasting(folder: str) -> Iterator[None]:
    """Creates the store's folders and removes leftovers of uploads and tasks older than a day."""
    own(folder)
    for name in PARTS:
        os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
    store = glob.escape(folder)
    for left in glob.glob(os.path.join(store, "incoming", "*")) + glob.glob(
        os.path.join(store, "task-" + 16 * "[0-9a-f]")
    ):
        with contextlib.suppress(OSError):
            if time.time() - os.stat(left).st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)
    yield


def open_upload(request: dict[str, Any]) -> dict[str, Any]:
    """Creates a folder for the files that follow."""
    os.makedirs(incoming(request), mode=0o700, exist_ok=True)
    return {}


def drop_upload(request: dict[str, Any]) -> dict[str, Any]:
    shutil.rmtree(incoming(request), ignore_errors=True)
    return {}


def incoming(request: dict[str, Any]) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,32}", request["id"]):
        raise Failure("{!r} is no upload".format(request["id"]))
    return os.path.join(request["folder"], "incoming", request["id"])


def admit(request: dict[str, Any]) -> None:
    """Takes the sent files into the store. Raise Failure if a file's bytes are not the announced ones."""
    folder = incoming(request)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path, target = os.path.join(folder, name), object_path(request["folder"], name)
        if os.path.islink(path) or sha256(path) != name:
            raise Failure("a file arrived with other bytes than were sent; run the command again")
        os.replace(path, target)
    shutil.rmtree(folder, ignore_errors=True)


def check_name(name: str) -> str:
    """The name of a bundle's file. Raise Failure for a path that leaves the bundle's folder."""
    if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise Failure(f"{name!r} leaves the bundle; it was not written by edgekd")
    return name


def assemble(folder: str, objects: str, files: dict[str, str]) -> None:
    """Copies a bundle's files from the store to `folder` and checks them there."""
    os.makedirs(folder, mode=0o755, exist_ok=True)
    for name, key in sorted(files.items()):
        path = os.path.join(folder, check_name(name))
        shutil.copyfile(object_path(objects, key), path)
        if sha256(path) != key:
            raise Failure(f"{name} has other bytes than were sent; run the command again")


@contextlib.contextmanager
def locked(path: str, doing: str) -> Iterator[None]:
    """Holds a lock: two measurements at once would disturb each other, and two shipments would overwrite."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise Failure(f"another edgekd is {doing} here; wait for it, or end it") from None
        yield


@contextlib.contextmanager
def work_folder(request: dict[str, Any]) -> Iterator[tuple[dict[str, str], str]]:
    """(label -> bundle, tools), assembled from the store and removed afterwards.

    Leftovers of interrupted runs are removed too.
    """
    store = request["folder"]
    with lasting(store), locked(os.path.join(store, "lock"), "measuring"):
        admit(request)
        for left in os.listdir(os.path.join(store, "work")):
            shutil.rmtree(os.path.join(store, "work", left), ignore_errors=True)
        work = tempfile.mkdtemp(dir=os.path.join(store, "work"))
        try:
            on_lost_connection(lambda: shutil.rmtree(work, ignore_errors=True))
            tools = os.path.join(work, "tools")
            assemble(tools, store, request["tools"])
            bundles = {label: os.path.join(work, "bundle-" + check_name(label)) for label in request["bundles"]}
            for label, bundle in bundles.items():
                assemble(bundle, store, request["bundles"][label])
            yield bundles, tools
        finally:
            shutil.rmtree(work, ignore_errors=True)


CHILDREN: list[subprocess.Popen[bytes]] = []  # these processes must not outlive this one


def on_lost_connection(clean: Callable[[], None]) -> None:
    """Ends this process and its children when the host is gone.

    The host holds our standard input open while it waits for the answer.
    """

    def end(*_: object) -> None:
        for process in CHILDREN:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        clean()
        os._exit(1)

    def wait() -> None:
        while os.read(0, 1):  # unbuffered, because a buffer's lock held by this thread would be fatal at exit
            pass
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=wait, daemon=True).start()
