"""Two nodes, an agent on each, and a tag service: spans, logs, metrics and interfaces carry the tags of both ends.

The pods are network namespaces with a control group of their own, whose path is one of kubelet's. The service is the
enricher's own (enricher/service.py) before a store that the test fills as the Kubernetes source would.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent import COMMAND, Agent, attributes, logs, spans
from prometheus_client.parser import text_string_to_metric_families
from sharing import store

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "unit"))
from demo.hosts import Cluster, Host, Pod, remove_cgroups
from enricher_kit import serving

from zerospan.enricher import keys
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore

pytest.importorskip("grpc")

PORT = 8080
SERVER, CLIENT, INTERNAL = 2, 3, 1
CGROUPS = next(
    p for p in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if (p / "cgroup.controllers").exists()
)
ASK = """
import http.client, sys, time
for path in sys.argv[3:]:
    c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=10)
    c.request("GET", path)
    c.getresponse().read()
    c.close()
    time.sleep(0.05)
"""


def until(what: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return found


class Place:
    """A pod as Kubernetes would have it: its cgroup, its names, its keys."""

    def __init__(self, world: World, host: Host, name: str) -> None:
        self.name = name
        self.node = host.name
        self.uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{os.getpid()}{name}"))
        self.container = hashlib.sha256(f"{os.getpid()}{name}".encode()).hexdigest()
        self.pod: Pod = host.pod(name)
        slice_ = world.cgroup / f"kubepods-pod{self.uid.replace('-', '_')}.slice"
        self.pod.cgroup = slice_ / f"cri-containerd-{self.container}.scope"
        self.pod.cgroup.mkdir(parents=True)
        world.cgroups[:0] = [self.pod.cgroup, slice_]

    @property
    def tags(self) -> dict[str, str]:
        return {
            "k8s.cluster.name": "c1", "k8s.node.name": self.node, "k8s.namespace.name": "prod",
            "k8s.pod.name": f"{self.name}-x1", "service.name": self.name, "service.namespace": "prod",
            "k8s.deployment.name": self.name, "k8s.pod.label.team": "blue",
        }  # fmt: skip

    def put(self, to: TagStore) -> None:
        pod = to.make(self.tags)
        instance = {"k8s.container.name": "app", "service.instance.id": f"prod.{self.name}-x1.app"}
        app = to.make(instance, pod)
        with to.batch():
            for key, tags in (
                (keys.address(self.pod.address), pod), (keys.pod(self.uid), pod), (keys.container(self.container), app),
            ):  # fmt: skip
                to.put(key, tags, layer=Layer.KUBERNETES, since_ns=1, node=self.node)

    def ask(self, address: str, port: int, *paths: str) -> None:
        self.pod.output([sys.executable, "-c", ASK, address, str(port), *paths])


class World:
    """A cluster of two nodes; the store says what is in it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.cgroup = CGROUPS / f"agent-tags-{os.getpid()}"
        self.cgroups = [self.cgroup]
        one, two = cluster.host("one"), cluster.host("two")
        self.client, self.front = Place(self, one, "client"), Place(self, two, "front")
        self.front.pod.run([sys.executable, "-m", "http.server", str(PORT), "--directory", "/var/empty"])
        self.front.pod.wait_port(PORT)
        self.service = cluster.service("front", 80, [self.front.pod], PORT)
        # also what kube-proxy makes of traffic that it cannot send back otherwise: the server sees a node's address
        self.masked = cluster.service("masked", 81, [self.front.pod], PORT, node_port=30081, snat=True)

    def fill(self, to: TagStore) -> None:
        for place in (self.client, self.front):
            to.put(
                keys.node(place.node), to.make({"k8s.node.name": place.node, "cloud.region": "eu-1"}),
                layer=Layer.KUBERNETES, since_ns=1, node=place.node,
            )  # fmt: skip
            place.put(to)
        for name, address in (("front", self.service), ("masked", self.masked)):
            tags = {"k8s.service.name": name, "k8s.namespace.name": "prod", "zerospan.k8s.service.type": "ClusterIP"}
            to.put(keys.address(address), to.make(tags), layer=Layer.KUBERNETES, since_ns=1)
        for host in self.cluster.hosts:
            node = to.make({"k8s.node.name": host.name, "host.name": host.name})
            to.put(keys.address(host.address), node, layer=Layer.KUBERNETES, since_ns=1)
            tags = {"k8s.service.name": "masked", "k8s.namespace.name": "prod", "zerospan.k8s.service.type": "NodePort"}
            to.put(keys.endpoint(host.address, 30081), to.make(tags), layer=Layer.KUBERNETES, since_ns=1)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    os.makedirs("/var/empty", exist_ok=True)
    with Cluster("agenttags", tunnel=None) as cluster:
        made = World(cluster)
        try:
            yield made
        finally:
            cluster.close()
            remove_cgroups(made.cgroups)


