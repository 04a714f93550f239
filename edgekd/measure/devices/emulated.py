"""Emulated: the real arm64 onnxruntime on this machine, under qemu's user-mode emulation of a CPU.

It gives numerics on the target's instruction set, where int8 and fp16 arithmetic differ. It never gives a latency: an
emulator's time says nothing about a device's. The root is created once and kept in the cache. It holds Debian's arm64
packages of Python, unpacked, and the aarch64 wheels of the onnxruntime and numpy versions installed here. Only the CPU
differs then. No root privileges, no chroot and no binfmt are needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from edgekd.base.console import say
from edgekd.base.places import expanded, user_folder
from edgekd.base.strays import IN_USE
from edgekd.cache.stage import STAMP, default_cache
from edgekd.errors import DeviceError, nearest
from edgekd.figures.candidate import Origin
from edgekd.measure.devices.process import OnLine, Result, copy_here, run_process

# The CPU's part number in /proc/cpuinfo, which onnxruntime reads beside the features (Arm's technical reference manuals,
# MIDR_EL1; `max` is qemu's own).
CPUS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b", "neoverse-n1": "0xd0c", "max": "0x051"}
QEMU = ("qemu-aarch64-static", "qemu-aarch64")
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
WHEELS = ("onnxruntime", "numpy")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
AT_HWCAP, AT_HWCAP2 = 16, 26
SLOWER = 10
# Bit n of AT_HWCAP and of AT_HWCAP2 as /proc/cpuinfo names it (Linux, arch/arm64/kernel/cpuinfo.c).
HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4 "
    "asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 dgh rng "
    "bti mte ecv afp rpres mte3 sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32 smefa64"
)


class Emulated:
    """A CPU under qemu. Its files lie on this machine, in `folder`. The root is created at the first use."""

    origin: Origin = "emulated"
    python = "python3"

    def __init__(self, name: str, cpu: str, folder: str = "", cache: str = "") -> None:
        """Raises DeviceError for an unknown CPU."""
        if cpu not in CPUS:
            raise DeviceError(f"emulated CPU {cpu!r} is not known{nearest(cpu, CPUS)}")
        self.name = name
        self.cpu = cpu
        self._cache = expanded(cache) if cache else default_cache()
        own = expanded(folder) if folder else user_folder("XDG_CACHE_HOME", ".cache") / f"edgekd-device-{cpu}"
        self.folder = str(own.absolute())
        self._view: Path | None = None
        self._in_use: FileLock | None = None

    @property
    def address(self) -> str:
        return f"emulated:{self.cpu}"

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: bytes = b"",
        hold: bool = False,
        timeout_s: float = 60,
        on_line: OnLine | None = None,
    ) -> Result:
        """Runs `python3 ...` on the emulated CPU. Other programs are missing there (exit code 127).

        Raises DeviceError if qemu is not installed or the root's packages are not available.
        """
        program, *arguments = words
        if program != self.python:
            return Result(127, b"", f"{program}: not found; an emulated CPU runs {self.python} alone\n")
        # An emulator takes about ten times as long as the CPU.
        command = [*self.command(), *arguments]
        return run_process(command, stdin=stdin, hold=hold, timeout_s=SLOWER * timeout_s, on_line=on_line)

    def command(self) -> list[str]:
        """The command that starts Python on the emulated CPU."""
        return _python(self.cpu, self._open(), ())

    def put(self, files: Mapping[str, Path]) -> None:
        copy_here(self.name, files)

    def close(self) -> None:
        if self._in_use is not None:
            self._in_use.release()
            self._in_use = None

    def _open(self) -> Path:
        """The CPU's view of the root. `edgekd cache --prune` keeps the root until `close`."""
        qemu()
        if self._in_use is None:
            (self._cache / ".locks").mkdir(parents=True, exist_ok=True)
            lock = self._cache / ".locks" / f"{IN_USE}{os.getpid()}-emulated-{id(self)}.lock"
            self._in_use = FileLock(lock, thread_local=False)
            self._in_use.acquire(timeout=0)
        if self._view is None:
            self._view = _root(self._cache) / "cpus" / self.cpu
        return self._view


def qemu() -> str:
    """The emulator's path. Raises DeviceError if no emulator is installed."""
    found = next((path for name in QEMU if (path := shutil.which(name))), None)
    if found is None:
        raise DeviceError(
            "emulating an arm64 CPU needs qemu's user-mode emulation; install it: apt-get install qemu-user-static"
        )
    return found


