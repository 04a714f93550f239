"""What a picture is, in training and in the run.py that ships: the same bytes of every kind of file, or a refusal of both."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgekd.inputs.picture import decode_image
from edgekd.scripts import SCRIPTS, run

RNG = np.random.default_rng(3)
COLOUR = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (12, 9), dtype=np.uint8)
ALPHA = Image.fromarray(RNG.integers(0, 256, (12, 9), dtype=np.uint8))
RGB, L = Image.fromarray(COLOUR), Image.fromarray(GREY)
DEEP = GREY.astype(np.uint16) * 256 + 77


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(ALPHA)
    return image


def written(image: Image.Image, form: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def palette() -> Image.Image:
    return RGB.quantize(16)


KINDS = {
    "1-bit": written(L.convert("1"), "PNG"),
    "grey": written(L, "PNG"),
    "grey with alpha": written(with_alpha(L), "PNG"),
    "colour": written(RGB, "PNG"),
    "colour with alpha": written(with_alpha(RGB), "PNG"),
    "palette": written(palette(), "PNG"),
    "palette with one clear colour": written(palette(), "PNG", transparency=3),
    "palette with alpha": written(palette(), "PNG", transparency=bytes(range(16))),
    "gif": written(palette(), "GIF"),
    "jpeg": written(RGB, "JPEG"),
    "cmyk jpeg": written(RGB.convert("CMYK"), "JPEG"),
    "cmyk tiff": written(RGB.convert("CMYK"), "TIFF"),
    "webp": written(RGB, "WEBP", lossless=True),
    "16-bit png": written(Image.fromarray(DEEP), "PNG"),
    "16-bit tiff": written(Image.fromarray(DEEP), "TIFF"),
    "16-bit pgm": b"P5 9 12 65535\n" + DEEP.astype(">u2").tobytes(),
}
TURNED = {
    f"{form} turned by {turn}": written(RGB, form, exif=exif)
    for form in ("JPEG", "PNG", "TIFF", "WEBP")
    for turn in range(1, 9)
    if (exif := Image.Exif()) is not None and not exif.update({0x0112: turn})
}
REFUSED = {
    "float": written(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "32-bit": written(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "lab": written(Image.new("LAB", (9, 12)), "TIFF"),
    "cut off": written(RGB, "PNG")[:80],
    "no picture": b"hello",
}


def shipped(folder: Path, encoded: bytes, channels: int, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    (folder / "picture").write_bytes(encoded)
    graph = {"layout": "NHWC", "shape": ["batch", *size, channels]}
    return run.read_image(str(folder / "picture"), None, graph)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", [*KINDS, *TURNED])
def test_a_picture_is_the_same_bytes_in_training_and_in_run_py(tmp_path: Path, kind: str, channels: int) -> None:
    """As it lies, and resized."""
    encoded = (KINDS | TURNED)[kind]
    as_it_is = decode_image(encoded, channels=channels)
    assert as_it_is.dtype == np.uint8 and as_it_is.shape[2] == channels
    for size in (as_it_is.shape[:2], (8, 7), (20, 30)):
        trained_on = decode_image(encoded, size, channels)
        assert trained_on.shape == (*size, channels)
        np.testing.assert_array_equal(shipped(tmp_path, encoded, channels, size), trained_on)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_of_known_white_is_refused_in_training_and_in_run_py(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError) as trained:
        decode_image(REFUSED[kind])
    with pytest.raises(run.Failure) as alone:
        shipped(tmp_path, REFUSED[kind], 3, (8, 8))
    if kind in ("float", "32-bit"):
        assert all("convert it to 8 bits" in str(caught.value) for caught in (trained, alone))


@pytest.mark.parametrize("kind", ["16-bit png", "16-bit tiff", "16-bit pgm"])
def test_of_sixteen_bits_the_upper_eight_are_read(kind: str) -> None:
    """A picture of 8 bits and the same one of 16, whose white is 65535, are one picture."""
    for channel in range(3):
        np.testing.assert_array_equal(decode_image(KINDS[kind])[:, :, channel], GREY)
    full = written(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG")
    np.testing.assert_array_equal(decode_image(full, channels=1)[:, :, 0], GREY)


def test_sixteen_bits_of_colour_are_read_as_sixteen_bits_of_grey_are() -> None:
    """A PPM of 16 bits, whose three values are the grey ones."""
    values = np.repeat(DEEP[:, :, None], 3, 2).astype(">u2")
    found = decode_image(b"P6 9 12 65535\n" + values.tobytes())
    assert np.abs(found.astype(int) - GREY[:, :, None]).max() <= 1  # Pillow rounds the values of a PPM


@pytest.mark.parametrize("kind", TURNED)
def test_a_picture_lies_as_its_exif_orientation_says(kind: str) -> None:
    with Image.open(io.BytesIO(TURNED[kind])) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(TURNED[kind]), expected)
    assert decode_image(TURNED[kind]).shape[:2] == ((12, 9) if int(kind[-1]) < 5 else (9, 12))


def test_a_picture_with_damaged_exif_data_lies_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = written(RGB, "JPEG", exif=exif)
    broken = encoded.replace(exif.tobytes()[:14], exif.tobytes()[:6] + b"XX*\0\0\0\0\0")
    assert broken != encoded and decode_image(broken).shape == (12, 9, 3)


def test_alpha_is_left_out_and_the_colours_stay_as_they_are_stored() -> None:
    np.testing.assert_array_equal(decode_image(KINDS["colour with alpha"]), COLOUR)
    np.testing.assert_array_equal(decode_image(KINDS["grey with alpha"], channels=1)[:, :, 0], GREY)
    np.testing.assert_array_equal(decode_image(KINDS["palette with alpha"]), decode_image(KINDS["palette"]))


def test_one_channel_is_the_luma_of_itu_r_601() -> None:
    found = decode_image(KINDS["colour"], channels=1)[:, :, 0]
    assert np.abs(found - COLOUR @ np.array([0.299, 0.587, 0.114])).max() <= 1
    np.testing.assert_array_equal(decode_image(KINDS["grey"], channels=1)[:, :, 0], GREY)


def test_arrays_are_given_one_channel_or_three_and_no_other_number() -> None:
    np.testing.assert_array_equal(decode_image(COLOUR, channels=1), decode_image(KINDS["colour"], channels=1))
    np.testing.assert_array_equal(decode_image(GREY[:, :, None], channels=3), np.repeat(GREY[:, :, None], 3, 2))
    four = np.zeros((4, 4, 4), np.uint8)
    assert decode_image(four) is four
    with pytest.raises(ValueError, match="4 channels"):
        decode_image(four, channels=3)


def test_a_model_of_other_channels_than_a_picture_has_asks_for_an_array(tmp_path: Path) -> None:
    with pytest.raises(run.Failure, match=r"4 channels.*as \.npy"):
        shipped(tmp_path, KINDS["colour"], 4, (8, 8))


def test_the_oldest_python_reads_the_same_bytes(tmp_path: Path, old_python: str) -> None:
    """With the Pillow that it has, perhaps years older."""
    if subprocess.run([old_python, "-c", "import PIL, numpy"], capture_output=True, check=False).returncode:
        pytest.skip("that Python has no Pillow and numpy")
    script = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); sys.dont_write_bytecode = True\n"
        "import run\n"
        "graph = {'layout': 'NHWC', 'shape': ['batch', 8, 7, 3]}\n"
        "for path in sys.argv[1:]:\n"
        "    sys.stdout.buffer.write(run.read_image(path, None, graph).tobytes())\n"
    )
    exact = {kind: encoded for kind, encoded in (KINDS | TURNED).items() if "jpeg" not in kind.lower()}
    for n, encoded in enumerate(exact.values()):
        (tmp_path / str(n)).write_bytes(encoded)
    paths = [str(tmp_path / str(n)) for n in range(len(exact))]
    done = subprocess.run([old_python, "-c", script, *paths], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = np.stack([decode_image(encoded, (8, 7)) for encoded in exact.values()])
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.uint8).reshape(expected.shape), expected)


def test_run_py_reads_a_deep_picture_as_its_shallow_twin(tmp_path: Path) -> None:
    """From the command line's side: load_input on both files."""
    manifest = {
        "input": {"name": "input", "layout": "NHWC", "shape": ["batch", 12, 9, 3], "dtype": "uint8"},
        "preprocess": {"mean": [0.5], "std": [0.5]},
    }
    Image.fromarray(GREY).save(tmp_path / "i8.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "i16.png")
    shallow, deep = (run.load_input(str(tmp_path / name), manifest)["input"] for name in ("i8.png", "i16.png"))
    np.testing.assert_array_equal(shallow, deep)
