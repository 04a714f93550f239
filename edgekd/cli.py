"""The commands of `edgekd`: they parse, call and print. No heavy module is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgekd import cli_device
from edgekd.base.console import print_what_can_be_printed
from edgekd.base.names import visible
from edgekd.errors import BundleError, DiffersError, EdgekdError, NotToShipError, RecipeError

if TYPE_CHECKING:
    from edgekd.figures.figures import Report
    from edgekd.measure.protocol import Timing

app = typer.Typer(
    help="Distil a teacher into a small student, quantize it as the device does, export it and check it.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
MISSED, WRONG_INPUT, INTERRUPTED = 3, 2, 130

TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="A device's name or alias (`edgekd targets`), or a .toml file.")
]
ShapeOption = Annotated[
    list[str] | None, typer.Option("--shape", help="An input's sizes where the file leaves them free: x=1,3,640,640.")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Where stages are kept [$EDGEKD_CACHE or ~/.cache/edgekd].")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: --set distill.epochs=5 (may be repeated).")
]


@app.command()
def build(
    context: typer.Context,
    target: Annotated[
        list[str],
        typer.Option(
            "--target", "-t", help="A device's name or alias (`edgekd targets`), or a .toml file; may be repeated."
        ),
    ],
    recipe: Annotated[
        Path | None, typer.Argument(help="A folder with edgekd.toml, or a .toml file [this folder; else the demo].")
    ] = None,
    set_: SetOption = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The bundle is written to OUTPUT/<recipe>/<target>.")
    ] = Path("build"),
    cache: CacheOption = None,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Measure and package again even if nothing changed.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", "-d", help="Measure the candidates there; the latency budget is decided there.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Go on where a question would be asked.")] = False,
) -> None:
    """Distil, quantize, export and check; leaves a bundle. Exit code 3: a budget is missed; 2: wrong input."""
    from edgekd.api import build_bundle
    from edgekd.target import load_target

    missed = False
    for one in target:  # a wrong target is refused before the first build
        load_target(one)
    for one in dict.fromkeys(target):
        report, folder, fresh = build_bundle(
            recipe, one, set_ or (), output, cache, recheck=recheck, device=device,
            ask=(lambda _: True) if yes else _ask, timing=context.obj,
        )  # fmt: skip
        _print_report(report, folder)
        if not fresh:
            typer.echo("Nothing changed since this was built; --recheck measures again.")
        missed |= not report.ok
    raise typer.Exit(MISSED if missed else 0)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where the data is, and where edgekd.toml is written.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace an edgekd.toml that is there.")] = False,
) -> None:
    """Write a commented edgekd.toml for the data that is found here."""
    from edgekd.start.write import write_recipe

    typer.echo(write_recipe(folder, force=force))


@app.command()
def targets(
    name: Annotated[Optional[str], typer.Argument(help="Show this one.")] = None,  # noqa: UP045
    model: Annotated[Path | None, typer.Option("--model", help="Estimate how long this ONNX file takes there.")] = None,
    calibrated: Annotated[
        str | None, typer.Option("--calibrated", help="Estimate by this device's calibration, not by the profile.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write the estimate's roofline to this SVG file.")] = None,
    shape: ShapeOption = None,
) -> None:
    """List the devices, or show one, or estimate a model's latency on it."""
    from edgekd.report.targets import print_target, print_targets

    if model is not None:
        _estimate(name, model, calibrated, plot, shape or [])
    elif plot or calibrated or shape:
        raise RecipeError("--plot, --shape and --calibrated belong to an estimate; give the ONNX file as --model too")
    else:
        print_target(name) if name else print_targets()


def _estimate(name: str | None, model: Path, calibrated: str | None, plot: Path | None, shape: list[str]) -> None:
    from edgekd.export.shapes import read_sizes
    from edgekd.measure.estimate.calibration import load_calibration
    from edgekd.measure.estimate.estimate import estimate, estimate_calibrated
    from edgekd.measure.estimate.words import print_estimate
    from edgekd.report.roofline import left_out_of_plot, svg
    from edgekd.target import load_target

    if plot is not None and plot.suffix != ".svg":
        raise RecipeError(f"--plot {plot}; the drawing is SVG: give a name that ends in .svg")
    if (name is None) == (calibrated is None):
        raise RecipeError(
            "an estimate needs a target (edgekd targets jetson --model FILE) or --calibrated DEVICE, one of them"
        )
    sizes = read_sizes(shape)
    if calibrated is not None:
        estimated = estimate_calibrated(model, load_calibration(calibrated), sizes)
    else:
        target = load_target(name or "")
        profiled = estimate(model, target, sizes)
        if profiled is None:
            raise RecipeError(
                f"{target.name} states no memory bandwidth, so nothing can be estimated; measure on the device"
            )
        estimated = profiled
    print_estimate(estimated)
    if plot is not None:
        if not (drawing := svg(estimated)):
            raise RecipeError(
                f"{plot} is not written, no kernel has a roof: {'; '.join(left_out_of_plot(estimated)) or 'none computes'}"
            )
        plot.write_text(drawing, encoding="utf-8")
        typer.echo(f"wrote {plot}")


