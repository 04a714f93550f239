"""write_bundle, verify_bundle: write the folder for the device, and prove that it arrived unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import onnx

from edgekd.base.contents import hash_file
from edgekd.bundle.drafts import draft_of, put_in_place  # fmt: skip
from edgekd.bundle.golden import FIRST, Golden
from edgekd.bundle.manifest import (
    FORMAT,
    GraphInput,
    Manifest,
    Preprocess,
    Stage,
    StoredRecipe,
    StoredTask,
    figures,
    tables_of,
)
from edgekd.bundle.read import (
    CARD,
    GOLDEN,
    MANIFEST,
    README,
    SHIPPED,
    Row,
    check_file,
    read_manifest,
    refuse_links,
    unlisted,
    with_verdict,
    write_manifest,
    write_report,
)
from edgekd.errors import BundleError
from edgekd.export.to_onnx import write
from edgekd.figures.figures import Report
from edgekd.figures.words import valued
from edgekd.recipe import ClassifyTask, Recipe
from edgekd.report.model_card import model_card
from edgekd.runtime.runners import OnnxRunner
from edgekd.scripts import SCRIPTS, device_runner
from edgekd.scripts.build_engine import Failure, Options, majors, trtexec_line
from edgekd.scripts.run import rows_of
from edgekd.target import Target


def write_bundle(
    folder: Path,
    *,
    report: Report,
    recipe: Recipe,
    target: Target,
    fingerprint: str,
    models: Mapping[str, Path],
    labels: Sequence[str],
    tasks: Mapping[str, tuple[str, ...]],
    golden: Golden,
    thresholds: Sequence[float] = (),
    preprocess: Preprocess | None = None,
    at_most: Mapping[str, int] | None = None,
    reading: Mapping[str, Mapping[str, Any]] | None = None,
    further: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a complete bundle to `folder` and replaces an older bundle there in one step.

    recipe       the recipe of the build; it also decides what the outputs are
    fingerprint  the hash of everything that the bundle is made of
    models       file name in the bundle -> ONNX file; `model.onnx` is the one that ships
    labels       class names in the order of the model's outputs
    tasks        further output -> its class names
    thresholds   of a task of several labels: the probability above which run.py gives each label
    golden       inputs, onnxruntime's outputs for them, and the tolerance for another machine
    preprocess   mean and std of the images' channels; none: the inputs are no images
    at_most      free size of the inputs -> its largest; an engine is built for sizes up to it
    reading      input -> further keys of its table, which run.py needs to read samples of sounds and tables
    further      further files by name: build.log, and for report.html overlays.jpg (masks) and mistaken.jpg (wrong answers)

    The same arguments give the same bytes. Raises BundleError for arguments, or content of `folder`, that is no bundle's.
    """
    check_replaceable(folder)
    inputs = as_read(check_content(models, labels, golden, at_most or {}), preprocess, reading or {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(folder) as draft:
        write_files(draft, report, models, labels, golden, further or {})
        refuse_other_outputs(draft, golden, models[SHIPPED])
        builder = write_instructions(draft, report, target, inputs, recipe.task.told)
        manifest = Manifest(
            format=FORMAT,
            files={path.name: hash_file(path) for path in sorted(draft.iterdir())},
            golden=golden.about,
            **tables_of(inputs),
            runtime=target.runtime.name,
            precision=report.chosen.name,
            output=recipe.export.output,
            tasks=dict(tasks),
            recipe=StoredRecipe.model_validate(recipe.model_dump(mode="json")),
            target=target.model_dump(mode="json", exclude_none=True),
            fingerprint=fingerprint,
            versions=dict(report.versions),
            lineage=lineage_of(report),
            figures=figures(report),
            **builder,
        )
        manifest = manifest.model_copy(update=optional(recipe, thresholds, preprocess))
        write_manifest(draft / MANIFEST, manifest)
        put_in_place(draft, folder)


def refuse_other_outputs(draft: Path, golden: Golden, model: Path) -> None:
    """Raises BundleError if the model in the draft does not give the golden outputs."""
    _, reproduced, detail = check_outputs(draft, golden)
    if not reproduced:
        raise BundleError(f"{model} does not give the golden outputs: {detail}")


def lineage_of(report: Report) -> tuple[Stage, ...]:
    """The stages that made the bundle."""
    return tuple(Stage(name=stage.get("name"), key=stage.get("key")) for stage in report.stages)


def optional(recipe: Recipe, thresholds: Sequence[float], preprocess: Preprocess | None) -> dict[str, Any]:
    """The manifest's keys that a bundle of classes, or of no images, does not have."""
    found: dict[str, Any] = {} if preprocess is None else {"preprocess": preprocess}
    if recipe.task.kind != "classify":
        found["task"] = StoredTask(kind=recipe.task.kind, thresholds=tuple(thresholds))
    if kinds := {task.name: task.task.kind for task in recipe.tasks if task.task.kind != "classify"}:
        found["kinds"] = kinds
    return found


def check_replaceable(folder: Path) -> None:
    """Raises BundleError if `folder` is not a bundle: a wrong `--output` must not cost the user other files."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BundleError(f"{folder} exists and is no folder; give another place for the bundle")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} holds files but no {MANIFEST}, so no bundle; give another place or empty it")


def check_content(
    models: Mapping[str, Path], labels: Sequence[str], golden: Golden, at_most: Mapping[str, int]
) -> tuple[GraphInput, ...]:
    """The descriptions of the graph's inputs. Raises BundleError for content that run.py could not use."""
    if SHIPPED not in models:
        raise BundleError(f"no {SHIPPED} among the models {sorted(models)}; it is the file that ships")
    for name in models:
        if PurePosixPath(name).name != name or not name.endswith(".onnx"):
            raise BundleError(f"model name {name!r}; a plain file name that ends in .onnx is needed")
    broken = [label for label in labels if "\n" in label or "\r" in label]
    if broken:
        raise BundleError(f"labels with a line break cannot stand in labels.txt: {broken}")
    classes = golden.outputs[FIRST].shape
    if len(labels) != classes[1]:
        raise BundleError(f"{len(labels)} labels for outputs of shape {classes}; one a class is needed")
    inputs = describe_inputs(models[SHIPPED], at_most)
    names = [table.name for table in inputs]
    if list(golden.inputs) != names:
        raise BundleError(f"golden inputs {list(golden.inputs)}; {models[SHIPPED]} takes {names}, in this order")
    if foreign := sorted(
        set(at_most) - {size for table in inputs for size in table.shape[1:] if isinstance(size, str)}
    ):
        shapes = {table.name: [*table.shape] for table in inputs}
        raise BundleError(f"at_most bounds {foreign}, which is no free size of the inputs {shapes} but their batch")
    return inputs


def as_read(
    inputs: Sequence[GraphInput], preprocess: Preprocess | None, reading: Mapping[str, Mapping[str, Any]]
) -> tuple[GraphInput, ...]:
    """The descriptions with what run.py must know to read a sample: a layout for images alone, and what `reading` tells."""
    if preprocess is None:  # then run.py reads no picture, whatever the shape
        inputs = [table.model_copy(update={"layout": ""}) for table in inputs]
    return tuple(table.model_copy(update=dict(reading.get(table.name, {}))) for table in inputs)


def describe_inputs(model: Path, at_most: Mapping[str, int] | None = None) -> tuple[GraphInput, ...]:
    """Descriptions of a model's inputs, in the graph's order.

    Each has name, dtype, shape, layout (NHWC, NCHW, or "" for no image) and the bounds of its free sizes from `at_most`. In
    a shape a free dimension is its name or null. Raises BundleError for a model without inputs, or with an input that has
    no axis for the samples.
    """
    graph = onnx.load(str(model), load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_described(value, at_most or {}) for value in graph.input if value.name not in stored)
    if not inputs or not all(table.shape for table in inputs):
        raise BundleError(
            f"{model} has inputs {[(table.name, [*table.shape]) for table in inputs]}; a bundle holds models with inputs "
            "[samples, ...], at least one"
        )
    return inputs


def _described(value: onnx.ValueInfoProto, at_most: Mapping[str, int]) -> GraphInput:
    tensor = value.type.tensor_type
    dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    found = GraphInput(name=value.name, dtype=dtype, shape=shape, layout=layout(dtype, shape))
    bounds = {name: most for name, most in at_most.items() if name in shape[1:]}
    return found.model_copy(update={"at_most": bounds}) if bounds else found  # no bounds, no key


def layout(dtype: str, shape: Sequence[object]) -> Literal["NHWC", "NCHW", ""]:
    if len(shape) != 4:
        return ""
    return "NHWC" if dtype == "uint8" and shape[3] in (1, 3) else "NCHW" if shape[1] in (1, 3) else ""


def write_files(
    draft: Path,
    report: Report,
    models: Mapping[str, Path],
    labels: Sequence[str],
    golden: Golden,
    further: Mapping[str, bytes],
) -> None:
    for name, path in models.items():
        if path.with_name(
            f"{path.name}.data"
        ).exists():  # the model refers to that file by name, so a rename needs a new model
            write(onnx.load(path), draft / name)
        else:
            shutil.copyfile(path, draft / name)
    (draft / "labels.txt").write_bytes("".join(label + "\n" for label in labels).encode())
    golden.write(draft / GOLDEN)
    for name, content in further.items():
        (draft / name).write_bytes(content)
    write_report(draft, report)
    (draft / CARD).write_text(model_card(report), encoding="utf-8")
    shutil.copyfile(SCRIPTS / "run.py", draft / "run.py")
    (draft / device_runner.NAME).write_text(device_runner.joined(), encoding="utf-8")


def write_instructions(
    draft: Path, report: Report, target: Target, inputs: Sequence[GraphInput], answers: str
) -> dict[str, Any]:
    """Writes README.txt and, for TensorRT, the engine's builder. Returns the manifest's key about the builder, if any."""
    trtexec: dict[str, str] = {}
    tensorrt = target.runtime.name == "tensorrt"
    if tensorrt:
        shutil.copyfile(SCRIPTS / "build_engine.py", draft / "build_engine.py")
        trtexec = trtexec_lines(inputs, report.chosen.name)
    text = readme(report, target, trtexec, example_of(inputs), answers)
    (draft / README).write_text(with_verdict(text, report), encoding="utf-8")
    return {"trtexec": trtexec} if tensorrt else {}


def trtexec_lines(inputs: Sequence[GraphInput], precision: str) -> dict[str, str]:
    """TensorRT release -> the command of NVIDIA's own tool that builds and times the same engine, batch 1.

    Empty for a graph with an unbounded free size other than the batch: only the user knows such sizes.
    """
    tables = [table.written() for table in inputs]
    shapes = {table.name: [size if isinstance(size, int) else -1 for size in table.shape] for table in inputs}
    options = Options(precision=precision)
    try:
        lines = {major: trtexec_line(major, shapes, options, {}, tables) for major in majors(precision)}
    except Failure:
        return {}
    return {str(major): line for major, line in lines.items()}


def example_of(inputs: Sequence[GraphInput]) -> str:
    """The name of an example file for run.py."""
    first, *further = inputs
    if first.columns:
        return "rows.csv"
    if further:
        return "sample.npz"
    return "cat.png" if first.layout else "word.wav" if first.sample_rate else "sample.npy"


def readme(
    report: Report,
    target: Target,
    trtexec: Mapping[str, str],
    example: str = "cat.png",
    answers: str = ClassifyTask.told,
) -> str:
    """The text of README.txt: the folder's content and the commands for it."""
    chosen = report.chosen
    speed = "not measured"
    if chosen.latency is not None:
        speed = f"{chosen.latency.p50_ms:.3g} ms median ({chosen.latency.origin}: {chosen.latency.machine})"
        if chosen.latency.origin != "device":
            speed = f"not measured on the device; {speed}"
    # onnxruntime's CPU kernels have no bf16
    run = "python3 run.py --engine model.plan" if chosen.name == "bf16" else "python3 run.py"
    flags = "--bf16" if chosen.name == "bf16" else "the flags of release 8"
    lines = [
        f"{report.recipe} for {target.title}",
        "",
        f"model.onnx: {chosen.name}, {chosen.size_mb:.2f} MB",
        f"{f'{chosen.score.metric}:':<12}{valued(chosen.score.value, chosen.score.unit)} ({chosen.score.origin}, {chosen.score.runtime})",
        f"latency:    {speed}",
        "",
        f"{run} {example:<12} {answers}",
        *([f"{run} --stream     the phrases in a stream of sound on standard input"] if example == "word.wav" else []),
        f"{run} --verify     are all files unchanged, and does this machine compute the same?",
        f"{run} --bench      how fast is this machine?",
        "python3 device_runner.py    the same as `edgekd measure` does it, with its conditions: writes figures.json",
        "report.html                 all figures, and where each comes from",
        "README.md                   the same in short, as a model card; build.log is what the build printed",
    ]
    if trtexec:
        lines += [
            "",
            "TensorRT: an engine runs only where it was built, so build it on the device.",
            "python3 build_engine.py                      model.onnx -> model.plan",
            "python3 run.py --engine model.plan --verify",
            "",
            "The same with NVIDIA's tool, by TensorRT release:",
            *(f"{release}: {line}" for release, line in trtexec.items()),
            f"Before 10.12, where strong typing refuses the graph, give {flags}, not --stronglyTyped;",
            "build_engine.py does so by itself and then checks every layer's type, which trtexec does not.",
            "python3 build_engine.py --trtexec prints them for other batches, and for release 11 with a comparison of the",
            "outputs; earlier ones compare none: run.py --engine model.plan --verify does.",
        ]
    return "\n".join(lines) + "\n"


def verify_bundle(folder: Path) -> list[Row]:
    """The rows (subject, ok, detail) of every file and of the stored outputs, computed again in onnxruntime.

    A missing, changed or unlisted file gives a row that is not ok, and then no model is run. Raises BundleError if the
    folder is not a bundle at all: no manifest, a link, a path that leaves the folder.
    """
    manifest = read_manifest(folder)
    listed = manifest.files
    refuse_links(folder)
    rows = [check_file(folder, name, expected) for name, expected in sorted(listed.items())]
    rows += [(name, False, "not listed in the manifest") for name in unlisted(folder, listed)]
    if not all(ok for _, ok, _ in rows):
        return [*rows, ("stored outputs", False, "not run: the files differ from the manifest")]
    return [*rows, check_outputs(folder, Golden.read(folder, manifest))]


def check_outputs(folder: Path, golden: Golden) -> Row:
    """Runs the shipped model on the stored inputs and compares, a sample at a time: a graph may be fixed to batch 1."""
    runner = OnnxRunner(folder / SHIPPED)
    runs = [runner.run_all(rows_of(golden.inputs, slice(i, i + 1))) for i in range(len(golden))]
    computed = {name: np.concatenate([run[at] for run in runs]) for at, name in enumerate([FIRST, *runner.outputs[1:]])}
    ok, detail = golden.compare(computed)
    return "stored outputs", ok, f"{detail} over {len(golden)} inputs in {runner.name}"
