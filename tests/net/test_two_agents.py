"""Two agents on one kernel, each limited to its host and its pods: neither sees the other's requests.

Two nodes of a cluster (demo/hosts.py), the same names of programs on both. `--netns` is given several times, as names
of `ip netns` and as paths; `--run-dir` or ZEROSPAN_RUN_DIR keeps sockets apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent import COMMAND, Agent
from agent import spans as spans_of_file
from truth import CLIENT, SERVER, Sent, by_path, judge
from truth_run import CLEAN_ENV, PEERS, drive

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo.hosts import NETNS, Cluster, Host

PROGRAMS = Path(__file__).resolve().parent / "truth"
PORT = 8080
REQUESTS = 100


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("twoagents", tunnel=None) as made:
        for name in ("one", "two"):
            host = made.host(name)
            host.pod(f"{name}client")
            front, leaf = host.pod(f"{name}front"), host.pod(f"{name}leaf")
            leaf.run([*PEERS, "leaf", str(PORT), "0.0.0.0"])
            env = {**CLEAN_ENV, "TRUTH_UPSTREAM": f"http://{leaf.address}:{PORT}", "PYTHONDONTWRITEBYTECODE": "1"}
            argv = ["/usr/bin/gunicorn", "--chdir", str(PROGRAMS), "--bind", f"0.0.0.0:{PORT}"]
            front.run([*argv, "--worker-class", "gthread", "--threads", "8", "app:app"], env=env)
            front.wait_port(PORT)
            leaf.wait_port(PORT)
        yield made


def names(host: Host) -> list[str]:
    return host.namespaces


def paths(host: Host) -> list[str]:
    return [str(NETNS / name) for name in host.namespaces]


def mixed(host: Host) -> list[str]:
    """A path of a running process's namespace, too: what a container runtime knows."""
    return [*paths(host)[:2], *names(host)[2:3], f"/proc/{host.pods[2].processes[0].pid}/ns/net"]


def agent(folder: Path, namespaces: list[str], way: str) -> Agent:
    """An agent whose run_dir comes from the file, an option or the environment."""
    folder.mkdir()
    options = [option for name in namespaces for option in ("--netns", name)]
    if way == "file":
        return Agent(folder, None, *options)
    other = Agent(folder, {"run_dir": "/nonexistent/never"}, *options)
    if way == "option":
        other.argv += ["--run-dir", str(other.run_dir)]
    else:
        other.env["ZEROSPAN_RUN_DIR"] = str(other.run_dir)
    return other


def ask(host: Host) -> list[Sent]:
    """Requests from the host's client pod to its front, which calls its leaf."""
    client, front = host.pods[0], host.pods[1]
    return drive(f"http://{front.address}:{PORT}", REQUESTS, 8, False, "1,2", client.argv([]))


def addresses(spans: list[dict[str, Any]]) -> set[str]:
    keys = ("network.peer.address", "server.address", "client.address")
    return {str(s["attributes"][key]) for s in spans for key in keys if key in s["attributes"]}


@pytest.mark.parametrize(
    ("how", "ways"), [(names, ("file", "option")), (paths, ("environment", "file")), (mixed, ("option", "environment"))]
)
def test_each_sees_its_own_host_only(
    cluster: Cluster, tmp_path: Path, how: Callable[[Host], list[str]], ways: tuple[str, str]
) -> None:
    one, two = cluster.hosts
    with contextlib.ExitStack() as stack:
        agents = [
            stack.enter_context(agent(tmp_path / host.name, how(host), way))
            for host, way in zip(cluster.hosts, ways, strict=True)
        ]
        for running in agents:
            assert list(running.run_dir.iterdir()), "no socket of its own"
        sent = [ask(host) for host in cluster.hosts]
        crossing = one.pods[0].output(["curl", "-sS", f"http://{two.pods[2].address}:{PORT}/t/999999/0/0"])
        assert crossing == "leaf\n"
        for running in agents:
            running.settled()
            running.stop()
    for host, running, mine in zip(cluster.hosts, agents, sent, strict=True):
        spans = spans_of_file(running.traces_file)
        score = judge(spans, mine)
        assert score.whole == REQUESTS, f"{host.name}: {score.text()}"
        # one request crossed: each agent has the end on its host, and nothing else of the other
        crossed = [s for s in spans if by_path(s) == "999999"]
        assert [s["kind"] for s in crossed] == [CLIENT if host is one else SERVER]
        own = {pod.address for pod in host.pods} | {"127.0.0.1"}
        assert addresses([s for s in spans if s not in crossed]) <= own


def test_a_host_without_its_pods(cluster: Cluster, tmp_path: Path) -> None:
    """The filter is the namespace, not the machine: an agent of the client's pod sees one end."""
    one = cluster.hosts[0]
    with agent(tmp_path / "pod", [one.pods[0].netns], "file") as running:
        sent = ask(one)
        running.settled()
        running.stop()
    spans = spans_of_file(running.traces_file)
    assert {s["kind"] for s in spans} == {CLIENT}
    assert len(spans) == len(sent)


def test_a_namespace_that_is_not_there_is_named(tmp_path: Path) -> None:
    argv = [*COMMAND, "run", "--netns", "self", "--netns", "zerospan-no-such", "--run-dir", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode != 0
    assert "zerospan-no-such" in done.stderr and "ip netns" in done.stderr


def test_status_asks_the_agent_of_its_run_dir(cluster: Cluster, tmp_path: Path) -> None:
    one, two = cluster.hosts
    with agent(tmp_path / "a", names(one), "file") as first, agent(tmp_path / "b", names(two), "file") as second:
        ask(one)
        seen = []
        for running in (first, second):
            env = {**os.environ, "ZEROSPAN_RUN_DIR": str(running.run_dir)}
            argv = [*COMMAND, "status", "--json"]
            done = subprocess.run(argv, capture_output=True, text=True, check=True, env=env)
            seen.append(json.loads(done.stdout)["kernel"]["emitted"])
        assert seen[0] > 0
        assert seen[1] <= 4, f"the second agent took records of the first one's host: {seen}"
