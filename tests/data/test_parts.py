"""A share of train as test: by class, by content, and stable under further samples."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edgekd.cache.stage import Cache
from edgekd.data import decode, decode_test, open_samples, open_test
from edgekd.data.parts import chosen, part_of, place
from edgekd.data.sources import open_source
from edgekd.errors import DataError, RecipeError
from edgekd.recipe import ClassifyTask, Data, Part, SegmentTask, load_recipe
from tests.builders.pictures import png
from tests.builders.sets import coloured, write_folders


def encoded(of_a_class: int, seed: int = 0) -> list[tuple[str, bytes]]:
    return [(name, png(pixels)) for name, pixels in coloured(of_a_class, seed)]


def names(folder: Path, split: str, share: float = 0.2, seed: int = 0) -> list[str]:
    part = part_of(open_source(str(folder), "train"), Part(split=split, share=share, seed=seed), "images")
    return [Path(part.name(i)).name for i in range(len(part))]


def test_a_place_is_the_first_eight_bytes_of_a_hash_of_seed_and_content() -> None:
    digest = hashlib.sha256(b"3\n" + b"content").digest()
    assert place(b"content", 3) == int.from_bytes(digest[:8], "big") / 2**64
    assert place(b"content", 4) != place(b"content", 3)


def test_rows_and_arrays_have_places_by_their_values() -> None:
    assert place({"a": 1, "b": None}, 0) == place({"b": None, "a": 1}, 0) != place({"a": 2, "b": None}, 0)
    assert place(np.zeros(4, np.int16), 0) != place(np.zeros(2, np.int32), 0)  # the same bytes


def test_every_class_of_two_or_more_is_on_both_sides() -> None:
    places = np.array([0.5, 0.6, 0.1, 0.05, 0.7, 0.15])
    labels = np.array([0, 0, 1, 1, 2, 3])
    # 0: none below 0.2, the lowest goes to test; 1: both below, the highest stays; 2 and 3: a single sample is train's
    assert chosen(places, labels, 0.2).tolist() == [True, False, False, True, False, False]


def test_both_splits_together_are_the_folder_and_share_no_sample(tmp_path: Path) -> None:
    write_folders(tmp_path, encoded(40))
    train, test = names(tmp_path, "train"), names(tmp_path, "test")
    assert len(train) + len(test) == 120 and not set(train) & set(test)
    assert 12 <= len(test) <= 36  # 24 are meant; this is three standard deviations
    assert names(tmp_path, "test", seed=1) != test


def test_further_files_and_other_names_move_no_sample(tmp_path: Path) -> None:
    few, more = encoded(40), encoded(40, seed=7)
    write_folders(tmp_path / "few", few)
    write_folders(tmp_path / "more", [*more[:60], *few, *more[60:]])  # the same files have other names

    def contents(folder: Path) -> set[bytes]:
        part = part_of(open_source(str(folder), "train"), Part(split="test", share=0.2, seed=0), "images")
        return {part.read(i) for i in range(len(part))}

    given = {content for _, content in few}
    assert contents(tmp_path / "few") == contents(tmp_path / "more") & given


def test_a_build_decodes_both_parts_of_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folders(tmp_path / "all", encoded(20))
    data = Data(train=str(tmp_path / "all"), test=0.25)
    with Cache(tmp_path / "cache") as run:
        train = run(decode, data.source("train"), ClassifyTask())
        test = run(decode_test, data.source("test"), ClassifyTask(), train)
    ours, theirs = open_samples(train.folder, data, ClassifyTask()).train, open_test(test.folder, data, ClassifyTask())
    assert len(ours) + len(theirs) == 60 and not theirs.repeated.any()
    assert set(theirs.labels.tolist()) == {0, 1, 2}
    assert f"test = 0.25: {len(theirs)} of 60 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("0", "0 given"),
        ("1", "1 given"),
        ("1.5", "1.5 given"),
        ("true", "true given"),
        ('"20 %"', '"20 %" given'),
        ("[1]", "given"),
    ],
)
def test_what_is_no_share_is_refused_with_its_line(given: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "edgekd.toml").write_text(
        f'[data]\ntrain = "all"\ntest = {given}\n[student]\nmodel = "edgekd:resnet8"\n'
    )
    with pytest.raises(RecipeError, match=r"edgekd.toml:3 data.test") as error:
        load_recipe(tmp_path)
    assert told in str(error.value) and "as 0.2" in str(error.value)


def test_masks_stay_with_their_pictures(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(20):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(draw.integers(0, 255, (4, 4, 3), np.uint8)))
        (tmp_path / "masks" / f"{i}.png").write_bytes(png(np.full((4, 4), i, np.uint8)))
    source = open_source(str(tmp_path), "train", task=SegmentTask(kind="segment", classes=("no", "yes")))
    taken = 0
    for split in ("train", "test"):
        part = part_of(source, Part(split=split, share=0.3, seed=0), "images")
        for i in range(len(part)):
            number = Path(part.name(i)).stem
            assert part.labels[i] == (tmp_path / "masks" / f"{number}.png").read_bytes()
        taken += len(part)
    assert taken == 20


def test_a_share_of_one_sample_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, [("a", b"")])
    with pytest.raises(DataError, match="has 1 images; give at least 2"):
        names(tmp_path, "train")
