"""The commands for devices: `edgekd device`, `measure`, `ship`. `verify --device` calls verify_there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.base.names import text_problem
from edgekd.errors import DeviceError

if TYPE_CHECKING:
    from edgekd.figures.figures import OnDevice, Report
    from edgekd.measure.answer import Facts
    from edgekd.measure.on_device import Options

MISSED = 3

app = typer.Typer(help="Name the machines that bundles are measured on and shipped to.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="What the device is called here; or ssh:user@host, local, ...")]
DeviceOption = Annotated[
    str, typer.Option("--device", "-d", help="A device's name (`edgekd device list`), or ssh:user@host, local.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md) in place of text.")]
Runtime = Annotated[str, typer.Option("--runtime", help="onnxruntime or tensorrt [the bundle's own].")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What it shall be called.")],
    ssh: Annotated[str, typer.Option("--ssh", help="user@host, or an alias of ~/.ssh/config.")] = "",
    adb: Annotated[str, typer.Option("--adb", help="An Android device's serial number (`adb devices`).")] = "",
    local: Annotated[bool, typer.Option("--local", help="This machine.")] = False,
    emulated: Annotated[
        str, typer.Option("--emulated", help="An arm64 processor under qemu: cortex-a53, -a72, -a76, neoverse-n1, max.")
    ] = "",
    ssh_config: Annotated[str, typer.Option("--ssh-config", help="Another file than ~/.ssh/config.")] = "",
    python: Annotated[str, typer.Option("--python", help="The interpreter there [python3].")] = "",
    folder: Annotated[
        str, typer.Option("--folder", help="Where edgekd keeps its files there [.cache/edgekd-device].")
    ] = "",
    check: Annotated[bool, typer.Option("--probe/--no-probe", help="Look at the device first.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Give a name that is taken to this device.")] = False,
) -> None:
    """Name a device, after looking at it: board, JetPack, runtimes, Python, processor, memory, power modes."""
    from edgekd.measure.devices import named

    kinds = {"ssh": ssh, "adb": adb, "emulated": emulated, **({"local": "yes"} if local else {})}
    further = {"config": str(Path(ssh_config).resolve()) if ssh_config else "", "python": python, "folder": folder}
    settings = {key: value for key, value in {**kinds, **further}.items() if value}
    named.check(name, settings, f"device {name}")
    taken = named.list_devices().get(name)
    if taken is not None and not replace:
        raise DeviceError(
            f"{name} is the name of {named.make(name, taken).address} already; choose another, `edgekd device remove {name}`, or --replace"
        )
    if check:
        from edgekd.measure.remote import probe as look

        device = named.make(name, settings)
        try:
            if device.python:
                _print_facts(name, look(device))
            else:
                device.run(["true"])  # without Python only the connection can be checked
        finally:
            device.close()
    named.write_device(name, settings)
    typer.echo(f"{name} is kept in {named.devices_file()}")


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """The devices that have a name."""
    from edgekd.measure.devices import named

    devices = named.list_devices()
    if json:
        from edgekd.figures.outputs import DevicesOutput, NamedDevice

        found = (
            NamedDevice(name=name, address=named.make(name, each).address) for name, each in sorted(devices.items())
        )
        typer.echo(DevicesOutput(devices=tuple(found)).model_dump_json(indent=2))
        return
    width = max(map(len, devices), default=0)
    for name, settings in sorted(devices.items()):
        typer.echo(f"{name:{width}}  {named.make(name, settings).address}")
    if not devices:
        typer.echo("no devices yet; `edgekd device add NAME --ssh user@host` names one")


@app.command()
def probe(name: Name) -> None:
    """What a device is and what runs there; copies nothing."""
    from edgekd.measure.devices.named import open_device
    from edgekd.measure.remote import probe as look

    with open_device(name) as device:
        _print_facts(name, look(device))


@app.command()
def remove(
    name: Name,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="Leave edgekd's files on the device.")] = False,
) -> None:
    """Forget a device and remove edgekd's files there; what was shipped stays."""
    from edgekd.measure.devices import named
    from edgekd.measure.remote import ask

    devices = named.list_devices()
    same = [other for other, settings in devices.items() if other != name and settings == devices.get(name)]
    if same:
        typer.echo(f"its files there stay: they are {same[0]}'s too")
    elif not keep_files:
        with named.open_device(name) as device:
            try:
                if device.python:
                    ask(device, "forget", {"folder": device.folder})
            except DeviceError as error:
                raise DeviceError(
                    f"{error}\nIts files could not be removed; --keep-files forgets it all the same"
                ) from None
    if name in devices:
        named.remove_device(name)