def _root(cache: Path) -> Path:
    """The stored root, created if absent: in a draft folder, renamed into place, by a single process at a time."""
    versions = {package: version(package) for package in WHEELS}
    root = cache / "-".join(["emulated-arm64", SUITE, *(f"{name}{number}" for name, number in versions.items())])
    with FileLock(cache / ".locks" / f"{root.name}.lock"):
        if not (root / STAMP).exists():
            say(f"  making an arm64 root in {root} (once, about 210 MB)")
            draft = Path(tempfile.mkdtemp(prefix=f".draft-{root.name}-", dir=cache))
            try:
                _unpack_packages(draft)
                _install_wheels(draft / "wheels", versions)
                for cpu in CPUS:
                    _describe_cpu(draft, cpu)
                (draft / STAMP).write_text('{"made_for": "emulated arm64 CPUs"}')
                draft.chmod(0o755)
                draft.rename(root)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    os.utime(root / STAMP)  # the time of the last use, for `edgekd cache`
    return root


def _unpack_packages(root: Path) -> None:
    """Unpacks Debian's arm64 packages with their dependencies, by an apt that reads only this configuration."""
    with tempfile.TemporaryDirectory(prefix="edgekd-apt-") as folder:
        apt = Path(folder)
        for part in ("state/lists/partial", "cache/archives/partial", "none"):
            (apt / part).mkdir(parents=True)
        signed = f" signed-by={KEYRING}" if Path(KEYRING).exists() else ""
        (apt / "sources.list").write_text(f"deb [arch=arm64{signed}] http://deb.debian.org/debian {SUITE} main\n")
        (apt / "status").touch()
        settings = {
            "Dir::State": apt / "state", "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache",
            "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": apt / "none",
            "Dir::Etc::preferencesparts": apt / "none", "APT::Architecture": "arm64", "APT::Architectures": "arm64",
            "APT::Install-Recommends": "false", "APT::Sandbox::User": "", "Acquire::Languages": "none",
        }  # fmt: skip
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        _do(["apt-get", *options, "update", "--error-on=any"])
        _do(["apt-get", *options, "install", "--yes", "--download-only", *PACKAGES])
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            _do(["dpkg-deb", "-x", str(package), str(root)])


def _install_wheels(folder: Path, versions: dict[str, str]) -> None:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--target", str(folder), *platforms, "--python-version", PYTHON, "--only-binary=:all:"]
    _do([*command, *(f"{name}=={number}" for name, number in versions.items())])


def _describe_cpu(root: Path, cpu: str) -> None:
    """Creates a view of the root with the CPU's /proc/cpuinfo, whose features the emulator itself reports.

    Without this file `import onnxruntime` crashes. A file with a feature that the emulator lacks ends in an illegal
    instruction.
    """
    view = root / "cpus" / cpu
    (view / "proc").mkdir(parents=True)
    for part in ("bin", "lib", "usr", "etc", "wheels"):
        (view / part).symlink_to(Path("../..") / part)
    read = f"import ctypes; g = ctypes.CDLL(None).getauxval; g.restype = ctypes.c_ulong; print(g({AT_HWCAP}), g({AT_HWCAP2}))"
    done = run_process(_python(cpu, view, ["-c", read]))
    if done.code != 0:
        raise DeviceError(f"{qemu()} cannot emulate {cpu}: {done.err.strip()}; qemu 7.1 or later can")
    bits, bits2 = map(int, done.out.split())
    features = [name for i, name in enumerate(HWCAP.split()) if bits >> i & 1]
    features += [name for i, name in enumerate(HWCAP2.split()) if bits2 >> i & 1]
    lines = [
        f"Features\t: {' '.join(features)}",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x1",
    ]
    lines += [f"CPU part\t: {CPUS[cpu]}", "CPU revision\t: 0", ""]
    processors = [line for i in range(os.cpu_count() or 1) for line in (f"processor\t: {i}", *lines)]
    (view / "proc" / "cpuinfo").write_text("\n".join(processors) + "\n")


def _python(cpu: str, view: Path, arguments: Sequence[str]) -> list[str]:
    """The words that start Python on the CPU, with a separate environment.

    This machine's packages are for another instruction set.
    """
    environment = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(view / "wheels"),
        "PYTHONNOUSERSITE": "1",
    }
    words = ["env", "-i", *(f"{key}={value}" for key, value in environment.items())]
    return [*words, qemu(), "-cpu", cpu, "-L", str(view), str(view / f"usr/bin/python{PYTHON}"), *arguments]


def _do(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise DeviceError(
            f"{command[0]} is not installed; the arm64 root is made from Debian packages, with apt and dpkg"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise DeviceError(f"the arm64 root could not be made: {command[0]} failed: {''.join(last)}")
