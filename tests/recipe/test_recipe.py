"""What a recipe says, and what a user reads whose recipe is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

import edgekd.recipe
from edgekd.base.toml_file import refuse
from edgekd.check.settings import check_inputs, impossible_settings
from edgekd.distill.methods.declare import Method, about, method
from edgekd.errors import RecipeError
from edgekd.recipe import Recipe, load_recipe
from edgekd.recipe.losses import check_losses
from edgekd.target import Runtime, Target, load_target

ROOT = Path(__file__).parents[2]
RECIPE = """\
[data]
train = "train.parquet"
test = "test.parquet"

[teacher]
model = "exported:teacher.pt2"

[student]
model = "edgekd:resnet8"

[distill]
epochs = 2

[[distill.losses]]
method = "kd"
temperature = 2.0

[[distill.losses]]
method = "fitnet"
layers = { "layer3" = "layer3" }
"""


@method()
def kd(z_s: Any, z_t: Any, *, temperature: Annotated[float, Field(gt=0)] = 4.0, standardize: bool = False) -> None: ...


@method()
class Fitnet:
    def __init__(self, *, steps: int = 1, norm: str = "l2", widths: dict[str, int] | None = None) -> None: ...

    def forward(self, f_s: Any, f_t: Any) -> None: ...


@method()
def rkd(z_s: Any, z_t: Any, *, distance: float, angle: float = 2.0) -> None: ...


METHODS: dict[str, Method] = {"kd": about(kd), "fitnet": about(Fitnet), "rkd": about(rkd)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "flowers"
    folder.mkdir()
    (folder / "edgekd.toml").write_text(RECIPE)
    return folder


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "edgekd.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def mistakes(path: Path, *overrides: str) -> list[tuple[str, str]]:
    """The table of the refusal: place and text of each."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides, METHODS)
    head, *rows = str(caught.value).splitlines()
    assert head == f"{len(rows)} mistake{'s' * (len(rows) > 1)} in {path / 'edgekd.toml'}:"
    cells = [row.strip().split("  ", 1) for row in rows]
    return [(place, text.strip()) for place, text in cells]


def refusal(path: Path | None) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return str(caught.value)


# What a recipe says


def test_a_folder_is_read_from_its_edgekd_toml_and_gives_the_name(folder: Path) -> None:
    recipe = load_recipe(folder, methods=METHODS)
    assert (recipe.name, recipe.folder) == ("flowers", folder)
    assert recipe.distill.epochs == 2
    assert [(loss.method, loss.options, loss.layers) for loss in recipe.distill.losses] == [
        ("kd", {"temperature": 2.0}, {}),
        ("fitnet", {}, {"layer3": "layer3"}),
    ]


def test_a_file_of_another_name_gives_the_name(folder: Path) -> None:
    file = (folder / "edgekd.toml").rename(folder / "roses.toml")
    assert load_recipe(file).name == "roses"


def test_a_name_in_the_file_wins(folder: Path) -> None:
    change(folder, "[data]", 'name = "tulips"\n[data]')
    assert load_recipe(folder).name == "tulips"


def test_without_a_path_the_current_folder_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_recipe().folder == folder


def test_without_losses_the_default_is_kd_at_09_and_labels_at_01(folder: Path) -> None:
    recipe = load_recipe(folder)
    default = Recipe(name="a", data=recipe.data, teacher=recipe.teacher, student=recipe.student).distill
    assert [(loss.method, loss.weight) for loss in default.losses] == [("kd", 0.9)]
    assert default.label_weight == 0.1


def test_relative_paths_start_at_the_recipes_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    recipe = load_recipe(folder)
    assert recipe.data.train == "train.parquet"
    assert recipe.located().data.train == str(folder / "train.parquet")


@pytest.mark.parametrize(
    ("given", "located"),
    [
        ("~/train.parquet", "/home/me/train.parquet"),
        ("/data/train.parquet", "/data/train.parquet"),
        ("python:package.module:load", "python:package.module:load"),
    ],
)
def test_home_absolute_paths_and_functions_stay_what_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: str, located: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    recipe = load_recipe(folder)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": given})})
    assert recipe.located().data.train == located


def test_the_folder_is_no_part_of_what_is_stored(folder: Path) -> None:
    assert "folder" not in load_recipe(folder).model_dump()


