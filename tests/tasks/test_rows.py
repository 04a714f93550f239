"""Rows: teacher, student and labels are read at the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.distill.objective import ForwardPass, Numbered
from edgekd.tasks.protocol import Labels
from edgekd.tasks.rows import Grid

IDS = np.arange(40)
PLACES = torch.arange(9 * 10).reshape(1, 9, 10).expand(40, 9, 10)  # each pixel holds its own number


@pytest.mark.parametrize("stride", [1, 2, 4, 9, 64])
def test_outputs_and_targets_are_kept_at_the_same_pixels(stride: int) -> None:
    rows = Grid(stride, 255)
    outputs = torch.stack([PLACES, -PLACES], 1)
    kept, targets = rows.kept(outputs, IDS, 3), rows.targets(PLACES, IDS, 3)
    assert kept.shape == (40, max(1, 9 // stride), max(1, 10 // stride), 2)
    assert torch.equal(kept[..., 0], targets) and torch.equal(kept[..., 1], -targets)
    assert torch.equal(rows.kept(outputs[5:7], IDS[5:7], 3), kept[5:7])  # of a sample and its view, not of the batch


def test_each_sample_and_view_draws_its_start() -> None:
    rows = Grid(4, 255)
    starts = {int(place) for place in rows.targets(PLACES, IDS, 0)[:, 0, 0]}
    assert len(starts) > 8 and all(place // 10 < 4 and place % 10 < 4 for place in starts)
    assert not torch.equal(rows.targets(PLACES, IDS, 0), rows.targets(PLACES, IDS, 1))


def test_losses_read_rows_and_maps_without_ignored_pixels() -> None:
    torch.manual_seed(0)
    masks = torch.randint(0, 3, (2, 8, 8))
    masks[0, :4] = 255
    z_s, z_t, ids = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), np.array([7, 9])
    rows = Grid(2, 255)
    passed = ForwardPass.of(
        rows, Numbered(ids, torch.arange(2), 1), (z_s,), Labels(masks, masks, torch.ones(2)), z_s,
        rows.kept(z_t, ids, 1)[None], {}, {},
    )  # fmt: skip
    kept = rows.targets(masks, ids, 1)
    counted = int((kept != 255).sum())
    assert passed.z_s.shape == (counted, 3) and passed.labels.shape == (counted,) and counted < 32
    assert passed.z_ts is not None and passed.z_ts.shape == (1, counted, 3) and passed.mask is not None
    assert passed.m_s is not None and passed.m_s.shape == (2, 3, 4, 4) and passed.m_ts is not None
    torch.testing.assert_close(passed.m_s.permute(0, 2, 3, 1)[kept != 255], passed.z_s)
    torch.testing.assert_close(passed.m_ts[0].permute(0, 2, 3, 1)[kept != 255], passed.z_ts[0])
    assert torch.equal(passed.mask, kept.where(kept != 255, -1)) and passed.outputs is z_s
