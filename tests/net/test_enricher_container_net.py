"""Addresses of containers by real network namespaces and control groups; truth: the addresses that `ip` has set."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cgroup import root as cgroup_root

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo.hosts import remove_cgroups

from zerospan.enricher import keys
from zerospan.enricher.sources import container_net
from zerospan.enricher.sources.container_net import ContainerNet, Running, addresses
from zerospan.enricher.sources.os import OsConfig, OsSource
from zerospan.enricher.store import TagStore

TAG = f"agent-cn-{os.getpid()}-"


def until(what: Callable[[], Any], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
    return found


class Machine:
    """Namespaces and containers; what is still there at the end goes."""

    def __init__(self) -> None:
        self.top = cgroup_root() / f"{TAG}top"
        self.top.mkdir()
        self.cgroups, self.namespaces = [self.top], []
        self.processes: list[subprocess.Popen[bytes]] = []

    def ip(self, name: str, words: str) -> None:
        subprocess.run(["ip", "-n", TAG + name, *words.split()], check=True, capture_output=True)

    def namespace(self, name: str, *addresses: str) -> None:
        subprocess.run(["ip", "netns", "add", TAG + name], check=True)
        self.namespaces.append(TAG + name)
        for line in ("link set lo up", "link add eth0 type bridge", "link set eth0 up"):
            self.ip(name, line)
        for address in addresses:
            self.ip(name, f"addr add {address} dev eth0{' nodad' if ':' in address else ''}")

    def container(self, id: str, namespace: str = "") -> Path:
        """Its control group, with a process in it. Empty: the host's namespace."""
        folder = self.top / f"docker-{id}.scope"
        folder.mkdir()
        self.cgroups.insert(0, folder)
        inside = ["nsenter", f"--net=/run/netns/{TAG}{namespace}", "--"] if namespace else []
        shell = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', str(folder / "cgroup.procs"), *inside, "sleep", "1000"]
        self.processes.append(subprocess.Popen(shell))
        until(lambda: Path(f"/proc/{self.processes[-1].pid}/comm").read_text() == "sleep\n")
        return folder

    def end(self, folder: Path) -> None:
        """Kills what runs in a container, and removes its group."""
        for pid in map(int, (folder / "cgroup.procs").read_text().split()):
            one = next(p for p in self.processes if p.pid == pid)
            one.kill()
            one.wait()
        remove_cgroups([folder])

    def close(self) -> None:
        for one in self.processes:
            one.kill()
            one.wait()
        remove_cgroups(self.cgroups)
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with contextlib.closing(Machine()) as made:
        yield made


class Containers:
    """What containers.py would say; look() is the thread's."""

    def __init__(self, store: TagStore) -> None:
        self.store = store
        self.running: dict[str, Running] = {}
        self.net = ContainerNet(store, "box", "/proc", lambda: list(self.running.values()))

    def add(self, name: str, folder: Path) -> None:
        self.running[name] = Running(name, (str(folder),), self.store.make({"container.name": name}))

    def look(self) -> int:
        self.net.look()
        return time.time_ns()

    def whose(self, address: str, at_ns: int = 0) -> str | None:
        found = self.store.find(keys.address(address), at_ns)
        return found.get("container.name") if found is not None else None


@pytest.fixture
def containers() -> Containers:
    return Containers(TagStore())


def test_all_addresses_of_each_and_nobody_elses(machine: Machine, containers: Containers) -> None:
    machine.namespace("a", "10.90.0.2/16", "10.90.7.2/24", "fd90::2/64")
    machine.namespace("b", "10.90.0.3/16")
    before = time.time_ns()
    containers.add("a", machine.container("a" * 64, "a"))
    containers.add("b", machine.container("b" * 64, "b"))
    containers.add("host", machine.container("c" * 64))
    after = time.time_ns()
    time.sleep(0.2)
    containers.look()
    for address in ("10.90.0.2", "10.90.7.2", "fd90::2"):
        assert containers.whose(address) == "a"
        # from when it began, not from when it was looked at; a clock tick is 10 ms
        assert containers.whose(address, after) == "a" and containers.whose(address, before - 50_000_000) is None
    assert containers.whose("10.90.0.3") == "b"
    assert len(containers.net) == 4, "loopback, link-local and the host's are nobody's"
    own = set(addresses("/proc/self/net"))
    assert own and not any(containers.whose(address) for address in own)
    assert containers.store.of_node("box") and containers.net.ambiguous == containers.net.unreadable == 0


