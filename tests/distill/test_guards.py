"""What the losses cannot tell by themselves is refused by name: which axis holds the classes, which the channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekd
from edgekd.distill.features import as_tokens
from edgekd.distill.methods import METHODS, rkd
from edgekd.distill.objective import ForwardPass, Numbered, TaskObjective
from edgekd.errors import ModelError, RecipeError
from edgekd.recipe.losses import Layout, Loss, mistakes_in_losses
from edgekd.tasks.protocol import Labels
from edgekd.tasks.rows import OneRow
from tests.builders.recipes import RECIPE

LABELS = Labels(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 0, 1]), torch.ones(4))


def step(z_s: Tensor, z_t: Tensor | None = None, f_s: Tensor | None = None, f_t: Tensor | None = None) -> ForwardPass:
    features = [{} if f is None else {"conv": f} for f in (f_s, f_t)]
    batch, kept_ts = Numbered(np.arange(4), torch.arange(4), 0), None if z_t is None else z_t[None]
    return ForwardPass.of(OneRow(), batch, (torch.zeros(4),), LABELS, z_s, kept_ts, *features)


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 7, 3), (4,)])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_logits_that_are_no_rows_of_classes_are_refused(role: str, shape: tuple[int, ...]) -> None:
    """kd would soften `[batch, length, classes]` over the tokens, and count `[batch, classes, h, w]` h·w times."""
    rows, other = torch.randn(4, 3), torch.randn(shape)
    with pytest.raises(ModelError, match=rf"{role}'s logits are \[{', '.join(map(str, shape))}\].*\[rows, classes\]"):
        step(other, rows) if role == "student" else step(rows, other)


@pytest.mark.parametrize(("layout", "axis"), [("tokens", 1), ("channels_first", 2)])
def test_a_feature_with_three_axes_is_averaged_over_the_positions_that_its_layout_names(
    layout: Layout, axis: int
) -> None:
    torch.manual_seed(0)
    f_s, f_t = torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    loss = Loss(method="rkd", layers={"conv": "conv"}, layout=layout)
    (found,) = TaskObjective((loss,), 0.0)(0.0, step(torch.zeros(4, 2), None, f_s, f_t))[1].values()
    torch.testing.assert_close(found, rkd([f_s.mean(axis)], [f_t.mean(axis)]))


def test_a_feature_with_three_axes_and_no_layout_is_refused_by_layer_and_loss() -> None:
    objective = TaskObjective((Loss(method="rkd", layers={"conv": "conv"}),), 0.0)
    with pytest.raises(ModelError, match=r"'conv'.*'rkd'.*\[4, 5, 6\].*layout = 'tokens'.*'channels_first'"):
        objective(0.0, step(torch.zeros(4, 2), None, torch.randn(4, 5, 6), torch.randn(4, 5, 6)))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 3)])
def test_vectors_and_maps_need_no_layout(shape: tuple[int, ...]) -> None:
    feature = torch.randn(shape)
    assert as_tokens(feature, None, "conv", "rkd") is feature


def test_a_convolution_over_time_gives_channels_first() -> None:
    """`[batch, channels, positions]`, of which a shift in time changes no average."""
    convolution, x = nn.Conv1d(2, 6, 3, padding=1, padding_mode="circular"), torch.randn(4, 2, 9)
    pooled = [as_tokens(convolution(part), "channels_first", "conv", "rkd").mean(1) for part in (x, x.roll(2, 2))]
    assert pooled[0].shape == (4, 6)
    torch.testing.assert_close(*pooled)


def test_one_layer_has_one_layout() -> None:
    losses = [
        Loss(method=m, layers={"a": "conv"}, layout=layout)
        for m, layout in (("sp", "tokens"), ("rkd", "channels_first"))
    ]
    with pytest.raises(RecipeError, match=r"'conv' .*tokens .*channels_first by rkd"):
        _ = TaskObjective(losses, 0.0).pooled_features
    assert TaskObjective(losses[:1], 0.0).pooled_features == {"conv": "tokens"}


def test_a_loss_that_reads_no_features_has_no_layout() -> None:
    (found,) = mistakes_in_losses(iter([(("distill", "losses", 0), {"method": "kd", "layout": "tokens"})]), METHODS)
    assert found[0] == ("distill", "losses", 0, "layout") and "reads logits only" in found[1]


def test_two_layouts_of_a_layer_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(RECIPE)
    layers = '{"layer3" = "layer3"}'
    losses = f'distill.losses=[{{method="sp", layers={layers}, layout="tokens"}}, {{method="rkd", layers={layers}, layout="channels_first"}}]'
    with pytest.raises(RecipeError, match=r"'layer3' .*tokens .*channels_first by rkd"):
        edgekd.build(tmp_path, "x86-cpu", overrides=[losses], output=tmp_path / "b", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*train_teacher*"))
