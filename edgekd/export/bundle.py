"""write_bundle, add_to_report, verify_bundle: the folder that goes to the device, and the proof that it arrived unchanged."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekd.errors import BundleError
from edgekd.measure.runners import OnnxRunner
from edgekd.report import html
from edgekd.report.model import Accuracy, Latency, OnDevice, Report
from edgekd.target import Target

Row = tuple[str, bool, str]

FORMAT = 1
MANIFEST = "manifest.json"
SHIPPED = "model.onnx"
FILES = Path(__file__).parent / "bundle_files"
RUNNER = Path(__file__).parents[1] / "measure" / "device_runner.py"
OWNED = frozenset(
    {
        "format",
        "files",
        "figures",
        "target",
        "runtime",
        "precision",
        "input",
        "golden",
        "versions",
        "lineage",
        "trtexec",
    }
)
WEAK_FLAGS = {"fp16": " --fp16", "int8": " --fp16 --int8"}
# made on the device by build_engine.py and Python, so no part of what was shipped
MADE_THERE = frozenset({"model.plan", "timing.cache", "__pycache__", "figures.json"})


def write_bundle(
    folder: Path,
    *,
    report: Report,
    models: Mapping[str, Path],
    labels: Sequence[str],
    golden: Mapping[str, NDArray[Any]],
    manifest: Mapping[str, Any],
    target: Target,
) -> None:
    """Write a complete bundle to `folder`, replacing the bundle that stood there in one step.

    models     file name in the bundle -> ONNX file; `model.onnx` is the one that ships
    labels     class names in the order of the model's outputs
    golden     `inputs` [n, ...] as the graph takes them, `outputs` [n, classes] that onnxruntime gave, and
               `tolerance`, the largest absolute difference that another machine may show
    manifest   what else belongs in manifest.json: `recipe`; `output`, "logits" (taken where absent) or
               "probabilities"; for a graph that does not normalise, `preprocess` with `mean` and `std` per channel

    The same arguments give the same bytes. Raises BundleError for what cannot be a bundle, and for a `folder` that
    holds something else than one.
    """
    check_replaceable(folder)
    graph_input = check_content(models, labels, golden, manifest)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.draft-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        write_files(draft, report, models, labels, golden)
        _, reproduced, detail = check_outputs(draft, float(golden["tolerance"]))
        if not reproduced:
            raise BundleError(f"{models[SHIPPED]} does not give the golden outputs: {detail}")
        extra: dict[str, Any] = {}
        if target.runtime.name == "tensorrt":
            shutil.copyfile(FILES / "build_engine.py", draft / "build_engine.py")
            extra["trtexec"] = trtexec_lines(graph_input, report.chosen.name)
        (draft / "README.txt").write_text(readme(report, target, extra.get("trtexec", {})), encoding="utf-8")
        content = {
            **{"output": "logits", **manifest},
            **extra,
            "format": FORMAT,
            "target": target.model_dump(mode="json", exclude_none=True),
            "runtime": target.runtime.name,
            "precision": report.chosen.name,
            "input": graph_input,
            "golden": {"n": len(golden["inputs"]), "tolerance": float(golden["tolerance"])},
            "versions": dict(report.versions),
            "lineage": [{"name": stage.get("name"), "key": stage.get("key")} for stage in report.stages],
            "figures": figures(report),
            "files": {path.name: sha256(path) for path in sorted(draft.iterdir())},
        }
        write_json(draft / MANIFEST, content)
        put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def add_to_report(folder: Path, change: Callable[[Report, Mapping[str, Any]], Report]) -> Report:
    """Change a bundle's report: the files and the manifest that speak of it change with it, in one step.

    `change` is given the report and the manifest. Two that do so at once wait for each other. Raises BundleError for a
    bundle that was changed by something else.
    """
    with _alone(folder.parent):
        manifest = read_manifest(folder)
        refuse_links(folder)
        wrong = [name for name, expected in manifest["files"].items() if not check_file(folder, name, expected)[1]]
        if wrong:
            raise BundleError(f"{folder} is not as it was written: {', '.join(wrong)} changed; build it again")
        try:
            report = change(Report.model_validate_json((folder / "report.json").read_bytes()), manifest)
        except ValueError as error:
            raise BundleError(f"{folder / 'report.json'} is no report of this edgekd: {error}; build again") from error
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.draft-", dir=folder.parent))
        try:
            draft.chmod(0o755)
            shutil.copytree(folder, draft, dirs_exist_ok=True)
            write_report(draft, report)
            listed = {name: sha256(draft / name) for name in sorted(manifest["files"])}
            write_json(draft / MANIFEST, {**manifest, "figures": figures(report), "files": listed})
            put_in_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return report


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Others that ask for the same folder wait; nothing is left behind in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def check_replaceable(folder: Path) -> None:
    """A wrong `--output` must not cost the user a folder of other files."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BundleError(f"{folder} exists and is no folder; give another place for the bundle")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} holds files but no {MANIFEST}, so no bundle; give another place or empty it")


