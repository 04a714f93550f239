"""Several inputs, free sizes and preprocessing modules in the file: names, numbers, half precision, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import DataError, ExportError
from edgekd.export import FreeSize, Preprocess, to_bf16, to_fp16, to_onnx
from edgekd.export.lint import lint
from edgekd.export.shapes import fix_sizes
from edgekd.models.trace import Free
from edgekd.quantize.same import distance
from edgekd.target import load_target
from tests.builders.inputs import CASES, FREE, LENGTH, Reader, answer, texts


def shapes(path: Path) -> dict[str, list[int | str]]:
    """Of every input and output, free sizes by their names."""
    graph = onnx.load(path).graph
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        *((name, 20) for name in CASES),
        *(pytest.param(name, 16, marks=() if name == "tags" else pytest.mark.slow) for name in CASES),
    ],
)
def test_the_float_file_computes_what_the_module_computes(name: str, opset: int, tmp_path: Path) -> None:
    """At a batch of one, two and three, at two lengths; TensorRT 8.5 reads opset 16."""
    case = CASES[name]
    model, (short, long) = case.made(), case.sizes
    to_onnx(model, tmp_path / "a.onnx", case.samples(2, short), opset=opset, free=case.free)
    for of in ((1, long), (2, short), (3, long)):
        batch = case.samples(*of)
        with torch.no_grad():
            assert distance(answer(tmp_path / "a.onnx", batch), [model(*batch)]) < 1e-5


def test_inputs_and_outputs_bear_the_names_of_free_sizes(tmp_path: Path) -> None:
    for name, expected in {
        "tags": {"ids": ["batch", "length"], "mask": ["batch", "length"], "logits": ["batch", "length", 5]},
        "longer": {"input": ["batch", 16, "time"], "logits": ["batch", 5, "4*time"]},
    }.items():
        case = CASES[name]
        to_onnx(case.made(), tmp_path / "a.onnx", case.samples(2, 12), opset=20, free=case.free)
        assert shapes(tmp_path / "a.onnx") == expected


def test_a_batch_can_be_fixed_and_a_length_stay_free(tmp_path: Path) -> None:
    model = CASES["tags"].made()
    to_onnx(model, tmp_path / "a.onnx", texts(2, 12), opset=20, batch=1, free=FREE)
    assert shapes(tmp_path / "a.onnx") == {"ids": [1, "length"], "mask": [1, "length"], "logits": [1, "length", 5]}
    with torch.no_grad():
        assert distance(answer(tmp_path / "a.onnx", texts(1, 20)), [model(*texts(1, 20))]) < 1e-5
    to_onnx(model, tmp_path / "b.onnx", texts(2, 12), opset=20)  # nothing but the batch is free
    assert shapes(tmp_path / "b.onnx")["ids"] == ["batch", 12]


def test_an_example_of_one_token_gives_a_file_for_any_number(tmp_path: Path) -> None:
    model, one = CASES["tags"].made(), FreeSize("length", at_most=32)
    to_onnx(model, tmp_path / "a.onnx", texts(1, 1), opset=20, free=({1: one}, {1: one}))
    for length in (1, 2, 32):
        with torch.no_grad():
            assert distance(answer(tmp_path / "a.onnx", texts(3, length)), [model(*texts(3, length))]) < 1e-5


# ----------------------------------------------------------------------------------------------------- what is refused


class Fixed(nn.Module):
    """It takes texts of 12 ids alone."""

    def forward(self, ids: Tensor) -> Tensor:
        return ids.reshape(ids.shape[0], 12).float()


class Table(nn.Module):
    """It has places for 32 ids."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(1, 32))

    def forward(self, ids: Tensor) -> Tensor:
        return ids + self.places[:, : ids.shape[1]]


class Halves(nn.Module):
    """It takes even lengths alone."""

    def forward(self, ids: Tensor) -> Tensor:
        half = ids.shape[1] // 2
        return (ids[:, :half] + ids[:, half:]).float()


