"""What a pod and its containers are: from one JSON object to tags, keys and times. Pure; no store, no thread.

The same for the API server's and for the kubelet's pods. Times: Kubernetes writes whole seconds, cut. A beginning is
taken as it is written (so a little early), an end as the end of its second.
"""

from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import lru_cache
from re import compile as regex
from sys import intern

import msgspec

from zerospan.enricher import keys
from zerospan.enricher.naming import KINDS, PREFIX, Naming, first, image_version, instance, split_image
from zerospan.enricher.sources.kubernetes.config import Picks
from zerospan.enricher.sources.kubernetes.model import (
    Container,
    ContainerStatus,
    Metadata,
    Owner,
    Pod,
    State,
    after,
    ns,
)

PROTOCOLS = {"TCP": keys.TCP, "UDP": keys.UDP, "SCTP": 132}
STATIC_UID = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")
KIND_TAGS = {kind: f"k8s.{kind}.name" for kind in KINDS}
FREE = ("Succeeded", "Failed")


class ContainerFacts(msgspec.Struct, gc=False):
    key: bytes
    since_ns: int  # 0: not known
    until_ns: int  # 0: still runs
    tags: dict[str, str]


class PodFacts(msgspec.Struct, gc=False):
    """since_ns: since when the uid means it. address_since_ns: since when its addresses are its own; 0: not yet."""

    key: bytes
    node: str
    tags: dict[str, str]
    since_ns: int
    address_since_ns: int
    until_ns: int  # 0: not ended
    addresses: list[bytes]  # ADDRESS and ENDPOINT keys
    uids: list[bytes]  # further POD keys: a static pod's own
    containers: list[ContainerFacts]


class Glob:
    """Whether a name is among those picked; names are few, so answers are remembered."""

    def __init__(self, globs: Iterable[str]) -> None:
        self.any = bool(globs := tuple(globs))
        found = regex("|".join(map(translate, globs))) if globs else None
        self.match: Callable[[str], bool] = lru_cache(4096)(lambda name: bool(found and found.match(name)))

    def pick(self, prefix: str, named: dict[str, str] | None, into: dict[str, str]) -> None:
        for name, value in (named or {}).items():
            if self.match(name):
                into[intern(prefix + name)] = value


class PodReader:
    """naming, picks: of the configuration. Thread-safe."""

    def __init__(self, naming: Naming, picks: Picks) -> None:
        self._naming = naming
        self._labels = Glob(picks.pod_labels)
        self._annotations = Glob(picks.pod_annotations)
        self._env = Glob(picks.container_env)

    def read(self, pod: Pod, owners: list[Owner], now: int, gone: bool = False) -> PodFacts:
        """owners: the nearest first. gone: the API says that it is deleted."""
        meta, spec, status = pod.metadata, pod.spec, pod.status
        namespace = meta.namespace or "default"
        until = _ended(pod, now, gone)
        since = ns(status.start_time) or ns(meta.creation_timestamp)
        facts = PodFacts(keys.pod(meta.uid), spec.node_name or "", {}, since, 0, until, [], [], [])
        tags = facts.tags
        tags["k8s.namespace.name"] = namespace
        tags["k8s.pod.name"] = meta.name
        tags["k8s.pod.uid"] = meta.uid
        named = self._owners(owners, tags)
        named["pod"] = meta.name
        named["namespace"] = namespace
        if spec.containers:
            named["container"] = spec.containers[0].name
        annotations, labels = meta.annotations or {}, meta.labels or {}
        naming = self._naming
        if annotations:
            for name, value in annotations.items():
                if name.startswith(PREFIX) and len(name) > len(PREFIX):
                    tags[intern(name[len(PREFIX) :])] = value
        tags["service.name"] = first(naming.name, "service.name", annotations, labels, named)
        tags["service.namespace"] = first(naming.namespace, "service.namespace", annotations, labels, named)
        version = first(naming.version, "service.version", annotations, labels, {})
        if version:
            tags["service.version"] = version
        if status.start_time:
            tags["k8s.pod.start_time"] = status.start_time
        self._labels.pick("k8s.pod.label.", labels, tags)
        self._annotations.pick("k8s.pod.annotation.", annotations, tags)
        self._containers(pod, facts, version)
        self._addresses(pod, facts)
        for name in STATIC_UID:
            uid = annotations.get(name)
            if uid and uid != meta.uid and keys.pod(uid) not in facts.uids:
                facts.uids.append(keys.pod(uid))
        if facts.until_ns:
            facts.since_ns = min(facts.since_ns, facts.until_ns - 1)
        return facts

    def _owners(self, owners: list[Owner], tags: dict[str, str]) -> dict[str, str]:
        named: dict[str, str] = {}
        for owner in owners:
            kind = owner.kind.lower()
            named.setdefault(kind, owner.name)
            if kind in KIND_TAGS:
                tags[KIND_TAGS[kind]] = owner.name
        if owners:
            top = owners[-1]
            tags["zerospan.k8s.workload.kind"] = top.kind
            tags["zerospan.k8s.workload.name"] = top.name
            if top.kind.lower() not in KIND_TAGS:
                named["custom"] = top.name
        return named

    def _containers(self, pod: Pod, facts: PodFacts, version: str) -> None:
        meta, spec, status = pod.metadata, pod.spec, pod.status
        start = 0
        for statuses, specs in (
            (status.container_statuses, spec.containers),
            (status.init_container_statuses, spec.init_containers),
            (status.ephemeral_container_statuses, spec.ephemeral_containers),
        ):
            for each in statuses or ():
                declared = next((c for c in specs or () if c.name == each.name), None)
                for id, since, until in _lives(each, facts.until_ns):
                    if since and (not start or since < start):
                        start = since
                    if id:
                        tags = self._container(meta, each, declared, id, version)
                        facts.containers.append(ContainerFacts(keys.container(id), since, until, tags))
        for condition in status.conditions or ():
            if condition.type == "PodReadyToStartContainers" and condition.status == "True":
                since = ns(condition.last_transition_time)
                start = min(start or since, since or start)
        facts.address_since_ns = start

    def _container(
        self, meta: Metadata, status: ContainerStatus, spec: Container | None, id: str, version: str
    ) -> dict[str, str]:
        runtime, _, bare = id.rpartition("://")
        image = (spec.image if spec is not None else "") or status.image
        name, tag, digest = _image(image)
        annotated = (meta.annotations or {}).get(PREFIX + "service.instance.id")
        found = {
            "k8s.container.name": status.name,
            "k8s.container.restart_count": str(status.restart_count),
            "container.id": bare,
            "container.runtime": runtime,
            "container.image.name": name,
            "container.image.tags": tag,
            "container.image.repo_digests": _digests(status.image_id, name, digest),
            "service.instance.id": annotated or instance(meta.namespace or "default", meta.name, status.name),
        }
        if not version and "image" in self._naming.version:
            found["service.version"] = image_version(image)
        if self._env.any and spec is not None:
            plain = {v.name: v.value for v in spec.env or () if v.value and v.value_from is None}
            self._env.pick("zerospan.k8s.container.env.", plain, found)
        return found

    def _addresses(self, pod: Pod, facts: PodFacts) -> None:
        spec, status = pod.spec, pod.status
        own = [ip.ip for ip in status.pod_ips] if status.pod_ips else [status.pod_ip] if status.pod_ip else []
        hosts = [ip.ip for ip in status.host_ips] if status.host_ips else [status.host_ip] if status.host_ip else []
        if own and not spec.host_network:
            facts.tags["k8s.pod.ip"] = own[0]
            facts.addresses += _each(keys.address, own)
        for containers in (spec.containers, spec.init_containers):
            for container in containers or ():
                for port in container.ports or ():
                    number = port.host_port or (port.container_port if spec.host_network else 0)
                    if number and 0 < number < 65536:
                        for ip in dict.fromkeys([*own, *hosts]) if spec.host_network else hosts:
                            key = _endpoint(ip, number, PROTOCOLS.get(port.protocol, keys.TCP))
                            if key and key not in facts.addresses:
                                facts.addresses.append(key)


