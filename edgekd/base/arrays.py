"""write_arrays: arrays by name in one .npz, whatever their names are."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def write_arrays(to: Path | IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """The file holds each array under its name, and `numpy.load` reads it. (`numpy.savez` takes its own parameters' names for none.)"""
    with zipfile.ZipFile(to, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
