"""Interfaces that come and go, whose they are, and that nothing is left behind or held on to."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nic_net import Net, command, ip
from nic_records import END, Points, until

from zerospan.exporter.source import nic, nic_attach
from zerospan.exporter.source.capture import Capture, CaptureError, Filters
from zerospan.exporter.source.interfaces import Interface, Link, hosts, role, watched
from zerospan.exporter.source.netns import inside, of_thread
from zerospan.exporter.source.nic import Nics


@pytest.fixture(scope="module")
def capture() -> Iterator[Capture]:
    made = Capture(filters=Filters(pid=(1 << 22,)))
    yield made
    made.close()


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.close()


@pytest.fixture
def watch(capture: Capture) -> Iterator[Callable[..., Nics]]:
    made: list[Nics] = []

    def make(**kwargs: Any) -> Nics:
        made.append(Nics(capture, **kwargs))
        made[-1].start()
        return made[-1]

    yield make
    for nics in made:
        nics.stop()


def named(nics: Nics, netns: str) -> dict[str, Interface]:
    return {i.name: i for i in nics.interfaces().values() if i.netns_name == netns}


def attached(netns: str) -> str:
    """What the kernel says is attached in a namespace."""
    return command(netns, "bpftool", "net", "show") + "".join(
        command(netns, "tc", "filter", "show", "dev", dev, where, ok=False)
        for dev in ("eth0", "vethp", "vx0")
        for where in ("ingress", "egress")
    )


def test_whose_they_are(net: Net, watch: Callable[..., Nics]) -> None:
    """Names, addresses and peers as `ip` tells them; roles as the test built them; no bridge, no loopback."""
    nics = watch(netns=net.names)
    roles = {name: {i.name: i.role for i in named(nics, name).values()} for name in net.names}
    node = {"eth0": "node", "vx0": "tunnel", "vethp": "pod"}
    assert roles == {net.node[0]: node, net.node[1]: node, net.pod[0]: {"eth0": "pod"}, net.pod[1]: {"eth0": "pod"}}
    for i in range(2):
        inside_pod, outside = named(nics, net.pod[i])["eth0"], named(nics, net.node[i])["vethp"]
        assert (inside_pod.peer_ifindex, inside_pod.peer_netns) == (outside.ifindex, outside.netns)
        assert (outside.peer_ifindex, outside.peer_netns) == (inside_pod.ifindex, inside_pod.netns)
        assert inside_pod.mac == command(net.pod[i], "cat", "/sys/class/net/eth0/address").strip()
        assert inside_pod.netns == os.stat(f"/run/netns/{net.pod[i]}").st_ino
        assert named(nics, net.node[i])["vx0"].kind == "vxlan"
    status = nics.status()
    assert (status["interfaces"], status["namespaces"], status["failed"]) == (8, 4, {})
    assert len(nics.interfaces()) == 8


def test_only_the_namespaces_that_were_asked_for(net: Net, watch: Callable[..., Nics]) -> None:
    nics = watch(netns=(net.node[0], net.pod[0]))
    assert {i.netns_name for i in nics.interfaces().values()} == {net.node[0], net.pod[0]}
    assert {i.role for i in named(nics, net.pod[0]).values()} == {"pod"}
    assert named(nics, net.node[0])["eth0"].role == "node"
    assert "zs_nic" not in attached(net.node[1])


@pytest.mark.parametrize("way", nic_attach.WAYS)
def test_they_come_and_go(net: Net, capture: Capture, watch: Callable[..., Nics], way: str) -> None:
    """A pod is born and dies while others talk: watched within seconds, forgotten, and its namespace really gone."""
    node, pod = net.node[0], f"{net.node[0]}-new"
    nics = watch(netns=net.names, way=way) if way != "tcx" else watch(netns=())  # all namespaces: finds new ones
    generation = nics.generation
    ip("-n", node, "link", "add", "vethq", "type", "veth", "peer", "name", "vethr")
    ip("-n", node, "link", "set", "vethq", "up")
    until(lambda: "vethq" in named(nics, node))
    assert nics.generation > generation
    if way == "tcx":
        ip("netns", "add", pod)
        try:
            ip("-n", node, "link", "set", "vethr", "netns", pod, "name", "eth0")
            ip("-n", pod, "addr", "add", "10.99.0.2/24", "dev", "eth0")
            ip("-n", node, "addr", "add", "10.99.0.1/24", "dev", "vethq")
            ip("-n", pod, "link", "set", "eth0", "up")
            until(lambda: named(nics, pod).get("eth0"))
            until(lambda: named(nics, pod)["eth0"].role == named(nics, node)["vethq"].role == "pod")
            points = Points(capture, nics)
            c = net.connect(node, pod, "10.99.0.2")
            c.exchange(10, 20)
            port = c.port
            c.close()
            for place in ((node, "vethq"), (pod, "eth0")):
                until(lambda place=place: [r for r in points.at(*place, port) if r["flags"] & END])  # type: ignore[misc]
                assert [r["prev_bytes"] for r in points.at(*place, port)] == [0, 10, 20]
        finally:
            ip("netns", "del", pod)
        # the kernel takes the pair away only when nothing holds the namespace any more
        until(lambda: not os.path.exists(f"/run/netns/{pod}") and not named(nics, pod))
        until(lambda: subprocess.run(["ip", "-n", node, "link", "show", "vethq"], capture_output=True).returncode)
    else:
        ip("-n", node, "link", "del", "vethq")
    until(lambda: "vethq" not in named(nics, node))
    ip("-n", node, "link", "set", "vethp", "down")
    until(lambda: "vethp" not in named(nics, node))
    ip("-n", node, "link", "set", "vethp", "up")
    until(lambda: "vethp" in named(nics, node))
    assert not [name for name in nics.status()["failed"] if name.startswith(node)]


@pytest.mark.parametrize("way", nic_attach.WAYS)
def test_nothing_is_left_behind(net: Net, watch: Callable[..., Nics], way: str) -> None:
    """Attached as was asked for; after stop() nothing is, and others' filters stay where they were."""
    others = "tc filter add dev vethp ingress protocol ip prio 9 matchall action ok"
    command(net.node[0], "tc", "qdisc", "add", "dev", "vethp", "clsact")
    made = command(net.node[0], *others.split(" "), ok=False)
    before = attached(net.node[0]), command(net.node[0], "tc", "qdisc", "show")
    nics = watch(netns=net.names, way=way)
    assert nics.status()["hooks"] == {way: 8}, made
    during = attached(net.node[0])
    if way == "clsact":
        assert during.count("zerospan:") >= 6
        assert command(net.node[0], "tc", "qdisc", "show").count("clsact") == 3
    home = os.stat("/proc/thread-self/ns/net").st_ino
    assert {os.stat(f"/proc/self/task/{t}/ns/net").st_ino for t in os.listdir("/proc/self/task")} == {home}
    nics.stop()
    assert (attached(net.node[0]), command(net.node[0], "tc", "qdisc", "show")) == before
    assert nics.interfaces() == {}
    nics.stop()


