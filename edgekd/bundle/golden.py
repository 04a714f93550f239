"""Golden: real inputs with the shipped model's outputs, which prove whether a machine computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.bundle.manifest import Manifest, StoredOutputs
from edgekd.errors import BundleError
from edgekd.runtime.runners import Inputs, OnnxRunner
from edgekd.scripts.run import Failure, golden

FIRST = ""  # the name of the first output (the classes) here, whatever its name in the graph
Array = NDArray[Any]


@dataclass(frozen=True)
class Golden:
    """Stored inputs and outputs with tolerances.

    `inputs` `[n, ...]` by name, in the graph's order and as the graph takes them. `outputs` `[n, classes]` by name; the
    first output's name is "". `tolerances`, by output, are the largest absolute differences allowed on another machine.
    """

    inputs: Inputs
    outputs: Mapping[str, Array]
    tolerances: Mapping[str, float]

    def __post_init__(self) -> None:
        if FIRST not in self.outputs or set(self.outputs) != set(self.tolerances):
            raise BundleError(
                f"stored outputs {sorted(self.outputs)} with tolerances {sorted(self.tolerances)}; one each"
            )
        rows = {name: len(array) for name, array in self.inputs.items()}
        lengths = {name: len(output) for name, output in self.outputs.items()}
        if not rows or 0 in rows.values() or len({*rows.values(), *lengths.values()}) != 1:
            raise BundleError(
                f"{rows} stored inputs and {lengths} outputs; as many of each, and one at least, are needed"
            )

    def __len__(self) -> int:
        """The number of samples."""
        return len(next(iter(self.inputs.values())))

    @classmethod
    def of(cls, model: Path, inputs: Inputs, share: float) -> Golden:
        """The outputs that onnxruntime computes here for `inputs`.

        Another machine may differ by `share` of an output's largest magnitude.
        """
        runner = OnnxRunner(model)
        inputs = {name: inputs[name] for name in runner.inputs if name in inputs} | dict(inputs)
        outputs = dict(zip([FIRST, *runner.outputs[1:]], runner.run_all(inputs), strict=True))
        return cls(inputs, outputs, {name: share * float(np.abs(output).max()) for name, output in outputs.items()})

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> Golden:
        """A bundle's stored outputs, read by the rules of run.py.

        Raises BundleError for arrays that are not numbers, have another shape, or prove nothing.
        """
        try:
            about = manifest.golden
            first, *further = ({**table.written(), "shape": [*table.shape]} for table in manifest.inputs)  # as in JSON
            inputs, outputs = golden(folder, {"input": first, "further_inputs": further, "golden": about.written()})
        except Failure as error:
            raise BundleError(f"{folder}: {error}") from error
        tolerances = {FIRST: about.tolerance, **about.further}
        return cls(inputs, outputs, {name: float(most) for name, most in tolerances.items()})

    def write(self, path: Path) -> None:
        """Writes the file for run.py: `inputs` and `outputs` are the first ones, `inputs.NAME` and `outputs.NAME` further
        ones.
        """
        first, *_ = self.inputs
        inputs = {"inputs" if name == first else f"inputs.{name}": array for name, array in self.inputs.items()}
        further = {f"outputs.{name}": output for name, output in self.outputs.items() if name != FIRST}
        arrays: dict[str, Any] = {**inputs, "outputs": self.outputs[FIRST], **further}
        np.savez(path, **arrays)

    @property
    def about(self) -> StoredOutputs:
        """The manifest's table `golden`. `further` is set only if there are further outputs."""
        n, tolerance = len(self), self.tolerances[FIRST]
        further = {name: most for name, most in self.tolerances.items() if name != FIRST}
        if not further:
            return StoredOutputs(n=n, tolerance=tolerance)
        return StoredOutputs(n=n, tolerance=tolerance, further=further)

    def compare(self, computed: Mapping[str, Array]) -> tuple[bool, str]:
        """Whether every output is within its tolerance, and the largest difference of each, in words."""
        ok, details = True, []
        for name, expected in self.outputs.items():
            title = f"{name}: " if name else ""
            if name not in computed or computed[name].shape != expected.shape:
                shape = computed[name].shape if name in computed else "none"
                return False, f"{title}shape {shape}, expected {expected.shape}"
            apart = float(np.max(np.abs(computed[name].astype(np.float64) - expected.astype(np.float64))))
            ok = ok and apart <= self.tolerances[name]
            details.append(f"{title}max difference {apart:.3g} (tolerance {self.tolerances[name]:.3g})")
        return ok, "; ".join(details)