def test_networks_come_and_go_while_it_runs(machine: Machine, containers: Containers) -> None:
    machine.namespace("a", "10.90.0.2/16")
    machine.namespace("b")
    containers.add("a", machine.container("a" * 64, "a"))
    containers.add("b", machine.container("b" * 64, "b"))
    first = containers.look()
    assert containers.whose("10.90.1.2") is None
    machine.ip("a", "addr add 10.90.1.2/24 dev eth0")
    second = containers.look()
    assert containers.whose("10.90.1.2") == "a" and containers.whose("10.90.1.2", first) is None
    # the address goes on to another container
    machine.ip("a", "addr del 10.90.1.2/24 dev eth0")
    machine.ip("b", "addr add 10.90.1.2/24 dev eth0")
    containers.look()
    assert containers.whose("10.90.1.2") == "b" and containers.whose("10.90.1.2", second) == "a"
    machine.ip("b", "addr del 10.90.1.2/24 dev eth0")
    containers.look()
    assert containers.whose("10.90.1.2") is None and containers.whose("10.90.0.2") == "a"


def test_where_several_may_be_meant_nobody_is_named(machine: Machine, containers: Containers) -> None:
    machine.namespace("a", "10.90.0.2/16")
    machine.namespace("b", "10.90.0.2/16", "10.90.0.3/16")  # another bridge with the same range
    containers.add("a", machine.container("a" * 64, "a"))
    containers.look()
    assert containers.whose("10.90.0.2") == "a"
    containers.add("b", machine.container("b" * 64, "b"))
    containers.look()
    assert containers.whose("10.90.0.2") is None and containers.whose("10.90.0.3") == "b"
    assert containers.net.ambiguous == 1
    sidecar = machine.container("d" * 64, "b")  # network_mode: service:b
    containers.add("sidecar", sidecar)
    containers.look()
    assert containers.whose("10.90.0.3") is None and containers.whose("10.90.0.2") == "a"
    assert containers.net.ambiguous == 2
    machine.end(sidecar)
    del containers.running["sidecar"]
    containers.look()
    assert containers.whose("10.90.0.3") == "b" and containers.whose("10.90.0.2") is None


def test_what_the_host_has_itself_is_no_containers(
    machine: Machine, containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rootless podman's pasta copies the host's address; a docker in docker has the same bridges."""
    own = next(text for text in addresses("/proc/1/net") if ":" not in text)
    machine.namespace("a", "10.90.0.2/16", f"{own}/32")
    containers.add("a", machine.container("a" * 64, "a"))
    containers.look()
    assert own in addresses(f"/proc/{machine.processes[-1].pid}/net")
    assert containers.whose(own) is None and containers.whose("10.90.0.2") == "a"
    assert containers.net.ambiguous == 1
    namespace = containers.net._namespace
    hidden = {1, os.getpid()}
    monkeypatch.setattr(containers.net, "_namespace", lambda pid: 0 if pid in hidden else namespace(pid))
    containers.look()  # without a look at the host's nobody can be told from it
    assert containers.whose("10.90.0.2") is None and containers.net.unreadable == 1


def test_a_process_in_a_group_below(machine: Machine, containers: Containers) -> None:
    """A container with an init system."""
    machine.namespace("a", "10.90.0.2/16")
    folder = machine.container("a" * 64, "a")
    below = folder / "init.scope"
    below.mkdir()
    machine.cgroups.insert(0, below)
    (below / "cgroup.procs").write_text((folder / "cgroup.procs").read_text().split()[0])
    containers.add("a", folder)
    containers.look()
    assert containers.whose("10.90.0.2") == "a"


def test_by_the_kernels_events(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole source: an address is known as soon as its container is there, though looks are an hour apart."""
    monkeypatch.setattr(container_net, "LOOK_S", 3600.0)
    store = TagStore()
    source = OsSource(store, OsConfig(cgroups=(str(machine.top),)), "box")
    source.start()
    try:
        until(source.watch.in_sync.is_set)
        machine.namespace("a", "10.90.0.2/16")
        folder = machine.container("a" * 64, "a")
        found = until(lambda: store.find(keys.address("10.90.0.2")), 5)
        assert found.get("container.id") == "a" * 64 and found.get("host.name") == os.uname().nodename
        assert source.stats().entities["address"] == 1
        machine.end(folder)
        until(lambda: store.find(keys.container("a" * 64)) is None)
        source.net.look()
        assert store.find(keys.address("10.90.0.2")) is None
    finally:
        source.stop()
