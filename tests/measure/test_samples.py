"""What `measure --accuracy` and `verify --samples` run: a bundle's test split, or a part of it that stands for the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekd.cache.stage import Cache
from edgekd.errors import BundleError
from edgekd.measure.samples import recipe_of
from edgekd.measure.samples import samples_for_accuracy as samples_of
from edgekd.recipe import load_recipe
from edgekd.steps.problem import decoded
from tests.builders.pictures import parquet, png
from tests.builders.recipes import DIGITS, RECIPE


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle's manifest; its test split is sorted by class, and the first pixel of each picture is the class."""
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    pictures = np.random.default_rng(0).integers(0, 256, (100, 4, 4), dtype=np.uint8)
    pictures[:, 0, 0] = labels
    file = parquet(tmp_path / "test.parquet", [png(picture) for picture in pictures], labels.tolist())
    text = RECIPE.replace(f'train = "{DIGITS}"', f'train = "{file}"').replace(f'test = "{DIGITS}"', f'test = "{file}"')
    (tmp_path / "edgekd.toml").write_text(text)
    recipe = load_recipe(tmp_path).located()
    listed = dict.fromkeys(["model.onnx", "labels.txt", "golden.npz", "run.py"], "0" * 64)
    graph = {"name": "input", "dtype": "uint8", "shape": ["batch", 4, 4, 3], "layout": "NHWC"}
    manifest = {
        "input": graph,
        "format": 1,
        "files": listed,
        "golden": {"n": 1, "tolerance": 0.1},
        "recipe": recipe.model_dump(mode="json"),
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_part_of_the_test_split_has_every_class_in_its_share(bundle: Path) -> None:
    with samples_of(bundle, 20) as found:
        assert np.bincount(found.labels).tolist() == [12, 6, 2]
        assert np.load(found.file)["input"][:, 0, 0, 0].tolist() == found.labels.tolist()
    with samples_of(bundle) as whole:
        assert np.bincount(whole.labels).tolist() == [60, 30, 10]


def test_a_function_that_a_bundle_names_is_not_run(bundle: Path, tmp_path: Path) -> None:
    """Unless a build has run it here: then its samples are in the cache."""
    ran = tmp_path / "ran"
    (tmp_path / "d.py").write_text(
        f"import numpy as np, pathlib\npathlib.Path({str(ran)!r}).touch()\n"
        "def load(split):\n    return np.zeros((12, 4, 4, 3), np.uint8), np.arange(12) % 3, ['a', 'b', 'c']\n"
    )
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["recipe"]["data"].update(dict.fromkeys(("train", "test"), f"python:{tmp_path}/d.py:load"))
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"'python:.*edgekd build"), samples_of(bundle):
        pass
    assert not ran.exists()

    with Cache(tmp_path / "cache") as build:
        decoded(build, recipe_of(bundle).data, recipe_of(bundle).task)
    ran.unlink()
    with samples_of(bundle) as found:
        assert np.bincount(found.labels).tolist() == [4, 4, 4]
    assert not ran.exists()
