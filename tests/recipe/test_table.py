"""[data] with input = "table": its keys, and what a user reads whose recipe is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.check.settings import check_inputs
from edgekd.errors import RecipeError
from edgekd.recipe import RawTableData, Recipe, TableData, load_recipe
from edgekd.target import load_target

ROOT = Path(__file__).parents[2]
RECIPE = """\
[data]
input = "table"
train = "train.csv"
test = "test.csv"
drop = ["id"]
augment = { swap = 0.1 }

[student]
model = "edgekd:mlp"

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


def test_the_word_of_input_chooses_the_keys_and_is_stored(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))
    assert isinstance(recipe.data, TableData) and recipe.data.augment.swap == 0.1 and recipe.data.drop == ("id",)
    assert Recipe.model_validate(recipe.model_dump(mode="json")).data == recipe.data
    assert isinstance(load_recipe(ROOT / "examples" / "table").data, TableData)


@pytest.mark.parametrize(
    "old, new, place, told",
    [
        ('"table"', '"tabel"', "2 data.input", "Did you mean table?"),
        ("drop", "dorp", "5 data.dorp", "Did you mean drop?"),
        ("drop", 'column = "a"\ndrop', "5 data.column", "a row of a table is a sample"),
        ("drop", 'impute = "zero"\ndrop', "5 data.impute", "have: median, mean"),
        ("drop", "min_rows = 0\ndrop", "5 data.min_rows", "greater than or equal to 1"),
        ("drop", 'numbers = ["id"]\ndrop', "1 data", "name id more than once"),
        ("drop", 'label = "a"\ndates = ["a"]\ndrop', "1 data", "label = 'a' is named as a column of features too"),
        ("0.1", "1.0", "6 data.augment.swap", "less than 1"),
        ('"train.csv"', '"synthetic:dafl"', "1 data", "makes images; give a table"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, place: str, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(written(tmp_path, (old, new)))
    assert f"edgekd.toml:{place} " in str(error.value) and told in str(error.value)


def refused(folder: Path, tables: str) -> str:
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text("")
    recipe = load_recipe(written(folder, ("[student]", f"{tables}\n[student]"))).located()
    with pytest.raises(RecipeError) as told:
        check_inputs(recipe, load_target("x86-cpu"))
    return str(told.value)


def test_settings_that_tables_have_not_are_refused(tmp_path: Path) -> None:
    told = refused(
        tmp_path,
        '[teacher]\nmodel = "edgekd:mlp"\ntrain_epochs = 1\nsize = [8, 8]\nmean = [0.1]\ncolumn = "b"\n[export]\npreprocess = false\n'
        '[[tasks]]\nname = "second"\nlabel = "second"\nteacher = { model = "edgekd:mlp" }',
    )
    for key in ("teacher.size", "teacher.mean", "teacher.column", "export.preprocess", "tasks"):
        assert f"{key} " in told
    assert "the graph standardises numbers itself" in told and "tables have none" in told


def test_raw_is_of_tables_alone(tmp_path: Path) -> None:
    teacher = '[teacher]\nmodel = "edgekd:mlp"\ntrain_epochs = 1\nraw = true\n'
    recipe = load_recipe(written(tmp_path, ("[student]", f"{teacher}[student]")))
    assert isinstance(recipe.teacher_data, RawTableData) and not recipe.teacher_data.standardises
    assert recipe.data.standardises and recipe.teacher_data.source("train") == recipe.data.source("train")  # type: ignore[union-attr]
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("")
    images = written(
        tmp_path,
        ("[student]", f"{teacher}[student]"),
        ('input = "table"\n', ""),
        ('drop = ["id"]\naugment = { swap = 0.1 }\n', ""),
    )
    with pytest.raises(RecipeError, match=r'teacher.raw  true given; it is of tables, data.input = "table"'):
        check_inputs(load_recipe(images).located(), load_target("x86-cpu"))
