"""device_runner.py: what it reads of a board, on hand-made trees of sysfs; how it runs alone; what it refuses."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import DeviceError
from edgekd.measure.answer import Answer, understand
from edgekd.measure.on_device import figures_of, judged, trial_of
from edgekd.scripts import SCRIPTS
from edgekd.scripts.device_runner import PARTS, commands, joined, measuring, model, shipping, start
from edgekd.scripts.device_runner.facts import find_facts, policies_of, state, version_of
from tests.builders.bundles import target, write

FOLDER = SCRIPTS / "device_runner"
SHORT = ("--warmup-s", "0.02", "--block-s", "0.02")


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.fixture
def jetson(tmp_path: Path) -> str:
    """Stands for an Orin Nano with JetPack 6.2: the paths and forms are those of Jetson Linux 36, the figures made up."""
    hwmon, devfreq = "sys/class/hwmon/hwmon1", "sys/class/devfreq/17000000.gpu"
    return tree(
        tmp_path / "jetson",
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd42\nprocessor\t: 1\nCPU part\t: 0xd42\n",
            "proc/meminfo": "MemTotal:        7802036 kB\nMemAvailable:    5242880 kB\n",
            "proc/loadavg": "0.25 0.2 0.1 1/400 4000\n",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
            "var/lib/dpkg/status": "Package: other\nStatus: install ok installed\nVersion: 1\n\n"
            "Package: nvidia-jetpack\nStatus: install ok installed\nPriority: standard\nVersion: 6.2+b77\n\n",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
            "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >\n",
            "var/lib/nvpmodel/status": "pmode:0001\nfmode:quiet\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
            "sys/devices/system/cpu/cpufreq/policy0/related_cpus": "0 1 2 3\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
            "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil\n",
            "sys/devices/system/cpu/cpufreq/policy4/related_cpus": "4 5\n",
            f"{devfreq}/cur_freq": "624750000\n",
            f"{devfreq}/governor": "nvhost_podgov\n",
            "sys/class/devfreq/15340000.vic/cur_freq": "435200000\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48500\n",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "-256000\n",
            "sys/class/hwmon/hwmon0/name": "soctherm_oc\n",
            "sys/class/hwmon/hwmon0/oc1_event_cnt": "0\n",
            "sys/class/hwmon/hwmon0/oc3_event_cnt": "12\n",
            f"{hwmon}/name": "ina3221\n",
            f"{hwmon}/in1_label": "VDD_IN\n",
            f"{hwmon}/in1_input": "5000\n",
            f"{hwmon}/curr1_input": "1200\n",
            f"{hwmon}/in2_label": "VDD_CPU_GPU_CV\n",
            f"{hwmon}/in2_input": "5000\n",
            f"{hwmon}/curr2_input": "400\n",
            f"{hwmon}/in7_label": "sum of shunt voltages\n",
            f"{hwmon}/in7_input": "3\n",
        },
    )


@pytest.fixture
def pi(tmp_path: Path) -> str:
    """Stands for a Raspberry Pi 5: its firmware's flags say under-voltage, now (bit 0) and since the start (bit 16)."""
    return tree(
        tmp_path / "pi",
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/cpuinfo": "".join(f"processor\t: {n}\nCPU part\t: 0xd0b\n" for n in range(4)),
            "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "10001\n",
        },
    )


