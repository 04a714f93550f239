"""A bundle from somewhere else: what lies in it beside the listed files neither runs nor passes, and no content of it is believed."""

from __future__ import annotations

import inspect
import io
import json
import os
import py_compile
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.base.contents import hash_file
from edgekd.bundle.read import BYTECODE, add_to_report
from edgekd.bundle.write import verify_bundle
from edgekd.errors import BundleError
from edgekd.measure.devices.local import Local
from edgekd.measure.on_device import Options, measure_on, trial_of
from edgekd.scripts import run as run_py
from edgekd.scripts.device_runner import model as runner_s_model
from edgekd.scripts.device_runner.shipping import prove
from edgekd.scripts.device_runner.start import Failure
from tests.builders.bundles import failures, listed, write

FOREIGN = "\nprint('foreign code ran')\n"
SHORT = ("--warmup-s", "0.02", "--block-s", "0.02", "--min-n", "30", "--energy-s", "0.1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def script(bundle: Path, name: str, *words: str) -> tuple[int, str]:
    """(exit code, what was printed) of a bundle's script, run as its README says."""
    done = subprocess.run(
        [sys.executable, name, *words], cwd=bundle, capture_output=True, text=True, check=False, timeout=60,
        env={key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def change(bundle: Path, **keys: Any) -> None:
    (bundle / "manifest.json").write_text(json.dumps({**listed(bundle), **keys}))


def store(bundle: Path, content: bytes) -> None:
    """Another golden.npz, as the manifest lists it."""
    (bundle / "golden.npz").write_bytes(content)
    change(bundle, files={**listed(bundle)["files"], "golden.npz": hash_file(bundle / "golden.npz")})


def bytecode(bundle: Path) -> None:
    """Valid for any source, whatever its time or hash."""
    code = bundle.parent / "evil.py"
    code.write_text((bundle / "run.py").read_text() + FOREIGN)
    (bundle / BYTECODE).mkdir()
    for cached in (f"{BYTECODE}/run.{sys.implementation.cache_tag}.pyc", "run.pyc"):
        py_compile.compile(
            str(code), cfile=str(bundle / cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )


def modules(bundle: Path) -> None:
    """With the names of what the scripts import."""
    for name in ("json", "argparse", "hashlib", "stat", "zipfile", "tempfile", "onnxruntime", "ctypes"):
        (bundle / f"{name}.py").write_text(FOREIGN)
    (bundle / "numpy").mkdir()
    (bundle / "numpy" / "__init__.py").write_text(FOREIGN)


@pytest.mark.parametrize("foreign", [bytecode, modules])
def test_what_lies_beside_the_scripts_neither_runs_nor_passes(
    bundle: Path, foreign: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytecode that Python would prefer to run.py, and modules that it would find before its own."""
    foreign(bundle)
    for name, words, code in (
        ("run.py", ["--verify"], 3), ("run.py", ["--bench", *SHORT[:6]], 0), ("device_runner.py", SHORT, 2),
    ):  # fmt: skip
        found, text = script(bundle, name, *words)
        assert found == code and "foreign code ran" not in text and "Traceback" not in text, text
    with pytest.raises(BundleError, match=r"bundle .*'numpy'") if foreign is modules else nullcontext():
        assert {"run.pyc", BYTECODE} <= set(failures(bundle))


def test_the_scripts_leave_no_bytecode(bundle: Path) -> None:
    assert script(bundle, "run.py", "--verify")[0] == 0
    assert script(bundle, "device_runner.py", *SHORT)[0] == 0
    assert not (bundle / BYTECODE).exists() and not failures(bundle)


def test_bytecode_that_somebody_left_hinders_no_measurement(bundle: Path, tmp_path: Path) -> None:
    """It is not sent, and it is gone when the report is next written."""
    (bundle / BYTECODE).mkdir()
    found = measure_on(
        Local("here", str(tmp_path / "work")), trial_of(bundle), Options(warmup_s=0.02, block_s=0.02, min_n=30)
    )
    assert found.golden_ok
    add_to_report(bundle, lambda report, _: report)
    assert not (bundle / BYTECODE).exists() and not failures(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "golden.npz", "labels.txt", "unlisted"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link out"])
def test_only_plain_files_are_read(bundle: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a pipe would wait for ever; a link leads to files that are nobody's business."""
    (bundle / name).unlink(missing_ok=True)
    {
        "pipe": os.mkfifo, "folder": os.mkdir, "link out": lambda path: os.symlink("/etc/hostname", path)
    }[kind](bundle / name)  # fmt: skip
    with pytest.raises(BundleError) as told:
        verify_bundle(bundle)
    assert "\n" not in str(told.value)
    assert run_here(bundle, monkeypatch) in (2, 3)
    with pytest.raises(Failure):
        runner_s_model.check_files(str(bundle), runner_s_model.read_manifest(str(bundle)))


def run_here(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """`run.py --verify`, in this process."""
    monkeypatch.setattr(run_py, "HERE", str(bundle))
    monkeypatch.setattr(sys, "argv", ["run.py", "--verify"])
    return run_py.main()


def refused_everywhere(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What edgekd says; run.py and the runner on a device refuse it too."""
    with pytest.raises(BundleError) as told:
        verify_bundle(bundle)
    assert "\n" not in str(told.value) and len(str(told.value)) < 700
    assert run_here(bundle, monkeypatch) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    with pytest.raises(Failure):
        prove(str(bundle), str(bundle), "onnxruntime")
    return str(told.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"files": ["model.onnx"]},
        {"files": {"model.onnx": 7}},
        {"files": None},
        {"golden": []},
        {"golden": {"tolerance": "1"}},
        {"golden": {"tolerance": True}},
        {"golden": {"tolerance": -1}},
        {"golden": {"tolerance": float("nan")}},
        {"golden": {"tolerance": float("inf")}},
        {"golden": {"tolerance": 10**400}},
        {"golden": {"tolerance": 1e-5, "further": {"a": 10**400}}},
        {"golden": {"tolerance": 1e-5, "further": []}},
        {"format": True},
        {"format": 10**400},
        {"input": None},
        {"input": {"name": "image", "dtype": "uint8", "shape": [10**400], "layout": ""}},
        {"input": {"name": "image", "dtype": "uint8", "shape": [1, 2], "layout": "NHWC"}},
        {"input": {"name": "image", "dtype": ["uint8"], "shape": ["N", 4, 4, 3], "layout": "NHWC"}},
        *(
            {"input": {"name": "image", "dtype": "float32", "shape": ["N", 8], "layout": "", **keys}}
            for keys in (
                {"sample_rate": 0},
                {"sample_rate": "8000"},
                {"sample_rate": True},
                {"mono": "both"},
                {"mono": ["left"]},
            )
        ),
        {"input": {"name": "image", "dtype": "float32", "shape": ["N", "samples"], "layout": "", "sample_rate": 8000}},
        *(
            {"input": {"name": "numbers", "dtype": dtype, "shape": ["N", 1], "layout": "", **keys}}
            for dtype, keys in (
                ("float32", {"columns": {}}),
                ("float32", {"columns": ["age"]}),
                ("float32", {"columns": [{"name": 3}]}),
                ("float32", {"columns": [{"name": "a"}, {"name": "b"}]}),
                ("float32", {"columns": [{"name": "a", "part": "hour"}]}),
                ("float32", {"columns": [{"name": "a", "part": ["days"]}]}),
                ("float32", {"columns": [{"name": "a", "words": ["b"]}]}),
                ("int64", {"columns": [{"name": "a"}]}),
                ("int64", {"columns": [{"name": "a", "words": [1]}]}),
                ("int64", {"columns": [{"name": "a", "words": "b"}]}),
                ("float32", {"columns": [{"name": "a"}], "missing": "?"}),
                ("float32", {"columns": [{"name": "a"}], "missing": [None]}),
            )
        ),
        {"further_inputs": {"name": "mask"}},
        {"further_inputs": [None]},
        {"further_inputs": [{"name": "image", "dtype": "uint8", "shape": ["N"], "layout": ""}]},
        {
            "further_inputs": [
                {"name": "mask", "dtype": "bool", "shape": ["N"], "layout": "", "at_most": {"N": 10**400}}
            ]
        },
        {"runtime": {}},
    ],
    ids=lambda keys: str(keys)[:40],
)
def test_a_manifest_of_other_kinds_is_refused_in_a_line(
    bundle: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(bundle, **keys)
    assert "manifest.json cannot be read" in refused_everywhere(bundle, monkeypatch, capsys)


def test_a_manifest_larger_than_any_is_not_read(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.truncate(bundle / "manifest.json", 1 << 40)  # no disk holds it: it is sparse
    assert "at most 64 MB" in refused_everywhere(bundle, monkeypatch, capsys)


def numbers(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    return {"inputs": inputs, "outputs": (inputs / 255).mean((1, 2)).astype(np.float32), **changes}


def archive(method: int = zipfile.ZIP_STORED, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, array in arrays.items():
            one = io.BytesIO()
            np.lib.format.write_array(one, array, allow_pickle=True) if isinstance(array, np.ndarray) else one.write(
                array
            )
            target.writestr(f"{name}.npy", one.getvalue())
    return buffer.getvalue()


def of_shape(shape: str) -> bytes:
    """An array of four bytes whose header tells another shape."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0\0\0\0"


@pytest.mark.parametrize(
    "content, what",
    [
        (archive(**numbers(outputs=np.array([[print], [len]], object))), "holds object"),
        (archive(**numbers(outputs=of_shape(f"({2**40}, {2**40})"))), "which its size is not"),
        (archive(**numbers(outputs=of_shape("(10**9,)"))), "cannot be read"),
        (archive(**numbers(outputs=of_shape("(-1,)"))), "which its size is not"),
        (archive(**numbers(outputs=of_shape("()"))), "one row an input"),
        (archive(zipfile.ZIP_DEFLATED, **numbers(inputs=np.zeros((10**6, 4, 4, 3), np.uint8))), "packed"),
        (archive(**numbers(outputs=np.full((4, 3), np.nan, np.float32))), "not finite"),
        (archive(**numbers(outputs=np.zeros((3, 3), np.float32))), "one row an input"),
        (archive(**numbers(inputs=np.zeros((4, 5, 5, 3), np.uint8))), "the graph takes"),
        (archive(**numbers(inputs=np.zeros((0, 4, 4, 3), np.uint8))), "the graph takes"),
        (archive(**numbers(inputs=np.zeros((4, 4, 4, 3), np.int8))), "the graph takes"),
        (archive(inputs=numbers()["inputs"]), "holds the outputs"),
        (b"PK\x05\x06" + bytes(18), "the graph takes"),
        (b"no archive", "BadZipFile"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stored_outputs_of_other_kinds_are_refused_in_a_line(
    bundle: Path, content: bytes, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store(bundle, content)
    assert what in refused_everywhere(bundle, monkeypatch, capsys)


@pytest.mark.parametrize("share, kept", [(0.2, True), (0.3, False), (1e29, False)])
def test_a_tolerance_that_any_model_would_keep_proves_nothing(
    bundle: Path, share: float, kept: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond a quarter of the largest output; edgekd itself writes a twentieth at most."""
    largest = float(np.abs(np.load(bundle / "golden.npz")["outputs"]).max())
    change(bundle, golden={"n": 16, "tolerance": share * largest})
    if kept:
        assert not failures(bundle) and run_here(bundle, monkeypatch) == 0
    else:
        assert "proves nothing" in refused_everywhere(bundle, monkeypatch, capsys)


def test_both_scripts_read_a_manifest_alike() -> None:
    """Each stands alone on a device, so the rules are written down twice."""
    for name in ("manifest_problem", "task_problem", "inputs_problem", "input_problem", "columns_problem"):
        assert inspect.getsource(getattr(run_py, name)) == inspect.getsource(getattr(runner_s_model, name))


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\0b", "", ".", "x" * 300, "a\u202eb"])
def test_names_that_a_terminal_or_a_disk_would_take_otherwise_are_refused(
    bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(bundle, files={**listed(bundle)["files"], name: "0" * 64})
    with pytest.raises(BundleError, match=r"manifest\.json .*leaves"):
        verify_bundle(bundle)
    assert run_here(bundle, monkeypatch) == 3
    assert all(letter.isprintable() for letter in capsys.readouterr().out.replace("\n", ""))


def test_the_engine_builder_reads_such_bundles_in_a_line(tmp_path: Path) -> None:
    from tests.builders.bundles import target

    bundle = write(tmp_path, target=target("tensorrt"))
    (bundle / "zipfile.py").write_text(FOREIGN)
    assert script(bundle, "build_engine.py", "--trtexec")[0] == 0
    for content in ('{"precision": "int8"}', "[" * 100_000, '{"precision": "int8", "golden": [], "input": 1}'):
        (bundle / "manifest.json").write_text(content)
        code, text = script(bundle, "build_engine.py", "--trtexec")
        assert code == 2 and text.startswith("error: ") and text.count("\n") == 1, text
