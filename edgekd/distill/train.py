"""The training loop for everything that edgekd trains: students, their quantized twins, and the demo's teacher."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgekd.base import processes
from edgekd.base.console import progress, say, shows_bars, time_left
from edgekd.base.draws import permutation
from edgekd.cache.stage import SCRATCH
from edgekd.data.batches import Step, arguments_of, epoch_of
from edgekd.distill.checkpoint import Checkpoint
from edgekd.distill.class_weights import label_losses
from edgekd.distill.epochs import Epochs
from edgekd.distill.features import Taps
from edgekd.distill.lesson import Lesson, TeacherPass
from edgekd.distill.objective import ForwardPass, Numbered, Objective
from edgekd.errors import ModelError
from edgekd.figures.metric import Metric
from edgekd.figures.words import valued as in_words
from edgekd.models import accelerator
from edgekd.models.accelerator import autocast, uses_bf16
from edgekd.models.copies import detach_computed
from edgekd.models.forward import predict
from edgekd.models.heads import parts_of
from edgekd.models.memory_format import Arguments, arranged, training_format
from edgekd.recipe import Distill, Optimizer
from edgekd.tasks.protocol import Labels
from edgekd.tasks.scores import value_of

CHECKPOINT = f"{SCRATCH}/checkpoint.pt"
DIGITS = 3  # of a figure on the hold-out split
NOTED = 10  # steps between two notes of the progress bar
LINES = 20  # the most lines that a training prints without a progress bar
PREPARED = 0x93E9  # a coordinate of its own, so that the choice shares no random number with any view
PREPARED_ON = 64  # samples that methods with weights of their own see before the training


@dataclass(frozen=True)
class Modes:
    """The functions that switch a model to training and evaluation, and a function called as each epoch begins.

    A module exported for quantization-aware training has no `train()`: its modes are switched in the graph.
    """

    train: Callable[[Any], Any] = nn.Module.train
    evaluate: Callable[[Any], Any] = nn.Module.eval
    at_epoch: Callable[[Any, int], Any] = lambda model, epoch: None


def train(
    student: nn.Module, lesson: Lesson, settings: Distill, out: Path, modes: Modes | None = None, title: str = "student"
) -> nn.Module:
    """Train `student` for `settings.epochs` epochs and return the model that ships.

    That model is the student of the last epoch, or its averaged weights if `ema` is on. A method may make another model
    of it (`TaskObjective.deployed`). With `keep = "best"` it has the weights of the epoch that is best on the hold-out
    split, and `patience` may end the training early (edgekd.distill.epochs). Otherwise nothing is chosen by that figure.
    A checkpoint is written to `out` after each epoch, and a run after a kill resumes with the same result. The order of
    samples, their views and torch's random numbers depend only on the seed and the epoch. Writes `metrics.jsonl`, a line
    per epoch; `kept` marks the best epoch. Runs alone or on every process of `accelerate launch`; `batch_size` counts
    over all processes.
    """
    training = Training(student, lesson, settings, modes or Modes())
    epochs, metric = training.epochs, lesson.samples.task.metric
    checkpoint = Checkpoint(out / CHECKPOINT, training.parts)
    metrics: list[dict[str, float]] = checkpoint.load().get("metrics", [])
    if metrics:
        say(f"  going on after epoch {len(metrics)}")
    log = _tensorboard(out) if settings.tensorboard and training.is_first else None
    with training.taps(), progress(title, settings.epochs * training.samples) as advance:
        advance(len(metrics) * training.samples)
        for epoch in range(len(metrics), settings.epochs):
            if epochs.is_over:
                break
            training.begin(epoch)
            for i, step in enumerate(training.steps_of(epoch), start=1):
                training.step(step, epoch + (i - 1) / training.steps)
                if i % NOTED == 0:
                    advance(NOTED * settings.batch_size, training.note(epoch, i))
            metrics.append(training.end(epoch))
            _tell(title, metrics[-1], settings, epochs, metric, training.samples)
            if training.is_first:
                checkpoint.save(metrics=metrics)
                _log(log, metrics[-1])
            advance(training.steps % NOTED * settings.batch_size)
            training.wait()
    _tell_end(title, settings, epochs, metric)
    if settings.keep == "best":
        metrics[epochs.kept - 1]["kept"] = 1.0
    if training.is_first:
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return epochs.restore(training.shipped())


class Training:
    """The state of a student's training. `steps` and `samples` count those of an epoch."""

    def __init__(self, student: nn.Module, lesson: Lesson, settings: Distill, modes: Modes) -> None:
        self.lesson, self.settings, self.modes = lesson, settings, modes
        self.epochs = Epochs(settings, lesson.samples.task.metric)
        self.where, self.bf16 = accelerator.device(), uses_bf16(settings.precision)
        # accelerate fixes a precision for the whole process, but a build trains in several: autocast sets it per step.
        self.accelerate = Accelerator(mixed_precision="no", cpu=self.where.type == "cpu", device_placement=False)
        student = student.to(self.where)
        self.layout = training_format(student, _two_samples(lesson, self.where), modes.train)
        self.student: nn.Module = student.to(memory_format=self.layout)  # type: ignore[call-overload]
        for task in lesson.tasks:
            if task.live is not None:
                task.live.to(self.where)
        self.objective = Objective(
            settings.losses, settings.label_weight, lesson.weights, label_losses(lesson, settings)
        ).to(self.where)
        _prepare(self.objective, self.student, lesson, settings, modes, self.layout)
        if self.accelerate.num_processes > 1 and (alone := self.objective.common.in_one_process):
            raise ModelError(
                f"{', '.join(alone)} keeps what one process has seen; train in one, or take another method"
            )
        detach_computed(self.student)
        self.averaged = _averaged(self.student, settings.ema) if settings.ema else None
        optimizer = _optimizer(settings.optimizer, [*self.student.parameters(), *self.objective.parameters()])
        self.model, self.optimizer = self.accelerate.prepare(self.student, optimizer)
        # Methods with weights are trained by all processes together too.
        learns = any(True for _ in self.objective.parameters())
        self.loss_of = self.accelerate.prepare(self.objective) if learns else self.objective
        self.steps = len(lesson.samples.train_ids) // settings.batch_size
        self.samples = self.steps * settings.batch_size

    @contextmanager
    def taps(self) -> Iterator[None]:
        """Reads the features that the losses compare, while the `with` block runs."""
        read = self.objective.common
        with ExitStack() as stack:
            self.f_s = stack.enter_context(Taps(self.student, read.layers_of("student"), "student")).features
            self.taps_of_teachers = {task.name: stack.enter_context(task.taps(read)) for task in self.lesson.tasks}
            yield

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that a checkpoint stores."""
        parts = {"student": self.student, "objective": self.objective, "optimizer": self.optimizer}
        if self.averaged is not None:
            parts["averaged"] = self.averaged
        if self.settings.keep == "best" or self.settings.patience is not None:
            parts["epochs"] = self.epochs
        return parts

    @property
    def is_first(self) -> bool:
        """Whether this process is the first of those that train together; only the first writes."""
        return bool(self.accelerate.is_main_process)

    def wait(self) -> None:
        """Barrier of the processes that train together."""
        self.accelerate.wait_for_everyone()

    def begin(self, epoch: int) -> None:
        """Start an epoch: training mode, and random numbers that are the same after a restart."""
        torch.manual_seed(_seed_of(self.settings.seed, epoch))  # for dropout and similar layers
        self.modes.train(self.student)
        self.objective.train()  # the shipped model may contain a part of it, and its evaluation changed the mode
        self.modes.at_epoch(self.student, epoch)
        self.sums: dict[str, torch.Tensor] = {}
        self.terms: Mapping[str, torch.Tensor] = {}
        self.started = time.perf_counter()

    def steps_of(self, epoch: int) -> Iterator[Step]:
        """This process's share of each batch of an epoch."""
        accelerate, settings = self.accelerate, self.settings
        return epoch_of(
            self.lesson.views, epoch, batch_size=settings.batch_size, number_of_views=settings.views, seed=settings.seed,
            rank=accelerate.process_index, world=accelerate.num_processes, in_pairs=self.objective.common.needs_pairs,
            balanced=settings.sampling == "balanced",
        )  # fmt: skip

    def step(self, step: Step, now: float) -> None:
        """Run a step of the optimizer. `now` is the epoch, with steps as fractions."""
        lesson, settings = self.lesson, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.optimizer.lr * schedule(now, settings.warmup_epochs, settings.epochs)
        arguments = arranged(arguments_of(lesson.samples.input, step.batch.inputs, self.where), self.layout)
        with autocast(self.where, self.bf16):
            # The teachers run first, because a student may overwrite its input.
            teachers = {
                task.name: task.teachers(step, arguments, self.taps_of_teachers[task.name]) for task in lesson.tasks
            }
            passes = _passes(lesson, step, arguments, self.model(*arguments), self.f_s, teachers)
            total, self.terms = self.loss_of(now, passes)
        self.optimizer.zero_grad()
        self.accelerate.backward(total)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.student)
        for name, value in {"loss": total, **{f"loss/{name}": value for name, value in self.terms.items()}}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()

    def note(self, epoch: int, steps: int) -> str:
        """The last step's terms and the speed, for the progress bar."""
        shown = " ".join(f"{name} {value.item():.3f}" for name, value in self.terms.items())
        speed = steps * self.settings.batch_size / (time.perf_counter() - self.started)
        return f"epoch {epoch + 1}  {shown}  {speed:.0f}/s"

    def end(self, epoch: int) -> dict[str, float]:
        """The figures of an epoch: speed, mean of each term, and the metric on the hold-out split.

        Raises ModelError if the loss is not finite.
        """
        speed = self.samples / (time.perf_counter() - self.started)
        metrics = {"epoch": epoch + 1, "lr": self.optimizer.param_groups[0]["lr"], "samples_per_s": round(speed, 1)}
        metrics |= {name: float(f"{float(value) / self.steps:.6g}") for name, value in self.sums.items()}
        self.modes.evaluate(self.student)
        shipped = self.shipped()
        found = _holdout(shipped, self.lesson, self.modes)
        if self.accelerate.num_processes > 1:  # each has its own statistics of BatchNorm; all end in the same epoch
            (found,) = broadcast_object_list([found])
        metrics |= {name: round(figure, DIGITS) for name, figure in found.items()}
        _check_finite(metrics, self.objective.own_places)
        self.epochs.add(found["holdout"], shipped)
        return metrics

    def shipped(self) -> nn.Module:
        """The model that ships: the student, its averaged weights, or the model that a method makes of it."""
        return self.objective.common.deployed(self.averaged.module if self.averaged is not None else self.student)


