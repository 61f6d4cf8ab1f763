"""Containers of this host, from their control groups: which container is whose, before Kubernetes tells.

The path says container, pod uid and runtime (exporter/process/cgroup.py), the runtime's files its name and image
(exporter/process/containers.py). What a pod is comes from the store as soon as any source has put it: the container
stands on its pod's tags then. Under the kubelet's and Kubernetes' own word (Layer.OS). Used by os.py.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from zerospan.enricher import keys
from zerospan.enricher.names import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE
from zerospan.enricher.naming import instance
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.container_net import Running
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.exporter.process.cgroup import place
from zerospan.exporter.process.containers import Containers, Details, image_parts

log = logging.getLogger(__name__)

RETRY_S = (0.3, 2.0, 10.0)  # a runtime that writes its files late
NOTHING_SEEN = -(1 << 62)  # a revision of the store so old that it tells of all
SETTLE_S = 0.02  # changes of the store are looked at in one go


class Hint(Protocol):
    """Something new in the tree: container id ("" for a pod's own group), pod uid ("" outside Kubernetes), path."""

    def __call__(self, container_id: str, pod_uid: str, path: str) -> None: ...


class _Container(msgspec.Struct):
    id: str
    uid: str
    runtime: str
    paths: set[str]
    details: Details | None = None
    tries: int = 0
    again: float = 0.0  # when its files are sought again; 0: not any more
    tags: TagSet | None = None
    pod: TagSet | None = None


class HostContainers:
    """came() and went() are the cgroup watch's; start() follows the store. host: tags of this host, the base of what is
    outside Kubernetes. Bounded: `limit` containers, further ones are counted in `refused`.
    """

    def __init__(
        self, store: TagStore, files: Containers, node: str, host: Callable[[], TagSet | None], *, limit: int = 16384
    ) -> None:
        self.refused = 0
        self.changes = 0
        self.failures = 0  # looks at the store that raised: bugs
        self.failing = False  # the last one did
        self._store, self._files, self._node, self._host, self._limit = store, files, node, host, limit
        self._lock = threading.Lock()
        self._containers: dict[str, _Container] = {}
        self._of_pod: dict[bytes, set[str]] = {}
        self._hints: list[Hint] = []
        self._changed = threading.Event()
        self._stopping = False
        self._revision = 0
        self._thread = threading.Thread(target=self._run, name="containers", daemon=True)

    def start(self) -> None:
        self._revision = self._store.revision
        self._store.listen(self._changed.set)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(2)

    def on_new(self, hint: Hint) -> None:
        """hint is called for each new pod's or container's group, in the watch's thread; it must not block."""
        self._hints.append(hint)

    def __len__(self) -> int:
        return len(self._containers)

    def outside(self) -> list[Running]:
        """The containers that are of no pod."""
        with self._lock:
            return [
                Running(c.id, tuple(c.paths), c.tags)
                for c in self._containers.values()
                if not c.uid and c.tags is not None and not (c.details is not None and c.details.sandbox)
            ]

    def pod_uid(self, container_id: str) -> str:
        """The pod of a container, "" if it is not known or has none."""
        found = self._containers.get(container_id)
        return found.uid if found is not None else ""

    def came(self, path: str) -> None:
        """A control group is there."""
        said = place(path)
        last = path.rpartition("/")[2]
        if said.container and said.container not in last:
            return  # inside a container
        new = not said.container and bool(said.pod) and said.pod.replace("-", "_") in last.replace("-", "_")
        if said.container:
            with self._lock:
                known = self._containers.get(said.container)
                new = known is None
                if known is None:
                    if len(self._containers) >= self._limit:
                        self.refused += 1
                        return
                    known = _Container(said.container, said.pod, said.runtime, set())
                    self._containers[said.container] = known
                known.paths.add(path)
                if new:
                    self._seek(known)
                    self._of_pod.setdefault(keys.pod(known.uid), set()).add(known.id)
                    self._bind(known)
        if new:
            for hint in self._hints:
                hint(said.container, said.pod, path)

    def went(self, path: str) -> None:
        """A control group is gone; a container is when none of its groups is left."""
        container = place(path).container
        with self._lock:
            known = self._containers.get(container)
            if known is None:
                return
            known.paths.discard(path)
            if known.paths:
                return
            del self._containers[container]
            of_pod = self._of_pod.get(keys.pod(known.uid), set())
            of_pod.discard(container)
            if not of_pod:
                self._of_pod.pop(keys.pod(known.uid), None)
            self._files.forget(container)
            self.changes += self._store.end(keys.container(container), layer=Layer.OS)

    # -- the thread that follows the store

    def _run(self) -> None:
        while not self._stopping:
            with self._lock:
                again = min((c.again for c in self._containers.values() if c.again), default=0.0)
            if self.failing:
                self._changed.wait(RETRY_S[1])  # and not at once, whatever changes
                time.sleep(RETRY_S[0])
            else:
                self._changed.wait(max(0.0, again - time.monotonic()) if again else None)
            if self._stopping:
                return
            time.sleep(SETTLE_S)
            self._changed.clear()
            try:
                self._follow()
                self.failing = False
            except Exception:
                self.failing = True
                self.failures += 1
                self._revision = NOTHING_SEEN
                log.exception("containers: a look at what has changed failed: a bug; all is looked at again")

    def _follow(self) -> None:
        now = self._store.revision
        changed = self._store.since(self._revision)
        self._revision = now
        with self._lock:
            pods = self._of_pod if changed is None else [key for key in changed if key in self._of_pod]
            for key in list(pods):
                for container in self._of_pod[key]:
                    self._bind(self._containers[container])
            if changed is None or keys.node(self._node) in changed:
                for known in self._containers.values():
                    if not known.uid:
                        self._bind(known)
            clock = time.monotonic()
            for known in self._containers.values():
                if known.again and known.again <= clock:
                    self._seek(known)
                    self._bind(known)

    # -- with the lock held

    def _seek(self, known: _Container) -> None:
        known.details = self._files.find(known.id)
        known.again = 0.0
        if known.details is not None:
            if not known.uid and known.details.uid:
                self._of_pod.get(keys.pod(""), set()).discard(known.id)
                known.uid = known.details.uid
                self._of_pod.setdefault(keys.pod(known.uid), set()).add(known.id)
        elif known.tries < len(RETRY_S):
            known.again = time.monotonic() + RETRY_S[known.tries]
            known.tries += 1
            self._changed.set()  # the thread waits for the next one

    def _bind(self, known: _Container) -> None:
        """A container's id is never given again: what it is holds from the beginning of time until it ends."""
        if known.uid:
            known.pod = self._store.find(keys.pod(known.uid)) or known.pod  # what it was once the pod has ended
        tags = self._store.make(tags_of(known.id, known.uid, known.runtime, known.details), known.pod or self._host())
        if known.tags is None or not tags.same(known.tags):
            known.tags = tags
            self.changes += self._store.put(keys.container(known.id), tags, layer=Layer.OS, since_ns=0, node=self._node)


def tags_of(container: str, uid: str, runtime: str, details: Details | None) -> Mapping[str, str]:
    """Tags of a container by its path and its runtime's files; without those of its pod and host."""
    tags = {"container.id": container, "k8s.pod.uid": uid, "container.runtime": runtime}
    if details is not None:
        name, tag = image_parts(details.image)
        tags |= {
            "container.runtime": runtime or details.runtime,
            "container.image.name": name,
            "container.image.tags": tag,
            "k8s.pod.name": details.pod,
            "k8s.namespace.name": details.namespace,
            "k8s.container.name": details.container,
        }
        if details.pod and details.container:
            tags[SERVICE_INSTANCE_ID] = instance(details.namespace, details.pod, details.container)
        if not uid:
            tags |= {
                "container.name": details.name,
                SERVICE_NAME: details.service_name(),
                SERVICE_NAMESPACE: details.project,
            }
    return tags