def test_a_jetson_is_recognised(jetson: str) -> None:
    facts = find_facts(jetson)

    assert facts["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (facts["cpu"], facts["l4t"], facts["jetpack"]) == ("2x Cortex-A78AE", "36.4.3", "6.2+b77")
    assert facts["power_modes"] == {"15W": 0, "25W": 1, "MAXN_SUPER": 2}
    assert facts["ram_mb"] == pytest.approx(7619.2, abs=0.1)


def test_a_jetson_s_state_is_read(jetson: str) -> None:
    assert state(jetson) == {
        "power_mode": "25W",
        "clocks_mhz": {"cpu0": 1510.4, "cpu4": 729.6, "gpu": 624.75},
        "governors": {"cpu0": "schedutil", "cpu4": "schedutil", "gpu": "nvhost_podgov"},
        "temperatures_c": {"cpu-thermal": 48.5},  # the other zone is switched off
        "throttle_counts": {"oc1_event_cnt": 0, "oc3_event_cnt": 12},
        "free_memory_mb": 5120.0,
        "load_1m": 0.25,
    }


def test_clocks_are_those_of_the_cores_that_are_used(jetson: str) -> None:
    assert policies_of(jetson, [5]) == ["cpu4"]
    assert policies_of(jetson, [0, 4]) == ["cpu0", "cpu4"]


def test_a_pi_s_flags_are_counted(pi: str) -> None:
    facts = find_facts(pi)

    assert facts["board"] == "Raspberry Pi 5 Model B Rev 1.0" and facts["cpu"] == "4x Cortex-A76"
    assert facts["state"]["throttle_counts"] == {"get_throttled": 2}
    assert facts["power_modes"] == {} and facts["state"]["power_mode"] is None and facts["l4t"] is None


def test_what_is_not_there_is_absent_and_no_zero(tmp_path: Path) -> None:
    assert state(str(tmp_path)) == {
        "power_mode": None, "clocks_mhz": {}, "governors": {}, "temperatures_c": {}, "throttle_counts": {},
        "free_memory_mb": None, "load_1m": None,
    }  # fmt: skip
    assert measuring.measure_energy(str(tmp_path), lambda: None, 0.1) is None


def test_energy_is_power_times_time(jetson: str) -> None:
    """5 V at 1.2 A are 6 W: an inference of about 10 ms takes about 60 mJ; the sum of shunts is no rail."""
    import time

    energy = measuring.measure_energy(jetson, lambda: time.sleep(0.01), 0.4)

    assert energy is not None and set(energy["busy_mw"]) == {"VDD_IN", "VDD_CPU_GPU_CV"}
    assert energy["busy_mw"]["VDD_IN"] == energy["idle_mw"]["VDD_IN"] == pytest.approx(6000)
    each_s = energy["mj_per_inference"]["VDD_IN"] / 6000
    assert each_s * energy["inferences"] == pytest.approx(0.4, rel=0.25) and each_s >= 0.01


def test_it_is_python_3_8_and_needs_nothing_of_edgekd() -> None:
    """Syntax of 3.8, and at its top only the standard library: numpy is asked for where it is needed."""
    syntax = ast.parse(joined(), feature_version=(3, 8))
    imports = [node for node in syntax.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}

    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    newer = {"removeprefix", "removesuffix", "cache", "pairwise", "bit_count", "batched"}  # 3.9 and later
    assert not newer & {node.attr for node in ast.walk(syntax) if isinstance(node, ast.Attribute)}


def test_the_one_file_has_every_part_once_and_all_their_names_beside_each_other() -> None:
    """A name of two parts would be one of them in the file, and each its own in the modules."""
    names = [set(top_level((FOLDER / f"{part}.py").read_text())) for part in PARTS]
    of_the_file = top_level(joined())

    assert len(of_the_file) == len(set(of_the_file)) == sum(map(len, names)) and set(of_the_file) == set.union(*names)
    assert {path.stem for path in FOLDER.glob("*.py")} == {*PARTS, "__init__"}
    assert joined().count("\nimport ") == len(set(re.findall(r"^import .*$", joined(), re.M)))
    assert "edgekd.scripts" not in joined()


def test_a_part_has_nothing_but_imports_before_the_code_that_is_joined() -> None:
    for part in PARTS:
        head, rule, _ = (FOLDER / f"{part}.py").read_text().partition("# ---------")
        assert rule and not top_level(head), part
        assert len(re.findall(r"^from (?!edgekd\.scripts\.device_runner\.|__future__)", head, re.M)) == 0, part


def top_level(text: str) -> list[str]:
    """Functions, classes and constants."""
    body = ast.parse(text).body
    found = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return [*found, *(t.id for t in targets if isinstance(t, ast.Name) and t.id != "TYPE_CHECKING")]


# ---------------------------------------------------------------------------------------------------------------- alone


def alone(bundle: Path, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-B", str(bundle / "device_runner.py"), *SHORT, *words]
    done = subprocess.run(command, cwd=bundle.parent, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_alone_it_measures_its_own_bundle_and_the_host_takes_the_figures(tmp_path: Path) -> None:
    bundle = write(tmp_path)

    text = alone(bundle, "--threads", "1,2")
    found = figures_of(tmp_path / "figures.json", trial_of(bundle), "far")

    assert "top-1 agrees on 16 of 16" in text and "batch 1, 2 thread(s)" in text
    assert found.device == "far" and found.golden_ok and [one.threads for one in found.latencies] == [1, 2]
    assert found.load_ms is not None and found.first_ms is not None
    answer = understand(Answer, json.loads((tmp_path / "figures.json").read_text()), "figures.json")
    emulated = judged(answer, "far", "emulated", trial_of(bundle), "onnxruntime")
    assert emulated.golden_ok and emulated.load_ms is None and emulated.first_ms is None


def test_figures_of_another_model_are_refused(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    alone(bundle)
    figures = json.loads((tmp_path / "figures.json").read_text())
    (tmp_path / "figures.json").write_text(json.dumps({**figures, "model_sha256": "0" * 64}))

    with pytest.raises(DeviceError, match="another model"):
        figures_of(tmp_path / "figures.json", trial_of(bundle), "far")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"series": [{"batch": 1, "threads": 1, "transfers": "none", "blocks_ms": [[-1.0]], "states": []}]},
            "blocks_ms",
        ),
        ({"series": [{"batch": 1, "threads": 1, "transfers": "none", "blocks_ms": [[]], "states": []}]}, "blocks_ms"),
        ({"golden": "fine"}, "golden"),
        ({"facts": {}}, "facts"),
    ],
)
def test_figures_that_make_no_sense_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    bundle = write(tmp_path)
    alone(bundle)
    figures = json.loads((tmp_path / "figures.json").read_text())
    (tmp_path / "figures.json").write_text(json.dumps({**figures, **change}))

    with pytest.raises(DeviceError, match=rf"makes no sense at [\w.]*{message}"):
        figures_of(tmp_path / "figures.json", trial_of(bundle), "far")