def _averaged(student: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _tell(
    title: str, metrics: Mapping[str, float], settings: Distill, epochs: Epochs, metric: Metric, samples: int
) -> None:
    """Print a line per epoch if no progress bar is shown; at most 20 lines in a training. samples: of an epoch."""
    epoch = int(metrics["epoch"])
    if not shows_bars() and (settings.epochs - epoch) % math.ceil(settings.epochs / LINES) == 0:
        found = f"loss {metrics['loss']:.4g}, hold-out {in_words(metrics['holdout'], metric.unit)}"
        best = "the best so far" if epochs.kept == epoch else f"best epoch {epochs.kept}"
        found += f", {best}" if settings.keep == "best" else ""
        left = (settings.epochs - epoch) * samples / max(metrics["samples_per_s"], 0.1)
        say(f"  {title}: epoch {epoch} of {settings.epochs}, {found}{time_left(left)}")


def _tell_end(title: str, settings: Distill, epochs: Epochs, metric: Metric) -> None:
    """Print why a training ended early, and which epoch it keeps if that was chosen."""
    ended = len(epochs.figures)
    if epochs.is_over and ended < settings.epochs:
        best = f"{in_words(epochs.figures[epochs.improved - 1], metric.unit)} of epoch {epochs.improved}"
        say(
            f"  {title}: ends after epoch {ended} of {settings.epochs}; distill.patience = {settings.patience}, and "
            f"no later hold-out figure was better than {best}"
        )
    if settings.keep == "best":
        figure = in_words(epochs.figures[epochs.kept - 1], metric.unit)
        say(f"  {title}: keeps epoch {epochs.kept} of {ended}, the best on the hold-out split ({figure})")


def save_weights(model: nn.Module, path: Path) -> None:
    """Write weights as safetensors, in the first process only. Equal weights give equal bytes."""
    if processes.RANK > 0:
        return
    # Cloned, because safetensors refuses tensors that share memory, for example the ranges of a concatenation's inputs.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    safetensors.torch.save_file(weights, path)


def schedule(epoch: float, warmup_epochs: float, epochs: float) -> float:
    """The share of the learning rate at `epoch`: linear warm-up, then half a cosine to 0.

    The cosine is from Loshchilov & Hutter (2017, 1608.03983).
    """
    if epoch < warmup_epochs:
        return (epoch + 0.01) / (warmup_epochs + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9)))


