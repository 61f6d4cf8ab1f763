"""KubernetesSource: one reflector (a thread) for each kind, all under one lock, into the store.

Pods are listed after all else, so that each is made once and whole; what comes later is corrected in its place. Without
the right to read a kind, its tags are missing and nothing else is.
"""

import threading
import time
from typing import Any, Final, NamedTuple

from zerospan.enricher.source import SourceStats
from zerospan.enricher.sources.kubernetes.client import Access, access
from zerospan.enricher.sources.kubernetes.cluster import Cluster
from zerospan.enricher.sources.kubernetes.config import Kubernetes
from zerospan.enricher.sources.kubernetes.model import (
    EndpointSlice,
    Ingress,
    Node,
    Partial,
    Pod,
    Service,
)
from zerospan.enricher.sources.kubernetes.owners import short
from zerospan.enricher.sources.kubernetes.reflector import Reflector
from zerospan.enricher.store import TagStore

ORDER_S = 30.0  # pods wait so long for the kinds that they need
STOP_S = 1.8


class Kind(NamedTuple):
    group: str
    type: type[Any]
    partial: bool = False
    owner: str = ""  # its kind in ownerReferences
    cluster: bool = False  # has no namespace


APPS, BATCH = "/apis/apps/v1", "/apis/batch/v1"
WATCHED: Final[dict[str, Kind]] = {
    "namespaces": Kind("/api/v1", Partial, True, cluster=True),
    "nodes": Kind("/api/v1", Node, cluster=True),
    "replicasets": Kind(APPS, Partial, True, "ReplicaSet"),
    "jobs": Kind(BATCH, Partial, True, "Job"),
    "deployments": Kind(APPS, Partial, True, "Deployment"),
    "statefulsets": Kind(APPS, Partial, True, "StatefulSet"),
    "daemonsets": Kind(APPS, Partial, True, "DaemonSet"),
    "cronjobs": Kind(BATCH, Partial, True, "CronJob"),
    "ingresses": Kind("/apis/networking.k8s.io/v1", Ingress),
    "services": Kind("/api/v1", Service),
    "endpointslices": Kind("/apis/discovery.k8s.io/v1", EndpointSlice),
    "pods": Kind("/api/v1", Pod),
}
NEEDS = {"namespaces": (), "nodes": ("namespaces",)}  # what is listed before; pods: all else
FED = {kind.owner: name for name, kind in WATCHED.items() if kind.owner}


