"""PARSERS: what edgekd reads from others, each as a function of a seed that makes a damaged input and reads it.

A reader may raise what edgekd raises on purpose, with a text of one line (a table of mistakes has several). Anything else is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.fuzz_mutations import as_json, as_toml, mutated, mutated_bytes, values
from edgekd.api import DEMO
from edgekd.base.contents import hash_file
from edgekd.base.listings import files_in_list
from edgekd.bundle.golden import Golden
from edgekd.bundle.read import read_manifest, read_report
from edgekd.bundle.write import verify_bundle
from edgekd.data.sources import open_source
from edgekd.data.tables import open_table
from edgekd.distill.methods import METHODS
from edgekd.export import lint as linter
from edgekd.inputs.picture import decode_image
from edgekd.measure.binary import Printed
from edgekd.measure.devices import named
from edgekd.measure.devices.local import Local
from edgekd.measure.devices.process import Result
from edgekd.measure.estimate.calibration import load_calibration
from edgekd.measure.estimate.kernels import read_kernels
from edgekd.measure.on_device import Options, figures_of, measure_on, target_of, trial_of
from edgekd.measure.remote import probe
from edgekd.measure.samples import recipe_of
from edgekd.models import ExportedModel, OnnxModel, number_of_classes
from edgekd.models.exported import load_exported
from edgekd.recipe import ClassifyTask, TableSource, load_recipe, overrides
from edgekd.runtime.check import read_onnx
from edgekd.scripts import build_engine, run
from edgekd.scripts.device_runner import commands, measuring, shipping, start
from edgekd.scripts.device_runner.facts import find_facts
from edgekd.start.write import write_recipe
from edgekd.target import load_target

Case = Callable[[random.Random, Path], None]
ROOT = Path(__file__).resolve().parent.parent


def reads(*readers: Callable[[], object]) -> None:
    """Each of them reads the same input; what one raises on purpose keeps no other from it."""
    from edgekd.errors import EdgekdError

    for reader in readers:
        try:
            reader()
        except (EdgekdError, run.Failure, start.Failure, build_engine.Failure) as error:
            text = str(error)
            listed = "mistake" in text.split("\n")[0] or "It printed:" in text  # a table, or what a program said
            if ("\n" in text and not listed) or not text or len(text) > 50_000:
                raise AssertionError(f"no line but {text[:2000]!r}") from error


# --------------------------------------------------------------------------------------------------------- TOML, names


@cache
def recipes() -> Sequence[dict[str, Any]]:
    return [tomllib.loads(file.read_text()) for file in (DEMO, *sorted((ROOT / "examples").rglob("*.toml")))]


@cache
def targets() -> Sequence[dict[str, Any]]:
    return [tomllib.loads(file.read_text()) for file in sorted((ROOT / "targets").glob("*.toml"))]


def recipe(rng: random.Random, folder: Path) -> None:
    file = folder / "r.toml"
    file.write_bytes(as_toml(rng, mutated(rng, rng.choice(recipes()))))
    key = rng.choice(("distill.epochs", "name", "data.train", "distill.losses.0.weight", "x", "", "a.b", "data"))
    given = [f"{key}={rng.choice(values())}"] if rng.random() < 0.2 else []
    methods = METHODS if rng.random() < 0.5 else None
    reads(lambda: load_recipe(file, given, methods).located())


def override(rng: random.Random, _: Path) -> None:
    word = mutated_bytes(
        rng, rng.choice((b"distill.epochs=5", b'data.train="x"', b"distill.losses=[{method='kd'}]", b"a.'b.c'.d=1"))
    )
    reads(lambda: overrides.apply([word.decode("utf-8", "replace")], json.loads(json.dumps(recipes()[0]))))


def target(rng: random.Random, folder: Path) -> None:
    file = folder / "t.toml"
    file.write_bytes(as_toml(rng, mutated(rng, rng.choice(targets()))))
    reads(lambda: load_target(str(file)))


def devices(rng: random.Random, folder: Path) -> None:
    """The file of named devices, and a calibration."""
    (folder / "edgekd" / "calibrations").mkdir(parents=True, exist_ok=True)
    document = {"pi": {"ssh": "pi@host", "python": "python3"}, "here": {"local": "yes"}, "phone": {"adb": "123"}}
    (folder / "edgekd" / "devices.toml").write_bytes(as_toml(rng, mutated(rng, document)))
    rates = {"start_ms": {"fp32": 0.1}, "ms_per_gop": {"conv fp32": 1.0}, "ms_per_gb": {"conv fp32": 1.0}, "lanes": 8}
    calibration = {
        "device": "pi",
        "machine": "x",
        "runtime": "y",
        "created": "2026-01-01",
        "rates": rates,
        "held_out": [],
    }
    (folder / "edgekd" / "calibrations" / "pi.json").write_bytes(as_json(rng, mutated(rng, calibration)))
    with patch.dict("os.environ", {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}):
        reads(named.list_devices, lambda: load_calibration("pi"))


# -------------------------------------------------------------------------------------------------------------- bundles


@cache
def bundle(several: bool = False) -> Path:
    """A sound one, made once a process; `several`: of a model with two inputs and a bound free size."""
    from tests.builders.bundles import WORDS, write

    folder = Path(tempfile.mkdtemp(prefix="edgekd-fuzz-"))
    made = write(folder, WORDS, at_most={"length": 8}) if several else write(folder)
    shutil.copyfile(build_engine.__file__, made / "build_engine.py")
    content = json.loads((made / "manifest.json").read_text())
    content["files"]["build_engine.py"] = hash_file(made / "build_engine.py")
    content["recipe"] = json.loads(load_recipe(DEMO).model_dump_json())
    (made / "manifest.json").write_text(json.dumps(content))
    return made


def on_device(folder: Path) -> None:
    """What run.py and device_runner.py do with a bundle there, in this process."""

    def verify() -> None:
        with (
            patch.object(run, "HERE", str(folder)),
            patch.object(sys, "argv", ["run.py", "--verify"]),
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            code = run.main()
        if code not in (0, 2, 3) or "Traceback" in out.getvalue() + err.getvalue() or err.getvalue().count("\n") > 1:
            raise AssertionError(f"run.py: {code} {err.getvalue()[:1000]!r}")

    def trtexec() -> None:
        options = build_engine.Options(model=str(folder / "model.onnx"), output=str(folder / "model.plan"))
        with patch.object(build_engine, "HERE", str(folder)), contextlib.redirect_stdout(io.StringIO()):
            build_engine.print_trtexec(options)

    reads(verify, trtexec, lambda: shipping.prove(str(folder), str(bundle()), "onnxruntime"))
    for made in folder.glob("reference_*.bin"):
        made.unlink()


def manifest(rng: random.Random, folder: Path, several: bool = False) -> None:
    made = folder / "bundle"
    shutil.copytree(bundle(several), made, symlinks=True)
    document = json.loads((made / "manifest.json").read_text())
    key = rng.choice([*document, ""])
    changed = {**document, key: mutated(rng, [document[key]])} if key else mutated(rng, document)
    if key and isinstance(changed[key], list) and len(changed[key]) == 1:
        changed[key] = changed[key][0]
    (made / "manifest.json").write_bytes(as_json(rng, changed))
    reads(
        lambda: read_manifest(made),
        lambda: trial_of(made),
        lambda: target_of(made),
        lambda: recipe_of(made),
        lambda: verify_bundle(made),
    )
    on_device(made)


def golden(rng: random.Random, folder: Path, several: bool = False) -> None:
    made = folder / "bundle"
    shutil.copytree(bundle(several), made, symlinks=True)
    content = (made / "golden.npz").read_bytes()
    if rng.random() < 0.5:
        arrays = dict(np.load(made / "golden.npz"))
        arrays[rng.choice(("inputs", "inputs.mask", "outputs", "outputs.x", "x"))] = _array(rng)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        content = buffer.getvalue()
    (made / "golden.npz").write_bytes(mutated_bytes(rng, content) if rng.random() < 0.7 else content)
    document = json.loads((made / "manifest.json").read_text())
    document["files"]["golden.npz"] = hash_file(made / "golden.npz")
    if rng.random() < 0.3:
        document["golden"] = mutated(rng, document["golden"])
    (made / "manifest.json").write_text(json.dumps(document))
    reads(lambda: Golden.read(made, read_manifest(made)), lambda: verify_bundle(made))
    on_device(made)


def inputs(rng: random.Random, folder: Path) -> None:
    rng.choice((manifest, golden))(rng, folder, several=True)


def _array(rng: random.Random) -> Any:
    shape = tuple(rng.choice((0, 1, 2, 3, 4, 16)) for _ in range(rng.randrange(5)))
    kind = rng.choice(("f4", "f8", "u1", "i8", "f2", "c8", "U3", "?", "M8[s]"))
    return np.zeros(shape, kind)


def report(rng: random.Random, folder: Path) -> None:
    document = json.loads((bundle() / "report.json").read_text())
    (folder / "report.json").write_bytes(as_json(rng, mutated(rng, document)))
    reads(lambda: read_report(folder))


# -------------------------------------------------------------------------------------------------------------- devices


class FakeDevice(Local):
    """Stands for a device that answers what it likes; the mark of the question comes back, as a real one's would."""

    def __init__(self, folder: Path, answer: bytes) -> None:
        super().__init__("liar", str(folder))
        self.answer = answer

    def run(self, words: Sequence[str], **_: Any) -> Result:
        return Result(0, json.loads(words[-1])["mark"].encode() + self.answer, "")