def test_filters_of_a_dead_agent_are_removed(net: Net, watch: Callable[..., Nics]) -> None:
    """clsact filters outlive their process: the next one takes them away, those of a living one stay."""
    node = net.node[0]
    script = (
        "import os, signal, sys; sys.path[:0] = %r\n"
        "from zerospan.exporter.source.capture import Capture, Filters\n"
        "from zerospan.exporter.source.nic import Nics\n"
        "n = Nics(Capture(filters=Filters(pid=(1 << 22,))), netns=(%r,), way='clsact'); n.start()\n"
        "assert n.status()['hooks'] == {'clsact': 3}, n.status()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    import sys

    dead = subprocess.run([sys.executable, "-c", script % (sys.path, node)], capture_output=True, text=True)
    assert dead.returncode == -9, dead.stderr
    left = command(node, "tc", "filter", "show", "dev", "vethp", "ingress")
    assert left.count("zerospan:") == 1
    nics = watch(netns=(node,), way="clsact")
    now = command(node, "tc", "filter", "show", "dev", "vethp", "ingress")
    assert now.count("zerospan:") == 1 and f"zerospan:{os.getpid()}" in now and now != left
    nics.stop()


def test_kinds_that_this_kernel_has(net: Net, watch: Callable[..., Nics]) -> None:
    """macvlan above an uplink, tun without a link layer; a bond's members and bridges are left out."""
    node = net.node[0]
    ip("-n", node, "link", "add", "mac0", "link", "eth0", "type", "macvlan")
    ip("-n", node, "tuntap", "add", "tun0", "mode", "tun")
    for name in ("mac0", "tun0"):
        ip("-n", node, "link", "set", name, "up")
    nics = watch(netns=(node,))
    got = {i.name: (i.kind, i.role) for i in nics.interfaces().values()}
    assert got["mac0"] == ("macvlan", "node")
    assert got["tun0"] == ("tun", "tunnel")
    assert not {"br0", "lo"} & set(got)
    assert "lo" in named(watch(netns=(node,), lo=True), node)


def test_own_connections_are_not_told(net: Net, capture: Capture, watch: Callable[..., Nics]) -> None:
    """Connections of the agent's own process in its own namespace; the same ports elsewhere are told."""
    with net.within(net.pod[0]):
        fd = of_thread()
    points: list[Points] = []
    failed: list[BaseException] = []

    def agent() -> None:
        """As if the process lived in the pod; /proc/self/net shows the main thread's namespace: ports by hand."""
        try:
            with inside(fd):
                nics = watch(netns=net.names)
            ours = net.connect(net.pod[0], net.pod[1], net.address[1])
            nics._own._change(ours.client.getsockname()[1], True)  # what refresh() does with what /proc says
            points.append(Points(capture, nics))
            ours.exchange(10, 10)
            assert not points[0].at(net.pod[0], "eth0", ours.port)
            assert len(points[0].at(net.node[0], "vethp", ours.port)) == 2
            assert points[0].counted()["nic_left_out"] == 2
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=agent)
    thread.start()
    thread.join()
    os.close(fd)
    if failed:
        raise failed[0]


