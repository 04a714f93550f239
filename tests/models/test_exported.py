"""A .pt2 teacher: it gives what torch's own loader gives, and nothing that stands in the file is run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.errors import ModelError
from edgekd.models import load_model
from edgekd.models.exported import load_exported
from edgekd.recipe import Model

BATCH = ({0: torch.export.Dim("batch", min=1, max=64)},)


class Everything(nn.Module):
    """Buffers, one that is not saved, a constant, a shared weight, no_grad, texts and infinities as arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head, self.again = nn.Linear(8, 10), nn.Linear(8, 10)
        self.again.weight = self.head.weight
        self.register_buffer("offset", torch.randn(10), persistent=False)
        self.scale = torch.arange(10.0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm(self.stem(x)), approximate="tanh").mean((2, 3))
        with torch.no_grad():
            z = self.again(y)
        logits = torch.einsum("bi,ji->bj", y, self.head.weight) * self.scale + self.offset
        lowest = torch.div(logits, 2, rounding_mode="floor").masked_fill(logits < 0, float("-inf")).clamp(min=-5)
        return logits.view(x.shape[0], -1) + z + lowest


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x.flatten(1),))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.flatten(2).transpose(1, 2)).mean(1))


class Nested(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"logits": x.flatten(1) * 2, "further": [x, (x + 1,)]}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


def save(model: nn.Module, example: Tensor, file: Path, *, free_batch: bool = True) -> Path:
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=BATCH if free_batch else None)
    torch.export.save(program, file)
    return file


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(small(), torch.zeros(2, 3, 8, 8), tmp_path_factory.mktemp("pt2") / "good.pt2")


def altered(good: Path, file: Path, change: Mapping[str, Callable[[bytes], bytes]], method: int = 0) -> Path:
    """A copy of an archive in which some records, by the end of their names, are others."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(file, "w", method) as target:
        for name in source.namelist():
            how = next((to for end, to in change.items() if name.endswith(end)), bytes)
            target.writestr(name, how(source.read(name)))
    return file


def program(edit: Callable[[dict[str, Any]], object]) -> dict[str, Callable[[bytes], bytes]]:
    """A change of the program's JSON."""

    def change(content: bytes) -> bytes:
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return {"models/model.json": change}


def node(document: dict[str, Any], n: int) -> dict[str, Any]:
    found: dict[str, Any] = document["graph_module"]["graph"]["nodes"][n]
    return found


@pytest.mark.parametrize("free_batch", [True, False])
@pytest.mark.parametrize(
    "model, example",
    [(Everything, (4, 3, 8, 8)), (Branches, (4, 2, 3, 3)), (Attention, (4, 4, 3, 3))],
    ids=["everything", "branches", "attention"],
)
def test_a_teacher_gives_what_torchs_own_loader_gives(
    model: type[nn.Module], example: tuple[int, ...], free_batch: bool, tmp_path: Path
) -> None:
    """Bit by bit, for the batch that it was exported with and, where that is free, for others."""
    torch.manual_seed(0)
    file = save(model(), torch.zeros(example), tmp_path / "teacher.pt2", free_batch=free_batch)
    mine, theirs = load_exported(file, "exported:teacher.pt2"), torch.export.load(file).module()
    for n in (4, 1, 7) if free_batch else (4,):
        images = torch.randn(n, *example[1:])
        assert torch.equal(mine(images), theirs(images))


def test_outputs_keep_their_nesting(tmp_path: Path) -> None:
    file = save(Nested(), torch.zeros(2, 3), tmp_path / "teacher.pt2")
    found = load_exported(file, "exported:teacher.pt2")(torch.ones(3, 3))
    assert torch.equal(found["logits"], torch.full((3, 3), 2.0)) and torch.equal(
        found["further"][1][0], torch.full((3, 3), 2.0)
    )


