"""The README's examples run as they stand."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from edgekd.distill.methods import METHODS
from edgekd.export.lint import RULES
from edgekd.recipe import load_recipe
from edgekd.recipe.schemes import SCHEMES
from edgekd.scripts.build_engine import Options
from edgekd.tasks import TASKS

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


DISTILLATION = (Path(__file__).parent.parent / "docs" / "distillation.md").read_text()
QUANTIZATION = (Path(__file__).parent.parent / "docs" / "quantization.md").read_text()
LOOPS = re.findall(r"```python\n(.*?)```", DISTILLATION + QUANTIZATION, re.DOTALL)


@pytest.mark.parametrize("code", [*(code for code in blocks("python") if "edgekd.build" not in code), *LOOPS])
def test_a_python_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_task_of_the_page_of_own_kinds_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks are one program; the entry that it makes in TASKS is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TASKS, "angle", TASKS["regress"])
    page = (Path(__file__).parent.parent / "docs" / "own-kind.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    made = {"__name__": "__main__"}
    exec(compile(code, "own-kind.md", "exec"), made)
    assert TASKS["angle"].__self__ is made["Angle"]  # type: ignore[attr-defined]
    assert float(capsys.readouterr().out.split(" °")[0]) < 15  # a direction at random is 90° off


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (recipe,) = blocks("toml")
    (tmp_path / "edgekd.toml").write_text(recipe)
    assert load_recipe(tmp_path).distill.epochs == 60
    assert len(recipe.splitlines()) <= 25


def test_the_reference_of_the_recipe_is_that_of_the_code() -> None:
    docs = Path(__file__).parent.parent / "docs"
    made = runpy.run_path(str(docs / "make_recipe.py"))["reference"]()
    assert (docs / "recipe.md").read_text() == made, "run python docs/make_recipe.py"


def test_the_page_of_json_is_that_of_the_records() -> None:
    docs = Path(__file__).parent.parent / "docs"
    made = runpy.run_path(str(docs / "make_json.py"))["reference"]()
    assert (docs / "json.md").read_text() == made, "run python docs/make_json.py"


def test_the_page_of_commands_is_that_of_the_command_line() -> None:
    docs = Path(__file__).parent.parent / "docs"
    made = runpy.run_path(str(docs / "make_commands.py"))["reference"]()
    assert (docs / "commands.md").read_text() == made, "run python docs/make_commands.py"


def test_every_page_stands_in_the_site_s_navigation_and_every_named_page_exists() -> None:
    root = Path(__file__).parent.parent
    pages = {page.name for page in (root / "docs").glob("*.md")}
    navigation = set(re.findall(r"[\w-]+\.md", (root / "mkdocs.yml").read_text().partition("nav:")[2]))
    assert navigation == pages | {"index.md", "benchmarks.md", "changelog.md"}
    texts = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").glob("*.md")]
    named = {name for text in texts for name in re.findall(r"docs/([\w-]+\.md)", text.read_text())}
    linked = {
        name for page in (root / "docs").glob("*.md") for name in re.findall(r"\]\(([\w-]+\.md)", page.read_text())
    }
    assert named | linked <= pages and len(linked) > 5


def test_the_docs_name_every_method_and_scheme_and_their_recipe_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "distillation.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))
    assert set(METHODS) <= named and set(SCHEMES) <= named
    snippet, task = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (recipe,) = blocks("toml")
    (tmp_path / "edgekd.toml").write_text(recipe.replace("[distill]\nepochs = 60\nbatch_size = 64\n", snippet))
    losses = load_recipe(tmp_path, methods=METHODS).distill.losses
    assert [loss.method for loss in losses] == ["kd", "reviewkd"]
    (tmp_path / "edgekd.toml").write_text(recipe + task)
    assert [task.name for task in load_recipe(tmp_path).tasks] == ["vehicle"]


def test_the_docs_name_every_rule_of_lint_and_every_option_of_the_engine_builder_that_they_speak_of() -> None:
    text = (Path(__file__).parent.parent / "docs" / "lint-and-tensorrt.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))
    assert {rule.__name__ for rules in RULES.values() for rule in rules} <= named
    options = {f"--{field.name.replace('_', '-')}" for field in fields(Options)} | {
        "--trtexec",
        "--target",
        "--samples",
        "--dla",
        "--shape",
    }
    assert set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w-])", text.split("## trtexec")[0])) <= options | {
        "--engine",
        "--verify",
    }


def test_the_commands_of_the_first_lines_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for command in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    root = Path(__file__).parent.parent
    rows = [row for row in (root / "docs" / "trust.md").read_text().splitlines() if row.startswith("| ")][1:]
    named = [re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?[^`]*`", row.rsplit(" | ", 1)[-1]) for row in rows]
    assert len(rows) > 70 and all(named)
    for path, test in (one for row in named for one in row):
        assert re.search(rf"^def {test}" if test else "^def test_", (root / path).read_text(), re.MULTILINE), (
            path,
            test,
        )


def test_every_file_that_the_documentation_names_is_there() -> None:
    """A moved module leaves no page behind that sends its reader into the void."""
    root = Path(__file__).parent.parent
    pages = [
        root / "README.md",
        root / "CONTRIBUTING.md",
        root / "benchmarks" / "README.md",
        *(root / "docs").glob("*.md"),
    ]
    named = re.compile(r"(?<![\w/.])((?:edgekd|tests|benchmarks|docs|targets|examples)/[\w./-]*\w\.(?:py|md|toml|j2))")
    gone = [
        f"{page.name}: {name}"
        for page in pages
        for name in named.findall(page.read_text())
        if not (root / name).exists() and "NAME" not in name and "KIND" not in name
    ]
    assert not gone