@cache
def answers() -> tuple[dict[str, Any], dict[str, Any]]:
    """(facts, what a measurement says) of this machine."""
    options = {**vars(commands.parse([])), "warmup_s": 0.01, "block_s": 0.01, "energy_s": 0.01, "min_n": 30}
    folder = str(bundle())
    with contextlib.redirect_stderr(io.StringIO()):
        (found,) = measuring.measure_bundles({"": folder}, folder, folder, options).values()
    found["model_sha256"] = hash_file(bundle() / "model.onnx")
    return find_facts("/"), json.loads(json.dumps(found))


def answer(rng: random.Random, folder: Path) -> None:
    facts, found = answers()
    device = FakeDevice(
        folder,
        as_json(rng, {"value": mutated(rng, facts)})
        if rng.random() < 0.9
        else as_json(rng, mutated(rng, {"failure": "x"})),
    )
    figures = folder / "figures.json"
    figures.write_bytes(as_json(rng, mutated(rng, found)))
    said = as_json(
        rng,
        {"value": {"bundle": mutated(rng, found)}}
        if rng.random() < 0.8
        else mutated(rng, {"value": {"bundle": found}}),
    )
    reads(
        lambda: probe(device).title,
        lambda: figures_of(figures, trial_of(bundle()), "far").model_dump_json(),
        lambda: measure_on(_Measured(folder, facts, said), trial_of(bundle()), Options()).model_dump_json(),
        lambda: _printed(as_json(rng, mutated(rng, {"runtime": "x 1", "blocks_ms": [[1.0], [2.0]], "threads": 1}))),
    )