def check_content(
    models: Mapping[str, Path], labels: Sequence[str], golden: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Refuse what run.py could not use; returns the description of the graph's input."""
    if SHIPPED not in models:
        raise BundleError(f"no {SHIPPED} among the models {sorted(models)}; it is the file that ships")
    for name in models:
        if PurePosixPath(name).name != name or not name.endswith(".onnx"):
            raise BundleError(f"model name {name!r}; a plain file name that ends in .onnx is needed")
    broken = [label for label in labels if "\n" in label or "\r" in label]
    if broken:
        raise BundleError(f"labels with a line break cannot stand in labels.txt: {broken}")
    missing = {"inputs", "outputs", "tolerance"} - set(golden)
    if missing:
        raise BundleError(f"the golden arrays lack {sorted(missing)}; have: {sorted(golden)}")
    if len(golden["inputs"]) != len(golden["outputs"]) or len(golden["inputs"]) == 0:
        raise BundleError(
            f"{len(golden['inputs'])} golden inputs and {len(golden['outputs'])} outputs; as many of both, and one at "
            "least, are needed"
        )
    if len(labels) != golden["outputs"].shape[-1]:
        raise BundleError(f"{len(labels)} labels for outputs of shape {golden['outputs'].shape}; one a class is needed")
    if OWNED & set(manifest):
        raise BundleError(f"the manifest's keys {sorted(OWNED & set(manifest))} are filled in here; leave them out")
    if manifest.get("output", "logits") not in ("logits", "probabilities"):
        raise BundleError(f"output is {manifest['output']!r}; possible: logits, probabilities")
    graph_input = describe_input(models[SHIPPED])
    if (
        graph_input["layout"]
        and graph_input["dtype"] != "uint8"
        and not {"mean", "std"} <= set(manifest.get("preprocess", {}))
    ):
        raise BundleError(
            f"the graph takes {graph_input['dtype']} images and does not normalise them; give the manifest "
            "`preprocess` with `mean` and `std`, or export with preprocessing"
        )
    return graph_input


def describe_input(model: Path) -> dict[str, Any]:
    """Name, dtype, shape (a free dimension is its name or null) and layout: NHWC, NCHW, or "" for no image."""
    graph = onnx.load(str(model), load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise BundleError(
            f"{model} has inputs {[value.name for value in inputs]}; a bundle holds models with exactly one"
        )
    tensor = inputs[0].type.tensor_type
    dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    return {"name": inputs[0].name, "dtype": dtype, "shape": shape, "layout": layout(dtype, shape)}


def layout(dtype: str, shape: Sequence[object]) -> str:
    if len(shape) != 4:
        return ""
    return "NHWC" if dtype == "uint8" and shape[3] in (1, 3) else "NCHW" if shape[1] in (1, 3) else ""


def write_files(
    draft: Path,
    report: Report,
    models: Mapping[str, Path],
    labels: Sequence[str],
    golden: Mapping[str, NDArray[Any]],
) -> None:
    for name, path in models.items():
        shutil.copyfile(path, draft / name)
    (draft / "labels.txt").write_bytes("".join(label + "\n" for label in labels).encode())
    np.savez(draft / "golden.npz", inputs=golden["inputs"], outputs=golden["outputs"])
    write_report(draft, report)
    shutil.copyfile(FILES / "run.py", draft / "run.py")
    shutil.copyfile(RUNNER, draft / RUNNER.name)


def write_report(draft: Path, report: Report) -> None:
    (draft / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (draft / "report.html").write_text(html.render(report), encoding="utf-8")


def figures(report: Report) -> list[dict[str, Any]]:
    """Every figure of the report with where it comes from; what was not measured is listed as such."""
    rows = [
        *accuracy_figures("teacher", report.teacher),
        *latency_figures("teacher", report.teacher_latency),
    ]
    for candidate in report.candidates:
        rows += accuracy_figures(candidate.name, candidate.accuracy)
        rows += latency_figures(candidate.name, candidate.latency)
        rows.append({"model": candidate.name, "figure": "size_mb", "value": candidate.size_mb, "origin": "host"})
        memory = candidate.peak_memory_mb
        origin = "not measured" if memory is None else "host"
        rows.append({"model": candidate.name, "figure": "peak_memory_mb", "value": memory, "origin": origin})
    for device in report.devices:
        rows += device_figures(report.chosen.name, device)
    return rows


def device_figures(model: str, device: OnDevice) -> list[dict[str, Any]]:
    """What a device said of the model that ships, each with the device's name, power mode and clocks."""
    conditions = {"device": device.device, "power_mode": device.power_mode, "clocks_mhz": device.before.clocks_mhz}
    rows = [*(accuracy_figures(model, device.accuracy) if device.accuracy else ())]
    for latency in device.latencies:
        rows += [{**row, "transfers": latency.transfers} for row in latency_figures(model, latency)]
    # what the samples agree on is no figure where clocks, power mode or throttling moved
    rows = [{**row, "stable": not device.unstable} if "stable" in row else row for row in rows]
    single = {"load_ms": device.load_ms, "first_ms": device.first_ms, "peak_memory_mb": device.peak_memory_mb}
    rows += [
        {"model": model, "figure": name, "value": value, "origin": device.origin}
        for name, value in single.items()
        if value is not None
    ]
    return [{**row, **conditions} for row in rows]


def accuracy_figures(model: str, accuracy: Accuracy) -> list[dict[str, Any]]:
    conditions = {"n": accuracy.n, "split": accuracy.split, "runtime": accuracy.runtime, "origin": accuracy.origin}
    interval = [accuracy.low, accuracy.high]
    return [{"model": model, "figure": "top1_percent", "value": accuracy.top1, "interval": interval, **conditions}]


def latency_figures(model: str, latency: Latency | None) -> list[dict[str, Any]]:
    if latency is None:
        return [{"model": model, "figure": "p50_ms", "value": None, "origin": "not measured"}]
    conditions = latency.model_dump(
        mode="json", include={"n", "stable", "batch_size", "threads", "machine", "runtime", "origin"}
    )
    figure = {"figure": "p50_ms", "value": latency.p50_ms, "interval": [latency.low_ms, latency.high_ms]}
    rows = [{"model": model, **figure, **conditions}]
    rows.append({"model": model, "figure": "p90_ms", "value": latency.p90_ms, **conditions})
    if latency.p99_ms is not None:
        rows.append({"model": model, "figure": "p99_ms", "value": latency.p99_ms, **conditions})
    return rows


def trtexec_lines(graph_input: Mapping[str, Any], precision: str) -> dict[str, str]:
    """TensorRT release -> the command that builds and times the same engine with NVIDIA's own tool, batch 1.

    Release 11 has only strong typing, and times without transfers, with spinning and with a CUDA graph by default:
    the older ones are told so, or their figures would not compare.
    """
    base = f"trtexec --onnx={SHIPPED} --saveEngine=model.plan --timingCacheFile=timing.cache"
    base += " --memPoolSize=workspace:1024 --profilingVerbosity=detailed --warmUp=1000 --duration=10"
    shape = graph_input["shape"]
    if shape and not isinstance(shape[0], int):
        one = "x".join(["1", *(str(size) for size in shape[1:])])
        base += "".join(f" --{bound}Shapes={graph_input['name']}:{one}" for bound in ("min", "opt", "max"))
    timing = " --noDataTransfers --useSpinWait --useCudaGraph"
    return {"8": base + WEAK_FLAGS.get(precision, "") + timing, "10": base + " --stronglyTyped" + timing, "11": base}


def readme(report: Report, target: Target, trtexec: Mapping[str, str]) -> str:
    """What the folder is and the commands that it is used with."""
    chosen = report.chosen
    speed = "not measured"
    if chosen.latency is not None:
        speed = f"{chosen.latency.p50_ms:.3g} ms median ({chosen.latency.origin}: {chosen.latency.machine})"
    lines = [
        f"{report.recipe} for {target.title}",
        "",
        f"model.onnx: {chosen.name}, {chosen.size_mb:.2f} MB",
        f"top-1:      {chosen.accuracy.top1:.2f} % ({chosen.accuracy.origin}, {chosen.accuracy.runtime})",
        f"latency:    {speed}",
        "",
        "python3 run.py cat.png      the likeliest classes",
        "python3 run.py --verify     are all files unchanged, and does this machine compute the same?",
        "python3 run.py --bench      how fast is this machine?",
        "python3 device_runner.py    the same as `edgekd measure` does it, with its conditions: writes figures.json",
        "report.html                 all figures, and where each comes from",
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
            "Before 10.12, where strong typing refuses the graph, give the flags of release 8, not --stronglyTyped;",
            "build_engine.py does so by itself and then checks every layer's type, which trtexec does not.",
        ]
    return "\n".join(lines) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path.name} cannot be written as JSON: {error}") from error
    path.write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_in_place(draft: Path, folder: Path) -> None:
    """Swap the draft with the bundle that stands there; afterwards `draft` is the old one, to be removed."""
    for path in draft.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if not folder.exists():
        draft.rename(folder)
    elif not exchange(draft, folder):
        # no such call on this system: for an instant there is no bundle, but never half of one
        old = draft.with_name(draft.name + ".old")
        folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old)


def exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step (Linux, renameat2); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, rename_exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0)


