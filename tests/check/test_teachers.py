"""What a teacher gives and takes is found, told and made what the data asks for: outputs, order of classes, size, batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy.special import log_softmax, softmax
from torch import nn

import edgekd
from edgekd.cache.stage import Cache
from edgekd.check.students import check_no_softmax
from edgekd.check.teachers import check_knowledge, checked_teacher, probed
from edgekd.data import Samples, decode, open_samples
from edgekd.data.digits import load
from edgekd.data.store import write_decoded
from edgekd.distill.cache import CachedLogits
from edgekd.distill.features import Taps
from edgekd.distill.methods import kd
from edgekd.errors import ModelError, RecipeError
from edgekd.inputs import INPUTS, Kind
from edgekd.models import load_model
from edgekd.models.adapt import adapt, order_of, resized
from edgekd.models.forward import predict
from edgekd.recipe import ClassifyTask, Data, Network, Recording, TeacherModel, load_recipe
from edgekd.steps.problem import TrainingSet, decoded
from edgekd.steps.record import record_teacher, score_teacher
from edgekd.steps.trained import Trained
from edgekd.tasks.classify import Classify
from edgekd.tasks.scores import value_of
from tests.builders.measuring import SHORT
from tests.builders.recipes import DIGITS, RECIPE
from tests.builders.tokens import Tokens, sentences

DATA = Data(train=DIGITS, test=DIGITS, mean=(0.5,), std=(0.5,))
NAMES = tuple("0123456789")
TURNED = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)  # output i stands for class TURNED[i]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    out = tmp_path_factory.mktemp("digits")
    decode(DATA.source("train"), ClassifyTask(), out=out)
    return open_samples(out, DATA, ClassifyTask())


@pytest.fixture(scope="module")
def weights() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A linear classifier of the digits by least squares, about 90 % right: [10, 64] and [10]."""
    images, labels, _ = load("train")
    x = np.c_[(images.reshape(len(images), -1) / 255 - 0.5) / 0.5, np.ones(len(images))]
    solved = np.linalg.solve(x.T @ x + 0.1 * np.eye(65), x.T @ (10 * np.eye(10)[labels]))
    return solved[:64].T.astype(np.float32), solved[64].astype(np.float32)


Write = Callable[..., str]


@pytest.fixture
def onnx_file(tmp_path: Path, weights: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> Write:
    """Writes that classifier as ONNX; returns its reference."""

    def write(end: str = "", batch: int | str = "batch", side: int = 8, order: tuple[int, ...] | None = None) -> str:
        w, b = weights if order is None else (weights[0][list(order)], weights[1][list(order)])
        nodes = [helper.make_node("Flatten", ["pooled" if side > 8 else "x"], ["flat"])]
        if side > 8:
            factor = side // 8
            nodes.insert(
                0, helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[factor] * 2, strides=[factor] * 2)
            )
        nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["z" if end else "y"], transB=1))
        if end:
            nodes.append(helper.make_node(end, ["z"], ["y"], axis=1))
        graph = helper.make_graph(
            nodes,
            "teacher",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, side, side])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
            [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
        )
        path = tmp_path / f"{end or 'logits'}-{batch}-{side}-{order is not None}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return f"onnx:{path}"

    return write


def checked(samples: Samples, model: str, **settings: Any) -> nn.Module:
    return checked_teacher(Network(model=model, **settings), "teacher", samples)[0]


