"""What a pod and its containers are: from one JSON object to tags, keys and times. Pure; no store, no thread.

The same for the API server's and for the kubelet's pods. Times: Kubernetes writes whole seconds, cut. A beginning is
taken as it is written (so a little early), an end as the end of its second.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import translate
from functools import lru_cache
from re import compile as regex
from sys import intern

import msgspec

from zerospan.enricher import keys
from zerospan.enricher.naming import KINDS, PREFIX, Naming, first, image_version, instance, split_image
from zerospan.enricher.sources.kubernetes.config import Picks
from zerospan.enricher.sources.kubernetes.model import (
    Condition,
    Container,
    ContainerStatus,
    Metadata,
    Owner,
    Pod,
    State,
    Variable,
    after,
    ns,
)
from zerospan.enricher.sources.kubernetes.owners import Owners, controller

PROTOCOLS = {"TCP": keys.TCP, "UDP": keys.UDP, "SCTP": 132}
STATIC_UID = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")
KIND_TAGS = {kind: f"k8s.{kind}.name" for kind in KINDS}
FREE = ("Succeeded", "Failed")
EMPTY = (b"", b"null")
COMMONS = 1024  # owners whose pods' tags are remembered


class ContainerFacts(msgspec.Struct, gc=False):
    key: bytes
    since_ns: int  # 0: not known
    until_ns: int  # 0: still runs
    tags: dict[str, str]
    shared: dict[str, str]  # tags that all containers of the image have; not to be changed


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
    shared: dict[str, str]  # tags that all pods of its owner have; not to be changed


class _Common(msgspec.Struct, gc=False):
    """What the pods of one owner have in common as long as their labels and annotations are the same."""

    epoch: int
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    tags: dict[str, str]
    version: str
    uids: list[bytes]


class PodReader:
    """naming, picks: of the configuration. owners: who owns what. Under the owners' lock."""

    def __init__(self, naming: Naming, picks: Picks, owners: Owners) -> None:
        self._naming = naming
        self._owners = owners
        self._labels = Glob(picks.pod_labels)
        self._annotations = Glob(picks.pod_annotations)
        self._env = Glob(picks.container_env)
        self._image_version = "image" in naming.version
        self._commons: dict[str, _Common] = {}
        self._conditions = msgspec.json.Decoder(list[Condition])
        self._variables = msgspec.json.Decoder(list[Variable])

    def read(self, pod: Pod, now: int, gone: bool = False) -> PodFacts:
        """gone: the API says that it is deleted."""
        meta, status = pod.metadata, pod.status
        common = self._common(pod)
        tags = {"k8s.pod.name": meta.name, "k8s.pod.uid": meta.uid}
        since = ns(status.start_time) or ns(meta.creation_timestamp)
        if status.start_time:
            tags["k8s.pod.start_time"] = status.start_time
        until = 0
        if gone or meta.deletion_timestamp or status.phase in FREE:
            until = self._ended(pod, now, gone)
            since = min(since, until - 1) if until else since
        key, node = keys.pod(meta.uid), intern(pod.spec.node_name or "")
        facts = PodFacts(key, node, tags, since, 0, until, [], common.uids, [], common.tags)
        self._containers(pod, facts, common.version)
        self._addresses(pod, facts)
        return facts

    def _common(self, pod: Pod) -> _Common:
        meta = pod.metadata
        owner = controller(meta.owner_references)
        if owner is not None:
            known = self._commons.get(owner.uid)
            if (
                known is not None
                and known.epoch == self._owners.epoch
                and known.labels == meta.labels
                and known.annotations == meta.annotations
            ):
                return known
        made, shared = self._read_common(pod)
        if owner is not None and shared:
            if len(self._commons) >= COMMONS:
                self._commons.clear()
            self._commons[owner.uid] = made
        return made

    def _read_common(self, pod: Pod) -> tuple[_Common, bool]:
        """And whether other pods may have it: nothing in it is this pod's alone."""
        meta = pod.metadata
        namespace = meta.namespace or "default"
        annotations, labels = meta.annotations or {}, meta.labels or {}
        tags = {"k8s.namespace.name": namespace}
        named = self._owner_tags(self._owners.chain(meta), tags)
        named["pod"] = meta.name
        named["namespace"] = namespace
        if pod.spec.containers:
            named["container"] = pod.spec.containers[0].name
        naming = self._naming
        for name, value in annotations.items():
            if name.startswith(PREFIX) and len(name) > len(PREFIX):
                tags[intern(name[len(PREFIX) :])] = value
        tags["service.name"] = first(naming.name, "service.name", annotations, labels, named)
        tags["service.namespace"] = first(naming.namespace, "service.namespace", annotations, labels, named)
        version = first(naming.version, "service.version", annotations, labels, {})
        if version:
            tags["service.version"] = version
        self._labels.pick("k8s.pod.label.", labels, tags)
        self._annotations.pick("k8s.pod.annotation.", annotations, tags)
        uids = [annotations[name] for name in STATIC_UID if annotations.get(name)]
        others = list(dict.fromkeys(keys.pod(uid) for uid in uids if uid != meta.uid))
        shared = tags["service.name"] not in (meta.name, named.get("container")) and not others
        return _Common(self._owners.epoch, meta.labels, meta.annotations, tags, version, others), shared

    def _owner_tags(self, owners: list[Owner], tags: dict[str, str]) -> dict[str, str]:
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
        start, restarted = 0, False
        for statuses, specs in (
            (status.container_statuses, spec.containers),
            (status.init_container_statuses, spec.init_containers),
            (status.ephemeral_container_statuses, spec.ephemeral_containers),
        ):
            if not statuses:
                continue
            for each in statuses:
                declared = None
                for declared in specs or ():
                    if declared.name == each.name:
                        break
                restarted = restarted or each.restart_count > 1
                for id, since, until in _lives(each, facts.until_ns):
                    if since and (not start or since < start):
                        start = since
                    if id:
                        tags, shared = self._container(meta, each, declared, id, version)
                        facts.containers.append(ContainerFacts(keys.container(id), since, until, tags, shared))
        if restarted or not start:  # the first container's start is no longer told
            for condition in self._told(pod):
                if condition.type == "PodReadyToStartContainers" and condition.status == "True":
                    since = ns(condition.last_transition_time)
                    start = min(start or since, since or start)
        facts.address_since_ns = start

    def _told(self, pod: Pod) -> list[Condition]:
        raw = pod.status.conditions
        return self._conditions.decode(raw) if bytes(raw) not in EMPTY else []

    def _container(
        self, meta: Metadata, status: ContainerStatus, spec: Container | None, id: str, version: str
    ) -> tuple[dict[str, str], dict[str, str]]:
        runtime, _, bare = id.rpartition("://")
        image = (spec.image if spec is not None and spec.name == status.name else "") or status.image
        shared = _image_tags(runtime, image, status.image_id, self._image_version and not version)
        annotated = meta.annotations.get(PREFIX + "service.instance.id") if meta.annotations else None
        found = {
            "container.id": bare,
            "k8s.container.name": status.name,
            "k8s.container.restart_count": str(status.restart_count),
            "service.instance.id": annotated or instance(meta.namespace or "default", meta.name, status.name),
        }
        if self._env.any and spec is not None and bytes(spec.env) not in EMPTY:
            all = self._variables.decode(spec.env)
            plain = {v.name: v.value for v in all if v.value and bytes(v.value_from) in EMPTY}
            self._env.pick("zerospan.k8s.container.env.", plain, found)
        return found, shared

    def _addresses(self, pod: Pod, facts: PodFacts) -> None:
        spec, status = pod.spec, pod.status
        own = [ip.ip for ip in status.pod_ips] if status.pod_ips else [status.pod_ip] if status.pod_ip else []
        if own and not spec.host_network:
            facts.tags["k8s.pod.ip"] = own[0]
            for ip in own:
                with suppress(ValueError):
                    facts.addresses.append(keys.address(ip))
        hosts: list[str] = []
        for containers in (spec.containers, spec.init_containers):
            for container in containers or ():
                for port in container.ports or ():
                    number = port.host_port or (port.container_port if spec.host_network else 0)
                    if not number or not 0 < number < 65536:
                        continue
                    if not hosts:
                        told = status.host_ips
                        hosts = [ip.ip for ip in told] if told else [status.host_ip] if status.host_ip else []
                        hosts = list(dict.fromkeys([*own, *hosts])) if spec.host_network else hosts
                    for ip in hosts:
                        with suppress(ValueError):
                            facts.addresses.append(keys.endpoint(ip, number, PROTOCOLS.get(port.protocol, keys.TCP)))

    def _ended(self, pod: Pod, now: int, gone: bool) -> int:
        """When the pod's last process had ended; 0: it runs, or may yet."""
        meta, status = pod.metadata, pod.status
        running, end = False, 0
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
            end = max((after(c.last_transition_time) for c in self._told(pod)), default=0)
            return min(end or now, now)
        return min(now, after(meta.deletion_timestamp) or now) if gone else 0


