"""`edgekd init`: a recipe for each kind of data that loads and reaches the end of the preflight, and what it tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import parser

from edgekd.base.contents import hash_file
from edgekd.cache.stage import Cache
from edgekd.check.preflight import preflight
from edgekd.check.settings import check_inputs
from edgekd.errors import RecipeError
from edgekd.recipe import AudioData, Data, Recipe, RegressTask, SegmentTask, TableData, load_recipe
from edgekd.start.write import write_recipe
from edgekd.steps.problem import problems_of
from edgekd.target import load_target
from tests.builders.pictures import png
from tests.builders.sets import coloured, every_layout, write_folders
from tests.builders.sounds import tone, write_tones, write_wav


def written(folder: Path) -> tuple[Recipe, str]:
    """The recipe, and what was told."""
    told = write_recipe(folder)
    return load_recipe(folder), told


def data_of(folder: Path) -> Data:
    recipe, _ = written(folder)
    assert isinstance(recipe.data, Data)
    return recipe.data


def pictures(folder: Path, n: int = 12) -> None:
    write_folders(folder / "photos", [(name, png(pixels)) for name, pixels in coloured(n)])


def sounds(folder: Path) -> None:
    write_tones(folder / "words", 12, 0)


def rows(folder: Path) -> None:
    draw = np.random.default_rng(0)
    lines = [f"{i},{draw.normal():.3f},{'red' if i % 3 else 'blue'},2026-11-{i % 28 + 1:02},{i % 2}" for i in range(60)]
    (folder / "rows.csv").write_text("id,width,colour,day,label\n" + "\n".join(lines) + "\n")


def masks(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / "cells" / name).mkdir(parents=True)
    for i in range(24):
        mask = np.zeros((20, 20), np.uint8)
        mask[4:12, 3 : 9 + i % 5] = 1
        grey = np.clip(mask * 150 + draw.integers(0, 60, mask.shape), 0, 255).astype(np.uint8)
        (folder / "cells" / "images" / f"{i}.png").write_bytes(png(grey))
        (folder / "cells" / "masks" / f"{i}.png").write_bytes(png(mask))


@pytest.mark.parametrize("lay", [pictures, sounds, rows, masks])
def test_a_written_recipe_passes_all_checks_before_training(lay: Callable[[Path], None], tmp_path: Path) -> None:
    lay(tmp_path)
    recipe, told = written(tmp_path)
    assert "nothing" not in told and "passed over" not in told
    recipe, target = recipe.located().canonical(), load_target("x86-cpu")
    check_inputs(recipe, target)
    with Cache(tmp_path / "cache") as run:
        preflight(run, recipe, target, problems_of(run, recipe))


def labelled(folder: Path) -> None:
    lines = [{"image": png(pixels), "labels": [name, "all"]} for name, pixels in coloured(12)]
    pq.write_table(pa.Table.from_pylist(lines), folder / "train.parquet")


def priced(folder: Path) -> None:
    (folder / "train.csv").write_text("rooms,price\n" + "\n".join(f"{i % 4},{i * 0.37:.2f}" for i in range(60)))


@pytest.mark.parametrize(
    ("lay", "teacher", "kind"),
    [
        (masks, "unet", "segment"),
        (labelled, "resnet20", "multilabel"),
        (priced, "mlp", "regress"),
        (sounds, "bc-resnet", "classify"),
    ],
)
def test_beside_a_teacher_the_losses_are_those_of_the_task(
    lay: Callable[[Path], None], teacher: str, kind: str, tmp_path: Path
) -> None:
    lay(tmp_path)
    (tmp_path / "teacher.pt2").touch()
    write_recipe(tmp_path)
    recipe = load_recipe(tmp_path, [f"teacher.model=edgekd:{teacher}", "teacher.train_epochs=1"])
    assert recipe.task.kind == kind
    recipe, target = recipe.located().canonical(), load_target("x86-cpu")
    check_inputs(recipe, target)
    with Cache(tmp_path / "cache") as run:
        preflight(run, recipe, target, problems_of(run, recipe))


def test_one_folder_of_class_folders_gives_a_share_for_the_test(tmp_path: Path) -> None:
    pictures(tmp_path)
    recipe, told = written(tmp_path)
    assert (recipe.data.train, recipe.data.test) == ("photos", 0.2)
    assert recipe.student.model == "edgekd:resnet8" and recipe.teacher is None
    assert "student: edgekd:resnet8 (for small pictures" in told
    assert "photos: 36 pictures; test = 0.2" in told and "3 classes: blue, green, red" in told


def test_every_layout_of_pictures_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    for name, path in every_layout(tmp_path / "all", coloured(12)).items():
        own = tmp_path / f"own_{name}"
        own.mkdir()
        (own / path.name).symlink_to(path)
        if path.suffix in (".csv", ".jsonl"):
            (own / "classes").symlink_to(tmp_path / "all" / "classes")
        recipe, told = written(own)
        assert recipe.data.train == path.name, name
        assert isinstance(recipe.data, Data) and "36 pictures" in told and "3 classes: blue, green, red" in told, name


def test_the_only_other_column_of_pictures_is_their_label_and_is_told(tmp_path: Path) -> None:
    rows = [{"photo": png(pixels), "colour": name} for name, pixels in coloured(12)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    recipe, told = written(tmp_path)
    assert (recipe.data.column, recipe.data.label) == ("photo", "colour")
    assert "3 classes: blue, green, red (column colour)" in told


def test_one_npz_with_arrays_of_both_splits_is_both(tmp_path: Path) -> None:
    x, y = np.zeros((30, 8, 8), np.uint8), np.arange(30) % 3
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    recipe, told = written(tmp_path)
    assert recipe.data.train == recipe.data.test == "mnist.npz" and "30 pictures; test mnist.npz: 9" in told


def test_grey_pictures_have_one_channel_and_the_mean_and_deviation_of_their_pixels(tmp_path: Path) -> None:
    for name, values in (("dark", (10, 20)), ("light", (200, 250))):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for value in values:
            grey = np.full((6, 6, 3), value, np.uint8)  # stored as colour
            (tmp_path / "scans" / name / f"{value}.png").write_bytes(png(grey))
    data = data_of(tmp_path)
    values = np.array([10, 20, 200, 250]) / 255
    assert data.channels == 1
    assert data.mean == pytest.approx((values.mean(),), abs=1e-4)
    assert data.std == pytest.approx((values.std(),), abs=1e-4)


def test_pictures_of_several_sizes_get_one_and_large_ones_a_mobilenet(tmp_path: Path) -> None:
    samples = [("a", (100, 140)), ("a", (130, 120)), ("b", (110, 110)), ("b", (150, 130))]
    write_folders(tmp_path / "photos", [(n, png(np.full((*size, 3), 90, np.uint8))) for n, size in samples])
    recipe, told = written(tmp_path)
    assert isinstance(recipe.data, Data) and recipe.data.size == (96, 96)  # the median of the shorter sides is 115
    assert recipe.student.model == "edgekd:mobilenetv2-0.35" and "4 sizes" in told


def test_sounds_get_their_rate_and_the_length_that_holds_nearly_all(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    for number, name in enumerate(("yes", "no")):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            write_wav(folder / name / f"{i}.wav", tone(400 + 900 * number, 4000 if i else 12_000, i))
    recipe, told = written(tmp_path)
    assert isinstance(recipe.data, AudioData) and recipe.student.model == "edgekd:ds-cnn"
    assert (
        recipe.data.sample_rate == 8000 and recipe.data.seconds == 0.6
    )  # 95 % of 0.5 and 1.5 s, between two of each: 0.55
    assert (recipe.data.n_fft, recipe.data.hop_length) == (256, 160)
    assert "8000 Hz, 0.50 to 1.50 s" in told and not recipe.data.resample and recipe.data.mono is None


def test_sounds_of_two_rates_and_two_channels_are_made_one(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    for name in ("yes", "no"):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            write_wav(folder / name / f"{i}.wav", tone(400, 8000, i), rate=16_000)
    write_wav(folder / "no" / "other.wav", np.stack([tone(400, 4000, 9)] * 2, 1), rate=8000)
    recipe, _ = written(tmp_path)
    assert isinstance(recipe.data, AudioData) and recipe.data.sample_rate == 16_000
    assert recipe.data.resample and recipe.data.mono == "mean"


def test_the_columns_of_a_table_are_told_apart_and_an_index_is_left_out(tmp_path: Path) -> None:
    rows(tmp_path)
    recipe, told = written(tmp_path)
    data = recipe.data
    assert isinstance(data, TableData) and recipe.student.model == "edgekd:mlp"
    assert (data.numbers, data.categories, data.dates, data.drop) == (("width",), ("colour",), ("day",), ("id",))
    assert "left out: id, which numbers the rows" in told and "2 classes: 0, 1 (column label)" in told


def test_rows_of_jsonl_and_npz_are_tables(tmp_path: Path) -> None:
    for name in ("lines", "arrays"):
        (tmp_path / name).mkdir()
    lines = [
        json.dumps({"width": i % 7 / 2, "colour": "red" if i % 3 else "blue", "label": "ab"[i % 2]}) for i in range(30)
    ]
    (tmp_path / "lines" / "train.jsonl").write_text("\n".join(lines))
    np.savez(tmp_path / "arrays" / "train.npz", x=np.arange(60.0).reshape(30, 2) ** 2, y=np.arange(30) % 2)
    for name, numbers, label in (("lines", ("width",), None), ("arrays", ("x0", "x1"), "y")):
        data = written(tmp_path / name)[0].data
        assert isinstance(data, TableData) and (data.numbers, data.label) == (numbers, label)


def test_a_csv_whose_first_line_holds_values_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n")
    assert "its first line holds values, as 5.1; write a line with the names" in write_recipe(tmp_path)


def test_a_table_of_values_is_a_regression_on_its_last_column(tmp_path: Path) -> None:
    (tmp_path / "houses.csv").write_text("rooms,price\n" + "\n".join(f"{i % 4},{i * 0.37:.2f}" for i in range(40)))
    recipe, told = written(tmp_path)
    assert isinstance(recipe.task, RegressTask) and recipe.data.label == "price"
    assert "# a fifth of train, drawn by content" in (tmp_path / "edgekd.toml").read_text()
    assert (
        "the last one: no name tells" in told and "values reach 14.43; scale them to a few units" in told
    )  # 39 * 0.37


@pytest.mark.parametrize(("different", "kind"), [(150, "regress"), (100, "classify")])
def test_very_many_whole_numbers_are_values(different: int, kind: str, tmp_path: Path) -> None:
    lines = [f"{i % 7},{float(i % different)}" for i in range(600)]  # written as 12.0
    (tmp_path / "train.csv").write_text("width,target\n" + "\n".join(lines))
    assert written(tmp_path)[0].task.kind == kind


def test_masks_give_their_classes_and_a_size_that_the_network_halves(tmp_path: Path) -> None:
    masks(tmp_path)
    recipe, told = written(tmp_path)
    assert isinstance(recipe.task, SegmentTask) and recipe.task.classes == ("background", "class 1")
    assert isinstance(recipe.data, Data) and recipe.data.size == (16, 16) and recipe.data.channels == 1
    assert recipe.student.model == "edgekd:unet" and "masks hold the numbers 0, 1" in told


def test_masks_in_parquet_have_the_names_that_the_file_gives(tmp_path: Path) -> None:
    picture, mask = png(np.zeros((16, 16, 3), np.uint8)), png(np.eye(16, dtype=np.uint8))
    table = pa.table({"image": [picture] * 4, "mask": [mask] * 4})
    pq.write_table(
        table.replace_schema_metadata({"class_names": json.dumps(["sky", "sea"])}), tmp_path / "train.parquet"
    )
    recipe, _ = written(tmp_path)
    assert isinstance(recipe.task, SegmentTask) and recipe.task.classes == ("sky", "sea")
    assert isinstance(recipe.data, Data) and recipe.data.size is None


def test_a_list_of_pictures_and_masks_beside_other_labels_names_the_masks(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.zeros((16, 16, 3), np.uint8)))
    (tmp_path / "m.png").write_bytes(png(np.eye(16, dtype=np.uint8)))
    (tmp_path / "metadata.csv").write_text("file_name,label,mask_file_name\n" + "a.png,cat,m.png\n" * 3)
    recipe, told = written(tmp_path)
    assert isinstance(recipe.task, SegmentTask) and recipe.data.label == "mask_file_name" and "3 pictures" in told


def test_objects_that_are_255_are_told_before_a_build_refuses_them(tmp_path: Path) -> None:
    masks(tmp_path)
    for file in (tmp_path / "cells" / "masks").iterdir():
        file.write_bytes(png(np.eye(20, dtype=np.uint8) * 255))
    assert "write the objects as 1, not 255" in write_recipe(tmp_path)


def test_a_teacher_dictates_the_normalisation_and_its_size_is_told_apart(tmp_path: Path) -> None:
    pictures(tmp_path)
    graph = '<ir_version: 9, opset_import: ["" : 17]> g (float[1,3,32,32] x) => (float[1,3,32,32] y) { y = Relu (x) }'
    onnx.save(parser.parse_model(graph), tmp_path / "teacher.onnx")
    (tmp_path / "teacher.pt2").touch()
    recipe, told = written(tmp_path)
    assert (
        recipe.teacher is not None and recipe.teacher.model == "onnx:teacher.onnx" and recipe.teacher.size == (32, 32)
    )
    assert isinstance(recipe.data, Data) and recipe.data.mean == (0.485, 0.456, 0.406)
    assert "TODO: mean and std that the teacher was trained with" in (tmp_path / "edgekd.toml").read_text()
    assert "teacher: teacher.onnx" in told and "passed over: teacher teacher.pt2" in told
    assert recipe.distill.losses[0].method == "kd"


def test_what_is_passed_over_is_told_with_the_reason(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"damaged")
    pq.write_table(pa.table({"text": ["a b", "c d"], "label": [0, 1]}), tmp_path / "other.parquet")
    write_folders(tmp_path / "second" / "more", [("a", b""), ("b", b"")])
    recipe, told = written(tmp_path)
    assert recipe.data.train == "photos"
    assert "train.parquet: not a parquet file that can be read" in told
    assert "passed over: second/more: another data set" in told


def test_texts_and_boxes_have_no_input_and_are_told(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": [f"say {i}" for i in range(99)], "label": [0, 1, 1] * 33}), tmp_path / "train.parquet"
    )
    told = write_recipe(tmp_path)
    assert "nothing here can be used" in told and "has no input for texts" in told
    boxes = [{"bbox": [[0.0, 0.0, 1.0, 1.0]]}] * 2
    pq.write_table(
        pa.table({"image": [png(np.zeros((4, 4, 3), np.uint8))] * 2, "objects": boxes}), tmp_path / "train.parquet"
    )
    assert "column objects holds structs, as boxes" in write_recipe(tmp_path, force=True)


def test_a_list_of_files_that_do_not_lie_there_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_id,label\n0.jpg,cat\n1.jpg,dog\n")
    told = write_recipe(tmp_path)
    assert (
        "column image_id names files, as 0.jpg, which do not lie there; paths start at the folder of the list" in told
    )


def test_what_no_recipe_can_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write_folders(tmp_path / "pho\u202etos", [(name, png(pixels)) for name, pixels in coloured(2)])
    with pytest.raises(RecipeError, match=r"U\+202E"):
        write_recipe(tmp_path)
    assert not (tmp_path / "edgekd.toml").exists()


def test_class_folders_beside_the_recipe_are_told_with_a_remedy(tmp_path: Path) -> None:
    write_folders(tmp_path, [("cats", b""), ("dogs", b"")])
    told = write_recipe(tmp_path)
    assert "the class folders cats, dogs lie where the recipe and its builds would" in told


def test_masks_without_pictures_are_told_as_such(tmp_path: Path) -> None:
    for folder, name in (("images", "a"), ("masks", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    told = write_recipe(tmp_path)
    assert "a.png without a mask of the same name" in told and "class folders" not in told


def test_several_trains_are_left_to_the_user(tmp_path: Path) -> None:
    for name in ("train_a", "train_b"):
        pq.write_table(pa.table({"x": [0, 1], "label": [0, 1]}), tmp_path / f"{name}.parquet")
    recipe, told = written(tmp_path)
    assert recipe.data.train == "data/train.parquet"
    assert "train_a.parquet: several files could be train" in told and "fill in" in told


def test_an_empty_folder_gives_a_recipe_to_fill_in(tmp_path: Path) -> None:
    recipe, told = written(tmp_path)
    assert recipe.data.train == "data/train.parquet" and "nothing was found for data.train and data.test" in told


def test_a_recipe_that_is_there_is_never_replaced_without_being_asked(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text("mine")
    before = hash_file(tmp_path / "edgekd.toml")
    with pytest.raises(RecipeError, match="--force"):
        write_recipe(tmp_path)
    assert hash_file(tmp_path / "edgekd.toml") == before
