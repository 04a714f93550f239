"""measure_candidates: measures a build's candidates on the deciding device. check_device: refuses an unsuited device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from edgekd.bundle.golden import Golden
from edgekd.bundle.manifest import FORMAT, Manifest, tables_of
from edgekd.bundle.read import GOLDEN
from edgekd.bundle.write import describe_inputs
from edgekd.errors import DeviceError
from edgekd.figures.figures import OnDevice
from edgekd.measure.devices.named import open_device
from edgekd.measure.fitness import check_fit, is_target
from edgekd.measure.on_device import Options, Trial, measure_in_turns
from edgekd.measure.remote import probe
from edgekd.target import Target


def check_device(name: str, target: Target) -> None:
    """Raises DeviceError for a device that cannot be reached or cannot decide a target's budget."""
    with open_device(name) as device:
        if device.origin == "emulated":
            raise DeviceError(f"{name} is emulated, so it gives no latency; build without --device, or with a real one")
        facts, runtime = probe(device), target.runtime.name
        check_fit(name, facts, target, runtime)
        if not is_target(facts, target, runtime):
            raise DeviceError(
                f"{name} ({facts.title}) is no {target.title}: its figures would decide nothing. Build for the target that "
                "it is, or without --device"
            )


def measure_candidates(
    name: str,
    target: Target,
    candidates: Mapping[str, tuple[Path, Golden]],
    at_most: Mapping[str, int],
) -> dict[str, OnDevice | DeviceError]:
    """Candidate -> its figures on the device, or the reason of its failure. The candidates are timed in turns.

    candidates: precision -> (model, its golden outputs); at_most: a free size of the inputs -> its largest. Raises
    DeviceError if all candidates fail.
    """
    with open_device(name) as device, TemporaryDirectory(prefix="edgekd-") as folder:
        trials = {}
        for precision, (model, golden) in candidates.items():
            file = Path(folder) / f"{precision}.{GOLDEN}"
            golden.write(file)
            manifest = Manifest(
                format=FORMAT, runtime=target.runtime.name, precision=precision, golden=golden.about, files={},
                **tables_of(describe_inputs(model, at_most)),
            )  # fmt: skip
            trials[precision] = Trial(model, file, target, manifest)
        found = measure_in_turns(device, trials, Options())
    failures = [failure for failure in found.values() if isinstance(failure, DeviceError)]
    if len(failures) == len(found):
        raise failures[0]
    return found
