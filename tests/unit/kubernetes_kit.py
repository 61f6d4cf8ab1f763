"""A Cluster without a server: objects go in as the API writes them, time is the test's own."""

from __future__ import annotations

from typing import Any

import msgspec
from kubernetes_objects import INGRESSES, JOBS, NAMESPACES, NODES, PODS, REPLICASETS, SERVICES, SLICES, Object, ns_at

from zerospan.enricher import keys
from zerospan.enricher.sources.kubernetes import Kubernetes
from zerospan.enricher.sources.kubernetes.cluster import Cluster
from zerospan.enricher.sources.kubernetes.source import WATCHED, _handlers
from zerospan.enricher.store import TagStore

NAMES = {f"{kind.group}/{name}": name for name, kind in WATCHED.items()}
ORDER = (NAMESPACES, NODES, REPLICASETS, JOBS, INGRESSES, SERVICES, SLICES, PODS)


class Rig:
    """put, delete, relist: as events and lists of the API; `now` in seconds after START."""

    def __init__(self, now: float = 100, **config: Any) -> None:
        self.now = now
        self.store = TagStore(clock=lambda: ns_at(self.now), keep_s=100_000)
        self.cluster = Cluster(
            self.store, msgspec.convert({"cluster_name": "test"} | config, Kubernetes), lambda kind: True
        )
        self.handlers = {r: _handlers[n](self.cluster, WATCHED[n].owner) for r, n in NAMES.items()}

    def typed(self, resource: str, obj: Object) -> Any:
        return msgspec.json.decode(msgspec.json.encode(obj), type=WATCHED[NAMES[resource]].type)

    def put(self, resource: str, *objects: Object) -> None:
        for obj in objects:
            with self.cluster.batch():
                self.handlers[resource].seen(self.typed(resource, obj))

    def delete(self, resource: str, obj: Object) -> None:
        with self.cluster.batch():
            self.handlers[resource].gone(self.typed(resource, obj))

    def relist(self, resource: str, objects: list[Object]) -> None:
        with self.cluster.batch():
            self.handlers[resource].begin()
            for obj in objects:
                self.handlers[resource].seen(self.typed(resource, obj))
            self.handlers[resource].whole()

    def tags(self, key: bytes, at: float | None = None) -> dict[str, str]:
        found = self.store.find(key, ns_at(self.now if at is None else at))
        return found.tags() if found is not None else {}

    def address(self, ip: str, at: float | None = None) -> dict[str, str]:
        return self.tags(keys.address(ip), at)

    def pod_at(self, ip: str, at: float | None = None) -> str:
        """Name of the pod that has an address; "": nobody."""
        return self.address(ip, at).get("k8s.pod.name", "")

    def open(self) -> dict[bytes, dict[str, str]]:
        """All that holds now."""
        held = self.store.keys()
        return {key: self.tags(key) for key in held if self.tags(key)}