class _Measured(FakeDevice):
    """Tells the truth of itself, and lies about what it measured."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], answer: bytes) -> None:
        super().__init__(folder, answer)
        self.facts = facts

    def run(self, words: Sequence[str], **_: Any) -> Result:
        asked = json.loads(words[-1])
        reply = (
            json.dumps({"value": {**self.facts, "missing": [], "free_mb": 1e6}}).encode()
            if asked["verb"] == "probe"
            else self.answer
        )
        return Result(0, asked["mark"].encode() + reply, "")


def _printed(text: bytes) -> None:
    from edgekd.measure.answer import understand
    from edgekd.measure.binary import _last_json

    understand(Printed, _last_json(Local("far", "/tmp"), text), "far")


# ----------------------------------------------------------------------------------------------------------------- data


@cache
def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, "png")
    return buffer.getvalue()


def parquet(rng: random.Random, folder: Path) -> None:
    """Two columns of any types, with any metadata, at times with damaged bytes."""
    file = folder / "a.parquet"
    features = {"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    about = as_json(
        rng, mutated(rng, {"info": {"features": features}}) if rng.random() < 0.5 else {"info": {"features": features}}
    )
    labels: Any = [0, 1, 2, 0]
    images: Any = [{"bytes": png(), "path": None}] * 4
    if rng.random() < 0.5:
        labels = [rng.choice((0, 1, 2, -1, 3, 255, 2**31, 2**62, None)) for _ in range(4)]
    elif rng.random() < 0.5:
        labels = [rng.choice(values()) for _ in range(4)]
    if rng.random() < 0.3:
        images = mutated(rng, [{"bytes": "text", "path": None}] * 4)
    try:
        table = pa.table(
            {
                rng.choice(("image", "img", "label")): pa.array(images),
                rng.choice(("label", "labels", "x")): pa.array(labels),
            }
        )
        pq.write_table(
            table.replace_schema_metadata({"huggingface": about}),
            file,
            compression=rng.choice(("none", "snappy", "zstd")),
        )
        content = file.read_bytes()
    except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):  # Arrow writes no such table
        content = _plain_parquet()
    if rng.random() < 0.6:
        file.write_bytes(mutated_bytes(rng, content))
    else:
        file.write_bytes(content)
    reads(lambda: _all(str(file)))


@cache
def _plain_parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": png(), "path": "a"}] * 4), "label": pa.array([0, 1, 0, 1])}), buffer
    )
    return buffer.getvalue()


@cache
def _plain_layouts() -> Mapping[str, bytes]:
    """A small data set in each layout of one file, by the file's name. The pictures of lists lie beside as a.png."""
    arrays, shard = io.BytesIO(), io.BytesIO()
    np.savez_compressed(arrays, x=np.zeros((4, 4, 4), np.uint8), y=np.array([0, 1, 0, 1]), classes=np.array(["a", "b"]))
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for name, content in (("0.png", png()), ("0.cls", b"a"), ("1.json", b'{"label": "b"}'), ("1.png", png())):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    rows = [{"path": "a.png", "label": label, "width": n} for n, label in enumerate("abab")]
    return {
        "train.npz": arrays.getvalue(),
        "train.tar": shard.getvalue(),
        "train.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "train.csv": b"path,label,width\n"
        + b"".join(f"a.png,{row['label']},{row['width']}\n".encode() for row in rows),
    }


