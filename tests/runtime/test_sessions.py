"""A model runs in a process of its own: what ends that process is an error here, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.measure.protocol import Timing, interleave
from edgekd.measure.timings import time_models
from edgekd.runtime import sessions
from edgekd.runtime.runners import OnnxRunner
from edgekd.runtime.sessions import Ended, Process, Refused, Session
from tests.builders.measuring import SHORT

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def product(path: Path, *, weights: np.ndarray = WEIGHTS) -> Path:
    """A file that multiplies rows of three numbers by `weights`."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        initializer=[numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def gone(pid: int, within_s: float = 10) -> bool:
    """Whether a process ends, or has ended and waits to be asked."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_it_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    """Rows, dtypes and shapes come back as from a session in this process; the process is another."""
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    session = Session(product(tmp_path / "a.onnx"))
    plain = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    assert found.dtype == np.float32 and session.pid != os.getpid()
    np.testing.assert_array_equal(found, plain.run(None, {"x": x})[0])
    assert [(v.name, v.type, v.shape) for v in session.get_inputs()] == [("x", "tensor(float)", ["batch", 3])]
    assert session.run(["y"], {"x": x[:0]})[0].shape == (0, 4)


def test_a_model_given_as_bytes_is_opened_too(tmp_path: Path) -> None:
    """As a bf16 graph is, whose rewritten form is no file."""
    session = Session(product(tmp_path / "a.onnx").read_bytes())
    np.testing.assert_array_equal(session.run(None, {"x": np.eye(3, dtype=np.float32)})[0], WEIGHTS)


def test_what_onnxruntime_says_is_told_and_the_process_goes_on(tmp_path: Path) -> None:
    """A refusal is no crash: the same session answers the next question."""
    (tmp_path / "no.onnx").write_bytes(b"none")
    with pytest.raises(Refused, match="Protobuf parsing failed"):
        Session(tmp_path / "no.onnx")
    session = Session(product(tmp_path / "a.onnx"))
    with pytest.raises(Refused, match="Got: 2 Expected: 3"):
        session.run(None, {"x": np.zeros((1, 2), np.float32)})
    assert session.run(None, {"x": np.zeros((1, 3), np.float32)})[0].shape == (1, 4)


def test_a_closed_session_s_process_opens_the_next_model(tmp_path: Path) -> None:
    """A start costs a quarter of a second: one is kept."""
    first = Session(product(tmp_path / "a.onnx"))
    pid = first.pid
    first.close()
    second = Session(product(tmp_path / "b.onnx", weights=WEIGHTS + 1))
    assert second.pid == pid
    np.testing.assert_array_equal(second.run(None, {"x": np.eye(3, dtype=np.float32)})[0], WEIGHTS + 1)


def test_a_process_that_is_killed_is_an_error_with_the_signal_s_name(tmp_path: Path) -> None:
    """As the system does where memory runs out; another session goes on."""
    killed, other = Session(product(tmp_path / "a.onnx")), Session(product(tmp_path / "a.onnx"))
    os.kill(killed.pid, signal.SIGKILL)
    x = np.zeros((1, 3), np.float32)
    with pytest.raises(Ended, match=r"\(SIGKILL; .* memory .*ran the model"):
        killed.run(None, {"x": x})
    assert other.run(None, {"x": x})[0].shape == (1, 4)


def test_a_process_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process stands for a runtime that hangs."""
    session = Session(product(tmp_path / "a.onnx"))
    monkeypatch.setattr(sessions, "PATIENCE_S", 0.3)
    os.kill(session.pid, signal.SIGSTOP)
    with pytest.raises(Ended, match=r"0\.3 s .*ran the model"):
        session.run(None, {"x": np.zeros((1, 3), np.float32)})
    assert gone(session.pid)


def test_the_times_are_taken_in_the_model_s_process(tmp_path: Path) -> None:
    """A question and its answer take longer than the product of nine numbers: that is in no figure."""
    runner = OnnxRunner(product(tmp_path / "a.onnx"))
    x = np.zeros((1, 3), np.float32)
    asked = {"there": runner.timed({"x": x}), "asked": lambda: runner.run({"x": x})}
    series = interleave(asked, Timing(warmup_s=0.01, min_block_s=0.02, min_n=30))
    assert len(series["there"].blocks_ms) == 3 and 0 < series["there"].p50_ms < series["asked"].p50_ms


def test_one_that_ends_while_it_is_timed_falls_out_and_the_others_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is killed in the second round; the other's series has every block."""
    files = {name: product(tmp_path / f"{name}.onnx") for name in ("one", "two")}
    own, blocks = Session.time, []

    def time_or_die(self: Session, *words: object) -> np.ndarray:
        blocks.append(self.path)
        if self.path.endswith("two.onnx") and len(blocks) > 6:
            os.kill(self.pid, signal.SIGKILL)
        return own(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "time", time_or_die)
    found = time_models(files, {"x": np.zeros((1, 3), np.float32)}, {}, SHORT)
    assert list(found.series) == ["one"] and len(found.series["one"].blocks_ms) == 3
    assert "SIGKILL" in found.failed["two"] and "while it was timed" in found.failed["two"]
    assert found.memory_mb["one"] is not None


def test_a_killed_build_leaves_no_process(tmp_path: Path) -> None:
    """Neither an idle one nor one in the middle of a computation outlives the process that asked."""
    product(tmp_path / "a.onnx")
    code = (
        "import numpy as np, sys, threading, time\n"
        "from edgekd.runtime.sessions import Session\n"
        "idle, busy = Session('a.onnx'), Session('a.onnx')\n"
        "run = lambda: busy.time(None, {'x': np.zeros((1, 3), np.float32)}, 600.0, 1)\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print(idle.pid, busy.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and not any(gone(pid, 0.2) for pid in pids)
        parent.kill()
    assert all(gone(pid) for pid in pids)


def test_a_program_that_ends_ends_its_process(tmp_path: Path) -> None:
    """The kept one too, without a warning."""
    product(tmp_path / "a.onnx")
    code = "from edgekd.runtime.sessions import Session\ns = Session('a.onnx')\nprint(s.pid)\ns.close()\nkept = Session('a.onnx')"
    done = subprocess.run(
        [sys.executable, "-Werror", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == "" and gone(int(done.stdout))


def test_a_process_that_starts_costs_little() -> None:
    """It imports neither torch nor onnx: those would cost seconds for each candidate."""
    process = Process()
    try:
        process.ask({"do": "close"}, {}, 60)
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "libtorch" not in maps and "numpy" in maps
    finally:
        process.end()
