"""A bundle holds what was measured, arrives whole or not at all, and shows every change; run.py works beside it."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekd.base.contents import hash_file
from edgekd.bundle.golden import Golden
from edgekd.bundle.manifest import GraphInput, figures
from edgekd.bundle.read import add_to_report, refuse_not_to_ship
from edgekd.bundle.write import describe_inputs, readme, trtexec_lines, verify_bundle
from edgekd.errors import BundleError, DeviceError, NotToShipError
from edgekd.figures.candidate import Check
from edgekd.measure.devices.local import Local
from edgekd.measure.on_device import Options, measure_on, trial_of, verify_on
from edgekd.scripts import SCRIPTS
from tests.builders.bundles import FLOAT, LABELS, TWO_HEADS, UINT8, failures, listed, recipe, report, target, write


def run(bundle: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-B", str(bundle / "run.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_fresh_bundle_is_verified(tmp_path: Path) -> None:
    rows = verify_bundle(write(tmp_path))

    assert all(ok for _, ok, _ in rows)
    assert "16 inputs" in rows[-1][2]


def test_the_manifest_lists_every_other_file_and_what_made_them(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    manifest = listed(bundle)

    assert set(manifest["files"]) == {path.name for path in bundle.iterdir()} - {"manifest.json"}
    assert manifest["lineage"] == [{"name": "distill", "key": "77e0"}]
    assert manifest["recipe"] == recipe().model_dump(mode="json")
    assert manifest["precision"] == "int8"
    assert manifest["target"]["name"] == "box"


def test_weights_that_stand_beside_a_model_come_along(tmp_path: Path) -> None:
    big = tmp_path / "big.onnx"
    model = onnx.parser.parse_model(UINT8)
    weights = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "zero")
    last = model.graph.node[-1]
    model.graph.initializer.append(weights)
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "zero"], list(last.output)))
    last.output[0] = "before"
    onnx.save(model, big, save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    bundle = write(tmp_path, models={"model.onnx": big, "model.fp32.onnx": big})
    assert failures(bundle) == {}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = write(tmp_path / "a"), write(tmp_path / "b")

    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_every_figure_has_an_origin_and_the_unmeasured_has_no_value() -> None:
    rows = figures(report())

    assert all(row.origin for row in rows)
    assert {row.figure for row in rows if row.model == "fp16" and row.value is None} == {"p50_ms", "peak_memory_mb"}
    assert all((row.value is None) == (row.origin == "not measured") for row in rows)


def test_a_new_bundle_replaces_the_old_one_whole(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    (bundle / "left-over.txt").write_text("from before")

    write(tmp_path, labels=("r", "g", "b"))

    assert (bundle / "labels.txt").read_text() == "r\ng\nb\n"
    assert not (bundle / "left-over.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "made.onnx"}


def test_a_failed_write_leaves_the_old_bundle_and_no_draft(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    unwritable = tuple(one.model_copy(update={"size_mb": math.nan}) for one in report().candidates)

    with pytest.raises(BundleError, match=r"manifest\.json .*JSON.*nan"):
        write(tmp_path, report=report().model_copy(update={"candidates": unwritable}))

    assert not failures(bundle)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "made.onnx"}


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("years of work")

    with pytest.raises(BundleError, match=r"no manifest\.json.*another place"):
        write(tmp_path)

    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "years of work"


def test_golden_outputs_that_the_model_does_not_give_are_refused(tmp_path: Path) -> None:
    golden = Golden({"image": np.zeros((1, 4, 4, 3), np.uint8)}, {"": np.ones((1, 3), np.float32)}, {"": 0.5})

    with pytest.raises(BundleError, match=r"made\.onnx .*tolerance 0\.5"):
        write(tmp_path, golden=golden)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "no model.onnx"),
        ({"labels": ("a\nb", "c", "d")}, "line break"),
        ({"labels": ("a", "b")}, "2 labels"),
    ],
)
def test_what_run_py_could_not_use_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        write(tmp_path, **changes)


def test_a_model_name_that_leaves_the_bundle_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "x.onnx"
    onnx.save(onnx.parser.parse_model(UINT8), model)

    with pytest.raises(BundleError, match=r"'\.\./x\.onnx'"):
        write(tmp_path, models={"model.onnx": model, "../x.onnx": model})


@pytest.mark.parametrize("name", ["model.onnx", "model.fp32.onnx", "labels.txt", "golden.npz", "run.py"])
def test_a_changed_byte_is_seen(tmp_path: Path, name: str) -> None:
    path = write(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    found = failures(path.parent)

    assert found[name] == "changed"
    assert "not run" in found["stored outputs"]


def test_a_missing_and_a_foreign_file_are_seen(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    (bundle / "report.html").unlink()
    (bundle / "numpy.py").write_text("print('not numpy')")

    assert failures(bundle).keys() == {"report.html", "numpy.py", "stored outputs"}


def test_an_engine_that_was_built_there_is_no_foreign_file(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    (bundle / "model.plan").write_bytes(b"built on the device")

    assert not failures(bundle)


def two_heads(folder: Path, *, off: float = 0.0) -> Path:
    """A bundle whose model also tells how bright an image is; the stored second output is `off` in the last sample."""
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    logits = (images / 255).mean((1, 2)).astype(np.float32)
    bright = ((images / 255).mean((1, 2, 3))[:, None] * [1, -1]).astype(np.float32)
    bundle = write(
        folder, TWO_HEADS, tasks={"bright": ("day", "night")},
        golden=Golden({"image": images}, {"": logits, "bright": bright}, {"": 1e-5, "bright": 1e-4}),
    )  # fmt: skip
    bright[-1, 1] += off
    np.savez(bundle / "golden.npz", **{"inputs": images, "outputs": logits, "outputs.bright": bright})
    manifest = listed(bundle)
    manifest["files"]["golden.npz"] = hash_file(bundle / "golden.npz")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def test_every_output_of_several_is_stored_and_compared(tmp_path: Path) -> None:
    bundle = two_heads(tmp_path)
    assert listed(bundle)["golden"]["further"] == {"bright": 1e-4}
    assert "bright: max difference" in run(bundle, "--verify")
    np.save(tmp_path / "image.npy", np.full((4, 4, 3), 255, np.uint8))
    assert run(bundle, str(tmp_path / "image.npy")).splitlines()[3:5] == ["bright:", " 88.08 %  day"]


def test_a_further_output_that_differs_is_told_wherever_outputs_are_proved(tmp_path: Path) -> None:
    """The first output is right; 0.01 beside a tolerance of 0.0001 in one value of the second decides."""
    bundle = two_heads(tmp_path, off=0.01)

    assert "bright: max difference 0.01 (tolerance 0.0001)" in failures(bundle)["stored outputs"]
    assert "FAILED  stored outputs" in run(bundle, "--verify", code=3)
    device = Local("here", str(tmp_path / "work"))
    with pytest.raises(DeviceError, match=r"here: .*bright: .*0\.01"):
        verify_on(device, bundle)
    assert measure_on(device, trial_of(bundle), Options()).golden_ok is False


def test_a_link_is_refused_even_to_equal_content(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    outside = (bundle / "labels.txt").rename(tmp_path / "labels.txt")
    (bundle / "labels.txt").symlink_to(outside)

    with pytest.raises(BundleError, match=r"links: labels\.txt"):
        verify_bundle(bundle)
    assert "is a link" in run(bundle, "--verify", code=3)


@pytest.mark.parametrize("name", ["../made.onnx", "/etc/hostname", "sub/x", "..\\made.onnx"])
def test_a_manifest_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    bundle = write(tmp_path)
    manifest = listed(bundle)
    manifest["files"][name] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match=r"manifest\.json .*leaves"):
        verify_bundle(bundle)
    run(bundle, "--verify", code=3)


def test_a_manifest_that_does_not_list_the_model_is_refused(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    manifest = listed(bundle)
    del manifest["files"]["model.onnx"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BundleError, match=r"manifest\.json .*\['model\.onnx'\]"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 99, "files": {}, "golden": {"tolerance": 0}}']
)
def test_a_broken_manifest_is_refused(tmp_path: Path, content: str) -> None:
    bundle = write(tmp_path)
    (bundle / "manifest.json").write_text(content)

    with pytest.raises(BundleError, match=r"manifest\.json"):
        verify_bundle(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle: .*manifest\.json"):
        verify_bundle(tmp_path)


def test_the_input_is_described_as_the_graph_takes_it(tmp_path: Path) -> None:
    manifest = listed(write(tmp_path))

    assert manifest["input"] == {"name": "image", "dtype": "uint8", "shape": ["N", 4, 4, 3], "layout": "NHWC"}
    onnx.save(onnx.parser.parse_model(FLOAT), tmp_path / "float.onnx")
    assert describe_inputs(tmp_path / "float.onnx")[0].layout == "NCHW"


# ------------------------------------------------------------------------------------------------------------- run.py


def test_run_verifies_the_bundle(tmp_path: Path) -> None:
    text = run(write(tmp_path), "--verify")

    assert "FAILED" not in text
    assert "top-1 agrees on 16 of 16" in text


def test_run_says_which_file_was_changed(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    (bundle / "labels.txt").write_text("cat\ncat\ncat\n")

    assert "FAILED  labels.txt: changed" in run(bundle, "--verify", code=3)


def test_run_predicts_an_image_file(tmp_path: Path) -> None:
    """A green image of another size: logits (0, 1, 0), so green has e / (e + 2) = 57.61 %."""
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (40, 20), (0, 255, 0)).save(tmp_path / "green.png")

    lines = run(write(tmp_path), str(tmp_path / "green.png")).splitlines()

    assert lines[0] == " 57.61 %  green"
    assert {line.split()[-1] for line in lines} == set(LABELS)


def test_run_predicts_an_array_of_the_graph_s_own_kind(tmp_path: Path) -> None:
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 2] = 255
    np.save(tmp_path / "blue.npy", blue)

    assert run(write(tmp_path), str(tmp_path / "blue.npy")).startswith(" 57.61 %  blue")


def test_run_normalises_for_a_graph_that_does_not(tmp_path: Path) -> None:
    """Red is (1, -1, -1) after mean 0.5 and std 0.5: e / (e + 2/e) = 78.70 %."""
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    np.save(tmp_path / "red.npy", red)

    assert run(write(tmp_path, FLOAT), str(tmp_path / "red.npy")).startswith(" 78.70 %  red")


def test_run_does_not_apply_softmax_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "white.npy", np.full((4, 4, 3), 255, np.uint8))

    text = run(write(tmp_path, recipe=recipe(export={"output": "probabilities"})), str(tmp_path / "white.npy"))

    assert text.startswith("100.00 %  red")


def test_run_says_what_is_wrong_with_an_input(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.float64))
    (tmp_path / "x.png").write_text("no image")

    assert "float64" in run(bundle, str(tmp_path / "x.npy"), code=2)
    assert "is not an image" in run(bundle, str(tmp_path / "x.png"), code=2)
    assert "error" in run(bundle, str(tmp_path / "absent.npy"), code=2)


def test_run_measures_by_the_protocol_and_says_where_it_fell_short(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    small = ("--bench", "--warmup-s", "0", "--block-s", "0", "--min-n", "5", "--json", str(tmp_path / "latency.json"))

    text = run(bundle, *small)
    found = json.loads((tmp_path / "latency.json").read_text())

    assert "p99 not given below 1000 samples" in text
    assert "short of the protocol" in text
    assert (found["n"], len(found["block_medians_ms"]), found["p99_ms"]) == (15, 3, None)


def test_run_without_tensorrt_says_what_to_install(tmp_path: Path) -> None:
    assert "tensorrt" in run(write(tmp_path), "--engine", "model.plan", "--bench", code=2)


@pytest.mark.parametrize("script", ["run.py", "build_engine.py"])
def test_device_scripts_are_python_3_8(script: str) -> None:
    ast.parse((SCRIPTS / script).read_text(), feature_version=(3, 8))


# ----------------------------------------------------------------------------------------------------------- TensorRT


def test_only_tensorrt_targets_get_the_engine_builder(tmp_path: Path) -> None:
    assert "build_engine.py" not in listed(write(tmp_path))["files"]

    manifest = listed(write(tmp_path, target=target("tensorrt")))

    assert "build_engine.py" in manifest["files"]
    assert "build_engine.py" in (tmp_path / "bundle" / "README.txt").read_text()
    assert not failures(tmp_path / "bundle")


def images(*shape: int | str) -> list[GraphInput]:
    return [GraphInput(name="image", dtype="uint8", shape=shape, layout="NHWC")]


def test_trtexec_s_command_is_given_for_each_major_release_with_the_shape_of_batch_1() -> None:
    lines = trtexec_lines(images("N", 4, 4, 3), "int8")

    assert list(lines) == ["8", "10", "11"]
    assert all("--optShapes=image:1x4x4x3" in line for line in lines.values())


def test_trtexec_names_no_shapes_for_a_fixed_batch_and_is_left_out_for_other_free_sizes() -> None:
    assert "Shapes" not in trtexec_lines(images(1, 4, 4, 3), "fp16")["10"]
    assert trtexec_lines(images("N", "H", "W", 3), "fp16") == {}


def test_a_bf16_bundle_says_that_it_runs_in_an_engine_alone() -> None:
    shipped = tuple(c.model_copy(update={"name": "bf16"}) if c.shipped else c for c in report().candidates)

    assert "python3 run.py cat.png" in readme(report(), target(), {})
    text = readme(report().model_copy(update={"candidates": shipped}), target("tensorrt"), {})
    assert "python3 run.py --engine model.plan --verify" in text and "run.py --verify" not in text


def test_a_recipe_whose_name_begins_as_a_verdict_keeps_its_title_in_the_readme(tmp_path: Path) -> None:
    bundle = write(tmp_path, report=report().model_copy(update={"recipe": "SHIPPING"}))
    lines = (bundle / "README.txt").read_text().splitlines()
    assert lines[0].startswith("NOT DECIDED: ") and "SHIPPING for a box" in lines


MISSED = Check(name="size_mb", verdict="missed", found="0.310 MB\n\nand more", limit="at most 0.05")


def test_a_bundle_that_misses_a_check_says_not_to_ship_before_all_else(tmp_path: Path) -> None:
    made = report()
    bundle = write(tmp_path, report=made.model_copy(update={"checks": (MISSED,)}))
    lines = (bundle / "README.txt").read_text().splitlines()
    assert lines[0] == "NOT TO SHIP: 1 check missed (size_mb)"
    assert lines[1:3] == ["  size_mb: 0.310 MB  and more, limit at most 0.05", "  `edgekd ship` refuses this bundle."]
    assert lines[3:5] == ["", "tiny for a box"]
    assert json.loads((bundle / "report.json").read_text())["headline"] == "NOT TO SHIP: 1 check missed (size_mb)"
    assert "NOT TO SHIP" in (bundle / "report.html").read_text()
    assert all(ok for _, ok, _ in verify_bundle(bundle))


def test_what_a_device_finds_out_later_is_in_the_readme_too_and_goes_again(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    before = (bundle / "README.txt").read_text()
    assert "NOT TO SHIP" not in before
    add_to_report(bundle, lambda report, _: report.model_copy(update={"checks": (MISSED,)}))
    assert (bundle / "README.txt").read_text().startswith("NOT TO SHIP")
    with pytest.raises(NotToShipError, match=r"\(size_mb\).*--anyway"):
        refuse_not_to_ship(bundle)
    add_to_report(bundle, lambda report, _: report.model_copy(update={"checks": ()}))
    assert (bundle / "README.txt").read_text() == before and all(ok for _, ok, _ in verify_bundle(bundle))
    refuse_not_to_ship(bundle)
