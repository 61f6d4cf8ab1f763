"""The agent and the enricher under what deploy/systemd's units leave them: user, capabilities, mounts, system calls.

No systemd runs here: tests/kit/sandbox.py makes the same of the units' own lines. The configurations are the examples
of deploy/systemd with free ports, and a filter for the network namespace of the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent import COMMAND, LEDGER
from nginx import free_port
from prometheus_client.parser import text_string_to_metric_families
from sandbox import UID, Sandbox

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy/systemd"
NETNS = f"agent-sb-{os.getpid()}"
OTHER = 65534  # whom the service runs as
SERVICE = """
import http.server, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.execvpe(sys.executable, [sys.executable, "-m", "http.server", "8080", "--directory", "/var/empty"],
           {"OTEL_SERVICE_NAME": "boutique", "PATH": os.environ["PATH"]})
"""
ASK = """
import http.client
for _ in range(5):
    c = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
    c.request("GET", "/"); c.getresponse().read(); c.close()
"""


def until(what: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Folders that stand for /etc/zerospan and /run/zerospan."""
    for name in ("etc", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc/static.yaml").write_text((UNITS / "static.yaml").read_text())
    return tmp_path


@pytest.fixture
def netns() -> Iterator[str]:
    os.makedirs("/var/empty", exist_ok=True)
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    try:
        subprocess.run(["ip", "-n", NETNS, "link", "set", "lo", "up"], check=True)
        yield NETNS
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=True)


def inside(argv: list[str]) -> list[str]:
    """In the namespace of the test, with /sys as it is."""
    return ["nsenter", f"--net=/run/netns/{NETNS}", "--", *argv]


def sandbox(unit: str, place: Path, *drop_ins: str) -> Sandbox:
    places = {"/etc/zerospan": place / "etc", "/run/zerospan": place / "run"}
    return Sandbox(UNITS / unit, places, *(UNITS / name for name in drop_ins))


