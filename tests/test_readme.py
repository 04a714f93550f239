"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekd.recipe import load_recipe

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", [code for code in blocks("python") if "edgekd.build" not in code])
def test_a_python_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (recipe,) = blocks("toml")
    (tmp_path / "edgekd.toml").write_text(recipe)
    assert load_recipe(tmp_path).distill.epochs == 32
    assert len(recipe.splitlines()) <= 25


def test_the_commands_of_the_first_lines_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for command in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
