"""Cluster: what the objects of a cluster mean together. Told of each object, it keeps the store right.

Facts come in any order: what comes late (a node after its pods, an EndpointSlice after its Service) is corrected in its
place, so that in the end the store is as a fresh list would have made it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zerospan.enricher import keys
from zerospan.enricher.naming import KINDS as OWNER_KINDS
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.kubernetes import nodes
from zerospan.enricher.sources.kubernetes.book import PodBook
from zerospan.enricher.sources.kubernetes.claims import NODE, Claim, Claims
from zerospan.enricher.sources.kubernetes.config import Kubernetes
from zerospan.enricher.sources.kubernetes.globs import Dropped, Glob, count
from zerospan.enricher.sources.kubernetes.model import Metadata, Node, Pod, after, detached
from zerospan.enricher.sources.kubernetes.owners import Owners, controller, short
from zerospan.enricher.sources.kubernetes.pods import PodReader
from zerospan.enricher.sources.kubernetes.services import Services, from_services
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet

LAYER = Layer.KUBERNETES
WAITING = 10_000  # pods whose owner is not told yet, at most
NAMESPACE_LABEL = "k8s.namespace.label."
NOTHING: tuple[str, dict[str, str]] = ("", {})
WORKLOAD_LABELS = tuple(f"k8s.{kind}.label." for kind in OWNER_KINDS)


def _from_elsewhere(tag: str) -> bool:
    return from_services(tag) or tag.startswith((NAMESPACE_LABEL, *WORKLOAD_LABELS))


class Cluster:
    """Its methods are called inside `batch`, which holds the lock. fed: whether objects of a kind are told at all."""

    def __init__(self, store: TagStore, config: Kubernetes, fed: Callable[[str], bool] = lambda kind: False) -> None:
        self._store = store
        self._fed = fed
        self.lock = threading.RLock()
        self._cluster = {"k8s.cluster.name": config.cluster_name, "k8s.cluster.uid": config.cluster_uid}
        self._cluster_set = store.make(self._cluster)
        self._nodes: dict[str, tuple[str, TagSet]] = {}  # name: uid, tags
        self._strange: dict[str, TagSet] = {}  # nodes of which only the name is known
        self._namespaces: dict[str, dict[str, str]] = {}
        self._workloads: dict[tuple[str, str, str], tuple[str, dict[str, str]]] = {}  # kind, namespace, name: uid, tags
        self._waiting: dict[str, dict[bytes, Pod]] = {}  # owner's uid: its pods
        self._waits: dict[bytes, str] = {}
        self._node_labels = Glob(config.picks.node_labels)
        self._namespace_labels = Glob(config.picks.namespace_labels)
        self._workload_labels = Glob(config.picks.workload_labels)
        self._owners = Owners()
        self._claims = Claims(store, LAYER)
        self.dropped: Dropped = {}  # globs.py, services.py and below say what
        self._reader = PodReader(config.naming, config.picks, self._owners, self.dropped)
        self._book = PodBook(store, LAYER, self._member)
        self.services = Services(
            store,
            self._claims,
            lambda: self._cluster_set,
            self._book.tags,
            self._pod_changed,
            config.node_port_keys,
            self.dropped,
        )

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Many changes, told at once."""
        with self.lock, self._store.batch():
            yield
            self.services.flush()

    def entities(self) -> dict[str, int]:
        """How many of what; for stats."""
        with self.lock:
            return {
                "pod": len(self._book),
                "node": len(self._nodes),
                "namespace": len(self._namespaces),
                "owner": len(self._owners),
                "pod_waiting": len(self._waits),
            } | self.services.counts()

    # -- the cluster, nodes and namespaces

    def cluster(self, name: str = "", uid: str = "") -> None:
        """What is learnt of the cluster as a whole."""
        known = dict(self._cluster)
        if name and not known["k8s.cluster.name"]:
            self._cluster["k8s.cluster.name"] = name
        if uid:
            self._cluster["k8s.cluster.uid"] = uid
        if self._cluster == known:
            return
        self._cluster_set = self._store.make(self._cluster)
        for node, (_, tags) in list(self._nodes.items()):
            self._node_tags(node, self._store.make(tags.own_tags(), self._cluster_set))
        for node, tags in list(self._strange.items()):
            self._strange[node] = self._store.make(tags.own_tags(), self._cluster_set)
            self._book.rebase(node, self._strange[node])
        self.services.all_dirty()

    def node(self, node: Node) -> None:
        facts = nodes.read(node, self._node_labels, self.dropped)
        self.cluster(name=facts.cluster)
        uid = node.metadata.uid
        known = self._nodes.get(facts.name)
        if known is not None and known[0] != uid:
            self._claims.set("node " + known[0], {})
        tags = self._store.make(facts.tags, self._cluster_set)
        if known is None or known[1].id != tags.id or known[0] != uid:
            claim = Claim(NODE, facts.since_ns, tags, facts.name)
            claims = {keys.node(facts.name): claim} | {keys.ADDRESS + a: claim for a in facts.addresses}
            self._claims.set("node " + uid, claims)
        self._nodes[facts.name] = (uid, tags)
        self._strange.pop(facts.name, None)
        if known is None or known[1].id != tags.id:
            self._book.rebase(facts.name, tags)
        self.services.node(facts.name, facts.addresses)

    def node_gone(self, name: str, uid: str) -> None:
        known = self._nodes.get(name)
        if known is not None and known[0] == uid:
            self._claims.set("node " + uid, {})
            self._strange[name] = self._nodes.pop(name)[1]
            self.services.node(name, ())

    def node_uids(self) -> dict[str, str]:
        return {uid: name for name, (uid, _) in self._nodes.items()}

    def _node_tags(self, name: str, tags: TagSet) -> None:
        """The same node on another base."""
        uid = self._nodes[name][0]
        self._claims.rebase("node " + uid, tags)
        self._nodes[name] = (uid, tags)
        self._book.rebase(name, tags)

    def _base(self, name: str) -> TagSet:
        known = self._nodes.get(name)
        if known is not None:
            return known[1]
        strange = self._strange.get(name)
        if strange is None:
            strange = self._strange[name] = self._store.make({"k8s.node.name": name}, self._cluster_set)
        return strange

    def namespace(self, meta: Metadata) -> None:
        if meta.name == "kube-system":
            self.cluster(uid=meta.uid)
        tags: dict[str, str] = {}
        self._namespace_labels.pick(NAMESPACE_LABEL, meta.labels, tags, self.dropped)
        old = self._namespaces.get(meta.name, {})
        self._namespaces[meta.name] = tags
        if old != tags:
            self._refresh("k8s.namespace.name", meta.name)

    def namespace_gone(self, name: str) -> None:
        self._namespaces.pop(name, None)

    def namespaces_are(self, names: set[str]) -> None:
        for name in set(self._namespaces) - names:
            del self._namespaces[name]

    # -- owners

    def owner(self, kind: str, meta: Metadata) -> None:
        """kind: as ownerReferences write it."""
        self._owners.seen(kind, meta)
        if self._workload_labels.any:
            tags: dict[str, str] = {}
            self._workload_labels.pick(f"k8s.{kind.lower()}.label.", meta.labels, tags, self.dropped)
            at = (kind.lower(), meta.namespace or "", meta.name)
            uid, before = self._workloads.get(at, NOTHING)
            if tags or uid:
                self._workloads[at] = (meta.uid, tags)
            if before != tags:
                self._refresh(f"k8s.{kind.lower()}.name", meta.name)
        for key, pod in self._waiting.pop(meta.uid, {}).items():
            self._waits.pop(key, None)
            self.pod(pod)

    def owner_gone(self, kind: str, meta: Metadata) -> None:
        self._owners.gone(kind, meta.uid)
        at = (kind.lower(), meta.namespace or "", meta.name)
        if self._workloads.get(at, NOTHING)[0] == meta.uid:
            del self._workloads[at]

    def owners_are(self, kind: str, shorts: set[int]) -> None:
        """The short uids that a list had."""
        self._owners.only(kind, shorts)
        of = kind.lower()
        for at in [at for at, (uid, _) in self._workloads.items() if at[0] == of and short(uid) not in shorts]:
            del self._workloads[at]

    # -- pods

    def pod(self, pod: Pod, gone: bool = False) -> None:
        meta = pod.metadata
        key = keys.pod(meta.uid)
        waited = self._no_longer_waits(key) if self._waits else None
        if not pod.spec.node_name:
            self._book.gone(key)
            return
        new = waited is not None or key not in self._book
        facts = self._reader.read(pod, self._store.now(), gone)
        if extra := self._extra(key, facts.shared):
            facts.tags.update(extra)
        self._book.seen(facts, self._base(facts.node), after(meta.deletion_timestamp))
        if not facts.until_ns:
            if new:  # else its owner was told before, and may be deleted by now
                self._wait(key, pod)
        elif waited is not None:
            count(self.dropped, "owner_unknown")  # it went, and nobody had told of its owner

    def pods_begin(self) -> None:
        self._book.begin()

    def pods_whole(self) -> None:
        self._book.whole()
        for key in [key for key in self._waits if key not in self._book]:
            self._no_longer_waits(key)
        for name in [n for n in self._strange if not self._store.of_node(n)]:
            del self._strange[name]

    def _wait(self, key: bytes, pod: Pod) -> None:
        """For an owner that is fed, but not told yet."""
        owner = controller(pod.metadata.owner_references)
        if owner is None or self._owners.has(owner) or not self._fed(owner.kind):
            return
        if len(self._waits) >= WAITING:
            count(self.dropped, "owner_wait_full")
        else:
            self._waiting.setdefault(owner.uid, {})[key] = detached(pod)
            self._waits[key] = owner.uid

    def _no_longer_waits(self, key: bytes) -> str | None:
        """For whom it did."""
        waited = self._waits.pop(key, None)
        if waited is not None:
            self._waiting.get(waited, {}).pop(key, None)
            if not self._waiting.get(waited, True):
                del self._waiting[waited]
        return waited

    def _extra(self, key: bytes, tags: dict[str, str]) -> dict[str, str]:
        found = self.services.extra(key)
        namespace = tags.get("k8s.namespace.name", "")
        labels = self._namespaces.get(namespace)
        if labels:
            found |= labels
        if self._workloads:
            for kind in OWNER_KINDS:
                name = tags.get(f"k8s.{kind}.name")
                if name:
                    found |= self._workloads.get((kind, namespace, name), NOTHING)[1]
        return found

    def _member(self, pod: bytes, old: TagSet | None, new: TagSet | None) -> None:
        self.services.member(pod, old, new)

    def _pod_changed(self, pod: bytes) -> None:
        tags = self._book.tags(pod)
        if tags is not None:
            self._book.change(pod, _from_elsewhere, self._extra(pod, tags.own_tags()))

    def _refresh(self, tag: str, value: str) -> None:
        for key in self._book.pods():
            tags = self._book.tags(key)
            if tags is not None and tags.get(tag) == value:
                self._pod_changed(key)
