"""Sounds from folders, parquet, CSV and functions: read as they are, or refused in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from edgekd.cache.stage import Artifact, Cache
from edgekd.data import decode, decode_test, open_samples, open_test
from edgekd.errors import DataError
from edgekd.recipe import AudioData, ClassifyTask
from tests.builders.sounds import TONES, tone, write_tones, write_wav


def data(train: object, test: object = "", **settings: Any) -> AudioData:
    given = {"train": str(train), "test": str(test or train), "sample_rate": 8000, "seconds": 0.5, "holdout": 0.2}
    return AudioData.model_validate({"input": "audio", **given, **settings})


def decoded(folder: Path, of: AudioData) -> tuple[Artifact, Artifact]:
    with Cache(folder / "cache") as run:
        train = run(decode, of.source("train"), ClassifyTask())
        return train, run(decode_test, of.source("test"), ClassifyTask(), train)


def parquet(folder: Path, files: list[Path], labels: list[int], names: tuple[str, ...]) -> Path:
    """As the package datasets writes it."""
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    about = {"info": {"features": {"audio": {"_type": "Audio"}, "label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table({"audio": rows, "label": labels}).replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, folder / "sounds.parquet")
    return folder / "sounds.parquet"


def test_a_folder_parquet_and_a_csv_of_the_same_files_give_the_same_arrays(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 4, 0)
    files = sorted(folder.glob("*/*.wav"))
    names = tuple(sorted(TONES))
    labels = [names.index(file.parent.name) for file in files]
    table = parquet(tmp_path, files, labels, names)
    rows = [f"{file.relative_to(tmp_path)},{file.parent.name}" for file in files]
    (tmp_path / "sounds.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    found = []
    for source in (folder, table, tmp_path / "sounds.csv"):
        settings = data(source)
        train, _ = decoded(tmp_path, settings)
        samples = open_samples(train.folder, settings, ClassifyTask())
        assert samples.classes == names and samples.train.labels.tolist() == labels
        found.append(samples.train.get(np.arange(len(files)))["waveform"])
    assert found[0].shape == (12, 4000) and found[0].dtype == np.float32
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_too_large_for_the_store_the_arrays_are_the_same(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 4, 0)
    whole, small = data(folder), data(folder, store_gb=1e-9)
    stored, encoded = decoded(tmp_path / "a", whole)[0], decoded(tmp_path / "b", small)[0]
    assert not (encoded.folder / "waveform.decoded").exists()
    ids = np.arange(12)
    a, b = (
        open_samples(each.folder, of, ClassifyTask()).train.get(ids)["waveform"]
        for each, of in ((stored, whole), (encoded, small))
    )
    np.testing.assert_array_equal(a, b)


FUNCTIONS = """
import numpy as np
def floats(split):
    return np.linspace(-1, 1, 40, dtype=np.float32).reshape(4, 10), [0, 1, 0, 1], ["a", "b"]
def whole(split):
    return [np.full(7 + i, 16384, np.int16) for i in range(4)], [0, 1, 0, 1], ["a", "b"]
def texts(split):
    return ["one", "two"], [0, 1], ["a", "b"]