class Window(nn.Module):
    """It needs 5 places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.conv(ids.float().unsqueeze(1))
        return found


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (Fixed, FreeSize("length"), r"it fixes the free size 'length' to a constant \(take it from the input's shape"),
        (Table, FreeSize("length"), r"'length' of 1 or more; give FreeSize\('length', at_most=32, at_least=1\)"),
        (Table, FreeSize("length", 64, 3), r"'length' of 3 to 64; give FreeSize\('length', at_most=32, at_least=3\)"),
        (Halves, FreeSize("length"), "'length'"),
        (Window, FreeSize("length"), r"'length' of 1 or more; give FreeSize\('length', at_least=5\)"),
    ],
)
def test_a_model_that_does_not_take_every_size_is_refused_with_its_name(
    model: type[nn.Module], size: FreeSize, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=rf"{model.__name__} cannot be traced.*{message}") as caught:
        to_onnx(model(), tmp_path / "a.onnx", torch.zeros(2, 12, dtype=torch.int64), opset=20, free=({1: size},))
    assert str(caught.value).count("\n") == 0 and not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("name", ["tags", "larger"])
def test_probabilities_of_more_than_two_axes_are_refused(name: str, tmp_path: Path) -> None:
    """They were taken over tokens: the second axis holds the classes of a map, and the last those of a text."""
    case = CASES[name]
    with pytest.raises(ExportError, match=r"of \[batch, classes\] alone: write logits"):
        to_onnx(case.made(), tmp_path / "a.onnx", case.samples(2, 12), opset=20, output="probabilities")


# ------------------------------------------------------------------------------------------------------- preprocessing


class Frames(nn.Module):
    """Samples of a sound, int16 `[batch, time]`, to frames `[batch, 16, time / 4]` by fixed windows."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("windows", torch.randn(16, 1, 4, generator=generator))

    def forward(self, samples: Tensor) -> Tensor:
        return nn.functional.conv1d((samples.float() / 32768).unsqueeze(1), self.windows, stride=4)