def layout(rng: random.Random, folder: Path) -> None:
    """A damaged file of samples: as pictures, as a table, and as `edgekd init` looks at it."""
    (folder / "a.png").write_bytes(png())
    name, content = rng.choice(list(_plain_layouts().items()))
    file = folder / name
    file.write_bytes(mutated_bytes(rng, content, tuple(_plain_layouts().values())))
    rows = TableSource(input="table", files=str(file), label="label")
    reads(
        lambda: _all(str(file)), lambda: open_source(str(file), "train", label="label", classes=("a", "b")),
        lambda: open_table(rows, "train", ClassifyTask()), lambda: files_in_list(file), lambda: write_recipe(folder),
    )  # fmt: skip


def _all(reference: str) -> None:
    source = open_source(reference, "train")
    for i in range(min(len(source), 10)):
        source.name(i)
        with contextlib.suppress(ValueError):  # told by its name where it is decoded
            decode_image(source.read(i), (8, 8))


# --------------------------------------------------------------------------------------------------------------- models


GRAPHS = (
    """<ir_version: 9, opset_import: ["" : 18]> g (float[N, 3, 8, 8] x) => (float[N, 10] y)
    <float[4, 3, 3, 3] w = {WEIGHTS}, float[4] b = {1, 2, 3, 4}, float[4, 10] f = {MATRIX}, float s = {0.1}, uint8 z = {0}> {
      q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) c = Conv <pads = [1, 1, 1, 1]> (d, w, b) r = Relu(c)
      p = GlobalAveragePool(r) l = Flatten(p) y = MatMul(l, f) }""",
    """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 4] x) => (float[1, 4] y)
    <int64[2] shape = {1, 4}, int64 n = {3}, bool t = {1}> {
      r = Reshape(x, shape) y = If(t) <then_branch = a () => (float[1, 4] u) { u = Sigmoid(r) },
      else_branch = b () => (float[1, 4] v) { v = Tanh(r) }> }""",
)
WEIGHTS = {"WEIGHTS": ", ".join(["0.5"] * 108), "MATRIX": ", ".join(["0.25"] * 40)}


@cache
def graphs() -> tuple[onnx.ModelProto, ...]:
    filled = (text.replace("WEIGHTS", WEIGHTS["WEIGHTS"]).replace("MATRIX", WEIGHTS["MATRIX"]) for text in GRAPHS)
    return tuple(map(onnx.parser.parse_model, filled))


