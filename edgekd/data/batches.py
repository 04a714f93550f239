"""Batches: the order of an epoch, and the conversion of raw arrays to a network's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch

from edgekd.base.draws import Ids, permutation
from edgekd.data.balance import balanced_order
from edgekd.data.store import Samples
from edgekd.data.views import Batch, Views
from edgekd.inputs.protocol import Arrays, Input

PARTNERS = 0x9A12
ORDER = 0x0DE5  # a coordinate of its own, so that the order shares no random number with any view


class Step(NamedTuple):
    """The batch of one step. `rows` index the training ids and the teacher's cache; `view` is the number of the view."""

    batch: Batch
    rows: Ids
    view: int


def epoch_of(
    views: Views,
    epoch: int,
    *,
    batch_size: int,
    number_of_views: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    in_pairs: bool = False,
    balanced: bool = False,
) -> Iterator[Step]:
    """The steps of an epoch. Each batch is prepared while the network computes the batch before.

    The order depends on `seed` and `epoch` alone. `batch_size` counts over all `world` processes: each process takes
    every `world`-th sample of a batch. The last, incomplete batch is left out; in the next epoch other samples fall into
    it. With `in_pairs` the second half of a batch holds a sample of the same class for each sample of the first half.
    With `balanced` an epoch has as many samples, each class equally often (edgekd.data.balance).
    """
    everyone = permutation(len(views.ids), seed, epoch, ORDER)
    order = balanced_order(_classes(views), seed, epoch) if balanced else everyone
    view = epoch % number_of_views
    batches = [
        order[start : start + batch_size][rank::world] for start in range(0, len(order) - batch_size + 1, batch_size)
    ]
    if in_pairs:
        partner = _partners(_classes(views), seed, epoch)
        firsts = [rows[: len(rows) // 2] for rows in batches]
        batches = [np.concatenate([rows, partner[rows]]) for rows in firsts]

    def prepare(rows: Ids) -> Step:
        return Step(views(views.ids[rows], view), rows, view)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(prepare, batches[0]) if batches else None
        for following in [*batches[1:], None]:
            assert waiting is not None
            ready = waiting.result()
            waiting = pool.submit(prepare, following) if following is not None else None
            yield ready


def _classes(views: Views) -> Ids:
    """The class of each training sample, of the first task."""
    return next(iter(views.learnt.values())).labels[views.ids]


def _partners(labels: Ids, seed: int, epoch: int) -> Ids:
    """A partner for each sample: another sample of its class, or itself if the class has no other."""
    order = permutation(len(labels), seed, epoch, PARTNERS)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within
    following = np.roll(order, -1)
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))  # a class's last sample goes with its first
    following[np.append(starts[1:], len(order)) - 1] = order[starts]
    partners = np.empty_like(order)
    partners[order] = following
    return partners


def arguments_of(input: Input, raw: Arrays, device: torch.device) -> tuple[torch.Tensor, ...]:
    """A network's arguments on `device`, made from raw arrays `[n, ...]` by the input's own module."""
    preprocess = input.preprocess().to(device)
    tensors = [
        torch.from_numpy(np.ascontiguousarray(raw[field.name])).to(device, non_blocking=True) for field in input.fields
    ]
    # In the precision of the graph: half precision would give the teacher another input than the student.
    # Each kind of device has an autocast of its own; one that torch has none for cannot even be asked.
    autocasts = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    plain = torch.autocast(device.type, enabled=False) if autocasts else nullcontext()
    with torch.no_grad(), plain:
        arguments: torch.Tensor | tuple[torch.Tensor, ...] = preprocess(*tensors)
    return (arguments,) if isinstance(arguments, torch.Tensor) else arguments


def examples_of(samples: Samples, n: int) -> tuple[torch.Tensor, ...]:
    """A network's arguments for the first `n` training samples, in contiguous memory: a network may take real values alone.

    Of fewer samples some come twice.
    """
    ids = samples.train_ids[np.arange(n) % len(samples.train_ids)]
    arguments = arguments_of(samples.input, samples.train.get(ids), torch.device("cpu"))
    return tuple(each.clone(memory_format=torch.contiguous_format) for each in arguments)
