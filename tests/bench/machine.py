"""The machine that is measured on: what it must have, exact CPU times, programs that end with us.

Every program of the benchmark is started here, on a core of its own choice, in one scope that ends them all.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = {
    "nginx": "nginx-light",
    "wrk": "wrk",
    "gcc": "gcc libc6-dev",
    "taskset": "util-linux",
    "setpriv": "util-linux",
    "redis-server": "redis-server",
    "nft": "nftables",
    "ip": "iproute2",
}
SERVER_CORE, OTHER_CORE = 0, 1
PROGRESS = "progress: "  # of a script that is a part


class BenchError(Exception):
    """The benchmark cannot be run, or a measurement means nothing: what, where, what to do."""


class GivenUpError(BenchError):
    """The whole benchmark is to end now: by its limit of time, or by SIGTERM."""


def program(name: str) -> str:
    """Path of a program; nginx stands in /usr/sbin, which is not in everyone's PATH. BenchError: missing."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise BenchError(f"{name} is missing: apt-get install {PACKAGES[name]}")
    return found


def require(names: Sequence[str], *, root: bool) -> None:
    """Raises BenchError with everything that is missing."""
    missing = []
    for name in names:
        try:
            program(name)
        except BenchError:
            missing.append(name)
    problems = []
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[name] for name in missing))
        problems.append(f"not installed: {', '.join(missing)}; run: apt-get install {packages}")
    if root and os.geteuid() != 0:
        problems.append("these measurements load BPF programs and need root: run it with sudo, or use --only")
    if root and len(os.sched_getaffinity(0)) < 2:
        problems.append("two cores are needed: one for nginx, one for the client and the agent")
    if problems:
        raise BenchError("; ".join(problems))


def cpu_ns(pid: int) -> int:
    """CPU time of a process with all its threads, ended ones too, in ns.

    The process's CPU clock (clock_getcpuclockid(3)): the scheduler's sum, as in /proc/PID/schedstat, which is
    of the main thread only. BenchError if there is no such process.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError as e:
        raise BenchError(f"process {pid} is gone while it was measured") from e


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float, pause_s: float = 0.02) -> None:
    """Polls. BenchError after timeout_s."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise BenchError(f"{what}: not within {timeout_s:g} s")
        time.sleep(pause_s)


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """The command on one core, ended by the kernel should this program die."""
    return [program("setpriv"), "--pdeathsig", "TERM", program("taskset"), "-c", str(core), *command]


@contextlib.contextmanager
def running(
    core: int,
    command: Sequence[str],
    *,
    stdout: int | IO[Any] | None = subprocess.DEVNULL,
    stderr: int | IO[Any] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A program that runs beside us on one core; ended at the end, by force if need be."""
    with subprocess.Popen(pinned(core, command), stdout=stdout, stderr=stderr, env=env, text=True) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str], timeout_s: float = 15) -> int:
    """SIGTERM, and SIGKILL after timeout_s. The exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def measure(core: int, command: Sequence[str], timeout_s: float) -> str:
    """Runs a program to its end; its output. BenchError if it fails or takes longer."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(pinned(core, command), capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as e:
        raise BenchError(f"{name} took more than {timeout_s:g} s") from e
    if done.returncode:
        raise BenchError(f"{name} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout


def measure_json(core: int, command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """measure() of a program that prints one JSON object."""
    out: dict[str, Any] = json.loads(measure(core, command, timeout_s))
    return out


def compile_c(name: str, folder: Path) -> str:
    """Builds tests/bench/NAME.c; path of the program."""
    target = str(folder / name)
    measure(OTHER_CORE, [program("gcc"), "-O2", "-Wall", "-Wextra", "-o", target, str(HERE / f"{name}.c")], 60)
    return target


def agent_env() -> dict[str, str]:
    """The environment of the agent: none of the caller's settings, this source tree."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "ZEROSPAN_"))}
    return keep | {"PYTHONPATH": str(ROOT / "src")}


def say(text: str) -> None:
    """Progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Progress of a script of its own, for parts.py to pass on."""
    print(f"{PROGRESS}{text}", file=sys.stderr, flush=True)


def leave_on_sigterm() -> None:
    """SIGTERM ends this program through its `finally` blocks: what it started ends, too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def quiet_share(seconds: float = 0.5) -> float:
    """How much of the machine other programs used in this time, 0 to 1: what makes figures noise."""

    def busy() -> tuple[int, int]:
        values = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(values) - values[3] - values[4], sum(values)

    before = busy()
    time.sleep(seconds)
    after = busy()
    return (after[0] - before[0]) / max(1, after[1] - before[1])


@dataclass
class About:
    """What the figures depend on."""

    cores: int
    cpu: str
    kernel: str
    python: str
    busy_before: float
    nat: bool

    @staticmethod
    def cores_here() -> int:
        return os.cpu_count() or 1

    @staticmethod
    def here() -> "About":
        cpu = "unknown"
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
        tables = [Path(f"/proc/net/{name}") for name in ("ip_tables_names", "ip6_tables_names")]
        nat = Path("/sys/module/nf_nat/refcnt").exists() or any(t.exists() and "nat" in t.read_text() for t in tables)
        return About(About.cores_here(), cpu, platform.release(), sys.version.split()[0], quiet_share(), nat)
