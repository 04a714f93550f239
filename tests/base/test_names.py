"""Names and texts of recipes, targets and classes are checked as folders and for what cannot be seen, before anything is trained."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from edgekd import build
from edgekd.api import DEMO
from edgekd.base.names import class_problem, folder_problem, text_problem, visible
from edgekd.bundle.read import read_report
from edgekd.cli import main
from edgekd.errors import RecipeError
from edgekd.recipe import load_recipe
from edgekd.target import load_target
from tests.builders.bundles import write

DIGITS = DEMO.read_text()
BOX = (Path(__file__).parents[2] / "targets" / "raspberry-pi-5.toml").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", " ", ". .", "../x", "a/b", "/etc", "a\\b", "..\\x", "a\0b", "a\nb", "a\rb", "\x1b[2Jx", "x\x7f", "x\x9b2J",
        "a\u202eb", "a\u2066b", "a\u200bb", "a\ufeffb", "a\u2028b", "a\udce9b", "con", "NUL.txt", "COM1", "x.", "x ", " x",
        "x" * 201, "ж" * 101,
    ],
)  # fmt: skip
def test_a_name_that_is_no_folder_of_its_own_is_told(name: str) -> None:
    assert folder_problem(name)


@pytest.mark.parametrize(
    "name", ["digits", "my model v2.1", ".hidden", "жук", "猫と犬", "می‌خواهم", "x" * 200, "-rf", "a..b", "~"]
)
def test_other_names_are_taken(name: str) -> None:
    """Letters of any script, and the joiner that Persian is written with."""
    assert folder_problem(name) == "" and text_problem(name) == ""


@pytest.mark.parametrize(
    "names", [[""], ["  "], ["cat", None], ["cat", 3.5], ["cat\n"], ["\u202ecat"], ["x" * 501], ["\udce9"]]
)
def test_a_class_name_that_cannot_be_shown_is_told_with_its_number(names: list[object]) -> None:
    assert f"class {len(names) - 1}" in class_problem(["ok", *names][1:])


def test_what_a_terminal_shows_holds_no_control_characters() -> None:
    assert visible("a\x1b[2J\u202eb\udce9\nc") == "a\\x1b[2J\\u202eb\\udce9\nc"


def recipe(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "r.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, *overrides: str) -> str:
    """What a recipe's mistake is told as; within seconds, without control characters."""
    start = time.process_time()
    with pytest.raises(RecipeError) as told:
        load_recipe(file, overrides)
    assert time.process_time() - start < 10 and str(told.value).replace("\n", "").isprintable()
    return str(told.value)


@pytest.mark.parametrize("name", ["../../x", "a\\u0000b", "\\u001b[2J", "\\u202Ex", "nul", "x" * 300, ""])
def test_a_recipe_s_name_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    assert "r.toml:2 name" in refusal(recipe(tmp_path, DIGITS.replace('name = "digits"', f'name = "{name}"')))


@pytest.mark.parametrize("key", ["name", "aliases", "title", "notes", "hardware.cpu"])
def test_a_target_s_texts_are_refused_with_their_keys(key: str, tmp_path: Path) -> None:
    """The bundle's folder is called by its name, and all are shown on terminals."""
    lines = {"name": 'name = "../../x"', "aliases": 'aliases = ["ok", ".."]', "title": 'title = "a\\u001b[2J"'}
    lines |= {"notes": 'notes = ["\\u202Ea"]', "hardware.cpu": 'cpu = "a\\u0007"'}
    word = key.rpartition(".")[2]
    kept = [line for line in BOX.replace("notes = [\n", "notes = [").split("\n") if not line.startswith(word + " =")]
    if key == "notes":
        kept = [line for line in kept if not line.startswith('    "') and line != "]"]
    kept.insert(kept.index("[hardware]") + 1 if "." in key else 0, lines[key])
    file = tmp_path / "box.toml"
    file.write_text("\n".join(kept))
    with pytest.raises(RecipeError, match=rf"box\.toml:\d+ {key}"):
        load_target(str(file))


