"""Several inputs, free sizes and maps of other than four axes, through quantization to the int8 file, on every target."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from edgekd.errors import ExportError, QuantizationError
from edgekd.export.to_onnx import to_onnx
from edgekd.models.trace import Free, FreeSize
from edgekd.quantize import calibrate, convert, eval_mode, prepare, sites, train_mode
from edgekd.quantize.adaround import unfold
from edgekd.quantize.capture import capture
from edgekd.quantize.cle import equalize
from edgekd.quantize.layers import Layer, give_biases, layers_of
from edgekd.quantize.operators import aten
from edgekd.quantize.qat import activation_quantizers, in_float
from edgekd.quantize.refine import refine
from edgekd.quantize.same import check_same, distance, samples_of
from edgekd.quantize.sensitivity import float_operators, sensitivities
from edgekd.target import Target, list_targets
from edgekd.tasks.classify import Classify
from tests.builders.inputs import CASES, CLASSES, FREE, LENGTH, Clip, Longer, Reader, Sound, answer, texts
from tests.builders.schemes import JETSON, QNN, TENSORRT, UINT8

ROUNDING = 0.015
"""Relative root mean square of the int8 file in onnxruntime from the quantized graph: 0.006 at most where it was measured."""
INT8 = 0.05
"""Of the quantized graph from the module."""


def each_case_on_each_target() -> list[object]:
    """The reader on each scheme and opset, the others on every second one in turns; the rest is slow."""
    targets = [target for target in list_targets() if target.quantization is not None]
    first: dict[str, int] = {}
    found: list[object] = []
    for target in targets:
        scheme = target.int8.model_dump(exclude={"source", "date"})
        key = repr((scheme, target.runtime.default_opset, target.runtime.name))
        is_new = key not in first
        number = first.setdefault(key, len(first))
        for turn, name in enumerate(CASES):
            fast = is_new and (name == "reader" or (turn + number) % 3 == 0)
            marks = () if fast else pytest.mark.slow
            found.append(pytest.param(name, target, marks=marks, id=f"{name}-{target.name}"))
    return found


@pytest.mark.parametrize(("name", "target"), each_case_on_each_target())
def test_the_int8_file_computes_what_the_quantized_graph_computes(name: str, target: Target, tmp_path: Path) -> None:
    """At two batch sizes and two lengths, with the same sites in the prepared graph, the converted one and the file."""
    case = CASES[name]
    model, example = case.made(), case.samples(2, case.sizes[0])
    prepared = prepare(model, target, example, free=case.free)
    calibrate(prepared, [case.samples(16, size) for size in case.sizes])
    trained = sites(prepared)
    tried = [case.samples(*of) for of in ((2, case.sizes[0]), (3, case.sizes[1]))]
    with torch.no_grad():
        expected = [prepared(*batch) for batch in tried]
        for batch, quantized in zip(tried, expected, strict=True):
            assert distance([quantized], [model(*batch)]) < INT8
    converted = convert(prepared)
    path = tmp_path / "int8.onnx"
    to_onnx(converted, path, example, opset=target.runtime.default_opset, free=case.free)
    assert sites(path) == sites(converted) == trained != set()
    for batch, quantized in zip(tried, expected, strict=True):
        assert distance(answer(path, batch), [quantized]) < ROUNDING


def calibrated(name: str, scheme: object, *, qat: bool = False) -> tuple[GraphModule, list[tuple[Tensor, ...]]]:
    """A case's graph with ranges of two batches of different sizes, and these batches."""
    case = CASES[name]
    batches = [case.samples(16, size) for size in case.sizes]
    prepared = prepare(case.made(), scheme, case.samples(2, case.sizes[0]), qat=qat, free=case.free)  # type: ignore[arg-type]
    if not qat:
        give_biases(prepared)
    calibrate(prepared, batches)
    return prepared, batches


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_batch_of_too_few_tensors_is_refused_with_the_names_of_the_inputs() -> None:
    prepared, ((ids, mask), _) = calibrated("reader", TENSORRT)
    for call in (
        lambda batch: calibrate(prepared, [(ids, mask), batch]),
        lambda batch: refine(prepared, [(ids, mask), batch], ["bias_correction"]),
        lambda batch: sensitivities(prepared, [(ids, mask), batch], Classify(tuple("abcde"))),
    ):
        with pytest.raises(QuantizationError, match=r"batch 1 has 1 tensors, the model takes 2 \(ids, mask\)"):
            call(ids)


