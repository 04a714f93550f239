"""slice_weights: puts the strongest channels of the teacher into a thinner student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.errors import ModelError
from edgekd.models.init.channels import Channels, channels_of, rewire
from edgekd.models.init.graph import check_same, traced


def slice_weights(student: nn.Module, teacher: nn.Module) -> None:
    """Initialise a thinner student of the teacher's architecture with the teacher's strongest channels.

    Of each channel group (edgekd.models.init.channels) the student keeps the channels whose weights have the largest L1
    norm, in their own order (Li et al. 2017, 1608.08710, section 3.1). The norm is summed over all layers that write the
    group. Layers that read the group keep the same channels as inputs. The loss of the other channels is not compensated:
    BatchNorm's statistics stay the teacher's.

    Raises ModelError if the operations of the two models differ, if the student is wider, and for an unsupported operation.
    """
    ours, theirs = traced(student, "student"), traced(teacher, "teacher")
    check_same(ours, student, theirs, teacher, ("student", "teacher"))
    thin, wide = channels_of(student, "student", ours), channels_of(teacher, "teacher", theirs)
    strength = strengths(teacher, wide)
    picks = {}
    for group, width in wide.widths.items():
        kept = thin.widths[group]
        if kept > width or (group in wide.fixed and kept != width):
            raise ModelError(
                f"the student has {kept} channels in {written_by(wide, group)}, the teacher {width}; "
                + (
                    "inputs and outputs must be as many"
                    if group in wide.fixed
                    else "a wider student grows by net2net's wider"
                )
            )
        picks[group] = strength[group].argsort(descending=True, stable=True)[:kept].sort().values
    rewire(student, teacher, wide, picks)


def strengths(model: nn.Module, channels: Channels) -> dict[int, Tensor]:
    """The L1 norm of the weights that write each channel: group -> `[width]`, on the CPU."""
    modules = dict(model.named_modules())
    sums = {group: torch.zeros(width) for group, width in channels.widths.items()}
    for name, flow in channels.layers.items():
        if flow.writes is not None:
            weight = modules[name].state_dict()["weight"]
            sums[flow.writes] += weight.flatten(1).abs().sum(1).float().cpu()
    return sums


def written_by(channels: Channels, group: int) -> str:
    """The names of the layers that write a group, for an error message."""
    names = [name for name, flow in channels.layers.items() if flow.writes == group]
    return ", ".join(f"'{name}'" for name in names) or "the image"
