"""verify, ship, rollback: prove a version, switch to it in one step, prove it again, and keep the version before."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile

from edgekd.scripts.device_runner.facts import read, version_of
from edgekd.scripts.device_runner.model import (
    LIBC,
    build_engine,
    check_files,
    foreign_files,
    load_model,
    load_tools,
    read_manifest,
)
from edgekd.scripts.device_runner.start import Differs, Failure, progress
from edgekd.scripts.device_runner.store import MARK, PARTS, locked, own, work_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# ------------------------------------------------------------------------------------------------------------ shipping

VERSION = re.compile(r"([0-9a-f]{16})(-[\w.]+)?")  # the bundle's identity, and the TensorRT of its engine


def describe_place(to: str) -> dict[str, Any]:
    """The state of the place for a bundle: its current version, other content, free room and permission."""
    to = place_of(to)
    parent = os.path.dirname(to)
    while not os.path.isdir(parent) and parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
    return {
        "writable": os.access(parent, os.W_OK | os.X_OK),
        "free_mb": shutil.disk_usage(parent).free / 2**20,
        "foreign": os.path.lexists(to) and current_version(to) is None,
        "version": current_version(to),
    }


def place_of(to: str) -> str:
    to = os.path.expanduser(to)
    if to.startswith("~"):
        raise Failure(f"{to}: there is no such user here")
    to = os.path.abspath(to)
    if os.path.dirname(to) == to:
        raise Failure(f"{to} cannot be a bundle's place; give a folder in it")
    if re.search(r"/\.[^/]+\.edgekd(/|$)", os.path.realpath(os.path.dirname(to))):
        raise Failure(f"{to} lies inside of what edgekd shipped; give a place beside it")
    return to


def versions_of(to: str) -> str:
    """The hidden folder beside the place, which holds its versions."""
    return os.path.join(os.path.dirname(to), "." + os.path.basename(to) + ".edgekd")


@contextlib.contextmanager
def shipping(to: str) -> Iterator[str]:
    """Locks and gives the folder of a place's versions. Leftovers of interrupted shipments are removed."""
    versions = versions_of(to)
    os.makedirs(versions, exist_ok=True)
    if os.path.islink(versions) or os.stat(versions).st_uid != os.geteuid():
        raise Failure(f"{versions} is a link or another user's; ship as that user, or to another place")
    with locked(os.path.join(versions, "lock"), "shipping"):
        for left in glob.glob(os.path.join(glob.escape(versions), "draft-*")):
            remove(left)
        yield versions


def remove(path: str) -> None:
    """Removes a folder, a file or a link, if it exists."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def current_version(to: str) -> str | None:
    """The version that our link at a place names, or None without such a link."""
    try:
        folder, version = os.path.split(os.readlink(to))
    except OSError:
        return None
    return version if folder == os.path.basename(versions_of(to)) and VERSION.fullmatch(version) else None


def version_before(versions: str, version: str) -> str | None:
    """The version that was current before this version, or None if its folder is gone.

    A note beside each version names it. The note is written before the place is switched, so a single rename switches both.
    """
    name = read(versions, version + ".before").strip()
    return name if VERSION.fullmatch(name) and name != version and os.path.isdir(os.path.join(versions, name)) else None


def point(to: str, versions: str, version: str) -> None:
    """Switches a place to a version in one step. The present version is noted as the version before."""
    now = current_version(to)
    if now not in (None, version):
        note = os.path.join(versions, "draft-before")
        with open(note, "w", encoding="utf-8") as file:
            file.write(str(now))
            file.flush()
            os.fsync(file.fileno())
        os.replace(note, os.path.join(versions, version + ".before"))
    turn(to, versions, version)


def turn(to: str, versions: str, version: str) -> None:
    draft = os.path.join(versions, "draft-link")
    remove(draft)
    os.symlink(os.path.join(os.path.basename(versions), version), draft)
    sync_folder(versions)
    os.replace(draft, to)
    sync_folder(os.path.dirname(to))


def sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: str) -> None:
    for name in os.listdir(folder):
        handle = os.open(os.path.join(folder, name), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)


def prove(folder: str, tools: str, runtime: str) -> dict[str, Any]:
    """Computes a bundle's stored outputs in the shipped runtime. Raises Differs if the outputs differ."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    run = load_tools(folder, tools)
    model = load_model(run, folder, runtime, 1)
    ok, detail = run.verify_outputs(model, manifest)
    if not ok:
        raise Differs(f"the stored outputs are not what this device computes: {detail}")
    return {"detail": detail, "runtime": model.name}


