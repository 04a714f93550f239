"""open_emulated: the real arm64 onnxruntime on this machine, under qemu's user-mode emulation of one CPU.

It gives numerics on the target's instruction set (int8 and fp16 arithmetic differ there), never a latency: an emulator's
time says nothing about a device's. The root is made once and kept in the cache: Debian's arm64 packages of Python,
unpacked, and the aarch64 wheels of the onnxruntime and numpy that are installed here, so that what differs is the CPU alone.
No root privileges, no chroot and no binfmt are needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from edgekd.errors import DeviceError, nearest
from edgekd.say import say
from edgekd.stage import IN_USE, STAMP, default_cache

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
    """A CPU under qemu; its files are this machine's, in a work folder of its own that goes with it."""

    origin = "emulated"

    def __init__(self, cpu: str, root: Path, work: Path) -> None:
        self.name = f"emulated:{cpu}"
        self.cpu = cpu
        self.work = work
        self._root = root

    def run(self, words: Sequence[str], *, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run `python3 ...` on the emulated CPU, in the work folder; other programs are not there (exit code 127)."""
        program, *arguments = words
        if program != "python3":
            error = f"{program}: not found; an emulated CPU runs python3 alone\n"
            return subprocess.CompletedProcess(list(words), 127, "", error)
        return _emulate(self.cpu, self._root / "cpus" / self.cpu, arguments, cwd=self.work, timeout_s=timeout_s)

    def put(self, source: Path, to: str) -> None:
        """Copy a file or a folder to `to`, a path in the work folder."""
        target = self._inside(to)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)

    def get(self, source: str, to: Path) -> None:
        """Copy a file from the work folder to `to`."""
        shutil.copyfile(self._inside(source), to)

    def _inside(self, path: str) -> Path:
        found = (self.work / path).resolve()
        if not found.is_relative_to(self.work.resolve()):
            raise DeviceError(f"{path!r} leaves the work folder of {self.name}; give a path inside it")
        return found


@contextmanager
def open_emulated(cpu: str, cache: Path | None = None) -> Iterator[Emulated]:
    """An emulated CPU; its root is made in the cache (`default_cache()`) where it is absent: about half a minute, 210 MB.

    Raises DeviceError for a CPU that is not known, where qemu is not installed, and where packages cannot be had.
    """
    if cpu not in CPUS:
        raise DeviceError(f"emulated CPU {cpu!r} is not known{nearest(cpu, CPUS)}")
    qemu()
    cache = cache or default_cache()
    (cache / ".locks").mkdir(parents=True, exist_ok=True)
    in_use = FileLock(cache / ".locks" / f"{IN_USE}{os.getpid()}-{cpu}.lock", thread_local=False)
    with in_use, tempfile.TemporaryDirectory(prefix="edgekd-") as work:
        yield Emulated(cpu, _root(cache), Path(work))


def qemu() -> str:
    """The emulator's path. Raises DeviceError where there is none."""
    found = next((path for name in QEMU if (path := shutil.which(name))), None)
    if found is None:
        raise DeviceError(
            "emulating an arm64 CPU needs qemu's user-mode emulation; install it: apt-get install qemu-user-static"
        )
    return found


def _root(cache: Path) -> Path:
    """The stored root, made where it is absent: in a draft folder, renamed into place, by one process at a time."""
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
    os.utime(root / STAMP)  # when it was last used, for `edgekd cache`
    return root


def _unpack_packages(root: Path) -> None:
    """Debian's arm64 packages and all that they depend on, by an apt that knows of no other configuration than this."""
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
    """A view of the root with a /proc/cpuinfo of that CPU, whose features are those that the emulator itself reports.

    Without one `import onnxruntime` crashes; one that claims a feature which the emulator lacks ends in an illegal instruction.
    """
    view = root / "cpus" / cpu
    (view / "proc").mkdir(parents=True)
    for part in ("bin", "lib", "usr", "etc", "wheels"):
        (view / part).symlink_to(Path("../..") / part)
    read = f"import ctypes; g = ctypes.CDLL(None).getauxval; g.restype = ctypes.c_ulong; print(g({AT_HWCAP}), g({AT_HWCAP2}))"
    done = _emulate(cpu, view, ["-c", read], cwd=root)
    if done.returncode != 0:
        raise DeviceError(f"{qemu()} cannot emulate {cpu}: {done.stderr.strip()}; qemu 7.1 or later can")
    bits, bits2 = map(int, done.stdout.split())
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


def _emulate(
    cpu: str, view: Path, arguments: Sequence[str], *, cwd: Path, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Python on that CPU, with an environment of its own: this machine's packages are for another instruction set."""
    command = [qemu(), "-cpu", cpu, "-L", str(view), str(view / f"usr/bin/python{PYTHON}"), *arguments]
    environment = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(view / "wheels"),
        "PYTHONNOUSERSITE": "1",
    }
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        timeout=timeout_s,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


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
