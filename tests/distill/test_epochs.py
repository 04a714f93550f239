"""Which epoch is best on the hold-out split, and when training ends early: worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgekd.distill.epochs import Epochs
from edgekd.figures.metric import Metric
from edgekd.recipe import Distill
from edgekd.tasks.classify import TOP1
from edgekd.tasks.regress import MAE


def after(figures: list[float], metric: Metric = TOP1, **settings: object) -> Epochs:
    """The choice after epochs of these figures; the weight after epoch n is n."""
    epochs, model = Epochs(Distill.model_validate(settings), metric), nn.Linear(1, 1, bias=False)
    for number, figure in enumerate(figures, start=1):
        nn.init.constant_(model.weight, number)
        epochs.add(figure, model)
    return epochs


@pytest.mark.parametrize(
    ("figures", "metric", "best"),
    [
        ([50.0, 70.0, 60.0], TOP1, 2),
        ([50.0, 70.0, 70.0, 60.0], TOP1, 3),  # of equal epochs the later
        ([3.0, 2.0, 2.5], MAE, 2),  # a smaller error is better
        ([0.0001, 0.0004], MAE, 1),  # both would be 0 with three decimals
        ([math.nan, 2.0, math.inf], MAE, 2),
        ([], TOP1, 0),
    ],
)
def test_the_best_epoch_is_that_of_the_metric(figures: list[float], metric: Metric, best: int) -> None:
    assert after(figures, metric).best == best


@pytest.mark.parametrize(
    ("figures", "patience", "over"),
    [
        ([70.0], 1, False),
        ([70.0, 60.0], 1, True),
        ([70.0, 60.0, 65.0], 3, False),
        ([70.0, 60.0, 65.0, 70.0], 3, True),  # an equal figure is no better one
        ([70.0, 60.0, 71.0, 65.0], 3, False),
        ([70.0, 60.0, 50.0, 40.0], None, False),
        ([], 1, False),
    ],
)
def test_training_is_over_when_as_many_epochs_were_no_better(
    figures: list[float], patience: int | None, over: bool
) -> None:
    assert after(figures, patience=patience).is_over == over


def test_the_weights_of_the_best_epoch_come_back_also_from_a_checkpoint() -> None:
    found = after([50.0, 70.0, 70.0, 60.0], keep="best")
    again = Epochs(Distill(keep="best"), TOP1)
    again.load_state_dict(found.state_dict())
    for epochs in (found, again):
        assert epochs.kept == 3
        model = epochs.restore(nn.Linear(1, 1, bias=False))
        assert torch.equal(model.get_parameter("weight"), torch.full((1, 1), 3.0))


def test_without_the_wish_for_the_best_epoch_nothing_is_stored_or_changed() -> None:
    epochs, model = after([70.0, 60.0]), nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    assert epochs.kept == 2 and not epochs.weights and torch.equal(model.weight, before)
    epochs.restore(model)
    assert torch.equal(model.weight, before)