@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch's, of the empty one
def test_weights_of_a_type_are_read_as_they_are(tmp_path: Path) -> None:
    """bfloat16, integers, an empty tensor and a transposed view."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3).bfloat16())
    model.register_buffer("counts", torch.arange(6).view(2, 3).T)
    model.register_buffer("none", torch.zeros(0, 4))
    file = save(model, torch.zeros(2, 12, dtype=torch.bfloat16), tmp_path / "teacher.pt2")
    mine, theirs = load_exported(file, "given").state_dict(), torch.export.load(file).module().state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


@pytest.mark.parametrize("layout", ["one pickle of weights", "a pickle for each weight", "torch 2.7"])
def test_older_layouts_are_read_by_the_loader_of_tensors(layout: str, good: Path, tmp_path: Path) -> None:
    """2.8 wrote one pickle of all weights, subclasses are pickled one by one, 2.7 had other names."""
    model = small()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def pickled(value: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    file = tmp_path / "old.pt2"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(file, "w") as target:
        records = {name: source.read(name) for name in source.namelist()}
        config = json.loads(records["good/data/weights/model_weights_config.json"])["config"]
        kept = {name: data for name, data in records.items() if "/weights/" not in name and "/constants/" not in name}
        if layout == "one pickle of weights":
            kept |= {"good/data/weights/model.pt": pickled(state), "good/data/constants/model.pt": pickled({})}
        elif layout == "a pickle for each weight":
            for name, about in config.items():
                about["use_pickle"] = True
                kept["good/data/weights/" + about["path_name"]] = pickled(state[name])
            kept["good/data/weights/model_weights_config.json"] = json.dumps({"config": config}).encode()
            kept["good/data/constants/model_constants_config.json"] = b'{"config": {}}'
        else:
            kept = {
                "version": b"8.8", "serialized_exported_program.json": records["good/models/model.json"],
                "serialized_state_dict.pt": pickled(state), "serialized_constants.pt": pickled({}),
                "serialized_example_inputs.pt": b"never read",
            }  # fmt: skip
        for name, data in kept.items():
            target.writestr(name, data)
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(load_exported(file, "old")(images), load_exported(good, "good")(images))


def test_a_program_from_a_gpu_runs_on_the_processor(good: Path, tmp_path: Path) -> None:
    def on_gpu(content: bytes) -> bytes:
        return content.replace(b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0')

    file = altered(good, tmp_path / "gpu.pt2", {".json": on_gpu})
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(load_exported(file, "gpu")(images), load_exported(good, "good")(images))


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def pickle_of(file: Path) -> Callable[[bytes], bytes]:
    buffer = io.BytesIO()
    torch.save({"x": Touch(file)}, buffer)
    return lambda _: buffer.getvalue()


def attacks(folder: Path) -> dict[str, dict[str, Callable[[bytes], bytes]]]:
    """Name -> what is changed in a sound file; torch.export.load makes the folder `folder / name`."""

    def code(name: str) -> str:
        return f"__import__('os').mkdir({str(folder / name)!r})"

    def weight(document: dict[str, Any]) -> None:
        for about in document["config"].values():
            about["use_pickle"] = about["path_name"] == "weight_1"

    def config(content: bytes) -> bytes:
        document = json.loads(content)
        weight(document)
        return json.dumps(document).encode()

    def size(document: dict[str, Any]) -> None:
        value = document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        value[1] = {"as_expr": {"expr_str": code("size"), "hint": None}}

    def name(content: bytes) -> bytes:
        evil = json.dumps({"name": f"input={code('name')}"}).encode()[1:-1]
        renamed = content.replace(b'"as_tensor": {"name": "input"}', b'"as_tensor": {' + evil + b"}")
        return renamed.replace(b'"input": {"dtype"', evil.partition(b": ")[2] + b': {"dtype"')

    def guard(document: dict[str, Any]) -> None:
        document["guards_code"] = [f"{code('guard')} is None or L['input'].size()[0] > 0"]

    def tree(document: dict[str, Any]) -> None:
        (folder / "evil_module.py").write_text(code("tree"))
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps({"__enum__": True, "fqn": "evil_module:X", "name": "Y"})
        leaf = {"type": None, "context": None, "children_spec": []}
        signature["out_spec"] = json.dumps([1, {"type": "builtins.tuple", "context": context, "children_spec": [leaf]}])

    return {
        "sample inputs": {"sample_inputs/model.pt": pickle_of(folder / "sample inputs")},
        "weights": {"data/weights/weight_1": pickle_of(folder / "weights"), "model_weights_config.json": config},
        "size": program(size),
        "name": {"models/model.json": name},
        "guard": program(guard),
        "tree": program(tree),
    }


HARMLESS = ("sample inputs", "guard")  # left out: the rest of the file is a sound program


@pytest.fixture(scope="module")
def evil(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evil")
    for name, change in attacks(folder).items():
        altered(good, folder / f"{name}.pt2", change)
    return folder


def test_nothing_of_a_file_is_run(evil: Path) -> None:
    """Not what is pickled, nor what stands in the program where torch evaluates text."""
    for name in attacks(evil):
        file = evil / f"{name}.pt2"
        if name in HARMLESS:
            load_exported(file, "exported:evil.pt2")(torch.randn(3, 3, 8, 8))
        else:
            with pytest.raises(ModelError, match=r"'exported:evil\.pt2'.*onnx:FILE") as told:
                load_exported(file, "exported:evil.pt2")
            assert "\n" not in str(told.value)
    assert [path for path in evil.iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_the_attacks_are_real(good: Path, tmp_path: Path) -> None:
    """torch.export.load runs each of them, in a process of its own: else the test above would prove nothing."""
    names = list(attacks(tmp_path))
    for name, change in attacks(tmp_path).items():
        altered(good, tmp_path / f"{name}.pt2", change)
    script = """
