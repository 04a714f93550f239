"""check compares a file of several inputs with a torch model that takes as many arguments, in the file's order."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekd.errors import ExportError
from edgekd.runtime.check import check


class Scorer(nn.Module):
    """Words by their numbers, those of the mask, to the mean of their rows in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weight = mask.unsqueeze(2)
        return (self.table(ids) * weight).sum(1) / weight.sum(1)


def batch(n: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 7, (n, length)), torch.ones(n, length)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scorer]:
    torch.manual_seed(0)
    file, model = tmp_path_factory.mktemp("scorer") / "scorer.onnx", Scorer().eval()
    free = {0: torch.export.Dim("n", min=1), 1: torch.export.Dim("length", min=1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about torch's own
        program = torch.onnx.export(
            model, batch(2, 3), dynamo=True, input_names=["ids", "mask"], dynamic_shapes=(free, free), opset_version=18,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(file)
    return file, model


def test_a_file_of_two_inputs_agrees_with_its_module(exported: tuple[Path, Scorer]) -> None:
    file, model = exported
    found = check(file, model, [batch(3, 4), batch(2, 5)])

    assert found.samples == found.answers == 5 and found.same_top1 == 1.0


def test_another_order_of_the_arguments_is_a_difference(exported: tuple[Path, Scorer]) -> None:
    file, model = exported
    with pytest.raises(ExportError, match="differs from the torch model"):
        check(file, lambda ids, mask: -model(ids, mask), [batch(3, 4)])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            torch.zeros(2, 3, dtype=torch.int64),
            r"takes 2 inputs \(ids, mask\), and a batch of the samples has 1 tensors",
        ),
        ((*batch(2, 3), torch.zeros(2)), "has 3 tensors; give a tuple with one for each"),
        ((batch(2, 3)[0], batch(1, 3)[1]), r"need as many samples each; given: \[\[2, 3\], \[1, 3\]\]"),
        ((batch(2, 3)[0].float(), batch(2, 3)[1]), "onnxruntime does not run"),
    ],
)
def test_a_batch_that_the_file_does_not_take_is_refused(
    exported: tuple[Path, Scorer], given: Tensor | tuple[Tensor, ...], told: str
) -> None:
    file, _ = exported
    with pytest.raises(ExportError, match=told):
        check(file, lambda *arguments: torch.zeros(2, 4), [given])