def test_the_example_is_a_recipe_of_at_most_25_lines() -> None:
    file = ROOT / "examples" / "cifar10" / "edgekd.toml"
    recipe = load_recipe(file)
    assert len(file.read_text().splitlines()) <= 25
    assert (recipe.name, recipe.student.model, recipe.quantize.mode) == ("cifar10", "edgekd:resnet8", "qat")
    check_target(recipe, load_target("jetson"))


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'tensorrt', 'numpy'}"
    code = f"import edgekd.recipe, sys; print(sorted({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(edgekd.recipe.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distill.epochs=5", 5),
        ("distill.epochs = 5", 5),
        ("distill.losses.0.temperature=3", 3),
        ('distill.losses.1.layers."block.0"=stem', "stem"),
        ("quantize.mode=qat", "qat"),
        ('quantize.mode="qat"', "qat"),
        ("data.augment.flip=true", True),
        ("data.size=[32, 24]", (32, 24)),
        ("budget.p90_latency_ms=1.5", 1.5),
        ("name=2026-11-01", "2026-11-01"),
        ("name=a = b", "a = b"),
    ],
)
def test_an_override_is_a_toml_value_or_plain_text(folder: Path, override: str, expected: object) -> None:
    recipe = load_recipe(folder, [override], METHODS)
    found: Any = recipe.model_dump() | {"folder": None}
    for step in override.partition("=")[0].strip().replace('"block.0"', "block/0").split("."):
        key = step.replace("/", ".")
        found = found[int(key)] if key.isdecimal() else found[key]
    assert found == expected


def test_the_last_of_two_overrides_wins(folder: Path) -> None:
    assert load_recipe(folder, ["distill.epochs=5", "distill.epochs=6"]).distill.epochs == 6


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data.train", "flowers/train", "{here}/flowers/train"),
        ("data.train", "train", "{here}/train"),
        ("data.train", "~/train", "/home/me/train"),
        ("data.train", "/data/train", "/data/train"),
        ("data.train", "python:flowers.data:train", "python:flowers.data:train"),
        ("data.train", "python:./data.py:train", "python:{here}/data.py:train"),
        ("teacher.weights", "teacher.pt", "{here}/teacher.pt"),
        ("teacher.weights", "imagenet", "imagenet"),
        ("teacher.model", "exported:teacher.pt2", "exported:{here}/teacher.pt2"),
        ("teacher.model", "onnx:/models/a.onnx", "onnx:/models/a.onnx"),
        ("student.model", "python:nets/small.py:build", "python:{here}/nets/small.py:build"),
        ("student.model", "timm:resnet18", "timm:resnet18"),
        ("student.model", "edgekd:resnet8", "edgekd:resnet8"),
    ],
)
def test_a_relative_path_of_an_override_starts_where_the_user_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, expected: str
) -> None:
    here = folder.parent
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/me")
    table, field = key.split(".")
    recipe = load_recipe(folder, [f"{key}={value}"])
    assert recipe.model_dump()[table][field] == expected.format(here=here)


@pytest.mark.parametrize(
    ("override", "place", "text"),
    [
        ("distill.epochs", "--set distill.epochs", "distill.epochs=5"),
        ("a..b=1", "--set a..b", "distill.losses.0.weight"),
        ("distill.epochs.x=1", "--set distill.epochs.x", "is 2, not a table"),
        (
            "distill.losses.2.weight=1",
            "--set distill.losses.2.weight",
            "has 2, counted from 0",
        ),
        ("distill.epochs=-1", "--set distill.epochs", "-1 given; should be greater than or equal to 1"),
        ("distill.losses.0.temperature=0", "--set distill.losses.0.temperature", "0 given; should be greater than 0"),
        (
            'distill.losses=[{method="kd", temperature=0}]',
            "--set distill.losses.0.temperature",
            "0 given; should be greater than 0",
        ),
        ("quantize=qat", "--set quantize", '"qat" given; should be a table'),
        ("quantize.mode=qad", "--set quantize.mode", '"qad" given; have: ptq, qat, auto, none. Did you mean qat?'),
        (
            "quantise.mode=qat",
            "--set quantise.mode",
            "Did you mean quantize?",
        ),
    ],
)
def test_a_wrong_override_is_told_by_its_key(folder: Path, override: str, place: str, text: str) -> None:
    [(where, told)] = mistakes(folder, override)
    assert where == place and text in told


def test_an_override_into_losses_that_the_file_does_not_state_is_refused(folder: Path) -> None:
    (folder / "edgekd.toml").write_text(RECIPE[: RECIPE.index("[[distill")])
    [(where, told)] = mistakes(folder, "distill.losses.0.temperature=2")
    assert where == "--set distill.losses.0.temperature" and "--set 'distill.losses=[...]'" in told