def onnx_file(rng: random.Random, folder: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(rng.choice(graphs()))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        _change(rng, model)
    content = model.SerializeToString()
    if rng.random() < 0.5:
        content = mutated_bytes(rng, content, tuple(graph.SerializeToString() for graph in graphs()))
    file = folder / "m.onnx"
    file.write_bytes(content)
    device = load_target(rng.choice(("jetson", "raspberry-pi-5", "android-arm64")))
    reads(
        lambda: read_kernels(file), lambda: list(linter.lines(linter.lint(file, device))), lambda: read_onnx(file),
        lambda: number_of_classes(OnnxModel(file), (torch.zeros(2, 3, 8, 8),)),
    )  # fmt: skip


def _change(rng: random.Random, model: onnx.ModelProto) -> None:
    """One of the fields of a node, a tensor, an attribute or a shape."""
    graph = model.graph
    node, tensor = rng.choice(graph.node), rng.choice(graph.initializer) if graph.initializer else onnx.TensorProto()
    big = rng.choice((0, -1, 1, 2, 2**31, 2**40, 2**62, -(2**62)))
    match rng.randrange(12):
        case 0:
            node.op_type = rng.choice(
                ("Loop", "Scan", "Einsum", "Gather", "Cast", "Add", "", "X", "Softmax", "ConvTranspose", "Resize")
            )
        case 1:
            node.input[:] = rng.choices(["x", "w", "", "nothing", *node.input], k=rng.randrange(6))
        case 2:
            node.output[:] = rng.choices(["y", "x", "", *node.output], k=rng.randrange(3))
        case 3:
            node.attribute.append(
                onnx.helper.make_attribute(rng.choice(("axis", "pads", "group", "kernel_shape", "to")), [big, 1])
            )
        case 4:
            node.attribute.append(
                onnx.helper.make_attribute(rng.choice(("axis", "group", "to", "strides", "transB")), big)
            )
        case 5:
            tensor.dims[:] = [abs(big) if rng.random() < 0.5 else big, *tensor.dims][: rng.randrange(6)]
        case 6:
            tensor.data_type = rng.choice((0, 1, 7, 16, 17, 20, 99))
        case 7:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("../x", "/dev/zero", "m.onnx", "", "x\0", "w")))
            tensor.external_data.add(key=rng.choice(("offset", "length")), value=rng.choice(("0", "-1", "9" * 30, "x")))
        case 8:
            dim = graph.input[0].type.tensor_type.shape.dim.add()
            dim.dim_value = big
        case 9:
            model.opset_import[0].version = rng.choice((0, 1, 13, 99, 2**40))
        case 10:
            graph.node.add().CopyFrom(node)
        case _:
            del graph.node[rng.randrange(len(graph.node)) :]
            graph.node.add().CopyFrom(node)


@cache
def exported() -> Mapping[str, bytes]:
    """The records of a small program."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(72, 3)
    ).eval()
    free = ({0: torch.export.Dim("batch", min=1, max=64)},)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=free), buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pt2(rng: random.Random, folder: Path) -> None:
    records = dict(exported())
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice([*records, *[name for name in records if name.endswith("model.json")] * 10])
        if name.endswith(".json") and rng.random() < 0.8:
            records[name] = as_json(
                rng, mutated(rng, json.loads(records[name])) if rng.random() < 0.9 else rng.choice(values())
            )
        elif rng.random() < 0.8:
            records[name] = mutated_bytes(rng, records[name])
        else:
            del records[name]
        if not records or not all(_is_json(data) for name, data in records.items() if name.endswith(".json")):
            break
    file = folder / "m.pt2"
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    if rng.random() < 0.2:
        file.write_bytes(mutated_bytes(rng, file.read_bytes()))
    reads(lambda: number_of_classes(ExportedModel(load_exported(file, "exported:m.pt2")), (torch.zeros(2, 3, 8, 8),)))


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def stored(rng: random.Random, folder: Path) -> None:
    """The cache's own files: what is damaged is made again."""
    from edgekd.cache.listing import list_cache
    from edgekd.cache.stage import Cache

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with Cache(folder / "cache") as cache_:
            made = cache_(small_stage, 3).folder
        file = rng.choice((made / "artifact.json", folder / "cache" / "hashes.json"))
        document = json.loads(file.read_text()) if file.exists() else {"/x": [1, 2, "y"]}
        file.write_bytes(as_json(rng, mutated(rng, document)))

        def again() -> None:
            with Cache(folder / "cache") as opened:
                if (opened(small_stage, 3).folder / "n").read_text() != "3":
                    raise AssertionError("the stage gives something else")
                opened.describe(Path(__file__))

        reads(again, lambda: list_cache(folder / "cache"))


def small_stage(number: int, *, out: Path) -> None:
    (out / "n").write_text(str(number))


small_stage.stage_version, small_stage.stage_libraries = 1, ()  # type: ignore[attr-defined]
small_stage.stage_together = small_stage.stage_sharded = False  # type: ignore[attr-defined]

PARSERS: Mapping[str, Case] = {
    "recipe": recipe, "override": override, "target": target, "devices": devices, "manifest": manifest, "golden": golden,
    "inputs": inputs, "report": report, "answer": answer, "parquet": parquet, "layout": layout, "onnx": onnx_file, "pt2": pt2, "cache": stored,
}  # fmt: skip
