"""int8 for onnxruntime on this processor: edgekd's beside other tools', from the same trained models.

    seconds    to quantize, imports not counted: reading the model, calibration on the same images, writing the file
    score      of the whole test split in onnxruntime, by the task's metric
    as fp32    the share of its classes that are fp32's, and the error of its logits beside fp32's spread (RMS): what quantization changed,
               with less of chance in it than in a score; of a training (qat) both also count what was learnt
    p50        at batch 1 on 1 thread, all files of a model in turns in one process

The tools run in environments of their own under --tools, made where they are absent (extra `bench` is not touched).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from edgekd.cache.stage import Cache, default_cache
from edgekd.data import Unseen
from edgekd.data.batches import examples_of
from edgekd.distill.layers import pair_layers
from edgekd.export import to_onnx
from edgekd.inputs.image import INPUT
from edgekd.measure.protocol import interleave
from edgekd.models.accelerator import uses_bf16
from edgekd.quantize import calibrate, convert, prepare
from edgekd.quantize.cle import equalize
from edgekd.quantize.layers import give_biases
from edgekd.quantize.refine import refine
from edgekd.recipe import REFINEMENTS, Network, Quantize, Recipe, load_recipe
from edgekd.runtime.runners import OnnxRunner, machine, versions
from edgekd.steps.distill import distill
from edgekd.steps.export import Form, export_fp32, export_int8
from edgekd.steps.ladder import quantize_student
from edgekd.steps.problem import problems_of
from edgekd.steps.quantize import Subject, calibration_batches
from edgekd.steps.teach import record, teachers_of
from edgekd.steps.teaching import TaskTeaching, Teaching
from edgekd.steps.trained import Trained, new_model
from edgekd.target import load_target
from edgekd.tasks.scores import value_of

EXAMPLE = Path(__file__).parent.parent / "examples" / "cifar10"
PEERS = Path(__file__).parent / "quantization_peers.py"
PACKAGES = {
    "onnxruntime-u8": ["onnxruntime", "onnx", "sympy"],
    "onnxruntime-s8": ["onnxruntime", "onnx", "sympy"],
    "nncf": ["nncf", "onnx", "onnxruntime"],
    "modelopt": ["nvidia-modelopt[onnx]"],
}


def main(
    recipe: Annotated[Path, typer.Option(help="of classes or masks of images")] = EXAMPLE,
    set_: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006
    models: Annotated[str, typer.Option(help="students, separated by commas; by default the recipe's")] = "",
    target: str = "x86-cpu",
    epochs: Annotated[int, typer.Option(help="of distillation; what the cache holds is not trained again")] = 12,
    seed: int = 0,
    images: Annotated[int, typer.Option(help="for calibration, the same for all")] = 512,
    tools: Annotated[Path, typer.Option(help="folder of the peers' environments")] = Path("build/tools"),
    without: Annotated[str, typer.Option(help="tools to leave out, separated by commas")] = "",
) -> None:
    """Print a table for each model."""
    given = [
        *set_,
        f"distill.epochs={epochs}",
        f"distill.seed={seed}",
        "export.preprocess=false",
        f"quantize.calibration_samples={images}",
    ]
    asked = load_recipe(recipe, given).located().canonical()
    print(f"{machine()}; torch {versions()['torch']}, onnxruntime {versions()['onnxruntime']}; {images} images\n")
    with tempfile.TemporaryDirectory() as folder:  # torch imports what it exports with at the first export
        to_onnx(torch.nn.Linear(1, 1), Path(folder) / "imports.onnx", torch.zeros(2, 1), opset=18)
    with tempfile.TemporaryDirectory() as folder:
        for name in models.split(",") if models else [""]:
            one_model(asked, name, target, Path(folder), tools, without.split(","))


def one_model(recipe: Recipe, name: str, target: str, folder: Path, tools: Path, without: Sequence[str]) -> None:
    """Train, quantize by everything, compare."""
    run, device = Cache(default_cache()), load_target(target)
    network = Network(model=name) if name else Network.of(recipe.student)
    problems = problems_of(run, recipe)
    problem = problems.student
    on, form = problem.training, Form(recipe.export, device.runtime.default_opset)
    precision = "bf16" if uses_bf16(recipe.distill.precision) else "fp32"
    settings = recipe.distill.model_copy(update={"precision": precision})
    teachers = teachers_of(run, recipe, problems.teacher)
    samples = on.open()
    if any(loss.layers == "auto" for loss in settings.losses):
        networks = (new_model(network, samples, 0), teachers[0].load_teacher(samples))
        paired = pair_layers(settings.losses, *networks, examples_of(samples, 2))
        settings = settings.model_copy(update={"losses": paired})
    teaching = Teaching(settings, (record(run, teachers, on, settings, TaskTeaching(on)),))
    student = Trained(network, run(distill, teaching, network, None))
    fp32 = run(export_fp32, student, on, form)
    subject = Subject(student, on, device.int8, recipe.quantize.calibration_samples)
    batches = list(calibration_batches(subject, samples))
    np.save(folder / "samples.npy", torch.cat([image for (image,) in batches]).numpy())

    files: dict[str, tuple[Path, float | None]] = {"fp32": (fp32 / "model.onnx", None)}
    model = student.load(samples)
    for label, steps in (("edgekd ptq", ()), ("edgekd ptq, refined", REFINEMENTS)):
        out = folder / f"{label}.onnx"
        files[label] = out, ours(model, subject, batches, steps, device.runtime.default_opset, out)
    trained = quantize_student(run, subject, Quantize(mode="qat", epochs=2), None, teaching, samples.task.metric)
    int8 = run(export_int8, subject, trained.taken.plan, trained.taken.quantized, form)
    files["edgekd qat"] = int8 / "model.onnx", trained.taken.quantized.seconds
    for tool in PACKAGES:
        if tool not in without:
            label, seconds = peer(tool, tools, fp32 / "model.onnx", folder)
            files[label] = folder / f"{tool}.onnx", seconds
    compare(network.model, files, problem.open_test())


def ours(
    model: torch.nn.Module,
    subject: Subject,
    batches: Sequence[tuple[torch.Tensor, ...]],
    steps: Sequence[str],
    opset: int,
    out: Path,
) -> float:
    """Seconds of what `quantize.mode = "ptq"` does, from the float model to the file."""
    started = time.perf_counter()
    example = tuple(argument[:2] for argument in batches[0])
    prepared = prepare(model, subject.scheme, example)
    if "bias_correction" in steps:
        give_biases(prepared)
    if "cle" in steps:
        equalize(prepared)
    calibrate(prepared, batches)
    refine(prepared, batches, steps)
    to_onnx(convert(prepared), out, example, opset=opset)
    return time.perf_counter() - started


def peer(tool: str, tools: Path, fp32: Path, folder: Path) -> tuple[str, float]:
    """The tool's name with its version, and its seconds."""
    python = environment(tool, tools)
    command = [str(python), str(PEERS), tool, str(fp32), str(folder / "samples.npy"), str(folder / f"{tool}.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{tool} {found['version']}", float(found["seconds"])


def environment(tool: str, tools: Path) -> Path:
    """The Python of the tool's environment, made where it is absent."""
    folder = tools / tool.split("-")[0]
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # The same torch first: a tool that wants one would else choose a build for GPUs.
        wanted = [f"torch=={torch.__version__.split('+')[0]}"] if tool == "modelopt" else []
        pip = [str(python), "-m", "pip", "install", "-q"]
        for packages in filter(None, (wanted, PACKAGES[tool])):
            subprocess.run([*pip, *packages], check=True)
    return python


def compare(name: str, files: dict[str, tuple[Path, float | None]], test: Unseen) -> None:
    """Score of each file, then all of them timed in turns."""
    images, metric = batched(test), test.task.metric
    runners = {label: OnnxRunner(path) for label, (path, _) in files.items()}
    logits = {
        label: np.concatenate([runner.run({INPUT: batch}) for batch in images()]) for label, runner in runners.items()
    }
    one = {INPUT: next(iter(images()))[:1]}
    series = interleave({label: runner.timed(one) for label, runner in runners.items()})
    fp32, exact = series["fp32"].p50_ms, logits["fp32"]
    print(f"\n{name}, {len(test)} test images\n")
    print(
        f"| | seconds | {metric.name}, {metric.unit} | classes as fp32, % | error of logits, % | p50, ms | of fp32's | blocks within 5 % | kB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for label, (path, seconds) in files.items():
        timed = series[label]
        took = f"{seconds:.1f}" if seconds is not None else "-"
        stable = "yes" if timed.stable else "no"
        same = 100 * (logits[label].argmax(1) == exact.argmax(1)).mean()
        error = 100 * np.sqrt(np.square(logits[label] - exact).mean()) / exact.std()
        ratio, size = timed.p50_ms / fp32, path.stat().st_size / 1e3
        print(
            f"| {label} | {took} | {value_of(test.task, test.task.stored(logits[label]), test.labels):.2f} | {same:.2f} | {error:.2f} "
            f"| {timed.p50_ms:.3f} | {ratio:.2f} | {stable} | {size:.0f} |"
        )


def batched(test: Unseen) -> Callable[[], Any]:
    """The test split as the graph takes it, in batches."""
    from edgekd.data.batches import arguments_of

    ids = np.arange(len(test))
    return lambda: (
        arguments_of(test.input, test.get(part), torch.device("cpu"))[0].contiguous().numpy()
        for part in np.array_split(ids, max(1, len(ids) // 250))
    )


if __name__ == "__main__":
    typer.run(main)
