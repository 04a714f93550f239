"""extend: a model with further classes starts from the model of the first classes.

The method is from Li & Hoiem (2016, 1606.09282, section 3).
"""

from __future__ import annotations

import torch
from torch import nn

from edgekd.errors import ModelError


def extend(student: nn.Module, teacher: nn.Module) -> None:
    """Copy the teacher's weights into the student, whose head may have more classes.

    If a tensor of the student has more rows, the first rows are filled. Raises ModelError if the networks differ in anything
    else; then nothing has been copied.
    """
    ours, theirs = student.state_dict(), teacher.state_dict()
    problems = [f"missing {name}" for name in ours if name not in theirs]
    problems += [f"unexpected {name}" for name in theirs if name not in ours]
    problems += [
        f"{name} is {list(ours[name].shape)}, the teacher's {list(tensor.shape)}"
        for name, tensor in theirs.items()
        if name in ours
        and (tensor.shape[1:] != ours[name].shape[1:] or (len(tensor.shape) and len(tensor) > len(ours[name])))
    ]
    if problems:
        raise ModelError(f"the student is no extension of the teacher: {'; '.join(problems[:5])}")
    with torch.no_grad():
        for name, tensor in theirs.items():
            (ours[name][: len(tensor)] if tensor.ndim else ours[name]).copy_(tensor)