# Mistakes in the file


@pytest.mark.parametrize(
    ("old", "new", "place", "text"),
    [
        ("epochs = 2", "epochs = -2", "12 distill.epochs", "-2 given; should be greater than or equal to 1"),
        ("epochs = 2", 'epochs = "2"', "12 distill.epochs", '"2" given; should be a valid integer'),
        ("epochs = 2", "epochs = 2.0", "12 distill.epochs", "2.0 given; should be a valid integer"),
        ("epochs = 2", "epochs = true", "12 distill.epochs", "true given; should be a valid integer"),
        ("epochs = 2", "label_weight = nan", "12 distill.label_weight", "NaN given; should be"),
        ("epochs = 2", "optimizer.lr = inf", "12 distill.optimizer.lr", "Infinity given; should be a finite number"),
        ("epochs = 2", "optimizer.momentum = 1", "12 distill.optimizer.momentum", "1 given; should be less than 1"),
        ("[distill]", "[distill]\nloses = 3", "12 distill.loses", "Did you mean losses?"),
        ('test = "test.parquet"', "", "1 data.test", "missing; it is required"),
        ('[student]\nmodel = "edgekd:resnet8"', "", " student", "missing; write this table with: model"),
        ('test = "test.parquet"', 'test = ""', "3 data.test", '"" given; name test samples of their own'),
        ('test = "test.parquet"', "test = 2026-11-01", "3 data.test", "write it in quotes"),
        ("[teacher]", "size = [\n32,\n0]\n[teacher]", "5 data.size.1", "0 given; should be greater than or equal to 1"),
        ("[teacher]", "std = [0.5]\n[teacher]", "1 data", "mean has 3 channels, std has 1"),
        ("[data]", 'folder = "x"\n[data]', "1 folder", "unknown key 'folder'"),
        (
            "temperature = 2.0",
            "temperature = 0",
            "16 distill.losses.0.temperature",
            "0 given; should be greater than 0",
        ),
        ("temperature = 2.0", "temperature = inf", "16 distill.losses.0.temperature", "should be a finite number"),
        ("temperature = 2.0", 'temperature = "2"', "16 distill.losses.0.temperature", '"2" given; should be a valid'),
        (
            "temperature = 2.0",
            "standardize = 1",
            "16 distill.losses.0.standardize",
            "1 given; should be a valid boolean",
        ),
        ("temperature = 2.0", "weight = -1", "16 distill.losses.0.weight", "-1 given; should be greater than or equal"),
        (
            "temperature = 2.0",
            "temprature = 2.0",
            "16 distill.losses.0.temprature",
            "Did you mean temperature?",
        ),
        (
            'method = "kd"',
            'method = "kdd"',
            "15 distill.losses.0.method",
            "'kdd' not found; have: kd, fitnet, rkd.",
        ),
        ('method = "kd"', "", "14 distill.losses.0.method", "missing; it is required"),
        (
            'layers = { "layer3"',
            'layer = { "layer3"',
            "18 distill.losses.1.layers",
            'layers = { "layer3" = "layer3" }',
        ),
        ('layers = { "layer3"', 'layer = { "layer3"', "20 distill.losses.1.layer", "Did you mean layers?"),
        ("temperature = 2.0", 'layers = { a = "b" }', "16 distill.losses.0.layers", "method kd reads logits only"),
        (
            'method = "kd"\ntemperature',
            'method = "rkd"\nangle',
            "14 distill.losses.0.distance",
            "method rkd requires it",
        ),
        (
            "layers =",
            "widths = { a = 1.5 }\nlayers =",
            "20 distill.losses.1.widths.a",
            "1.5 given; should be a valid int",
        ),
        ('"layer3" }', "3 }", "20 distill.losses.1.layers", '{"layer3": 3} given; write { student path ='),
        ("layers =", "steps = 1.5\nlayers =", "20 distill.losses.1.steps", "1.5 given; should be a valid integer"),
        ("layers =", "norm = 2\nlayers =", "20 distill.losses.1.norm", "2 given; should be a valid string"),
    ],
)
def test_a_mistake_is_told_with_its_line(folder: Path, old: str, new: str, place: str, text: str) -> None:
    change(folder, old, new)
    found = dict(mistakes(folder))
    where = f"edgekd.toml{place}" if place.startswith(" ") else f"edgekd.toml:{place}"
    assert text in found[where]


