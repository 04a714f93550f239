"""`edgekd.build`: builds a bundle and its report from a recipe and a target. A current bundle is not built again."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgekd.base.console import recorded, say
from edgekd.base.names import folder_problem
from edgekd.base.references import forget_changed
from edgekd.base.toml_file import Mistake, refuse
from edgekd.bundle.drafts import remove_drafts
from edgekd.cache.fingerprint import current_report, fingerprint
from edgekd.cache.stage import Cache, default_cache
from edgekd.check.settings import check_inputs
from edgekd.errors import ModelError, RecipeError
from edgekd.figures.figures import Report
from edgekd.recipe import FILE, Recipe, load_recipe
from edgekd.recipe.losses import check_losses
from edgekd.target import Target, load_target

if TYPE_CHECKING:
    from edgekd.measure.protocol import Timing


class Built(NamedTuple):
    """A build's report, the bundle's folder, and whether it was built now (`is_new`) or was current already."""

    report: Report
    folder: Path
    is_new: bool


DEMO = Path(__file__).parent / "demo.toml"


def build(
    recipe: Recipe | Path | str,
    target: Target | str,
    *,
    overrides: Sequence[str] = (),
    output: Path | str = "build",
    cache: Path | str | None = None,
    device: str = "",
    ask: Callable[[str], bool] = lambda question: False,
    timing: Timing | None = None,
) -> Report:
    """Build the bundle `output/<recipe>/<target>` and return its report.

    recipe: a Recipe, a folder with edgekd.toml or a .toml file; target: a Target, its name or a .toml file; overrides,
    device: as `--set` and `--device` on the command line; ask: answers the question whether to go on in a doubtful case, by
    default with no; timing: how long the candidates are timed here, by default as the protocol says. A bundle that is current
    is not timed again. Raises EdgekdError.
    """
    opened = _checked(recipe, overrides) if isinstance(recipe, Recipe) else _load(Path(recipe), overrides)
    place = Path(cache) if cache else None
    built = _build(opened, target, Path(output), place, recheck=False, ask=ask, device=device, timing=timing)
    return built.report


def build_bundle(
    path: Path | None,
    target: str,
    overrides: Sequence[str],
    output: Path,
    cache: Path | None,
    *,
    recheck: bool,
    ask: Callable[[str], bool],
    device: str = "",
    timing: Timing | None = None,
) -> Built:
    """Build as `build` does, or build the demo if no recipe is given or found."""
    if path is None and not Path(FILE).exists():
        say(f"no {FILE} in this folder and no recipe given: building the demo, scikit-learn's handwritten digits")
        say("(`edgekd init` writes a recipe for your own data)")
        path = DEMO
    opened = _load(path, overrides)
    return _build(opened, target, output, cache, recheck=recheck, ask=ask, device=device, timing=timing)


def _load(path: Path | None, overrides: Sequence[str]) -> Recipe:
    """The recipe. The methods' signatures need an import of torch, so they are read only if a loss must be checked."""
    try:
        recipe = load_recipe(path, overrides)
        if all(loss.method == "kd" and not loss.options and not loss.layers for loss in recipe.distill.losses):
            return recipe
    except RecipeError:
        pass  # raised again below, together with the mistakes in the losses
    from edgekd.distill.methods import METHODS
    from edgekd.distill.own import own_method

    forget_changed()
    return load_recipe(path, overrides, METHODS, own_method)


def _checked(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe, after a check of its losses: a recipe made in Python has unchecked options. Raises RecipeError."""
    from edgekd.distill.methods import METHODS
    from edgekd.distill.own import own_method

    if overrides:
        raise RecipeError("overrides change a recipe's file; change a Recipe with recipe.model_copy(update=...)")
    forget_changed()
    mistakes = check_losses(recipe.located().distill.losses, METHODS, own_method)
    refuse(f"recipe {recipe.name}", [Mistake("", mistake) for mistake in mistakes])
    return recipe


def check_names(recipe: str, target: str) -> None:
    """Raise RecipeError for a name that cannot name a folder.

    Objects that were copied or made without validation are checked here too.
    """
    for what, name in (("recipe", recipe), ("target", target)):
        if problem := folder_problem(name):
            raise RecipeError(f"the {what}'s name is {name[:60]!a}; {problem}")


def line_of(error: BaseException) -> str:
    """The file and line that raised an exception."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"


def _build(
    recipe: Recipe,
    target: Target | str,
    output: Path,
    cache: Path | None,
    *,
    recheck: bool,
    ask: Callable[[str], bool],
    device: str,
    timing: Timing | None,
) -> Built:
    goal = target if isinstance(target, Target) else load_target(target)
    check_names(recipe.name, goal.name)
    recipe = recipe.located()
    check_inputs(recipe, goal)
    folder = output / recipe.name / goal.name
    remove_drafts(folder)
    with Cache(cache or default_cache(), f"{recipe.name} for {goal.name}", recheck=recheck) as run:
        made = None if recheck else current_report(folder, fingerprint(recipe, goal, run))
        if made is not None and (not device or device in {measured.device for measured in made.devices}):
            return Built(made, folder, is_new=False)
        from edgekd.check.names import check_known

        check_known(recipe)
        if device:  # a device that cannot measure is refused before anything is trained
            from edgekd.measure.on_candidates import check_device

            check_device(device, goal)
        from edgekd.measure.protocol import PROTOCOL
        from edgekd.pipeline import build as run_pipeline

        try:
            with recorded():
                say(f"{recipe.name} for {goal.title}, stages kept in {run.folder}")
                report = run_pipeline(recipe, goal, run, folder, ask, device, timing or PROTOCOL)
        except SystemExit as end:  # the user's code, for example a forward, called sys.exit
            raise ModelError(
                f"the build was ended by sys.exit({end.code!r}) in {line_of(end)}; what a recipe names must return or raise"
            ) from end
        return Built(report, folder, is_new=True)
