"""write_recipe: the commented edgekd.toml of `edgekd init`, for the data and the teacher in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from edgekd.base.contents import write_atomically
from edgekd.base.names import in_a_line
from edgekd.errors import DataError, RecipeError
from edgekd.recipe import FILE, load_recipe
from edgekd.start.data_sets import DataSet, class_folders, data_sets
from edgekd.start.draft import SHARE, Draft, line, text
from edgekd.start.guess import guess
from edgekd.start.pictures import of_pictures
from edgekd.start.rows import of_rows
from edgekd.start.sounds import of_sounds
from edgekd.start.teachers import Found, teachers_in

NOT_FOUND = Draft(
    data=(
        line("mean", "[0.485, 0.456, 0.406]", "TODO: mean and std of the pictures, of values in 0..1"),
        line("std", "[0.229, 0.224, 0.225]"),
        line("augment", "{ crop_padding = 4, flip = true }", "also: jitter = 0.2, cutout = 8, mixup = 0.2"),
        line("# size", "[224, 224]", "height, width; needed where pictures differ in size"),
        line("# input", '"audio"', 'sounds; "table": rows. docs/recipe.md has their keys'),
    ),
    student="edgekd:resnet8",
    instead="also edgekd:mobilenetv2-0.35, edgekd:ds-cnn for sounds, edgekd:mlp for tables",
    told=(),
)
LOSSES = {
    "multilabel": (line("losses", '[{ method = "mld", weight = 10.0 }]'), line("label_weight", "0.5")),
    "regress": (line("losses", '[{ method = "teacher_bounded", weight = 0.5 }]'), line("label_weight", "0.5")),
    "segment": (line("losses", '[{ method = "kd", temperature = 1.0 }]'), line("label_weight", "1.0")),
}
"""Kind of task -> how it learns from a teacher; classes do so by default."""
NO_DATA = DataSet(Path(), "data/train.parquet", "data/test.parquet")


def write_recipe(folder: Path, *, force: bool = False) -> str:
    """Write the recipe and return what was found, chosen and passed over, in lines.

    Raises RecipeError if a recipe exists, unless `force`, for a folder that is none, and for names that no recipe can hold.
    """
    file = folder / FILE
    if not folder.is_dir():
        raise RecipeError(f"{folder} is no folder; give the folder that your data lies in")
    if file.exists() and not force:
        raise RecipeError(f"{file} exists; change it, or replace it with --force")
    teachers = teachers_in(folder)
    chosen, draft, passed = _first(folder, has_teacher=bool(teachers))
    written = "\n".join(_lines(chosen, draft or NOT_FOUND, teachers[0] if teachers else None)) + "\n"
    with TemporaryDirectory() as place:  # what does not load is not written
        (Path(place) / FILE).write_text(written, encoding="utf-8")
        load_recipe(Path(place))
    write_atomically(file, written.encode())
    if draft is None:
        told = [f"nothing {'here can be used' if passed else 'was found'} for data.train and data.test: fill in"]
    else:
        told = [*draft.told, f"student: {draft.student} ({draft.instead})"]
    told.append(_of_teacher(teachers, of_pictures=draft is not None and draft.size is not None))
    passed += [f"teacher {other.file}" for other in teachers[1:]]
    if draft is not None:
        there = "" if str(folder) == "." else f" {folder}"
        told.append(f"next: read {FILE}, then edgekd build{there} --target NAME (`edgekd targets` lists them)")
    return "\n".join([f"wrote {file}", *(f"  {each}" for each in told), *(f"  passed over: {each}" for each in passed)])


def _first(folder: Path, *, has_teacher: bool) -> tuple[DataSet, Draft | None, list[str]]:
    """The first data set that can be read, what it decides, and what was passed over with the reasons."""
    sets, passed = data_sets(folder), []
    chosen, draft = NO_DATA, None
    if _is_doubtful(sets):
        return chosen, None, [f"{each.train}: several files could be train; name one in data.train" for each in sets]
    for each in sets:
        if draft is not None:
            passed.append(f"{each}: another data set; edgekd init takes one")
            continue
        try:
            draft = drafted(each, has_teacher=has_teacher)
        except DataError as error:
            passed.append(str(error) if each.train in str(error) else f"{each}: {error}")
            continue
        chosen = each
        passed += [f"{other}: a further split; a recipe has two" for other in each.further]
    here = class_folders(folder)
    if len(here) > 1 and draft is None and not any(each.train == "." for each in sets):
        shown = ", ".join(here[:3])
        passed.append(
            f"the class folders {shown} lie where the recipe and its builds would; move them into one folder, as data/"
        )
    return chosen, draft, [in_a_line(each) for each in passed]


def _is_doubtful(sets: Sequence[DataSet]) -> bool:
    """Whether several files are called train and none of them is called so alone, or has a test split."""
    trains = [
        Path(each.train) for each in sets if each.train != "." and Path(each.train).stem.lower().startswith("train")
    ]
    return (
        len(trains) == len(sets) > 1
        and all(each.test is None for each in sets)
        and len({train.parent for train in trains}) == 1
        and not any(train.stem.lower().removeprefix("train").strip("-_.0123456789[]") == "" for train in trains)
    )


def drafted(found: DataSet, *, has_teacher: bool) -> Draft:
    """What a data set decides of a recipe. Raises DataError for one that edgekd cannot read."""
    held = guess(found.at(found.train))
    if held.kind == "table":
        return of_rows(found)
    return of_sounds(found, held) if held.kind == "audio" else of_pictures(found, held, has_teacher=has_teacher)


def _lines(found: DataSet, draft: Draft, teacher: Found | None) -> Iterator[str]:
    """The recipe."""
    yield "# edgekd build --target jetson   (`edgekd targets` lists the devices; any setting: --set distill.epochs=5)"
    yield "[data]"
    yield from draft.before
    yield line("train", text(found.train))
    if found.test:
        yield line("test", text(found.test), "read by the final check only")
    else:
        of = "of each class of train" if draft.guess is None or draft.guess.task == "classify" else "of train"
        yield line("test", f"{SHARE:g}", f"a fifth {of}, drawn by content; for the final check only")
    yield from draft.data
    if draft.task:
        yield from ("", "[task]", *draft.task)
    yield ""
    if teacher is None:
        yield f"{'# [teacher]':43} # none was found here, so the student learns from labels alone"
        yield line("# model", '"onnx:teacher.onnx"', "or exported:FILE.pt2, python:FILE.py:function, timm:NAME")
    else:
        yield "[teacher]"
        yield line("model", text(teacher.reference), "found here")
        if draft.size and teacher.size and teacher.size != draft.size:
            yield line("size", f"[{teacher.size[0]}, {teacher.size[1]}]", "height, width that its file takes")
    yield from (
        "",
        "[student]",
        line("model", text(draft.student), draft.instead),
        "",
        "[distill]",
        line("epochs", "30"),
        *draft.distill,
    )
    if teacher is None:
        yield line(
            "losses", "[]", "no teacher; with one leave this out: classes then learn by kd (docs/distillation.md)"
        )
        yield line("label_weight", "1.0")
    elif draft.guess is not None:
        yield from LOSSES.get(draft.guess.task, ())
    yield from (
        "",
        "[quantize]",
        line("mode", '"ptq"', '"qat" trains on in int8; "auto" until the budget holds; "none"'),
    )
    yield from ("", "[budget]", line("max_drop_from_fp32", "1.0", "points"))
    yield line("# min_accuracy", "90", "without this line and the next the report says NOT DECIDED")
    yield line("# p90_latency_ms", "10", "measured on the device; also max_drop_from_teacher, size_mb")


def _of_teacher(teachers: Sequence[Found], *, of_pictures: bool) -> str:
    if not teachers:
        return "no teacher was found (*.onnx, *.pt2): the student learns from labels alone; [teacher] names one"
    todo = "; write the mean and std that it was trained with where the recipe says TODO" if of_pictures else ""
    return f"teacher: {teachers[0].file}{todo}"