def verify_bundle(folder: Path) -> list[Row]:
    """(what, ok, detail) of every file and of the stored outputs, which are computed again in onnxruntime.

    A missing, changed or unlisted file is a row that is not ok, and no model is run then. Raises BundleError for what
    is no bundle at all: no manifest, a link, a path that leaves the folder.
    """
    manifest = read_manifest(folder)
    listed: dict[str, str] = manifest["files"]
    refuse_links(folder)
    rows = [check_file(folder, name, expected) for name, expected in sorted(listed.items())]
    unlisted = sorted(p.name for p in folder.iterdir() if p.name not in {*listed, *MADE_THERE, MANIFEST})
    rows += [(name, False, "not listed in the manifest") for name in unlisted]
    if not all(ok for _, ok, _ in rows):
        return [*rows, ("stored outputs", False, "not run: the files differ from the manifest")]
    return [*rows, check_outputs(folder, float(manifest["golden"]["tolerance"]))]


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no file {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known, listed, tolerance = manifest["format"], manifest["files"], manifest["golden"]["tolerance"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read as a manifest: {error!r}") from error
    if known != FORMAT:
        raise BundleError(f"{path} has format {known!r}; this edgekd reads {FORMAT}")
    if not isinstance(listed, dict) or not isinstance(tolerance, (int, float)):
        raise BundleError(f"{path} cannot be read as a manifest: `files` or `golden.tolerance` is of another kind")
    required = {SHIPPED, "labels.txt", "golden.npz", "run.py"} - set(listed)
    if required:
        raise BundleError(f"{path} does not list {sorted(required)}, which every bundle has")
    for name in listed:
        if PurePosixPath(name).name != name or "\\" in name:
            raise BundleError(f"{path} lists {name!r}, which leaves the bundle; it was not written by edgekd")
    return dict(manifest)


def refuse_links(folder: Path) -> None:
    links = sorted(path.name for path in folder.iterdir() if path.is_symlink())
    if links:
        raise BundleError(f"{folder} has links: {', '.join(links)}; a bundle holds plain files only")


def check_file(folder: Path, name: str, expected: str) -> Row:
    path = folder / name
    if not path.is_file():
        return name, False, "missing"
    return (name, True, "unchanged") if sha256(path) == expected else (name, False, "changed")


def check_outputs(folder: Path, tolerance: float) -> Row:
    """The shipped model on the stored inputs, one at a time: a graph may be fixed to batch 1."""
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        inputs, expected = golden["inputs"], golden["outputs"]
    runner = OnnxRunner(folder / SHIPPED)
    found = np.concatenate([runner.run(inputs[i : i + 1]) for i in range(len(inputs))])
    if found.shape != expected.shape:
        return "stored outputs", False, f"shape {found.shape}, expected {expected.shape}"
    difference = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64))))
    detail = f"max difference {difference:.3g} (tolerance {tolerance:.3g}) over {len(inputs)} inputs in {runner.name}"
    return "stored outputs", difference <= tolerance, detail
