"""Golden: real inputs with what the shipped model computes from them, by which any machine is told right or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.bundle.manifest import Manifest, StoredOutputs
from edgekd.errors import BundleError
from edgekd.runtime.runners import OnnxRunner
from edgekd.scripts.run import Failure, golden

FIRST = ""  # the first output's name here: it is the classes', whatever the graph calls it
Array = NDArray[Any]


@dataclass(frozen=True)
class Golden:
    """`inputs` [n, ...] as the graph takes them; of every output by its name (the first one's is ""), `outputs` [n, classes] and
    `tolerances`, the largest absolute difference that another machine may show."""

    inputs: Array
    outputs: Mapping[str, Array]
    tolerances: Mapping[str, float]

    def __post_init__(self) -> None:
        if FIRST not in self.outputs or set(self.outputs) != set(self.tolerances):
            raise BundleError(
                f"stored outputs {sorted(self.outputs)} with tolerances {sorted(self.tolerances)}; one each"
            )
        lengths = {name: len(output) for name, output in self.outputs.items()}
        if len(self.inputs) == 0 or {*lengths.values()} != {len(self.inputs)}:
            raise BundleError(
                f"{len(self.inputs)} stored inputs and {lengths} outputs; as many of each, and one at least, are needed"
            )

    @classmethod
    def of(cls, model: Path, inputs: Array, share: float) -> Golden:
        """What onnxruntime computes here; another machine may differ by `share` of an output's largest magnitude."""
        runner = OnnxRunner(model)
        outputs = dict(zip([FIRST, *runner.outputs[1:]], runner.run_all(inputs), strict=True))
        return cls(inputs, outputs, {name: share * float(np.abs(output).max()) for name, output in outputs.items()})

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> Golden:
        """A bundle's, by run.py's rules. Raises BundleError for what is no numbers, of another shape, or proves nothing."""
        try:
            about, graph = manifest.golden, manifest.input
            told = {"input": {**graph.written(), "shape": [*graph.shape]}, "golden": about.written()}  # as in JSON
            inputs, outputs = golden(folder, told)
        except Failure as error:
            raise BundleError(f"{folder}: {error}") from error
        further = {name: float(most) for name, most in about.further.items()}
        return cls(inputs, outputs, {FIRST: float(about.tolerance), **further})

    def write(self, path: Path) -> None:
        """As run.py reads it: `inputs`, `outputs` and, of further outputs, `outputs.NAME`."""
        further = {f"outputs.{name}": output for name, output in self.outputs.items() if name != FIRST}
        arrays: dict[str, Any] = {"inputs": self.inputs, "outputs": self.outputs[FIRST], **further}
        np.savez(path, **arrays)

    @property
    def about(self) -> StoredOutputs:
        """This is the manifest's `golden`; `further` stands there only where there are further outputs."""
        n, tolerance = len(self.inputs), self.tolerances[FIRST]
        further = {name: most for name, most in self.tolerances.items() if name != FIRST}
        if not further:
            return StoredOutputs(n=n, tolerance=tolerance)
        return StoredOutputs(n=n, tolerance=tolerance, further=further)

    def compare(self, found: Mapping[str, Array]) -> tuple[bool, str]:
        """Whether every output is within its tolerance, and how near each came."""
        ok, details = True, []
        for name, expected in self.outputs.items():
            title = f"{name}: " if name else ""
            if name not in found or found[name].shape != expected.shape:
                shape = found[name].shape if name in found else "none"
                return False, f"{title}shape {shape}, expected {expected.shape}"
            apart = float(np.max(np.abs(found[name].astype(np.float64) - expected.astype(np.float64))))
            ok = ok and apart <= self.tolerances[name]
            details.append(f"{title}max difference {apart:.3g} (tolerance {self.tolerances[name]:.3g})")
        return ok, "; ".join(details)