@app.command()
def report(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder: build/<recipe>/<target>.")],
    html: Annotated[
        bool, typer.Option("--html", help="Print the path of the page, and open it where there is a browser.")
    ] = False,
    forget: Annotated[str, typer.Option("--forget", help="Take a device's figures out of the report.")] = "",
) -> None:
    """Print a build's report again."""
    import contextlib
    import webbrowser

    from edgekd.bundle.read import read_report

    content = read_report(bundle)
    if forget:
        from edgekd.measure.side_by_side import forget_device

        content = forget_device(bundle, forget)
    if html:
        page = (bundle / "report.html").resolve()
        typer.echo(page)
        with contextlib.suppress(webbrowser.Error):  # no browser here: the path is enough
            webbrowser.get().open(page.as_uri())
        return
    _print_report(content, bundle)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="There, in its own runtime; a name, or ssh:user@host.")
    ] = None,
    runtime: cli_device.Runtime = "",
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=0, help="With --device: the accuracy on so many test samples too, there and here."
        ),
    ] = 0,
) -> None:
    """Check every file's hash and the golden outputs, here in onnxruntime. Exit code 3: something differs."""
    if device:
        if len(device) > 1:
            raise BundleError(f"verify takes one --device; {len(device)} were given. edgekd measure takes several")
        cli_device.verify_there(bundle, device[0], runtime, samples)
        return
    if samples:
        raise BundleError("--samples compares a device with this machine; give it with --device")
    from edgekd.bundle.write import verify_bundle

    rows = verify_bundle(bundle)
    for what, ok, detail in rows:
        typer.echo(visible(f"{'ok    ' if ok else 'FAILED'}  {what}  {detail}".rstrip()))
    raise typer.Exit(0 if all(ok for _, ok, _ in rows) else MISSED)


@app.command()
def lint(
    model: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    target: TargetOption,
    samples: Annotated[
        Path | None, typer.Option("--samples", help=".npy or .npz of inputs: finds values beyond the range of fp16.")
    ] = None,
    dla: Annotated[bool, typer.Option("--dla", help="The engine is meant for the target's DLA.")] = False,
    shape: ShapeOption = None,
) -> None:
    """Say what would make an ONNX file slow on a target, or be refused there. Exit code 3: something is refused."""
    from edgekd.export import lint as linter
    from edgekd.export.shapes import read_sizes
    from edgekd.target import load_target

    device = load_target(target)
    findings = linter.lint(model, device, samples=samples, dla=dla, shapes=read_sizes(shape or []))
    for line in linter.lines(findings):
        typer.echo(visible(line))
    typer.echo(f"{linter.counted(findings)} in {model} for {device.name} ({linter.runtime_title(device)})")
    raise typer.Exit(MISSED if any(finding.severity == "error" for finding in findings) else 0)


@app.command()
def cache(
    folder: CacheOption = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete what was not used for --days.")] = False,
    days: Annotated[float, typer.Option("--days", min=0, help="With --prune: 0 deletes everything.")] = 0,
) -> None:
    """List the stored stages with sizes and ages, or free their space."""
    from edgekd.cache.listing import list_cache, prune_cache
    from edgekd.cache.stage import default_cache

    place = folder or default_cache()
    typer.echo(visible(prune_cache(place, days) if prune else list_cache(place)))


app.add_typer(cli_device.app, name="device")
app.command()(cli_device.measure)
app.command()(cli_device.ship)


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return typer.confirm(f"{question} Go on?", default=False, err=True)


def _print_report(report: Report, folder: Path) -> None:
    from rich.console import Console

    from edgekd.base.processes import RANK
    from edgekd.report.terminal import render

    Console(highlight=False, quiet=RANK > 0).print(render(report, folder))


def main(timing: Timing | None = None) -> None:
    """Run the command `edgekd`. An error of edgekd's own gives one line or table, and exit code 2 or 3.

    timing: how long a build times its candidates here, by default as the protocol says.
    """
    print_what_can_be_printed()
    try:
        app(obj=timing)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer ends with this code, without a message, after Ctrl-C
            goes_on = "build" in sys.argv[1:2]
            kept = "; what is finished is kept, and the same command goes on from there" if goes_on else ""
            typer.echo(f"\nedgekd: stopped{kept}", err=True)
        raise
    except EdgekdError as error:
        typer.echo(f"edgekd: {visible(str(error))}", err=True)
        sys.exit(MISSED if isinstance(error, (DiffersError, NotToShipError)) else WRONG_INPUT)
    except OSError as error:
        name = error.filename2 or error.filename  # filename2 is the destination of a copy
        where = f"{name}: " if name else ""
        typer.echo(
            f"edgekd: {visible(f'{where}{error.strerror or error}')}; what is finished is kept in the cache", err=True
        )
        sys.exit(WRONG_INPUT)


if __name__ == "__main__":
    main()