class KubernetesSource:
    """node: the own node's name, where `config.node` does not say it and the scope is a node's; else "" (a cluster).

    access: for tests; else made by `client.access` from the configuration, again and again until it can be.
    """

    name = "kubernetes"

    def __init__(
        self,
        store: TagStore,
        config: Kubernetes,
        node: str = "",
        *,
        access: Access | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._node = config.node or node
        self._access = access
        self._options = options or {}  # of the reflectors, for tests
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._error = ""
        self._errors = 0
        self._began = time.monotonic()
        self._starter: threading.Thread | None = None
        self._reflectors: dict[str, Reflector] = {}
        self.cluster = Cluster(store, config, self._fed)

    # -- life

    def start(self) -> None:
        self._starter = threading.Thread(target=self._connect, name="k8s-start", daemon=True)
        self._starter.start()

    def stop(self) -> None:
        self._stop.set()
        deadline = time.monotonic() + STOP_S
        with self._lock:
            reflectors = list(self._reflectors.values())
        for each in reflectors:
            each.stop()
        for each in reflectors:
            each.join(max(deadline - time.monotonic(), 0.01))
        if self._starter is not None:
            self._starter.join(max(deadline - time.monotonic(), 0.01))

    def stats(self) -> SourceStats:
        with self._lock:
            all = list(self._reflectors.values())
        failed = [r.last_error for r in all if r.last_error]
        return SourceStats(
            in_sync=bool(all) and all_synced(all),
            entities=self.cluster.entities(),
            lag_s=max((r.lag_s() for r in all), default=time.monotonic() - self._began),
            changes=sum(r.changes for r in all),
            errors=self._errors + sum(r.errors for r in all),
            resyncs=sum(r.resyncs for r in all),
            dropped=self._dropped(all),
            last_error=failed[-1] if failed else self._error,
        )

    def _dropped(self, reflectors: list[Reflector]) -> dict[str, int]:
        found = dict(self.cluster.dropped)
        for reason in ("undecodable", "forbidden", "absent"):
            if n := sum(getattr(r, reason) for r in reflectors):
                found[reason] = n
        return found

    def _connect(self) -> None:
        wait = 1.0
        while not self._stop.is_set():
            try:
                found = self._access or access(self._config.kubeconfig, self._config.context)
                break
            except Exception as e:  # no kubeconfig yet, an unreadable certificate: it may come
                self._errors += 1
                self._error = str(e)
                self._stop.wait(wait)
                wait = min(wait * 2, 30)
        else:
            return
        made: dict[str, Reflector] = {
            name: self._reflector(name, found) for name in WATCHED if name in set[str](self._config.watch)
        }
        with self._lock:
            if self._stop.is_set():
                return
            self._reflectors = made
            for each in made.values():
                each.start()

    def _reflector(self, name: str, access: Access) -> Reflector:
        kind, config = WATCHED[name], self._config
        path, selector = kind.group, ""
        if config.namespace and not kind.cluster:
            path += f"/namespaces/{config.namespace}"
        if self._node and name in ("pods", "nodes"):
            selector = ("spec.nodeName=" if name == "pods" else "metadata.name=") + self._node
        elif config.namespace and name == "namespaces":
            selector = f"metadata.name={config.namespace}"
        return Reflector(
            name, access, f"{path}/{name}", kind.type, _handlers[name](self.cluster, kind.owner), selector=selector,
            partial=kind.partial, page=config.page, wait_for=lambda: self._may_begin(name), **self._options,
        )  # fmt: skip

    def _may_begin(self, name: str) -> bool:
        if time.monotonic() - self._began > ORDER_S:
            return True
        others = (n for n in self._reflectors if n != "pods") if name == "pods" else NEEDS.get(name, ("nodes",))
        return all_synced([self._reflectors[n] for n in others if n in self._reflectors])

    def _fed(self, kind: str) -> bool:
        reflector = self._reflectors.get(FED.get(kind, ""))
        return reflector is not None and not reflector.away


def all_synced(reflectors: list[Reflector]) -> bool:
    return all(r.in_sync or r.away for r in reflectors)


class _Handler:
    """What a reflector does with objects of one kind; the cluster's lock is held."""

    def __init__(self, cluster: Cluster, kind: str) -> None:
        self.cluster = cluster
        self.kind = kind  # as ownerReferences write it
        self.listed: set[Any] | None = None
        self.batch = cluster.batch

    def begin(self) -> None:
        self.listed = set()

    def seen(self, item: Any) -> None: ...

    def gone(self, item: Any) -> None: ...

    def listing(self, what: Any) -> None:
        if self.listed is not None:
            self.listed.add(what)

    def whole(self) -> None:
        listed, self.listed = self.listed or set(), None
        self.sync(listed)

    def sync(self, listed: set[Any]) -> None:
        """Only these exist."""


class _Namespaces(_Handler):
    def seen(self, item: Partial) -> None:
        self.listing(item.metadata.name)
        self.cluster.namespace(item.metadata)

    def gone(self, item: Partial) -> None:
        self.cluster.namespace_gone(item.metadata.name)

    def sync(self, listed: set[Any]) -> None:
        self.cluster.namespaces_are(listed)


class _Nodes(_Handler):
    def seen(self, item: Node) -> None:
        self.listing(item.metadata.uid)
        self.cluster.node(item)

    def gone(self, item: Node) -> None:
        self.cluster.node_gone(item.metadata.name, item.metadata.uid)

    def sync(self, listed: set[Any]) -> None:
        for uid, name in self.cluster.node_uids().items():
            if uid not in listed:
                self.cluster.node_gone(name, uid)


class _Owners(_Handler):
    def seen(self, item: Partial) -> None:
        self.listing(short(item.metadata.uid))
        self.cluster.owner(self.kind, item.metadata)

    def gone(self, item: Partial) -> None:
        self.cluster.owner_gone(self.kind, item.metadata)

    def sync(self, listed: set[Any]) -> None:
        self.cluster.owners_are(self.kind, listed)


class _Services(_Handler):
    def seen(self, item: Service) -> None:
        self.listing(item.metadata.uid)
        self.cluster.services.service(item)

    def gone(self, item: Service) -> None:
        meta = item.metadata
        self.cluster.services.service_gone(meta.namespace or "", meta.name, meta.uid)

    def sync(self, listed: set[Any]) -> None:
        for uid, (namespace, name) in self.cluster.services.uids().items():
            if uid not in listed:
                self.cluster.services.service_gone(namespace, name, uid)


class _Slices(_Handler):
    def seen(self, item: EndpointSlice) -> None:
        self.listing(item.metadata.uid)
        self.cluster.services.slice(item)

    def gone(self, item: EndpointSlice) -> None:
        self.cluster.services.slice_gone(item.metadata.uid)

    def sync(self, listed: set[Any]) -> None:
        for uid in self.cluster.services.slices():
            if uid not in listed:
                self.cluster.services.slice_gone(uid)


class _Ingresses(_Handler):
    def seen(self, item: Ingress) -> None:
        self.listing(item.metadata.uid)
        self.cluster.services.ingress(item)

    def gone(self, item: Ingress) -> None:
        self.cluster.services.ingress_gone(item.metadata.uid)

    def sync(self, listed: set[Any]) -> None:
        for uid in self.cluster.services.ingresses():
            if uid not in listed:
                self.cluster.services.ingress_gone(uid)


class _Pods(_Handler):
    def begin(self) -> None:
        self.cluster.pods_begin()

    def seen(self, item: Pod) -> None:
        self.cluster.pod(item)

    def gone(self, item: Pod) -> None:
        self.cluster.pod(item, gone=True)

    def sync(self, listed: set[Any]) -> None:
        self.cluster.pods_whole()


_handlers: dict[str, type[_Handler]] = {
    "namespaces": _Namespaces,
    "nodes": _Nodes,
    "services": _Services,
    "endpointslices": _Slices,
    "ingresses": _Ingresses,
    "pods": _Pods,
} | dict.fromkeys((name for name, kind in WATCHED.items() if kind.owner), _Owners)
