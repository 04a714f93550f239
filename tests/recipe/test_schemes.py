"""Who teaches, end to end on real scans: every scheme and every kind of teacher leaves a bundle, and does what it says."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

import edgekd
from edgekd.bundle.read import figures
from edgekd.data.digits import load
from edgekd.errors import CacheError, DataError, ModelError, RecipeError
from edgekd.models.resnet import resnet8
from edgekd.recipe import Distill, load_recipe
from edgekd.recipe.losses import Loss
from edgekd.recipe.schemes import SCHEMES
from edgekd.report import html
from edgekd.steps.quantize import last_losses
from edgekd.steps.teach import without_teacher
from edgekd.steps.teaching import Teaching
from edgekd.steps.trained import REUSED, WEIGHTS
from tests.builders.measuring import SHORT
from tests.builders.recipes import RECIPE

Build = Callable[..., edgekd.Report]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: the teacher is trained and recorded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def build(tmp_path: Path, cache: Path) -> Build:
    def run(*overrides: str, text: str = RECIPE) -> edgekd.Report:
        (tmp_path / "edgekd.toml").write_text(text)
        given = ["quantize.mode=none", "teacher.train_epochs=3", *overrides]
        recipe = load_recipe(tmp_path, given)
        return edgekd.build(
            recipe, "x86-cpu", output=tmp_path / "build", cache=cache, ask=lambda question: True, timing=SHORT
        )

    return run


def note(report: edgekd.Report, name: str) -> str:
    return next(check.found for check in report.checks if check.name == name)


def stage_names(report: edgekd.Report) -> list[str]:
    return [stage["name"] for stage in report.stages]


@pytest.mark.parametrize(
    ("scheme", "terms"),
    [
        ("dml", {"labels", "dml"}),
        pytest.param("one", {"labels", "one"}, marks=pytest.mark.slow),
        ("byot", {"labels", "byot"}),
        pytest.param("tf_kd", {"labels", "tf_kd"}, marks=pytest.mark.slow),
        pytest.param("cs_kd", {"labels", "cs_kd"}, marks=pytest.mark.slow),
        ("adversarial", {"labels", "kd", "adversarial"}),
    ],
)
def test_a_scheme_is_named_and_trains_by_its_losses(build: Build, scheme: str, terms: set[str]) -> None:
    report = build(f"distill.scheme={scheme}")
    assert {key.removeprefix("loss/") for key in report.curves[0] if key.startswith("loss/")} == terms
    needs_teacher = scheme == "adversarial"
    assert ("record_teacher" in stage_names(report)) == needs_teacher  # the others learn without one
    assert report.student_parameters == sum(p.numel() for p in resnet8(10, 1, width=4).parameters())


def test_the_quantized_student_goes_on_without_the_peer(build: Build) -> None:
    """By the labels, and with nothing of the loss that trains a copy of the student."""
    report = build("distill.scheme=dml", "quantize.mode=qat", "quantize.epochs=1", "budget.max_drop_from_fp32=100")
    assert (
        set(report.quantization_curves[0]) >= {"loss", "loss/labels"}
        and "loss/dml" not in report.quantization_curves[0]
    )


def test_the_quantized_student_keeps_the_last_weights_of_the_losses() -> None:
    losses = [Loss(method="dkd", warmup_epochs=20), Loss(method="kd", until_epoch=3), Loss(method="at", layers="auto")]
    assert last_losses(Distill(losses=tuple(losses)), has_teacher=True) == (Loss(method="dkd"),)
    assert last_losses(Distill(losses=(losses[2],)), has_teacher=True) == (Loss(method="kd"),)


def test_what_the_recipe_states_goes_before_the_scheme(build: Build) -> None:
    report = build("distill.scheme=dml", "distill.label_weight=0")
    assert "loss/labels" not in report.curves[0]


@pytest.mark.parametrize("method", ["reviewkd", pytest.param("rkd", marks=pytest.mark.slow)])
def test_a_feature_method_takes_layers_that_are_paired_by_themselves(build: Build, method: str) -> None:
    report = build(f'distill.losses=[{{method="{method}", weight=1e-3, layers="auto"}}]')
    assert np.isfinite(report.curves[0][f"loss/{method}"]) and report.curves[0][f"loss/{method}"] != 0
    # The teacher of a method that is content with pooled features does not run while the student trains.
    assert ("record_features" in stage_names(report)) == (method == "rkd")


def test_born_again_students_teach_the_next_and_each_is_drawn_anew(build: Build, cache: Path) -> None:
    """At a learning rate of next to nothing a generation's weights are those that it began with."""
    report = build("distill.scheme=born_again", "distill.generations=2", "distill.optimizer.lr=1e-9")
    assert stage_names(report).count("distill") == 3 and stage_names(report).count("record_teacher") == 3
    assert "hold-out" in note(report, "generation 2")
    keys = [stage["key"] for stage in report.stages if stage["name"] == "distill"]
    begun = [load_file(cache / f"distill-{key[:20]}" / WEIGHTS)["stem.weight"] for key in keys]
    for one, other in itertools.combinations(begun, 2):
        assert (one - other).abs().mean() > 0.1 * one.abs().mean()


