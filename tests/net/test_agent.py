"""The agent as systemd and people run it: readiness, its ways to end, a namespace of its own, literals on demand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent import Agent, spans
from cgroup import own_cgroup
from nginx import free_port

SERVER = [sys.executable, "-c"]
ECHO = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


def get(port: int, path: str, inside: list[str]) -> str:
    argv = [*inside, "curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "0", "--max-time", "10"]
    return subprocess.run([*argv, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True).stdout


def paths(agent: Agent) -> set[str]:
    return {s["attributes"]["url.path"] for s in spans(agent.traces_file) if "url.path" in s["attributes"]}


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"zs-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(20)
        with Agent(tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as agent:
            assert told.recv(100) == b"READY=1"
            agent.stop()
        assert told.recv(100) == b"STOPPING=1"


def test_sigint_ends_it_like_sigterm(tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        assert agent.process is not None
        agent.process.send_signal(signal.SIGINT)
        assert agent.process.wait(20) == 0
        assert "ledger: seen" in agent.said()


def test_it_ends_by_itself_after_the_duration(tmp_path: Path) -> None:
    with Agent(tmp_path, None, "--duration", "1.5") as agent:
        assert agent.process is not None
        began = time.monotonic()
        assert agent.process.wait(20) == 0
        assert time.monotonic() - began > 1
        assert "ledger: seen" in agent.said()


def test_held_spans_leave_when_it_stops(tmp_path: Path) -> None:
    """What is on hold when the agent is told to stop is exported, not lost."""
    port = free_port()
    with own_cgroup("held") as cgroup, Agent(tmp_path, {"link": {"hold_s": 30}}, "--cgroup", cgroup) as agent:
        server = subprocess.Popen([*SERVER, ECHO, str(port)])
        assert get(port, "/held", []) == "ok"
        time.sleep(0.3)
        server.kill()
        server.wait()
        ledger = agent.stop()
    assert ledger["dropped"] == {}
    assert "/held" in paths(agent)


@pytest.mark.parametrize("how", ["name", "path"])
def test_a_network_namespace_is_watched_and_nothing_else(tmp_path: Path, namespace: str, how: str) -> None:
    port = free_port()
    inside = ["ip", "netns", "exec", namespace]
    given = namespace if how == "name" else f"/run/netns/{namespace}"
    with Agent(tmp_path, None, "--netns", given) as agent:
        servers = [subprocess.Popen([*run, *SERVER, ECHO, str(port)]) for run in ([], inside)]
        try:
            assert get(port, "/inside", inside) == get(port, "/outside", []) == "ok"
        finally:
            for server in servers:
                server.kill()
                server.wait()
        agent.stop()
    assert "/inside" in paths(agent)
    assert "/outside" not in paths(agent)


@pytest.mark.parametrize("mask", [True, False])
def test_values_are_shown_on_demand_only(tmp_path: Path, mask: bool) -> None:
    port = free_port()
    settings = {"privacy": {"mask": mask}}
    with own_cgroup("mask") as cgroup, Agent(tmp_path, settings, "--cgroup", cgroup) as agent:
        server = subprocess.Popen([*SERVER, ECHO, str(port)])
        assert get(port, "/search?token=hunter2", []) == "ok"
        server.kill()
        server.wait()
        agent.stop()
    text = agent.traces_file.read_text() + agent.logs_file.read_text()
    assert "/search" in text
    assert ("hunter2" in text) is not mask
