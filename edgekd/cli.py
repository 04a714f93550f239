"""The commands of `edgekd`: they parse, call and print. No heavy module is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgekd import cli_device
from edgekd.base.console import print_what_can_be_printed
from edgekd.base.names import visible
from edgekd.base.version import VERSION
from edgekd.errors import BundleError, CacheError, DiffersError, EdgekdError, NotToShipError, RecipeError

if TYPE_CHECKING:
    from edgekd.figures.figures import Report
    from edgekd.figures.outputs import Output
    from edgekd.measure.protocol import Timing

app = typer.Typer(
    help="Distil a teacher into a small student, quantize it as the device does, export it and check it.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
MISSED, WRONG_INPUT, INTERRUPTED = 3, 2, 130

TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="A device's name or alias (`edgekd targets`), or a .toml file.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go on where a question would be asked.")]
ShapeOption = Annotated[
    list[str] | None, typer.Option("--shape", help="An input's sizes where the file leaves them free: x=1,3,640,640.")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Where stages are kept [$EDGEKD_CACHE or ~/.cache/edgekd].")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: --set distill.epochs=5 (may be repeated).")
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgekd {VERSION}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print edgekd's version.")
    ] = False,
) -> None:
    pass


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
    yes: YesOption = False,
    json: cli_device.JsonOption = False,
) -> None:
    """Distil, quantize, export and check; leaves a bundle. Exit code 3: a check is missed; 2: wrong input."""
    from edgekd.api import build_bundle
    from edgekd.figures.outputs import BuildOutput, BuiltBundle
    from edgekd.target import load_target

    built = []
    for one in target:  # a wrong target is refused before the first build
        load_target(one)
    for one in dict.fromkeys(target):
        report, folder, fresh = build_bundle(
            recipe, one, set_ or (), output, cache, recheck=recheck, device=device,
            ask=(lambda _: True) if yes else _ask, timing=context.obj,
        )  # fmt: skip
        built.append(BuiltBundle(folder=str(folder), is_new=fresh, report=report))
        if not json:
            _print_report(report, folder)
            if not fresh:
                typer.echo("Nothing changed since this was built; --recheck measures again.")
    if json:
        _print_json(BuildOutput(bundles=tuple(built)))
    raise typer.Exit(0 if all(bundle.report.ok for bundle in built) else MISSED)


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
    write: Annotated[
        Path | None, typer.Option("--write", help="Write a target file of your own to edit, named after your board.")
    ] = None,
    like: Annotated[str, typer.Option("--like", help="With --write: the target that it begins as.")] = "",
    force: Annotated[bool, typer.Option("--force", help="With --write: replace a file that is there.")] = False,
    json: cli_device.JsonOption = False,
) -> None:
    """List the devices, or show one, estimate a model's latency on it, or write a file for your own."""
    from edgekd.report.targets import print_target, print_targets

    if write is not None or like or force:
        _write_target(name, write, like, force=force)
    elif model is not None:
        _estimate(name, model, calibrated, plot, shape or [], json)
    elif plot or calibrated or shape:
        raise RecipeError("--plot, --shape and --calibrated belong to an estimate; give the ONNX file as --model too")
    elif json:
        from edgekd.figures.outputs import TargetsOutput
        from edgekd.target import list_targets, load_target

        shown = [load_target(name)] if name else list_targets()
        _print_json(TargetsOutput(targets=tuple(target.model_dump(mode="json") for target in shown)))
    else:
        print_target(name) if name else print_targets()


def _write_target(name: str | None, write: Path | None, like: str, *, force: bool) -> None:
    from edgekd.target import write_target

    if write is None or not like or name is not None:
        raise RecipeError(
            "a target file is written by --write FILE.toml --like TARGET and no other name: "
            "edgekd targets --write my-board.toml --like raspberry-pi-5"
        )
    typer.echo(write_target(write, like, force=force))


def _estimate(
    name: str | None, model: Path, calibrated: str | None, plot: Path | None, shape: list[str], json: bool
) -> None:
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
    if json:
        from edgekd.figures.outputs import EstimateOutput

        _print_json(EstimateOutput(estimate=estimated))
    else:
        print_estimate(estimated)
    if plot is not None:
        if not (drawing := svg(estimated)):
            raise RecipeError(
                f"{plot} is not written, no kernel has a roof: {'; '.join(left_out_of_plot(estimated)) or 'none computes'}"
            )
        plot.write_text(drawing, encoding="utf-8")
        typer.echo(f"wrote {plot}", err=json)


@app.command()
def report(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder: build/<recipe>/<target>.")],
    html: Annotated[
        bool, typer.Option("--html", help="Print the path of the page, and open it where there is a browser.")
    ] = False,
    forget: Annotated[str, typer.Option("--forget", help="Take a device's figures out of the report.")] = "",
    json: cli_device.JsonOption = False,
) -> None:
    """Print a build's report again. Exit code 3: a check is missed."""
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
    elif json:
        from edgekd.figures.outputs import ReportOutput

        _print_json(ReportOutput(report=content))
    else:
        _print_report(content, bundle)
    raise typer.Exit(0 if content.ok else MISSED)