def test_an_assistant_stands_between_and_its_cache_is_used_again(build: Build) -> None:
    assistants = 'student.assistants=[{model="edgekd:resnet8", args={width=6}}]'
    assert "hold-out" in note(build(assistants), "assistant edgekd:resnet8")
    again = build(assistants, "student.args.width=5")
    assert [stage["reused"] for stage in again.stages if stage["name"] in ("distill", "record_teacher")] == [
        True,
        True,
        True,
        False,
    ]
    again = build(assistants, "budget.max_drop_from_fp32=2")
    assert all(stage["reused"] for stage in again.stages)


def test_several_teachers_are_recorded_each_and_weighed(build: Build, tmp_path: Path) -> None:
    build()
    other = 'teacher.also=[{model="edgekd:resnet8", args={width=6}}]'
    report = build(other, 'distill.losses=[{method="kd"}, {method="ca_mkd"}, {method="eb_kd"}]')
    assert next(stage["reused"] for stage in report.stages if stage["name"] == "record_teacher")
    assert stage_names(report).count("record_teacher") == 2
    assert {"loss/kd", "loss/ca_mkd", "loss/eb_kd"} <= set(report.curves[0])


def test_the_temperature_is_chosen_on_the_hold_out_split_and_its_curve_is_kept(build: Build) -> None:
    report = build('distill.losses=[{method="kd", temperature="auto"}]')
    assert [temperature for temperature, _ in report.temperature_curve] == [1, 2, 3, 4, 6, 8]
    best = max(report.temperature_curve, key=lambda point: point[1])[0]
    told = build(f'distill.losses=[{{method="kd", temperature={best}}}]')
    assert told.curves == report.curves  # the student is the one that the chosen temperature gives


def test_simkd_ships_the_teachers_classifier_and_says_what_that_adds(build: Build, tmp_path: Path, cache: Path) -> None:
    report = build("distill.label_weight=0", 'distill.losses=[{method="simkd", layers="auto"}]', "distill.epochs=3")
    alone = sum(p.numel() for p in resnet8(10, 1, width=4).parameters())
    added = int(re.sub(r"\D", "", note(report, "simkd adds to what ships").split("parameters")[0]))
    head_of_the_student = 4 * 4 * 10 + 10
    assert report.student_parameters == alone - head_of_the_student + added
    assert report.chosen.score.value > 15  # its own head, which nothing trains, is at 10
    assert any((folder / REUSED).exists() for folder in cache.glob("distill-*"))


@pytest.mark.parametrize("store", [pytest.param("int8", marks=pytest.mark.slow), "topk"])
def test_a_smaller_cache_teaches_too(build: Build, store: str) -> None:
    exact, report = build("distill.epochs=2"), build("distill.epochs=2", f"distill.cache={store}", "distill.top_k=5")
    # Two epochs from nothing amplify the rounding: 6 % were seen on a processor with AVX2.
    assert report.curves[-1]["loss/kd"] == pytest.approx(exact.curves[-1]["loss/kd"], rel=0.1)


