"""What do `edgekd lint` and trtcheck say of the same ONNX files for TensorRT 10.3?

    python benchmarks/lint_peers.py [FILE.onnx ...] [--environment FOLDER]

The files: the examples of release 10 in tests/export/test_restrictions.py, broken and sound, and those that are given. trtcheck
runs in an environment of its own, which this makes. A file counts as refused where edgekd finds an error, and where trtcheck's verdict is `blocked`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgekd.export.lint import lint
from edgekd.target import load_target
from tests.builders.restrictions import BROKEN

RELEASE, PEER = "10.3", "trtcheck==1.1.0"
TARGET = load_target("jetson-orin-nano")


def examples(folder: Path) -> dict[str, list[Path]]:
    """Kind -> files; Slice with computed axes is left out, which release 10 may read."""
    found: dict[str, list[Path]] = {"refused by the parser": [], "read by it": []}
    for name, (_, broken, kept) in BROKEN.items():
        if name == "sliced axes":
            continue
        for kind, text in zip(found, (broken, kept), strict=True):
            path = folder / f"{name}, {kind}.onnx".replace("'", "")
            onnx.save(onnx.parser.parse_model(text), path)
            found[kind].append(path)
    return found


def peer(environment: Path) -> Path:
    program = environment / "bin" / "trtcheck"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(environment / "bin" / "python"), "-m", "pip", "install", "-q", PEER], check=True)
    return program


def said_by_peer(program: Path, path: Path) -> tuple[bool, list[str]]:
    """Whether trtcheck calls a file blocked, and what it calls critical."""
    done = subprocess.run(
        [str(program), str(path), "--target-trt", RELEASE, "--format", "json"], capture_output=True, text=True, check=False
    )  # fmt: skip
    report = json.loads(done.stdout)
    critical = [
        f"{issue['operator']}: {issue['message']}" for issue in report["issues"] if issue["severity"] == "critical"
    ]
    return report["verdict"] == "blocked", critical


def said_by_us(path: Path) -> tuple[bool, list[str]]:
    errors = [f"{finding.node}: {finding.why}" for finding in lint(path, TARGET) if finding.severity == "error"]
    return bool(errors), errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="further ONNX files")
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "edgekd-trtcheck")
    given = parser.parse_args()
    program = peer(given.environment)
    with tempfile.TemporaryDirectory() as folder:
        kinds = {**examples(Path(folder)), "given": given.files}
        rows, apart = [], []
        for kind, files in kinds.items():
            counts: Counter[tuple[bool, bool]] = Counter()
            for path in files:
                (ours, our_words), (theirs, their_words) = said_by_us(path), said_by_peer(program, path)
                counts[ours, theirs] += 1
                if ours != theirs:
                    who, words = ("edgekd", our_words) if ours else ("trtcheck", their_words)
                    apart.append(
                        f"- {path.stem}: {who} alone refuses it: {words[0][:200] if words else 'its verdict alone'}"
                    )
            numbers = (counts[True, True], counts[True, False], counts[False, True], counts[False, False])
            rows.append(f"| {kind} | {len(files)} | {' | '.join(map(str, numbers))} |")
    print(f"{PEER}, edgekd for TensorRT {RELEASE}\n")
    print(
        "| files | number | refused by both | by edgekd alone | by trtcheck alone | by none |\n|---|---|---|---|---|---|"
    )
    print("\n".join([*rows, "", *apart]))


if __name__ == "__main__":
    main()
