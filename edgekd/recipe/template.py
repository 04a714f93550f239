"""`edgekd init`: writes a commented edgekd.toml for the data in a folder."""

from __future__ import annotations

import re
from pathlib import Path

from edgekd.base.contents import write_atomically
from edgekd.errors import RecipeError
from edgekd.recipe import FILE, load_recipe

TEMPLATE = """\
# edgekd build --target jetson      (`edgekd targets` lists the devices; any setting: --set distill.epochs=5)
[data]
train = "{train}"
test = "{test}"                      # read by the final check only
mean = [0.485, 0.456, 0.406]                # TODO: mean and std that the teacher was trained with, of values in 0..1
std = [0.229, 0.224, 0.225]
augment = {{ crop_padding = 4, flip = true }} # also: cutout = 8, mixup = 0.2
# size = [224, 224]                         # height, width; needed where images differ in size

[teacher]                                   # none at hand? leave this table out: distill.scheme = "tf_kd" and others need none
model = "{teacher}"  # {teacher_remark}
# weights = "teacher.safetensors"           # for edgekd:, python: and timm: models

[student]
model = "edgekd:resnet8"                    # also edgekd:resnet20, edgekd:wrn-16-2, edgekd:mobilenetv2-0.5, python:, timm:

[distill]
epochs = 30                                 # losses = [{{ method = "kd", temperature = 4.0, weight = 0.9 }}]

[quantize]
mode = "ptq"                                # "qat" trains on in int8 arithmetic; "auto" until the budget holds; "none"

[budget]
max_drop_from_fp32 = 1.0                    # points; also min_accuracy, max_drop_from_teacher, size_mb
"""
NUMBERED = re.compile(r"([-_.]?)\d")  # follows the split's name in the file name of a part
SPLITS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


def write_recipe(folder: Path, *, force: bool = False) -> str:
    """Write the recipe and return a message. Raises RecipeError if a recipe exists, unless `force`."""
    file = folder / FILE
    if not folder.is_dir():
        raise RecipeError(f"{folder} is no folder; give the folder that your data lies in")
    if file.exists() and not force:
        raise RecipeError(f"{file} exists; change it, or replace it with --force")
    splits = {split: _find(folder, names) for split, names in SPLITS.items()}
    teacher = next((path for pattern in ("*.onnx", "*.pt2") for path in sorted(folder.glob(pattern))), None)
    kind = "" if teacher is None else f"{'onnx' if teacher.suffix == '.onnx' else 'exported'}:{teacher.name}"
    text = TEMPLATE.format(
        train=splits["train"] or "data/train.parquet",
        test=splits["test"] or "data/test.parquet",
        teacher=kind or "exported:teacher.pt2",
        teacher_remark="found here"
        if kind
        else "TODO: also onnx:FILE, python:file.py:function, timm:NAME, edgekd:NAME",
    )
    write_atomically(file, text.encode())
    load_recipe(file)
    missing = [f"data.{split}" for split, path in splits.items() if path is None] + ([] if kind else ["teacher.model"])
    remark = (
        f"; nothing was found for {', '.join(missing)}: fill in"
        if missing
        else f"; found {splits['train']}, {splits['test']} and {kind}"
    )
    return f"wrote {file}{remark}"


def _find(folder: Path, names: tuple[str, ...]) -> str | None:
    """The data under one of these names: a parquet file, its numbered parts, or an image folder.

    The folder and its subfolders are searched.
    """
    for place in (
        folder,
        *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
    ):
        for name in names:
            file = _parquet(place, name)
            if file is not None:
                return file.relative_to(folder).as_posix()
            if (place / name).is_dir():
                return (place / name).relative_to(folder).as_posix()
    return None


def _parquet(place: Path, name: str) -> Path | None:
    """The file NAME.parquet, or its numbered parts (NAME-00000-of-00002.parquet), or the only parquet file NAME*.

    If several files begin with NAME but have no numbers, none is taken: they may be copies of each other.
    """
    if (place / f"{name}.parquet").is_file():
        return place / f"{name}.parquet"
    files = sorted(place.glob(f"{name}*.parquet"))
    numbered = next((match for file in files if (match := NUMBERED.match(file.name.removeprefix(name)))), None)
    if numbered is None:
        return files[0] if len(files) == 1 else None
    pattern = f"{name}{numbered[1]}[0-9]*.parquet"
    parts = sorted(place.glob(pattern))
    if len(parts) == 1:
        return parts[0]
    return place / (f"{name}*.parquet" if parts == files else pattern)