class Padding(nn.Module):
    """Words to ids and mask: 0 stands for no word."""

    def forward(self, words: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return (words.long() + shift.long()) * (words != 0), (words != 0).long()


def test_a_module_before_the_model_is_part_of_the_file(tmp_path: Path) -> None:
    """The example is as the file takes it: samples of a sound."""
    model, frames, time = CASES["sound"].made(), Frames(), FreeSize("time", at_least=64)
    raw = torch.randint(-30000, 30000, (3, 96), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    frames.train()
    to_onnx(model, tmp_path / "a.onnx", raw[:, :80].contiguous(), opset=20, preprocess=frames, free=({1: time},))
    assert frames.training and shapes(tmp_path / "a.onnx") == {"input": ["batch", "time"], "logits": ["batch", 5]}
    with torch.no_grad():
        assert distance(answer(tmp_path / "a.onnx", (raw,)), [model(frames(raw))]) < 1e-5
    stored = {tensor.name for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert "windows" in stored and "head.weight" in stored


def test_a_module_may_give_the_model_several_arguments_and_names_the_files_inputs(tmp_path: Path) -> None:
    model, padding = CASES["reader"].made(), Padding()
    words = texts(3, 20)[0].clamp(max=48).to(torch.int32)
    shift = torch.ones(3, 1, dtype=torch.int32)
    example = (words[:2, :12].contiguous(), shift[:2])
    to_onnx(model, tmp_path / "a.onnx", example, opset=20, preprocess=padding, free=({1: LENGTH}, {}))
    assert shapes(tmp_path / "a.onnx") == {"words": ["batch", "length"], "shift": ["batch", 1], "logits": ["batch", 5]}
    with torch.no_grad():
        assert distance(answer(tmp_path / "a.onnx", (words, shift)), [model(*padding(words, shift))]) < 1e-5


class Own(nn.Module):
    """A network that has a part `normalise` itself, as the preprocessing of images does."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = nn.Module()
        self.normalise.register_buffer("scale", torch.tensor([2.0, 3.0, 5.0]).reshape(-1, 1, 1))
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        found: Tensor = self.conv(x * self.normalise.scale).mean((2, 3)) + more
        return found


def test_images_are_normalised_beside_a_further_input_and_a_part_of_the_same_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, more = Own().eval(), torch.randn(3, 4)
    pixels = torch.randint(0, 256, (3, 6, 6, 3), dtype=torch.uint8)
    x = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    preprocess = Preprocess((0.5,) * 3, (0.25,) * 3)
    to_onnx(model, tmp_path / "a.onnx", (x[:2], more[:2]), opset=20, preprocess=preprocess)
    assert shapes(tmp_path / "a.onnx") == {"x": ["batch", 6, 6, 3], "more": ["batch", 4], "logits": ["batch", 4]}
    with torch.no_grad():
        assert distance(answer(tmp_path / "a.onnx", (pixels, more)), [model(x, more)]) < 1e-5


# ------------------------------------------------------------------------------------------------------ half precision


def types(path: Path) -> list[tuple[str, int]]:
    """(operator, type of what it gives) in order."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return [(node.op_type, known[node.output[0]]) for node in graph.node]


def test_what_reads_token_ids_becomes_half_and_no_more_than_the_mask_stays_float(tmp_path: Path) -> None:
    """float32 are the cast of the mask and the softmax, and on samples the scores that the mask hides. Ids are no floats."""
    model, (ids, mask) = CASES["reader"].made(), texts(8, 12)
    to_onnx(model, tmp_path / "a.onnx", (ids[:2], mask[:2]), opset=20, free=FREE)
    for samples, expected in (
        (None, ({"Cast", "Softmax"}, set())),
        ({"ids": ids.numpy(), "mask": mask.numpy()}, ({"Cast", "Softmax", "Where"}, {"Where", "Softmax"})),
    ):
        kept = to_fp16(tmp_path / "a.onnx", tmp_path / "half.onnx", samples)
        found = types(tmp_path / "half.onnx")
        in_float = {operator for operator, kind in found if kind == onnx.TensorProto.FLOAT}
        assert (in_float, {each.operator for each in kept}) == expected
        assert ("Gather", onnx.TensorProto.FLOAT16) in found
        with torch.no_grad():
            assert distance(answer(tmp_path / "half.onnx", texts(3, 20)), [model(*texts(3, 20))]) < 2e-3
    with pytest.raises(DataError, match="cannot be run on these samples"):
        to_fp16(tmp_path / "a.onnx", tmp_path / "half.onnx", ids.numpy())


def test_integers_that_are_counted_need_no_half_precision(tmp_path: Path) -> None:
    """Range has no form in bfloat16 at opset 22; of places, which are int64, it needs none."""
    to_onnx(CASES["reader"].made(), tmp_path / "a.onnx", texts(2, 12), opset=22, free=FREE)
    assert "Range" in {operator for operator, _ in types(tmp_path / "a.onnx")}
    assert "Range" not in {each.operator for each in to_bf16(tmp_path / "a.onnx", tmp_path / "half.onnx")}


class Column(nn.Module):
    """A column of a table around a million, made small, beside one of small numbers."""

    def forward(self, large: Tensor, small: Tensor) -> Tensor:
        return (large - 1e6) / 10 + small * 2


def test_a_float_input_beyond_half_precision_is_read_in_float(tmp_path: Path) -> None:
    """What the first operator gives is small; what it reads was infinite in half precision."""
    large, small = 1e6 + torch.randn(8, 3), torch.randn(8, 3)
    to_onnx(Column(), tmp_path / "a.onnx", (large[:2], small[:2]), opset=20)
    samples = {"large": large.numpy(), "small": small.numpy()}
    kept = to_fp16(tmp_path / "a.onnx", tmp_path / "half.onnx", samples)
    assert [each.operator for each in kept] == ["Sub"]
    assert distance(answer(tmp_path / "half.onnx", (large, small)), [Column()(large, small)]) < 2e-3
    only = to_fp16(tmp_path / "a.onnx", tmp_path / "half.onnx", {**samples, "large": samples["large"] * 0 + 1})
    assert "large" not in " ".join(each.why for each in only)


# ---------------------------------------------------------------------------------------------------------------- lint


@pytest.mark.parametrize("target", ["jetson-xavier-nx", "x86-cpu"])
def test_lint_finds_no_error_in_a_file_of_two_inputs_and_runs_it_on_samples_by_name(
    target: str, tmp_path: Path
) -> None:
    device, (ids, mask) = load_target(target), texts(8, 12)
    to_onnx(Reader().eval(), tmp_path / "a.onnx", (ids, mask), opset=device.runtime.default_opset, free=FREE)
    np.savez(tmp_path / "samples.npz", ids=ids.numpy(), mask=mask.numpy())
    found = lint(tmp_path / "a.onnx", device, samples=tmp_path / "samples.npz")
    assert not [finding for finding in found if finding.severity == "error"]
    assert any(finding.rule == "fp16_values" for finding in found) == ("fp16" in device.runtime.precisions)


def test_a_size_that_is_told_of_one_input_is_that_of_the_other(tmp_path: Path) -> None:
    to_onnx(CASES["tags"].made(), tmp_path / "a.onnx", texts(2, 12), opset=20, free=FREE)
    model = onnx.load(tmp_path / "a.onnx")
    fix_sizes(model, {"ids": (1, 16)}, "a.onnx")
    assert [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input] == [[1, 16]] * 2


def test_a_tuple_of_arguments_that_a_model_takes_as_one_has_numbered_names(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            return x + sum(others)

    free: Free = ({1: LENGTH},) * 3
    to_onnx(Sum(), tmp_path / "a.onnx", (torch.zeros(2, 12),) * 3, opset=20, free=free)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    assert [value.name for value in session.get_inputs()] == ["x", "others_0", "others_1"]