@pytest.mark.parametrize(
    ("teacher", "student", "how"),
    [
        ("teacher.args.width=8", "student.args.width=4", "slice"),
        pytest.param("teacher.args.width=8", "student.args.width=16", "wider", marks=pytest.mark.slow),
        pytest.param("teacher.args.width=8", "student.args.width=8", "copy", marks=pytest.mark.slow),
    ],
)
def test_a_student_begins_with_its_teachers_weights(build: Build, teacher: str, student: str, how: str) -> None:
    layers = '{stem="stem", bn="bn", layer1="layer1", layer2="layer2", layer3="layer3", fc="fc"}'
    given = f'{{how="{how}"}}' if how != "copy" else f'{{how="copy", layers={layers}}}'
    slow = ("distill.optimizer.lr=1e-4", "distill.epochs=1", teacher, student)
    begun, random = build(f"student.init={given}", *slow), build(*slow)
    assert begun.curves[0]["loss/kd"] < random.curves[0]["loss/kd"]
    if how != "slice":  # the same function as the teacher's
        assert abs(begun.student.value - begun.teacher.value) < 8


def digits_with(tmp_path: Path, classes: int, train_from: int = 0) -> str:
    """Parquet of the digits below `classes`, and a second column of the same scans, inverted; of train only from a digit on."""

    def png(pixels: Any) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1)).convert("RGB").save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    for split in ("train", "test"):
        images, labels, names = load(split)
        kept = np.flatnonzero((labels < classes) & (labels >= (train_from if split == "train" else 0)))
        columns = {"image": [png(images[i]) for i in kept], "negative": [png(255 - images[i]) for i in kept]}
        table = pa.table({**columns, "label": labels[kept]})
        about = {"info": {"features": {"label": {"names": list(names[:classes]), "_type": "ClassLabel"}}}}
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / f"{split}.parquet")
    return f'data.train="{tmp_path / "train.parquet"}"'


def test_a_teacher_that_sees_another_column_teaches_by_its_logits(build: Build, tmp_path: Path) -> None:
    data = (digits_with(tmp_path, 10), f"data.test={tmp_path / 'test.parquet'}")
    sees = ("teacher.column=negative", "teacher.mean=[0.69]", "teacher.std=[0.38]")
    report = build(*data, *sees, "distill.epochs=3", "distill.label_weight=0")
    assert report.teacher.value > 50 and report.student.value > 20  # no label was seen: what it knows, the teacher said
    assert not any("train and test" in warning for warning in report.warnings)
    with pytest.raises(RecipeError, match=r"^at .*'negative'.*use methods"):
        build(*data, *sees, 'distill.losses=[{method="at", layers="auto"}]')


@pytest.mark.slow
def test_new_classes_are_learnt_and_the_old_ones_kept(build: Build, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "old").mkdir()
    old = digits_with(tmp_path / "old", 5)
    first = build(old, f"data.test={tmp_path / 'old' / 'test.parquet'}", "teacher.args.width=4")
    assert len(first.classes) == 5
    stage = next(stage for stage in first.stages if stage["name"] == "train_teacher")
    weights = cache / f"train_teacher-{stage['key'][:20]}" / "student.safetensors"
    data = (digits_with(tmp_path, 10), f"data.test={tmp_path / 'test.parquet'}")
    teacher = ("teacher.train_epochs=0", f"teacher.weights={weights}", "teacher.args={width=4, num_classes=5}")
    report = build(*data, *teacher, "distill.scheme=lifelong", 'student.init={how="extend"}')
    assert "the teacher" in note(report, "old classes") and "test samples" in note(report, "new classes")
    with pytest.raises(ModelError, match=r"teacher .* 5 classes, .*data .* 10"):
        build(*data, *teacher)
    two = 'teacher.also=[{model="edgekd:resnet8", args={num_classes=7}}]'
    with pytest.raises(ModelError, match=r"teachers .*5, 7 classes"):
        build(*data, *teacher, two, "distill.scheme=lifelong")
    # As LwF is meant: no sample of an old class is trained on, and the teacher's answers alone keep them.
    (tmp_path / "new").mkdir()
    new = (digits_with(tmp_path / "new", 10, train_from=5), f"data.test={tmp_path / 'test.parquet'}")
    slowly = ("distill.scheme=lifelong", 'student.init={how="extend"}', "distill.epochs=3", "distill.optimizer.lr=0.02")
    kept = build(*new, *teacher, *slowly)
    lost = build(*new, *teacher, *slowly[1:], "distill.losses=[]", "distill.label_weight=1")
    with pytest.raises(RecipeError, match=r"scheme = 'lifelong' .*lwf"):
        build(*new, *teacher, *slowly, 'distill.losses=[{method="kd"}]')
    percent = [float(note(one, "old classes").partition("alone ")[2].split(" %")[0]) for one in (kept, lost)]
    assert percent[0] > percent[1] + 5
    with pytest.raises(DataError, match="class 0, 1, 2, 3, 4"):
        build(*new)