def refused(samples: Samples, model: str, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        checked(samples, model, **settings)
    assert "\n" not in str(caught.value) and model in str(caught.value)
    return str(caught.value)


def outputs(samples: Samples, model: str, **settings: Any) -> np.ndarray[Any, Any]:
    """Of the first 40 training pictures, as every reader of the teacher gets them."""
    return predict(
        Trained(Network(model=model, **settings)).load_teacher(samples), samples.train, np.arange(40), [samples.task]
    )[0]


# -------------------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(("end", "kind"), [("Softmax", "probabilities"), ("LogSoftmax", "log_probabilities")])
def test_a_teacher_that_gives_no_logits_is_refused_with_what_to_write(
    samples: Samples, onnx_file: Write, end: str, kind: str
) -> None:
    model = onnx_file(end)
    assert f'Write teacher.outputs = "{kind}"' in refused(samples, model)
    checked(samples, model, outputs=kind)
    checked(samples, model, outputs="logits")  # the user's word
    other = {"probabilities": "log_probabilities", "log_probabilities": "probabilities"}[kind]
    assert f'write teacher.outputs = "{kind}"' in refused(samples, model, outputs=other)
    checked(samples, onnx_file())
    told = refused(samples, onnx_file(), outputs=kind)
    assert f'teacher.outputs is "{kind}"' in told and "gives logits" in told


def test_probabilities_and_their_logarithms_teach_what_the_logits_do(
    samples: Samples, onnx_file: Write, tmp_path: Path
) -> None:
    """By the cache of each, in each format: the soft targets at every temperature, and the loss of kd."""
    z = outputs(samples, onnx_file())
    given = {
        "Softmax": "probabilities", "LogSoftmax": "log_probabilities",
    }  # fmt: skip
    z_s = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    expected = float(kd(z_s, torch.from_numpy(z), temperature=4.0))
    for end, kind in given.items():
        found = outputs(samples, onnx_file(end), outputs=kind)
        for temperature in (1.0, 4.0):
            np.testing.assert_allclose(softmax(found / temperature, 1), softmax(z / temperature, 1), atol=1e-4)
        assert float(kd(z_s, torch.from_numpy(found), temperature=4.0)) == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(found, log_softmax(z, 1), atol=1e-3)
        out = tmp_path / end
        (out / "scratch").mkdir(parents=True)
        recording = Recording(views=1, format="float16", top_k=0, bf16=False)
        with Cache(tmp_path / "cache") as run:
            on = TrainingSet(run(decode, DATA.source("train"), ClassifyTask()), DATA, ClassifyTask())
        record_teacher(Trained(Network(model=onnx_file(end), outputs=kind)), on, recording, out=out)
        rows = np.arange(40)
        cached = CachedLogits(out)[0, rows].astype(np.float32)
        whole = predict(
            Trained(Network(model=onnx_file())).load_teacher(samples),
            samples.train,
            samples.train_ids[rows],
            [samples.task],
        )[0]
        np.testing.assert_allclose(softmax(cached, 1), softmax(whole, 1), atol=1e-2)


def test_as_if_they_were_logits_probabilities_teach_little() -> None:
    """Why it matters: the loss of a sharp teacher at T = 4."""
    z_t = torch.tensor([[20.0, 0.0, 0.0, 0.0]])
    taken_as_logits = float(kd(torch.zeros(1, 4), z_t.softmax(1), temperature=4.0))
    assert float(kd(torch.zeros(1, 4), z_t, temperature=4.0)) > 20 * taken_as_logits


def test_a_probability_of_zero_has_a_finite_logarithm() -> None:
    model = adapt(nn.Identity(), Network(model="edgekd:resnet8", outputs="probabilities"), Classify(NAMES))
    found = model(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, -87.3365]]))
    half = model(torch.tensor([[1.0, 0.0]], dtype=torch.float16))
    torch.testing.assert_close(half, torch.tensor([[0.0, -16.6355]]), atol=1e-3, rtol=0.0)
    logs = adapt(nn.Identity(), Network(model="edgekd:resnet8", outputs="log_probabilities"), Classify(NAMES))
    torch.testing.assert_close(logs(torch.tensor([[0.0, -torch.inf]])), torch.tensor([[0.0, -87.3365]]))


def test_a_teacher_that_gives_nan_is_refused(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Broken(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1)[:, :10] * float('nan')\n"
        "def build():\n"
        "    return Broken()\n"
    )
    assert "gives NaN" in refused(samples, f"python:{tmp_path}/mine.py:build")


def test_a_student_that_ends_in_a_softmax_is_refused() -> None:
    for end, told in ((nn.Softmax(1), "gives probabilities"), (nn.LogSoftmax(1), "gives log-probabilities")):
        with pytest.raises(ModelError, match=f"student {told} .*softmax out"):
            check_no_softmax(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), end), "student", (torch.randn(8, 1, 8, 8),))
    check_no_softmax(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "student", (torch.randn(8, 1, 8, 8),))