class Weighed(nn.Module):
    """A map and a weight for each of its rows, both float."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(1, 16)

    def forward(self, x: Tensor, weight: Tensor, code: Tensor) -> Tensor:
        found: Tensor = self.a(x) + self.b(weight) + code
        return found


def test_only_float_inputs_must_be_finite_and_of_more_than_one_value() -> None:
    torch.manual_seed(0)
    x, weight, code = torch.randn(8, 16), torch.randn(8, 1), torch.zeros(8, 1, dtype=torch.int64)
    prepared = prepare(Weighed().eval(), TENSORRT, (x, weight, code))
    calibrate(prepared, [(x, weight, code)])
    with pytest.raises(QuantizationError, match="calibration batch 0 holds NaN"):
        calibrate(prepared, [(x, torch.full((8, 1), float("nan")), code)])
    with pytest.raises(QuantizationError, match="every value of every calibration sample as 'weight' is 1"):
        calibrate(prepared, [(x, torch.ones(8, 1), code)])


@pytest.mark.parametrize(
    ("free", "example", "message"),
    [
        (({1: FreeSize("length")}, {1: LENGTH}), texts(2, 12), "two sizes 'length' with other bounds"),
        (({1: LENGTH},), texts(2, 12), "free has 1 entries for 2 inputs"),
        (({0: LENGTH}, {1: LENGTH}), texts(2, 12), "free names axis 0 of input 0"),
        (({1: LENGTH}, {2: LENGTH}), texts(2, 12), "free names axis 2 of input 1, which has 2"),
        (FREE, (texts(2, 12)[0], texts(2, 10)[1]), "'length' is 12 in one example input and 10 in another"),
        (FREE, texts(2, 3), "'length' is 3 in the example; its bounds are 4 to 32"),
    ],
)
def test_free_sizes_that_contradict_the_example_are_refused(
    free: Free, example: tuple[Tensor, ...], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        prepare(Reader().eval(), TENSORRT, example, free=free)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("batch",), "other than 'batch'"),
        (("a length",), "give a name in letters, digits and _"),
        (("length", 4, 4), "free size 'length' of 4 to 4"),
        (("length", 4, 0), "give at_least from 1 on"),
    ],
)
def test_a_free_size_has_a_name_and_something_free(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        FreeSize(*arguments)  # type: ignore[arg-type]


def test_a_size_that_the_model_itself_does_not_take_is_refused_before_anything_is_trained() -> None:
    """The table has 32 places; from 20 tokens the next length that is tried is 41."""
    any_length: Free = ({1: FreeSize("length")}, {1: FreeSize("length")})
    with pytest.raises(QuantizationError, match="Reader itself does not run with length = 41: index out of range"):
        prepare(Reader().eval(), TENSORRT, texts(2, 20), free=any_length)


def test_a_graph_that_holds_for_the_examples_length_alone_is_refused() -> None:
    """The number of places, which the graph reads where it runs, as the constant that it was."""
    model, example = CASES["tags"].made(), texts(2, 12)
    graph = capture(model, example, trainable=False, free=FREE)
    samples = samples_of(example)
    check_same(model, graph, samples, trained=False, free=FREE)
    (places,) = graph.graph.find_nodes(op="call_function", target=aten.arange.default)
    places.args = (12,)
    graph.recompile()
    check_same(model, graph, samples, trained=False)
    with pytest.raises(QuantizationError, match=r"batch of 3 with length = 4"):
        check_same(model, graph, samples, trained=False, free=FREE)


# ------------------------------------------------------------------------------------------ what a free size decides


def test_the_length_of_the_example_decides_no_site() -> None:
    """A product needs 16 channels: of 12 tokens the scores have fewer, of 20 more, and callers choose."""
    short, long = (sites(prepare(Reader().eval(), JETSON, texts(2, length), free=FREE)) for length in (12, 20))
    assert short == long
    never: Free = ({1: FreeSize("length", at_most=15)},) * 2
    assert sites(prepare(Reader().eval(), JETSON, texts(2, 12), free=never)) < short


def test_an_example_of_one_token_gives_a_graph_for_any_number() -> None:
    one: Free = ({1: FreeSize("length", at_most=32)},) * 2
    model, batch = Reader().eval(), texts(3, 20)
    prepared = prepare(model, TENSORRT, texts(1, 1), free=one)
    with torch.no_grad(), in_float(prepared):
        assert distance([prepared(*batch)], [model(*batch)]) < 1e-5


class Shares(nn.Module):
    """An average over tokens by shares that a softmax gives, which are nearly equal."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.value = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        shares = (self.score(x) * 0.05).transpose(1, 2).softmax(-1)
        return (shares @ self.value(x)).mean(1)