def verify(request: dict[str, Any]) -> dict[str, Any]:
    """Checks a bundle's files, and that this device computes the stored outputs."""
    with work_folder(request) as (bundles, tools):
        (bundle,) = bundles.values()
        runtime = request["runtime"] or read_manifest(bundle)["runtime"]
        if runtime == "tensorrt":
            progress("building the engine")
            build_engine(bundle, tools, os.path.join(request["folder"], "timing"), 1, request)
        return prove(bundle, tools, runtime)


def ship(request: dict[str, Any]) -> dict[str, Any]:
    """Writes and proves a version beside the place, switches to it by a rename, and proves it again.

    The version before is kept.
    """
    to = place_of(request["to"])
    if os.path.lexists(to) and current_version(to) is None:
        raise Failure(f"{to} exists and was not shipped by edgekd; give another place or remove it")
    with shipping(to) as versions, work_folder(request) as (bundles, tools):
        (bundle,) = bundles.values()
        runtime = request["runtime"] or read_manifest(bundle)["runtime"]
        version = identity(bundle)
        if runtime == "tensorrt":  # an engine belongs to a release: after an update the same bundle is another version
            version += "-{}".format(version_of("tensorrt"))
        now, final = current_version(to), os.path.join(versions, version)
        damaged = damage(final, version, tools, runtime) if os.path.lexists(final) else ""
        if damaged or not os.path.lexists(final):
            try:
                settle(bundle, tools, versions, version, runtime, request)
            except Failure as failure:
                stands = "" if now is None else f"\n{to}: version {now} stands there, as before"
                raise type(failure)(f"{failure}{stands}") from None
        point(to, versions, version)
        try:
            check_version(to, version)
            proof = prove(to, tools, runtime)
        except BaseException as failure:
            stands = undo(to, versions, now)
            kind = Differs if isinstance(failure, Differs) else Failure
            raise kind(f"{str(failure) or repr(failure)}\n{stands}") from None
        prune(versions, version)
        before = version_before(versions, version)
        lost = damaged_before(versions, before)
    same = now == version and not damaged
    return {
        "version": version,
        "before": before,
        "unchanged": same,
        "repaired": damaged,
        "lost": lost,
        "to": to,
        **proof,
    }


def damaged_before(versions: str, before: str | None) -> str:
    """The reason why the kept version before cannot be rolled back to. Empty without a fault."""
    try:
        if before is not None:
            check_version(os.path.join(versions, before), before)
    except (Failure, OSError) as failure:
        return str(failure)
    return ""


def undo(to: str, versions: str, before: str | None) -> str:
    """Switches a place back to the version before, and returns a sentence about it."""
    if before is None:
        os.remove(to)
        return f"{to}: nothing stands there, as before"
    turn(to, versions, before)
    return f"{to}: version {before} stands again"


def damage(folder: str, version: str, tools: str, runtime: str) -> str:
    """The fault of a stored version. Empty if its files are unchanged and it computes the stored outputs.

    Raise Failure if other users' files lie in its folder, because a repair would delete them.
    """
    foreign = foreign_files(folder)
    if foreign:
        raise Failure(
            "{} holds files that edgekd did not put there: {}; move them away".format(folder, ", ".join(foreign))
        )
    try:
        check_version(folder, version)
        prove(folder, tools, runtime)
    except Exception as failure:  # a truncated plan makes the runtime raise its own errors
        return str(failure) or repr(failure)
    return ""


def check_version(folder: str, version: str) -> None:
    """Raise Differs if a folder does not hold this version.

    A file that was changed together with its hash in the manifest is detected too.
    """
    manifest = read_manifest(folder)
    if version[:16] != identity(folder):
        raise Differs("the bundle is not as it was written: manifest.json was changed")
    check_files(folder, manifest)


