"""Traces over three hosts whose agents share links through a real Redis; away, slow, and empty again.

A host is a network namespace with an agent that sees nothing else (host 1: two, with its client's pod), joined by a
bridge. Host 2's calls leave through SNAT. The agents reach Redis through a proxy of the test, which can be slow.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agent import Agent, spans
from nginx import free_port

SERVICE = Path(__file__).with_name("hosts_service.py")
TAG = f"shr{os.getpid() % 100000}"
NET = f"10.{80 + os.getpid() % 40}.{os.getpid() // 40 % 250}"
PORT = 8080
HOLD_S = 2.0
CLIENT, SERVER = 3, 2

CALLER = """
import http.client, sys, threading
address, port, first, n, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
wrong = []
def run(k):
    c = http.client.HTTPConnection(address, port, timeout=20)
    for i in range(first + k, first + n, threads):
        c.request("GET", f"/a/{i}")
        body = c.getresponse().read()
        if body != b"a>b>c":
            wrong.append(body)
ts = [threading.Thread(target=run, args=(k,)) for k in range(threads)]
[t.start() for t in ts]; [t.join() for t in ts]
sys.exit(bool(wrong))
"""


def sh(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout


def until(what: Callable[[], Any], why: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.05)


class Proxy:
    """Between the agents and Redis: answers take `delay_s` longer, without a limit on how many are under way."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.delay_s = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stopping = False
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def stop(self) -> None:
        self.stopping = True
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.to), 1)
                except OSError:
                    near.close()
                    continue
                threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        late: deque[tuple[float, bytes]] = deque()
        with near, far, contextlib.suppress(OSError):
            while not self.stopping:
                wait = max(0.0, late[0][0] - time.monotonic()) if late else 0.2
                ready, _, _ = select.select([near, far], [], [], min(wait, 0.2))
                if near in ready:
                    data = near.recv(1 << 18)
                    if not data:
                        return
                    far.sendall(data)
                if far in ready:
                    data = far.recv(1 << 18)
                    if not data:
                        return
                    late.append((time.monotonic() + self.delay_s, data))
                while late and late[0][0] <= time.monotonic():
                    near.sendall(late.popleft()[1])


@dataclass
class Redis:
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--requirepass", "hush", "--dir", str(self.folder)], stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until(self.up, "redis-server does not answer")

    def up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def cli(self, *words: str) -> str:
        return sh("redis-cli", "--no-auth-warning", "-a", "hush", "-p", str(self.port), "-n", "3", *words)


