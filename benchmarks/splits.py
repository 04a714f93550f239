"""Data sets for distilled.py: crops of pictures with masks, and sounds of which whole speakers are held out.

python benchmarks/splits.py crops NUCLEI OUT        128 x 128 crops on a grid, of train.parquet and test.parquet
python benchmarks/splits.py speakers FSDD OUT       sounds; two speakers of train.parquet and test.parquet are the test split
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from PIL import Image

app = typer.Typer(add_completion=False)


@app.command()
def crops(
    folder: Path,
    out: Path,
    size: Annotated[int, typer.Option(help="pixels of a crop's side")] = 128,
    most: Annotated[int, typer.Option(help="training crops along an axis; the test split takes all")] = 2,
) -> None:
    """Cut pictures and masks in equal places. Neighbours overlap where a side is no multiple of `size`."""
    out.mkdir(parents=True, exist_ok=True)
    for split, limit in (("train", most), ("test", 1000)):
        columns: dict[str, list[dict[str, bytes]]] = {"image": [], "mask": []}
        for row in pq.read_table(folder / f"{split}.parquet", columns=["image", "mask"]).to_pylist():
            picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            mask = Image.open(io.BytesIO(row["mask"]["bytes"]))
            for left, top in places(picture.size, size, limit):
                box = (left, top, left + size, top + size)
                columns["image"].append({"bytes": png(picture.crop(box))})
                columns["mask"].append({"bytes": png(mask.crop(box))})
        pq.write_table(pa.table(columns), out / f"{split}.parquet")
        print(f"{split}: {len(columns['image'])} crops")


def places(picture: tuple[int, int], size: int, limit: int) -> Iterator[tuple[int, int]]:
    """The left upper corners of the crops of a picture `(width, height)`, evenly spread."""
    across, down = (np.linspace(0, side - size, max(1, side // size)).astype(int).tolist()[:limit] for side in picture)
    return ((left, top) for top in down for left in across)


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@app.command()
def speakers(
    folder: Path,
    out: Path,
    unseen: Annotated[str, typer.Option(help="the test split's speakers, separated by commas")] = "",
    without: Annotated[str, typer.Option(help="speakers of neither split")] = "",
) -> None:
    """Hold out whole speakers: by default the last two by name. `without` keeps the test speakers out of a choice of settings."""
    rows = pa.concat_tables([pq.read_table(folder / f"{split}.parquet") for split in ("train", "test")])
    names = sorted(set(rows["speaker"].to_pylist()) - set(without.split(",")))
    held = unseen.split(",") if unseen else names[-2:]
    seen = [name for name in names if name not in held]
    out.mkdir(parents=True, exist_ok=True)
    for split, chosen in (("train", seen), ("test", held)):
        of_split = rows.filter(pc.is_in(rows["speaker"], pa.array(chosen))).select(["audio", "label"])
        pq.write_table(of_split, out / f"{split}.parquet")
        print(f"{split}: {of_split.num_rows} sounds of {', '.join(chosen)}")


if __name__ == "__main__":
    app()
