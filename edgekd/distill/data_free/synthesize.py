"""Training images made from a frozen teacher alone: `deep_inversion` optimises pixels, `generate` trains a generator."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, l1_loss, log_softmax
from torch.utils.hooks import RemovableHandle

from edgekd.base.console import progress, say
from edgekd.base.contents import write_atomically
from edgekd.distill.checkpoint import Checkpoint
from edgekd.distill.data_free.bn_statistics import BatchNormStatistics
from edgekd.distill.data_free.generator import Generator
from edgekd.distill.methods import kd
from edgekd.errors import ModelError, nearest
from edgekd.inputs.normalise import Normalise, per_channel
from edgekd.models import ExportedModel, OnnxModel, number_of_classes
from edgekd.models.accelerator import device_of

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
SAVE_EVERY = 200  # steps of a generator between two checkpoints
DRAWS = 20  # images drawn per image kept, at most, while a class lacks images


@dataclass(frozen=True)
class Weights:
    """The weights of the terms of a generator's loss."""

    oh: float
    act: float
    bal: float
    bn: float
    adv: float


# DAFL: Chen et al. 2019 (1904.01186); DFQ: Choi et al. 2020 (2005.04136), weights as in CMI's comparison.
METHODS = {
    "dafl": Weights(oh=1.0, act=0.001, bal=20.0, bn=0.0, adv=0.0),
    "dfq": Weights(oh=1.0, act=0.0, bal=20.0, bn=1.0, adv=1.0),
}


