"""The devices' figures, and what a user reads whose target file or target name is wrong."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgekd.base.toml_file import lines_of
from edgekd.errors import RecipeError
from edgekd.target import (
    Hardware,
    JetPack,
    Operator,
    Operators,
    Quantization,
    Runtime,
    Target,
    list_targets,
    load_target,
    write_target,
)  # fmt: skip

FOLDER = Path(__file__).parent.parent / "targets"
FILES = sorted(FOLDER.glob("*.toml"))
NAMES = [
    "android-arm64",
    "apple-silicon",
    "imx8mp",
    "jetson-agx-orin",
    "jetson-orin-nano",
    "jetson-orin-nano-super",
    "jetson-orin-nx",
    "jetson-thor",
    "jetson-xavier-nx",
    "qualcomm-qcs6490",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "raspberry-pi-zero-2-w",
    "rk3588",
    "x86-cpu",
]
BOARD = """\
name = "my-board"
title = "A board"

[hardware]
cpu = "4x Cortex-A55"
source = "its data sheet"
date = "2026-11"

[runtime]
name = "onnxruntime"
precisions = ["fp32"]
default_opset = 17
max_opset = 20
source = "tried"
date = "2026-11-20"
"""
INT8 = """
[quantization]
activation = "int8"
activation_symmetric = true
int32_bias = false
source = "tried"
date = "2026-11"