def test_a_live_teacher_keeps_its_modules_paths_and_its_features(samples: Samples) -> None:
    """What a loss on features reads, and the logits that stand beside them."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10), nn.Softmax(1)).eval()
    x = torch.randn(5, 1, 8, 8)
    expected, feature = plain(x), plain[0](x)
    live = adapt(
        plain, Network(model="a", outputs="probabilities", classes=tuple(NAMES[i] for i in TURNED)), Classify(NAMES)
    )
    with Taps(live, ["0"], "teacher") as taps:
        z = live(x)
        torch.testing.assert_close(taps.features["0"], feature)
    torch.testing.assert_close(z[:, list(TURNED)], expected.log())


# -------------------------------------------------------------------------------------------------------- order of classes


def names_of(order: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(NAMES[i] for i in order)


def test_a_permuted_teacher_is_refused_with_its_order_which_mends_it(samples: Samples, onnx_file: Write) -> None:
    model = onnx_file(order=TURNED)
    with pytest.raises(ModelError) as caught:
        check_knowledge(Trained(Network(model=model)), samples, lambda question: True)
    written = ", ".join(f'"{name}"' for name in names_of(TURNED))
    told = str(caught.value)
    assert f"teacher.classes = [{written}]" in told and "\n" not in told
    mended = Network(model=model, classes=names_of(TURNED))
    check_knowledge(Trained(mended), samples, refuse_to_answer)
    np.testing.assert_allclose(
        outputs(samples, model, classes=names_of(TURNED)), outputs(samples, onnx_file()), atol=1e-4
    )


def refuse_to_answer(question: str) -> bool:
    raise AssertionError(f"it was asked: {question}")


def test_an_order_that_the_recipe_states_wrongly_is_asked_about(samples: Samples, onnx_file: Write) -> None:
    asked: list[str] = []
    stated = Network(model=onnx_file(order=TURNED), classes=NAMES)
    check_knowledge(Trained(stated), samples, lambda question: not asked.append(question))
    assert len(asked) == 1 and "teacher.classes says otherwise" in asked[0]
    with pytest.raises(ModelError, match=r"teacher\.classes says otherwise"):
        check_knowledge(Trained(stated), samples, lambda question: False)


def test_the_order_is_by_name_and_may_leave_out_classes_that_the_data_has_not() -> None:
    def order(*own: str, classes: tuple[str, ...] = ("ant", "bee", "cat")) -> list[int] | None:
        return order_of(Network(model="a", classes=own), classes)

    assert order("cat", "ant", "bee") == [1, 2, 0]
    assert order("cat", "dog", "ant", "elk", "bee") == [2, 4, 0]
    assert order("bee", "ant") == [1, 0]  # it knows the first classes only
    assert order_of(Network(model="a"), ("ant", "bee")) is None
    with pytest.raises(ModelError, match=r"teacher\.classes lacks bee .*has dog"):
        order("ant", "cat", "dog")
    with pytest.raises(ModelError, match=r"teacher\.classes .*ant .*once"):
        order("ant", "cat", "ant")


def test_names_of_another_number_than_the_outputs_are_refused(samples: Samples, onnx_file: Write) -> None:
    told = refused(samples, onnx_file(), classes=("x", *NAMES))
    assert "teacher.classes has 11 names" in told and "gives 10 outputs" in told


def test_the_order_may_stand_in_a_file_whose_content_is_the_setting(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE.replace("train_epochs = 1", 'classes = "names.txt"'))
    (tmp_path / "names.txt").write_text("\ufeffzwei Wörter\nb\nc\n", encoding="utf-8")
    found = load_recipe(tmp_path).located()
    assert found.teacher is not None and found.teacher.classes == ("zwei Wörter", "b", "c")
    (tmp_path / "names.txt").write_text("a\n\nb\n")
    with pytest.raises(RecipeError, match=r"names\.txt: .*class 1, ''"):
        load_recipe(tmp_path).located()
    (tmp_path / "names.txt").unlink()
    with pytest.raises(RecipeError, match=r"names\.txt .*No such file"):
        load_recipe(tmp_path).located()


def test_a_head_in_another_order_begins_no_student(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    order = f"teacher.classes={list(names_of(TURNED))}".replace("'", '"')
    recipe = load_recipe(tmp_path, ["teacher.train_epochs=0", order, 'student.init={how="slice"}'])
    with pytest.raises(RecipeError, match=r"teacher\.classes; leave student\.init out"):
        edgekd.build(recipe, "x86-cpu", output=tmp_path / "build", cache=tmp_path / "cache")
    with pytest.raises(RecipeError, match=r"teacher\.classes .*train_epochs.*leave it out"):
        edgekd.build(tmp_path, "x86-cpu", overrides=[order], output=tmp_path / "build", cache=tmp_path / "cache")


# ------------------------------------------------------------------------------------------------------------ size, batch


def test_a_teacher_of_another_size_is_refused_with_its_size_and_sees_resized_pictures(
    samples: Samples, onnx_file: Write
) -> None:
    model = onnx_file(side=16)
    told = refused(samples, model)
    assert "[any, 1, 16, 16]" in told and "[batch, 1, 8, 8]; write teacher.size = [16, 16]" in told
    assert "teacher.size is [12, 12]; write teacher.size = [16, 16]" in refused(samples, model, size=(12, 12))
    checked(samples, model, size=(16, 16))
    _, labels, _ = load("train")
    by_small, by_large = (
        predict(
            Trained(Network(model=model, **size)).load_teacher(samples),
            samples.train,
            np.arange(len(labels)),
            [samples.task],
        )[0]
        for model, size in ((onnx_file(), {}), (model, {"size": (16, 16)}))
    )
    assert (
        abs(value_of(Classify(NAMES), by_small, labels) - value_of(Classify(NAMES), by_large, labels)) < 3
        and (by_small != by_large).any()
    )


def test_pictures_are_resized_as_pillow_resizes() -> None:
    """By Pillow's own filter on the same floats, up and down."""
    picture = np.random.default_rng(0).normal(size=(13, 17)).astype(np.float32)
    for size in ((26, 40), (6, 5), (13, 5), (13, 17)):
        expected = np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        found = resized(torch.from_numpy(picture)[None, None], size)[0, 0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_code_that_fails_at_the_data_s_size_is_told_with_its_name_and_the_key(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef build(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, num_classes))\n"
    )
    model = f"python:{tmp_path}/mine.py:build"
    assert "write teacher.size = [height, width]" in refused(samples, model)
    checked(samples, model, size=(16, 16))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_teacher_of_a_fixed_batch_gives_what_a_free_one_does(samples: Samples, onnx_file: Write, batch: int) -> None:
    checked(samples, onnx_file(batch=batch))
    np.testing.assert_allclose(outputs(samples, onnx_file(batch=batch)), outputs(samples, onnx_file()), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7])
