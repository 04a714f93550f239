"""check_external_data, external_files: an ONNX file's external tensors must lie inside the file's folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgekd.errors import ModelError

LARGEST = 1 << 31  # bytes of the ONNX file itself: protobuf reads no more


def check_external_data(path: str | os.PathLike[str]) -> None:
    """Raise ModelError for an ONNX file whose external tensors are not in its own folder.

    Tensors behind a link and tensors in a missing file are refused too. A file that is not ONNX passes: the code that
    reads the file reports that.
    """
    for _ in external_files(Path(path)):
        pass


def external_files(path: Path) -> Iterator[Path]:
    """The files that hold an ONNX file's external tensors; a file may come several times.

    Raises ModelError as check_external_data says.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        return
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError):
        return
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield _file_of(path, tensor)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model, also those in branches, loop bodies, functions and training graphs."""
    training = [graph for info in model.training_info for graph in (info.initialization, info.algorithm)]
    graphs = [model.graph, *training]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        while graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        while nodes:
            for attribute in nodes.pop().attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                graphs += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _file_of(path: Path, tensor: onnx.TensorProto) -> Path:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, name = entries.get("location", ""), tensor.name[:60]

    def refused(why: str) -> ModelError:
        return ModelError(
            f"{path}: tensor {name!a} lies in {location[:200]!a}, {why}; an ONNX file's data must lie beside it: save it anew with "
            "onnx.save(model, FILE, save_as_external_data=True)"
        )

    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or location.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
        raise refused("which leaves the model's folder" if location else "which is no place")
    place = path.parent
    for part in parts:
        place = place / part
        if place.is_symlink():
            raise refused("which is a link or behind one")
    try:
        state = place.lstat()
        start, length = (int(entries.get(key) or 0) for key in ("offset", "length"))
    except (OSError, ValueError):
        raise refused("where there is no such file, or at no such place in it") from None
    if not stat.S_ISREG(state.st_mode):
        raise refused("which is no file")
    if start < 0 or length < 0 or start + length > state.st_size:
        raise refused(f"at bytes {start} to {start + length} of {state.st_size}")
    return place