def test_an_integer_softmax_over_a_free_size_is_right_at_the_least_of_it(tmp_path: Path) -> None:
    """onnxruntime's overflows below a scale of 1 / (148 n); that of 64 shares, 0.00007, gave zeros at every length."""
    torch.manual_seed(0)
    free: Free = ({1: FreeSize("length", at_least=4)},)
    x = torch.randn(16, 64, 16)
    prepared = prepare(Shares().eval(), QNN, (x[:2],), free=free)
    calibrate(prepared, [x])
    assert dict(activation_quantizers(prepared))["softmax"].scale >= 1 / (148 * 4)
    with torch.no_grad():
        expected = {length: prepared(x[:, :length]) for length in (4, 9, 64)}
    to_onnx(convert(prepared), tmp_path / "a.onnx", (x[:2],), opset=20, free=free)
    for length, quantized in expected.items():
        assert distance(answer(tmp_path / "a.onnx", (x[:, :length].contiguous(),)), [quantized]) < ROUNDING


@pytest.mark.parametrize("hidden", [-1e4, float("-inf")])
@pytest.mark.parametrize("scheme", [TENSORRT, UINT8, QNN], ids=["tensorrt", "onnxruntime", "qnn"])
def test_a_mask_that_hides_nothing_in_the_example_is_still_a_mask(scheme: object, hidden: float) -> None:
    """One scale for -10000 and for scores would leave nothing of the scores."""
    model = Reader(hidden=hidden).eval()
    ids, mask = texts(16, 12)
    prepared = prepare(model, scheme, (ids[:2], torch.ones_like(mask[:2])), free=FREE)  # type: ignore[arg-type]
    assert "a mask is among its values" in {operator.why for operator in float_operators(prepared)}
    calibrate(prepared, [(ids, mask)])
    with torch.no_grad():
        assert distance([prepared(ids, mask)], [model(ids, mask)]) < INT8


# ------------------------------------------------------------------------------- training, refinements, sensitivities


