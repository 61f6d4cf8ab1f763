"""Service addresses that nobody has named: an address and port that NAT leads elsewhere, named by who is behind it.

For hosts without Kubernetes: a published port, a virtual address of a load balancer. Learnt from translated connections
(conntrack.py, whose thread calls all of this). A name is given only while all that is behind an address has the same
one, and only where no other source says anything of the address.
"""

from zerospan.enricher import keys
from zerospan.enricher.names import SERVICE_NAME, SERVICE_NAMESPACE
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet

SHARED = (SERVICE_NAME, SERVICE_NAMESPACE, "zerospan.range.name")  # what may be said of all behind an address
MAX_SERVICES, MAX_ENDS = 4096, 16
TOGETHER_NS = 60_000_000_000  # two ends seen within this time both count
UNUSED_NS = 3600_000_000_000  # an address that was not used for so long is forgotten
BEFORE_NS = 2_000_000_000  # the rule was there before its first connection, of which we hear a little late


class _Service:
    """One address and port. ends: who was behind it (18 bytes: address, port) -> when it was seen last."""

    __slots__ = ("ends", "newest", "tags")

    def __init__(self) -> None:
        self.ends: dict[bytes, int] = {}
        self.newest = 0
        self.tags: TagSet | None = None


class NatServices:
    """One thread."""

    def __init__(self, store: TagStore) -> None:
        self._store = store
        self._services: dict[bytes, _Service] = {}
        self.refused = 0  # addresses for which there was no room

    def __len__(self) -> int:
        return len(self._services)

    def saw(self, original: bytes, reply: bytes, at_ns: int) -> None:
        """A translated connection as the kernel has it: 37 bytes each, as in nat_table.py. at_ns: Unix time."""
        asked, real = original[18:36], reply[:18]
        if asked == real:
            return  # its source alone is translated
        key = keys.ENDPOINT + original[18:37]
        service = self._services.get(key)
        if service is None:
            if len(self._services) >= MAX_SERVICES:
                self.refused += 1
                return
            service = self._services[key] = _Service()
        new = real not in service.ends
        service.ends[real] = service.newest = max(service.newest, at_ns)
        if new:
            if len(service.ends) > MAX_ENDS:
                del service.ends[min(service.ends, key=service.ends.__getitem__)]
            self._settle(key, service, at_ns)

    def look(self, now_ns: int) -> None:
        """What those behind are called may have changed, and who they are. Every few seconds."""
        for key, service in list(self._services.items()):
            if service.newest < now_ns - UNUSED_NS:
                service.ends.clear()
            for real in [real for real, at in service.ends.items() if at < service.newest - TOGETHER_NS]:
                del service.ends[real]
            self._settle(key, service, now_ns)
            if not service.ends:
                del self._services[key]

    def _settle(self, key: bytes, service: _Service, now_ns: int) -> None:
        tags = None if self._named(key) else self._shared(key, service)
        if tags is service.tags or (tags is not None and service.tags is not None and tags.id == service.tags.id):
            return
        if tags is None:
            self._store.end(key, layer=Layer.CONNTRACK, at_ns=now_ns)
        else:
            held = self._store.held(key, Layer.CONNTRACK)
            self._store.put(key, tags, layer=Layer.CONNTRACK, since_ns=now_ns - (0 if held is not None else BEFORE_NS))
        service.tags = tags

    def _named(self, key: bytes) -> bool:
        """Whether another source says what this address or its port is."""
        others = (layer for layer in Layer if layer != Layer.CONNTRACK)
        return self._store.find(keys.ADDRESS + key[1:17]) is not None or any(
            self._store.held(key, layer) is not None for layer in others
        )

    def _shared(self, key: bytes, service: _Service) -> TagSet | None:
        """What all behind it have in common; None where they are not one service, or one is not known."""
        common: dict[str, str] | None = None
        for real in service.ends:
            found = self._store.find_address(real[:16], int.from_bytes(real[16:18], "big"), key[-1])
            tags = {name: found.get(name) for name in SHARED} if found is not None else {}
            mine = {name: value for name, value in tags.items() if value}
            if not mine.get(SERVICE_NAME) or (common is not None and common.get(SERVICE_NAME) != mine[SERVICE_NAME]):
                return None
            common = mine if common is None else {name: mine[name] for name in common if common[name] == mine.get(name)}
        return self._store.make(common) if common else None