def test_a_recipe_that_learns_from_nothing_is_refused(folder: Path) -> None:
    (folder / "edgekd.toml").write_text(RECIPE[: RECIPE.index("[[distill")] + "losses = []\nlabel_weight = 0\n")
    [(place, text)] = mistakes(folder)
    assert place == "edgekd.toml:11 distill"
    assert "nothing to learn from" in text


def test_all_mistakes_come_at_once(folder: Path) -> None:
    change(folder, "epochs = 2", "epoch = 2")
    change(folder, "temperature = 2.0", "temperature = -1")
    change(folder, 'test = "test.parquet"\n', "")
    places = [place for place, _ in mistakes(folder, "distill.views=0", "foo", "distill.losses.1.steps=x")]
    assert sorted(places) == [
        "--set distill.losses.1.steps",
        "--set distill.views",
        "--set foo",
        "edgekd.toml:1 data.test",
        "edgekd.toml:11 distill.epoch",
        "edgekd.toml:15 distill.losses.0.temperature",
    ]


def test_a_syntax_error_has_line_and_column(folder: Path) -> None:
    change(folder, "epochs = 2", "epochs = = 2")
    assert refusal(folder) == "edgekd.toml:12 column 10: not TOML: Invalid value"


def test_a_folder_without_a_recipe_is_told_what_to_do(tmp_path: Path) -> None:
    text = refusal(tmp_path)
    assert text.startswith(f"{tmp_path / 'edgekd.toml'} does not exist.")
    assert "`edgekd init`" in text


def test_a_misspelt_file_is_refused_with_the_nearest(folder: Path) -> None:
    assert "; have: edgekd.toml. Did you mean edgekd.toml?" in refusal(folder / "edgkd.toml")


def test_a_file_that_is_no_toml_is_refused(folder: Path) -> None:
    file = (folder / "edgekd.toml").rename(folder / "recipe.txt")
    assert refusal(file) == f"{file} is no recipe: give a folder with edgekd.toml, or a .toml file"


# Losses, as a step of its own


def test_losses_that_fit_have_no_mistakes(folder: Path) -> None:
    assert check_losses(load_recipe(folder).distill.losses, METHODS) == []


def test_losses_are_checked_against_the_signatures(folder: Path) -> None:
    recipe = load_recipe(folder, ["distill.losses.0.temperature=-2", "distill.losses.1.method=fitnets"])
    assert check_losses(recipe.distill.losses, METHODS) == [
        "distill.losses.0.temperature: -2 given; should be greater than 0",
        "distill.losses.1.method: method 'fitnets' not found; have: kd, fitnet, rkd. Did you mean fitnet?",
    ]


# The recipe and the device


def check_target(recipe: Recipe, target: Target) -> None:
    refuse(f"recipe {recipe.name} for target {target.name}", list(impossible_settings(recipe, target)))


def test_every_missing_file_is_told_at_once_with_what_the_device_cannot_run(folder: Path) -> None:
    (folder / "train.parquet").touch()
    overrides = ["data.train=train.parquet", "data.test=gone.parquet", "student.weights=gone.safetensors"]
    recipe = load_recipe(folder, [*overrides, "teacher.model=onnx:gone.onnx", "student.model=resnet8"])
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"train": "train.parquet", "test": "gone.parquet"})}
    )
    with pytest.raises(RecipeError) as error:
        check_inputs(recipe.located(), fp32_only())
    places = [line.strip().split("  ")[0].split()[-1] for line in str(error.value).splitlines()[1:]]
    assert places == ["data.test", "teacher.model", "student.weights", "quantize.mode", "student.model"]


def test_classes_of_the_data_beside_another_task_are_refused_with_the_right_key(folder: Path) -> None:
    recipe = load_recipe(folder, ['data.classes=["sky", "sea"]', "task.kind=multilabel"])
    with pytest.raises(RecipeError, match=r"data\.classes  given beside task\.kind = .*write task\.classes"):
        check_target(recipe, load_target("x86-cpu"))


@pytest.mark.parametrize(
    ("override", "kind", "told"),
    [
        ("distill.class_weights=balanced", "segment", r"class_weights  given .*\"segment\"; write task\.class_weights"),
        ("distill.class_weights=[1.0, 2.0]", "multilabel", r"class_weights  given .*leave it out"),
        ("distill.sampling=balanced", "regress", r"sampling  given .*leave it out"),
    ],
)
def test_weights_and_sampling_by_class_are_refused_for_tasks_without_classes(
    folder: Path, override: str, kind: str, told: str
) -> None:
    classes = ['task.classes=["sky", "sea"]'] if kind == "segment" else []
    recipe = load_recipe(folder, [override, f"task.kind={kind}", *classes])
    with pytest.raises(RecipeError, match=rf"distill\.{told}"):
        check_target(recipe, load_target("x86-cpu"))