def test_an_unknown_scheme_is_refused_with_the_nearest(build: Build) -> None:
    with pytest.raises(RecipeError, match=r'"born_agian" .*have: .* Did you mean born_again'):
        build("distill.scheme=born_agian")


@pytest.mark.parametrize(
    ("scheme", "write"),
    [("data_free", "synthetic:deep_inversion"), ("cross_modal", r"teacher\.column"), ("online", '"dml" or "one"')],
)
def test_a_scheme_that_a_recipe_says_otherwise_is_told_how(build: Build, scheme: str, write: str) -> None:
    with pytest.raises(RecipeError, match=f"'{scheme}' .*write .*{write}"):
        build(f"distill.scheme={scheme}")


def test_an_automatic_temperature_is_of_the_teachers_logits(build: Build) -> None:
    with pytest.raises(RecipeError, match=r"temperature: 'auto' .*tf_kd"):
        build('distill.losses=[{method="tf_kd", temperature="auto"}]')


def test_a_feature_method_with_a_teacher_without_layers_is_told_which_methods_work(
    build: Build, tmp_path: Path
) -> None:
    report = build("export.preprocess=false")
    shutil.copy(tmp_path / "build" / report.recipe / "x86-cpu" / "model.fp32.onnx", tmp_path / "teacher.onnx")
    teacher = (f"teacher.model=onnx:{tmp_path / 'teacher.onnx'}", "teacher.args={}", "teacher.train_epochs=0")
    with pytest.raises(RecipeError, match=r"modules that at .*\(kd, .*python:module"):
        build(*teacher, 'distill.losses=[{method="at", layers="auto"}]')


def test_layers_that_cannot_be_paired_are_told_with_both_shapes(build: Build) -> None:
    with pytest.raises(RecipeError, match=r"'fsp' .*layer1 \[4, 4, 8, 8\] = layer1 \[4, 8, 8, 8\]"):
        build('distill.losses=[{method="fsp", layers={layer1="layer1"}}]')


def test_a_teacher_alone_is_enough(build: Build, cache: Path) -> None:
    first = build("teacher.args.width=8", "teacher.train_epochs=6", "distill.epochs=1")
    stage = next(stage for stage in first.stages if stage["name"] == "train_teacher")
    weights = cache / f"train_teacher-{stage['key'][:20]}" / "student.safetensors"
    teacher = ("teacher.train_epochs=0", f"teacher.weights={weights}", "teacher.args.width=8")
    made = ("data.train=synthetic:deep_inversion", "data.synthetic={samples=400, steps=100, batch=200}")
    learns = ("distill.label_weight=0", "distill.epochs=10", "distill.batch_size=32", "distill.losses=[{method='kd'}]")
    report = build(*teacher, *made, *learns)
    assert "synthesize" in stage_names(report) and any("synthetic" in warning for warning in report.warnings)
    assert report.student.value > 25  # of real scans, of which it has seen none
    with pytest.raises(RecipeError, match="give its weights"):
        build(*made)
    with pytest.raises(RecipeError, match="Did you mean deep_inversion"):
        build("data.train=synthetic:deep_inversoin")


def test_training_on_the_test_samples_is_warned_about(build: Build, tmp_path: Path) -> None:
    report = build(digits_with(tmp_path, 10), f"data.test={tmp_path / 'train.parquet'}")
    assert any("in train too" in warning for warning in report.warnings)


