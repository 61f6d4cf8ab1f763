# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What a pod and its containers are: from one JSON object to tags, keys and times. Pure; no store, no thread.

The same for the API server's and for the kubelet's pods. Times: Kubernetes writes whole seconds, cut. A beginning is
taken as it is written (so a little early), an end as the end of its second. Compiled: it reads
each pod of a list and of each change.
"""

cimport cython
from libc.stdint cimport int64_t

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

from zerospan.enricher cimport keys as ckeys
from zerospan.enricher.sources.kubernetes.book cimport ContainerFacts, PodFacts

from sys import intern

import msgspec

from zerospan.enricher import keys
from zerospan.enricher.naming import KINDS, PREFIX, first, image_version, instance, split_image
from zerospan.enricher.sources.kubernetes.globs import BAD_ADDRESS, REFUSED, TOO_LARGE, Glob, count, fits
from zerospan.enricher.sources.kubernetes.model import (
    Condition,
    State,
    Variable,
    after,
    ns,
)
from zerospan.enricher.sources.kubernetes.owners import controller

PROTOCOLS = {"TCP": keys.TCP, "UDP": keys.UDP, "SCTP": 132}
STATIC_UID = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")
KIND_TAGS = {kind: f"k8s.{kind}.name" for kind in KINDS}
WORKLOAD_KIND, WORKLOAD_NAME = "zerospan.k8s.workload.kind", "zerospan.k8s.workload.name"
# Where a pod stands, which the API tells: an annotation, which anybody may write who makes a pod, does not.
STRUCTURE = frozenset((
    "k8s.namespace.name", "k8s.node.name", "k8s.node.uid", "k8s.pod.name", "k8s.pod.uid", "k8s.pod.ip",
    "k8s.pod.start_time", "k8s.service.name", "k8s.service.uid", *KIND_TAGS.values(), WORKLOAD_KIND, WORKLOAD_NAME,
))
FREE = ("Succeeded", "Failed")
EMPTY = (b"", b"null")
INSTANCE = PREFIX + "service.instance.id"
IMAGES = 4096  # whose tags are remembered
COMMONS = 1024  # owners whose pods' tags are remembered


@cython.final
cdef class _Common:
    """What the pods of one owner have in common as long as their labels and annotations are the same."""

    cdef object epoch
    cdef object labels
    cdef object annotations
    cdef dict tags
    cdef str version
    cdef list uids
    cdef bint shared   # other pods may have it: nothing in it is this pod's alone


@cython.final
cdef class PodReader:
    """See pods.pyi."""

    cdef object _naming, _owners, _labels, _annotations, _env, _conditions, _variables, _dropped
    cdef bint _image_version, _with_env
    cdef dict _commons, _images

    def __init__(self, naming, picks, owners, dropped):
        self._dropped = dropped
        self._naming = naming
        self._owners = owners
        self._labels = Glob(picks.pod_labels)
        self._annotations = Glob(picks.pod_annotations)
        self._env = Glob(picks.container_env)
        self._with_env = self._env.any
        self._image_version = "image" in naming.version
        self._commons, self._images = {}, {}
        self._conditions = msgspec.json.Decoder(list[Condition])
        self._variables = msgspec.json.Decoder(list[Variable])

    def read(self, pod, int64_t now, bint gone=False):
        meta, status = pod.metadata, pod.status
        cdef _Common common = self._common(pod)
        cdef PodFacts facts = PodFacts.__new__(PodFacts)
        cdef int64_t since, until = 0
        began = status.start_time
        facts.tags = {"k8s.pod.name": meta.name, "k8s.pod.uid": meta.uid}
        since = _ns(began) or _ns(meta.creation_timestamp)
        if began:
            facts.tags["k8s.pod.start_time"] = began
        if gone or meta.deletion_timestamp or status.phase in FREE:
            until = self._ended(pod, now, gone)
            since = min(since, until - 1) if until else since
        facts.key, facts.node = ckeys.pod(meta.uid), intern(pod.spec.node_name or "")
        facts.since_ns, facts.until_ns = since, until
        facts.addresses, facts.uids, facts.containers, facts.shared = [], common.uids, [], common.tags
        self._containers(pod, facts, common.version)
        self._addresses(pod, facts)
        return facts

    cdef _Common _common(self, pod):
        cdef _Common known, made
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
        made = self._read_common(pod)
        if owner is not None and made.shared:
            if len(self._commons) >= COMMONS:
                self._commons.clear()
            self._commons[owner.uid] = made
        return made

    cdef _Common _read_common(self, pod):
        meta = pod.metadata
        cdef _Common made = _Common.__new__(_Common)
        cdef dict tags, named
        namespace = meta.namespace or "default"
        annotations, labels = meta.annotations or {}, meta.labels or {}
        tags = {"k8s.namespace.name": namespace}
        named = _owner_tags(self._owners.chain(meta), tags)
        named["pod"] = meta.name
        named["namespace"] = namespace
        if pod.spec.containers:
            named["container"] = pod.spec.containers[0].name
        naming = self._naming
        for name, value in annotations.items():
            if name.startswith(PREFIX) and len(name) > len(PREFIX) and value:
                if name[len(PREFIX) :] in STRUCTURE:
                    count(self._dropped, REFUSED)
                elif fits(value):
                    tags[intern(name[len(PREFIX) :])] = value
                else:
                    count(self._dropped, TOO_LARGE)
        tags["service.name"] = first(naming.name, "service.name", annotations, labels, named)
        tags["service.namespace"] = first(naming.namespace, "service.namespace", annotations, labels, named)
        version = first(naming.version, "service.version", annotations, labels, {})
        if version:
            tags["service.version"] = version
        self._labels.pick("k8s.pod.label.", labels, tags, self._dropped)
        self._annotations.pick("k8s.pod.annotation.", annotations, tags, self._dropped)
        uids = [annotations[name] for name in STATIC_UID if annotations.get(name)]
        others = list(dict.fromkeys([keys.pod(uid) for uid in uids if uid != meta.uid]))
        made.epoch, made.labels, made.annotations = self._owners.epoch, meta.labels, meta.annotations
        made.tags, made.version, made.uids = tags, version, others
        made.shared = tags["service.name"] not in (meta.name, named.get("container")) and not others
        return made

    cdef int _containers(self, pod, PodFacts facts, str version) except -1:
        spec, status = pod.spec, pod.status
        cdef int64_t start = 0, since
        cdef bint restarted = False
        for statuses, specs in (
            (status.container_statuses, spec.containers),
            (status.init_container_statuses, spec.init_containers),
            (status.ephemeral_container_statuses, spec.ephemeral_containers),
        ):
            if not statuses:
                continue
            for each in statuses:
                restarted = restarted or each.restart_count > 1
                since = self._lives(pod, each, specs, facts, version)
                if since and (not start or since < start):
                    start = since
        if restarted or not start:  # the first container's start is no longer told
            for condition in self._told(pod):
                if condition.type == "PodReadyToStartContainers" and condition.status == "True":
                    since = ns(condition.last_transition_time)
                    start = min(start or since, since or start)
        facts.address_since_ns = start
        return 0

    cdef list _told(self, pod):
        raw = pod.status.conditions
        return self._conditions.decode(raw) if bytes(raw) not in EMPTY else []

    cdef int64_t _lives(self, pod, each, specs, PodFacts facts, str version) except? -1:
        """Adds this container and the one before it. Returns when the first of them began, 0: nobody tells."""
        state, last = each.state, each.last_state
        cdef str id = each.container_id or ""
        cdef int64_t since, first = 0
        cdef bint told = False
        if state is not None:
            if state.running is not None:
                first = _ns(state.running.started_at)
                self._container(pod, each, specs, id, version, facts, first, facts.until_ns)
                told = True
            elif state.terminated is not None:
                end = state.terminated
                id, first = end.container_id or id, _ns(end.started_at)
                self._container(pod, each, specs, id, version, facts, first, after(end.finished_at) or facts.until_ns)
                told = True
        if last is not None and last.terminated is not None:
            end = last.terminated
            if (end.container_id or "") != id or not told:
                since = _ns(end.started_at)
                first = min(first or since, since or first)
                self._container(
                    pod, each, specs, end.container_id or "", version, facts, since, after(end.finished_at)
                )
        return first

    cdef int _container(
        self, pod, status, specs, str id, str version, PodFacts facts, int64_t since, int64_t until
    ) except -1:
        if not id:
            return 0
        meta, name = pod.metadata, status.name
        cdef ContainerFacts into = ContainerFacts.__new__(ContainerFacts)
        into.key, into.since_ns, into.until_ns = ckeys.container(id), since, until
        spec = None
        for declared in specs or ():
            if declared.name == name:
                spec = declared
                break
        runtime, _, bare = id.rpartition("://")
        image = (spec.image if spec is not None else "") or status.image
        into.shared = self._image(runtime, image, status.image_id, not version)
        annotated = meta.annotations.get(INSTANCE) if meta.annotations else None
        into.tags = {
            "container.id": bare,
            "k8s.container.name": name,
            "k8s.container.restart_count": str(status.restart_count) if status.restart_count else "0",
            "service.instance.id": annotated or instance(meta.namespace or "default", meta.name, name),
        }
        if self._with_env and spec is not None and bytes(spec.env) not in EMPTY:
            all = self._variables.decode(spec.env)
            plain = {v.name: v.value for v in all if v.value and bytes(v.value_from) in EMPTY}
            self._env.pick("zerospan.k8s.container.env.", plain, into.tags, self._dropped)
        facts.containers.append(into)
        return 0

    cdef dict _image(self, str runtime, str image, str image_id, bint unversioned):
        """Tags of an image; the same dict for all its containers."""
        at = (image_id, image, runtime, unversioned)
        cdef dict found = self._images.get(at)
        if found is None:
            if len(self._images) >= IMAGES:
                self._images.clear()
            found = self._images[at] = _image_tags(runtime, image, image_id, self._image_version and unversioned)
        return found

    cdef int _addresses(self, pod, PodFacts facts) except -1:
        spec, status = pod.spec, pod.status
        own = [ip.ip for ip in status.pod_ips] if status.pod_ips else [status.pod_ip] if status.pod_ip else []
        if own and not spec.host_network:
            facts.tags["k8s.pod.ip"] = own[0]
            for ip in own:
                try:
                    facts.addresses.append(ckeys.address(ip))
                except ValueError:
                    count(self._dropped, BAD_ADDRESS)
        hosts = []
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
                        try:
                            facts.addresses.append(keys.endpoint(ip, number, PROTOCOLS.get(port.protocol, keys.TCP)))
                        except ValueError:
                            count(self._dropped, BAD_ADDRESS)
        return 0

    cdef int64_t _ended(self, pod, int64_t now, bint gone) except? -1:
        """When the pod's last process had ended; 0: it runs, or may yet."""
        meta, status = pod.metadata, pod.status
        cdef int64_t end = 0
        cdef bint running = False
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
            end = max([after(c.last_transition_time) for c in self._told(pod)], default=0)
            return min(end or now, now)
        return min(now, after(meta.deletion_timestamp) or now) if gone else 0


