"""The cache: what makes a key, what is kept, and what damage, kills and full disks do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgekd.cache.listing import list_cache, prune_cache
from edgekd.cache.stage import Artifact, Cache, damage, stage
from edgekd.errors import CacheError
from edgekd.recipe import Data, Model, Source

RUNS: list[str] = []


@stage(1)
def first(text: str, *, out: Path) -> None:
    RUNS.append("first")
    (out / "a.txt").write_text(text)


@stage(1)
def second(before: Artifact, number: int, *, out: Path) -> None:
    RUNS.append("second")
    (out / "b.txt").write_text((before / "a.txt").read_text() * number)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


def test_a_stage_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    for _ in range(2):
        run = Cache(tmp_path)
        made = run(second, run(first, "x"), 3)
        assert (made / "b.txt").read_text() == "xxx"
    assert RUNS == ["first", "second"]


@stage(1, of="network")
def trained(samples: Artifact, network: Model, *, out: Path) -> None:
    (out / "weights").write_text(network.model)


@stage(1, of="model")
def scored(model: Artifact, *, out: Path) -> None:
    (out / "score").write_text("1")


def test_the_lineage_says_which_model_a_stage_is_of_without_the_users_folders(tmp_path: Path) -> None:
    """Two models go through the same stages, and their rows differ. What is of no model says nothing."""
    code = tmp_path / "secret" / "net.py"
    code.parent.mkdir()
    code.write_text("def small(): ...")
    run = Cache(tmp_path / "cache")
    samples = run(first, "x")
    for model in (Model(model="edgekd:resnet8", args={"width": 8}), Model(model=f"python:{code}:small")):
        run(scored, run(trained, samples, model))
    told = [(row["name"], row["model"]) for row in (artifact.lineage() for artifact in run.artifacts)]
    assert told == [
        ("first", ""),
        ("trained", "edgekd:resnet8 (width 8)"),
        ("scored", "edgekd:resnet8 (width 8), from trained"),
        ("trained", "python:net.py:small"),
        ("scored", "python:net.py:small, from trained"),
    ]


def test_the_order_of_a_table_is_part_of_the_key(tmp_path: Path) -> None:
    """Layers stand from shallow to deep, and a method reads them so."""
    run = Cache(tmp_path)
    assert run.key(first, {"a": 1, "b": 2}) != run.key(first, {"b": 2, "a": 1})


def test_another_input_version_or_upstream_artifact_makes_another_key(tmp_path: Path) -> None:
    run = Cache(tmp_path)
    a, b = run(first, "x"), run(first, "y")

    @stage(2)
    def newer(text: str, *, out: Path) -> None: ...

    newer.__name__ = "first"
    keys = {run.key(first, "x"), run.key(first, "y"), run.key(newer, "x")}
    assert len(keys) == 3
    assert run.key(second, a, 1) != run.key(second, b, 1)


def test_a_files_content_enters_the_key_and_its_path_does_not(tmp_path: Path) -> None:
    run = Cache(tmp_path / "cache")
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "w.safetensors").write_text("same")
    models = [
        Model(model="edgekd:resnet8", weights=str(tmp_path / place / "w.safetensors")) for place in ("one", "two")
    ]
    assert run.describe(models[0]) == run.describe(models[1])
    (tmp_path / "two" / "w.safetensors").write_text("other")
    later = Cache(tmp_path / "cache")
    assert later.describe(models[0]) != later.describe(models[1])


def test_the_content_of_a_module_that_is_named_enters_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_networks.py").write_text("a = 1")
    before = Cache(tmp_path / "cache").describe(Model(model="python:my_networks:build"))
    (tmp_path / "my_networks.py").write_text("a = 22")
    assert Cache(tmp_path / "cache").describe(Model(model="python:my_networks:build")) != before


def test_a_folder_is_described_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.png").write_text("x")
    data = Source(files=str(tmp_path / "train"))
    before = Cache(tmp_path / "cache").describe(data)
    (tmp_path / "train" / "cat" / "2.png").write_text("y")
    assert Cache(tmp_path / "cache").describe(data) != before


def test_a_setting_that_shapes_nothing_is_in_no_key(tmp_path: Path) -> None:
    run = Cache(tmp_path)
    data: dict[str, str] = {"train": "a", "test": "b"}
    assert run.describe(Data(**data, store_gb=1)) == run.describe(Data(**data, store_gb=2))
    assert run.describe(Data(**data, seed=1)) != run.describe(Data(**data, seed=2))


def test_a_changed_byte_is_said_and_the_artifact_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = Cache(tmp_path)(first, "x")
    (artifact / "a.txt").write_text("z")
    again = Cache(tmp_path)(first, "x")
    assert (again / "a.txt").read_text() == "x"
    assert RUNS == ["first", "first"] and "a.txt has another content" in capsys.readouterr().err


def test_rot_that_leaves_size_and_time_is_found_before_another_stage_reads_it(tmp_path: Path) -> None:
    artifact = Cache(tmp_path)(first, "x")
    (artifact / "a.txt").write_text("z")
    state = (artifact / "a.txt").stat()
    stamp = json.loads((artifact / "artifact.json").read_text())
    stamp["files"]["a.txt"] |= {"mtime_ns": state.st_mtime_ns, "ctime_ns": state.st_ctime_ns}  # as rot would leave it
    (artifact / "artifact.json").write_text(json.dumps(stamp))
    assert damage(artifact.folder, thorough=False) is None
    run = Cache(tmp_path)
    assert (run(second, run(first, "x"), 2) / "b.txt").read_text() == "xx"


DAMAGED = {
    "a list": "[]", "null": "null", "brackets": "[" * 100_000, "objects": '{"a":' * 100_000, "cut": '{"name": "first", "key"',
    "empty": "", "a long number": "1" * 100_000, "no text": "\udcff", "no files": '{"files": 3}',
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_stamp_is_said_and_the_artifact_made_again(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = Cache(tmp_path)(first, "x")
    (artifact / "artifact.json").write_bytes(text.encode(errors="surrogateescape"))
    assert artifact.folder.name in list_cache(tmp_path)
    assert (Cache(tmp_path)(first, "x") / "a.txt").read_text() == "x"
    assert RUNS == ["first", "first"] and "damaged (artifact.json" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["name", "key", "seconds", "files", "size", "mtime_ns", "ctime_ns", "sha256", "path"])
@pytest.mark.parametrize("value", [[], None, -1, 10**400, "x\0", {"a": {}}, True], ids=str)
def test_a_stamp_of_any_values_is_read_or_made_again(tmp_path: Path, part: str, value: Any) -> None:
    artifact = Cache(tmp_path)(first, "x")
    stamp = json.loads((artifact / "artifact.json").read_text())
    if part == "path":
        stamp["files"][str(value)] = stamp["files"].pop("a.txt")
    elif part in stamp:
        stamp[part] = value
    else:
        stamp["files"]["a.txt"][part] = value
    (artifact / "artifact.json").write_text(json.dumps(stamp))
    assert (Cache(tmp_path)(first, "x") / "a.txt").read_text() == "x"


def test_whatever_stands_in_an_artifacts_place_is_removed(tmp_path: Path) -> None:
    folder = Cache(tmp_path)(first, "x").folder

    def folder_of_stamps() -> None:
        (folder / "artifact.json").mkdir(parents=True)

    def pipe() -> None:
        folder.mkdir()
        os.mkfifo(folder / "artifact.json")

    draft = tmp_path / f".draft-{folder.name}"
    for spoil in (
        lambda: folder.write_text("x"), lambda: folder.symlink_to("nowhere"), folder_of_stamps, pipe, lambda: draft.write_text("x"),
        lambda: draft.symlink_to("nowhere"),
    ):  # fmt: skip
        shutil.rmtree(folder)
        spoil()
        assert (Cache(tmp_path)(first, "x") / "a.txt").read_text() == "x"
    assert len(RUNS) == 7


KILLED = """
import os, signal, sys
from pathlib import Path
from edgekd.cache.stage import Cache, stage
@stage(1)
def slow(*, out):
    (out / "scratch" / "checkpoint").write_text("x")
    with open(Path(sys.argv[1]).parent / "times", "a") as times:
        times.write("x")
    (out / "a.txt").write_text("x")
