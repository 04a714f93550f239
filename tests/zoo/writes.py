"""Writes in place, views, indices, and control flow on shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.student import CHANNELS, CLASSES, Student, conv, conv_norm


class Pair(Student):
    """Two convolutions; what happens between them is the case."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()


class SliceZeroed(Pair):
    def body(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y[:, :4] = 0
        return self.b(y)


class SliceShifted(Pair):
    """Temporal shift, as of video networks, along the width."""

    def body(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y.clone()
        z[:, :4, :, 1:] = y[:, :4, :, :-1]
        z[:, 4:8, :, :-1] = y[:, 4:8, :, 1:]
        return self.b(z)


class WrittenThroughAView(Pair):
    def body(self, x: Tensor) -> Tensor:
        y = self.a(x)
        flat = y.view(y.shape[0], -1)
        torch.relu_(y)
        return self.b(flat.view(y.shape))


class FilledBuffer(Pair):
    def body(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.zeros_like(y)
        z[:, :8] = y[:, 8:]
        return self.b(z)


class InputWritten(Student):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).mul_(2)
        return super().forward(x)


class AddedInPlace(Pair):
    def body(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y += x
        y.relu_()
        return F.relu(self.b(y), inplace=True)


class Masked(Pair):
    def body(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y.masked_fill(y < 0.1, 0.0))


class Chosen(Pair):
    def body(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(torch.where(y > 0, y, 0.1 * y.exp()))


class Dead(Pair):
    """A layer that is always 0."""

    def body(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x).clamp(max=0)))


class Constant(Pair):
    """A tensor that the model makes itself is added."""

    def body(self, x: Tensor) -> Tensor:
        row = torch.linspace(0, 1, x.shape[3], dtype=x.dtype)
        return self.b(torch.relu(self.a(x) + row.view(1, 1, 1, -1)))


class Coordinates(Student):
    """CoordConv: rows and columns as two more channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(CHANNELS + 2)

    def body(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        places = torch.stack([rows, columns]).expand(n, -1, -1, -1)
        return torch.relu(self.conv(torch.cat([x, places], 1)))


class ByShape(Pair):
    """Control flow on sizes, which a trace decides."""

    def body(self, x: Tensor) -> Tensor:
        while x.shape[2] > 4:
            x = F.max_pool2d(torch.relu(self.a(x)), 2)
        return torch.relu(self.b(x)) if x.shape[1] == CHANNELS else x


class Turned(Pair):
    def body(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        return torch.relu(self.b(y.flip(3).rot90(1, (2, 3)) + y.roll(1, 2)))


class Indexed(Pair):
    """Channels by a list, rows by a step, one place by number."""

    def body(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))[:, list(range(CHANNELS - 1, -1, -1))]
        return torch.relu(self.b(y[:, :, ::2])) * y[:, :1, :1, :1].sigmoid()


class Picked(Pair):
    """Channels by index_select, gathered places."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(CHANNELS))

    def body(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x)).index_select(1, self.order)))


class Stacked(Pair):
    def body(self, x: Tensor) -> Tensor:
        both = torch.stack([torch.relu(self.a(x)), torch.relu(self.b(x))], 2)
        first, second = both.unbind(2)
        return first * second


class Parts(Student):
    """Split into unequal parts that go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = conv(4, 4, groups=4), conv(12, 12)

    def body(self, x: Tensor) -> Tensor:
        small, large = x.split([4, 12], 1)
        return torch.cat([torch.relu(self.small(small)), torch.relu(self.large(large))], 1)


class Bilinear(Student):
    """Features multiplied with each other: a product of two activations, a signed root."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = conv_norm(), conv_norm(), nn.Linear(CHANNELS**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        a, b = self.left(y).flatten(2), self.right(y).flatten(2)
        product = torch.bmm(a, b.transpose(1, 2)).flatten(1) / a.shape[2]
        found: Tensor = self.last(product.sign() * product.abs().add(1e-2).sqrt())
        return found


class Statistics(Student):
    """Mean, deviation, least and largest of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4 * CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).flatten(2)
        found: Tensor = self.last(torch.cat([y.mean(2), y.std(2), y.amin(2), y.amax(2)], 1))
        return found


class Contracted(Student):
    """The head by einsum, one weight for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, CHANNELS, 8, 8) / 32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", self.stem(x), self.weight)


class Flattened(Student):
    """The head on every place, by `view`."""

    def __init__(self) -> None:
        super().__init__(channels=CHANNELS * 64)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.stem(x).view(x.size(0), -1))
        return found


class Unfolded(Student):
    """A convolution by unfold and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS * 4, CHANNELS)

    def body(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 2, stride=2).transpose(1, 2)
        return torch.relu(self.linear(columns)).transpose(1, 2).unflatten(2, (4, 4))


class Dynamic(Student):
    """A mixture of two layers, weighed for each sample by a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.gate = nn.ModuleList([conv(), conv()]), nn.Linear(CHANNELS, 2)

    def body(self, x: Tensor) -> Tensor:
        weights = self.gate(x.mean((2, 3))).softmax(1)
        return sum(  # type: ignore[no-any-return]
            weights[:, number, None, None, None] * torch.relu(expert(x)) for number, expert in enumerate(self.experts)
        )


class Sampled(Pair):
    """A grid that is the same for all samples, as of an undistortion."""

    def __init__(self) -> None:
        super().__init__()
        turn = torch.tensor([[0.9, -0.1, 0.0], [0.1, 0.9, 0.0]])
        self.register_buffer("grid", F.affine_grid(turn[None], [1, CHANNELS, 8, 8], align_corners=False))

    def body(self, x: Tensor) -> Tensor:
        grid = self.grid.expand(x.shape[0], -1, -1, -1)
        y = F.grid_sample(torch.relu(self.a(x)), grid, align_corners=False)
        return torch.relu(self.b(y))


STUDENTS = {
    "a slice set to zero": SliceZeroed,
    "slices shifted": SliceShifted,
    "written through a view": WrittenThroughAView,
    "a buffer that is filled": FilledBuffer,
    "its input written": InputWritten,
    "added in place": AddedInPlace,
    "masked": Masked,
    "chosen by a condition": Chosen,
    "a dead layer": Dead,
    "a constant added": Constant,
    "coordinates as channels": Coordinates,
    "control flow on shapes": ByShape,
    "turned and rolled": Turned,
    "indexed": Indexed,
    "channels in another order": Picked,
    "stacked and unbound": Stacked,
    "unequal parts": Parts,
    "bilinear features": Bilinear,
    "statistics of channels": Statistics,
    "a head by einsum": Contracted,
    "a head on every place": Flattened,
    "unfolded": Unfolded,
    "mixture of experts": Dynamic,
    "sampled on a grid": Sampled,
}