cdef inline int _two(const char* at) noexcept nogil:
    """Two decimal digits, -1: they are none."""
    return (at[0] - c"0") * 10 + at[1] - c"0" if c"0" <= at[0] <= c"9" and c"0" <= at[1] <= c"9" else -1


cdef int64_t _ns(text) except? -1:
    """model.ns, in a hurry: times as Kubernetes writes them (2026-11-23T14:22:05Z) without a cache, others by it."""
    cdef Py_ssize_t size
    cdef const char* at
    cdef int64_t year, month, day, hour, minute, second
    if text is None:
        return 0
    at = PyUnicode_AsUTF8AndSize(text, &size)
    if size != 20 or at[19] != c"Z" or at[4] != c"-" or at[7] != c"-" or at[10] != c"T" or at[13] != c":":
        return ns(text)
    year, month, day = _two(at) * 100 + _two(at + 2), _two(at + 5), _two(at + 8)
    hour, minute, second = _two(at + 11), _two(at + 14), _two(at + 17)
    if year < 1970 or _two(at) < 0 or _two(at + 2) < 0 or at[16] != c":":
        return ns(text)
    if not (1 <= month <= 12 and 1 <= day <= 28 and 0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        return ns(text)  # the 29th to the 31st: not every month has them
    if month <= 2:  # days since 1970-01-01 of the proleptic Gregorian calendar, years from March
        year -= 1
        month += 12
    day += 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 - 719469
    return ((day * 24 + hour) * 60 + minute) * 60_000_000_000 + second * 1_000_000_000


cdef dict _image_tags(runtime, image, image_id, bint version):
    """Tags of an image. version: it tells service.version, too."""
    name, tag, digest = split_image(image)
    found = {"container.runtime": runtime, "container.image.name": name, "container.image.tags": tag}
    found["container.image.repo_digests"] = _digests(image_id, name, digest)
    if version:
        found["service.version"] = image_version(image)
    return found


cdef str _digests(image_id, name, digest):
    """The image's digest as REPOSITORY@DIGEST; an id without one is the runtime's own and says nothing elsewhere."""
    image_id = image_id.rpartition("://")[2]
    if "@" in image_id:
        return image_id
    return f"{name}@{digest}" if digest else ""


cdef dict _owner_tags(owners, dict tags):
    """Puts the tags of the owners. Returns what names there are, by kind."""
    cdef dict named = {}
    for owner in owners:
        kind = owner.kind.lower()
        named.setdefault(kind, owner.name)
        if kind in KIND_TAGS:
            tags[KIND_TAGS[kind]] = owner.name
    if owners:
        top = owners[len(owners) - 1]
        tags[WORKLOAD_KIND] = top.kind
        tags[WORKLOAD_NAME] = top.name
        if top.kind.lower() not in KIND_TAGS:
            named["custom"] = top.name
    return named