def _each(key: Callable[[str], bytes], texts: Iterable[str]) -> list[bytes]:
    found = []
    for text in texts:
        try:
            found.append(key(text))
        except ValueError:
            continue
    return found


def _endpoint(ip: str, port: int, protocol: int) -> bytes:
    try:
        return keys.endpoint(ip, port, protocol)
    except ValueError:
        return b""


def _lives(status: ContainerStatus, pod_until: int) -> list[tuple[str, int, int]]:
    """(container id, since, until) of this container and the one before it."""
    found = []
    state, last = status.state or State(), status.last_state or State()
    id = status.container_id or ""
    if state.running is not None:
        found.append((id, ns(state.running.started_at), pod_until))
    elif state.terminated is not None:
        end = state.terminated
        found.append((end.container_id or id, ns(end.started_at), after(end.finished_at) or pod_until))
    if last.terminated is not None:
        end = last.terminated
        if (end.container_id or "") not in [id for id, _, _ in found]:
            found.append((end.container_id or "", ns(end.started_at), after(end.finished_at)))
    return found


def _ended(pod: Pod, now: int, gone: bool) -> int:
    """When the pod's last process had ended; 0: it runs, or may yet."""
    meta, status = pod.metadata, pod.status
    running, end = False, 0
    if gone or meta.deletion_timestamp or status.phase in FREE:
        for each in (
            *(status.container_statuses or ()),
            *(status.init_container_statuses or ()),
            *(status.ephemeral_container_statuses or ()),
        ):
            state = each.state or State()
            running = running or state.running is not None
            if state.terminated is not None:
                end = max(end, after(state.terminated.finished_at))
        if end and (not running or status.phase in FREE):
            return min(end, now) if gone else end
        if status.phase in FREE:
            end = max((after(c.last_transition_time) for c in status.conditions or ()), default=0)
            return min(end or now, now)
    if gone:
        return min(now, after(meta.deletion_timestamp) or now)
    return 0


@lru_cache(1 << 12)
def _image(image: str) -> tuple[str, str, str]:
    return split_image(image)


@lru_cache(1 << 12)
def _digests(image_id: str, name: str, digest: str) -> str:
    """The image's digest as REPOSITORY@DIGEST; an id without one is the runtime's own and says nothing elsewhere."""
    image_id = image_id.rpartition("://")[2]
    if "@" in image_id:
        return image_id
    return f"{name}@{digest}" if digest else ""
