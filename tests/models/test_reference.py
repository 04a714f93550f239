"""Model references: what loads, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from edgekd.errors import ModelError
from edgekd.models import BUILT_IN, load_model, number_of_classes
from edgekd.models.reference import feeds_of
from edgekd.models.resnet import resnet8
from edgekd.recipe import Model


def load(model: str, weights: Path | None = None, channels: int = 3, **args: object) -> nn.Module:
    return load_model(
        Model(model=model, weights=str(weights) if weights else None, args=args), num_classes=10, in_channels=channels
    )


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # MLPerf Tiny's ResNet: convolutions 3·16·9 + 2·16·16·9 + (16·32 + 32·32 + 32·64 + 64·64)·9 + 16·32 + 32·64, the
        # BatchNorms' 2·(16·3 + 32·2 + 64·2), the classifier's 65·10
        ("resnet8", 77_850),
        # He et al., table 6: 0.27 million
        ("resnet20", 272_000),
        # Zagoruyko & Komodakis, table 4: 0.7 million
        ("wrn-16-2", 692_000),
        # Sandler et al., table 4 has 1.95 million at width 0.5 with 1000 classes, of which 1.28 million are the classifier
        ("mobilenetv2-0.5", 700_000),
    ],
)
def test_built_in_models_have_their_papers_size(name: str, expected: int) -> None:
    model = load(f"edgekd:{name}")
    assert parameters(model) == pytest.approx(expected, rel=0.0 if name == "resnet8" else 0.02)
    assert number_of_classes(model, (torch.zeros(2, 3, 32, 32),)) == 10


def test_mobilenetv2_of_width_035_has_the_papers_layers() -> None:
    """Stem 16, blocks to 8, 8, 16, 24, 32, 56, 112, head 1280: channels 0.35 times table 2's, as multiples of 8."""
    stages = [
        (16, 8, 1, 1),
        (8, 8, 6, 2),
        (8, 16, 6, 3),
        (16, 24, 6, 4),
        (24, 32, 6, 3),
        (32, 56, 6, 3),
        (56, 112, 6, 1),
    ]
    expected = 3 * 16 * 9 + 2 * 16 + 112 * 1280 + 2 * 1280 + 1281 * 10
    for first, c_out, expansion, repeats in stages:
        for c_in in (first, *[c_out] * (repeats - 1)):
            wide = c_in * expansion
            expected += (
                (c_in * wide + 2 * wide if expansion > 1 else 0) + 9 * wide + 2 * wide + wide * c_out + 2 * c_out
            )
    assert parameters(load("edgekd:mobilenetv2-0.35")) == expected == 408_938


@pytest.mark.parametrize(("small_images", "size"), [(False, 5), (True, 19)])
def test_mobilenetv2_of_width_035_strides_as_the_paper_does_unless_images_are_small(
    small_images: bool, size: int
) -> None:
    model = load("edgekd:mobilenetv2-0.35", small_images=small_images)
    assert isinstance(model.stem, nn.Module) and isinstance(model.blocks, nn.Module)
    with torch.no_grad():
        assert model.blocks(model.stem(torch.zeros(1, 3, 150, 150))).shape == (1, 112, size, size)


def test_built_in_models_take_grey_images() -> None:
    for name in BUILT_IN.keys() - {"unet", "mlp", "ft-transformer"}:  # whose answers are maps, or which read tables
        assert number_of_classes(load(f"edgekd:{name}", channels=1), (torch.zeros(2, 1, 40, 40),)) == 10


def test_weights_in_safetensors_are_loaded(tmp_path: Path) -> None:
    trained = resnet8()
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    loaded = load("edgekd:resnet8", tmp_path / "w.safetensors")
    assert torch.equal(loaded.state_dict()["fc.weight"], trained.state_dict()["fc.weight"]) and not loaded.training


def test_a_state_dict_in_a_pt_file_is_loaded(tmp_path: Path) -> None:
    trained = resnet8()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pt")
    loaded = load("edgekd:resnet8", tmp_path / "w.pt")
    assert torch.equal(loaded.state_dict()["stem.weight"], trained.state_dict()["stem.weight"])


def test_a_function_of_a_file_gets_the_datas_class_count_and_the_recipes_arguments(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, hidden=1):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, hidden), nn.Linear(hidden, num_classes))\n"
    )
    model = load(f"python:{tmp_path}/net.py:build", hidden=7)
    assert number_of_classes(model, (torch.zeros(2, 3, 2, 2),)) == 10 and parameters(model) == 13 * 7 + 8 * 10