@app.command()
def calibrate(
    name: Name,
    runtime: Annotated[
        str, typer.Option("--runtime", help="onnxruntime or tensorrt [tensorrt where the device has it].")
    ] = "",
) -> None:
    """Fit how fast a device is at each class of operator, for `edgekd targets --calibrated`; some minutes.

    Small networks are timed there, in onnxruntime on one thread or in TensorRT without copies (whose engines take most of an hour
    to build); what the fit is worth is told by networks that it did not see.
    """
    from tempfile import TemporaryDirectory

    from edgekd.measure.devices.named import open_device
    from edgekd.measure.estimate.calibrate import calibrate as fit
    from edgekd.measure.estimate.calibrate import refuse_emulated, runtime_there
    from edgekd.measure.estimate.calibration import keep
    from edgekd.measure.estimate.held_out import write_held_out
    from edgekd.measure.estimate.words import print_calibration

    with open_device(name) as device, TemporaryDirectory(prefix="edgekd-") as folder:
        refuse_emulated(device)
        timed_in = runtime_there(device, _runtime(runtime))
        found = fit(device, write_held_out(Path(folder), timed_in), runtime=timed_in)
    print_calibration(found)
    typer.echo(f"kept in {keep(found)}")


def measure(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder: build/<recipe>/<target>.")],
    devices: Annotated[
        list[str], typer.Option("--device", "-d", help="A device's name, ssh:user@host, local; may be repeated.")
    ],
    power_mode: Annotated[
        str | None, typer.Option("--power-mode", help="Measure in this mode only, by its name: 15W, MAXN_SUPER.")
    ] = None,
    sustained: Annotated[str, typer.Option("--sustained", help="Go on without a rest for so long: 90s, 30m.")] = "0s",
    accuracy: Annotated[
        str | None,
        typer.Option(
            "--accuracy",
            help="test: the score of the test split there; test:500: of 500 of it, each class in its share.",
        ),
    ] = None,
    threads: Annotated[str, typer.Option("--threads", help="Of onnxruntime: 1,4")] = "1",
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes: 1,8")] = "1",
    cpus: Annotated[str, typer.Option("--cpus", help="Only on these cores: 4-7 [all].")] = "",
    blocks: Annotated[int, typer.Option("--blocks", min=3)] = 3,
    block_s: Annotated[float, typer.Option("--block-s", min=0, help="Least seconds of a block.")] = 1.0,
    runtime: Runtime = "",
    engine_option: Annotated[
        list[str] | None, typer.Option("--engine-option", help="A word for build_engine.py (may be repeated).")
    ] = None,
    runner: Annotated[
        str, typer.Option("--runner", help="Without Python there: a benchmark program, see docs/devices.md.")
    ] = "",
    figures: Annotated[
        Path | None, typer.Option("--figures", help="What device_runner.py wrote where it ran alone; nothing is run.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a bundle on devices, in parallel, and bring the figures into its report.

    Exit code 3: wrong outputs there, or a missed budget.
    """
    from edgekd.measure.on_device import Options

    inside = bundle.resolve() in (Path.cwd(), *Path.cwd().parents)
    options = Options(
        threads=_numbers("--threads", threads), batches=_numbers("--batch", batch), cpus=_numbers("--cpus", cpus),
        runtime=_runtime(runtime), power_mode=power_mode, sustained_s=_seconds(sustained), blocks=blocks, block_s=block_s,
        engine_options=tuple(engine_option or ()),
    )  # fmt: skip
    if figures is not None:
        found, report = _brought_in(bundle, devices, figures)
    else:
        found, report = _measured(bundle, devices, options, accuracy, runner)
    if json:
        from edgekd.figures.outputs import MeasureOutput

        typer.echo(MeasureOutput(devices=tuple(found), report=report).model_dump_json(indent=2))
    else:
        _told(found, report, inside)
    wrong = any(device.golden_ok is False for device in found) or len(found) < len(set(devices))
    raise typer.Exit(MISSED if wrong or not report.ok else 0)


def _measured(
    bundle: Path, devices: list[str], options: Options, accuracy: str | None, runner: str
) -> tuple[list[OnDevice], Report]:
    """The figures of the devices, and the report with these figures."""
    from contextlib import nullcontext

    from edgekd.measure.side_by_side import measure_all

    with _samples(bundle, accuracy) if accuracy else nullcontext() as samples:
        return measure_all(bundle, devices, options, samples, runner)


def _brought_in(bundle: Path, devices: list[str], figures: Path) -> tuple[list[OnDevice], Report]:
    """The figures in a file that device_runner.py wrote on a device without connection, and the report with them."""
    from edgekd.bundle.read import read_report
    from edgekd.measure.devices import named
    from edgekd.measure.on_device import figures_of, trial_of
    from edgekd.measure.side_by_side import record

    if len(devices) != 1:
        raise DeviceError("--figures are those of one device; give --device once, with the name that they shall have")
    if problem := text_problem(devices[0], 100):
        raise DeviceError(f"--device {devices[0][:60]!a}: {problem}")
    known = named.list_devices()
    kept_as = named.make(devices[0], known[devices[0]]).origin if devices[0] in known else "device"
    read_report(bundle)
    found = [figures_of(figures, trial_of(bundle), devices[0], "host" if devices[0] == "local" else kept_as)]
    return found, record(bundle, found)


def _told(devices: list[OnDevice], report: Report, inside: bool) -> None:
    """Print the figures as a table, then missed checks and the latency budget."""
    from rich.console import Console

    from edgekd.figures.verdict import P90
    from edgekd.report.on_device import table

    Console(highlight=False).print(table(devices))
    if inside:
        typer.echo("this folder was replaced as a whole: `cd .` brings the shell to the new one")
    for check in report.checks:
        if check.verdict == "missed" or check.name == P90:
            typer.echo(f"{check.verdict}: {check.name}: {check.found}{f', limit {check.limit}' if check.limit else ''}")


def ship(
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle's folder: build/<recipe>/<target>; not with --rollback.")
    ] = None,
    device: DeviceOption = "",
    to: Annotated[str, typer.Option("--to", help="Where it shall stand there: /opt/models/cifar10.")] = "",
    rollback: Annotated[bool, typer.Option("--rollback", help="Put the version before back.")] = False,
    runtime: Runtime = "",
    anyway: Annotated[bool, typer.Option("--anyway", help="Ship a bundle that misses a check.")] = False,
) -> None:
    """Put a bundle on a device in one step, proved there; the version before is kept.

    Exit code 3: it misses a check (--anyway ships it all the same), or it was refused there.
    """
    from edgekd.bundle.read import read_report, refuse_not_to_ship
    from edgekd.measure.devices.named import open_device
    from edgekd.measure.on_device import roll_back, ship_to

    if not device or not to:
        raise DeviceError("where to? Give --device and --to, the place there")
    if rollback == (bundle is not None):
        raise DeviceError("give either a bundle to ship, or --rollback")
    if bundle is not None and not anyway:  # refused before a device is asked
        refuse_not_to_ship(bundle)
    with open_device(device) as opened:
        done = (
            roll_back(opened, to, _runtime(runtime))
            if bundle is None
            else ship_to(opened, bundle, to, _runtime(runtime), anyway=anyway)
        )
    if bundle is not None and not (headline := read_report(bundle).headline).startswith("SHIP: "):
        typer.echo(f"{headline}; `edgekd report {bundle}` tells more")
    stands = "stands already" if done.unchanged else "stands"
    kept = f"; {done.before} is kept (--rollback)" if done.before and not done.unchanged and not done.lost else ""
    typer.echo(f"{done.to} on {device}: version {done.version} {stands}{kept}")
    if done.repaired:
        typer.echo(f"it stood there damaged and was written anew: {done.repaired}")
    if done.lost:
        typer.echo(f"no rollback: version {done.before} is damaged there: {done.lost}")
    typer.echo(f"stored outputs in {done.runtime}: {done.detail}")


def verify_there(bundle: Path, device: str, runtime: str, samples: int = 0) -> list[tuple[str, bool, str]]:
    """The rows of `edgekd verify --device`: subject, whether it is ok, and detail.

    On an emulated processor, or with samples, the differences from this machine are rows too. Files that differ here from
    the manifest are the only rows, and nothing is copied.
    """
    from edgekd.bundle.read import check_file, read_manifest, unlisted
    from edgekd.measure.devices.named import open_device
    from edgekd.measure.on_device import verify_on

    listed = read_manifest(bundle).files
    rows = [check_file(bundle, *entry) for entry in sorted(listed.items())]
    rows += [(name, False, "not listed in the manifest") for name in unlisted(bundle, listed)]
    if not all(ok for _, ok, _ in rows):
        return [row for row in rows if not row[1]]
    with open_device(device) as opened:
        if opened.origin == "emulated" or samples:
            from edgekd.measure.compare import compare_on

            if _runtime(runtime) == "tensorrt":
                raise DeviceError(
                    "an emulated processor, and --samples, run onnxruntime; for TensorRT: edgekd measure --accuracy test"
                )
            return list(compare_on(opened, bundle, samples=samples))
        proof = verify_on(opened, bundle, _runtime(runtime))
    return [
        (f"every file, by its SHA-256 as copied to {device}", True, ""),
        (f"stored outputs in {proof.runtime}: {proof.detail}", True, ""),
    ]


def _print_facts(name: str, facts: Facts) -> None:
    lines = {
        "machine": facts.title,
        "software": facts.software,
        "runtimes": ", ".join(facts.able)
        or "neither onnxruntime nor TensorRT: install one, else nothing can be measured there",
        "power mode": facts.state.power_mode,
        "power modes": ", ".join(f"{mode} (id {number})" for mode, number in facts.power_modes.items()),
        "clocks": ", ".join(f"{clock} {mhz:.0f} MHz" for clock, mhz in facts.state.clocks_mhz.items()),
        "governors": ", ".join(f"{clock} {governor}" for clock, governor in facts.state.governors.items()),
        "temperatures": ", ".join(f"{zone} {c:.0f} °C" for zone, c in facts.state.temperatures_c.items()),
        "free": f"{facts.state.free_memory_mb or 0:.0f} MB memory, {facts.free_mb or 0:.0f} MB disk",
        "load": facts.state.load_1m,
    }
    typer.echo(name)
    for what, found in lines.items():
        typer.echo(f"  {what:12}  {'cannot be read there' if found in (None, '') else found}")


def _samples(bundle: Path, accuracy: str):  # type: ignore[no-untyped-def]
    """The samples that --accuracy asks for."""
    split, _, most = accuracy.partition(":")
    if split != "test" or (most and not most.isdigit()) or most == "0":
        raise DeviceError(
            f"--accuracy {accuracy}; possible: test, or test:N for N of its samples, each class in its share"
        )
    from edgekd.measure.samples import samples_for_accuracy

    return samples_for_accuracy(bundle, int(most) if most else None)


def _runtime(chosen: str) -> str:
    if chosen not in ("", "onnxruntime", "tensorrt"):
        raise DeviceError(f"--runtime {chosen}; possible: onnxruntime, tensorrt")
    return chosen


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of an option: `1,4-6` -> (1, 4, 5, 6)."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if found is None:
            raise DeviceError(f"{option} {text}; write numbers, as 1,4 or 4-7")
        low = int(found[1])
        numbered = range(low, int(found[2] or low) + 1)
        if not numbered:
            raise DeviceError(f"{option} {text}: {part.strip()} goes backwards; write the smaller number first")
        numbers += numbered
    if text and not numbers:
        raise DeviceError(f"{option} {text}; write numbers, as 1,4 or 4-7")
    return tuple(dict.fromkeys(numbers))


def _seconds(text: str) -> float:
    """The seconds of a duration such as `90s`, `30m` or `2h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    if found is None:
        raise DeviceError(f"--sustained {text}; write 90s, 30m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