[quantization.operators]
conv = { sites = "inputs" }
"""


def read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text())


def board(folder: Path, text: str) -> str:
    file = folder / "board.toml"
    file.write_text(text)
    return str(file)


def refusal(name: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_target(name)
    return str(caught.value)


def test_the_targets_are_those_fifteen() -> None:
    assert sorted(target.name for target in list_targets()) == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_named_after_its_target(file: Path) -> None:
    assert read(file)["name"] == file.stem


def test_names_and_aliases_are_unique() -> None:
    called = [name for target in list_targets() for name in (target.name, *target.aliases)]
    assert len(called) == len(set(called))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_figure_stands_in_a_table_with_source_and_date(file: Path) -> None:
    document = read(file)
    tables = [document.pop("hardware"), document.pop("runtime"), *document.pop("jetpack", [])]
    tables += [document.pop("quantization")] if "quantization" in document else []
    assert set(document) <= {"name", "title", "aliases", "notes"}  # words, no figures
    for table in tables:
        assert table["source"]
        assert table["date"] == "2026-11"


# From the sources that the files name, by hand: (RAM, bandwidth, the peaks that have a source).
FIGURES: dict[str, tuple[list[float] | None, float | None, dict[str, float]]] = {
    "jetson-orin-nano": ([8], 68, {"int8_tops": 20, "fp16_tflops": 10}),
    "jetson-orin-nano-super": ([8], 102, {"int8_tops": 33, "fp16_tflops": 17}),
    "jetson-orin-nx": ([16], 102, {}),
    "jetson-agx-orin": (
        [64],
        204.8,
        {"int8_tops": 85, "int8_dla_tops": 52.5, "fp16_tflops": 43, "fp32_tflops": 5.3},
    ),
    "jetson-xavier-nx": ([8, 16], 59.7, {"int8_with_dla_tops": 21}),
    "jetson-thor": ([128], 273, {"fp8_tflops": 517, "fp4_tflops": 1035}),
    "raspberry-pi-5": ([4, 8], 17, {}),
    "raspberry-pi-4": ([1, 2, 4, 8], 5.56, {}),
    "raspberry-pi-zero-2-w": ([0.512], None, {}),
    "rk3588": ([8, 16, 32], 22, {}),
    "imx8mp": ([6], None, {}),
    "apple-silicon": (None, None, {}),
    "qualcomm-qcs6490": (None, None, {}),
    "android-arm64": (None, None, {}),
    "x86-cpu": (None, None, {}),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_figures_are_those_of_their_sources_and_no_others(file: Path) -> None:
    hardware = read(file)["hardware"]
    peaks = {key.removeprefix("peak_"): value for key, value in hardware.items() if key.startswith("peak_")}
    assert (hardware.get("ram_gb"), hardware.get("memory_bandwidth_gbs"), peaks) == FIGURES[file.stem]


@pytest.mark.parametrize(
    ("name", "jetpack", "cuda", "tensorrt", "python", "opset", "highest"),
    [
        ("jetson-xavier-nx", "5.1.x", "11.4", "8.5.2", "3.8", 16, 17),
        ("jetson-orin-nano", "6.2.x", "12.6", "10.3.0", "3.10", 20, 20),
        ("jetson-orin-nano-super", "6.2.x", "12.6", "10.3.0", "3.10", 20, 20),
        ("jetson-orin-nx", "6.2.x", "12.6", "10.3.0", "3.10", 20, 20),
        ("jetson-agx-orin", "6.2.x", "12.6", "10.3.0", "3.10", 20, 20),
        ("jetson-thor", "7.2", "13.2", "10.16.2", "3.12", 20, 23),
    ],
)
def test_a_jetson_runs_the_tensorrt_of_its_jetpack(
    name: str, jetpack: str, cuda: str, tensorrt: str, python: str, opset: int, highest: int
) -> None:
    target = load_target(name)
    release = target.jetpack[0]
    assert (release.version, release.cuda, release.tensorrt, release.python) == (jetpack, cuda, tensorrt, python)
    assert (target.runtime.name, target.runtime.version) == ("tensorrt", tensorrt)
    assert (target.runtime.default_opset, target.runtime.max_opset) == (opset, highest)


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_the_int8_scheme_is_that_of_the_runtime(target: Any) -> None:
    scheme = target.quantization
    found = (scheme.activation, scheme.activation_symmetric, scheme.int32_bias, scheme.operators.conv.sites)
    tensorrt = ("int8", True, False, "inputs")
    assert found == (tensorrt if target.runtime.name == "tensorrt" else ("uint8", False, True, "inputs_and_output"))
    assert (scheme.weight, scheme.weight_per_channel) == ("int8", True)


@pytest.mark.parametrize(
    ("name", "precisions"),
    [
        ("jetson-xavier-nx", ("fp32", "fp16", "int8")),
        ("jetson-orin-nano", ("fp32", "fp16", "int8")),
        ("jetson-thor", ("fp32", "fp16", "bf16", "int8")),
        ("raspberry-pi-5", ("fp32", "fp16", "int8")),
        ("rk3588", ("fp32", "fp16", "int8")),
        ("raspberry-pi-4", ("fp32", "int8")),
        ("raspberry-pi-zero-2-w", ("fp32", "int8")),
        ("imx8mp", ("fp32", "int8")),
        ("apple-silicon", ("fp32", "int8")),
        ("qualcomm-qcs6490", ("fp32", "int8")),
        ("x86-cpu", ("fp32", "int8")),
        ("android-arm64", ("fp32", "int8")),
    ],
)
def test_precisions_are_those_that_gain_something(name: str, precisions: tuple[str, ...]) -> None:
    assert load_target(name).runtime.precisions == precisions


@pytest.mark.parametrize(
    ("aliases", "name"),
    [
        ("jetson orin-nano", "jetson-orin-nano"),
        ("nano-super orin-nano-super", "jetson-orin-nano-super"),
        ("orin-nx", "jetson-orin-nx"),
        ("agx agx-orin jetson-agx orin-agx", "jetson-agx-orin"),
        ("xavier xavier-nx jetson-xavier", "jetson-xavier-nx"),
        ("thor agx-thor jetson-agx-thor", "jetson-thor"),
        ("pi5 rpi5 pi-5 rpi-5 RPi5", "raspberry-pi-5"),
        ("pi4 rpi4 pi-4 rpi-4 Raspberry-Pi-4", "raspberry-pi-4"),
        ("zero2 zero2w zero-2-w pi-zero-2 rpi-zero-2", "raspberry-pi-zero-2-w"),
        ("RK3588 rk3588s rock5b orange-pi-5", "rk3588"),
        ("imx8m-plus i.MX8MP", "imx8mp"),
        ("mac apple m1 m4", "apple-silicon"),
        ("qcs6490 rb3-gen2", "qualcomm-qcs6490"),
        ("mobile android phone snapdragon", "android-arm64"),
        ("x86 x64 amd64 pc", "x86-cpu"),
    ],
)
def test_an_alias_names_a_target(aliases: str, name: str) -> None:
    assert {load_target(alias).name for alias in aliases.split()} == {name}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("jetsn", "jetson"),
        ("rasberry-pi-4", "raspberry-pi-4"),
        ("raspberrypi", "raspberrypi5"),
        ("orin-nan", "orin-nano"),
        ("jetson-nano", "jetson-orin-nano"),
        ("RK3688", "rk3588"),
        ("imx8", "imx8mp"),
        ("andriod", "android"),
    ],
)
def test_a_near_miss_is_told_with_the_nearest_name_or_alias(typed: str, meant: str) -> None:
    text = refusal(typed)
    assert text.startswith(f"target '{typed}' not found; have: android-arm64, apple-silicon, ")
    assert text.endswith(f"x86-cpu. Did you mean {meant}?")
    assert "pi4" not in text.partition("Did")[0]  # aliases are too many to list


def test_a_name_that_is_near_to_none_is_told_with_the_targets_alone() -> None:
    assert refusal("esp32").endswith(", rk3588, x86-cpu.")


def test_a_path_names_a_target_of_the_user(tmp_path: Path) -> None:
    target = load_target(board(tmp_path, BOARD))
    assert (target.name, target.hardware.cpu, target.quantization) == ("my-board", "4x Cortex-A55", None)


def test_a_missing_target_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    assert refusal(str(file)).startswith(f"target file {file} does not exist; give a target's name, or")


def test_a_folder_in_place_of_a_target_file_is_refused_as_one(tmp_path: Path) -> None:
    file = tmp_path / "folder.toml"
    file.mkdir()
    assert refusal(str(file)).startswith(f"target file {file} is a folder; give a target's name, or")


def test_all_mistakes_of_a_target_file_come_at_once(tmp_path: Path) -> None:
    text = BOARD.replace("cpu =", "cpuu =").replace('["fp32"]', '["fp64"]').replace("max_opset = 20\n", "", 1)
    lines = refusal(board(tmp_path, text.replace("default_opset = 17", 'default_opset = "17"'))).splitlines()
    assert lines[0] == f"4 mistakes in {tmp_path / 'board.toml'}:"
    found = {line.split("  ")[1]: line.split("  ")[-1].strip() for line in lines[1:]}
    assert found == {
        "board.toml:9 runtime.max_opset": "missing; it is required",
        "board.toml:5 hardware.cpuu": found["board.toml:5 hardware.cpuu"],
        "board.toml:11 runtime.precisions.0": '"fp64" given; have: fp32, fp16, bf16, int8. Did you mean fp16?',
        "board.toml:12 runtime.default_opset": '"17" given; should be a valid integer',
    }
    assert found["board.toml:5 hardware.cpuu"].startswith("unknown key 'cpuu'; have: source, date, cpu,")
    assert found["board.toml:5 hardware.cpuu"].endswith("Did you mean cpu?")


def test_a_file_without_a_runtime_and_with_an_unknown_table_names_both(tmp_path: Path) -> None:
    text = BOARD[: BOARD.index("[runtime]")].replace("[hardware]", "[hardwear]")
    lines = refusal(board(tmp_path, text)).splitlines()
    assert lines[0].startswith("3 mistakes in ")
    found = dict(line.split(maxsplit=2)[1:] for line in lines[1:] if line.startswith("  board.toml "))
    assert found == {
        "hardware": "missing; write this table; each of its keys may be left out",
        "runtime": "missing; write this table with: name, precisions, default_opset, max_opset",
    }
    (unknown,) = (line for line in lines if "board.toml:4 hardwear" in line)
    assert "unknown key 'hardwear'; have: name, title," in unknown and unknown.endswith("Did you mean hardware?")


def test_a_toml_syntax_error_has_line_and_column(tmp_path: Path) -> None:
    assert refusal(board(tmp_path, 'name = "a"\ntitle = ?\n')) == "board.toml:2 column 9: not TOML: Invalid value"


def test_a_syntax_error_at_the_end_has_line_and_column(tmp_path: Path) -> None:
    assert refusal(board(tmp_path, 'name = "a"\ntitle = ')).startswith("board.toml:2 column 9: not TOML: ")


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_bytes(b'name = "\xff"')
    assert refusal(str(file)) == f"{file} is not UTF-8 text, which TOML is: byte 8 cannot be read"


@pytest.mark.parametrize("date", ['"November"', '"2026"', "2026-11-01"])
def test_a_date_is_text_with_year_and_month(tmp_path: Path, date: str) -> None:
    assert "board.toml:7 hardware.date" in refusal(board(tmp_path, BOARD.replace('"2026-11"', date, 1)))


@pytest.mark.parametrize("figure", ["-1", "0", "inf", "nan"])
def test_a_figure_is_positive_and_finite(tmp_path: Path, figure: str) -> None:
    text = BOARD.replace('cpu = "4x Cortex-A55"', f"memory_bandwidth_gbs = {figure}")
    assert "board.toml:5 hardware.memory_bandwidth_gbs" in refusal(board(tmp_path, text))


def test_a_runtime_without_precisions_is_refused(tmp_path: Path) -> None:
    text = refusal(board(tmp_path, BOARD.replace('["fp32"]', "[]")))
    assert "board.toml:9 runtime  precisions " in text and "have: fp32, fp16, bf16, int8" in text


def test_a_default_opset_above_the_highest_is_refused(tmp_path: Path) -> None:
    text = refusal(board(tmp_path, BOARD.replace("max_opset = 20", "max_opset = 15")))
    assert "board.toml:9 runtime  default_opset 17 " in text and "max_opset 15" in text


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('activation = "int8"', 'activation = "uint8"'),
        ("activation_symmetric = true", "activation_symmetric = false"),
        ("int32_bias = false", "int32_bias = true"),
    ],
)
def test_tensorrt_has_constant_zero_points_and_no_quantized_bias(tmp_path: Path, right: str, wrong: str) -> None:
    text = BOARD.replace('"onnxruntime"', '"tensorrt"') + INT8
    assert load_target(board(tmp_path, text)).runtime.name == "tensorrt"
    assert "TensorRT quantizes with" in refusal(board(tmp_path, text.replace(right, wrong)))


def test_the_runtime_is_that_of_the_first_jetpack(tmp_path: Path) -> None:
    jetpack = '[[jetpack]]\nversion="6.2"\nl4t="36.5"\ncuda="12.6"\ntensorrt="10.3.0"\npython="3.10"\nsource="x"\n'
    text = refusal(board(tmp_path, f'{BOARD}\n{jetpack}date="2026-11"\n'))
    assert "runtime.version is None, " in text and "has 10.3.0" in text


def test_lines_are_those_of_tables_arrays_inline_tables_and_multi_line_values() -> None:
    text = '''\
a = 1 # one

b = """
c = 5
[d]
"""
[e."f.g"]
h = [
  1,
  { i = 2 },
]
j.k = 3
[[m]]
n = 1
[[m]]
[m.o]
p = 1
'''
    assert lines_of(text) == {
        ("a",): 1,
        ("b",): 3,
        ("e", "f.g"): 7,
        ("e", "f.g", "h"): 8,
        ("e", "f.g", "h", 0): 8,
        ("e", "f.g", "h", 1): 8,
        ("e", "f.g", "h", 1, "i"): 8,
        ("e", "f.g", "j"): 12,
        ("e", "f.g", "j", "k"): 12,
        ("m", 0): 13,
        ("m", 0, "n"): 14,
        ("m", 1): 15,
        ("m", 1, "o"): 16,
        ("m", 1, "o", "p"): 17,
    }


def test_an_operator_that_does_not_take_the_activation_is_refused(tmp_path: Path) -> None:
    scheme = INT8.replace('"int8"', '"uint16"', 1)
    assert "'uint16', and conv takes int8, uint8; leave the operator out" in refusal(board(tmp_path, BOARD + scheme))


def test_half_precision_between_integers_takes_opset_19(tmp_path: Path) -> None:
    text = BOARD.replace('["fp32"]', '["fp32", "fp16", "int8"]') + INT8.replace(
        "\nsource", '\nrest = "fp16"\nsource', 1
    )
    assert "opset 19 for fp16 scales; runtime.default_opset " in refusal(board(tmp_path, text))


def test_padded_channels_take_uint8(tmp_path: Path) -> None:
    padded = INT8.replace("\nsource", "\npad_channels_to = 4\nsource", 1)
    assert "pad_channels_to is 4 and activation" in refusal(board(tmp_path, BOARD + padded))
    scheme = load_target(board(tmp_path, BOARD + padded.replace('"int8"', '"uint8"', 1))).int8
    assert scheme.pad_channels_to == 4


def test_bf16_takes_a_gpu_and_a_runtime_that_have_it(tmp_path: Path) -> None:
    runtime = 'version = "10.15"\nprecisions = ["fp32", "bf16"]'
    good = BOARD.replace('"onnxruntime"', '"tensorrt"').replace('precisions = ["fp32"]', runtime)
    good = good.replace("max_opset = 20", "max_opset = 22").replace(
        "[runtime]", 'compute_capability = "8.7"\n\n[runtime]'
    )
    assert "bf16" in load_target(board(tmp_path, good)).runtime.precisions
    for right, wrong in (
        ('"tensorrt"', '"onnxruntime"'), ('"10.15"', '"8.6"'), ('"8.7"', '"7.2"'), ("max_opset = 22", "max_opset = 20"),
    ):  # fmt: skip
        assert "bf16 takes TensorRT 9.0" in refusal(board(tmp_path, good.replace(right, wrong)))


def test_a_table_without_a_source_is_told_as_own_figures(tmp_path: Path) -> None:
    private = BOARD.replace('source = "its data sheet"\ndate = "2026-11"\n', "").replace('source = "tried"\n', "")
    target = load_target(board(tmp_path, private))
    assert (target.hardware.source, target.hardware.date) == (None, None)
    assert target.hardware.origin == "own figures"
    assert target.runtime.origin == "own figures, 2026-11-20"
    assert load_target(board(tmp_path, BOARD)).hardware.origin == "its data sheet, 2026-11"


@pytest.mark.parametrize(
    ("lines", "architecture"),
    [
        ('cpu = "4x cortex-a55"', "arm64"),
        ('cpu = "Apple M2"', "arm64"),
        ('cpu = "Celeron N5105"', "x86-64"),
        ("", "x86-64"),
        ('architecture = "arm64"', "arm64"),
        ('cpu = "4x Cortex-A55"\narchitecture = "x86-64"', "x86-64"),
    ],
)
def test_the_architecture_is_the_one_that_is_stated_else_the_processor_s(
    lines: str, architecture: str, tmp_path: Path
) -> None:
    assert load_target(board(tmp_path, BOARD.replace('cpu = "4x Cortex-A55"', lines))).architecture == architecture


@pytest.mark.parametrize("release", ["6.x", "ten", "10.", "v10.3", "1" * 7])
def test_a_tensorrt_release_is_refused_unless_it_is_numbers(release: str, tmp_path: Path) -> None:
    text = BOARD.replace('name = "onnxruntime"', f'name = "tensorrt"\nversion = "{release}"')
    assert f'version is "{release}"; write the numbers of a TensorRT release' in refusal(board(tmp_path, text))
    capability = BOARD.replace("cpu =", f'compute_capability = "{release}"\ncpu =')
    assert f'board.toml:5 hardware.compute_capability  "{release}" given' in refusal(board(tmp_path, capability))


def test_the_name_of_an_own_file_without_its_ending_is_told_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    board(tmp_path, BOARD)
    assert refusal("board") == "target 'board' not found; a target file is named with its ending: board.toml"


@pytest.mark.parametrize("original", list_targets(), ids=lambda target: target.name)
def test_a_written_copy_has_the_figures_of_its_original_and_a_name_of_its_own(original: Any, tmp_path: Path) -> None:
    file = tmp_path / "my-board_2.toml"
    write_target(file, original.name)
    copy = load_target(str(file))
    assert (copy.name, copy.title, copy.aliases) == ("my-board_2", "My board 2", ())
    assert copy.notes == tuple(f"of {original.name}: {note}" for note in original.notes)
    for table, copied in (("hardware", copy.hardware), ("runtime", copy.runtime), ("quantization", copy.quantization)):
        begun = getattr(original, table)
        assert copied.source == f"copied from {original.name}: {begun.source}"
        assert copied.model_copy(update={"source": begun.source}) == begun
    assert [release.tensorrt for release in copy.jetpack] == [release.tensorrt for release in original.jetpack]


def test_a_written_copy_names_every_key_that_may_be_added_with_its_meaning(tmp_path: Path) -> None:
    file = tmp_path / "my-board.toml"
    write_target(file, "raspberry-pi-5")
    lines = file.read_text().splitlines()
    assert (
        "memory_bandwidth_gbs = 17                   # GB/s; estimates need it. Left out: no latency is estimated"
        in lines
    )
    for table in (Hardware, Runtime, Quantization, Operators):
        for key, field in table.model_fields.items():
            if key not in ("source", "date", "operators"):  # the last is a table of its own
                assert any(line.startswith((f"{key} =", f"# {key} =")) for line in lines), key
                assert field.description and any(line.endswith(f"# {field.description}") for line in lines), key


def test_a_key_that_a_written_copy_only_names_is_added_by_removing_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "my-board.toml"
    write_target(file, "raspberry-pi-5")
    text = file.read_text()
    file.write_text(text.replace("# peak_int8_tops =  ", "peak_int8_tops = 0.1"))
    assert load_target(str(file)).hardware.peak_int8_tops == 0.1


def test_a_file_that_is_there_is_written_over_by_force_only(tmp_path: Path) -> None:
    file = tmp_path / "my-board.toml"
    file.write_text("mine")
    with pytest.raises(RecipeError, match=r"my-board\.toml exists; change it, or replace it with --force"):
        write_target(file, "raspberry-pi-5")
    assert file.read_text() == "mine"
    write_target(file, "raspberry-pi-5", force=True)
    assert load_target(str(file)).name == "my-board"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my-board", "a target file ends in .toml: give "),
        ("jetson.toml", "jetson is a target of edgekd: give your board a name of its own"),
        ("x86-cpu.toml", "x86-cpu is a target of edgekd"),
        ("none/my-board.toml", "none is no folder: make it, or give another place"),
        (" .toml", "the file's name names the bundle's folder: a name is needed"),
        ("folder.toml", "it is a folder: give another name"),
    ],
)
def test_a_place_where_no_target_file_can_lie_is_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(RecipeError) as caught:
        write_target(tmp_path / name, "raspberry-pi-5")
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.toml"]


def test_the_command_after_writing_can_be_typed_where_the_name_has_a_space(tmp_path: Path) -> None:
    file = tmp_path / "my board.toml"
    assert write_target(file, "pi5").endswith(f"then edgekd build -t '{file}'")
    assert "#     edgekd build -t 'my board.toml'     builds for it" in file.read_text().splitlines()


def test_a_copy_of_an_own_file_without_sources_is_written_too(tmp_path: Path) -> None:
    private = BOARD.replace('source = "its data sheet"\ndate = "2026-11"\n', "").replace("A board", 'A \\"board\\" ä')
    write_target(tmp_path / "another.toml", board(tmp_path, private))
    copy = load_target(str(tmp_path / "another.toml"))
    assert (copy.name, copy.hardware.cpu) == ("another", "4x Cortex-A55")
    assert copy.hardware.origin == "copied from my-board: own figures"


DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "targets.md").read_text()


def test_the_page_of_target_files_is_that_of_the_code() -> None:
    made = runpy.run_path(str(DOCS / "make_targets.py"))["reference"]()
    assert made == PAGE, "run python docs/make_targets.py"


@pytest.mark.parametrize("table", [Target, Hardware, Runtime, JetPack, Quantization, Operators, Operator])
def test_the_page_tells_each_key_with_its_meaning(table: type[Any]) -> None:
    for key, field in table.model_fields.items():
        assert len(field.description or "") > 5, key
        assert re.search(rf"^\| `{key}` \| \S.* \| .*\| {re.escape(field.description)} \|$", PAGE, re.MULTILINE), key


def test_the_smallest_file_of_the_page_is_a_target(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    target = load_target(board(tmp_path, text))
    assert (target.name, target.architecture, target.runtime.origin) == ("my-board", "arm64", "own figures")


def test_the_targets_that_the_page_begins_with_have_the_runtime_that_it_says() -> None:
    rows = {name: board for board, name in re.findall(r"^\| (.* on .*) \| `([\w-]+)` \|$", PAGE, re.MULTILINE)}
    found = {name: load_target(name) for name in rows}
    assert list(found) == [
        "raspberry-pi-5", "raspberry-pi-4", "x86-cpu", "jetson-orin-nano", "jetson-xavier-nx", "android-arm64"
    ]  # fmt: skip
    for name, target in found.items():
        assert {"qnn": "QNN", "tensorrt": "TensorRT", "onnxruntime": "onnxruntime"}[target.runtime.name] in rows[name]
    assert "fp16" in found["raspberry-pi-5"].runtime.precisions
    assert "fp16" not in found["raspberry-pi-4"].runtime.precisions
    assert found["jetson-xavier-nx"].runtime.version == "8.5.2"