class Glob:
    """Whether a name is among those picked; names are few, so answers are remembered."""

    def __init__(self, globs: Iterable[str]) -> None:
        self.any = bool(globs := tuple(globs))
        found = regex("|".join(map(translate, globs))) if globs else None
        self.match: Callable[[str], bool] = lru_cache(4096)(lambda name: bool(found and found.match(name)))

    def pick(self, prefix: str, named: dict[str, str] | None, into: dict[str, str]) -> None:
        """Those of `named` that are picked, with the prefix before their names."""
        if self.any:
            for name, value in (named or {}).items():
                if self.match(name):
                    into[intern(prefix + name)] = value


def _lives(status: ContainerStatus, pod_until: int) -> list[tuple[str, int, int]]:
    """(container id, since, until) of this container and the one before it."""
    found = []
    state, last = status.state, status.last_state
    id = status.container_id or ""
    if state is not None and state.running is not None:
        found.append((id, ns(state.running.started_at), pod_until))
    elif state is not None and state.terminated is not None:
        end = state.terminated
        id = end.container_id or id
        found.append((id, ns(end.started_at), after(end.finished_at) or pod_until))
    if last is not None and last.terminated is not None:
        end = last.terminated
        if (end.container_id or "") != id or not found:
            found.append((end.container_id or "", ns(end.started_at), after(end.finished_at)))
    return found


@lru_cache(1 << 12)
def _image_tags(runtime: str, image: str, image_id: str, version: bool) -> dict[str, str]:
    """Tags of an image; not to be changed. version: it tells service.version, too."""
    name, tag, digest = split_image(image)
    found = {"container.runtime": runtime, "container.image.name": name, "container.image.tags": tag}
    found["container.image.repo_digests"] = _digests(image_id, name, digest)
    if version:
        found["service.version"] = image_version(image)
    return found


def _digests(image_id: str, name: str, digest: str) -> str:
    """The image's digest as REPOSITORY@DIGEST; an id without one is the runtime's own and says nothing elsewhere."""
    image_id = image_id.rpartition("://")[2]
    if "@" in image_id:
        return image_id
    return f"{name}@{digest}" if digest else ""