@app.command()
def compare(
    bundles: Annotated[list[Path], typer.Argument(help="Two or more bundles' folders; the first is the reference.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write the comparison to this HTML file, too.")] = None,
    json: cli_device.JsonOption = False,
) -> None:
    """Show bundles side by side: scores with paired intervals, latency, size, and what differs in their recipes."""
    from rich.console import Console

    from edgekd.check.side_by_side import compared
    from edgekd.report.comparison import page, render_comparison

    if html is not None and html.suffix != ".html":
        raise RecipeError(f"--html {html}; the page is HTML: give a name that ends in .html")
    comparison = compared(bundles)
    if html is not None:
        html.write_text(page(comparison), encoding="utf-8")
        typer.echo(f"wrote {html}", err=json)
    if json:
        _print_json(comparison)
    else:
        Console(highlight=False).print(render_comparison(comparison))


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
    json: cli_device.JsonOption = False,
) -> None:
    """Check every file's hash and the golden outputs, here in onnxruntime. Exit code 3: something differs."""
    if device:
        if len(device) > 1:
            raise BundleError(f"verify takes one --device; {len(device)} were given. edgekd measure takes several")
        _print_verified(cli_device.verify_there(bundle, device[0], runtime, samples), json)
    if samples:
        raise BundleError("--samples compares a device with this machine; give it with --device")
    from edgekd.bundle.write import verify_bundle

    _print_verified(verify_bundle(bundle), json)


def _print_verified(rows: Sequence[tuple[str, bool, str]], json: bool) -> None:
    """Print the rows and end the command, with exit code 3 if one is not ok."""
    from edgekd.figures.outputs import VerifiedRow, VerifyOutput

    ok = all(ok for _, ok, _ in rows)
    if json:
        told = tuple(VerifiedRow(what=what, ok=ok, detail=detail) for what, ok, detail in rows)
        _print_json(VerifyOutput(ok=ok, rows=told))
    else:
        for what, each, detail in rows:
            typer.echo(visible(f"{'ok    ' if each else 'FAILED'}  {what}  {detail}".rstrip()))
    raise typer.Exit(0 if ok else MISSED)


@app.command()
def lint(
    model: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    target: TargetOption,
    samples: Annotated[
        Path | None, typer.Option("--samples", help=".npy or .npz of inputs: finds values beyond the range of fp16.")
    ] = None,
    dla: Annotated[bool, typer.Option("--dla", help="The engine is meant for the target's DLA.")] = False,
    shape: ShapeOption = None,
    json: cli_device.JsonOption = False,
) -> None:
    """Say what would make an ONNX file slow on a target, or be refused there. Exit code 3: something is refused."""
    from edgekd.export import lint as linter
    from edgekd.export.shapes import read_sizes
    from edgekd.target import load_target

    device = load_target(target)
    findings = linter.lint(model, device, samples=samples, dla=dla, shapes=read_sizes(shape or []))
    if json:
        from edgekd.figures.outputs import LintFinding, LintOutput

        told = tuple(LintFinding(**vars(finding)) for finding in findings)
        runtime = linter.runtime_title(device)
        _print_json(LintOutput(model=str(model), target=device.name, runtime=runtime, findings=told))
    else:
        for line in linter.lines(findings):
            typer.echo(visible(line))
        typer.echo(f"{linter.counted(findings)} in {model} for {device.name} ({linter.runtime_title(device)})")
    raise typer.Exit(MISSED if any(finding.severity == "error" for finding in findings) else 0)


@app.command()
def cache(
    folder: CacheOption = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what was not used for --days, after a question.")
    ] = False,
    days: Annotated[
        float | None, typer.Option("--days", min=0, help="With --prune, and needed there: 0 deletes everything.")
    ] = None,
    yes: YesOption = False,
    json: cli_device.JsonOption = False,
) -> None:
    """List the stored stages with sizes and ages, or free their space."""
    from edgekd.cache.listing import cache_output, list_cache, prune_cache, unused
    from edgekd.cache.stage import default_cache

    place = folder or default_cache()
    if prune != (days is not None):
        raise CacheError(
            "--prune and --days N belong together: --prune --days 30 deletes what was not used for 30 days"
        )
    if days is not None:
        old = unused(place, days)
        size = sum(item.size_mb for item in old)
        question = f"{len(old)} stages of {size:.1f} MB in {place} will be deleted; builds make them again when needed."
        if old and not yes and not _ask(question):
            raise CacheError(
                f"nothing was deleted: {len(old)} stages of {size:.1f} MB; --yes deletes without a question"
            )
        typer.echo(visible(prune_cache(place, days)))
    elif json:
        _print_json(cache_output(place))
    else:
        typer.echo(visible(list_cache(place)))


@app.command()
def doctor(
    target: Annotated[
        str, typer.Option("--target", "-t", help="Also tell which figures of this target cannot be had here.")
    ] = "",
    folder: CacheOption = None,
    json: cli_device.JsonOption = False,
) -> None:
    """Say what this machine has for edgekd: versions, int8 instructions, runtimes, programs, cache, devices."""
    from edgekd.cache.stage import default_cache
    from edgekd.check.doctor import diagnose
    from edgekd.figures.outputs import DoctorOutput
    from edgekd.target import load_target

    rows = diagnose(folder or default_cache(), load_target(target) if target else None)
    if json:
        _print_json(DoctorOutput(rows=rows))
        return
    for row in rows:
        typer.echo(visible(f"{row.part:13} {row.found}"))
        if row.remedy:
            typer.echo(visible(f"{'':13} -> {row.remedy}"))


@app.command()
def recipe(
    recipe: Annotated[Path, typer.Argument(help="A folder with edgekd.toml, or a .toml file.")] = Path("."),
    set_: SetOption = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of edgekd.toml; editors complete from it.")
    ] = False,
) -> None:
    """Print a recipe with every default filled in, as JSON; or the schema of recipes."""
    from edgekd.recipe import Recipe, load_recipe

    if schema:
        import json

        typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))
        return
    typer.echo(load_recipe(recipe, set_ or ()).model_dump_json(indent=2, exclude={"folder"}))


app.add_typer(cli_device.app, name="device")
app.command()(cli_device.measure)
app.command()(cli_device.ship)


def _print_json(output: Output) -> None:
    typer.echo(output.model_dump_json(indent=2))


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