def configure(place: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """The example, as /etc/zerospan has it."""
    config = yaml.safe_load((UNITS / name).read_text())
    change(config)
    (place / "etc" / name).write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def running(place: Path, name: str, argv: list[str]) -> Iterator[Callable[[], str]]:
    """ExecStart; it has told READY=1 when it has said `ready`, and must tell STOPPING=1 and end well on SIGTERM. Gives
    what it has said on standard error."""
    said = place / f"{name}.stderr"
    path = place / "run" / f"{name}.notify"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as notify:
        notify.bind(str(path))
        path.chmod(0o666)
        notify.settimeout(30)
        env = {**os.environ, "NOTIFY_SOCKET": f"/run/zerospan/{path.name}"}
        with said.open("wb") as err:
            process = subprocess.Popen(argv, stderr=err, env=env)
        try:
            until(lambda: process.poll() is not None or "ready" in said.read_text())
            assert process.poll() is None, said.read_text()
            assert notify.recv(1000).split(b"\n")[0] == b"READY=1"
            yield said.read_text
            process.send_signal(signal.SIGTERM)
            while (told := notify.recv(1000)) != b"STOPPING=1":
                assert told.startswith(b"STATUS="), told
            assert process.wait(30) == 0, said.read_text()
        finally:
            process.kill()
            process.wait()


def test_the_sandbox_refuses_what_the_units_do(place: Path) -> None:
    """Else nothing below says anything."""
    shell = """
    cat /proc/self/status | grep -E '^(Uid|CapBnd|CapEff|NoNewPrivs|Seccomp):'
    touch /etc/zerospan/x || echo no-etc; touch /sys/fs/cgroup/x || echo no-cgroup; touch /var/x || echo no-var
    touch /run/zerospan/mine && touch /tmp/mine && echo may
    unshare --net true || echo no-unshare; mount -t tmpfs x /mnt || echo no-mount; chroot / true || echo no-chroot
    test -e /dev/kmsg || echo no-kmsg; cat /proc/kallsyms | grep -q . || echo no-kallsyms
    """
    code = "import ctypes,mmap,socket\ntry: mmap.mmap(-1,4096,prot=7)\nexcept OSError: print('no-wx')\n"
    code += "try: socket.socket(socket.AF_PACKET)\nexcept OSError as e: print('no-packet', e.errno)\n"
    with sandbox("zerospan.service", place) as box:
        done = subprocess.run(
            box.argv(["sh", "-c", f'{shell}\nexec "$0" -c "$1"', sys.executable, code]), capture_output=True, text=True
        )
    said = done.stdout.splitlines()
    status = dict(line.split(":\t", 1) for line in said if ":\t" in line)
    wanted = f"{1 << 39 | 1 << 38 | 1 << 19 | 1 << 2:016x}"
    assert (status["CapBnd"], status["CapEff"], status["NoNewPrivs"]) == (wanted, wanted, "1"), done.stderr
    assert status["Uid"].split() == [str(UID)] * 4 and status["Seccomp"] == "2"
    assert [line for line in said if ":\t" not in line] == [
        "no-etc", "no-cgroup", "no-var", "may", "no-unshare", "no-mount", "no-chroot", "no-kmsg", "no-kallsyms",
        "no-wx", "no-packet 97",
    ], done.stderr  # fmt: skip
    assert (place / "run/mine").stat().st_uid == UID and not Path("/tmp/mine").exists()


def test_check_finds_all_that_the_agent_needs(place: Path) -> None:
    configure(place, "zerospan.yaml", lambda c: c.pop("enricher"))
    argv = [*COMMAND, "check", "--json", "--config", "/etc/zerospan/zerospan.yaml"]

    def check(*drop_ins: str) -> tuple[int, dict[str, dict[str, str]]]:
        with sandbox("zerospan.service", place, *drop_ins) as box:
            done = subprocess.run(box.argv(argv), capture_output=True, text=True)
        told = json.loads(done.stdout)
        assert told["usable"] is (done.returncode == 0), told["verdict"]
        return done.returncode, {f["name"]: f for f in told["findings"]}

    code, found = check()
    assert code == 0 and found["self-test"]["state"] == "ok"
    assert {name for name, f in found.items() if name.startswith("CAP_") and f["state"] == "ok"} == {
        "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH",
    }  # fmt: skip
    assert "tcx" in found["NIC points"]["text"] and found["NIC points"]["state"] == "info"
    code, found = check("zerospan-nic.conf")
    assert code == 0 and found["NIC points"]["state"] == "ok", found["NIC points"]


def test_the_agent_finds_a_control_group_by_its_id(place: Path) -> None:
    """Of which it knows a process's container after the process has ended."""
    code = """
import os
from zerospan.exporter.process.cgroup_ids import CgroupIds, _mount
own = _mount("/proc") + open("/proc/self/cgroup").read().rpartition("0::")[2].strip()
print(os.path.samefile(CgroupIds()._path(os.stat(own).st_ino), own))
"""
    with sandbox("zerospan.service", place) as box:
        done = subprocess.run(box.argv([sys.executable, "-c", code]), capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_the_agent_passes_its_self_test(place: Path) -> None:
    """As the example stands, but for the port: the whole machine is watched for a moment."""
    configure(place, "zerospan.yaml", lambda c: c["metrics"].update(listen="127.0.0.1:0"))
    with sandbox("zerospan.service", place) as box:
        argv = box.argv(box.start_command(*COMMAND))
        with running(place, "agent", argv) as said:
            ask = [*COMMAND, "status", "--json", "--run-dir", str(place / "run")]
            status = json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)
            assert status["selftest"] == "passed" and "self-test" not in said()
            assert status["enricher"]["connected"] is False, "nobody is there"
            assert (place / "run/agent.sock").stat().st_mode & 0o777 == 0o600


def test_both_units_together(place: Path, netns: str) -> None:
    """A service of another user is found, named by its environment, counted and tagged; both stop as told."""
    metrics = f"127.0.0.1:{free_port()}"

    def agent(config: dict[str, Any]) -> None:
        config["metrics"]["listen"] = metrics
        config["filter"] = {"netns": [netns]}

    configure(place, "zerospan.yaml", agent)
    configure(place, "enricher.yaml", lambda c: c["listen"].update(http=f"127.0.0.1:{free_port()}"))
    (place / "etc/static.yaml").write_text(
        yaml.safe_dump({"entries": [{"nodes": [os.uname().nodename], "tags": {"rack": "r7"}}]})
    )
    python = os.path.realpath(sys.executable)  # not the environment's: another user may not get to our folder
    service = subprocess.Popen(inside([python, "-c", SERVICE]), stderr=subprocess.DEVNULL)
    run = place / "run"
    try:
        with (
            sandbox("zerospan-enricher.service", place) as enricher_box,
            sandbox("zerospan.service", place) as agent_box,
            running(place, "enricher", enricher_box.argv(enricher_box.start_command(*COMMAND))) as enricher_said,
        ):
            assert (run / "enricher.sock").stat().st_mode & 0o777 == 0o600
            until(lambda: Path(f"/proc/{service.pid}/cmdline").read_bytes().count(b"http.server"))
            look = [*COMMAND, "enricher", "lookup", "--json", "--unix", str(run / "enricher.sock"), str(service.pid)]
            told = subprocess.run(look, capture_output=True, text=True)
            assert told.returncode == 0, told.stderr
            tags = json.loads(told.stdout)
            assert tags["service.name"] == "boutique" and tags["rack"] == "r7", tags
            assert tags["process.executable.path"] == python
            with running(place, "agent", agent_box.argv(agent_box.start_command(*COMMAND))) as agent_said:
                assert "WARNING" not in agent_said(), agent_said()
                ask = [*COMMAND, "status", "--json", "--run-dir", str(run)]
                status = lambda: json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)  # noqa: E731
                until(lambda: status()["enricher"]["in_sync"])
                check = [*COMMAND, "check", "--json", "--config", "/etc/zerospan/zerospan.yaml"]
                found = json.loads(subprocess.run(agent_box.argv(check), capture_output=True).stdout)["findings"]
                assert [f["state"] for f in found if f["name"] == "enricher"] == ["ok"], found
                subprocess.run(inside([sys.executable, "-c", ASK]), check=True)
                until(lambda: status()["seen"] >= 10 and not status()["in_flight"])
                with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
                    families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
            counts = [s for s in families["http_server_request_duration_seconds"].samples if s.name.endswith("_count")]
            assert [(s.labels["job"], s.value) for s in counts if s.value] == [("boutique", 5)]
            (target,) = [s.labels for s in families["target_info"].samples if s.labels["job"] == "boutique"]
            assert target["rack"] == "r7" and target["deployment_environment_name"] == "production"
            ledger = LEDGER.search(agent_said())
            assert ledger and int(ledger[1]) == 10 and ledger[3] == "none", agent_said()
            assert (run / "enricher.sock").exists(), "the agent took the folder away"
        assert "WARNING" not in enricher_said(), enricher_said()
    finally:
        service.kill()
        service.wait()


def test_conntrack_with_its_drop_in_only(place: Path, netns: str) -> None:
    def with_conntrack(config: dict[str, Any]) -> None:
        config["listen"]["http"] = None
        config["sources"]["conntrack"] = {"enabled": True}

    configure(place, "enricher.yaml", with_conntrack)
    with sandbox("zerospan-enricher.service", place, "zerospan-enricher-conntrack.conf") as box:
        argv = inside(box.argv(box.start_command(*COMMAND)))
        with running(place, "enricher", argv):
            pass
    with sandbox("zerospan-enricher.service", place) as box:
        argv = inside(box.argv(box.start_command(*COMMAND)))
        said = place / "without.stderr"
        with said.open("wb") as err:
            process = subprocess.Popen(argv, stderr=err)
        try:
            until(lambda: "conntrack: self:" in said.read_text())
            assert "CAP_NET_ADMIN" in said.read_text() or "not permitted" in said.read_text()
            assert "ready" not in said.read_text()
        finally:
            process.terminate()
            process.wait(20)
