"""A bundle as data: its manifest, its files' hashes, its report. edgekd.bundle.write writes bundles.

This module imports neither torch nor a runtime, so commands that only read or ship a bundle start at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd.base.contents import hash_file
from edgekd.base.json_text import parse_json
from edgekd.base.names import visible
from edgekd.bundle.drafts import draft_of, put_in_place
from edgekd.bundle.manifest import Manifest, figures
from edgekd.errors import BundleError, NotToShipError
from edgekd.figures.figures import Report
from edgekd.figures.verdict import ANSWERS
from edgekd.report import html
from edgekd.report.model_card import model_card
from edgekd.scripts.device_runner.model import LARGEST

Row = tuple[str, bool, str]

MANIFEST = "manifest.json"
README = "README.txt"
CARD = "README.md"
LOG = "build.log"
VERDICT = re.compile(rf"({'|'.join(ANSWERS)})[:.] ")  # begins README.txt; a recipe's name may begin with SHIP too
SHIPPED = "model.onnx"
GOLDEN = "golden.npz"
OVERLAYS, MISTAKEN = "overlays.jpg", "mistaken.jpg"  # test pictures for report.html, where there are such
# Files that build_engine.py and Python create on the device, so they are not part of the shipped bundle.
MADE_THERE = re.compile(r"model\.plan|timing\.cache|reference_input(_[0-9]+)?\.bin|reference_output\.bin|figures\.json")
BYTECODE = "__pycache__"  # left by Python after an import of a script; never read here, and refused by verify
LARGEST_TEXT = 1 << 26  # bytes of a manifest or a report
LONGEST_NAME = 255  # bytes; no file system takes more


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle's folder.

    Raises BundleError, in a line, for a file that is not a manifest of this edgekd's format.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no file {MANIFEST}")
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise BundleError(f"{path} cannot be read as a manifest: {error!r:.200}") from error
    try:
        manifest = Manifest.of(content)
    except ValueError as error:
        raise BundleError(f"{path} cannot be read as a manifest: {error}") from error
    required = {SHIPPED, "labels.txt", GOLDEN, "run.py"} - set(manifest.files)
    if required:
        raise BundleError(f"{path} does not list {sorted(required)}, which every bundle has")
    for name in manifest.files:
        unnamed = PurePosixPath(name).name != name or "\\" in name or not name or not name.isprintable()
        if unnamed or len(name.encode()) > LONGEST_NAME:
            raise BundleError(f"{path} lists {name!r}, which leaves the bundle; it was not written by edgekd")
    return manifest


def read_text(path: Path) -> str:
    """The text of a plain file. Raises BundleError for any other file and for one larger than edgekd writes."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_TEXT:
        raise BundleError(f"{path} is no plain file of at most {LARGEST_TEXT >> 20} MB; edgekd wrote none such")
    return path.read_text(encoding="utf-8")


def refuse_links(folder: Path) -> None:
    """Raises BundleError if the folder holds links, pipes or devices, whatever their names: these are never read."""
    links = sorted(path.name for path in folder.iterdir() if path.is_symlink())
    if links:
        raise BundleError(f"{folder} has links: {', '.join(links)}; a bundle holds plain files only")
    others = sorted(path.name for path in folder.iterdir() if not path.is_file() and path.name != BYTECODE)
    if others:
        raise BundleError(f"{folder} has what is no file: {', '.join(others)!r}; a bundle holds plain files only")


def unlisted(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """Files that the manifest does not list and that are not created on a device."""
    names = {path.name for path in folder.iterdir()} - {*listed, MANIFEST}
    return sorted(name for name in names if not MADE_THERE.fullmatch(name))


def check_file(folder: Path, name: str, expected: str) -> Row:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return name, False, "missing"
    if path.stat().st_size > LARGEST:
        return name, False, "is larger than 4 GB"
    return (name, True, "unchanged") if hash_file(path) == expected else (name, False, "changed")


def add_to_report(folder: Path, change: Callable[[Report, Manifest], Report]) -> Report:
    """Changes a bundle's report together with the files and the manifest that depend on it, in one step.

    `change` gets the report and the manifest. Two callers at once wait for each other. Raises BundleError for a bundle
    whose files were changed by other means.
    """
    folder = folder.resolve()
    with draft_of(folder) as draft:
        manifest = read_manifest(folder)
        refuse_links(folder)
        wrong = [name for name, expected in manifest.files.items() if not check_file(folder, name, expected)[1]]
        if wrong:
            raise BundleError(f"{folder} is not as it was written: {', '.join(wrong)} changed; build it again")
        report = change(read_report(folder), manifest)
        shutil.copytree(folder, draft, dirs_exist_ok=True, ignore=shutil.ignore_patterns(BYTECODE))
        write_report(draft, report)
        if CARD in manifest.files:  # a bundle of an earlier edgekd has none
            (draft / CARD).write_text(model_card(report), encoding="utf-8")
        readme = draft / README
        if README in manifest.files:
            readme.write_text(with_verdict(readme.read_text(encoding="utf-8"), report), encoding="utf-8")
        listed = {name: hash_file(draft / name) for name in sorted(manifest.files)}
        write_manifest(draft / MANIFEST, manifest.model_copy(update={"figures": figures(report), "files": listed}))
        put_in_place(draft, folder)
    return report


def read_report(folder: Path) -> Report:
    """The report of a bundle. Raises BundleError if the report is missing or was written by another edgekd."""
    file = folder / "report.json"
    try:
        if not os.path.lexists(file):
            raise BundleError(f"{folder} holds no report.json; give a bundle's folder, as build/<recipe>/<target>")
        return Report.model_validate_json(json.dumps(_shown(parse_json(read_text(file)))))
    except ValueError as error:
        raise BundleError(f"{file} is no report of this edgekd; build again ({str(error).splitlines()[0]})") from error


def _shown(value: Any) -> Any:
    """The same document with texts that are safe to print on a terminal: a report may come from anywhere."""
    if isinstance(value, dict):
        return {visible(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return visible(value) if isinstance(value, str) else value


def write_report(draft: Path, report: Report) -> None:
    """Writes report.json, and report.html with the pictures of `OVERLAYS` and `MISTAKEN` in it if the draft has them."""
    overlays, mistaken = (
        (draft / name).read_bytes() if (draft / name).is_file() else b"" for name in (OVERLAYS, MISTAKEN)
    )
    (draft / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (draft / "report.html").write_text(html.render(report, overlays, mistaken), encoding="utf-8")


def with_verdict(readme: str, report: Report) -> str:
    """README.txt below the report's verdict: should this bundle ship, why, and what is missing."""
    # A bundle of an earlier edgekd begins with its name, or with NOT TO SHIP.
    text = readme.partition("\n\n")[2] if VERDICT.match(readme) else readme
    refused = [] if report.ok else ["  `edgekd ship` refuses this bundle."]
    # An empty line ends the verdict, so no text in the verdict may contain one.
    return "\n".join(" ".join(line.splitlines()) for line in [*report.verdict.lines(), *refused]) + "\n\n" + text


def refuse_not_to_ship(folder: Path) -> None:
    """Raises NotToShipError for a bundle whose report has a missed check."""
    report = read_report(folder)
    if not report.ok:
        raise NotToShipError(
            f"{folder}: {report.headline}; `edgekd report {folder}` tells more, --anyway ships it all the same"
        )


def write_manifest(path: Path, manifest: Manifest) -> None:
    try:
        text = manifest.text()
    except ValueError as error:
        raise BundleError(f"{path.name} cannot be written as JSON: {error}") from error
    path.write_text(text, encoding="utf-8")
