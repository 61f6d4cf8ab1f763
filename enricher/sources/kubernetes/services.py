"""Services: their addresses and ports, which pods stand behind them (EndpointSlices), which Ingresses lead to them.

A Service's address is named as the service of the pods behind it where all of them agree, else as the Service itself;
so a caller's peer has the name that the callee gives itself. What depends on something else is made anew in `flush`,
once for many changes.
"""

from collections.abc import Callable
from itertools import chain

import msgspec

from zerospan.enricher import keys
from zerospan.enricher.sources.kubernetes.claims import SERVICE, Claim, Claims
from zerospan.enricher.sources.kubernetes.globs import BAD_ADDRESS, Dropped, count
from zerospan.enricher.sources.kubernetes.model import EndpointSlice, Ingress, Service, ns
from zerospan.enricher.sources.kubernetes.pods import PROTOCOLS
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet

Name = tuple[str, str]  # namespace, name
HEADLESS = "None"
OWNER_LABEL = "kubernetes.io/service-name"
INGRESS = "zerospan.k8s.ingress.name"
NAME, UID = "k8s.service.name", "k8s.service.uid"
WORKLOAD = ("zerospan.k8s.workload.kind", "zerospan.k8s.workload.name")
NAMED = ("service.name", "service.namespace", *WORKLOAD)  # what a service takes from its pods


def from_services(name: str) -> bool:
    """Whether a pod's tag comes from here."""
    return name in (NAME, UID, INGRESS)


class _Service(msgspec.Struct, gc=False):
    uid: str
    type: str
    since_ns: int
    addresses: tuple[bytes, ...]  # 16 bytes each
    ports: tuple[tuple[int, int], ...]  # port, protocol
    node_ports: tuple[tuple[int, int], ...]
    balancer: str
    headless: bool