def deep_inversion(
    teacher: nn.Module, *, n: int, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float],
    steps: int = 1000, lr: float = 0.1, bn: float = 10.0, oh: float = 1.0, tv: float = 2.5e-5, l2: float = 3e-8,
    batch: int = 256, seed: int = 0, jitter: int = 2, flip: bool = True, scratch: Path | None = None,
) -> tuple[Images, Labels]:  # fmt: skip
    """DeepInversion (Yin et al. 2020, 1912.08795): optimises pixels until the teacher sees its classes in them.

    Adam minimises `oh · CE(T(x), label) + bn · BN-statistics + tv · total variation + l2 · ‖x‖₂`, from noise, for `steps`
    steps per batch. Before each step the batch is rolled by up to `jitter` pixels. With `flip` it is also mirrored half of
    the time; turn `flip` off if a mirror image belongs to no class, as with digits. Returns images uint8
    `[n, h, w, channels]` and labels int64 `[n]`; the counts of classes differ by 1 at most. image_shape: h, w, channels;
    mean, std: as in the recipe, of values in 0..1. Finished batches are kept in the folder `scratch`, and a call after a
    kill continues from them.

    The competition with a student (Adaptive DeepInversion) is left out. Raises ModelError for a teacher without gradients,
    and for a teacher without BatchNorm2d layers unless `bn` is 0.
    """
    classes = _check(teacher, image_shape)
    space, labels = _PixelSpace(teacher, image_shape, mean, std), np.arange(n) % classes
    parts = np.array_split(labels, max(1, -(-n // batch)))
    inverted = []
    with (
        _frozen(teacher),
        BatchNormStatistics(teacher) as statistics,
        progress("deep inversion", steps * len(parts)) as advance,
    ):
        for number, part in enumerate(parts):
            kept = scratch / f"batch-{number}.npy" if scratch is not None else None
            if kept is not None and kept.exists():
                inverted.append(np.load(kept))
                advance(steps)
                continue
            with _seeded(seed + number):
                target = torch.from_numpy(part).to(space.device)
                x = space.clip(space.noise(len(part))).requires_grad_()
                optimizer = torch.optim.Adam([x], lr)
                for _ in range(steps):
                    seen = _moved(x, jitter, flip)
                    loss = oh * cross_entropy(teacher(seen), target) + tv * total_variation(seen)
                    loss = loss + l2 * torch.linalg.vector_norm(seen)
                    if bn:
                        loss = loss + bn * statistics.distance()
                    _step(optimizer, loss)
                    with torch.no_grad():
                        x.copy_(space.clip(x))
                    advance(1)
            _check_finite(x, "lr")
            inverted.append(space.to_bytes(x.detach()))
            if kept is not None:
                content = io.BytesIO()
                np.save(content, inverted[-1])
                write_atomically(kept, content.getvalue())
    return np.concatenate(inverted), labels


def total_variation(x: Tensor) -> Tensor:
    """The sum of the L2 norms of differences between neighbours, x `[n, channels, h, w]`.

    Neighbours lie to the right, below and on both diagonals.
    """
    differences = (
        x[..., :-1] - x[..., 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., :-1, :-1] - x[..., 1:, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(difference) for difference in differences]).sum()


def generate(
    teacher: nn.Module, *, n: int, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float],
    method: str = "dafl", student: nn.Module | None = None, steps: int = 10_000, batch: int = 512, lr: float = 1e-3,
    oh: float | None = None, act: float | None = None, bal: float | None = None, bn: float | None = None,
    adv: float | None = None, adversary: Literal["kl", "l1"] = "kl", student_lr: float = 1e-3, temperature: float = 20.0,
    z: int = 256, seed: int = 0, scratch: Path | None = None,
) -> tuple[Images, Labels]:  # fmt: skip
    """Images from a generator that is trained with the teacher: "dafl" (1904.01186) or "dfq" (2005.04136).

    Adam minimises `oh · CE(T, argmax T) + act · (−|f|) + bal · Σ p̄ log p̄ + bn · BN-statistics − adv · D(T, S)` for `steps`
    steps. T: the teacher's logits; f: the input of the teacher's last Linear layer; p̄: the batch's mean probabilities.
    Default weights are the method's (`METHODS`). D is KL(T ‖ S) or the mean absolute difference of the logits ("l1"); with
    `adv` a `student` is needed. This student is trained alongside by `kd` at `temperature`, on as many batches, and is not
    needed afterwards. Returns images uint8 `[n, h, w, channels]` and the teacher's own labels int64 `[n]`, equally many of
    each class. If the generator makes too few of a class, a printed line says so. Checkpoints are kept in the folder
    `scratch`, and a call after a kill continues from them.

    The batch size matters: in a small batch the counts of classes scatter. Sure answers then cost `bal` about
    (classes − 1) / (2 batch), and the generator learns to be unsure. DAFL took 512 on MNIST and 1024 on CIFAR.

    Raises ModelError for a teacher without gradients, and for a teacher that lacks the layers that a term reads.
    """
    if method not in METHODS:
        raise ModelError(f"data-free method '{method}' not found{nearest(method, METHODS)}")
    given = {"oh": oh, "act": act, "bal": bal, "bn": bn, "adv": adv}
    weights = replace(METHODS[method], **{name: value for name, value in given.items() if value is not None})
    if weights.adv and student is None:
        raise ModelError(
            f"method '{method}' trains its generator against a student (adv {weights.adv:g}): give one, which is trained "
            "alongside and can be thrown away, or set adv = 0"
        )
    classes = _check(teacher, image_shape)
    space = _PixelSpace(teacher, image_shape, mean, std)
    with _seeded(seed), _frozen(teacher):
        generator = Generator(z, image_shape).to(space.device)
        rival = student.to(space.device).train() if student is not None and weights.adv else None
        game = _Game(
            teacher, space, generator, rival, weights, adversary=adversary, temperature=temperature, batch=batch, z=z, lr=lr,
            student_lr=student_lr,
        )  # fmt: skip
        game.play(steps, scratch, f"generator {method}")
        _check_finite(next(generator.parameters()), "lr")
        return _balanced(generator.eval(), teacher, space, n, classes, z, batch)


class _Game:
    """The training of a generator, and of the student that the generator plays against, if any."""

    def __init__(
        self, teacher: nn.Module, space: _PixelSpace, generator: Generator, rival: nn.Module | None, weights: Weights, *,
        adversary: Literal["kl", "l1"], temperature: float, batch: int, z: int, lr: float, student_lr: float,
    ) -> None:  # fmt: skip
        self.teacher, self.space, self.generator, self.rival, self.weights = teacher, space, generator, rival, weights
        self.adversary, self.temperature, self.batch, self.z = adversary, temperature, batch, z
        self.optimizer = torch.optim.Adam(generator.parameters(), lr, betas=(0.5, 0.999))
        self.parts: dict[str, Any] = {"generator": generator, "optimizer": self.optimizer}
        if rival is not None:
            self.lessons = torch.optim.Adam(rival.parameters(), student_lr)
            self.parts |= {"rival": rival, "lessons": self.lessons}

    def play(self, steps: int, scratch: Path | None, title: str) -> None:
        """Run all steps, with checkpoints in `scratch`. A call after a kill continues from the last checkpoint."""
        checkpoint = Checkpoint(scratch / "generator.pt", self.parts) if scratch is not None else None
        saved = checkpoint.load() if checkpoint is not None else {}
        if saved:
            torch.set_rng_state(saved["random"])
            say(f"  going on after step {saved['step']}")
        with (
            BatchNormStatistics(self.teacher) as statistics,
            _Penultimate(self.teacher, self.weights.act) as penultimate,
            progress(title, steps) as advance,
        ):
            advance(saved.get("step", 0))
            for step in range(saved.get("step", 0), steps):
                self.step(statistics, penultimate)
                advance(1)
                if checkpoint is not None and step % SAVE_EVERY == SAVE_EVERY - 1:
                    checkpoint.save(step=step + 1, random=torch.get_rng_state())

    def step(self, statistics: BatchNormStatistics, penultimate: _Penultimate) -> None:
        """Run a step of the generator, then a step of the student on other images."""
        weights, images = self.weights, self.draw()
        logits = self.teacher(images)
        loss = weights.oh * cross_entropy(logits, logits.argmax(1)) + weights.bal * negative_entropy(logits)
        if weights.act:
            loss = loss - weights.act * penultimate.feature.abs().mean()
        if weights.bn:
            loss = loss + weights.bn * statistics.distance()
        if self.rival is not None:
            loss = loss - weights.adv * disagreement(self.rival(images), logits, self.adversary)
        _step(self.optimizer, loss)
        if self.rival is not None:
            with torch.no_grad():
                images = self.draw()
                logits = self.teacher(images)
            _step(self.lessons, kd(self.rival(images), logits, temperature=self.temperature))

    def draw(self) -> Tensor:
        """A batch of generated images, normalised for the teacher."""
        return self.space.normalised(self.generator(torch.randn(self.batch, self.z).to(self.space.device)))


def negative_entropy(logits: Tensor) -> Tensor:
    """The sum `Σ p̄ log p̄` of the batch's mean probabilities p̄; logits `[batch, classes]`.

    The sum is smallest if all classes are equally frequent.
    """
    p = logits.softmax(1).mean(0)
    return (p * (p + 1e-12).log()).sum()


def disagreement(z_s: Tensor, z_t: Tensor, distance: Literal["kl", "l1"]) -> Tensor:
    """The divergence KL(T ‖ S) at temperature 1, or the mean absolute difference of logits `[batch, classes]`.

    Gradients reach both sides.
    """
    if distance == "l1":
        return l1_loss(z_s, z_t)
    return kl_div(log_softmax(z_s, 1), log_softmax(z_t, 1), reduction="batchmean", log_target=True)


class _PixelSpace:
    """Converts between pixels and the teacher's input; tensors `[n, channels, h, w]` on the teacher's device."""

    def __init__(
        self, teacher: nn.Module, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        height, width, channels = image_shape
        self.device = device_of(teacher)
        self.shape = (channels, height, width)
        self.normalise = Normalise(per_channel(mean, channels), per_channel(std, channels)).to(self.device)
        ends = torch.tensor([0, 255], dtype=torch.uint8, device=self.device)
        self.least, self.most = self.normalise(ends[:, None, None, None].expand(2, 1, 1, channels))

    def noise(self, n: int) -> Tensor:
        return torch.randn(n, *self.shape).to(self.device)

    def clip(self, x: Tensor) -> Tensor:
        return x.clamp(self.least, self.most)

    def normalised(self, pixels: Tensor) -> Tensor:
        """The teacher's input for pixels in 0..1."""
        return self.normalise.normalised(pixels * 255)

    def read(self, images: Images) -> Tensor:
        """The teacher's input for images of bytes."""
        x: Tensor = self.normalise(torch.from_numpy(images).to(self.device))
        return x

    def to_bytes(self, x: Tensor) -> Images:
        return self.normalise.to_bytes(x).cpu().numpy()


class _Penultimate:
    """Keeps the last input of the model's last Linear layer in `feature`, while the `with` block runs.

    With weight 0 nothing is kept.
    """

    feature: Tensor

    def __init__(self, model: nn.Module, weight: float) -> None:
        linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if weight and not linear:
            raise ModelError("the teacher has no Linear layer, whose input `act` makes large; set act = 0")
        self._layer = linear[-1] if weight else None
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> _Penultimate:
        self._handle = self._layer.register_forward_pre_hook(self._keep) if self._layer is not None else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _keep(self, layer: nn.Module, inputs: Any) -> None:
        self.feature = inputs[0]


def _check(teacher: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """The teacher's number of classes. Raises ModelError for a teacher that gives no gradients."""
    if isinstance(teacher, OnnxModel | ExportedModel):
        form = "onnx" if isinstance(teacher, OnnxModel) else "exported"
        raise ModelError(
            f"synthetic images need the teacher's layers and gradients, which '{form}:' does not give: none of "
            f"deep_inversion, {', '.join(METHODS)} works with it. Give the network and its weights: edgekd:NAME, "
            "python:module:function or timm:NAME"
        )
    height, width, channels = image_shape
    return number_of_classes(copy.deepcopy(teacher).cpu(), (torch.zeros(2, channels, height, width),), noun="images")


def _check_finite(values: Tensor, lower: str) -> None:
    if not torch.isfinite(values).all():
        raise ModelError(f"the synthetic images are not finite any more; lower {lower}")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch's random numbers in the block with `seed`. The caller's generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freezes a model in the block: eval mode, no gradients of its weights. Both are restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _moved(x: Tensor, jitter: int, flip: bool) -> Tensor:
    """The batch rolled by up to `jitter` pixels in each direction, and with `flip` mirrored half of the time."""
    down, right = torch.randint(-jitter, jitter + 1, (2,)).tolist()
    rolled = torch.roll(x, (down, right), (2, 3))
    return rolled.flip(3) if flip and torch.rand(()) < 0.5 else rolled


@torch.no_grad()
def _balanced(
    generator: Generator, teacher: nn.Module, space: _PixelSpace, n: int, classes: int, z: int, batch: int
) -> tuple[Images, Labels]:
    """Images of the generator with the teacher's labels, equally many of each class.

    After `DRAWS` · n draws images of other classes replace the missing ones.
    """
    room = np.bincount(np.arange(n) % classes, minlength=classes)
    images: list[Images] = []
    labels: list[Labels] = []
    spare_images: list[Images] = []
    spare_labels: list[Labels] = []
    for _ in range(DRAWS * -(-n // batch)):
        drawn = space.to_bytes(space.normalised(generator(torch.randn(batch, z).to(space.device))))
        named = teacher(space.read(drawn)).argmax(1).cpu().numpy()
        kept = np.concatenate([np.flatnonzero(named == label)[: room[label]] for label in range(classes)])
        room -= np.bincount(named[kept], minlength=classes)
        images.append(drawn[kept])
        labels.append(named[kept])
        if not room.any():
            break
        if sum(len(part) for part in spare_labels) < n:
            spare = np.setdiff1d(np.arange(batch), kept)
            spare_images.append(drawn[spare])
            spare_labels.append(named[spare])
    short = int(room.sum())
    if short:
        lacking = np.flatnonzero(room)
        named_first = ", ".join(map(str, lacking[:10])) + (", ..." if len(lacking) > 10 else "")
        say(f"the generator makes too few images of class {named_first}: {short} of {n} are of other classes")
        images.append(np.concatenate(spare_images)[:short])
        labels.append(np.concatenate(spare_labels)[:short])
    return np.concatenate(images), np.concatenate(labels)
