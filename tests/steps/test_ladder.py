"""quantize.mode = "auto" climbs until the budget holds, and pays for no rung twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import edgekd
from edgekd.cache.stage import Cache
from edgekd.errors import QuantizationError, RecipeError
from edgekd.export.to_onnx import to_onnx
from edgekd.quantize import calibrate, convert, prepare, sites
from edgekd.quantize.sensitivity import Sensitivity, float_operators, sensitivities
from edgekd.recipe import Network, Quantize, Recipe, load_recipe
from edgekd.steps.distill import distill
from edgekd.steps.ladder import FLOAT_SHARE, Quantized, quantize_student, worst
from edgekd.steps.problem import decoded
from edgekd.steps.quantize import Subject
from edgekd.steps.teaching import TaskTeaching, Teaching
from edgekd.steps.trained import Trained
from edgekd.target import Quantization, load_target
from edgekd.tasks.classify import TOP1, Classify
from tests.builders.measuring import SHORT
from tests.builders.networks import Block, images, seeded
from tests.builders.recipes import RECIPE
from tests.builders.schemes import JETSON, ONNXRUNTIME, TENSORRT


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cache, Recipe, Subject]]:
    """A small student of digits that labels taught for two epochs, in a cache of its own."""
    folder = tmp_path_factory.mktemp("auto")
    (folder / "edgekd.toml").write_text(RECIPE)
    recipe = load_recipe(
        folder,
        ["distill.epochs=2", "distill.views=1", "distill.losses=[]", "distill.label_weight=1.0", "distill.precision=fp32",
         "quantize.mode=auto", "quantize.epochs=1", "quantize.calibration_samples=128"],
    ).located()  # fmt: skip
    with Cache(folder / "cache") as run:
        on, network = decoded(run, recipe.data, recipe.task).training, Network.of(recipe.student)
        distilled = run(distill, Teaching(recipe.distill, (TaskTeaching(on),)), network, None)
        yield run, recipe, Subject(Trained(network, distilled), on, load_target("x86-cpu").int8, 128)


def climb(student: tuple[Cache, Recipe, Subject], max_drop: float) -> tuple[Quantized, set[str]]:
    """What was made, and the names of the stages that ran for it."""
    run, recipe, subject = student
    before = len(run.artifacts)
    made = quantize_student(
        run, subject, recipe.quantize, max_drop, Teaching(recipe.distill, (TaskTeaching(subject.on),)), TOP1
    )
    return made, {artifact.name for artifact in run.artifacts[before:] if not artifact.reused}


@pytest.mark.slow
def test_it_stops_at_the_first_that_holds_and_a_tighter_budget_goes_on_from_there(
    student: tuple[Cache, Recipe, Subject],
) -> None:
    lenient, ran = climb(student, 100)
    assert [rung.name for rung in lenient.tried] == ["ptq"] and lenient.taken is lenient.tried[0]
    assert "quantize" in ran and not {"measure_sensitivity", "train_quantized"} & ran
    assert lenient.sensitivities == ()

    impossible, ran = climb(student, -100)
    names = [rung.name for rung in impossible.tried]
    assert names[:3] == ["ptq", "ptq, refined", "ptq, refined, 1 layer in float"] and names[-1] == "qat"
    assert {"measure_sensitivity", "train_quantized"} <= ran
    assert all(not rung.holds for rung in impossible.tried)
    assert impossible.taken.value == max(rung.value for rung in impossible.tried if rung.value is not None)
    assert impossible.tried[2].plan.in_float == (impossible.sensitivities[0].layer,)

    for max_drop in (-100, 100, 0.5):
        assert climb(student, max_drop)[1] == set()


def test_a_rung_that_holds_is_taken_even_where_a_later_one_is_better(student: tuple[Cache, Recipe, Subject]) -> None:
    whole, _ = climb(student, -100)
    drops = [rung.drop for rung in whole.tried if rung.drop is not None]
    for max_drop in drops:
        made, _ = climb(student, max_drop)
        assert made.taken.name == next(rung.name for rung in whole.tried if (rung.drop or 0.0) <= max_drop)


def test_the_worst_layers_are_taken_by_twos_within_their_share_of_the_work() -> None:
    table = [Sensitivity(f"l{n}", 1 / (n + 1), 10) for n in range(20)]
    table[1] = Sensitivity("huge", 0.9, 500)  # of 690: never
    kept = list(worst(table))
    assert FLOAT_SHARE == 0.25  # of 690 are 172: 17 layers of 10
    assert [len(layers) for layers in kept] == [1, 2, 4, 8, 16, 17]
    assert kept[2] == ("l0", "l2", "l3", "l4") and all("huge" not in layers for layers in kept)
    assert list(worst([Sensitivity("only", 1.0, 10)])) == []


def ruined() -> Block:
    """conv2 has a huge weight for a channel that is always 0: no matter in float, the end of its other weights in int8."""
    model = seeded(Block())
    with torch.no_grad():
        model.bn1.bias[0] = -100
        model.conv2.weight[:, 0] = 300 * model.conv2.weight.abs().max()
    return model


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
def test_the_layer_that_eight_bits_ruin_leads_the_table(scheme: Quantization) -> None:
    model = ruined()
    prepared = prepare(model, scheme, (images(2),))
    calibrate(prepared, [images(64)])
    table = sensitivities(prepared, [images(64)], Classify(("a", "b", "c", "d")))
    assert {layer.layer for layer in table} == {"conv1", "conv2", "fc"} and table[0].layer == "conv2"
    by_name = {layer.layer: layer.multiplications for layer in table}
    assert by_name == {"conv1": 8 * 8 * 8 * 27, "conv2": 8 * 8 * 8 * 72, "fc": 4 * 8}


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
def test_a_layer_in_float_has_no_sites_in_torch_or_onnx_and_the_model_is_nearer_to_float(
    scheme: Quantization, tmp_path: Path
) -> None:
    model, x = ruined(), images(64)
    with torch.no_grad():
        expected = model(x)
        errors = []
        for in_float in ((), ("conv2",), ("conv1", "conv2", "fc")):
            prepared = prepare(model, scheme, (x[:2],), keep_float=in_float)
            calibrate(prepared, [x])
            weights = {site.tensor for site in sites(prepared) if site.tensor.endswith("weight")}
            assert weights == {f"{name}.weight" for name in ("conv1", "conv2", "fc") if name not in in_float}
            converted = convert(prepared)
            to_onnx(converted, tmp_path / "m.onnx", x[:2], opset=20)
            assert sites(tmp_path / "m.onnx") == sites(converted)
            errors.append(float((converted(x) - expected).square().mean()))
    assert errors[1] < 0.01 * errors[0] and errors[2] < 0.01 * errors[0]


def test_what_no_rule_covers_is_named_with_its_share() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(torch.erf(self.up(self.conv(x).relu()))).mean((2, 3))

    found = float_operators(prepare(Odd(), ONNXRUNTIME, (images(2),)))
    # values of one sample: conv 256, relu 256, the others 1024 each, the mean 4 and its flattening 4
    assert [(operator.operator, operator.nodes) for operator in found] == [("erf", 2), ("conv_transpose2d", 1)]
    assert [operator.share for operator in found] == [pytest.approx(2048 / 3592), pytest.approx(1024 / 3592)]
    few = float_operators(prepare(seeded(nn.Conv2d(3, 4, 3)), JETSON, (images(2),)))
    assert [operator.why for operator in few] == ["fewer than 16 channels"]
    assert str(found[0]) == "erf stays in float in 2 places: the target has no int8 rule for it; 57.0% of all values"
    for scheme in (TENSORRT, ONNXRUNTIME):
        assert float_operators(prepare(seeded(Block()), scheme, (images(2),))) == []


def test_the_report_tells_the_path_and_the_table(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    overrides = ["quantize.mode=auto", "quantize.calibration=entropy", "quantize.calibration_samples=64"]
    places = {"output": tmp_path / "build", "cache": tmp_path / "cache"}
    report = edgekd.build(tmp_path, "x86-cpu", overrides=overrides, timing=SHORT, **places)
    taken = [step for step in report.quantization_path if step.taken]
    assert len(taken) == 1 and (taken[0].holds or report.quantization_path[-1].name == "qat")
    page = (tmp_path / "build" / tmp_path.name / "x86-cpu" / "report.html").read_text()
    assert "How it was quantized" in page and taken[0].name in page


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('quantize.refine=["adaround", "cle"]', r'write refine = \["cle", "adaround"\]'),
        ('quantize.refine=["cle", "cle"]', r'write refine = \["cle"\]'),
        ('quantize.refine=["adaruond"]', "Did you mean adaround"),
        ("quantize.calibration=mean", "have: minmax, moving_average, percentile, entropy, mse"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path, [given])


def test_refinements_of_a_trained_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r'refine .*mode = "qat"'):
        Quantize(mode="qat", refine=("adaround",))


def test_a_target_without_int8_is_refused() -> None:
    target = load_target("x86-cpu").model_copy(update={"quantization": None})
    with pytest.raises(QuantizationError, match=r"'x86-cpu' .*int8 scheme.*mode = "):
        prepare(Block(), target, (images(2),))
