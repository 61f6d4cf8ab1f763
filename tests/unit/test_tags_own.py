"""Own processes: what their container, pod and node are goes into all that is exported of them, early or late."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))
from metrics_text import find
from process_cases import Proc, decoded
from tags_kit import NODE, World

from zerospan.enricher import keys
from zerospan.exporter.config.model import Config, Loki, Resource, Service, ServiceMatch, ServiceRule
from zerospan.exporter.config.secret import Url
from zerospan.exporter.metrics.exposition import Exposition
from zerospan.exporter.metrics.harness import Feeder
from zerospan.exporter.process import Describer, ProcessInfo

ID = "c0ffee" * 10 + "cafe"
UID = "3ff91a2b-0000-4000-8000-0123456789ab"
CGROUP = f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope\n"
NODE_TAGS = {"k8s.node.name": NODE, "cloud.region": "eu-1", "host.id": "i-0f3a"}
POD_TAGS = {
    **NODE_TAGS, "k8s.pod.name": "cart-1", "k8s.namespace.name": "prod", "k8s.cluster.name": "c1",
    "service.name": "cart", "service.namespace": "prod", "service.version": "1.4", "k8s.pod.label.team": "blue",
}  # fmt: skip
CONTAINER_TAGS = {**POD_TAGS, "k8s.container.name": "app", "service.instance.id": "prod.cart-1.app"}


class Agent:
    """A Describer over a /proc of our own, with what follows the enricher."""

    def __init__(self, root: Path, config: Config | None = None) -> None:
        self.proc = Proc(root)
        self.world = World()
        self.describer = Describer(config or Config(), hidden=set(), proc=str(root), tags=self.world.own, host="")

    def describe(self, pid: int) -> ProcessInfo:
        return self.describer(pid, "shop")

    def again(self) -> dict[str, ProcessInfo]:
        """What the pipeline does between two steps."""
        out = {}
        while due := self.world.own.due():
            for shared in due:
                info = self.describer.again(shared) if shared else None
                if info is not None:
                    out[shared] = info
        return out

    def turn(self) -> None:
        self.world.turn()


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def put_all(w: World) -> None:
    w.put(keys.node(NODE), NODE_TAGS, node=NODE)
    w.put(keys.pod(UID), POD_TAGS, node=NODE)
    w.put(keys.container(ID), CONTAINER_TAGS, node=NODE)


def test_known_tags_are_in_everything_at_once(agent: Agent) -> None:
    put_all(agent.world)
    agent.turn()
    agent.proc.add(7, cgroup=CGROUP)
    info = agent.describe(7)
    resource = decoded(info.resource)
    assert resource.items() >= CONTAINER_TAGS.items()
    assert (resource["container.id"], resource["process.pid"]) == (ID, 7)
    assert (info.service, info.namespace, info.waits) == ("cart", "prod", 0)
    assert info.series == b'job="prod/cart",instance="prod.cart-1.app"'
    labels = json.loads(f"{{{info.labels.decode()}}}")
    assert labels == {
        "service_name": "cart", "source": "zerospan", "k8s_cluster_name": "c1", "k8s_namespace_name": "prod",
    }  # fmt: skip
    meta = json.loads("{" + info.meta.decode()[1:] + "}")
    assert meta["k8s_pod_name"] == "cart-1" and meta["k8s_pod_label_team"] == "blue"
    assert meta["service_instance_id"] == "prod.cart-1.app"
    assert not meta.keys() & labels.keys()
    (family,) = text_string_to_metric_families(f"x{{{info.target_info.decode()}}} 1\n")
    target = dict(family.samples[0].labels)
    assert target["k8s_pod_label_team"] == "blue" and target["k8s_node_name"] == NODE
    assert not target.keys() & {"service_name", "service_namespace", "service_instance_id"}


def test_a_container_that_is_not_known_yet_is_asked_for_and_described_again(agent: Agent) -> None:
    agent.proc.add(7, cgroup=CGROUP)
    first = agent.describe(7)
    assert first.waits == 1 and first.service == "shop"
    agent.turn()
    assert {keys.container(ID), keys.pod(UID)} <= set(agent.world.client.asked)
    answered = agent.again()[first.shared]
    assert answered.waits == 2, "nothing is known: that is an answer"
    put_all(agent.world)
    agent.turn()
    later = agent.again()[first.shared]
    assert later.service == "cart" and not later.waits
    assert decoded(later.resource).items() >= CONTAINER_TAGS.items()
    assert agent.describe(7) == later, "another thread of it speaks"


def test_a_pod_without_its_container_has_the_pods_tags(agent: Agent) -> None:
    agent.world.put(keys.pod(UID), POD_TAGS, node=NODE)
    agent.turn()
    agent.proc.add(7, cgroup=CGROUP)
    info = agent.describe(7)
    assert decoded(info.resource).items() >= POD_TAGS.items()
    assert "k8s.container.name" not in decoded(info.resource)


def test_what_a_container_was_holds_when_it_has_ended(agent: Agent) -> None:
    """Its last spans are still on hold, and its id is nobody else's."""
    put_all(agent.world)
    agent.turn()
    agent.proc.add(7, cgroup=CGROUP)
    before = agent.describe(7)
    now = time.time_ns()
    agent.world.put(keys.container(ID), CONTAINER_TAGS, node=NODE, until_ns=now - 1)
    agent.world.put(keys.pod(UID), POD_TAGS, node=NODE, until_ns=now - 1)
    agent.turn()
    agent.again()
    assert agent.describe(7) == before


