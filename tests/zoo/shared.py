"""Weights that are used twice, tied, or computed from others."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.zoo.convolutions import blocks
from tests.zoo.student import CHANNELS, CLASSES, Student, conv, conv_norm


class Shared(Student):
    """One convolution, two uses; what follows each use is the case."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.between = conv(bias=False), conv()
        self.norm, self.other = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)


class NormEach(Shared):
    def body(self, x: Tensor) -> Tensor:
        return torch.relu(self.other(self.conv(torch.relu(self.norm(self.conv(x))))))


class NormOnOnePath(Shared):
    def body(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.relu(self.norm(self.conv(x)))))


class OneNormAtTwoDepths(Shared):
    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(torch.relu(self.between(torch.relu(self.norm(self.conv(x)))))))


class WithoutNorm(Shared):
    def body(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.between(torch.relu(self.conv(x)))))


class WeightReadElsewhere(Shared):
    def body(self, x: Tensor) -> Tensor:
        return self.between(torch.relu(self.norm(self.conv(x)))) * self.conv.weight.abs().mean()


class OneNormOfTwoConvolutions(Shared):
    def body(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))) + torch.relu(self.norm(self.between(x)))


class Repeated(Student):
    """A block that is applied three times, as a recurrent network's."""

    def __init__(self) -> None:
        super().__init__()
        self.step = conv_norm()

    def body(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = 0.5 * x + self.step(x)
        return x


class Siamese(Student):
    """The two halves of an image through one network."""

    def __init__(self) -> None:
        super().__init__(channels=2 * CHANNELS)
        self.branch = conv_norm()

    def body(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 3)
        return torch.cat([self.branch(left), self.branch(right)], 1)


class OneActivation(Student):
    """One ReLU module in place for every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = conv(), conv(), nn.ReLU(inplace=True)

    def body(self, x: Tensor) -> Tensor:
        found: Tensor = self.relu(self.second(self.relu(self.first(x))))
        return found


class TiedTransposed(Student):
    """A decoder whose weight is its encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(CHANNELS, 32)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.relu(self.encoder(self.stem(x).mean((2, 3))))
        found: Tensor = self.head(torch.relu(F.linear(code, self.encoder.weight.t())))
        return found


class TiedLayers(Student):
    """Two layers of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()
        self.second.weight = self.first.weight

    def body(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))))


class Standardised(Student):
    """Weight standardisation: the weight is computed where the model runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.GroupNorm(4, CHANNELS)

    def body(self, x: Tensor) -> Tensor:
        w = self.conv.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return torch.relu(self.norm(F.conv2d(x, w, self.conv.bias, padding=1)))


class Cosine(Student):
    """A classifier of angles: feature and weight are made of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        return 8 * F.linear(F.normalize(self.stem(x).mean((2, 3))), F.normalize(self.weight))


class Centres(Student):
    """Distances to learned centres, as prototypes have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.centres = conv_norm(), nn.Parameter(torch.randn(CLASSES, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        feature = self.conv(self.stem(x)).mean((2, 3))
        return -(feature[:, None] - self.centres).square().sum(2)


def old_weight_norm() -> Student:
    """As training leaves it: the weight on the module is what the last forward pass computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normalised = nn.utils.weight_norm(conv())
    model = blocks(normalised, nn.ReLU(), conv(), nn.ReLU())
    model.train()(torch.randn(2, 3, 16, 16))
    return model


STUDENTS = {
    "shared, a norm each": NormEach,
    "shared, a norm on one path": NormOnOnePath,
    "shared at two depths": OneNormAtTwoDepths,
    "shared without a norm": WithoutNorm,
    "one norm of two convolutions": OneNormOfTwoConvolutions,
    "a weight that is read elsewhere": WeightReadElsewhere,
    "repeated": Repeated,
    "siamese": Siamese,
    "one activation module": OneActivation,
    "tied, transposed": TiedTransposed,
    "tied layers": TiedLayers,
    "weight norm": lambda: blocks(parametrizations.weight_norm(conv()), nn.ReLU(), conv(), nn.ReLU()),
    "weight norm of old": old_weight_norm,
    "spectral norm": lambda: blocks(parametrizations.spectral_norm(conv()), nn.ReLU(), conv(), nn.ReLU()),
    "orthogonal weight": lambda: blocks(parametrizations.orthogonal(conv(kernel=1)), nn.ReLU(), conv(), nn.ReLU()),
    "standardised weight": Standardised,
    "cosine classifier": Cosine,
    "distances to centres": Centres,
}