def test_a_cache_that_the_disk_has_no_room_for_is_refused_with_what_to_do(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match=r" GB, .* fewer distill\.views"):
        build("distill.views=3")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("distill.generations=1",), "^at pair .*read logits"),
        (("distill.ema=0.9", 'distill.losses=[{method="simkd", layers="auto"}]'), "set ema = 0"),
    ],
)
def test_features_that_no_link_of_a_chain_shares_are_refused(
    build: Build, overrides: tuple[str, ...], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        build('distill.losses=[{method="at", layers="auto"}]', *overrides)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("distill.scheme=dml", "distill.generations=2"), r"distill\.generations .*distill\.losses="),
        (('student.init={how="slice"}', "student.weights=w.safetensors"), r"student\.init .*student\.weights"),
        (("teacher.column=depth",), r"data\.train .*'depth'.*give parquet"),
        (
            ('distill.losses=[{method="kd", until_epoch=1}]', "distill.epochs=2", "distill.label_weight=0"),
            "distill  label_weight is 0",
        ),
        (
            ('student.init={how="copy", source={model="onnx:gone.onnx"}}',),
            r"student.init.source.model  .*gone.onnx does not exist",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(
    build: Build, tmp_path: Path, overrides: tuple[str, ...], told: str
) -> None:
    (tmp_path / "w.safetensors").touch()
    with pytest.raises((RecipeError, DataError), match=told):
        build(*overrides)


def test_a_scheme_in_python_is_stated_with_its_defaults() -> None:
    with pytest.raises(ValueError, match="state label_weight, losses"):
        Distill(scheme="dml")
    assert Distill(scheme="dml", **SCHEMES["dml"]).losses[0].method == "dml"


# Without a teacher

ALONE = re.sub(r"\[teacher\].*?(?=\[student\])", "", RECIPE, flags=re.DOTALL)


@pytest.fixture
def build_alone(tmp_path: Path, cache: Path) -> Build:
    """A recipe without [teacher], as one writes it who has none."""

    def run(*overrides: str) -> edgekd.Report:
        (tmp_path / "edgekd.toml").write_text(ALONE)
        recipe = load_recipe(tmp_path, overrides)
        return edgekd.build(recipe, "x86-cpu", output=tmp_path / "build", cache=cache, timing=SHORT)

    return run


@pytest.mark.parametrize(
    ("given", "terms"),
    [
        (["distill.scheme=tf_kd"], {"labels", "tf_kd"}),
        pytest.param(["distill.scheme=one", "quantize.mode=none"], {"labels", "one"}, marks=pytest.mark.slow),
        (["distill.losses=[]", "distill.label_weight=1", "quantize.mode=none"], {"labels"}),
    ],
)
def test_a_student_that_needs_no_teacher_is_built_without_one(
    build_alone: Build, tmp_path: Path, given: list[str], terms: set[str]
) -> None:
    report = build_alone(*given)
    assert {key.removeprefix("loss/") for key in report.curves[0] if key.startswith("loss/")} == terms
    assert report.teacher is None and not any("teacher" in name for name in stage_names(report))
    assert "<td>teacher</td>" not in html.render(report) and "Top-1 by class" in html.render(report)
    assert {row.model for row in figures(report)} == {candidate.name for candidate in report.candidates}
    assert len(list((tmp_path / "build").rglob("model.onnx"))) == 1


@pytest.mark.slow
def test_born_again_without_a_teacher_learns_from_labels_and_then_from_itself(build_alone: Build) -> None:
    report = build_alone("distill.scheme=born_again", "quantize.mode=none")
    trained = [stage["name"] for stage in report.stages if stage["name"] in ("distill", "record_teacher")]
    assert trained == ["distill", "record_teacher", "distill"]
    assert {key for key in report.curves[0] if key.startswith("loss/")} == {"loss/labels", "loss/kd"}
    assert note(report, "generation 1").endswith("on the hold-out split")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], r"teacher  missing, and kd reads one: write \[teacher\].*tf_kd"),
        (["distill.scheme=tf_kd", "budget.max_drop_from_teacher=1"], "budget.max_drop_from_teacher  given, but"),
        (["distill.scheme=tf_kd", 'student.init={how="slice"}'], "student.init  given, but the recipe has no"),
        (["distill.scheme=tf_kd", 'student.assistants=[{model="edgekd:resnet8"}]'], "student.assistants  given, but"),
        (["distill.scheme=tf_kd", "data.train=synthetic:dafl"], "data.train  given, but the recipe has no"),
        (["distill.scheme=born_again", 'distill.losses=[{method="kd", temperature="auto"}]'], "distill.losses  given, but"),
    ],
)  # fmt: skip
def test_what_wants_a_teacher_is_refused_where_there_is_none(build_alone: Build, given: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_alone(*given)


def test_a_first_generation_goes_on_by_the_losses_that_read_no_teacher() -> None:
    losses = (Loss(method="kd", weight=2.0), Loss(method="cs_kd", weight=1.0), Loss(method="tf_kd", weight=0.0))
    alone = without_teacher(Teaching(Distill(losses=losses, label_weight=0.5), ())).settings
    assert ([loss.method for loss in alone.losses], alone.label_weight) == (["cs_kd"], 1.0)
