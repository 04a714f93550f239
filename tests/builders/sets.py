"""The same few samples in every layout that is read: class folders, lists, parquet, npz, tar."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tests.builders.pictures import png

COLOURS = {"blue": (20, 20, 230), "green": (30, 220, 40), "red": (240, 10, 10)}


def coloured(of_a_class: int, seed: int = 0, side: int = 8) -> list[tuple[str, NDArray[np.uint8]]]:
    """Pictures of a colour with noise, each with the colour's name; class by class."""
    draw = np.random.default_rng(seed)
    return [
        (name, np.clip(np.array(colour) + draw.integers(-20, 20, (side, side, 3)), 0, 255).astype(np.uint8))
        for name, colour in COLOURS.items()
        for _ in range(of_a_class)
    ]


def write_folders(folder: Path, samples: Sequence[tuple[str, bytes]], ending: str = "png") -> list[Path]:
    """A folder a class; the files' paths in the order of the samples."""
    files = []
    for number, (name, content) in enumerate(samples):
        (folder / name).mkdir(parents=True, exist_ok=True)
        files.append(folder / name / f"{number:04}.{ending}")
        files[-1].write_bytes(content)
    return files


def write_tar(path: Path, groups: Sequence[Mapping[str, bytes]]) -> Path:
    """A shard of WebDataset: the files of each group, by their endings."""
    with tarfile.open(path, "w") as tar:
        for number, group in enumerate(groups):
            for ending, content in group.items():
                about = tarfile.TarInfo(f"{number:06}.{ending}")
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return path


def every_layout(folder: Path, samples: Sequence[tuple[str, NDArray[np.uint8]]]) -> dict[str, Path]:
    """Name of the layout -> its path below `folder`."""
    encoded = [(name, png(pixels)) for name, pixels in samples]
    labels = [name for name, _ in encoded]
    files = write_folders(folder / "classes", encoded)
    paths = [file.relative_to(folder).as_posix() for file in files]
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{p},{n}\n" for p, n in zip(paths, labels, strict=True)))
    lines = [json.dumps({"path": p, "label": n}) for p, n in zip(paths, labels, strict=True)]
    (folder / "list.jsonl").write_text("\n".join(lines) + "\n")
    for suffix in ("csv", "jsonl"):
        flat = folder / f"flat_{suffix}"
        flat.mkdir()
        for number, (_, content) in enumerate(encoded):
            (flat / f"{number}.png").write_bytes(content)
        rows = [{"file_name": f"{number}.png", "label": name} for number, name in enumerate(labels)]
        head, text = (
            ("file_name,label\n", lambda r: f"{r['file_name']},{r['label']}") if suffix == "csv" else ("", json.dumps)
        )
        (flat / f"metadata.{suffix}").write_text(head + "\n".join(map(text, rows)) + "\n")
    pq.write_table(pa.table({"image": [c for _, c in encoded], "label": labels}), folder / "bytes.parquet")
    np.savez(folder / "arrays.npz", x=np.stack([pixels for _, pixels in samples]), y=np.array(labels))
    write_tar(folder / "cls.tar", [{"png": c, "cls": n.encode()} for n, c in encoded])
    write_tar(folder / "json.tar", [{"json": json.dumps({"label": n}).encode(), "png": c} for n, c in encoded])
    names = (
        "classes",
        "list.csv",
        "list.jsonl",
        "flat_csv",
        "flat_jsonl",
        "bytes.parquet",
        "arrays.npz",
        "cls.tar",
        "json.tar",
    )
    return {name: folder / name for name in names}