@contextlib.contextmanager
def agents(world: World, folder: Path, address: str, links: str = "memory") -> Iterator[list[Agent]]:
    with contextlib.ExitStack() as stack:
        made = []
        for host in world.cluster.hosts:
            at = folder / host.name
            at.mkdir()
            config = {
                "enricher": {"address": address, "node": host.name},
                "capture": {"nic": 1},
                "selftest": False,
                "links": links,
            }
            options = [option for name in host.namespaces for option in ("--netns", name)]
            made.append(stack.enter_context(Agent(at, config, *options)))
        for agent in made:
            until(lambda a=agent: a.status()["enricher"]["in_sync"])
        yield made


def by_path(agent: Agent, kind: int) -> dict[str, dict[str, Any]]:
    return {s["attributes"]["url.path"]: s for s in spans(agent.traces_file) if s["kind"] == kind}


def resources(agent: Agent) -> list[dict[str, Any]]:
    lines = agent.traces_file.read_text().splitlines()
    return [attributes(rs["resource"]) for line in lines for rs in json.loads(line)["resourceSpans"]]


def samples(agent: Agent, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(agent.metrics())
    return [(dict(s.labels), s.value) for f in families for s in f.samples if s.name == name]


def peer(span: dict[str, Any]) -> dict[str, Any]:
    own = "zerospan.peer."
    return {k.removeprefix(own): v for k, v in span["attributes"].items() if k.startswith(own + "k8s.")}


def expected(place: Place) -> dict[str, str]:
    names = ("k8s.node.name", "k8s.namespace.name", "k8s.pod.name", "k8s.deployment.name")
    return {name: place.tags[name] for name in names}


def test_both_ends_carry_their_tags_and_the_others(world: World, tmp_path: Path) -> None:
    known = TagStore()
    world.fill(known)
    with (
        serving(known, [f"unix:{tmp_path}/e.sock"]),
        agents(world, tmp_path, f"unix://{tmp_path}/e.sock") as (one, two),
    ):
        world.client.ask(world.front.pod.address, PORT, "/direct")
        world.client.ask(world.service, 80, "/service")
        for agent in (one, two):
            agent.settled(1)
        edges = [samples(agent, "traces_service_graph_request_total") for agent in (one, two)]
        targets = [samples(agent, "target_info") for agent in (one, two)]
        durations = samples(two, "http_server_request_duration_seconds_count")
        for agent in (one, two):
            agent.stop()
    client, server = by_path(one, CLIENT), by_path(two, SERVER)
    # the other end, by its address; through the Service by the Service
    assert peer(client["/direct"]) == expected(world.front)
    assert client["/direct"]["attributes"]["service.peer.name"] == "front"
    assert client["/direct"]["attributes"]["service.peer.namespace"] == "prod"
    assert peer(client["/service"]) == {"k8s.service.name": "front", "k8s.namespace.name": "prod"}
    assert client["/service"]["attributes"]["peer.service"] == "front"
    for path in ("/direct", "/service"):
        assert peer(server[path]) == expected(world.client)
        assert server[path]["attributes"]["service.peer.name"] == "client"
    records = {r["attributes"]["url.path"]: r for r in logs(two.logs_file)}
    assert peer(records["/direct"]) == expected(world.client)
    # their own
    for agent, place in ((one, world.client), (two, world.front)):
        mine = [r for r in resources(agent) if r["service.name"] == place.name]
        assert mine and all(r.items() >= {**place.tags, "k8s.container.name": "app", "cloud.region": "eu-1"}.items()
                            for r in mine)  # fmt: skip
        assert {r["service.name"] for r in resources(agent)} == {place.name, "zerospan-network"}
        network = next(r for r in resources(agent) if r["service.name"] == "zerospan-network")
        assert network["k8s.node.name"] == place.node
        pods = [s for s in spans(agent.traces_file) if s["attributes"]["zerospan.point"].endswith(".pod")]
        assert pods and all(s["attributes"]["k8s.pod.name"] == place.tags["k8s.pod.name"] for s in pods)
    # metrics: the job and the instance, all tags once
    assert {(d["job"], d["instance"]) for d, n in durations if n} == {("prod/front", "prod.front-x1.app")}
    assert all(not any(label.startswith("k8s_") for label in d) for d, _ in durations)
    for found, place in zip(targets, (world.client, world.front), strict=True):
        (mine,) = [d for d, _ in found if d["job"] == f"prod/{place.name}"]
        assert mine["k8s_pod_name"] == place.tags["k8s.pod.name"] and mine["k8s_pod_label_team"] == "blue"
    # the graph: one name for each, on both sides
    for found in edges:
        assert {(d["client"], d["server"]) for d, n in found if n} == {("client", "front")}


def test_behind_a_service_both_ends_are_exact_with_shared_links(world: World, tmp_path: Path) -> None:
    """Each agent says where its end really is: through a ClusterIP, a node port, masqueraded or not."""
    ways = {
        "/direct": (world.front.pod.address, PORT, ""),
        "/service": (world.service, 80, "front"),
        "/masked": (world.masked, 81, "masked"),
        "/nodeport": (world.cluster.hosts[0].address, 30081, "masked"),
        "/othernode": (world.cluster.hosts[1].address, 30081, "masked"),
    }
    tags = TagStore()
    world.fill(tags)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(store(tmp_path))
        stack.enter_context(serving(tags, [f"unix:{tmp_path}/e.sock"]))
        address, links = f"unix://{tmp_path}/e.sock", f"redis://127.0.0.1:{port}/0"
        one, two = stack.enter_context(agents(world, tmp_path, address, links))
        for path, (to, number, _) in ways.items():
            world.client.ask(to, number, path)
        for agent in (one, two):
            agent.settled(1)
        edges = [e for agent in (one, two) for e in samples(agent, "traces_service_graph_request_total") if e[1]]
        for agent in (one, two):
            agent.stop()
    client, server = by_path(one, CLIENT), by_path(two, SERVER)
    for path, (_, _, service) in ways.items():
        named = {"k8s.service.name": service} if service else {}
        assert server[path]["parentSpanId"] == client[path]["spanId"], path
        assert peer(client[path]) == {**expected(world.front), **named}, path
        assert client[path]["attributes"]["service.peer.name"] == "front", path
        assert client[path]["attributes"]["service.peer.namespace"] == "prod", path
        assert peer(server[path]) == expected(world.client), path
        assert server[path]["attributes"]["service.peer.name"] == "client", path
    assert {server[path]["attributes"]["network.peer.address"] for path in ("/masked", "/nodeport")} != {
        world.client.pod.address
    }, "nothing was masqueraded"
    assert [({k: v for k, v in d.items() if k in ("client", "server", "connection_type")}, n) for d, n in edges] == [
        ({"client": "client", "server": "front"}, len(ways))
    ]


def test_the_enricher_goes_away_and_comes_back(world: World, tmp_path: Path) -> None:
    """What was told last is stamped meanwhile, what is missing is counted; the next one, with a store of its own, tells
    the rest."""
    socket = f"unix:{tmp_path}/e.sock"
    known = TagStore()
    world.fill(known)
    late = Place(world, world.cluster.hosts[0], "late")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        first.enter_context(serving(known, [socket]))
        one, two = stack.enter_context(agents(world, tmp_path, f"unix://{tmp_path}/e.sock"))
        world.client.ask(world.front.pod.address, PORT, "/before")
        for agent in (one, two):
            agent.settled(1)
        first.close()
        until(lambda: not one.status()["enricher"]["connected"] and not two.status()["enricher"]["connected"])
        world.client.ask(world.front.pod.address, PORT, "/away")
        late.ask(world.front.pod.address, PORT, "/unknown")
        for agent in (one, two):
            agent.settled(1)
        for agent in (one, two):
            said = subprocess.run(
                [*COMMAND, "status", "--run-dir", str(agent.run_dir)], capture_output=True, text=True, check=True
            ).stdout
            assert "AWAY" in said and "last error" in said, said
            assert samples(agent, "zerospan_enricher_connected") == [({}, 0)]
        assert two.status()["pipeline"]["peer_away"] == 1, "of the one whose address nobody has named"
        assert one.status()["pipeline"]["tags_late"] >= 1, "of the one whose container nobody has named"
        epoch = one.status()["enricher"]["epoch"]
        again = TagStore()
        world.fill(again)
        late.put(again)
        stack.enter_context(serving(again, [socket]))
        for agent in (one, two):
            until(lambda a=agent: a.status()["enricher"]["in_sync"])
        assert one.status()["enricher"]["epoch"] not in (epoch, 0)
        world.client.ask(world.front.pod.address, PORT, "/back")
        late.ask(world.front.pod.address, PORT, "/known")
        for agent in (one, two):
            agent.settled(1)
            assert samples(agent, "zerospan_enricher_connected") == [({}, 1)]
            agent.stop()
    client, server = by_path(one, CLIENT), by_path(two, SERVER)
    for path in ("/before", "/away", "/back"):
        assert peer(client[path]) == expected(world.front), path
        assert peer(server[path]) == expected(world.client), path
    assert peer(server["/unknown"]) == {}, "nobody has said who that is"
    assert "service.peer.name" not in server["/unknown"]["attributes"]
    assert peer(server["/known"]) == expected(late)
    assert client["/known"]["service"] == "late"
