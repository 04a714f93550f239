"""The manifest is read as typed data, or refused in a line that names the key; its bytes on the disk stay as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.bundle.golden import Golden
from edgekd.bundle.manifest import Figure, Manifest, figures
from edgekd.bundle.read import add_to_report, read_manifest, write_manifest
from edgekd.check.package import preprocess_of
from edgekd.errors import BundleError
from edgekd.figures.candidate import Estimate
from edgekd.figures.figures import DeviceState, OnDevice, Report
from edgekd.inputs import Image
from tests.builders.bundles import listed, report, target, write
from tests.builders.tokens import Tokens


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for TensorRT, because it has every key."""
    return write(tmp_path_factory.mktemp("made"), target=target("tensorrt"), report=measured())


def measured() -> Report:
    """A report with figures of every kind: host, estimate, device, and not measured."""
    plain = report()
    latency = plain.chosen.latency
    assert latency is not None
    state = DeviceState(clocks_mhz={"cpu0": 1500.0})
    estimate = Estimate(
        device="box", basis="its profile", low_ms=0.1, high_ms=None, leaves_out=("copies",), kernels=(), peaks_gops={},
        bandwidth_gbs=68.0,
    )  # fmt: skip
    there = OnDevice(
        device="far", origin="device", created="2026-11-21T00:00:00Z", machine="a board", architecture="aarch64",
        system="Python 3.10", runtime="TensorRT 10.3", model_sha256="0" * 64, is_target=True, golden_ok=True, golden="",
        latencies=(latency.model_copy(update={"p99_ms": 0.6, "transfers": "included"}),), score=plain.student,
        load_ms=3.0, before=state, after=state,
    )  # fmt: skip
    estimated = tuple(one.model_copy(update={"estimate": estimate}) for one in plain.candidates)
    return plain.model_copy(update={"candidates": estimated, "devices": (there,)})


def rewritten(content: dict[str, Any], folder: Path) -> str:
    """The text after it was read as a manifest and written again."""
    write_manifest(folder / "again.json", Manifest.of(content))
    return (folder / "again.json").read_text()


def test_a_bundle_s_manifest_read_and_written_again_has_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert rewritten(listed(made), tmp_path) == (made / "manifest.json").read_text()