@pytest.mark.parametrize("scheme", [TENSORRT, UINT8], ids=["tensorrt", "onnxruntime"])
def test_a_training_step_on_two_inputs_lowers_the_loss_at_each_length(scheme: object) -> None:
    prepared, batches = calibrated("reader", scheme, qat=True)
    labels = torch.arange(16) % CLASSES
    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    train_mode(prepared)
    losses = []
    for batch in (*batches, *batches):
        loss = nn.functional.cross_entropy(prepared(*batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0] and losses[3] < losses[1]
    assert sites(convert(eval_mode(prepared))) == sites(calibrated("reader", scheme, qat=True)[0])


def test_multiplications_are_those_of_one_sample_of_all_its_tokens() -> None:
    """12 tokens, each through 32 x 32 weights; the head reads one vector. On a processor the same layers read matrices."""
    for scheme in (TENSORRT, UINT8):
        prepared, batches = calibrated("reader", scheme)
        table = {
            layer.layer: layer.multiplications for layer in sensitivities(prepared, batches, Classify(tuple("abcde")))
        }
        projections = dict.fromkeys(("query", "key", "value", "out"), 12 * 32 * 32)
        assert table == {**projections, "up": 12 * 32 * 64, "down": 12 * 32 * 64, "head": 32 * 5}


def test_multiplications_of_a_transposed_convolution_are_counted_at_its_input() -> None:
    """12 places times 32 channels to 32 through 2 taps; then 24 places times 32 channels to 16 of a group through 4 taps."""
    prepared, _ = calibrated("longer", TENSORRT)
    counted = {layer.name: layer.multiplications for layer in layers_of(prepared)}
    assert counted == {"first": 12 * 32 * 48, "up": 12 * 32 * 64, "again": 24 * 32 * 64, "out": 48 * 32 * 5}


def test_sensitivity_reads_the_last_axis_and_every_token_is_a_row() -> None:
    """Two more columns, of another task, change nothing; batches of different lengths are one table."""
    prepared, batches = calibrated("tags", TENSORRT)
    task = Classify(tuple("abc"))
    found = {layer.layer: layer.divergence for layer in sensitivities(prepared, batches, task)}
    with torch.no_grad(), in_float(prepared):
        expected = [prepared(*batch)[..., :3].flatten(0, 1) for batch in batches]
        head = next(layer for layer in layers_of(prepared) if layer.name == "head")
        for quantizer in head.quantizers:
            quantizer.enable_fake_quant(True)
        moved = [prepared(*batch)[..., :3].flatten(0, 1) for batch in batches]
    p, q = torch.cat(expected).log_softmax(-1), torch.cat(moved).log_softmax(-1)
    assert found["head"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=1e-9)
    with pytest.raises(QuantizationError, match=r"gives \[16, 12, 5\]; the task reads 6 numbers of the last axis"):
        sensitivities(prepared, batches, Classify(tuple("abcdef")))


class Watch(Interpreter):
    """It keeps every node's value."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n] = value
        return value

    def of(self, batch: tuple[Tensor, ...]) -> dict[Node, Tensor]:
        with torch.no_grad():
            self.run(*batch)
        return self.values


# What of an answer is the channel, counted by hand: all axes but 1, or but the last of a linear layer
OTHERS = {"reader": (0, 1), "sound": (0, 2), "clip": (0, 2, 3, 4), "longer": (0, 2), "larger": (0, 2, 3)}


@pytest.mark.parametrize("name", OTHERS)
def test_bias_correction_zeroes_the_mean_error_of_every_layer(name: str) -> None:
    """Of Conv1d, Conv3d and transposed convolutions too; batches of different lengths count by their values."""
    prepared, batches = calibrated(name, TENSORRT)
    layers = [layer for layer in layers_of(prepared) if layer.name != "head"]
    with in_float(prepared):
        expected = [Watch(prepared).of(batch) for batch in batches]

    def errors() -> list[float]:
        shipped = [Watch(prepared).of(batch) for batch in batches]
        found = []
        for node in (layer.node for layer in layers):
            others = OTHERS[name] if expected[0][node].dim() == len(OTHERS[name]) + 1 else (0,)
            off = sum((b[node] - a[node]).double().sum(others) for a, b in zip(expected, shipped, strict=True))
            size = sum(a[node].abs().double().sum(others) for a in expected)
            found.append(float((off / size.clamp_min(1e-6)).abs().max()))  # type: ignore[union-attr, operator]
        return found

    before = errors()
    refine(prepared, batches, ["bias_correction"])
    assert max(before) > 1e-4 and max(errors()) < 1e-5


@pytest.mark.parametrize("network", [Sound, Clip, Longer])
def test_a_layers_answer_is_its_weight_times_the_windows_that_its_rounding_sees(network: type[nn.Module]) -> None:
    """In one dimension and in three: strided, padded "same", dilated and grouped."""
    name = {Sound: "sound", Clip: "clip", Longer: "longer"}[network]
    prepared, batches = calibrated(name, TENSORRT)
    with in_float(prepared):
        values = Watch(prepared).of(batches[0])
    for layer in layers_of(prepared):
        if layer.is_transposed or layer.node.target is aten.linear.default:
            continue
        x, y = values[layer.input], values[layer.node]
        windows = unfold(layer, x, 10**9)
        weight = layer.weight.reshape(layer.groups, len(layer.weight) // layer.groups, -1)
        found = (weight @ windows).flatten(0, 1) + layer.bias[:, None]  # type: ignore[index]
        torch.testing.assert_close(found, y.transpose(0, 1).flatten(1), rtol=1e-4, atol=1e-5)


def _error(layer: Layer, weight: Tensor, in_float: dict[Node, Tensor], shipped: dict[Node, Tensor]) -> float:
    """How far a layer's answer, of the inputs that it had as it ships, is from the float one with this weight."""
    x, *_ = (shipped[source] for source in layer.node.all_input_nodes)
    with torch.no_grad():
        found = layer.node.target(x, weight, layer.bias, *layer.node.args[3:])  # type: ignore[operator]
        return float((found - in_float[layer.node]).square().sum())


@pytest.mark.parametrize("name", ["reader", "sound", "clip"])
def test_adaround_rebuilds_layers_better_than_rounding_to_nearest(name: str) -> None:
    prepared, batches = calibrated(name, TENSORRT)
    with in_float(prepared):
        floats = [Watch(prepared).of(batch) for batch in batches]
    before = {layer.name: layer.weight.detach().clone() for layer in layers_of(prepared)}
    refine(prepared, batches, ["adaround"])
    after = [Watch(prepared).of(batch) for batch in batches]
    gains = []
    for layer in layers_of(prepared):
        scale = layer.quantizer.scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
        nearest = (before[layer.name] / scale).round().clamp(-127, 127) * scale
        errors = [
            sum(_error(layer, weight, a, b) for a, b in zip(floats, after, strict=True))
            for weight in (nearest, layer.weight.detach())
        ]
        gains.append(errors[1] / errors[0])
    assert min(gains) < 0.9 and max(gains) < 1 + 1e-3


@pytest.mark.parametrize("scheme", [TENSORRT, UINT8], ids=["tensorrt", "onnxruntime"])
def test_a_refined_reader_is_no_further_from_the_float_one(scheme: object) -> None:
    prepared, batches = calibrated("reader", scheme)
    model = CASES["reader"].made()
    apart = []
    for steps in ((), ("adaround", "bias_correction")):
        refine(prepared, batches, steps)
        with torch.no_grad():
            apart.append(max(distance([prepared(*batch)], [model(*batch)]) for batch in batches))
    assert apart[1] < 1.2 * apart[0] and apart[1] < INT8


# -------------------------------------------------------------------------------------- where channels are not axis 1


class Apart(nn.Module):
    """Two layers of which the second reads as many numbers as the first has channels, but no channels."""

    def __init__(self, first: nn.Module, second: nn.Module, between: str) -> None:
        super().__init__()
        self.a, self.b, self.between = first, second, between

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if self.between == "flattened":
            x = x.flatten(2)
        elif self.between == "mean over channels":
            x = x.mean(1)
        elif self.between == "pooled":
            x = nn.functional.max_pool2d(x, 2)
        found: Tensor = self.b(x)
        return found


@pytest.mark.parametrize(
    ("between", "first", "second", "shape"),
    [
        ("flattened", nn.Conv2d(3, 8, 3, padding=1), nn.Linear(64, 5), (4, 3, 8, 8)),
        ("nothing", nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5), (4, 3, 8, 8)),
        ("mean over channels", nn.Conv1d(3, 8, 3, padding=1), nn.Linear(8, 5), (4, 3, 8)),
        ("nothing", nn.Linear(6, 8), nn.Conv1d(8, 5, 1), (4, 8, 6)),
        ("pooled", nn.Linear(6, 4), nn.Linear(2, 5), (4, 8, 6)),
    ],
)
def test_equalization_leaves_layers_alone_that_meet_on_another_axis(
    between: str, first: nn.Module, second: nn.Module, shape: tuple[int, ...]
) -> None:
    """They were scaled as if they met, and the float function was another one: by 60 % to 106 %."""
    torch.manual_seed(0)
    model, x = Apart(first, second, between).eval(), torch.randn(shape)
    with torch.no_grad():
        first.weight.mul_(torch.logspace(-1, 1, len(first.weight)).reshape(-1, *[1] * (first.weight.dim() - 1)))  # type: ignore[operator, arg-type, union-attr]
    prepared = prepare(model, TENSORRT, (x,))
    assert equalize(prepared) == []
    with torch.no_grad(), in_float(prepared):
        assert distance([prepared(x)], [model(x)]) < 1e-5


@pytest.mark.parametrize(
    ("name", "pairs"), [("sound", [("wide", "deep")]), ("clip", [("first", "second"), ("second", "head")])]
)
def test_layers_of_sounds_and_clips_are_equalized_where_channels_meet(name: str, pairs: list[tuple[str, str]]) -> None:
    case = CASES[name]
    model, batch = case.made(), case.samples(4, case.sizes[1])
    prepared = prepare(model, TENSORRT, case.samples(2, case.sizes[0]), free=case.free)
    assert equalize(prepared) == pairs
    with torch.no_grad(), in_float(prepared):
        assert distance([prepared(*batch)], [model(*batch)]) < 1e-5
    weights = {layer.name: layer.weight.detach() for layer in layers_of(prepared)}
    first, second = (weights[layer] for layer in pairs[0])
    read = second.flatten(1) if name == "sound" else second.transpose(0, 1).flatten(1)  # "deep" is depthwise
    ratio = first.flatten(1).abs().amax(1) / read.abs().amax(1)
    assert float(ratio.log().abs().max()) < math.log(1.02)