def test_a_process_of_the_host_has_the_nodes_tags(agent: Agent) -> None:
    put_all(agent.world)
    agent.turn()
    agent.proc.add(8)
    resource = decoded(agent.describe(8).resource)
    assert resource.items() >= NODE_TAGS.items()
    assert "k8s.pod.name" not in resource and resource["service.name"] == "shop"
    assert agent.describer.host["k8s.node.name"] == NODE


def test_a_relabelled_pod_and_node_are_described_again(agent: Agent) -> None:
    put_all(agent.world)
    agent.turn()
    agent.proc.add(7, cgroup=CGROUP)
    agent.proc.add(8)
    pod, host = agent.describe(7).shared, agent.describe(8).shared
    agent.again()
    agent.world.put(keys.container(ID), {**CONTAINER_TAGS, "k8s.pod.label.team": "red"}, node=NODE, since_ns=2)
    agent.turn()
    changed = agent.again()
    assert set(changed) == {pod}
    assert decoded(changed[pod].resource)["k8s.pod.label.team"] == "red"
    agent.world.put(keys.node(NODE), {**NODE_TAGS, "k8s.node.label.pool": "b"}, node=NODE, since_ns=2)
    agent.turn()
    changed = agent.again()
    assert set(changed) == {pod, host}
    assert decoded(changed[host].resource)["k8s.node.label.pool"] == "b"


@pytest.mark.parametrize(
    ("order", "environ", "name"),
    [
        (None, ["OTEL_SERVICE_NAME=mine"], "mine"),
        (None, [], "cart"),
        (("kubernetes", "env"), ["OTEL_SERVICE_NAME=mine"], "cart"),
        (("executable", "kubernetes"), [], "shop"),
    ],
)
def test_the_order_of_names(tmp_path: Path, order: Any, environ: list[str], name: str) -> None:
    config = Config(service=Service(order=order)) if order else Config()
    agent = Agent(tmp_path, config)
    put_all(agent.world)
    agent.turn()
    agent.proc.add(7, cgroup=CGROUP, environ=environ)
    info = agent.describe(7)
    assert info.service == decoded(info.resource)["service.name"] == name


def test_what_the_process_and_the_configuration_say_wins(tmp_path: Path) -> None:
    config = Config(
        resource=Resource(attributes={"cloud.region": "mine", "host.name": "h"}),
        loki=Loki(url=Url("http://l"), labels={"k8s_cluster_name": "own"}),
        service=Service(rules=(ServiceRule(match=ServiceMatch(cmdline="never*"), name="no"),)),
    )
    agent = Agent(tmp_path, config)
    put_all(agent.world)
    agent.turn()
    agent.proc.add(7, cgroup=CGROUP, environ=["OTEL_RESOURCE_ATTRIBUTES=service.version=9,k8s.pod.name=me"])
    info = agent.describe(7)
    resource = decoded(info.resource)
    assert (resource["service.version"], resource["k8s.pod.name"], resource["cloud.region"]) == ("9", "me", "mine")
    assert (resource["host.name"], resource["host.id"]) == ("h", "i-0f3a")
    assert json.loads(f"{{{info.labels.decode()}}}")["k8s_cluster_name"] == "own"


def test_what_is_opted_in_of_a_process_comes_along_but_not_its_name(agent: Agent) -> None:
    agent.proc.add(8)
    info = agent.describe(8)
    shared, began = info.shared, decoded(info.resource)["process.creation.time"]
    said = {"service.name": "other", "process.pid": "1", "process.creation.time": began, "k8s.pod.name": "then",
            "zerospan.process.env.TEAM": "red"}  # fmt: skip
    agent.world.put(keys.process(NODE, 8), said)
    agent.turn()
    assert keys.process(NODE, 8) in agent.world.client.asked
    resource = decoded(agent.again()[shared].resource)
    assert resource["zerospan.process.env.TEAM"] == "red"
    assert (resource["service.name"], resource["process.pid"]) == ("shop", 8)
    assert "k8s.pod.name" not in resource, "what its pod was when it was asked for"