def test_an_exported_teacher_of_a_fixed_batch_gives_what_its_module_does(
    samples: Samples, tmp_path: Path, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(batch, 1, 8, 8),)), tmp_path / "t.pt2")
    model = f"exported:{tmp_path}/t.pt2"
    capsys.readouterr()
    checked(samples, model)
    told = " ".join(capsys.readouterr().err.split())
    assert f"is written for batches of {batch}" in told and "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)" in told
    exported = load_model(Network(model=model), num_classes=10, in_channels=1)
    x = torch.randn(10, 1, 8, 8)
    torch.testing.assert_close(exported(x), module(x))
    torch.export.save(torch.export.export(module, (torch.zeros(2, 1, 8, 8),)), tmp_path / "t.pt2")
    (tmp_path / "other.pt2").write_bytes((tmp_path / "t.pt2").read_bytes())
    larger = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    torch.export.save(torch.export.export(larger, (torch.zeros(1, 3, 16, 16),)), tmp_path / "t.pt2")
    assert "write data.channels = 3" in refused(samples, model)


def test_a_file_that_takes_no_normalised_pictures_is_refused(samples: Samples, tmp_path: Path) -> None:
    texts = {
        "bytes": "(uint8[N, 1, 8, 8] x) => (float[N, M] y) { f = Cast<to = 1>(x) y = Flatten(f) }",
        "two": "(float[N, 1, 8, 8] x, float[N, 1, 8, 8] z) => (float[N, M] y) { s = Add(x, z) y = Flatten(s) }",
    }
    told = {"bytes": "a teacher takes normalised floats", "two": "the data gives [batch, 1, 8, 8]"}
    for name, text in texts.items():
        model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> net {text}')
        onnx.save(model, tmp_path / f"{name}.onnx")
        assert told[name] in refused(samples, f"onnx:{tmp_path}/{name}.onnx")


# --------------------------------------------------------------------------------------------------------------- knowledge


