"""A bundle of a model with two inputs and a free size: written, verified, predicted, measured, compared and shipped by their names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.base.arrays import write_arrays
from edgekd.base.contents import hash_file
from edgekd.bundle.golden import Golden
from edgekd.bundle.read import read_manifest
from edgekd.bundle.write import trtexec_lines, verify_bundle
from edgekd.errors import BundleError
from edgekd.measure.compare import compare_on
from edgekd.measure.devices.local import Local
from edgekd.measure.on_candidates import measure_candidates
from edgekd.measure.on_device import OnDevice, Options, Samples, figures_of, measure_on, ship_to, trial_of, verify_on
from edgekd.measure.side_by_side import measure_all
from edgekd.measure.timings import time_models
from edgekd.target import load_target
from edgekd.tasks.classify import Classify
from tests.builders.bundles import WORDS, failures, listed, meanings, sentences, target, write
from tests.builders.measuring import SHORT as SHORT_HERE

SHORT = Options(warmup_s=0.02, block_s=0.02, min_n=30, batches=(1, 4))
LENGTH = {"length": 8}
HERE = "x86-cpu" if os.uname().machine == "x86_64" else "raspberry-pi-5"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("words"), WORDS, at_most=LENGTH)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundle")


def run(bundle: Path, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-B", str(bundle / "run.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout + done.stderr


# -------------------------------------------------------------------------------------------------------------- the files


def test_the_manifest_tells_each_input_and_the_archive_holds_it_by_name(made: Path) -> None:
    found, shape = listed(made), ["batch", "length"]

    assert found["input"] == {"name": "ids", "dtype": "int64", "shape": shape, "layout": "", "at_most": LENGTH}
    (mask,) = found["further_inputs"]
    assert mask == {"name": "mask", "dtype": "float32", "shape": shape, "layout": "", "at_most": LENGTH}
    with np.load(made / "golden.npz") as stored:
        assert stored.files == ["inputs", "inputs.mask", "outputs"]
        np.testing.assert_array_equal(stored["inputs.mask"], sentences(16, 6)["mask"])


def test_what_was_written_is_read_by_name(made: Path) -> None:
    manifest = read_manifest(made)
    golden = Golden.read(made, manifest)

    assert [table.name for table in manifest.inputs] == list(golden.inputs) == ["ids", "mask"]
    assert len(golden) == golden.about.n == 16
    np.testing.assert_array_equal(golden.inputs["ids"], sentences(16, 6)["ids"])


def test_golden_outputs_are_computed_from_inputs_in_any_order(made: Path) -> None:
    inputs = sentences(3, 4)
    golden = Golden.of(made / "model.onnx", {"mask": inputs["mask"], "ids": inputs["ids"]}, share=0.01)

    assert list(golden.inputs) == ["ids", "mask"]
    np.testing.assert_allclose(golden.outputs[""], meanings(inputs), atol=1e-6)


def test_a_bundle_of_one_input_has_no_key_of_further_ones(tmp_path: Path) -> None:
    bundle = write(tmp_path)

    assert "further_inputs" not in listed(bundle) and "at_most" not in listed(bundle)["input"]
    with np.load(bundle / "golden.npz") as stored:
        assert stored.files == ["inputs", "outputs"]


def test_the_readme_names_a_file_that_the_model_takes(made: Path) -> None:
    assert (
        "run.py sample.npz" in (made / "README.txt").read_text() and "cat.png" not in (made / "README.txt").read_text()
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"golden": ["mask", "ids"]}, r"golden inputs \['mask', 'ids'\]; .* takes \['ids', 'mask'\], in this order"),
        ({"golden": ["ids"]}, r"golden inputs \['ids'\]"),
        ({"at_most": {"depth": 3}}, r"at_most bounds \['depth'\]"),
        ({"at_most": {"batch": 3}}, r"at_most bounds \['batch'\], which is no free size .* but their batch"),
    ],
)
def test_what_does_not_fit_the_model_is_not_written(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    if "golden" in changes:
        inputs = sentences(4, 6)
        outputs = meanings(inputs)
        changes = {"golden": Golden({n: inputs[n] for n in changes["golden"]}, {"": outputs}, {"": 1e-5})}
    with pytest.raises(BundleError, match=told):
        write(tmp_path, WORDS, **changes)


@pytest.mark.parametrize("rows", [{"ids": 3, "mask": 2}, {"ids": 0, "mask": 0}, {}])
def test_inputs_of_unequal_numbers_of_samples_are_no_golden_ones(rows: dict[str, int]) -> None:
    inputs = {name: np.zeros((n, 6), np.float32) for name, n in rows.items()}
    with pytest.raises(BundleError, match="as many of each, and one at least"):
        Golden(inputs, {"": np.zeros((3, 3), np.float32)}, {"": 1e-5})


def store(bundle: Path, **arrays: Any) -> None:
    """Another golden.npz, as the manifest lists it; None leaves an array out."""
    with np.load(bundle / "golden.npz") as stored:
        found = {**{name: stored[name] for name in stored.files}, **arrays}
    write_arrays(bundle / "golden.npz", {name: array for name, array in found.items() if array is not None})
    files = {**listed(bundle)["files"], "golden.npz": hash_file(bundle / "golden.npz")}
    (bundle / "manifest.json").write_text(json.dumps({**listed(bundle), "files": files}))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"inputs.mask": None}, "for input 'mask'; the graph takes float32 ['batch', 'length']"),
        ({"inputs.mask": np.ones((16, 6), np.int64)}, "holds int64 [16, 6] for input 'mask'"),
        ({"inputs.mask": np.ones((16, 6, 1), np.float32)}, "holds float32 [16, 6, 1] for input 'mask'"),
        ({"inputs.mask": np.ones((15, 6), np.float32)}, "there are 16 samples of 'ids', 15 samples of 'mask'"),
        ({"inputs.mask": np.ones((16, 5), np.float32)}, "the size 'length' is 6 in 'ids' and 5 in 'mask'"),
        ({"inputs.type": np.ones((16, 6), np.float32)}, "holds 'inputs.type'; the graph takes 'ids' int64"),
        (
            {"inputs": np.zeros((16, 9), np.int64), "inputs.mask": np.ones((16, 9), np.float32)},
            "the size 'length' is 9 in 'ids'; it is at most 8",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stored_inputs_that_the_graph_does_not_take_are_refused_by_name(
    bundle: Path, arrays: dict[str, Any], told: str
) -> None:
    store(bundle, **arrays)

    with pytest.raises(BundleError) as error:
        verify_bundle(bundle)
    assert told in str(error.value)
    assert told in run(bundle, "--verify", code=2)


# ----------------------------------------------------------------------------------------------------------------- run.py


def test_every_machine_proves_it(made: Path) -> None:
    assert failures(made) == {}
    assert "top-1 agrees on 16 of 16" in run(made, "--verify")
    text = run(made, "--bench", "--warmup-s", "0", "--block-s", "0", "--min-n", "5")
    assert "batch 1, 1 thread(s), n 15" in text


def given(folder: Path, **arrays: Any) -> str:
    file = folder / "given.npz"
    np.savez(file, **arrays)
    return str(file)


def test_a_sample_by_input_name_is_predicted(made: Path, tmp_path: Path) -> None:
    """Words 1 and 3 mean (0, 3, 0) and (1, 1, 0), padding nothing: logits 0.5, 2 and 0, so e² / (e² + e^0.5 + 1) = 73.61 %."""
    text = run(made, given(tmp_path, mask=np.float32([1, 1, 0]), ids=np.int64([1, 3, 0])))

    assert text.splitlines()[0] == " 73.61 %  green"


def test_each_sample_of_a_batch_is_predicted(made: Path, tmp_path: Path) -> None:
    text = run(made, given(tmp_path, ids=np.int64([[0], [2]]), mask=np.ones((2, 1), np.float32))).splitlines()

    assert [text[0], text[4]] == ["sample 1:", "sample 2:"]
    assert text[1].endswith("red") and text[5].endswith("blue")


def test_a_model_of_one_input_takes_an_archive_too_and_a_batch_either_way(tmp_path: Path) -> None:
    """Two white pictures: each colour is as likely as the others, and each picture has its own lines."""
    bundle, white = write(tmp_path), np.full((2, 4, 4, 3), 255, np.uint8)
    np.save(tmp_path / "white.npy", white)
    for file in (given(tmp_path, image=white), str(tmp_path / "white.npy")):
        text = run(bundle, file)
        assert text.count("33.33 %") == 6 and "class" not in text


IDS, MASK = np.int64([[0, 1]]), np.float32([[1, 1]])


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (
            {"ids": IDS},
            "lacks 'mask'; the graph takes 'ids' int64 ['batch', 'length'], 'mask' float32 ['batch', 'length']",
        ),
        ({"ids": IDS, "mask": MASK, "type": IDS}, "holds 'type', which is no input; the graph takes 'ids'"),
        (
            {"ids": IDS.astype(np.int32), "mask": MASK},
            "'ids' is int32 [1, 2]; the graph takes int64 ['batch', 'length']",
        ),
        ({"ids": IDS, "mask": MASK[None]}, "'mask' is float32 [1, 1, 2]; the graph takes float32 ['batch', 'length']"),
        ({"ids": IDS, "mask": MASK[:, :1]}, "the size 'length' is 2 in 'ids' and 1 in 'mask'"),
        ({"ids": IDS, "mask": np.ones((2, 2), np.float32)}, "the size 'batch' is 1 in 'ids' and 2 in 'mask'"),
        (
            {"ids": np.zeros(9, np.int64), "mask": np.ones(9, np.float32)},
            "the size 'length' is 9 in 'ids'; it is at most 8",
        ),
        ({"ids": IDS + 5, "mask": MASK}, "the model does not run on"),
        ({"ids": np.array([print]), "mask": MASK}, "cannot be read as arrays"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_wrong_with_an_input_is_told_in_a_line(
    made: Path, tmp_path: Path, arrays: dict[str, Any], told: str
) -> None:
    text = run(made, given(tmp_path, **arrays), code=2)

    *_, last = text.splitlines()  # onnxruntime may say a line of its own before
    assert last.startswith("error: ") and told in last


@pytest.mark.parametrize("name", ["cat.png", "x.npy"])
def test_a_model_of_several_inputs_takes_neither_a_picture_nor_one_array(made: Path, name: str) -> None:
    assert "this model takes 2 inputs: give an .npz with an array for each by its name" in run(made, name, code=2)


def test_no_array_in_an_archive_s_place_is_told(made: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("no archive")
    assert "cannot be read as arrays" in run(made, str(tmp_path / "x.npz"), code=2)
    assert "cannot be read as arrays" in run(made, str(tmp_path / "absent.npz"), code=2)


# -------------------------------------------------------------------------------------------------------------- on a device


def test_it_is_measured_with_its_accuracy(made: Path, tmp_path: Path) -> None:
    """The samples go there by input name; two of eight labels are wrong on purpose."""
    inputs = sentences(8, 5)
    labels = meanings(inputs).argmax(1)
    labels[:2] = (labels[:2] + 1) % 3
    write_arrays(tmp_path / "samples.npz", inputs)
    samples = Samples(tmp_path / "samples.npz", labels, Classify(("red", "green", "blue")))

    found = measure_on(Local("here", str(tmp_path / "work")), trial_of(made), SHORT, samples)

    assert found.golden_ok and [one.batch_size for one in found.latencies] == [1, 4]
    assert found.score is not None and found.score.value == 75.0
    assert found.load_ms is not None


def test_the_command_measures_it_into_its_report(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (found,), report = measure_all(bundle, ["local"], SHORT)

    assert found.golden_ok and report.devices == (found,) and failures(bundle) == {}
    assert listed(bundle)["further_inputs"][0]["name"] == "mask"


def test_the_runner_alone_measures_it(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-B", str(bundle / "device_runner.py"), "--warmup-s", "0.02", "--block-s", "0.02"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0 and "top-1 agrees on 16 of 16" in done.stdout, done.stdout + done.stderr
    assert figures_of(tmp_path / "figures.json", trial_of(bundle), "far").golden_ok


def test_it_is_verified_compared_and_shipped(made: Path, tmp_path: Path) -> None:
    device = Local("here", str(tmp_path / "work"))

    assert "top-1 agrees on 16 of 16" in verify_on(device, made).detail
    rows = {what: (ok, detail) for what, ok, detail in compare_on(device, made)}
    assert all(ok for ok, _ in rows.values()) and "bit-equal" in rows["stored outputs on here"][1]
    assert "5 tensors inside the graph" in rows
    ship_to(device, made, str(tmp_path / "place"))
    assert "FAILED" not in run(tmp_path / "place", "--verify")


def test_candidates_are_measured_and_timed(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = made / "model.onnx"
    golden = Golden.of(model, sentences(4, 6), share=1e-3)

    found = measure_candidates("local", load_target(HERE), {"fp32": (model, golden)}, LENGTH)["fp32"]

    assert isinstance(found, OnDevice) and found.golden_ok and found.latencies


def test_models_are_timed_here_with_their_memory(made: Path) -> None:
    found = time_models({"fp32": made / "model.onnx"}, sentences(1, 6), {}, SHORT_HERE)

    assert found.failed == {} and len(found.series["fp32"].blocks_ms) == 3 and "fp32" in found.memory_mb


# ---------------------------------------------------------------------------------------------------------------- TensorRT


def test_an_engine_s_commands_name_every_input_s_sizes(tmp_path: Path) -> None:
    bundle = write(tmp_path, WORDS, target=target("tensorrt"), at_most=LENGTH)
    lines = listed(bundle)["trtexec"]

    assert set(lines) == {"8", "10", "11"}
    for line in lines.values():
        assert "--minShapes=ids:1x1,mask:1x1 --optShapes=ids:1x8,mask:1x8 --maxShapes=ids:1x8,mask:1x8" in line


def test_a_free_size_without_a_bound_gives_no_command(made: Path) -> None:
    unbounded = [table.model_copy(update={"at_most": {}}) for table in read_manifest(made).inputs]
    assert trtexec_lines(unbounded, "fp32") == {}


def test_the_builder_prints_commands_that_compare_every_input(tmp_path: Path) -> None:
    bundle = write(tmp_path, WORDS, target=target("tensorrt"), at_most=LENGTH)
    command = [sys.executable, "-B", str(bundle / "build_engine.py"), "--trtexec", "--max-batch", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert "--shapes=ids:2x6,mask:2x6" in last  # the stored sentences have six words, an engine's usual ones eight
    assert "--loadInputs=ids:reference_input.bin,mask:reference_input_1.bin" in last
    assert (bundle / "reference_input_1.bin").read_bytes() == sentences(16, 6)["mask"][:2].tobytes()
    assert failures(bundle) == {} and "FAILED" not in run(bundle, "--verify")
