"""What `measure --accuracy` and `verify --samples` find on a device, here this machine by the same way."""

from __future__ import annotations

from pathlib import Path

from edgekd.bundle.read import Row
from edgekd.figures.figures import Score
from edgekd.measure.compare import compare_on
from edgekd.measure.on_device import Options, measure_on, trial_of
from edgekd.measure.samples import samples_for_accuracy
from tests.builders.devices import here

QUICK = Options(warmup_s=0.02, block_s=0.02, min_n=30)


def scored_there(bundle: Path, folder: Path) -> tuple[Score | None, list[Row]]:
    """The score of the whole test split, and the rows of a comparison on 20 of it. The cache is $EDGEKD_CACHE."""
    device = here(folder)
    with samples_for_accuracy(bundle) as samples:
        measured = measure_on(device, trial_of(bundle), QUICK, samples)
    return measured.score, compare_on(device, bundle, samples=20)