def test_an_exported_program_and_an_onnx_file_compute_what_the_model_computes(tmp_path: Path) -> None:
    model, x = resnet8().eval(), torch.randn(4, 3, 16, 16)
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), tmp_path / "t.pt2")
    from edgekd.export import to_onnx

    to_onnx(model, tmp_path / "t.onnx", x, opset=20)
    with torch.no_grad():
        for reference in (f"exported:{tmp_path}/t.pt2", f"onnx:{tmp_path}/t.onnx"):
            torch.testing.assert_close(load(reference)(x[:3]), model(x[:3]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("least", "most"), [(2, 3), (4, 6), (7, None)])
def test_an_exported_program_with_limits_of_its_batch_takes_any_number(
    least: int, most: int | None, tmp_path: Path
) -> None:
    model, x = resnet8().eval(), torch.randn(13, 3, 16, 16)
    batch = torch.export.Dim("batch", min=least, max=most)
    program = torch.export.export(model, (x[: most or least],), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "t.pt2")
    loaded = load(f"exported:{tmp_path}/t.pt2")
    with torch.no_grad():
        for number in (1, 2, 3, 5, 13):
            torch.testing.assert_close(loaded(x[:number]), model(x[:number]), rtol=1e-3, atol=1e-4)


def refused(model: str, weights: Path | None = None, **args: object) -> str:
    with pytest.raises(ModelError) as caught:
        load(model, weights, **args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_built_in_model_is_told_with_the_nearest() -> None:
    assert "Did you mean resnet8?" in refused("edgekd:resnet9")


def test_an_unknown_form_is_told_with_the_forms() -> None:
    assert "python:FILE.py:FUNCTION" in refused("torchvision:resnet18")


def test_an_argument_that_the_function_does_not_take_is_told_with_those_it_takes() -> None:
    text = refused("edgekd:resnet8", widht=3)
    assert "widht" in text and "width" in text


def test_weights_that_do_not_fit_are_told_by_key(tmp_path: Path) -> None:
    weights = resnet8(num_classes=7).state_dict()
    weights["extra"] = weights.pop("bn.weight")
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    text = refused("edgekd:resnet8", tmp_path / "w.safetensors")
    assert "missing bn.weight" in text and "unexpected extra" in text and "fc.weight is [7, 64]" in text


class Anything:
    """A pickle of this needs more than tensors."""


def test_a_pickle_that_needs_more_than_tensors_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({"model": Anything()}, tmp_path / "w.pt")
    text = refused("edgekd:resnet8", tmp_path / "w.pt")
    assert "could run any code" in text and "safetensors" in text
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Anything()))
    text = refused("edgekd:resnet8", tmp_path / "raw.pt")  # in the words of the release of torch
    assert "cannot be read as weights" in text or "could run any code" in text


def test_a_file_that_is_missing_or_broken_is_told(tmp_path: Path) -> None:
    assert "no such file" in refused("edgekd:resnet8", tmp_path / "no.safetensors")
    for name in ("w.safetensors", "w.pt"):
        (tmp_path / name).write_bytes(b"hello")
        assert "cannot be read" in refused("edgekd:resnet8", tmp_path / name) or "refused" in refused(
            "edgekd:resnet8", tmp_path / name
        )
    (tmp_path / "t.onnx").write_bytes(b"hello")
    assert "cannot be loaded" in refused(f"onnx:{tmp_path}/t.onnx")
    (tmp_path / "t.pt2").write_bytes(b"hello")
    assert "not a torch.export program" in refused(f"exported:{tmp_path}/t.pt2")


def test_timm_that_does_not_import_says_what_to_install() -> None:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):
        assert "pip install 'edgekd[timm]'" in refused("timm:resnet18")
    else:
        assert parameters(load("timm:resnet18")) > 1e7


def test_a_function_or_module_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def build(num_classes):\n    raise KeyError('boom')\n")
    (tmp_path / "b.py").write_text("def build(:\n")
    assert "KeyError: 'boom'" in refused(f"python:{tmp_path}/a.py:build")
    assert "fails when imported: SyntaxError" in refused(f"python:{tmp_path}/b.py:build")


def test_a_model_that_does_not_take_the_images_is_told() -> None:
    with pytest.raises(ModelError, match=r"inputs \[batch, 1, 8, 8\]"):
        number_of_classes(resnet8(in_channels=3), (torch.zeros(2, 1, 8, 8),))


def test_arguments_take_the_types_of_a_file_but_no_other_kind() -> None:
    """Training and timing feed an ONNX teacher by this one function."""
    types = {"ids": "tensor(int32)", "x": "tensor(float16)"}
    feeds = feeds_of(types, [np.arange(3), np.ones(3, np.float32)])
    assert {name: array.dtype for name, array in feeds.items()} == {
        "ids": np.dtype(np.int32),
        "x": np.dtype(np.float16),
    }
    with pytest.raises(ValueError, match=r"ids is int32, float32 was given"):
        feeds_of(types, [np.ones(3, np.float32)] * 2)
    with pytest.raises(ValueError, match="ids, x; 1 were given"):
        feeds_of(types, [np.arange(3)])
