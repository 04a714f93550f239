"""The networks of tables, and teachers that are functions of a table's columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.errors import ModelError
from edgekd.export.to_onnx import to_onnx
from edgekd.inputs.columns import Category, Columns, Number
from edgekd.models import BUILT_IN, CalledModel, load_model
from edgekd.quantize.ptq import calibrate, convert, prepare
from edgekd.recipe import Model
from edgekd.runtime.check import open_session
from edgekd.target import load_target

SIZES = (4, 7, 3)


def samples(n: int, numbers: int = 5, sizes: tuple[int, ...] = SIZES) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    codes = [torch.randint(0, size, (n,), generator=generator) for size in sizes]
    given = [torch.randn(n, numbers, generator=generator)] if numbers else []
    return (*given, torch.stack(codes, 1)) if codes else tuple(given)


def network(name: str, numbers: int = 5, sizes: tuple[int, ...] = SIZES, **args: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return load_model(Model(model=f"edgekd:{name}", args=args), num_classes=2, numbers=numbers, categories=sizes)


def columns() -> Columns:
    number = Number(column="age", mean=1, median=1, std=1, present=1, lacking=0, sample=(1.0,))
    return Columns(
        numbers=(number, number.model_copy(update={"column": "day", "part": "days"})),
        categories=(Category(column="city", words=("Lima", "Oslo"), counts=(0, 0, 1, 1)),),
        dropped={},
    )


@pytest.mark.parametrize("name", ["mlp", "ft-transformer"])
@pytest.mark.parametrize("numbers, sizes", [(5, SIZES), (5, ()), (0, SIZES)])
def test_a_network_takes_numbers_and_codes_or_one_of_them(name: str, numbers: int, sizes: tuple[int, ...]) -> None:
    logits = network(name, numbers, sizes)(*samples(6, numbers, sizes))
    assert logits.shape == (6, 2)


def test_the_parameters_are_counted() -> None:
    """By hand. MLP: 14 codes of 4 numbers, (5 + 12) inputs to 64, 64 to 64, 64 to 2."""
    expected = 14 * 4 + 18 * 64 + 65 * 64 + 65 * 2
    assert sum(each.numel() for each in network("mlp").parameters()) == expected
    block = 4 * 33 * 32 + 2 * 33 * 42 + 43 * 32 + 2 * 32  # attention, gated perceptron of 42, the norm before it
    tokens = 5 * 32 + 14 * 32 + 8 * 32 + 32
    expected = tokens + 2 * block + 2 * 32 + 2 * 32 + 33 * 2  # the second block's first norm, the last norm, the head
    assert sum(each.numel() for each in network("ft-transformer").parameters()) == expected


@pytest.mark.parametrize("name", ["mlp", "ft-transformer"])
def test_every_column_counts_and_unknown_words_say_nothing_at_first(name: str) -> None:
    model = network(name)
    numbers, codes = samples(1)
    logits = model(numbers, codes)
    for at in range(numbers.shape[1]):
        other = numbers.clone()
        other[0, at] += 1
        assert not torch.equal(model(other, codes), logits)
    for at, size in enumerate(SIZES):
        found = {
            code: model(numbers, torch.cat([codes[:, :at], torch.tensor([[code]]), codes[:, at + 1 :]], 1))
            for code in range(size)
        }
        assert torch.equal(found[0], found[1])
        assert all(not torch.equal(found[code], found[0]) for code in range(2, size))


@pytest.mark.parametrize("name", ["mlp", "ft-transformer"])
@pytest.mark.parametrize("target", ["x86-cpu", "jetson", "raspberry-pi-5"])
def test_a_network_quantizes_by_each_scheme(name: str, target: str, tmp_path: Path) -> None:
    """The written file computes what the quantized module computes, and that is near the float network."""
    model, batch = network(name), samples(64)
    scheme = load_target(target).int8
    prepared = prepare(model, scheme, batch)
    calibrate(prepared, [batch])
    quantized = convert(prepared)
    to_onnx(quantized, tmp_path / "m.onnx", batch, opset=19, inputs=["numbers", "categories"])
    with torch.no_grad():
        expected, as_float = quantized(*batch), model(*batch)
    given = {"numbers": batch[0].numpy(), "categories": batch[1].numpy()}
    found = open_session(tmp_path / "m.onnx").run(None, given)[0]
    spread = float(as_float.std())
    assert float((expected - as_float).abs().mean()) < 0.1 * spread
    assert np.abs(found - expected.numpy()).mean() < 0.05 * spread


def test_a_function_of_the_columns_is_a_teacher_of_raw_arrays(tmp_path: Path) -> None:
    (tmp_path / "trees.py").write_text(
        "import numpy as np\n"
        "def make(num_classes):\n"
        "    def probabilities(table):\n"
        "        assert list(table) == ['age', 'day.days', 'city'] and table['city'].tolist() == [None, None, 'Lima', 'Oslo']\n"
        "        return np.stack([table['age'], table['day.days']], 1)\n"
        "    return probabilities\n"
        "def wide(num_classes):\n"
        "    return lambda table: np.zeros(3)\n"
    )
    model = load_model(Model(model=f"python:{tmp_path}/trees.py:make"), num_classes=2, columns=columns())
    assert isinstance(model, CalledModel)
    numbers = torch.tensor([[1.0, 2.0], [3.0, float("nan")], [5.0, 6.0], [7.0, 8.0]])
    found = model(numbers, torch.tensor([[0], [1], [2], [3]]))
    assert found.dtype == torch.float32 and torch.equal(found.nan_to_num(9), numbers.nan_to_num(9))
    wrong = load_model(Model(model=f"python:{tmp_path}/trees.py:wide"), num_classes=2, columns=columns())
    with pytest.raises(
        ModelError, match=r"gave float64 \[3\] for a table of 4 rows; it must give numbers \[rows, classes\]"
    ):
        wrong(numbers, torch.tensor([[0], [1], [2], [3]]))


def test_a_function_is_refused_where_numbers_are_standardised(tmp_path: Path) -> None:
    (tmp_path / "trees.py").write_text("def make(num_classes):\n    return lambda table: table\n")
    reference = Model(model=f"python:{tmp_path}/trees.py:make")
    with pytest.raises(ModelError, match="or as a teacher with raw = true a function of a table's columns"):
        load_model(reference, num_classes=2, numbers=3, categories=())
    with pytest.raises(ModelError, match=r"it must return a torch.nn.Module$"):
        load_model(reference, num_classes=2, in_channels=3)


@pytest.mark.parametrize("name", ["mlp", "ft-transformer"])
def test_images_are_no_tables(name: str) -> None:
    with pytest.raises(ModelError, match="it reads the columns of a table"):
        load_model(Model(model=f"edgekd:{name}"), num_classes=2, in_channels=3)
    assert name in BUILT_IN
