"""[data] with input = "audio": its keys, and what a user reads whose recipe is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.check.settings import check_inputs
from edgekd.errors import RecipeError
from edgekd.recipe import AudioData, Data, Recipe, load_recipe
from edgekd.target import load_target

ROOT = Path(__file__).parents[2]
RECIPE = """\
[data]
input = "audio"
train = "train.csv"
test = "test.csv"
sample_rate = 8000
augment = { shift_ms = 10, noise = "noise" }

[student]
model = "edgekd:ds-cnn"

[distill]
losses = []
label_weight = 1.0
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "edgekd.toml").write_text(text)
    return folder


def refusal(folder: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as told:
        load_recipe(folder, overrides)
    return str(told.value)


def test_the_word_of_input_chooses_the_keys(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))
    assert isinstance(recipe.data, AudioData) and recipe.data.augment.shift_ms == 10
    images = Recipe.model_validate(
        {"name": "a", "data": {"train": "a", "test": "b"}, "student": {"model": "edgekd:resnet8"}}
    )
    assert isinstance(images.data, Data) and images.data.input == "image"
    assert load_recipe(ROOT / "examples" / "keyword").data.sample_rate == 16000  # type: ignore[union-attr]


def test_a_stored_recipe_is_read_back_as_what_it_was(tmp_path: Path) -> None:
    """A bundle's manifest holds it; that of images knows no word of input, as before."""
    recipe = load_recipe(written(tmp_path))
    assert Recipe.model_validate(recipe.model_dump(mode="json")).data == recipe.data
    images = Recipe.model_validate(
        {"name": "a", "data": {"train": "a", "test": "b"}, "student": {"model": "edgekd:resnet8"}}
    )
    assert "input" not in images.model_dump(mode="json")["data"]


@pytest.mark.parametrize(
    "old, new, place, told",
    [
        ('"audio"', '"audoi"', "2 data.input", "Did you mean audio?"),
        ('"audio"', "3", "2 data.input", "have: image, audio"),
        ("sample_rate", "samplerate", "5 data.samplerate", "Did you mean sample_rate?"),
        ("sample_rate", "flip = true\nsample_rate", "5 data.flip", "unknown key 'flip'"),
        ("shift_ms", "shift_s", "6 data.augment.shift_s", "Did you mean shift_ms?"),
        ("8000", "8000\nmono = 'both'", "6 data.mono", "have: mean, left, right"),
        ("8000", "8000\nf_max = 5000", "1 data", "hold up to 4000 Hz"),
        ("8000", "8000\nf_min = 4000", "1 data", "must lie below f_max, 4000"),
        ("8000", "8000\nn_mfcc = 41", "1 data", "of 40 mel bands"),
        ("8000", "8000\nhop_length = 513", "1 data", "samples between windows are unread"),
        ("8000", "8000\nseconds = 3600", "1 data", "a sound has at most"),
        ("10,", "10, noise_snr_db = [9, 1],", "6 data.augment", "write the lower ratio first"),
        ('"train.csv"', '"synthetic:dafl"', "1 data", "makes images; give recorded sounds"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, place: str, told: str) -> None:
    text = refusal(written(tmp_path, (old, new)))
    assert f"edgekd.toml:{place} " in text and told in text and "audio data" not in text


def test_an_override_is_named_as_such(tmp_path: Path) -> None:
    assert "--set data.hop_length" in refusal(written(tmp_path), "data.hop_length=x")
    assert "--set data.size" in refusal(written(tmp_path), "data.size=[1, 2]")


def test_paths_start_at_the_recipes_folder_and_missing_ones_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path)).located()
    assert isinstance(recipe.data, AudioData) and recipe.data.augment.noise == str(tmp_path / "noise")
    with pytest.raises(RecipeError) as told:
        check_inputs(recipe, load_target("x86-cpu"))
    for key in ("data.train", "data.test", "data.augment.noise"):
        assert f"{key} " in str(told.value)


def test_settings_of_images_are_refused_elsewhere_too(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "noise"):
        (tmp_path / name).write_text("")
    tables = '[teacher]\nmodel = "edgekd:ds-cnn"\ntrain_epochs = 1\nsize = [8, 8]\nmean = [0.1]\n[export]\npreprocess = false\n[student]'
    recipe = load_recipe(written(tmp_path, ("[student]", tables))).located()
    with pytest.raises(RecipeError) as told:
        check_inputs(recipe, load_target("x86-cpu"))
    for key in ("teacher.size", "teacher.mean", "export.preprocess"):
        assert f"{key} " in str(told.value)
