"""Random lives of a cluster: events, late and lost news, relists. In the end the store holds what a fresh list gives,
and at no time is an address told to be a pod's that did not have it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubernetes_kit import ORDER, Rig
from kubernetes_objects import (
    INGRESSES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    SLICES,
    Object,
    container_id,
    endpoints,
    ingress,
    namespace,
    node,
    ns_at,
    owner,
    pod,
    replicaset,
    service,
    uid_of,
)

from zerospan.enricher import keys
from zerospan.enricher.client import Mirror
from zerospan.enricher.fanout import Fanout
from zerospan.enricher.wire import tags_pb2 as pb

APPS, NODE_NAMES, IPS = ("cart", "pay", "mail"), ("n1", "n2"), [f"10.0.0.{i}" for i in range(6)]


@dataclass
class Life:
    """What was true of one pod: it had its address from `began` to `ended` (seconds; its containers')."""

    name: str
    ip: str
    app: str
    node: str
    start: int
    ended: int | None = None
    restarts: int = 0
    dying: int | None = None
    label: str = "a"

    @property
    def uid(self) -> str:
        return uid_of(self.name)

    @property
    def began(self) -> int:
        return self.start + 1

    def object(self) -> Object:
        rs = f"{self.app}-5d"
        return pod(
            self.name,
            self.ip,
            self.node,
            uid=self.uid,
            start=self.start,
            ended=self.ended,
            dying=self.dying,
            owners=[owner("ReplicaSet", rs)],
            labels={"pod-template-hash": "5d", "team": self.label},
            restarts=self.restarts,
        )


@dataclass
class World:
    rng: random.Random
    rig: Rig
    now: int = 100
    lives: list[Life] = field(default_factory=list)
    alive: dict[str, Life] = field(default_factory=dict)  # by address
    objects: dict[str, dict[str, Object]] = field(default_factory=dict)  # what the API has
    late: list[tuple[int, str, str, Object]] = field(default_factory=list)  # due, what, resource, object
    deaf: set[str] = field(default_factory=set)  # kinds whose watch is cut: news are lost until the next list

    def tell(self, what: str, resource: str, obj: Object) -> None:
        own = self.objects.setdefault(resource, {})
        uid = obj["metadata"]["uid"]
        if what == "put":
            own[uid] = obj
        else:
            own.pop(uid, None)
        if resource not in self.deaf:
            self.late.append((self.now, what, resource, obj))

    def flush(self, everything: bool) -> None:
        """News arrive in order within a kind, and in any order between kinds."""
        self.rig.now = self.now
        for resource in self.rng.sample(ORDER, len(ORDER)):
            if not everything and self.rng.random() < 0.5:
                continue
            mine = [n for n in self.late if n[2] == resource]
            self.late = [n for n in self.late if n[2] != resource]
            for _, what, _, obj in mine:
                (self.rig.put if what == "put" else self.rig.delete)(resource, obj)

    def relist(self, resource: str) -> None:
        self.rig.now = self.now
        self.late = [n for n in self.late if n[2] != resource]
        listed = list(self.objects.get(resource, {}).values())
        self.rng.shuffle(listed)
        self.rig.relist(resource, listed)
        self.deaf.discard(resource)

    def slices(self) -> None:
        for app in APPS:
            behind = [life.object() for life in self.alive.values() if life.app == app and life.ended is None]
            self.tell("put", SLICES, endpoints(app, *behind))

    def step(self) -> None:
        rng = self.rng
        self.now += rng.choice([0, 0, 1, 1, 2, 7])
        draw = rng.random()
        if draw < 0.35:
            ip = rng.choice(IPS)
            if ip in self.alive:
                return
            last = max((life.ended or 0 for life in self.lives if life.ip == ip), default=0)
            life = Life(f"p{len(self.lives)}", ip, rng.choice(APPS), rng.choice(NODE_NAMES), self.now)
            if last > life.began:  # the address is free when the last process has ended
                return
            self.lives.append(life)
            self.alive[ip] = life
            self.now += 2
            self.tell("put", PODS, life.object())
            self.slices()
        elif draw < 0.7 and self.alive:
            life = rng.choice(list(self.alive.values()))
            if life.dying is None and rng.random() < 0.4:
                life.label = rng.choice("ab")
            elif life.dying is None:
                life.dying = self.now + 30
            else:
                life.ended = min(self.now, life.dying)  # the kubelet kills what outlives its grace period
                del self.alive[life.ip]
                if rng.random() < 0.8:
                    self.tell("put", PODS, life.object())
                self.tell("delete", PODS, life.object())
                self.slices()
                return
            self.tell("put", PODS, life.object())
        elif draw < 0.8:
            name = rng.choice(NODE_NAMES)
            self.tell("put", NODES, node(name, f"172.30.0.{name[1:]}", labels={"pool": rng.choice("xy")}))
        elif draw < 0.85:
            self.tell("put", INGRESSES, ingress("web", rng.choice(APPS)))
        elif draw < 0.9:
            app = rng.choice(APPS)
            what = rng.choice(["put", "put", "delete"])
            self.tell(
                what, SERVICES, service(app, f"10.96.0.{APPS.index(app)}", ports=((80, 30000 + APPS.index(app)),))
            )
        elif draw < 0.95:
            self.deaf.add(rng.choice(ORDER))
        else:
            self.relist(rng.choice(ORDER))
        self.flush(False)


def world(seed: int, after: Callable[[World], None] = lambda made: None) -> World:
    """after: called after each step."""
    rng = random.Random(seed)
    picks = {"pod_labels": ["team"], "node_labels": ["*"]}
    made = World(rng, Rig(now=100, picks=picks))
    made.tell("put", NAMESPACES, namespace("kube-system"))
    for app in APPS:
        parent = owner("Rollout", app) if app == "mail" else owner("Deployment", app)
        made.tell("put", REPLICASETS, replicaset(f"{app}-5d", parent, "5d"))
    for _ in range(rng.randrange(20, 150)):
        made.step()
        after(made)
    return made


def settle(made: World) -> None:
    """Whoever was cut off lists again; the rest arrives. The second in which the last thing happened is over."""
    made.now += 3
    for resource in sorted(made.deaf):
        made.relist(resource)
    made.flush(True)


def without_times(found: dict[bytes, dict[str, str]]) -> dict[str, Any]:
    return {keys.show(key): tags for key, tags in found.items()}


@pytest.mark.parametrize("seed", range(150))
def test_in_the_end_it_is_as_a_fresh_list(seed: int) -> None:
    made = world(seed)
    settle(made)
    fresh = Rig(now=made.now, picks={"pod_labels": ["team"], "node_labels": ["*"]})
    for resource in ORDER:
        fresh.relist(resource, list(made.objects.get(resource, {}).values()))
    gone = {life.node for life in made.lives}  # a node that only its pods tell of is the same in both
    assert gone <= set(NODE_NAMES)
    assert without_times(made.rig.open()) == without_times(fresh.open())


@pytest.mark.parametrize("seed", range(150))
def test_an_address_is_never_told_to_be_another_pods(seed: int) -> None:
    made = world(1000 + seed)
    settle(made)
    known = {life.name: life for life in made.lives}
    told = missing = 0
    for ip in IPS:
        had = [life for life in made.lives if life.ip == ip]
        for half in range(200, 2 * made.now + 1):
            t = half / 2
            name = made.rig.pod_at(ip, t)
            truth = [life for life in had if life.began <= t and (life.ended is None or t < life.ended)]
            if name:
                life = known[name]
                assert life.ip == ip
                # of a pod that came and went while nobody heard of it nothing can be known
                others = [o for o in truth if o is not life and seen(made, o)]
                assert not others, f"{ip} at {t}: told {name}, was {others}"
            sure = [life for life in truth if life.began + 1 <= t and seen(made, life)]
            if sure:
                told += name == sure[0].name
                missing += not name
    assert told or not missing


def seen(made: World, life: Life) -> bool:
    """Whether the source ever heard of the pod."""
    return bool(made.rig.store.pieces(keys.pod(life.uid)))


def test_containers_and_uids_are_right_at_every_time() -> None:
    for seed in range(40):
        made = world(5000 + seed)
        settle(made)
        for life in made.lives:
            if not seen(made, life):
                continue
            key = keys.container(container_id(f"{life.uid}/app/0"))
            for t in range(life.began, made.now):
                found = made.rig.tags(key, t)
                assert not found or found["k8s.pod.name"] == life.name
                if life.ended is None or t < life.ended:
                    assert found, f"seed {seed}: {life} at {t}"


def test_the_worlds_are_rich_enough() -> None:
    """Else the properties above would say nothing."""
    worlds = [world(seed) for seed in range(60)]
    lives = [life for w in worlds for life in w.lives]
    again = sum(len([o for o in w.lives if o.ip == life.ip]) > 1 for w in worlds for life in w.lives)
    at_once = sum(
        o.ip == life.ip and o is not life and 0 <= o.began - (life.ended or -9) <= 1
        for w in worlds
        for life in w.lives
        for o in w.lives
    )
    assert len(lives) > 500 and again > 200 and at_once > 5


class Watcher:
    """A subscriber as an agent is one: what it is told goes through the wire's bytes into its mirror."""

    def __init__(self, made: World, node: str) -> None:
        self.node = node
        self.fanout = Fanout(made.rig.store, lambda: True)
        self.mirror = Mirror()
        self.stream = self.fanout.open(node, 0, 0, lambda: None)
        self.addresses = [keys.address(ip) for ip in IPS]
        self.fanout.ask(self.stream, self.addresses, ())

    def hear(self) -> None:
        self.fanout.tick()
        while (message := self.fanout.message(self.stream)) is not None:
            self.mirror.update(pb.TagUpdate.FromString(message))

    def names(self, key: bytes, seconds: float) -> str:
        return (self.mirror.find(key, ns_at(seconds)) or {}).get("k8s.pod.name", "")


@pytest.mark.parametrize("seed", range(60))
def test_subscribers_are_told_what_the_store_knows_of_every_time(seed: int) -> None:
    """One hears after each step, one now and then: at every time each address is to both what it is in the store, while
    the addresses go from pod to pod.
    """
    watchers: list[Watcher] = []
    rng = random.Random(seed)

    def after(made: World) -> None:
        if not watchers:
            watchers.extend((Watcher(made, "n1"), Watcher(made, "n2")))
        prompt, seldom = watchers
        prompt.hear()
        if rng.random() < 0.1:
            seldom.hear()
        told = {key: bool(prompt.mirror.bindings.get(key)) for key in prompt.addresses}
        assert told == {key: bool(made.rig.store.pieces(key)) for key in prompt.addresses}
        for ip, key in zip(IPS, prompt.addresses, strict=True):
            for back in (0, 1, 3, 10):
                assert prompt.names(key, made.now - back) == made.rig.pod_at(ip, made.now - back)

    made = world(9000 + seed, after)
    settle(made)
    own = {node: set(made.rig.store.of_node(node)) for node in NODE_NAMES}
    for watcher in watchers:
        watcher.hear()
        for key in own[watcher.node].union(watcher.addresses):
            told = watcher.mirror.bindings.get(key, [])
            assert told == [(p.tags.id, p.since_ns, p.until_ns) for p in made.rig.store.pieces(key)], keys.show(key)
        for ip, key in zip(IPS, watcher.addresses, strict=True):
            for half in range(200, 2 * made.now + 1):
                assert watcher.names(key, half / 2) == made.rig.pod_at(ip, half / 2)


def test_an_address_that_goes_on_at_once_is_told_apart_by_time() -> None:
    """The new pod's first request and the old one's last, seconds apart, asked for by one who heard of both late: also
    where the new pod is told first, and where the old one's end is never told.
    """
    for order in ("old first", "new first", "end never told"):
        rig = Rig(now=100)
        made = World(random.Random(1), rig)
        old, new = Life("old", IPS[0], "cart", "n1", 100), Life("new", IPS[0], "pay", "n2", 160)
        rig.put(PODS, old.object())
        watcher = Watcher(made, "n1")
        watcher.hear()
        assert watcher.names(watcher.addresses[0], 130) == "old"
        rig.now = 163
        old.ended, old.dying = 160, 160
        if order == "old first":
            rig.delete(PODS, old.object())
        rig.put(PODS, new.object())
        if order == "new first":
            rig.delete(PODS, old.object())
        watcher.hear()
        for when, who in ((101, "old"), (159, "old"), (162, "new"), (1000, "new")):
            assert rig.pod_at(IPS[0], when) == watcher.names(watcher.addresses[0], when) == who, (order, when)
        for when in (160.5, 161.2):  # Kubernetes tells seconds only: within one, nobody's or the right one's
            assert watcher.names(watcher.addresses[0], when) in ("", "old" if when < 161 else "new"), (order, when)
