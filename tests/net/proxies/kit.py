"""Runs a proxy between a closed-loop client and an upstream, under the agent, and judges the links inside the proxy.

    python tests/net/proxies/kit.py [SETUP...] [--requests N] [--in-flight N] [--record FOLDER]

prints a line a setup (all of programs.SETUPS without a name). Root. The programs live in a cgroup of their own, on
which the agent is set. --record: keeps recordings and notes for `--again FOLDER`, which judges them with the code as it
is now.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "kit")]

from agent import COMMAND, Agent, spans  # noqa: E402
from cgroup import own_cgroup  # noqa: E402
from judge import Notes, Verdict, judge  # noqa: E402
from nginx import free_port  # noqa: E402
from programs import SETUPS, Setup  # noqa: E402

RULES = [
    {"match": {"cmdline": "*/upstream.py *"}, "name": "upstream"},
    {"match": {"cmdline": "*/load.py *"}, "name": "load"},
    *({"match": {"exe": f"*/{name}"}, "name": "proxy"} for name in ("nginx", "haproxy", "apache2", "envoy")),
]
CONFIG = {"service": {"rules": RULES}, "link": {"hold_s": 1}, "capture": {"ring_bytes": 64 << 20}}


@contextlib.contextmanager
def running(argv: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is up; it is told to end afterwards, and its children with it."""
    with (folder / f"{Path(argv[0]).name}.{port}.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                assert process.poll() is None, f"{argv[0]} ended: {log_of(folder)}"
                assert time.monotonic() < deadline, f"{argv[0]} did not come up: {log_of(folder)}"
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))


def drive(setup: Setup, folder: Path, requests: int, in_flight: int) -> None:
    """Starts upstream and proxy, lets the client run, ends them; the notes are in `sent` and `read`."""
    folder.chmod(0o755)
    behind, port = free_port(), free_port()
    upstream = [sys.executable, str(HERE / "upstream.py"), str(behind), str(folder / "read")]
    client = [sys.executable, str(HERE / "load.py"), str(port), str(folder / "sent"), str(requests), str(in_flight),
              "keep" if setup.keep else "close"]  # fmt: skip
    upstream += ["X-Request-ID"] if setup.echo else []
    client += ["X-Request-ID"] if setup.request_id else []
    with (
        running(upstream, folder, behind),
        running(setup.start(folder, port, behind, **setup.options), folder, port),
    ):
        done = subprocess.run(client, timeout=120)
        assert done.returncode == 0, f"requests failed: {log_of(folder)}"


def measure(setup: Setup, folder: Path, requests: int = 2000, in_flight: int = 50) -> Verdict:
    """One run under the agent."""
    with own_cgroup(f"proxies-{folder.name[-20:]}") as cgroup, Agent(folder, CONFIG, "--cgroup", cgroup) as agent:
        drive(setup, folder, requests, in_flight)
        agent.settled()
        ledger = agent.stop()
    assert not ledger["dropped"] or set(ledger["dropped"]) == {"selftest"}, ledger
    return verdict(folder, agent.traces_file)


def verdict(folder: Path, traces: Path) -> Verdict:
    return judge(spans(traces), "proxy", "upstream", Notes(folder / "sent"), Notes(folder / "read"))


def record(setup: Setup, folder: Path, requests: int, in_flight: int) -> None:
    """The same with the kernel's events kept in `events.zsr`."""
    import yaml

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "zerospan.yaml").write_text(yaml.safe_dump({**CONFIG, "run_dir": str(folder / "run")}))
    with own_cgroup(f"proxies-{folder.name[-20:]}") as cgroup:
        argv = [*COMMAND, "record", str(folder / "events.zsr"), "--config", str(folder / "zerospan.yaml"),
                "--cgroup", cgroup]  # fmt: skip
        with (folder / "record.log").open("wb") as log:
            agent = subprocess.Popen(argv, stderr=log, stdout=log)
        while "ready" not in (folder / "record.log").read_text():
            assert agent.poll() is None, log_of(folder)
            time.sleep(0.05)
        try:
            drive(setup, folder, requests, in_flight)
            time.sleep(0.5)
        finally:
            agent.terminate()
            agent.wait(30)


def again(folder: Path) -> Verdict:
    """Judges a recording with the code as it is now."""
    traces = folder / "again.jsonl"
    traces.unlink(missing_ok=True)
    subprocess.run(
        [*COMMAND, "replay", str(folder / "events.zsr"), "--config", str(folder / "zerospan.yaml"), "--traces-file",
         str(traces)], check=True, capture_output=True,
    )  # fmt: skip
    return verdict(folder, traces)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("setups", nargs="*", metavar="SETUP", help=", ".join(SETUPS))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=50)
    parser.add_argument("--record", type=Path, metavar="FOLDER")
    parser.add_argument("--again", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    for name in asked.setups or SETUPS:
        if asked.again:
            found = again(asked.again / name)
        elif asked.record:
            record(SETUPS[name], asked.record / name, asked.requests, asked.in_flight)
            found = again(asked.record / name)
        else:
            with tempfile.TemporaryDirectory(prefix="zs-proxies-") as folder:
                found = measure(SETUPS[name], Path(folder), asked.requests, asked.in_flight)
        print(f"{name:21} {found}", flush=True)


if __name__ == "__main__":
    main()
