"""Writes docs/recipe.md, every key of a recipe with its default, from the code that reads recipes: python docs/make_recipe.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgekd.base.toml_file import shown
from edgekd.distill.methods import METHODS, Method
from edgekd.inputs import picture, sound
from edgekd.recipe import (
    AudioAugmentation,
    AudioData,
    Augmentation,
    Budget,
    Data,
    Distill,
    Export,
    Init,
    MultilabelTask,
    Optimizer,
    Quantize,
    RegressTask,
    SegmentTask,
    Student,
    Synthetic,
    TableAugmentation,
    TableData,
    Task,
    Teacher,
)
from edgekd.recipe.losses import Loss

TABLES: dict[str, type[BaseModel]] = {
    "[data]": Data, "[data.augment]": Augmentation, "[data.synthetic]": Synthetic,
    '[data] with input = "audio"': AudioData, '[data.augment] with input = "audio"': AudioAugmentation,
    '[data] with input = "table"': TableData, '[data.augment] with input = "table"': TableAugmentation, "[teacher]": Teacher,
    '[task] with kind = "multilabel"': MultilabelTask, '[task] with kind = "regress"': RegressTask,
    '[task] with kind = "segment"': SegmentTask,
    "[student]": Student, "[student.init]": Init, "[distill]": Distill, "[[distill.losses]]": Loss,
    "[distill.optimizer]": Optimizer, "[quantize]": Quantize, "[export]": Export, "[budget]": Budget, "[[tasks]]": Task,
}  # fmt: skip
HEAD = """\
# The recipe

Every key of edgekd.toml with its default. Any of them can be given on the command line: `--set distill.epochs=5`.
`name = "..."`, at the top, sets the bundle's folder. Default: the recipe folder's name.
`[teacher]` may be left out if no loss reads a teacher (docs/distillation.md).

`data.train` and `data.test` name samples in one of these layouts; a pattern (`train-*.parquet`) names several files of one:

| layout | samples and labels | of |
|---|---|---|
| a folder of folders | one folder a class, with the files inside | pictures, sounds |
| a folder with `images` and `masks` | the same names in both | pictures with masks |
| a folder with `metadata.csv` or `metadata.jsonl` | `file_name` and labels, as Hugging Face's imagefolder and audiofolder | pictures, sounds |
| a CSV or JSONL | column `path`, `file` or `file_name`, and columns of labels; paths start at its folder | pictures, sounds |
| a CSV or JSONL | the columns themselves | tables |
| parquet | a column of bytes, or of structs with `bytes`, and columns of labels; of a table all columns | all |
| npz | arrays `x` (or `images`, `sounds`) and `y` (or `labels`), or `x_train`, `y_train`, `x_test`, `y_test`; of a table a column each | all |
| a tar of WebDataset, without compression | `KEY.jpg` and `KEY.cls`, `KEY.json` or `KEY.mask.png` | pictures, sounds |
| `python:module:function` or `python:file.py:function` | given `"train"` or `"test"`, returns samples, labels from 0 and class names | all |

`data.column` and `data.label` name other columns (arrays of npz, endings in a tar). Labels are numbers from 0, or texts, whose classes are
sorted. `data.classes` names the classes in another order; a label that it has not is refused. Arrays of images are uint8 `[n, height, width,
channels]`. Sounds are int16 or floats in -1..1, one array `[samples]` each. A function gives a table as a dict of columns.

Without test samples of its own, `test = 0.2` takes about a fifth of each class of train, by a hash of each sample's content: of few samples it may be
far from a fifth, and the build tells the share; another `test_seed` draws another. Further samples
move none to the other side, unless a class would have none on one. Copies of a sample stay on one side. Sounds of one speaker, or pictures
of one scene, do not: split these yourself.

`data.input` says what the samples are, and which keys `[data]` has: images without the key, sounds with `input = "audio"`
(docs/inputs-audio.md), rows with `input = "table"` (docs/inputs-table.md).

`[task]` says what the answers are: one class for each sample without the table, labels, values or masks with it (docs/tasks.md).

<!-- Written by docs/make_recipe.py. -->
"""


def reference() -> str:
    """The page."""
    parts = [HEAD]
    for title, table in TABLES.items():
        parts.append(f"## `{title}`\n\n| key | default | |\n|---|---|---|\n" + "\n".join(rows(table)) + "\n")
    rule = (picture.__doc__ or "").partition("run.py, which ships")[0].partition("\n\n")[2].rstrip()
    heard = (sound.__doc__ or "").partition("WAV of whole numbers")[0].partition("\n\n")[2].rstrip()
    parts.append(
        f"## What a picture is\n\nIn training and in the run.py that ships (edgekd/inputs/picture.py):\n\n{rule}\n"
    )
    parts.append(f"## What a sound is\n\nIn training and in run.py (edgekd/inputs/sound.py):\n\n{heard}\n")
    parts.append(
        "## Options of the methods\n\nWrite an option beside `method` in `[[distill.losses]]`. The docstring of the "
        "method's file in `edgekd/distill/methods` explains it.\n\n| method | options and defaults |\n|---|---|\n"
        + "\n".join(f"| `{name}` | {options(method)} |" for name, method in METHODS.items())
        + "\n"
    )
    return "\n".join(parts)


def rows(table: type[BaseModel]) -> Iterator[str]:
    for key, field in table.model_fields.items():
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True, validated_data={})
            default = "" if value is None or isinstance(value, BaseModel) else f"`{written(value)}`"
        yield f"| `{key}` | {default} | {(field.description or '').replace('|', '/')} |"


def written(value: Any) -> str:
    """A default as one writes it in TOML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, BaseModel):
        return "{ " + ", ".join(f"{k} = {shown(v)}" for k, v in value.model_dump(exclude_unset=True).items()) + " }"
    return shown(value)


def options(method: Method) -> str:
    layers = ["`layers`"] if "f_s" in method.needs else []
    told = (f"`{p.name}`" + ("" if p.default is None else f" {shown(p.default)}") for p in method.options.values())
    return ", ".join([*layers, *told]) or "none"


if __name__ == "__main__":
    (Path(__file__).parent / "recipe.md").write_text(reference(), encoding="utf-8")