def few(samples: Samples, n: int) -> Samples:
    """`n` training pictures, of which a twentieth is held out."""
    ids = np.linspace(0, len(samples.train) - 1, n).astype(np.int64)
    held = ids[:: n // max(1, n // 20)]
    return replace(samples, train_ids=np.setdiff1d(ids, held), holdout_ids=held)


def test_a_sound_teacher_of_180_pictures_passes_without_a_question(samples: Samples, onnx_file: Write) -> None:
    small = few(samples, 180)
    assert len(small.holdout_ids) == 9 and len(probed(small, 0)) == 180
    check_knowledge(Trained(Network(model=onnx_file())), small, refuse_to_answer)


def test_a_teacher_that_knows_nothing_is_asked_about_with_the_interval(samples: Samples) -> None:
    asked: list[str] = []
    check_knowledge(Trained(Network(model="edgekd:resnet8", args={"width": 4})), samples, lambda q: not asked.append(q))
    assert (
        len(asked) == 1
        and "no better than chance" in asked[0]
        and "(95 %: " in asked[0]
        and "on 500 samples" in asked[0]
    )


def test_too_few_samples_to_tell_are_told_and_refuse_nothing(
    samples: Samples, onnx_file: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Eight pictures and a teacher that names one class."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class One(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.tensor([[5.0] + [0.0] * 9]).expand(len(x), 10)\n"
        "def build():\n"
        "    return One()\n"
    )
    check_knowledge(Trained(Network(model=f"python:{tmp_path}/mine.py:build")), few(samples, 8), refuse_to_answer)
    assert "too few to tell" in " ".join(capsys.readouterr().err.split())


def test_what_a_task_s_teacher_is_reaches_every_reader() -> None:
    given = TeacherModel(model="onnx:a.onnx", outputs="probabilities", classes=("a", "b"), size=(4, 5))
    assert Network.of(given).model_dump(exclude_defaults=True) == given.model_dump(exclude_defaults=True)


def test_a_build_with_a_teacher_that_is_other_in_everything(tmp_path: Path, onnx_file: Write) -> None:
    """16 x 16 pixels, one at a time, probabilities, another order; beside one that is as the data asks for."""
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    odd = {"outputs": '"probabilities"', "classes": str(list(names_of(TURNED))).replace("'", '"'), "size": "[16, 16]"}
    model = onnx_file("Softmax", 1, 16, TURNED)
    overrides = [
        "teacher.train_epochs=0", "teacher.args={}", f"teacher.model={model}", "teacher.mean=[0.5]", "teacher.std=[0.5]",
        *(f"teacher.{key}={value}" for key, value in odd.items()), f'teacher.also=[{{model="{onnx_file()}"}}]',
        "quantize.mode=none",
    ]  # fmt: skip
    places = {"output": tmp_path / "b", "cache": tmp_path / "cache"}
    report = edgekd.build(tmp_path, "x86-cpu", overrides=overrides, timing=SHORT, **places)
    assert report.teacher is not None and report.teacher.value > 85 and report.teacher_latency is not None
    assert any("gives probabilities, takes 16 x 16, classes by name" in how for _, how in report.summary)
    shutil.rmtree(tmp_path / "b")
    wrong = [text for text in overrides if "outputs" not in text]
    with pytest.raises(ModelError, match=r'Write teacher\.outputs = "probabilities"'):
        edgekd.build(tmp_path, "x86-cpu", overrides=wrong, output=tmp_path / "b", cache=tmp_path / "cache")
    also = [*wrong[:-2], *(f"teacher.{k}={v}" for k, v in odd.items() if k == "outputs"), wrong[-1]]
    also.append(f'teacher.also=[{{model="{onnx_file("LogSoftmax")}"}}]')
    with pytest.raises(ModelError, match=r'Write teacher\.also\.0\.outputs = "log_prob'):
        edgekd.build(tmp_path, "x86-cpu", overrides=also, output=tmp_path / "b", cache=tmp_path / "cache")


def test_the_score_of_a_teacher_is_of_its_logits_in_the_data_s_order(
    samples: Samples, onnx_file: Write, tmp_path: Path
) -> None:
    with Cache(tmp_path / "cache") as run:
        on = decoded(run, DATA, ClassifyTask()).evaluation
        turned = Trained(Network(model=onnx_file(order=TURNED), classes=names_of(TURNED)))
        odd, plain = (run(score_teacher, teacher, on) for teacher in (turned, Trained(Network(model=onnx_file()))))
    np.testing.assert_allclose(np.load(odd / "test.npy"), np.load(plain / "test.npy"), atol=1e-4)


def test_a_size_is_of_pictures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INPUTS, "tokens", Kind(Tokens.of))
    write_decoded(tmp_path, "tokens", *sentences(20, 0), ("a", "b", "c"))
    teacher = Network(model="python:tests.builders.tokens:reader", size=(8, 8))
    with pytest.raises(ModelError, match=r"teacher\.size is \[8, 8\].*leave teacher\.size out"):
        checked_teacher(teacher, "teacher", open_samples(tmp_path, DATA, ClassifyTask()))