def test_the_bytes_are_those_of_python_s_json_with_sorted_keys(made: Path) -> None:
    text = (made / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_report_that_is_written_unchanged_changes_no_byte_of_the_manifest(tmp_path: Path) -> None:
    bundle = write(tmp_path, report=measured())
    before = (bundle / "manifest.json").read_bytes()
    add_to_report(bundle, lambda report, _: report)
    assert (bundle / "manifest.json").read_bytes() == before


def test_whole_numbers_stay_whole(made: Path, tmp_path: Path) -> None:
    content = listed(made) | {"golden": {"tolerance": 0}, "preprocess": {"mean": [0, 0.0, 1], "std": [1, 1, 1.0]}}
    assert json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n" == rewritten(content, tmp_path)


def test_keys_of_another_edgekd_are_kept_wherever_they_stand(made: Path, tmp_path: Path) -> None:
    content = listed(made)
    for table in (content, content["input"], content["golden"], content["recipe"], content["figures"][0]):
        table["of_another_edgekd"] = {"a": [1, None, {"b": 10**40}]}
    assert json.loads(rewritten(content, tmp_path)) == content


def test_a_manifest_of_few_keys_is_read_and_gains_none(made: Path, tmp_path: Path) -> None:
    content = {key: listed(made)[key] for key in ("format", "files", "golden", "input")}
    found = Manifest.of(content)
    assert found.recipe.budget.p90_latency_ms is None and found.figures == () and found.runtime == ""
    assert json.loads(rewritten(content, tmp_path)) == content


def test_what_is_in_the_manifest_is_typed(made: Path) -> None:
    found = read_manifest(made)
    assert found.input.shape == ("N", 4, 4, 3) and found.golden.n == 16
    assert found.lineage[0].name == "distill" and found.preprocess and found.preprocess.std == (0.5, 0.5, 0.5)
    assert found.figures == figures(measured())
    assert Golden.read(made, found).tolerances == {"": 1e-5}


def test_one_mean_for_all_channels_stands_once_for_each(tmp_path: Path) -> None:
    preprocess = preprocess_of(Image((4, 4, 3), (0.25,), (2.0,)))
    assert listed(write(tmp_path, preprocess=preprocess))["preprocess"] == {"mean": [0.25] * 3, "std": [2.0] * 3}


def test_inputs_that_are_no_images_have_no_mean(tmp_path: Path) -> None:
    assert preprocess_of(Tokens()) is None
    told = listed(write(tmp_path, preprocess=None))
    assert (
        "preprocess" not in told and told["input"]["layout"] == ""
    )  # whatever its shape, run.py reads no picture for it


def test_figures_say_where_they_come_from_and_under_which_conditions() -> None:
    rows = figures(measured())
    (there,) = (row for row in rows if row.device == "far" and row.figure == "p99_ms")
    assert there == Figure(
        model="int8", figure="p99_ms", value=0.6, origin="host", n=300, stable=True, batch_size=1, threads=1,
        machine="Example CPU", runtime="onnxruntime 1.31.1 CPU", transfers="included", device="far", power_mode=None,
        clocks_mhz={"cpu0": 1500.0},
    )  # fmt: skip
    estimates = [row.written() for row in rows if row.origin == "estimate"]
    assert estimates[0] == {
        "model": "int8", "figure": "estimate_ms", "value": None, "origin": "estimate", "interval": (0.1, None),
        "basis": "its profile", "leaves_out": ("copies",),
    }  # fmt: skip


def test_further_inputs_are_typed_and_keep_their_bytes(made: Path, tmp_path: Path) -> None:
    content = listed(made) | {"further_inputs": [MASK | {"at_most": {"length": 8}}]}
    found = Manifest.of(content)
    assert [table.name for table in found.inputs] == ["image", "mask"] and found.inputs[1].at_most == {"length": 8}
    assert json.loads(rewritten(content, tmp_path)) == content


def test_a_free_size_has_one_bound_in_all_inputs(made: Path) -> None:
    other = {**MASK, "name": "type", "at_most": {"length": 9}}
    with pytest.raises(ValueError, match=r"`further_inputs\.1\.at_most` bounds 'length' otherwise"):
        Manifest.of(listed(made) | {"further_inputs": [MASK | {"at_most": {"length": 8}}, other]})


def test_nobody_changes_a_manifest(made: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_manifest(made).precision = "fp32"  # type: ignore[misc]


MASK = {"name": "mask", "dtype": "bool", "shape": ["N", "length"], "layout": ""}
WRONG: list[tuple[str, Any]] = [
    ("files", []),
    ("format", "1"),
    ("golden", 3),
    ("golden.n", "16"),
    ("golden.n", 16.5),
    ("golden.further", 1),
    ("golden.tolerance", "0.1"),
    ("input", "image"),
    ("input.shape", "N"),
    ("input.shape", ["N", 4, 4, "a\nb"]),
    ("input.layout", "CHWN"),
    ("input.at_most", 8),
    ("input.at_most", {"N": 0}),
    ("input.at_most", {"length": 8}),
    ("further_inputs", {}),
    ("further_inputs", [3]),
    ("further_inputs", [{"name": "mask"}]),
    ("further_inputs", [MASK, MASK]),
    ("further_inputs", [{**MASK, "name": ""}]),
    ("further_inputs", [{**MASK, "name": "image"}]),
    ("further_inputs", [{**MASK, "shape": ["N", -1]}]),
    ("further_inputs", [{**MASK, "at_most": {"length": True}}]),
    ("further_inputs", [{**MASK, "layout": "NHWC"}]),
    ("runtime", 1),
    ("precision", None),
    ("output", "odds"),
    ("output", ["logits"]),
    ("preprocess", [0.5]),
    ("preprocess", {"mean": [0.5]}),
    ("preprocess.mean", 0.5),
    ("preprocess.mean", ["0.5"]),
    ("preprocess.mean", [True]),
    ("preprocess.std", [float("nan")]),
    ("tasks", ["bright"]),
    ("tasks", None),
    ("tasks.bright", "day"),
    ("tasks.bright", [1]),
    ("recipe", "edgekd.toml"),
    ("recipe", None),
    ("recipe.budget", 3),
    ("recipe.budget.p90_latency_ms", "3"),
    ("recipe.budget.p90_latency_ms", True),
    ("recipe.budget.p90_latency_ms", 10**400),
    ("recipe.budget.p90_latency_ms", float("inf")),
    ("target", "box"),
    ("target", None),
    ("fingerprint", 77),
    ("versions", ["python"]),
    ("versions.python", 3.11),
    ("lineage", "distill"),
    ("lineage.0", "distill"),
    ("lineage.0.name", 1),
    ("lineage.0.key", []),
    ("figures", {}),
    ("figures.0", 99.7),
    ("figures.0.model", None),
    ("figures.0.value", "99.7"),
    ("figures.0.origin", "a friend"),
    ("figures.0.interval", [1]),
    ("figures.0.n", 0.5),
    ("figures.1.stable", 1),
    ("figures.1.threads", True),
    ("trtexec", "trtexec"),
    ("trtexec.10", ["trtexec"]),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda given: str(given)[:30])
def test_a_value_of_another_kind_is_refused_in_a_line_that_names_the_key(
    made: Path, tmp_path: Path, key: str, value: Any
) -> None:
    content: Any = listed(made)
    *way, last = key.split(".")
    table = content
    for step in way:
        table = table[int(step) if isinstance(table, list) else step]
    table[int(last) if isinstance(table, list) else last] = value
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(BundleError, match=r"manifest\.json cannot be read") as told:
        read_manifest(tmp_path)

    told_of = str(told.value).partition("manifest.json")[2]
    # run.py's own rules come first; of these two tables they name no more than the table
    assert key in told_of or (way in (["golden"], ["input"]) and f"`{way[0]}" in told_of), told_of
    assert "\n" not in told_of and len(told_of) < 200


def test_a_key_that_a_terminal_would_take_otherwise_is_shown_as_it_is_written(made: Path, tmp_path: Path) -> None:
    content = listed(made) | {"tasks": {"a\nb\x1b[2J" + "x" * 1000: 1}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"`tasks\.a\\nb\\x1b\[2Jx+`") as told:
        read_manifest(tmp_path)
    assert str(told.value).isprintable() and len(str(told.value)) < 400


@pytest.mark.parametrize("text", ['"\\ud800"', "[" * 500 + "]" * 500], ids=["half a pair", "deep"])
def test_values_that_no_file_could_hold_again_are_refused_in_a_line(made: Path, tmp_path: Path, text: str) -> None:
    content = json.dumps(listed(made) | {"of_another_edgekd": "HERE"}).replace('"HERE"', text)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read") as told:
        read_manifest(tmp_path)
    assert "\n" not in str(told.value)
