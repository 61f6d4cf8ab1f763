"""Filters, decided in the kernel: traffic inside is told, traffic outside is not, and each one must hold."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pair import ANSWER, REQUEST, Pair
from peer import Peer
from records import Trace
from wire import Wire

from zerospan.exporter.source.capture import Capture, CaptureError, Filters

Connect = Callable[..., Pair]


def told(trace: Trace) -> set[int]:
    """Processes whose messages came out."""
    return {r["tgid"] for r in trace.drain().of("zs_msg")}


def cgroup_root() -> Path:
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (root / "cgroup.procs").exists() and (root / "cgroup.controllers").exists():
            return root
    pytest.fail("no cgroup of version 2 is mounted")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A new group inside a new group."""
    outer = cgroup_root() / f"zerospan-test-{os.getpid()}"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    yield inner
    inner.rmdir()
    outer.rmdir()


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"zerospan-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def test_no_filter(load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect) -> None:
    trace = load()
    pair = connect()
    pair.exchange()
    assert told(trace) >= {client.pid, server.pid}
    assert trace.counters().get("filtered", 0) == 0


def test_pid(load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect) -> None:
    trace = load(pid=(server.pid,))
    pair = connect()
    pair.exchange()
    assert told(trace) == {server.pid}
    assert not trace.of("zs_connect"), "the client's connect is outside"
    assert trace.counters()["filtered"] >= 2
    assert len(trace.of("zs_conn")) == 1
    pair.close()
    trace.until(lambda t: t.of("zs_close"))
    assert len(trace.drain().of("zs_close")) == 1


def test_exe(
    load: Callable[..., Trace],
    peers: Callable[..., Peer],
    server: Peer,
    connect: Connect,
    tap: Callable[[int], Wire],
    tmp_path: Path,
) -> None:
    """The same file by any of its paths; a copy of it is another program."""
    copy = tmp_path / "python-copy"
    shutil.copy(os.path.realpath(sys.executable), copy)
    link = tmp_path / "link"
    link.symlink_to(copy)
    other = peers(python=str(copy))
    assert os.path.samefile(f"/proc/{other.pid}/exe", copy)
    trace = load(exe=(str(link),))
    Pair(other, server, tap, "127.0.0.1").exchange()
    connect().exchange()
    assert told(trace) == {other.pid}
    assert [r["tgid"] for r in trace.of("zs_connect")] == [other.pid]


@pytest.mark.parametrize("which", ["server", "client"])
def test_port(load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect, which: str) -> None:
    """Either end's port; both ends of the connection are told."""
    pair, other = connect(), connect()
    trace = load(port=(pair.port if which == "server" else pair.client_port,))
    pair.exchange()
    other.exchange()
    assert told(trace) == {client.pid, server.pid}
    ports = {(r["local_port"], r["remote_port"]) for r in trace.of("zs_conn")}
    assert ports == {(pair.client_port, pair.port), (pair.port, pair.client_port)}


def test_port_of_a_new_connection(load: Callable[..., Trace], client: Peer, connect: Connect) -> None:
    """Decided when the connection is asked for, too."""
    before = connect()
    trace = load(port=(before.port,))
    fd, local = client.connect("127.0.0.1", before.port)
    other = connect()
    other.exchange()
    trace.drain()
    assert [r["tgid"] for r in trace.of("zs_connect")] == [client.pid]
    s = before.server.accept(before.listener)
    client.send(fd, REQUEST)
    before.server.recv_all(s, len(REQUEST))
    trace.drain()
    assert {r["local_port"] for r in trace.of("zs_conn")} == {local, before.port}


def test_cgroup(load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect, cgroup: Path) -> None:
    """A group holds the groups below it; given by full path or below the root."""
    home = Path(f"/proc/{client.pid}/cgroup").read_text().split("0::")[1].split("\n")[0]
    root = cgroup_root()
    for name, inside in (
        (str(cgroup.parent), True),
        (f"/{cgroup.parent.name}/inner", True),
        (str(cgroup.parent), False),
    ):
        (cgroup if inside else root / home.lstrip("/")).joinpath("cgroup.procs").write_text(str(client.pid))
        trace = load(cgroup=(name,))
        connect().exchange()
        assert told(trace) == ({client.pid} if inside else set())
        if inside:
            assert {r["cgroup_id"] for r in trace.of("zs_conn")} == {cgroup.stat().st_ino}


@pytest.mark.parametrize("how", ["name", "path", "self"])
def test_netns(
    load: Callable[..., Trace],
    peers: Callable[..., Peer],
    connect: Connect,
    tap: Callable[[int], Wire],
    namespace: str,
    how: str,
) -> None:
    inside = peers(), peers()
    for peer in inside:
        peer.enter_netns(f"/run/netns/{namespace}")
    outside = connect()
    trace = load(netns=({"name": namespace, "path": f"/run/netns/{namespace}", "self": "self"}[how],))
    outside.exchange()
    Pair(*inside, tap, "127.0.0.1").exchange()
    ours = {outside.client.pid, outside.server.pid}
    theirs = {peer.pid for peer in inside}
    seen = told(trace) & (ours | theirs)
    assert seen == (ours if how == "self" else theirs)
    path = "/proc/self/ns/net" if how == "self" else f"/run/netns/{namespace}"
    assert {r["netns"] for r in trace.of("zs_conn") if r["tgid"] in seen} == {os.stat(path).st_ino}


def test_all_that_are_set_must_hold(load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect) -> None:
    pair, other = connect(), connect()
    trace = load(port=(pair.port,), pid=(server.pid,), netns=("self",))
    pair.exchange()
    other.exchange()
    assert told(trace) == {server.pid}
    assert [(r["local_port"], r["tgid"]) for r in trace.of("zs_conn")] == [(pair.port, server.pid)]


def test_several_values_of_one_filter(load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect) -> None:
    one, two, three = connect(), connect(), connect()
    trace = load(port=(one.port, two.port))
    for pair in (one, two, three):
        pair.exchange()
    trace.drain()
    assert {r["remote_port"] for r in trace.of("zs_conn") if r["tgid"] == client.pid} == {one.port, two.port}


def test_a_connection_that_changes_hands(
    load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect
) -> None:
    """A process filter is decided anew for each process that speaks on the connection."""
    pair = connect()
    trace = load(pid=(server.pid,))
    pair.exchange()
    client.send(pair.c, REQUEST)
    server.fork_and_answer(pair.s, len(REQUEST), ANSWER)
    client.recv_all(pair.c, len(ANSWER))
    pair.exchange()
    assert told(trace) == {server.pid}
    trace.drain()
    end = trace.end(pair.port, pair.client_port)
    assert [r.payload for r in end.runs() if r.payload] == [REQUEST, ANSWER] * 2


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (Filters(exe=("no-such-program",)), "no-such-program"),
        (Filters(exe=("/no/such/file",)), "/no/such/file"),
        (Filters(cgroup=("/no/such/group",)), "/no/such/group"),
        (Filters(netns=("no-such-namespace",)), "no-such-namespace"),
        (Filters(port=tuple(range(1, 2000))), "1024"),
    ],
    ids=["exe-name", "exe-path", "cgroup", "netns", "too-many"],
)
def test_a_value_that_cannot_be_used_is_named(layout: str, filters: Filters, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        Capture(layout, filters=filters)
