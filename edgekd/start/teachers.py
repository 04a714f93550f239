"""teachers_in: the trained models that lie in a folder, and the size of pictures that a file of ONNX takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.start.data_sets import entries

FORMS = {".onnx": "onnx", ".pt2": "exported"}


@dataclass(frozen=True)
class Found:
    """A model's file, from the folder of the recipe. size: height and width that its input has, if it has them fixed."""

    file: str
    size: tuple[int, int] | None = None

    @property
    def reference(self) -> str:
        """As a recipe names it."""
        return f"{FORMS[Path(self.file).suffix]}:{self.file}"


def teachers_in(folder: Path) -> Sequence[Found]:
    """The models in a folder and in those below it: of ONNX first, then as they are called."""
    places = [
        folder,
        *(entry for entry in entries(folder) if entry.is_dir() and not entry.name.startswith(".")),
    ]
    files = [
        file
        for place in places
        if place.name != "build"
        for ending in FORMS
        for file in sorted(place.glob(f"*{ending}"))
        if file.is_file()
    ]
    return [Found(file.relative_to(folder).as_posix(), _size(file)) for file in files]


def _size(file: Path) -> tuple[int, int] | None:
    """Height and width of the first input `[batch, channels, height, width]` of an ONNX file."""
    if file.suffix != ".onnx":
        return None
    import onnx  # costs a third of a second: only where a file is there

    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception:  # protobuf raises many kinds of errors; a build tells what is wrong with the file
        return None
    if not model.graph.input:
        return None
    sizes = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    return (sizes[2], sizes[3]) if len(sizes) == 4 and sizes[2] > 0 and sizes[3] > 0 and sizes[1] in (1, 3) else None