def _two_samples(lesson: Lesson, device: torch.device) -> Arguments:
    samples = lesson.samples
    return arguments_of(samples.input, lesson.views(samples.train_ids[:2], 0).inputs, device)


def _prepare(
    objective: Objective,
    student: nn.Module,
    lesson: Lesson,
    settings: Distill,
    modes: Modes,
    layout: torch.memory_format,
) -> None:
    """Check layer paths and let methods make their weights on a first batch, before the optimizer is made."""
    with ExitStack() as stack:
        ours = stack.enter_context(Taps(student, objective.common.layers_of("student"), "student"))
        theirs = {task.name: stack.enter_context(task.taps(objective.common)) for task in lesson.tasks}
        if not any(term.declared.prepare is not None for term in objective.common.terms):
            return
        device = next(student.parameters()).device
        number = len(lesson.samples.train_ids)
        rows = permutation(number, settings.seed, PREPARED)[: min(PREPARED_ON, settings.batch_size)]
        step = Step(lesson.views(lesson.samples.train_ids[rows], 0), rows, 0)
        arguments = arranged(arguments_of(lesson.samples.input, step.batch.inputs, device), layout)
        torch.manual_seed(_seed_of(settings.seed, -1))  # the methods' own weights, the same after a restart
        modes.evaluate(student)
        with torch.no_grad():
            teachers = {task.name: task.teachers(step, arguments, theirs[task.name]) for task in lesson.tasks}
            passes = _passes(lesson, step, arguments, student(*arguments), ours.features, teachers)
            for task in lesson.tasks:
                own = objective.members[task.name]
                own.prepare(passes[task.name], student, task.live, task.samples.task.outputs, number)
        objective.to(device)