def test_a_device_s_words_reach_no_terminal_as_control_characters(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    alone(bundle)
    figures = json.loads((tmp_path / "figures.json").read_text())
    figures["facts"]["board"] = "\x1b]0;gone\x07board\r\n" + "x" * 1000
    (tmp_path / "figures.json").write_text(json.dumps(figures))

    machine = figures_of(tmp_path / "figures.json", trial_of(bundle), "far").machine

    assert machine.isprintable() and "board" in machine and len(machine) < 600


@pytest.mark.parametrize("damage", ["changed", "missing", "foreign", "link", "leaves"])
def test_alone_it_refuses_a_bundle_that_was_changed(tmp_path: Path, damage: str) -> None:
    bundle = write(tmp_path)
    labels = bundle / "labels.txt"
    if damage == "changed":
        labels.write_text("x\ny\nz\n")
    elif damage == "missing":
        labels.unlink()
    elif damage == "foreign":
        (bundle / "numpy.txt").write_text("")
    elif damage == "link":
        labels.rename(tmp_path / "labels.txt")
        labels.symlink_to(tmp_path / "labels.txt")
    else:
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"]["../labels.txt"] = "0" * 64
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    text = alone(bundle, code=2)

    assert "error: " in text and "Traceback" not in text and not (tmp_path / "figures.json").exists()


def test_without_tensorrt_an_engine_is_refused_with_the_remedy(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if version_of("tensorrt"):
        pytest.skip("TensorRT is installed here")
    bundle = write(tmp_path, target=target("tensorrt"))

    text = alone(bundle, code=2)

    assert "the engine was not built" in text and "python3-libnvinfer" in text


def test_a_batch_that_the_graph_does_not_take_is_told(tmp_path: Path) -> None:
    from tests.builders.bundles import FLOAT

    assert "batch 2 does not run" in alone(write(tmp_path, FLOAT), "--batch", "2", code=2)


@pytest.mark.parametrize("words", [("--cpus", "1-0"), ("--threads", "2-1"), ("--sustained-s", "1", "--batch", "1,2")])
def test_a_range_that_is_none_and_what_does_not_go_together_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert "error: " in alone(write(tmp_path), *words, code=2)


def test_a_child_that_says_more_than_its_answer_is_understood_and_one_that_says_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "device_runner.py").write_text(
        'print("noise\\nanswer:" + \'{"value": {"load_ms": 1}}\'); print("more noise")\n'
    )
    assert model.apart(str(tmp_path), sys.executable, "loading", {}) == {"load_ms": 1}
    (tmp_path / "device_runner.py").write_text("raise SystemExit('no such kernel')\n")
    with pytest.raises(start.Failure, match="code 1: no such kernel"):
        model.apart(str(tmp_path), sys.executable, "loading", {})
    (tmp_path / "device_runner.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(start.Failure, match="is there enough memory"):
        model.apart(str(tmp_path), sys.executable, "loading", {})


def test_cores_that_are_not_there_are_told(tmp_path: Path) -> None:
    assert "cores [4000] cannot be used" in alone(write(tmp_path), "--cpus", "4000", code=2)


def test_bound_to_a_core_it_says_so(tmp_path: Path) -> None:
    import os

    core = min(os.sched_getaffinity(0))
    bundle = write(tmp_path)
    alone(bundle, "--cpus", str(core))

    assert figures_of(tmp_path / "figures.json", trial_of(bundle), "far").cpus == (core,)


def test_sustained_windows_last_as_long_as_asked(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    alone(bundle, "--sustained-s", "0.3")
    windows = figures_of(tmp_path / "figures.json", trial_of(bundle), "far").sustained

    assert len(windows) == 1 and windows[0].at_s == pytest.approx(0.3, abs=0.2)


class FakeCandidate:
    """Stands for a model that is loaded: the log says in which order calls are timed, and for how long."""

    title, right = "", True

    def __init__(self, name: str, log: list[tuple[str, float]]) -> None:
        self.results: dict[str, Any] = {"series": []}
        self.calls = {"none": lambda: None}
        self.run, self.name, self.log = self, name, log

    def time_calls(self, call: Any, seconds: float, n: int) -> Any:
        import numpy as np

        self.log.append((self.name, seconds))
        return np.full(n, 1.0)


def timed(*names: str, blocks: int = 3) -> tuple[list[tuple[str, float]], list[FakeCandidate]]:
    log: list[tuple[str, float]] = []
    candidates = {name: FakeCandidate(name, log) for name in names}
    options = {"root": "/nowhere", "warmup_s": 1.0, "block_s": 2.0, "blocks": blocks, "min_n": 60}
    measuring.time_in_turns(candidates, {}, 1, 1, options)  # type: ignore[arg-type]
    return log, list(candidates.values())


def test_several_are_timed_in_turns_and_change_places() -> None:
    log, candidates = timed("a", "b")

    assert log[:2] == [("a", 1.0), ("b", 1.0)]  # warm-ups
    order = [name for name, seconds in log if seconds == 2.0]
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert log[2:4] == [("a", 0.1), ("a", 2.0)]  # a tenth of the warm-up before each block: another ran in between
    for candidate in candidates:
        (series,) = candidate.results["series"]
        assert [len(block) for block in series["blocks_ms"]] == [20] * 3 and len(series["states"]) == 4


def test_one_that_fails_while_it_is_timed_is_left_out_and_stops_no_other() -> None:
    log: list[tuple[str, float]] = []
    good, bad = FakeCandidate("good", log), FakeCandidate("bad", log)

    def fails() -> None:
        raise RuntimeError("CUDA error 719")

    bad.time_calls = lambda call, seconds, n: fails()  # type: ignore[method-assign, assignment]
    failed: dict[str, Any] = {}
    options = {"root": "/nowhere", "warmup_s": 1.0, "block_s": 2.0, "blocks": 3, "min_n": 60}
    measuring.time_in_turns({"bad": bad, "good": good}, failed, 1, 1, options)  # type: ignore[dict-item]

    assert failed == {"bad": {"failure": "RuntimeError: CUDA error 719", "differs": False}}
    assert len(good.results["series"][0]["blocks_ms"]) == 3


def test_one_alone_is_timed_block_after_block() -> None:
    assert timed("a")[0] == [("a", 1.0), ("a", 2.0), ("a", 2.0), ("a", 2.0)]


def test_of_several_bundles_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad")
    (bad / "labels.txt").write_text("x\ny\nz\n")
    options = {**vars(commands.parse([])), "warmup_s": 0.02, "block_s": 0.02}

    found = measuring.measure_bundles({"good": str(good), "bad": str(bad)}, str(good), str(tmp_path), options)

    assert found["bad"] == {"failure": "the bundle is not as it was written: labels.txt was changed", "differs": True}
    assert found["good"]["golden"]["ok"] and len(found["good"]["series"][0]["blocks_ms"]) == 3


def test_a_link_of_somebody_else_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "place").symlink_to("elsewhere/" + "a" * 16)
    (tmp_path / "elsewhere" / ("a" * 16)).mkdir(parents=True)

    assert shipping.current_version(str(tmp_path / "place")) is None
    assert shipping.describe_place(str(tmp_path / "place"))["foreign"]
