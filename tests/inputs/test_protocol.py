"""What every kind of input relies on: types in the store, names in the graph, bounds of free sizes, one precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekd.data import Split, open_samples
from edgekd.data.batches import arguments_of, examples_of
from edgekd.data.store import write_decoded
from edgekd.distill.layers import pair_layers
from edgekd.errors import DataError, ExportError, ModelError
from edgekd.export import to_onnx
from edgekd.inputs import INPUTS, Field, Kind
from edgekd.inputs.image import INPUT, Image
from edgekd.models.forward import predict
from edgekd.models.free import free_sizes
from edgekd.models.trace import FreeSize, trace
from edgekd.recipe import ClassifyTask, Export
from edgekd.recipe.losses import Loss
from edgekd.steps.export import as_input
from tests.builders.arguments import argument
from tests.builders.tokens import LONGEST, Tokens, reader, sentences
from tests.builders.training import DATA, IDS, LABELS, PIXELS, network, samples


def test_a_store_of_another_type_is_refused_where_a_map_would_read_other_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(INPUTS, "tokens", Kind(Tokens.of))
    arrays, labels = sentences(20, 0)
    write_decoded(tmp_path, "tokens", arrays, labels, ("a", "b", "c"))
    np.testing.assert_array_equal(
        open_samples(tmp_path, DATA, ClassifyTask()).train.get(np.arange(20))["ids"], arrays["ids"]
    )
    write_decoded(tmp_path, "tokens", {**arrays, "ids": arrays["ids"].astype(np.int32)}, labels, ("a", "b", "c"))
    with pytest.raises(DataError, match=r"int32.*int64"):
        open_samples(tmp_path, DATA, ClassifyTask())


class Turned(nn.Module):
    """Its arguments have the names of the fields in the other order: names are those of the fields all the same."""

    def forward(self, mask: Tensor, ids: Tensor) -> Tensor:
        return mask.float() - 2 * ids.float()


@pytest.mark.parametrize("preprocess", [True, False])
def test_the_graphs_inputs_have_the_fields_names_in_the_fields_order(tmp_path: Path, preprocess: bool) -> None:
    arrays, _ = sentences(4, 0)
    feeds = as_input(Tokens(), arrays, Export(preprocess=preprocess))
    to_onnx(
        Turned().eval(), tmp_path / "m.onnx", tuple(map(torch.from_numpy, feeds.values())), opset=18,
        preprocess=Tokens().preprocess() if preprocess else None, inputs=list(feeds),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feeds)
    np.testing.assert_array_equal(found, arrays["ids"] - 2.0 * arrays["mask"])  # the first argument is the first field


def test_one_input_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    to_onnx(nn.Linear(4, 2).eval(), tmp_path / "m.onnx", torch.zeros(2, 4), opset=18, inputs=["wave"])
    assert [value.name for value in onnx.load(tmp_path / "m.onnx").graph.input] == ["wave"]


def test_the_least_of_a_free_size_reaches_the_tracer() -> None:
    fields = (Field("x", "float32", (4, "time"), 64, at_least=6),)
    assert free_sizes(fields) == ({2: FreeSize("time", 64, 6)},)
    kernel = nn.Sequential(nn.Conv1d(4, 2, 5), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    trace(kernel, (torch.zeros(2, 4, 20),), free=free_sizes(fields))
    with pytest.raises(ExportError, match=r"time.*of 1 to 64"):
        trace(kernel, (torch.zeros(2, 4, 20),), free=free_sizes([replace(fields[0], at_least=1)]))


def test_fields_of_one_size_are_free_in_nothing() -> None:
    assert free_sizes(Image((4, 4, 3)).fields) == ()


class Doubles(nn.Module):
    """Takes whatever else a wrapper passes on."""

    def forward(self, *xs: Tensor, scale: float = 2.0, **others: object) -> Tensor:
        return scale * sum(xs, torch.zeros(()))


def test_keyword_arguments_of_a_wrapper_are_no_inputs() -> None:
    program = trace(Doubles(), (torch.ones(2, 3), torch.ones(2, 3)))
    assert torch.equal(program.module()(torch.ones(5, 3), torch.ones(5, 3)), torch.full((5, 3), 4.0))


def test_preprocessing_keeps_its_precision_under_autocast() -> None:
    class Spectra(Image):
        def preprocess(self) -> nn.Module:  # type: ignore[override]
            return nn.Sequential(super().preprocess(), convolution)

    torch.manual_seed(0)
    convolution, raw = nn.Conv2d(1, 4, 3), {INPUT: PIXELS}
    spectra = Spectra((6, 6, 1), (0.2,), (0.2,))
    (expected,) = arguments_of(spectra, raw, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = arguments_of(spectra, raw, torch.device("cpu"))
    assert found.dtype is torch.float32 and torch.equal(found, expected) and not found.requires_grad


def test_predict_holds_one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.models.forward.BATCH", 32)
    happened: list[str] = []
    model = network().eval()
    model.register_forward_hook(lambda *_: happened.append("computed"))

    def get(ids: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        happened.append("read")
        return {INPUT: PIXELS[ids]}

    task = samples().task
    (logits,) = predict(model, Split(samples().input, get, LABELS, task), IDS, [task])
    assert happened == ["read", "computed"] * 3 and logits.shape == (96, 3)


def test_examples_are_real_samples_in_order_of_memory() -> None:
    (found,) = examples_of(samples(), 100)
    expected = argument(PIXELS[np.arange(100) % 80], DATA.mean, DATA.std)
    assert torch.equal(found, expected) and found.is_contiguous()


def test_layers_are_paired_by_maps_alone() -> None:
    arrays, _ = sentences(2, 0)
    words = tuple(map(torch.from_numpy, arrays.values()))
    student = reader(3, 24)
    with pytest.raises(ModelError, match=r"channels, h, w.*write layers"):
        pair_layers([Loss(method="at", layers="auto")], student, student, words)
    assert words[0].shape == (2, LONGEST)
