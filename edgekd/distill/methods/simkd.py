"""Knowledge distillation with the reused teacher classifier (Chen et al. 2022, 2203.14001)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, mse_loss

from edgekd.distill.methods.adapters import head_of, in_full_precision, the_pair
from edgekd.distill.methods.declare import ROWS, method
from edgekd.distill.methods.sizes import pairs_of_one_size
from edgekd.errors import ModelError
from edgekd.models.cut import before

Factor = Annotated[int, Field(ge=1)]


@method(auto="last", prepares=True, deploys=True, rows=ROWS, per_sample=True)
class SimKD(nn.Module):
    """`MSE(projector(f_s), f_t)`; the student then answers through the teacher's classifier (`reused`).

    f_s: the student's last feature `[batch, channels, h, w]`; f_t: the teacher's last, whose average the teacher's head
    reads. The larger map is average-pooled to the smaller. The projector is 1x1, 3x3 and 1x1 convolutions, each with
    BatchNorm and ReLU, through 1/`factor` of the teacher's channels. The paper trains by this loss alone, without labels.

    The deployed model changes: projector and teacher's head replace the student's own head.
    """

    def __init__(self, *, factor: Factor = 2) -> None:
        super().__init__()
        self.factor = factor
        self.projector = nn.Sequential()
        self.head: nn.Linear | None = None
        self.size: tuple[int, int] | None = None  # a larger map of the student is pooled to this size

    def prepare(
        self, f_s: Sequence[Tensor], f_t: Sequence[Tensor], teacher: nn.Module, z_t: Tensor | None = None
    ) -> None:
        """Make the projector and copy the teacher's head. Raises ModelError if the head does not read f_t."""
        self.head = head_of(teacher, the_pair(f_s, f_t)[1], z_t)
        self._project(f_s, f_t)

    @in_full_precision
    def forward(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> Tensor:
        if not self.projector:
            self._project(f_s, f_t)
        ((s, t),) = pairs_of_one_size(f_s, f_t)
        return mse_loss(self.projector(s), t)

    def deployed(self, student: nn.Module, path: str) -> SimStudent:
        """The model that ships instead of the student, whose feature at `path` was taught."""
        return reused(student, path, self)

    def _project(self, f_s: Sequence[Tensor], f_t: Sequence[Tensor]) -> None:
        s, t = the_pair(f_s, f_t)
        size = (min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3]))
        self.size = size if size != s.shape[2:] else None
        width = max(1, t.shape[1] // self.factor)
        widths, kernels = (s.shape[1], width, width, t.shape[1]), (1, 3, 1)
        steps = zip(pairwise(widths), kernels, strict=True)
        layers = [layer for (a, b), kernel in steps for layer in _convolution(a, b, kernel)]
        self.projector = nn.Sequential(*layers).to(s.device)


class SimStudent(nn.Module):
    """SimKD's deployed model, images to logits `[batch, classes]`.

    The student's layers up to a feature, the projector, an average over positions, and the teacher's head.
    """

    def __init__(
        self, features: nn.Module, projector: nn.Module, head: nn.Linear, size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.features, self.projector, self.head, self.size = features, projector, head, size

    @property
    def added_parameters(self) -> int:
        """The number of parameters of projector and head, which come on top of the student's."""
        return sum(p.numel() for module in (self.projector, self.head) for p in module.parameters())

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.features(x)
        if self.size is not None:
            f = adaptive_avg_pool2d(f, self.size)
        logits: Tensor = self.head(adaptive_avg_pool2d(self.projector(f), 1).flatten(1))
        return logits


def reused(student: nn.Module, path: str, method: SimKD) -> SimStudent:
    """SimKD's deployed model: `student` up to the layer at `path`, then projector and teacher's head of `method`.

    The modules are those of student and method, not copies. Raises ModelError if torch.fx cannot cut the student at
    `path` (see `edgekd.models.cut`), or if the method has not seen the teacher yet.
    """
    if method.head is None:
        raise ModelError("simkd answers through the teacher's head: call method.prepare(f_s, f_t, teacher) first")
    return SimStudent(before(student, path), method.projector, method.head, method.size)


def rebuilt(student: nn.Module, path: str, size: tuple[int, int] | None, weights: Mapping[str, Tensor]) -> SimStudent:
    """The `SimStudent` for these weights, built without a teacher: widths come from the shapes of the weights."""
    method = SimKD()
    shapes = [tensor.shape for name, tensor in weights.items() if name.startswith("projector.") and tensor.ndim == 4]
    steps = zip(((shape[1], shape[0]) for shape in shapes), (1, 3, 1), strict=True)
    method.projector = nn.Sequential(*(layer for (a, b), kernel in steps for layer in _convolution(a, b, kernel)))
    classes, width = weights["head.weight"].shape
    method.head = nn.Linear(width, classes, bias="head.bias" in weights)
    method.size = size
    return reused(student, path, method)


def _convolution(c_in: int, c_out: int, kernel: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
