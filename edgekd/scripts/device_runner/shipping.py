"""verify, ship, rollback: a version is proved, switched to in one step, proved again; the one before is kept."""

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

VERSION = re.compile(r"([0-9a-f]{16})(-[\w.]+)?")  # what the bundle is (identity), and the TensorRT of its engine


def describe_place(to: str) -> dict[str, Any]:
    """What stands where a bundle is to be shipped, and whether there is room and permission."""
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
    """The hidden folder beside the place where its versions lie."""
    return os.path.join(os.path.dirname(to), "." + os.path.basename(to) + ".edgekd")


@contextlib.contextmanager
def shipping(to: str) -> Iterator[str]:
    """The folder of a place's versions, for one at a time; what an interrupted shipment left there is removed."""
    versions = versions_of(to)
    os.makedirs(versions, exist_ok=True)
    if os.path.islink(versions) or os.stat(versions).st_uid != os.geteuid():
        raise Failure(f"{versions} is a link or another user's; ship as that user, or to another place")
    with locked(os.path.join(versions, "lock"), "shipping"):
        for left in glob.glob(os.path.join(glob.escape(versions), "draft-*")):
            remove(left)
        yield versions


def remove(path: str) -> None:
    """A folder, a file or a link; what is gone already, is."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def current_version(to: str) -> str | None:
    """The version that stands at a place: what a link of ours names; None where there is none."""
    try:
        folder, version = os.path.split(os.readlink(to))
    except OSError:
        return None
    return version if folder == os.path.basename(versions_of(to)) and VERSION.fullmatch(version) else None


def version_before(versions: str, version: str) -> str | None:
    """The version that stood there before this one did; None where it is gone.

    It is written down beside each version before the place is turned to it, so one rename switches both.
    """
    name = read(versions, version + ".before").strip()
    return name if VERSION.fullmatch(name) and name != version and os.path.isdir(os.path.join(versions, name)) else None


def point(to: str, versions: str, version: str) -> None:
    """Turn a place to a version in one step, with the one that stands there now noted as the one before."""
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
    """The stored outputs of a bundle in the runtime that ships; raises Differs where they are others."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    run = load_tools(folder, tools)
    model = load_model(run, folder, runtime, 1)
    ok, detail = run.verify_outputs(model, manifest)
    if not ok:
        raise Differs(f"the stored outputs are not what this device computes: {detail}")
    return {"detail": detail, "runtime": model.name}


def verify(request: dict[str, Any]) -> dict[str, Any]:
    """Are these the files, and does this device compute the same?"""
    with work_folder(request) as (bundles, tools):
        (bundle,) = bundles.values()
        runtime = request["runtime"] or read_manifest(bundle)["runtime"]
        if runtime == "tensorrt":
            progress("building the engine")
            build_engine(bundle, tools, os.path.join(request["folder"], "timing"), 1, request)
        return prove(bundle, tools, runtime)


def ship(request: dict[str, Any]) -> dict[str, Any]:
    """Written beside, proved there, switched to by one rename, proved again; the version before is kept."""
    to = place_of(request["to"])
    if os.path.lexists(to) and current_version(to) is None:
        raise Failure(f"{to} exists and was not shipped by edgekd; give another place or remove it")
    with shipping(to) as versions, work_folder(request) as (bundles, tools):
        (bundle,) = bundles.values()
        runtime = request["runtime"] or read_manifest(bundle)["runtime"]
        version = identity(bundle)
        if runtime == "tensorrt":  # an engine is of one release: after an update the same bundle is another version
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
    """Why there can be no rollback, though a version before is kept; empty where there can."""
    try:
        if before is not None:
            check_version(os.path.join(versions, before), before)
    except (Failure, OSError) as failure:
        return str(failure)
    return ""


def undo(to: str, versions: str, before: str | None) -> str:
    """Turn a place back to what stood there; says so."""
    if before is None:
        os.remove(to)
        return f"{to}: nothing stands there, as before"
    turn(to, versions, before)
    return f"{to}: version {before} stands again"


def damage(folder: str, version: str, tools: str, runtime: str) -> str:
    """What is wrong with a version that lies there; empty where it is as it was sent and computes what it should.

    Raise Failure where somebody else's files lie in it: writing it anew would cost them.
    """
    foreign = foreign_files(folder)
    if foreign:
        raise Failure(
            "{} holds files that edgekd did not put there: {}; move them away".format(folder, ", ".join(foreign))
        )
    try:
        check_version(folder, version)
        prove(folder, tools, runtime)
    except Exception as failure:  # a plan that is cut off ends in an error of the runtime's own
        return str(failure) or repr(failure)
    return ""


def check_version(folder: str, version: str) -> None:
    """Raise Differs for a folder that is another than the version's: what was changed together with its hash is seen, too."""
    manifest = read_manifest(folder)
    if version[:16] != identity(folder):
        raise Differs("the bundle is not as it was written: manifest.json was changed")
    check_files(folder, manifest)


def identity(bundle: str) -> str:
    """What a version is named by: all that its manifest says, but for the report, which grows with every measurement."""
    manifest = read_manifest(bundle)
    files = {name: key for name, key in manifest["files"].items() if not name.startswith("report.")}
    about = {key: value for key, value in manifest.items() if key != "figures"}
    return hashlib.sha256(json.dumps({**about, "files": files}, sort_keys=True).encode()).hexdigest()[:16]


def settle(bundle: str, tools: str, versions: str, version: str, runtime: str, request: dict[str, Any]) -> None:
    """The version's own folder, complete and proved, or absent; one that was damaged is swapped with it."""
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
    """Exchange two folders in one step (Linux, renameat2); where the system cannot, there is none for an instant."""
    at_cwd, rename_exchange = -100, 2
    renameat2 = getattr(LIBC, "renameat2", None)  # glibc 2.28
    if renameat2 and renameat2(at_cwd, os.fsencode(draft), at_cwd, os.fsencode(final), rename_exchange) == 0:
        return
    old = os.path.join(os.path.dirname(final), "draft-old")
    os.rename(final, old)
    os.rename(draft, final)
    remove(old)


def prune(versions: str, version: str) -> None:
    """Only the current version and the one before it stay."""
    keep = {version, version_before(versions, version)}
    for name in os.listdir(versions):
        if VERSION.fullmatch(name.replace(".before", "")) and name.replace(".before", "") not in keep:
            remove(os.path.join(versions, name))


def rollback(request: dict[str, Any]) -> dict[str, Any]:
    """Switch to the version before, after its stored outputs were proved. A second rollback returns to the newer version."""
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
        # a version with an engine has its release in its name; one without was shipped for onnxruntime
        proof = prove(folder, tools, request["runtime"] or ("tensorrt" if "-" in before else "onnxruntime"))
        point(to, versions, before)
    return {"version": before, "before": now, "to": to, **proof}


def forget(request: dict[str, Any]) -> dict[str, Any]:
    """Remove what lies in the store, and its folder where it was made for it; what was shipped stays."""
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
            with contextlib.suppress(OSError):  # something else lies in it
                os.rmdir(folder)
    return {}