@pytest.mark.parametrize("given", ["balance", "[0, 1]", "[]", "[true, 1]", '["1"]', "2.0"])
def test_class_weights_that_are_none_are_refused_in_one_line(folder: Path, given: str) -> None:
    with pytest.raises(RecipeError, match=r"1 mistake") as error:
        load_recipe(folder, [f"distill.class_weights={given}"])
    assert 'write "balanced", or a number above 0 for each class' in str(error.value)


def test_class_weights_without_a_label_loss_are_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"class_weights are given and label_weight is 0"):
        load_recipe(folder, ["distill.class_weights=balanced", "distill.label_weight=0"])


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ('["sky"]', "1 given; at least two"),
        ('["a", "a"]', "a given more than once"),
        ('["a", ""]', "at least 1 character"),
    ],
)
def test_classes_that_are_no_two_names_are_refused(folder: Path, classes: str, told: str) -> None:
    with pytest.raises(RecipeError, match=r"data\.classes") as error:
        load_recipe(folder, [f"data.classes={classes}"])
    assert told in str(error.value)


def fp32_only() -> Target:
    target = load_target("x86-cpu")
    runtime = Runtime(**{**target.runtime.model_dump(), "precisions": ("fp32",)})
    return target.model_copy(update={"runtime": runtime})


def test_int8_on_a_device_without_it_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r'quantize\.mode  "ptq" .*fp32.*Write mode ='):
        check_target(load_recipe(folder), fp32_only())
    check_target(load_recipe(folder, ["quantize.mode=none"]), fp32_only())


def test_int8_on_a_device_without_a_scheme_is_refused(folder: Path) -> None:
    target = load_target("x86-cpu").model_copy(update={"quantization": None})
    with pytest.raises(RecipeError, match=r'"qat" .*int8 scheme.*Write mode = "none"'):
        check_target(load_recipe(folder, ["quantize.mode=qat"]), target)


def test_an_opset_above_the_runtimes_is_refused(folder: Path) -> None:
    recipe = load_recipe(folder, ["export.opset=20"])
    with pytest.raises(RecipeError, match=r"export\.opset  20 .*jetson-xavier-nx .*up to 17"):
        check_target(recipe, load_target("jetson-xavier-nx"))
    check_target(recipe, load_target("jetson"))


def test_an_opset_without_half_precision_scales_is_refused_where_int8_needs_them(folder: Path) -> None:
    recipe = load_recipe(folder, ["export.opset=18"])
    with pytest.raises(RecipeError, match=r"export\.opset  18 .*opset 19 or later"):
        check_target(recipe, load_target("jetson"))
    check_target(load_recipe(folder, ["export.opset=18", "quantize.mode=none"]), load_target("jetson"))


def test_all_that_a_device_cannot_run_comes_at_once(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"2 mistakes .*flowers .*x86-cpu"):
        check_target(load_recipe(folder, ["export.opset=25"]), fp32_only())


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "a\\b"])
def test_a_name_that_would_leave_the_output_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="--set name "):
        load_recipe(folder, [f"name='{name}'"])


def test_a_path_with_a_dot_in_front_starts_at_the_recipes_folder(folder: Path) -> None:
    recipe = load_recipe(folder, ['student.init={how="slice", source={model="exported:./a.pt2"}}'])
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"train": "./data/train.parquet"})}
    ).located()
    assert Path(recipe.data.train) == folder / "data/train.parquet"
    assert recipe.student.init is not None and recipe.student.init.source is not None
    assert recipe.student.init.source.model == f"exported:{folder / 'a.pt2'}"


def test_a_mean_of_0_to_255_is_told(tmp_path: Path) -> None:
    """Trained with it a student stays at chance, and nothing else says why."""
    (tmp_path / "edgekd.toml").write_text('[data]\ntrain = "a"\ntest = "b"\nmean = [76]\nstd = [90]\n')
    with pytest.raises(RecipeError, match=r"mean = 76 .*divide .*by 255"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"teacher\.mean"):
        load_recipe(
            tmp_path, ["data.mean=[0.3]", "data.std=[0.3]", "teacher.mean=[76]", "teacher.model=edgekd:resnet8"]
        )
