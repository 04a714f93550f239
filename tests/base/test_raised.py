"""The line that is told of an exception is the user's, not that of a library or of edgekd."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.base.raised import line_of_user
from edgekd.base.references import load_function
from edgekd.errors import ModelError


def test_the_line_is_the_last_one_that_is_no_librarys(tmp_path: Path) -> None:
    file = tmp_path / "reads.py"
    file.write_text("import json\n\ndef read():\n    return inner()\n\ndef inner():\n    return json.loads('{')\n")
    with pytest.raises(ValueError, match="Expecting") as caught:
        load_function(f"python:{file}:read")()
    assert line_of_user(caught.value) == f"{file}, line 7"


def test_an_exception_without_code_of_the_user_has_no_line() -> None:
    assert line_of_user(ValueError("never raised")) == ""


def test_a_file_that_fails_when_imported_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(ModelError, match=rf"fails when imported in {tmp_path}/fails.py, line 2: ZeroDivisionError"):
        load_function(f"python:{tmp_path}/fails.py:make")