"""


def test_functions_give_floats_or_int16_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    for name, expected in (("floats", np.linspace(-1, 1, 40, dtype=np.float32)[:8]), ("whole", [0.5] * 7 + [0.0])):
        settings = data(f"python:{tmp_path}/mine.py:{name}", seconds=0.001)
        samples = open_samples(decoded(tmp_path, settings)[0].folder, settings, ClassifyTask())
        np.testing.assert_array_equal(samples.train.get(np.array([0]))["waveform"][0], np.array(expected, np.float32))
    with pytest.raises(DataError, match="sounds must be int16 or float"):
        decoded(tmp_path, data(f"python:{tmp_path}/mine.py:texts"))


def test_what_was_done_to_sounds_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tones(tmp_path / "sounds", 4, 0)
    write_wav(folder / "low" / "silent.wav", np.zeros(4000))
    soundfile.write(folder / "low" / "fast.flac", tone(400, 8000, 3), 16000)
    decoded(tmp_path, data(folder, resample=True))
    told = " ".join(capsys.readouterr().err.split())
    assert "train: 1 of 14 sounds are silent (all zeros)" in told
    assert "train: 1 of 14 sounds have another rate and were resampled to 8000 Hz" in told
    assert "train: 6 of 14 sounds are shorter than 0.5 s and end in zeros" in told
    assert "train: 3 of 14 sounds are longer than 0.5 s and were cut" in told


@pytest.mark.parametrize(
    "write, told",
    [
        (lambda path: write_wav(path, np.zeros(100), rate=16000), "16000 Hz, data.sample_rate is 8000"),
        (lambda path: write_wav(path, np.zeros((100, 2))), "it has 2 channels; set data.mono"),
        (lambda path: write_wav(path, np.zeros(0)), "it holds no samples"),
        (lambda path: path.write_bytes(b"RIFF????WAVE"), "its header is damaged"),
        (
            lambda path: path.write_bytes(write_wav(path, np.zeros(100)).read_bytes()[:-20]),
            "its header tells 200 bytes",
        ),
        (lambda path: soundfile.write(path, np.array([0.0, np.nan]), 8000, "FLOAT"), "NaN or infinite"),
        (
            lambda path: soundfile.write(path, np.array([0.0, 9.0]), 8000, "FLOAT"),
            "its values reach 9; full scale is 1",
        ),
    ],
)
def test_a_sound_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, write: Any, told: str) -> None:
    folder = write_tones(tmp_path / "sounds", 2, 0)
    write(folder / "middle" / "other.wav")
    with pytest.raises(DataError) as refused:
        decoded(tmp_path, data(folder))
    assert told in str(refused.value) and "other.wav" in str(refused.value)


def test_without_seconds_all_sounds_have_one_length(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 2, 0)
    with pytest.raises(
        DataError, match=r"1\.wav has 4000 samples, the first sound of train has 3600; set data\.seconds"
    ):
        decoded(tmp_path, data(folder, seconds=None))


def test_with_skip_it_is_left_out(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 2, 0)
    (folder / "middle" / "other.wav").write_bytes(b"no sound")
    settings = data(folder, on_error="skip")
    train, test = decoded(tmp_path, settings)
    assert len(open_samples(train.folder, settings, ClassifyTask()).train) == 6
    unseen = open_test(test.folder, settings.of_test, ClassifyTask())
    assert unseen.skipped == (str(folder / "middle" / "other.wav"),) and unseen.repeated.all()


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "no column path"),
        ("sound,label\na.wav,x\n", "no column path"),
        ("path,word\na.wav,x\n", "no column label"),
        ("path,label\na.wav,\n", "row 0: no label"),
        ("file,label\n,x\n", "row 0: no file"),
        ("path,label\na.wav,x\nnowhere.wav,x\n", "row 1:"),
    ],
)
def test_a_csv_that_names_no_files_or_labels_is_refused(tmp_path: Path, text: str, told: str) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(100))
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError) as refused:
        decoded(tmp_path, data(tmp_path / "list.csv"))
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_labels_that_are_numbers_stand_in_their_order(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(100))
    (tmp_path / "list.csv").write_text("file,label\na.wav,10\na.wav,9\na.wav,2\n")
    settings = data(tmp_path / "list.csv")
    assert open_samples(decoded(tmp_path, settings)[0].folder, settings, ClassifyTask()).classes == ("2", "9", "10")


def test_a_key_counts_every_file_of_a_folder_and_of_a_csv(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 2, 0)
    (tmp_path / "list.csv").write_text("path,label\nsounds/low/0.wav,low\n")
    (folder / "low" / "notes.txt").write_text("no sound")

    def keys() -> list[str]:
        with Cache(tmp_path / "cache") as run:
            return [
                run.key(decode, data(place).source("train"), ClassifyTask())
                for place in (folder, tmp_path / "list.csv")
            ]

    before = keys()
    (folder / "low" / "notes.txt").write_text("still none")
    assert keys() == before
    write_wav(folder / "low" / "0.wav", tone(300, 100, 9))
    after = keys()
    assert after[0] != before[0] and after[1] != before[1]
    write_wav(folder / "high" / "new.wav", tone(300, 100, 9))
    assert keys()[0] != after[0] and keys()[1] == after[1]
