"""of_pictures: what a data set of pictures, with classes, labels, values or masks, decides of a recipe."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekd.base.names import in_a_line
from edgekd.data.encoded import EncodedSplit
from edgekd.data.sources import open_source
from edgekd.errors import DataError
from edgekd.inputs.picture import decode_image
from edgekd.start.data_sets import DataSet
from edgekd.start.draft import (
    Draft,
    answers,
    batch_line,
    columns,
    counted,
    doubts,
    line,
    reading_task,
    some,
    text,
    texts,
)
from edgekd.start.guess import Guess

MOST_PICTURES, MOST_MASKS = 300, 1000  # that are looked at
SIDES = (32, 48, 64, 96, 128, 160, 192, 224, 256)  # of pictures that are resized; classes need no more than 224
SMALL = 48  # pictures up to this side are for a small ResNet
HALVED = 8  # the U-Net halves three times
IGNORED = 255  # of a mask's pixels, the default of task.ignore_index


@dataclass(frozen=True)
class Looks:
    """What some pictures look like. sizes: (height, width) -> how many; mean and std: a channel, of values in 0..1."""

    n: int
    sizes: Counter[tuple[int, int]]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def of_pictures(found: DataSet, guess: Guess, *, has_teacher: bool) -> Draft:
    """The lines of a recipe for pictures. With a teacher its normalisation is asked for, not computed.

    Raises DataError for a data set that cannot be read.
    """
    task = reading_task(guess)
    train = open_source(found.at(found.train), "train", guess.column, guess.label, task=task)
    test = open_source(found.at(found.test), "test", guess.column, guess.label, task=task) if found.test else None
    looks = looks_of(train)
    size, why = size_for(looks, of_masks=guess.task == "segment")
    height, width = size or max(looks.sizes, key=lambda one: looks.sizes[one])
    data = list(columns(guess))
    if size is not None:
        data.append(line("size", f"[{height}, {width}]", f"height, width; {why}"))
    if looks.channels == 1:
        data.append(line("channels", "1", "the pictures are grey"))
    data += _normalisation(looks, has_teacher)
    student, instead = _student(guess, min(height, width))
    padding = max(1, min(8, min(height, width) // 8))
    flip, why = (
        ("", "flip = true where a mirrored picture is as likely, as no digit is")
        if looks.channels == 1
        else (", flip = true", "flip = false where left and right differ, as in digits")
    )
    data.append(line("augment", f"{{ crop_padding = {padding}{flip} }}", why))
    told = [counted(found, train, test, "pictures"), _looks(looks, size)]
    if guess.task == "segment":
        task_lines, said = _masks(train, guess)
    else:
        task_lines = () if guess.task == "classify" else (line("kind", text(guess.task)),)
        said = [answers(guess, train)]
    return Draft(
        guess=guess,
        data=tuple(data),
        task=task_lines,
        student=student,
        instead=instead,
        distill=(line("batch_size", str(max(2, min(16, len(train) // 8)))),)
        if guess.task == "segment"
        else batch_line(len(train)),
        told=(*told, *said, *doubts(guess, train, test)),
        size=(height, width),
    )


def looks_of(train: EncodedSplit) -> Looks:
    """The sizes, channels, mean and standard deviation of some pictures. Raises DataError if none decodes."""
    sizes: Counter[tuple[int, int]] = Counter()
    sums, squares, pixels, grey, n = np.zeros(3), np.zeros(3), 0, True, 0
    for stored in (train.read(i) for i in some(len(train), MOST_PICTURES)):
        try:
            picture = decode_image(stored)
        except ValueError:
            continue
        n, channels = n + 1, picture.shape[-1]
        sizes[picture.shape[0], picture.shape[1]] += 1
        if channels not in (1, 3):
            raise DataError(f"the pictures have {channels} channels; edgekd init writes recipes for 1 or 3")
        values = np.broadcast_to(picture, (*picture.shape[:2], 3)).reshape(-1, 3) / 255
        grey = grey and bool((picture == picture[..., :1]).all())
        sums, squares, pixels = sums + values.sum(0), squares + (values**2).sum(0), pixels + len(values)
    if not n:
        raise DataError(f"none of {min(len(train), MOST_PICTURES)} pictures decodes, the first is {train.name(0)}")
    mean = sums / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 1e-6))
    kept = slice(0, 1 if grey else 3)
    return Looks(n, sizes, 1 if grey else 3, tuple(mean[kept].tolist()), tuple(std[kept].tolist()))


def size_for(looks: Looks, *, of_masks: bool) -> tuple[tuple[int, int] | None, str]:
    """The size that pictures must be resized to, with the reason; None if they can stay as they are."""
    sizes = sorted(looks.sizes.elements())
    (height, width), multiple = sizes[len(sizes) // 2], HALVED if of_masks else 1
    if len(looks.sizes) == 1:
        if height % multiple == 0 and width % multiple == 0:
            return None, ""
        return (max(multiple, height // multiple * multiple), max(multiple, width // multiple * multiple)), (
            "multiples of 8, because the U-Net halves three times"
        )
    median = float(np.median([min(size) for size in sizes]))
    side = max((one for one in SIDES[: None if of_masks else -1] if one <= median), default=SIDES[0])
    return (side, side), "the pictures differ in size"


def _normalisation(looks: Looks, has_teacher: bool) -> Iterator[str]:
    if has_teacher and looks.channels == 3:
        yield line(
            "mean", "[0.485, 0.456, 0.406]", "TODO: mean and std that the teacher was trained with, of values in 0..1"
        )
        yield line("std", "[0.229, 0.224, 0.225]", "these are ImageNet's")
        return
    why = f"of {looks.n} pictures of train" + ("; TODO: those that the teacher was trained with" if has_teacher else "")
    yield line("mean", _numbers(looks.mean), why)
    yield line("std", _numbers(looks.std))


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4f}' for value in values)}]"


def _looks(looks: Looks, size: tuple[int, int] | None) -> str:
    sizes = sorted(looks.sizes)
    if len(sizes) == 1:
        shown = f"{sizes[0][1]} x {sizes[0][0]}"
    else:
        (h0, w0), (h1, w1) = sizes[0], sizes[-1]
        shown = f"{len(sizes)} sizes, as {w0} x {h0} and {w1} x {h1}"
    resized = f"; they are resized to {size[1]} x {size[0]}" if size else ""
    return f"{'grey' if looks.channels == 1 else 'colour'}, {shown} (by {looks.n} of train){resized}"


def _student(guess: Guess, side: int) -> tuple[str, str]:
    """A built-in student for pictures whose shorter side has so many pixels, and others."""
    if guess.task == "segment":
        return "edgekd:unet", "args = { width = 16 } for a stronger one"
    if side <= SMALL:
        return "edgekd:resnet8", "for small pictures; also edgekd:resnet20, edgekd:wrn-16-2"
    return "edgekd:mobilenetv2-0.35", "also edgekd:mobilenetv2-0.5, python:, timm:"


def _masks(train: EncodedSplit, guess: Guess) -> tuple[tuple[str, ...], list[str]]:
    """The lines of [task] for masks, and what is told of them. Raises DataError if no mask decodes."""
    numbers: set[int] = set()
    looked = some(len(train), MOST_MASKS)
    for i in looked:
        numbers |= numbers_in(train.labels[i])
    ids = sorted(numbers - {IGNORED})
    told = [f"masks hold the numbers {', '.join(map(str, sorted(numbers)))} (by {len(looked)} of train)"]
    count = max(len(guess.classes), max(ids, default=0) + 1, 2)
    names = guess.classes or ("background", *(f"class {i}" for i in range(1, count)))
    if IGNORED in numbers and len(ids) > 1:
        told.append(f"pixels of {IGNORED} are neither learnt nor scored (task.ignore_index)")
    elif IGNORED in numbers:
        told.append("a mask's pixels are numbers of classes from 0: write the objects as 1, not 255")
    if absent := [name for i, name in enumerate(names[:count]) if i not in ids]:
        told.append(f"no pixel of {in_a_line(', '.join(absent[:10]))}; a build refuses a class without one")
    return (
        line("kind", '"segment"'),
        line("classes", texts(names[:count]), "of the numbers in the masks, from 0"),
    ), [f"{count} classes of pixels: {in_a_line(', '.join(names[:count]))}", *told]


def numbers_in(stored: bytes | NDArray[Any]) -> set[int]:
    """The numbers of a mask's pixels. Raises DataError for a mask that has colours, or is no picture."""
    if not isinstance(stored, bytes):
        return set(np.unique(stored).tolist())
    try:
        with Image.open(io.BytesIO(stored)) as mask:
            if mask.mode not in ("1", "L", "P", "I", "I;16"):
                raise DataError(
                    f"masks are {mask.mode}, whose pixels are colours; a mask's pixels are numbers of classes"
                )
            return set(np.unique(np.asarray(mask)).astype(int).tolist())
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"a mask is no picture that Pillow reads ({type(error).__name__})") from error
