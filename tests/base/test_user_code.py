"""What of the user's code counts: found from its text, in every way that one file takes in another."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.base.references import forget_changed, load_function
from edgekd.base.user_code import code_of, version_of
from edgekd.cache.stage import Cache
from edgekd.recipe import Model


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; the modules that a test loads from it are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        file = folder / f"{name.replace('__in__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_modules_are_followed_through_every_form_of_import(project: Path) -> None:
    write(
        project,
        net="import aa\ndef make():\n    from bb import x\n    import_module('cc')\n",
        aa="from pkg import part\nfrom pkg2 import *\n",
        bb="import ns.deep\n",
        cc="",
        pkg__in____init__="",
        pkg__in__part="from . import near\nfrom .sub.far import y\n",
        pkg__in__near="",
        pkg__in__sub__in____init__="",
        pkg__in__sub__in__far="from ...pkg import near\n",
        pkg2__in____init__="",
        pkg2__in__all_of_it="",
        ns__in__deep="",
        unrelated="",
    )
    found = code_of("python:net.py:make")
    assert set(found.modules) == {
        "net.py", "aa", "bb", "cc", "pkg", "pkg.part", "pkg.near", "pkg.sub", "pkg.sub.far", "pkg2", "pkg2.all_of_it", "ns.deep",
    }  # fmt: skip


def test_what_is_installed_counts_by_its_version_and_python_itself_does_not(project: Path) -> None:
    write(project, net="import json\nimport torch.nn\nfrom PIL import Image\nimport edgekd.recipe\nimport not_there\n")
    found = code_of("python:net:make")
    assert set(found.modules) == {"net"} and found.libraries == {"torch", "PIL"}
    assert version_of("PIL") == version_of("pillow") != "absent"


def test_modules_in_folders_that_the_text_puts_on_the_path_count(project: Path) -> None:
    here = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, str(Path(__file__).parent / 'lib'))\nimport inner\n"
    )
    write(project / "src", net=here, lib__in__inner="import beside\n", lib__in__beside="")
    assert set(code_of(f"python:{project}/src/net.py:make").modules) == {"net.py", "inner", "beside"}


def test_files_that_the_text_names_count(project: Path) -> None:
    write(project, net="import json\nWIDTHS = json.load(open('widths.json'))\n")
    (project / "widths.json").write_text("[8]")
    model = Model(model=f"python:{project}/net.py:make")
    before = Cache(project / "cache").describe(model)
    (project / "widths.json").write_text("[9]")
    assert Cache(project / "cache").describe(model) != before


@pytest.mark.parametrize(
    "text", ["def make(:\n", "x = " + "(" * 500, "import net\n", "\0", "from . import y\nfrom ..... import z\n"]
)
def test_a_text_that_cannot_be_read_or_imports_itself_counts_for_itself(project: Path, text: str) -> None:
    write(project, net=text)
    assert set(code_of("python:net.py:make").modules) - {"net"} == {"net.py"}


def test_a_change_of_an_imported_module_changes_the_key_and_where_the_folder_lies_does_not(project: Path) -> None:
    for place in ("one", "two"):
        write(project / place, net="import helper\n", helper="WIDTH = 8\n")

    def key(place: str) -> object:
        return Cache(project / "cache").describe(Model(model=f"python:{project}/{place}/net.py:make"))

    before = key("one")
    assert before == key("two")
    write(project / "one", helper="WIDTH = 9\n")
    assert key("one") != before


def test_code_is_loaded_once_a_build_and_anew_for_the_next(project: Path) -> None:
    write(project, net="import lately\ndef make():\n    return lately.WIDTH\n", lately="WIDTH = 8\n")
    reference = f"python:{project}/net.py:make"
    assert load_function(reference)() == 8
    write(project, lately="WIDTH = 24\n")
    assert load_function(reference)() == 8
    forget_changed()
    assert load_function(reference)() == 24


def test_bytecode_of_another_text_of_the_same_size_and_second_does_not_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python itself would run it: it compares the size and the second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    second = int(time.time()) - 100
    write(project, aged="WIDTH = 8\n", net="import aged\ndef make():\n    return aged.WIDTH\n")
    os.utime(project / "aged.py", (second, second))
    assert load_function(f"python:{project}/net.py:make")() == 8
    assert list((project / "__pycache__").glob("aged.*"))
    write(project, aged="WIDTH = 9\n")
    os.utime(project / "aged.py", (second, second))
    forget_changed()
    assert load_function(f"python:{project}/net.py:make")() == 9