def test_own_ports_are_those_of_proc() -> None:
    from zerospan.exporter.source.own import local_ports

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ports = local_ports()
        assert {server.getsockname()[1], client.getsockname()[1]} <= ports
        port = client.getsockname()[1]
    assert port not in local_ports()


@pytest.mark.parametrize("way", nic_attach.WAYS)
def test_check_leaves_no_trace(way: str) -> None:
    before = os.stat("/proc/self/ns/net").st_ino, len(os.listdir("/proc/self/fd"))
    assert nic.missing(way) == ""
    assert (os.stat("/proc/self/ns/net").st_ino, len(os.listdir("/proc/self/fd"))) == before


def test_a_share_must_be_one(capture: Capture) -> None:
    for share in (0, -1, 1.1):
        with pytest.raises(CaptureError):
            Nics(capture, share=share)


def veth(ifindex: int, peer: int, nsid: int | None) -> Link:
    return Link(ifindex, f"v{ifindex}", "", "veth", True, True, peer, nsid, 0)


def test_roles_by_how_namespaces_hang_together() -> None:
    """No kernel needed: 1 is the initial namespace, 2 and 3 are nodes below it, 4 and 5 their pods, 6 a pod of 1."""
    links = {
        1: [veth(10, 1, 0), veth(11, 1, 1), veth(12, 1, 2)],
        2: [veth(1, 10, 0), veth(2, 1, 1)],
        3: [veth(1, 11, 0), veth(2, 1, 1)],
        4: [veth(1, 2, 0)],
        5: [veth(1, 2, 0)],
        6: [veth(1, 12, 0)],
    }
    peers = {(1, 0): 2, (1, 1): 3, (1, 2): 6, (2, 0): 1, (2, 1): 4, (3, 0): 1, (3, 1): 5}
    peers |= {(4, 0): 2, (5, 0): 3, (6, 0): 1}
    found = hosts(links, peers, 1)
    assert found == {1, 2, 3}
    roles = {(ns, x.ifindex): role(x, ns, peers[ns, x.peer_nsid or 0], found) for ns in links for x in links[ns]}
    pods = {at for at, whose in roles.items() if whose == "pod"}
    assert pods == {(1, 12), (2, 2), (3, 2), (4, 1), (5, 1), (6, 1)}
    only = {ns: links[ns] for ns in (2, 4)}  # as with filter.netns
    assert hosts(only, {(2, 1): 4, (4, 0): 2}, 1) == {2}
    assert hosts({7: [veth(1, 9, 0)]}, {}, 1) == {7}  # all that is seen of a machine


def test_what_is_watched() -> None:
    def link(i: int, kind: str, up: bool = True, ethernet: bool = True, master: int = 0) -> Link:
        return Link(i, f"i{i}", "", kind, up, ethernet, 0, None, master)

    links = [
        link(1, "lo"), link(2, ""), link(3, "bridge"), link(4, "dummy"), link(5, "bond"), link(6, "", master=5),
        link(7, "veth", master=3), link(8, "vxlan", up=False), link(9, "ipip", ethernet=False), link(10, "vlan"),
        link(11, "", ethernet=False), link(12, "ipvlan"), link(13, "ifb"),
    ]  # fmt: skip
    assert [x.ifindex for x in watched(links)] == [2, 5, 7, 9, 10, 12]
    assert [x.ifindex for x in watched(links, lo=True)] == [1, 2, 5, 7, 9, 10, 12]