def test_a_name_that_was_never_validated_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """In Python a copy of a recipe or of a target is not validated."""
    digits, box = load_recipe(DEMO), load_target("x86-cpu")
    for given, target in (
        (digits.model_copy(update={"name": "../../x"}), box), (digits, box.model_copy(update={"name": "/tmp/x"})),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=r"name.* no / or"):
            build(given, target, output=tmp_path / "out", cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text, told",
    [
        (f"\n[x]\na = {'[' * 100_000}", "nested deeper than 50"),
        (f"\n[x]\na = {'{a=' * 100_000}", "nested deeper than 50"),
        (f"\n[x]\na = {'[' * 60}{']' * 60}", "x.a.0: nested deeper than 50"),
        (f"\n[x]\n{'.'.join('a' * 60)} = 1", "nested deeper than 50"),
        (f"\n[x]\n{'.'.join('a' * 100_000)} = 1", "more than 100 steps"),
        (f"\n[{'.'.join('a' * 100_000)}]\n", "more than 100 steps"),
        (f"\n[x]\na = {'9' * 5000}", "a: a number of more than 4300 digits"),
        (f"\n[x]\na = {'9' * 400}", "x.a: a number of 1329 bits"),
        (f"\n[x]\na = 0x{'f' * 9000}", "x.a: a number of 36000 bits"),
        (f"\n[x]\na = [{','.join('1' * 2000)}]\n" + "#" * (1 << 20), "larger than 1 MB"),
        ("\n[x]\na = [\n" + '"]",\n' * 50_000 + "]\n", "unknown key"),
        ("\n[x]\n\"a\\u001b[2J\" = 1", "unknown key"),
    ],
    ids=["lists", "tables", "60 lists", "60 steps", "steps", "steps of a table", "digits", "decimal", "hexadecimal", "size", "lines", "key"],
)  # fmt: skip
def test_toml_without_measure_is_refused_with_its_key(text: str, told: str, tmp_path: Path) -> None:
    head, _, rest = told.rpartition(": ")
    found = refusal(recipe(tmp_path, DIGITS + text))
    assert rest in found and head in found


@pytest.mark.parametrize(
    "override", ["x=" + "[" * 100_000, f"distill.epochs={'9' * 400}", "a." * 60 + "b=1", "x=" + "{a=" * 100_000]
)
def test_overrides_without_measure_are_refused(override: str, tmp_path: Path) -> None:
    assert "--set" in refusal(recipe(tmp_path, DIGITS), override) or "nested" in refusal(
        recipe(tmp_path, DIGITS), override
    )


@pytest.mark.parametrize(
    "setting",
    [
        "data.augment.crop_padding=2000000000", "data.augment.cutout=2000000000", "data.size=[100000,100000]",
        "distill.epochs=2000000000", "distill.views=2000000000", "distill.seed=-1", "data.synthetic.samples=2000000000",
        'data.train="a\\u0000b"', 'student.model="edgekd:resnet8\\u0007"', 'teacher.weights="\\n"',
    ],
)  # fmt: skip
def test_settings_that_no_machine_holds_are_refused(setting: str, tmp_path: Path) -> None:
    assert setting.partition("=")[0] in refusal(recipe(tmp_path, DIGITS), setting)


def test_the_command_says_it_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe(tmp_path, DIGITS.replace('name = "digits"', 'name = "a\\u001b[2Jb"'))
    monkeypatch.setattr(sys, "argv", ["edgekd", "build", str(file), "-t", "jetson", "--cache", str(tmp_path / "c")])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and "\x1b" not in said and "Traceback" not in said and "U+001B" in said
    assert not (tmp_path / "c").exists()


def test_a_report_from_elsewhere_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write(tmp_path)
    report = json.loads((bundle / "report.json").read_text())
    report["recipe"] = "a\x1b[2J\u202eb"
    (bundle / "report.json").write_text(json.dumps(report))
    assert read_report(bundle).recipe == "a\\x1b[2J\\u202eb"


def test_the_seen_inputs_are_refused(shared: Path) -> None:
    for file in sorted((shared / "faults" / "recipes").glob("*.toml")):
        refusal(file)
    with pytest.raises(RecipeError, match=r"name.* no / or"):
        load_target(str(shared / "faults" / "target-name-traversal" / "name_trav.toml"))
