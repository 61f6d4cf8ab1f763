"""Across address translation, on one kernel with one agent: whole traces, both real ends named (kit/truth.py).

Two nodes with pods, a tunnel between them, ClusterIPs by nftables (demo/hosts.py). A pod (or a machine outside) calls
`front`, which calls `back`: by SNAT, by DNAT, by both, by a node port, and a pod that calls itself by its own
ClusterIP. Then the same with every twentieth packet between the nodes lost, over kept connections.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from agent import Agent
from agent import spans as spans_of_file
from cgroup import own_cgroup
from truth import CLIENT, SERVER, Score, by_path, judge
from truth_run import CLEAN_ENV, PEERS, drive, report

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo.hosts import Cluster, Host, Node, Pod

PROGRAMS = Path(__file__).resolve().parent / "truth"
PORT = 8080
REQUESTS = 300
IN_FLIGHT = 10  # a hairpin request holds three of front's 40 threads


class World(NamedTuple):
    cluster: Cluster
    one: Host
    two: Host
    outside: Host
    client: Pod  # on one
    front: Pod  # on two
    back: tuple[Pod, Pod]  # on one, on two
    bare: Node  # front as a process of node two itself, no pod
    cgroup: str


def gunicorn(node: Node, upstream: str, port: int = PORT) -> None:
    argv = ["/usr/bin/gunicorn", "--chdir", str(PROGRAMS), "--bind", f"0.0.0.0:{port}", "--worker-class", "gthread",
            "--workers", "1", "--threads", "40", "--keep-alive", "60", "app:app"]  # fmt: skip
    env = {**CLEAN_ENV, "TRUTH_UPSTREAM": upstream, "TRUTH_KEEP": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    node.run(argv, env=env)
    node.wait_port(port)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with own_cgroup("truth-nat") as cgroup, Cluster("truthnat") as cluster:
        one, two, outside = cluster.host("one"), cluster.host("two"), cluster.host("outside", pods=False)
        client, front = one.pod("client"), two.pod("front")
        back = one.pod("back1"), two.pod("back2")
        for pod in back:
            pod.run([*PEERS, "leaf", str(PORT), "0.0.0.0"])
        address = cluster.service("back", 80, back, PORT)
        cluster.service("front", 80, [front], PORT, node_port=30080)
        cluster.service("front-snat", 80, [front], PORT, snat=True)
        own = cluster.service("self", 80, [front], PORT + 1)
        gunicorn(front, f"http://{address}")
        gunicorn(front, f"http://{own}", PORT + 1)  # calls itself
        gunicorn(two, f"http://{address}")
        for pod in back:
            pod.wait_port(PORT)
        yield World(cluster, one, two, outside, client, front, back, two, cgroup)


class Way(NamedTuple):
    """How the driver reaches front, and what both ends must say of each other."""

    source: str  # attribute of World
    url: str
    plans: str
    peer_of_client: str  # network.peer.address of the driver's CLIENT span: what the program asked
    real_server: str  # where front is
    peer_of_server: str  # network.peer.address of front's SERVER span: what its socket sees
    real_client: str


def ways(world: World) -> dict[str, Way]:
    ip = {name: service.address for name, service in world.cluster.services.items()}
    one, two, out = world.one, world.two, world.outside
    client, front = world.client.address, world.front.address
    tunnel = str(one.cidr[0])  # what node one masquerades as towards node two's pods
    return {
        "plain": Way("client", f"http://{front}:{PORT}", "1,2,3", front, front, client, client),
        "snat": Way("client", f"http://{two.address}:{PORT}", "1,2,3", two.address, two.address, one.address, client),
        "dnat": Way("client", f"http://{ip['front']}", "1,2,3", ip["front"], front, client, client),
        "both": Way("client", f"http://{ip['front-snat']}", "1,2,3", ip["front-snat"], front, tunnel, client),
        "nodeport": Way("outside", f"http://{one.address}:30080", "1,2,3", one.address, front, tunnel, out.address),
        "hairpin": Way("client", f"http://{ip['self']}", "1.1,2.1", ip["self"], front, client, client),
    }


def measure(
    world: World, folder: Path, name: str, way: Way, requests: int = REQUESTS
) -> tuple[Score, list[dict[str, Any]]]:
    source: Node = getattr(world, way.source)
    with Agent(folder, None, "--cgroup", world.cgroup) as agent:
        sent = drive(way.url, requests, IN_FLIGHT, True, way.plans, source.argv([]))
        agent.settled()
        agent.stop()
    spans = spans_of_file(agent.traces_file)
    score = judge(spans, sent)
    report(name, score)
    return score, spans


def ends(spans: list[dict[str, Any]], hop: str, kind: int) -> set[tuple[str, str]]:
    """(network.peer.address, the address that is really there) of the spans of the hops that match."""
    found = set()
    for span in spans:
        if span["kind"] == kind and re.fullmatch(hop, by_path(span) or ""):
            a = span["attributes"]
            found.add((a["network.peer.address"], a.get("zerospan.peer.address", a["network.peer.address"])))
    return found


@pytest.mark.parametrize("name", ["plain", "snat", "dnat", "both", "nodeport", "hairpin"])
def test_the_trace_is_whole_and_both_real_ends_are_named(world: World, tmp_path: Path, name: str) -> None:
    way = ways(world)[name]
    score, spans = measure(world, tmp_path, name, way)
    assert score.whole == REQUESTS, score.text()
    front = [s for s in spans if s["kind"] == SERVER and re.fullmatch(r"\d+", by_path(s) or "")]
    driver = [s for s in spans if s["kind"] == CLIENT and re.fullmatch(r"\d+", by_path(s) or "")]
    assert ends(spans, r"\d+", CLIENT) == {(way.peer_of_client, way.real_server)}
    assert ends(spans, r"\d+", SERVER) == {(way.peer_of_server, way.real_client)}
    assert {s["attributes"]["service.peer.name"] for s in driver} == {s["service"] for s in front}
    assert {s["attributes"]["service.peer.name"] for s in front} == {s["service"] for s in driver}
    assert {s["attributes"]["client.address"] for s in front} == {way.real_client}
    ports = {(s["attributes"]["zerospan.peer.port"]) for s in driver if "zerospan.peer.port" in s["attributes"]}
    assert ports == (set() if way.peer_of_client == way.real_server else {PORT + (name == "hairpin")})
    if name == "hairpin":
        service = world.cluster.services["self"].address
        gateway = str(world.two.cidr[1])
        inner = r"\d+\.\d+(\.\d+)?"
        assert ends(spans, inner, CLIENT) == {(service, world.front.address)}
        assert ends(spans, inner, SERVER) == {(gateway, world.front.address)}
    else:
        service = world.cluster.services["back"].address
        assert ends(spans, r"\d+\.\d+", CLIENT) == {(service, pod.address) for pod in world.back}


def retransmitted(node: Node) -> int:
    """TCP segments that the node's namespace has sent again (RFC 4022 tcpRetransSegs)."""
    names, values = [line.split() for line in node.output(["cat", "/proc/net/snmp"]).splitlines() if line[:4] == "Tcp:"]
    return int(values[names.index("RetransSegs")])


def test_lost_packets_cost_no_links(world: World, tmp_path: Path) -> None:
    before = retransmitted(world.client) + retransmitted(world.front)
    world.cluster.drop(world.two, 5, "iifname eth0")
    try:
        begin = time.monotonic()
        score, _ = measure(world, tmp_path, "5 % lost", ways(world)["both"], 1000)
        took = time.monotonic() - begin
    finally:
        world.cluster.drop(world.two, 0)
    again = retransmitted(world.client) + retransmitted(world.front) - before
    print(f"{again} segments sent again, {took:.1f} s")
    assert again > 20, "nothing was lost: the test shows nothing"
    assert score.all.precision >= 0.999 and score.all.recall >= 0.99, score.text()
    assert score.wrong_traces == 0, score.text()