def hook(event, words):
    global at
    if event not in ("os.rename", "os.rmdir", "os.remove"):
        return
    at -= 1
    if at < 0:
        os.kill(os.getpid(), signal.SIGKILL)
run = Cache(Path(sys.argv[1]))
at = int(sys.argv[2])
sys.addaudithook(hook)
run(slow)
"""


@pytest.mark.parametrize("point", range(5))
def test_a_kill_at_any_change_of_names_makes_nothing_twice_and_leaves_nothing(tmp_path: Path, point: int) -> None:
    """The stamp's rename, the checkpoint, its folder, the draft's rename; then one that comes too late."""
    cache = tmp_path / "cache"

    def run(at: int) -> int:
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(cache), str(at)], check=False, capture_output=True
        ).returncode

    ended = run(point)
    assert ended == (0 if point == 4 else -signal.SIGKILL)
    assert run(1000) == 0
    # before its stamp a draft is not complete: that alone is made again
    assert (tmp_path / "times").read_text() == ("xx" if point == 0 else "x")
    (artifact,) = cache.glob("slow-*")
    assert {path.name for path in artifact.iterdir()} == {"artifact.json", "a.txt"}
    assert list(json.loads((artifact / "artifact.json").read_text())["files"]) == ["a.txt"]
    assert not list(cache.glob(".draft-*")) and not list(cache.rglob("*.draft"))


def test_what_dead_builds_left_goes_and_what_running_ones_have_stays(tmp_path: Path) -> None:
    with Cache(tmp_path) as run:
        made = run(first, "x")
        dead, own = tmp_path / ".hashes.json.999999999.draft", tmp_path / f".hashes.json.{os.getpid()}.draft"
        left, unfinished = tmp_path / f".draft-{made.folder.name}", tmp_path / ".draft-second-0123"
        for file in (dead, own):
            file.write_text("x")
        for folder in (left, unfinished):
            folder.mkdir()
        with Cache(tmp_path):
            assert own.exists() and not dead.exists() and unfinished.exists() and not left.exists()
    Cache(tmp_path).close()
    assert not own.exists() and unfinished.exists() and len(list((tmp_path / ".locks").glob("in-use-*"))) <= 1


def test_what_was_half_written_in_a_draft_is_not_stored(tmp_path: Path) -> None:
    """An exporter killed in its own draft of a file or of a folder."""
    run = Cache(tmp_path)
    draft = tmp_path / f".draft-first-{run.key(first, 'x')[:20]}"
    (draft / ".model.onnx.draft-abc").mkdir(parents=True)
    (draft / ".model.onnx.draft-abc" / "model.onnx").write_text("half")
    (draft / ".a.txt.77.draft").write_text("half")
    assert {path.name for path in run(first, "x").folder.iterdir()} == {"a.txt", "artifact.json"}


@stage(1)
def weigh(model: Model, *, out: Path) -> None:
    RUNS.append("weigh")
    weights = Path(str(model.weights))
    (out / "a.txt").write_text(weights.read_text())
    if "edited" in model.args:
        weights.write_text("new")


def test_a_file_that_changes_while_a_stage_reads_it_is_told_and_the_stage_is_not_stored(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_text("old")
    model = Model(model="edgekd:resnet8", weights=str(file), args={"edited": True})
    with pytest.raises(CacheError, match=r"w\.safetensors .*'weigh'.*build again"):
        Cache(tmp_path / "cache")(weigh, model)
    assert not list((tmp_path / "cache").glob("*weigh-*"))
    assert (Cache(tmp_path / "cache")(weigh, model) / "a.txt").read_text() == "new"


def test_a_file_that_changed_before_a_stage_of_the_same_build_reads_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_text("old")
    model = Model(model="edgekd:resnet8", weights=str(file))
    run = Cache(tmp_path / "cache")
    before = run.describe(model)
    file.write_text("new")
    assert run.describe(model) == before and run.changed() == [str(file)]
    with pytest.raises(CacheError, match=r"w\.safetensors .*build again"):
        run(weigh, model)
    assert RUNS == []


def test_the_code_that_counts_is_listed(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import shapes_of_mine\nopen('widths.json')\n")
    (tmp_path / "shapes_of_mine.py").write_text("import json")
    (tmp_path / "widths.json").write_text("[]")
    run = Cache(tmp_path / "cache")
    run.describe(Model(model=f"python:{tmp_path}/net.py:make"))
    run.describe(Source(files="python:edgekd.data.digits:load"))
    assert run.user_code() == ["net.py", "shapes_of_mine", "widths.json"]


def test_recheck_reads_every_byte_of_what_is_stored_and_what_is_given(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_text("old")
    cache = tmp_path / "cache"
    made = Cache(cache)(weigh, Model(model="edgekd:resnet8", weights=str(file)))
    stamp = json.loads((made / "artifact.json").read_text())
    (made / "a.txt").write_text("rot")
    state = (made / "a.txt").stat()
    stamp["files"]["a.txt"] |= {"mtime_ns": state.st_mtime_ns, "ctime_ns": state.st_ctime_ns}
    (made / "artifact.json").write_text(json.dumps(stamp))
    model = Model(model="edgekd:resnet8", weights=str(file))
    assert (Cache(cache)(weigh, model) / "a.txt").read_text() == "rot"
    assert (Cache(cache, recheck=True)(weigh, model) / "a.txt").read_text() == "old"


def test_a_stage_that_failed_leaves_no_artifact_and_finds_its_draft_again(tmp_path: Path) -> None:
    class Fails:
        times: ClassVar[int] = 0

    @stage(1)
    def third(*, out: Path) -> None:
        steps = out / "steps"
        done = int(steps.read_text()) if steps.exists() else 0
        steps.write_text(str(done + 1))
        Fails.times += 1
        if Fails.times == 1:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        Cache(tmp_path)(third)
    assert not list(tmp_path.glob("third-*"))
    assert (Cache(tmp_path)(third) / "steps").read_text() == "2"


def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    @stage(1)
    def full(*, out: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(out))

    with pytest.raises(CacheError, match=r"no space .*--prune"):
        Cache(tmp_path)(full)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_weights_that_a_full_disk_does_not_take_are_told_as_that(small_disk: Path) -> None:
    """safetensors and torch tell of a full disk in exceptions of their own."""
    import safetensors.torch
    import torch

    @stage(1)
    def saves(*, out: Path) -> None:
        safetensors.torch.save_file({"w": torch.zeros(1_000_000)}, out / "w.safetensors")

    with pytest.raises(CacheError, match=r"no space .*--prune"):
        Cache(small_disk)(saves)
    assert not list(small_disk.glob("saves-*"))


def test_a_cache_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"file/cache: .*--cache"):
        Cache(tmp_path / "file" / "cache")


HOLDER = """
import sys, time
from pathlib import Path
from edgekd.cache.stage import Cache, stage
@stage(1)
def slow(*, out):
    print("holding", flush=True)
    time.sleep(60)
Cache(Path(sys.argv[1]))(slow)
"""


def test_two_builds_of_the_same_stage_do_not_meet(tmp_path: Path) -> None:
    @stage(1)
    def slow(*, out: Path) -> None: ...

    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "holding\n"
        with pytest.raises(CacheError, match=rf"process {other.pid}\) .*'slow'.*--cache"):
            Cache(tmp_path)(slow)
        other.kill()
    assert Cache(tmp_path)(slow).folder.is_dir()


def test_pruning_frees_what_was_not_used_for_the_days_given(tmp_path: Path) -> None:
    with Cache(tmp_path) as run:
        old, new = run(first, "old"), run(first, "new")
        with pytest.raises(CacheError, match=r"process \d+\) .*prune when"):
            prune_cache(tmp_path, days=0)
    week_ago = time.time() - 7 * 86400
    os.utime(old / "artifact.json", (week_ago, week_ago))
    assert old.folder.name in list_cache(tmp_path) and "7 d" in list_cache(tmp_path)
    prune_cache(tmp_path, days=1)
    assert not old.folder.exists() and new.folder.exists()
    prune_cache(tmp_path, days=0)
    assert not new.folder.exists()