import sys, torch
for file in sys.argv[1:]:
    try:
        torch.export.load(file).module()(torch.zeros(3, 3, 8, 8))
    except Exception:
        pass
"""
    files = [str(tmp_path / f"{name}.pt2") for name in names]
    subprocess.run([sys.executable, "-c", script, *files], cwd=tmp_path, capture_output=True, check=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__") == sorted(
        names
    )


@pytest.mark.parametrize(
    "change, what",
    [
        ({"models/model.json": lambda content: content[:-9]}, "JSONDecodeError"),
        ({"models/model.json": lambda _: b"[" * 100_000}, "RecursionError"),
        (program(lambda d: node(d, 2).update(target="torch.ops.aten.from_file.default")), "opens files"),
        (program(lambda d: node(d, 2).update(target="torch.ops.aten.save.default")), "no operator"),
        (program(lambda d: node(d, 2).update(target="torch.hub.load")), "calls 'torch.hub.load'"),
        (program(lambda d: node(d, 2).update(target="torch.ops.torchvision.nms.default")), "torchvision"),
        (program(lambda d: d["range_constraints"].update(u99999999={"min_val": 0, "max_val": 1})), "a size's name"),
        (program(lambda d: d["schema_version"].update(major=99)), "schema version"),
        ({"weights/weight_4": lambda content: content[:-4]}, "out of bounds"),
        ({"weights/weight_4": lambda _: b""}, "is empty"),
        ({"byteorder": lambda _: b"big"}, "big-endian"),
        ({"constants_config.json": lambda _: b'{"config": {"c": {"path_name": "custom_obj_0"}}}'}, "is an object"),
        ({"constants_config.json": lambda _: b'{"config": {"c": {"path_name": "../../x"}}}'}, "is an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_read_is_refused_in_a_line(
    change: dict[str, Callable[[bytes], bytes]], what: str, good: Path, tmp_path: Path
) -> None:
    file = altered(good, tmp_path / "bad.pt2", change)
    with pytest.raises(ModelError, match=what) as told:
        load_exported(file, "exported:bad.pt2")
    assert "\n" not in str(told.value) and "onnx:FILE" in str(told.value)


@pytest.mark.parametrize(
    "size",
    [
        "Pow(Integer(9), Integer(99999999))", "9**9**9**9", "Pow(Integer(9), Integer(9), 999999999)",
        "Symbol('s1', positive=True).__class__", "open('x')", "f'{s1}'",
        "Float('1', precision=99999999)", "[s1][0]", "lambda: 0", "Symbol('__import__')", "s1 if s1 else s1", "(s1:=2)",
    ],
)  # fmt: skip
def test_a_size_is_a_formula_of_symbols(size: str, good: Path, tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        sizes = document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": size, "hint": None}}

    with pytest.raises(ModelError, match=r"could run code|SyntaxError"):
        load_exported(altered(good, tmp_path / "bad.pt2", program(edit)), "exported:bad.pt2")


def test_a_packed_archive_is_refused(good: Path, tmp_path: Path) -> None:
    """A packed record could be a thousand times the file."""
    with pytest.raises(ModelError, match="packed"):
        load_exported(altered(good, tmp_path / "packed.pt2", {}, zipfile.ZIP_DEFLATED), "exported:packed.pt2")


def test_a_recipe_reads_a_teacher_so(evil: Path) -> None:
    """`teacher.model = "exported:..."` comes here, not to torch's loader."""
    load_model(Model(model=f"exported:{evil / 'sample inputs.pt2'}"), num_classes=10, in_channels=3)
    assert not (evil / "sample inputs").exists()