def _optimizer(settings: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters, settings.lr, settings.momentum, nesterov=settings.momentum > 0, weight_decay=settings.weight_decay
    )


def _passes(
    lesson: Lesson,
    step: Step,
    arguments: Arguments,
    outputs: Any,
    f_s: Mapping[str, torch.Tensor],
    teachers: Mapping[str, TeacherPass],
) -> dict[str, ForwardPass]:
    """The forward pass of each task, with its own part of the outputs, its labels and its teachers' answers."""

    def here(values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(arguments[0].device)

    batch = step.batch
    numbered = Numbered(lesson.samples.train_ids[step.rows], here(step.rows), step.view)
    lam = here(batch.lam.astype(np.float32))
    each = parts_of(outputs, [task.samples.task.outputs for task in lesson.tasks])
    passes = {}
    for task, z in zip(lesson.tasks, each, strict=True):
        theirs = teachers[task.name]
        hard = here(batch.targets[task.name])
        unmixed = batch.partners[task.name] is batch.targets[task.name]
        labels = Labels(hard, hard if unmixed else here(batch.partners[task.name]), lam)
        passes[task.name] = ForwardPass.of(
            task.samples.task.rows, numbered, arguments, labels, z, theirs.z_ts, f_s, theirs.f_t
        )
    return passes


def _holdout(model: nn.Module, lesson: Lesson, modes: Modes) -> dict[str, float]:
    """The figure of each task's metric on the hold-out split, by `holdout` and `holdout/task`; not rounded."""
    modes.evaluate(model)
    ids = lesson.samples.holdout_ids
    stored = predict(model, lesson.samples.train, ids, [task.samples.task for task in lesson.tasks])
    return {
        "/".join(filter(None, ("holdout", task.name))): value_of(task.samples.task, own, task.samples.train.labels[ids])
        for task, own in zip(lesson.tasks, stored, strict=True)
    }


def _seed_of(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) & 0x7FFF_FFFF


def _check_finite(metrics: dict[str, float], places: Mapping[str, str]) -> None:
    """Raise ModelError if the loss is not finite. places: the file and line of each loss of the user's own, by its name."""
    if not math.isfinite(metrics["loss"]):
        terms = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
        means = ", ".join(
            f"{name} {value:.4g}" + (f" ({places[name]})" if name in places else "") for name, value in terms.items()
        )
        raise ModelError(
            f"the loss became {metrics['loss']} in epoch {metrics['epoch']:.0f} (its terms, unweighted: {means}); lower "
            "distill.optimizer.lr, or the weight of the term that grew, or give it warmup_epochs"
        )


def _tensorboard(out: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(out / "tensorboard")


def _log(log: Any, metrics: dict[str, float]) -> None:
    if log is not None:
        for name, value in metrics.items():
            log.add_scalar(name, value, int(metrics["epoch"]))
        log.flush()