class Services:
    """Not thread-safe: under the source's lock. changed(pod): tags of a pod that come from here are others now."""

    def __init__(
        self,
        store: TagStore,
        claims: Claims,
        base: Callable[[], TagSet],
        pod_tags: Callable[[bytes], TagSet | None],
        changed: Callable[[bytes], None],
        node_port_keys: int,
        dropped: Dropped,
    ) -> None:
        self._store = store
        self._claims = claims
        self._base = base
        self._pod_tags = pod_tags
        self._pod_changed = changed
        self._services: dict[Name, _Service] = {}
        self._slices: dict[str, tuple[Name, tuple[bytes, ...]]] = {}  # its uid: service, pods
        self._behind: dict[bytes, tuple[Name, ...]] = {}  # pod: its services, a name once for each slice
        self._names: dict[Name, dict[tuple[str, ...], int]] = {}  # how many of a service's pods are named how
        self._ingresses: dict[str, tuple[str, frozenset[Name]]] = {}  # uid: name, services
        self._led: dict[Name, str] = {}  # the first Ingress of a service
        self._nodes: dict[str, tuple[bytes, ...]] = {}  # addresses of each node
        self._tuples: dict[tuple[Name, ...], tuple[Name, ...]] = {}  # many pods have the same
        self._dirty: set[Name] = set()
        self._dirty_pods: set[bytes] = set()
        self._limit = node_port_keys
        self._dropped = dropped
        self._port_keys: dict[Name, int] = {}
        self._left_out: dict[Name, int] = {}  # node ports' keys that found no room

    # -- what is told

    def service(self, s: Service) -> None:
        meta, spec = s.metadata, s.spec
        ips = list(spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else []))
        headless = HEADLESS in ips
        balancers = (s.status.load_balancer.ingress if s.status.load_balancer else None) or []
        texts = [*ips, *(spec.external_ips or ()), *(b.ip for b in balancers if b.ip)]
        addresses = []
        for text in texts:
            try:
                addresses.append(keys.packed(text))
            except ValueError:
                if text != HEADLESS:
                    count(self._dropped, BAD_ADDRESS)
        ports = [(p, PROTOCOLS.get(p.protocol, keys.TCP)) for p in spec.ports or ()]
        external = spec.type == "ExternalName"
        name = (meta.namespace or "", meta.name)
        new = _Service(
            meta.uid,
            spec.type,
            ns(meta.creation_timestamp),
            () if external else tuple(dict.fromkeys(addresses)),
            tuple((p.port, protocol) for p, protocol in ports),
            tuple((p.node_port, protocol) for p, protocol in ports if p.node_port),
            next((b.hostname or b.ip for b in balancers), ""),
            headless,
        )
        old = self._services.get(name)
        if old == new:
            return
        if old is not None and old.uid != new.uid:
            self._claims.set(old.uid, {})
        self._services[name] = new
        self._dirty.add(name)
        if old is None or old.uid != new.uid or old.headless != new.headless:
            self._pods_of(name)

    def service_gone(self, namespace: str, name: str, uid: str) -> None:
        known = self._services.get((namespace, name))
        if known is None or known.uid != uid:
            return
        del self._services[namespace, name]
        self._left_out.pop((namespace, name), None)
        self._port_room((namespace, name), 0)
        self._claims.set(uid, {})
        self._pods_of((namespace, name))

    def uids(self) -> dict[str, Name]:
        return {s.uid: name for name, s in self._services.items()}

    def slice(self, s: EndpointSlice) -> None:
        meta = s.metadata
        owner = (meta.labels or {}).get(OWNER_LABEL)
        if not owner:
            return self.slice_gone(meta.uid)
        pods = tuple(
            keys.pod(e.target_ref.uid)
            for e in s.endpoints or ()
            if e.target_ref is not None and e.target_ref.kind == "Pod" and e.target_ref.uid
        )
        self._slice(meta.uid, ((meta.namespace or "", owner), pods))

    def slice_gone(self, uid: str) -> None:
        self._slice(uid, None)

    def slices(self) -> list[str]:
        return list(self._slices)

    def ingress(self, i: Ingress) -> None:
        meta, spec = i.metadata, i.spec
        backends = [spec.default_backend] if spec.default_backend else []
        for rule in spec.rules or ():
            backends += [path.backend for path in (rule.http.paths if rule.http else None) or ()]
        led = frozenset((meta.namespace or "", b.service.name) for b in backends if b.service is not None)
        self._ingress(meta.uid, (meta.name, led))

    def ingress_gone(self, uid: str) -> None:
        self._ingress(uid, None)

    def ingresses(self) -> list[str]:
        return list(self._ingresses)

    def node(self, name: str, addresses: tuple[bytes, ...]) -> None:
        """Addresses of a node (16 bytes each), () when it is gone: node ports are on each."""
        if self._nodes.get(name, ()) == addresses:
            return
        if addresses:
            self._nodes[name] = addresses
        else:
            self._nodes.pop(name, None)
        self._dirty |= {name for name, s in self._services.items() if s.node_ports}

    def member(self, pod: bytes, old: TagSet | None, new: TagSet | None) -> None:
        """A pod's tags have come, changed or gone (PodBook's callback)."""
        behind = self._behind.get(pod)
        if behind is None:
            return
        before, after = _named(old), _named(new)
        if before != after:
            for name in behind if len(behind) == 1 else dict.fromkeys(behind):
                self._count(name, before, -1)
                self._count(name, after, 1)

    def all_dirty(self) -> None:
        """What all stand on has changed."""
        self._dirty |= set(self._services)

    def extra(self, pod: bytes) -> dict[str, str]:
        """Tags of a pod: its Service (one with an address first, then by name) and the Ingress that leads there."""
        behind = self._behind.get(pod)
        if behind is None:
            return {}
        if len(behind) == 1 and not self._led:
            known = self._services.get(behind[0])
            return {NAME: behind[0][1], UID: known.uid} if known is not None else {}
        names = [name for name in dict.fromkeys(behind) if name in self._services]
        if not names:
            return {}
        name = min(names, key=lambda n: (self._services[n].headless, n)) if len(names) > 1 else names[0]
        found = {NAME: name[1], UID: self._services[name].uid}
        if self._led:
            led = next((self._led[n] for n in sorted(names) if n in self._led), "")
            if led:
                found[INGRESS] = led
        return found

    def flush(self) -> None:
        """Makes anew what has changed."""
        while self._dirty or self._dirty_pods:
            while self._dirty_pods:  # one at a time: where one fails, the others are not forgotten
                self._pod_changed(self._dirty_pods.pop())
            while self._dirty:
                self._make(self._dirty.pop())

    def counts(self) -> dict[str, int]:
        return {
            "service": len(self._services),
            "endpointslice": len(self._slices),
            "ingress": len(self._ingresses),
            "node_port_left_out": sum(self._left_out.values()),
        }

    # -- inside

    def _pods_of(self, name: Name) -> None:
        self._dirty_pods.update(chain.from_iterable(pods for of, pods in self._slices.values() if of == name))

    def _slice(self, uid: str, new: tuple[Name, tuple[bytes, ...]] | None) -> None:
        old = self._slices.get(uid)
        if old == new:
            return
        if new is None:
            self._slices.pop(uid, None)
        else:
            self._slices[uid] = new
        before = {(pod, old[0]) for pod in old[1]} if old else set()
        after = {(pod, new[0]) for pod in new[1]} if new else set()
        for pod, name in before - after:
            names = list(self._behind.get(pod, ()))
            names.remove(name)
            self._set_behind(pod, names)
            if name not in names:
                self._count(name, self._own(pod), -1)
                self._dirty_pods.add(pod)
        for pod, name in after - before:
            names = list(self._behind.get(pod, ()))
            if name not in names:
                self._count(name, self._own(pod), 1)
                self._dirty_pods.add(pod)
            self._set_behind(pod, sorted([*names, name]))

    def _set_behind(self, pod: bytes, names: list[Name]) -> None:
        if names:
            wanted = tuple(names)
            if len(self._tuples) > 1 << 16:
                self._tuples.clear()
            self._behind[pod] = self._tuples.setdefault(wanted, wanted)
        else:
            self._behind.pop(pod, None)

    def _own(self, pod: bytes) -> tuple[str, ...] | None:
        return _named(self._pod_tags(pod))

    def _count(self, name: Name, named: tuple[str, ...] | None, by: int) -> None:
        """by: one more, or one less, of its pods is named so."""
        if named is None:
            return
        counts = self._names.setdefault(name, {})
        kinds = len(counts)
        counts[named] = counts.get(named, 0) + by
        if counts[named] <= 0:
            del counts[named]
        if not counts:
            del self._names[name]
        if len(counts) != kinds:
            self._dirty.add(name)

    def _ingress(self, uid: str, new: tuple[str, frozenset[Name]] | None) -> None:
        old = self._ingresses.get(uid)
        if old == new:
            return
        if new is None:
            self._ingresses.pop(uid, None)
        else:
            self._ingresses[uid] = new
        for name in (old[1] if old else frozenset()) | (new[1] if new else frozenset()):
            led = min((i for i, services in self._ingresses.values() if name in services), default="")
            if led != self._led.get(name, ""):
                self._led[name] = led
                if not led:
                    del self._led[name]
                self._dirty.add(name)
                self._pods_of(name)

    def _make(self, name: Name) -> None:
        s = self._services.get(name)
        if s is None:
            return
        tags = {
            NAME: name[1],
            UID: s.uid,
            "k8s.namespace.name": name[0],
            "zerospan.k8s.service.type": s.type,
            "zerospan.cloud.load_balancer": s.balancer,
            INGRESS: self._led.get(name, ""),
            "service.name": name[1],
            "service.namespace": name[0],
        }
        all = list(self._names.get(name, {}))
        if len({named[:2] for named in all}) == 1:
            tags["service.name"], tags["service.namespace"] = all[0][:2]
        if len({named[2:] for named in all}) == 1:
            tags.update(zip(WORKLOAD, all[0][2:], strict=True))
        made = self._store.make(tags, self._base())
        claim = Claim(SERVICE, s.since_ns, made)
        claims: dict[bytes, Claim] = {}
        if not s.headless:
            for address in s.addresses:
                claims[keys.ADDRESS + address] = claim
                for port, protocol in s.ports:
                    claims[_key(address, port, protocol)] = claim
        wanted = len(s.node_ports) * sum(map(len, self._nodes.values()))
        lacked = self._left_out.pop(name, 0)
        if self._port_room(name, wanted):
            for address in chain.from_iterable(self._nodes.values()):
                for port, protocol in s.node_ports:
                    claims[_key(address, port, protocol)] = claim
        elif wanted:
            self._left_out[name] = wanted
            if wanted > lacked:
                count(self._dropped, "node_port_no_room", wanted - lacked)
        self._claims.set(s.uid, claims)

    def _port_room(self, name: Name, wanted: int) -> bool:
        """Takes room for so many node ports' keys, in place of what the service had. Room that is given back is for
        those that were left out.
        """
        had = self._port_keys.pop(name, 0)
        found = 0 < wanted <= self._limit - sum(self._port_keys.values())
        if found:
            self._port_keys[name] = wanted
        if had > (wanted if found else 0):
            self._dirty.update(self._left_out)
        return found


def _named(pod: TagSet | None) -> tuple[str, ...] | None:
    return pod.own_of(NAMED) if pod is not None else None


def _key(address: bytes, port: int, protocol: int) -> bytes:
    return keys.ENDPOINT + address + port.to_bytes(2, "big") + bytes((protocol,))