def test_what_was_said_of_a_process_is_not_said_of_the_next_of_its_number(agent: Agent) -> None:
    agent.proc.add(8)
    shared = agent.describe(8).shared
    agent.world.put(
        keys.process(NODE, 8), {"process.creation.time": "2020-01-01T00:00:00.000Z", "zerospan.process.env.TEAM": "red"}
    )
    agent.turn()
    assert "zerospan.process.env.TEAM" not in decoded(agent.again()[shared].resource)


def test_keys_of_processes_that_have_ended_are_dropped(agent: Agent) -> None:
    put_all(agent.world)
    agent.proc.add(7, cgroup=CGROUP)
    agent.proc.add(9, cgroup=CGROUP)
    shared = agent.describe(7).shared
    agent.describe(9)
    agent.turn()
    assert agent.describer.alive([9]) == {9}
    gone = agent.describer
    gone.alive([7, 9])
    for pid in (7, 9):
        (agent.proc.root / str(pid)).rename(agent.proc.root / f"gone{pid}")
    assert gone.alive([7, 9]) == set()
    agent.turn()
    assert keys.container(ID) in agent.world.client.wanted, "its last spans are on hold"
    assert gone.again(shared) is not None
    for _ in range(2):
        gone.alive([])
    assert gone.again(shared) is None
    agent.turn()
    assert keys.container(ID) not in agent.world.client.wanted
    assert keys.node(NODE) in agent.world.client.wanted


def test_wild_tags_do_no_harm(agent: Agent) -> None:
    wild = {
        "service.name": 'a"b\\c\nd' + "x" * 5000, "k8s.pod.label.a-b": "1", "k8s.pod.label.a_b": "2", "trace_id": "3",
        "service.peer.name": "4", "k8s.pod.name": "\x00\x07", **{f"k8s.pod.label.n{i}": "v" * 900 for i in range(200)},
    }  # fmt: skip
    agent.world.put(keys.container(ID), wild, node=NODE)
    agent.turn()
    agent.proc.add(7, cgroup=CGROUP)
    info = agent.describe(7)
    resource = decoded(info.resource)
    assert len(str(resource["service.name"])) <= 255 and str(resource["service.name"]).isprintable()
    members = json.loads("{" + info.meta.decode()[1:] + "}", object_pairs_hook=list)
    names = [name for name, _ in members]
    assert len(set(names)) == len(names) <= 64 and len(info.meta) <= 8192
    assert not {"trace_id", "service_peer_name"} & set(names)
    list(text_string_to_metric_families(f"x{{{info.series.decode()},{info.target_info.decode()}}} 1\n"))


def test_processes_that_are_one_instance_have_one_target_info() -> None:
    """A join with target_info fails where one job and instance has two."""
    f = Feeder()
    series = b'job="prod/cart",instance="prod.cart-1.app"'
    first, second = (f.process("cart", series=series) for _ in range(2))
    other = f.process("other")
    for proc in (first, second, other):
        f.observe(proc)
        f.target_info(proc, b'process_pid="%d"' % proc)
        f.observe(proc)
    raw = Exposition(f.red).render()
    found = [dict(labels) for labels in find(raw, "target_info")]
    mine = [d for d in found if d["job"] == "prod/cart"]
    assert mine == [{"job": "prod/cart", "instance": "prod.cart-1.app", "process_pid": str(first)}]
    assert len(found) == 2


def test_series_under_a_former_name_still_have_a_target_info() -> None:
    """A process whose tags came late: what was counted before joins, with the tags of now."""
    f = Feeder()
    proc = f.process("curl", series=b'job="curl",instance="n1:7"')
    f.observe(proc)
    f.target_info(proc, b'process_pid="7"')
    f.observe(proc)
    f.red.target_info(proc, b'job="shop/asks",instance="shop.asks-1.curl"', b'k8s_pod_name="asks-1"')
    f.red.target_info(proc, b'job="shop/asks",instance="shop.asks-1.curl"', b'k8s_pod_name="asks-1",k="v"')
    told = map(dict, find(Exposition(f.red).render(), "target_info"))
    found = {labels["job"]: labels["k8s_pod_name"] for labels in told}
    assert found == {"curl": "asks-1", "shop/asks": "asks-1"}
    for i in range(3000):  # bounded: the oldest of the former names give way
        f.red.target_info(proc, b'job="j%d",instance="i"' % i, b"")
    assert len(find(Exposition(f.red).render(), "target_info")) == 1025