def identity(bundle: str) -> str:
    """The name of a version: a hash of its manifest without what tells of it, which changes with every measurement."""
    manifest = read_manifest(bundle)
    telling = ("report.", "README.", "build.log")
    files = {name: key for name, key in manifest["files"].items() if not name.startswith(telling)}
    about = {key: value for key, value in manifest.items() if key != "figures"}
    return hashlib.sha256(json.dumps({**about, "files": files}, sort_keys=True).encode()).hexdigest()[:16]


def settle(bundle: str, tools: str, versions: str, version: str, runtime: str, request: dict[str, Any]) -> None:
    """Creates the version's folder, complete and proved, or leaves none. A damaged folder is replaced."""
    final = os.path.join(versions, version)
    draft = tempfile.mkdtemp(prefix="draft-", dir=versions)
    try:
        os.chmod(draft, 0o755)
        for name in os.listdir(bundle):
            shutil.copyfile(os.path.join(bundle, name), os.path.join(draft, name))
        if runtime == "tensorrt":
            progress("building the engine")
            build_engine(draft, tools, os.path.join(request["folder"], "timing"), 1, request)
        prove(draft, tools, runtime)
        sync_files(draft)
        if os.path.lexists(final):
            swap(draft, final)
        else:
            os.rename(draft, final)
        sync_folder(versions)
    finally:
        remove(draft)


def swap(draft: str, final: str) -> None:
    """Exchanges two folders in one step (Linux, renameat2). On other systems `final` is absent for an instant."""
    at_cwd, rename_exchange = -100, 2
    renameat2 = getattr(LIBC, "renameat2", None)  # glibc 2.28
    if renameat2 and renameat2(at_cwd, os.fsencode(draft), at_cwd, os.fsencode(final), rename_exchange) == 0:
        return
    old = os.path.join(os.path.dirname(final), "draft-old")
    os.rename(final, old)
    os.rename(draft, final)
    remove(old)


def prune(versions: str, version: str) -> None:
    """Removes all versions except the current one and the one before."""
    keep = {version, version_before(versions, version)}
    for name in os.listdir(versions):
        if VERSION.fullmatch(name.replace(".before", "")) and name.replace(".before", "") not in keep:
            remove(os.path.join(versions, name))


def rollback(request: dict[str, Any]) -> dict[str, Any]:
    """Proves the stored outputs of the version before and switches to it. A second rollback returns to the newer version."""
    to = place_of(request["to"])
    if current_version(to) is None:
        raise Failure(f"nothing was shipped to {to}")
    with shipping(to) as versions, work_folder(request) as (_, tools):
        now = str(current_version(to))
        before = version_before(versions, now)
        if before is None:
            raise Failure(f"{to} has no version before {now}")
        folder = os.path.join(versions, before)
        lost = damaged_before(versions, before)
        if lost:
            raise Differs(f"{to}: version {before} in {folder} cannot be put back: {lost}; ship what shall stand there")
        # A version with an engine has TensorRT's release in its name. Others were shipped for onnxruntime.
        proof = prove(folder, tools, request["runtime"] or ("tensorrt" if "-" in before else "onnxruntime"))
        point(to, versions, before)
    return {"version": before, "before": now, "to": to, **proof}


def forget(request: dict[str, Any]) -> dict[str, Any]:
    """Removes the store's files, and its folder if it was created for the store. Shipped bundles stay."""
    folder = os.path.realpath(request["folder"])
    if os.path.isdir(folder):
        own(folder)
        with locked(os.path.join(folder, "lock"), "measuring"):
            made = read(folder, MARK) == "made"
            for path in [
                *glob.glob(os.path.join(glob.escape(folder), "task-" + 16 * "[0-9a-f]")),
                *(os.path.join(folder, n) for n in PARTS),
            ]:
                remove(path)
            for name in ("lock", MARK):
                remove(os.path.join(folder, name))
        if made:
            with contextlib.suppress(OSError):  # other files lie in it
                os.rmdir(folder)
    return {}