@dataclass
class Net:
    """The hosts: namespaces, their agents, their services."""

    folder: Path
    redis: Redis
    proxy: Proxy
    undo: contextlib.ExitStack
    agents: list[Agent] = field(default_factory=list)
    next_id: int = 0

    def namespace(self, name: str, last: int) -> str:
        ns = f"{TAG}-{name}"
        self.undo.callback(sh, "ip", "netns", "del", ns, check=False)
        sh("ip", "netns", "add", ns)
        sh("ip", "link", "add", f"{TAG}{name}", "type", "veth", "peer", "name", "eth0", "netns", ns)
        sh("ip", "link", "set", f"{TAG}{name}", "master", f"{TAG}br", "up")
        sh("ip", "-n", ns, "addr", "add", f"{NET}.{last}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            sh("ip", "-n", ns, "link", "set", device, "up")
        return ns

    def service(self, ns: str, name: str, last: int, to: int | None) -> None:
        more = [f"{NET}.{to}", str(PORT)] if to is not None else []
        argv = ["ip", "netns", "exec", ns, sys.executable, str(SERVICE), name, f"{NET}.{last}", str(PORT), *more]
        process = subprocess.Popen(argv)
        self.undo.callback(lambda: (process.kill(), process.wait()))

    def agent(self, number: int, *namespaces: str) -> None:
        folder = self.folder / f"host{number}"
        folder.mkdir()
        config = {
            "links": f"redis://:hush@127.0.0.1:{self.proxy.port}/3",
            "link": {"hold_s": HOLD_S},
            "service": {"rules": [{"match": {"cmdline": f"*hosts_service.py {n} *"}, "name": n} for n in "abc"]},
            "selftest": False,
        }
        options = [word for ns in namespaces for word in ("--netns", ns)]
        made = Agent(folder, config, *options)
        made.start()
        self.agents.append(made)
        self.undo.callback(lambda: made.process and made.process.poll() is None and made.stop())

    def call(self, n: int, threads: int = 8) -> range:
        """n requests from the client's pod; returns their ids."""
        ids = range(self.next_id, self.next_id + n)
        self.next_id += n
        argv = ["ip", "netns", "exec", f"{TAG}-p1", sys.executable, "-c", CALLER, f"{NET}.1", str(PORT), str(ids[0]),
                str(n), str(threads)]  # fmt: skip
        subprocess.run(argv, check=True, timeout=120)
        return ids

    def links(self, number: int) -> dict[str, Any]:
        shared: dict[str, Any] = self.agents[number].status()["links_shared"]
        return shared

    def connected(self) -> bool:
        return all(self.links(i)["connected"] for i in range(3))

    def all_left(self, within_s: float) -> None:
        until(
            lambda: all(not agent.status()["in_flight"] for agent in self.agents),
            f"spans were still there {within_s:g} s after the last answer",
            within_s,
        )

    def events(self, name: str) -> int:
        return sum(self.links(i)["events"][name] for i in range(3))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("hosts")
    with contextlib.ExitStack() as undo:
        redis = Redis(folder, free_port())
        undo.callback(redis.stop)
        redis.start()
        proxy = Proxy(redis.port)
        undo.callback(proxy.stop)
        made = Net(folder, redis, proxy, undo)
        undo.callback(sh, "ip", "link", "del", f"{TAG}br", check=False)
        sh("ip", "link", "add", f"{TAG}br", "type", "bridge")
        sh("ip", "link", "set", f"{TAG}br", "up")
        hosts = [made.namespace(f"h{i}", i) for i in (1, 2, 3)]
        pod = made.namespace("p1", 11)
        # what host 2 sends to host 3 comes from another address and another port
        sh("ip", "-n", hosts[1], "addr", "add", f"{NET}.102/24", "dev", "eth0")
        for rule in (
            "add table ip zs",
            "add chain ip zs out { type nat hook postrouting priority 100 ; }",
            f"add rule ip zs out ip protocol tcp ip daddr {NET}.3 snat to {NET}.102:20000-29999",
        ):
            sh("ip", "netns", "exec", hosts[1], "nft", rule)
        for ns, name, last, to in zip(hosts, "abc", (1, 2, 3), (2, 3, None), strict=True):
            made.service(ns, name, last, to)
        for ns, last in zip(hosts, (1, 2, 3), strict=True):
            until(lambda ns=ns, last=last: f"{NET}.{last}:{PORT}" in sh("ip", "netns", "exec", ns, "ss", "-ltn"), ns)
        made.agent(1, hosts[0], pod)
        made.agent(2, hosts[1])
        made.agent(3, hosts[2])
        until(made.connected, "the agents do not reach Redis")
        yield made


def traces(net: Net) -> dict[int, dict[tuple[str, int], dict[str, Any]]]:
    """Request id -> (service's letter of the path, kind) -> span; each at most once."""
    out: dict[int, dict[tuple[str, int], dict[str, Any]]] = {}
    for agent in net.agents:
        for span in spans(agent.traces_file):
            path = span["attributes"].get("url.path", "")
            if path[:1] == "/" and path[2:3] == "/":
                mine = out.setdefault(int(path[3:]), {})
                assert (path[1], span["kind"]) not in mine, f"two spans of {path}"
                mine[(path[1], span["kind"])] = span
    return out


def is_whole(t: dict[tuple[str, int], dict[str, Any]]) -> bool:
    """The client's call, a, a's call, b, b's call, c: each below the one before, in one trace."""
    if len(t) != 6 or len({s["traceId"] for s in t.values()}) != 1:
        return False
    parent = ""
    for name in "abc":
        for kind in (CLIENT, SERVER):
            span = t[(name, kind)]
            if span.get("parentSpanId", "") != parent:
                return False
            parent = span["spanId"]
    return True


def judge(net: Net, ids: range) -> float:
    """Share of whole traces. No trace may hold spans of two requests, whatever was lost; every span must be there."""
    found = traces(net)
    owner: dict[str, int] = {}
    for number, t in found.items():
        for span in t.values():
            assert owner.setdefault(span["traceId"], number) == number, "a trace with spans of two requests"
    for number in ids:
        assert len(found.get(number, {})) == 6, f"request {number}: {sorted(found.get(number, {}))}"
    return sum(is_whole(found[number]) for number in ids) / len(ids)


def test_every_trace_is_whole(net: Net) -> None:
    ids = net.call(200)
    net.all_left(HOLD_S + 15)
    assert judge(net, ids) == 1.0
    found = traces(net)
    for number in ids:
        t = found[number]
        assert [t[(name, SERVER)]["service"] for name in "abc"] == ["a", "b", "c"]
        assert t[("b", CLIENT)]["attributes"]["service.peer.name"] == "b"
        assert t[("c", CLIENT)]["attributes"]["service.peer.name"] == "c"
        assert t[("c", SERVER)]["attributes"]["network.peer.address"] == f"{NET}.102", "SNAT was not on the way"
    assert net.events("missing") == net.events("bad") == net.events("publish_lost") == 0


def test_only_what_crosses_is_told(net: Net) -> None:
    """The client's pod and service a are on host 1: their request is in nobody's store. What is there will go."""
    before = net.events("published")
    net.redis.cli("FLUSHDB")
    net.call(20, threads=1)
    until(lambda: net.events("published") >= before + 80, "both ends of 40 requests are told")
    keys = net.redis.cli("KEYS", "*").split()
    assert len(keys) == 80 and {k[:6] for k in keys} == {"zs1:c:", "zs1:s:"}
    assert 0 < int(net.redis.cli("PTTL", keys[0])) <= 60_000
    net.all_left(HOLD_S + 15)


def test_metrics_and_status(net: Net) -> None:
    text = net.agents[1].metrics()
    assert "zerospan_links_connected 1" in text
    assert 'zerospan_links_events_total{event="published"}' in text
    shown = subprocess.run([*net.agents[1].argv[:1], "status", "--run-dir", str(net.agents[1].run_dir)],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert "links shared with other hosts" in shown and "hush" not in shown
    assert all("hush" not in agent.said() for agent in net.agents)


def test_the_run_dir_of_the_environment(net: Net, tmp_path: Path) -> None:
    """ZEROSPAN_RUN_DIR says where the control socket is, for the agent and for those who ask it."""
    env = {"ZEROSPAN_RUN_DIR": str(tmp_path / "elsewhere")}
    agent = Agent(tmp_path, {"selftest": False}, "--netns", f"{TAG}-p1")
    config = tmp_path / "zerospan.yaml"
    config.write_text("selftest: false\n")
    agent.env |= env
    with agent:
        asked = subprocess.run([agent.argv[0], "status", "--json"], capture_output=True, text=True, env=agent.env)
        assert asked.returncode == 0, asked.stderr
        assert (tmp_path / "elsewhere" / "agent.sock").exists()


def test_redis_away_slow_and_empty_again(net: Net) -> None:
    """Spans leave on time with what is known, counted; none is mixed; when Redis is back, traces are whole again."""
    missing = net.events("missing")
    net.redis.stop()
    until(lambda: not net.connected(), "nobody noticed that Redis is away")
    ids = net.call(40)
    net.all_left(HOLD_S + 15)  # far below max_hold_s
    assert judge(net, ids) == 0.0
    assert net.events("missing") >= missing + 80, "b and c do not know their callers"
    assert "AWAY" in subprocess.run([*net.agents[1].argv[:1], "status", "--run-dir", str(net.agents[1].run_dir)],
                                    capture_output=True, text=True, check=True).stdout  # fmt: skip

    net.proxy.delay_s = 0.5
    net.redis.start()
    until(net.connected, "the agents did not come back")
    ids = net.call(40)
    net.all_left(HOLD_S + 15)
    slow = judge(net, ids)
    assert max(net.links(i)["round_trip_s"] for i in range(3)) >= 0.4, "it was not slow"
    print(f"with answers 500 ms late: {slow:.0%} whole")
    assert slow >= 0.9, "500 ms and three hosts fit into a hold of 2 s"

    net.proxy.delay_s = 0.0
    net.redis.stop()
    until(lambda: not net.connected(), "nobody noticed that Redis is away")
    net.redis.start()
    until(net.connected, "the agents did not come back")
    missing = net.events("missing")
    ids = net.call(100)
    net.all_left(HOLD_S + 15)
    assert judge(net, ids) == 1.0
    assert net.events("missing") == missing


def test_the_ledgers_balance(net: Net) -> None:
    for agent in net.agents:
        agent.stop()
        assert agent.ledger["dropped"] == {}
