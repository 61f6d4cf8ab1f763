"""Addresses of containers outside Kubernetes: what their network namespaces have, whichever runtime made them.

A namespace is read through a process that is in it (/proc/PID/net), with no need to enter it. An address stands for a
container only if nobody else can be meant: not for those that share the host's namespace or one another's, nor where
two namespaces, the host's among them, have the same address. Looked at when a container comes, and every few seconds,
since networks are connected and disconnected while it runs. Needs CAP_SYS_PTRACE for other users' processes. Used by
os.py.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from zerospan.enricher import keys
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.exporter.process import procfs

log = logging.getLogger(__name__)

LOOK_S = 5.0
SOON_S = (0.02, 0.05, 0.1, 0.3, 1.0)  # after a container has come: its network may be made a little later
NET_MAX = 1 << 20  # bytes of a file of /proc/PID/net
ADDRESSES_MAX = 64  # of one container
LOCAL = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


class Running(NamedTuple):
    """A container: its control groups' folders, and what it is."""

    id: str
    paths: tuple[str, ...]
    tags: TagSet


class ContainerNet:
    """Thread of its own: start(), stop(); came() from any. containers: those outside Kubernetes, as of now."""

    def __init__(self, store: TagStore, node: str, proc: str, containers: Callable[[], Iterable[Running]]) -> None:
        self._store, self._node, self._proc, self._containers = store, node, proc, containers
        self._known: dict[bytes, TagSet] = {}
        self._seen: set[str] = set()  # containers of the last look
        self._boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="container-net", daemon=True)
        self.ambiguous = 0  # containers at the last look whose addresses may be another's, too
        self.unreadable = 0  # at the last look: none of whose processes may be looked at

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(2)

    def __len__(self) -> int:
        return len(self._known)

    def came(self, container_id: str, pod_uid: str, path: str) -> None:
        """A hint of containers.py."""
        if container_id and not pod_uid:
            self._woken.set()

    def look(self) -> None:
        """Compares what is there with what was told. In the thread; for tests, too."""
        now = self._store.now()
        looked = next((pid for pid in (1, os.getpid()) if self._namespace(pid)), 0)
        host = self._namespace(looked) if looked else 0  # 0: who shares it, or has its addresses, cannot be told
        of: dict[int, list[tuple[Running, int]]] = {}
        seen: set[str] = set()
        self.unreadable = self.ambiguous = 0
        for one in self._containers():
            seen.add(one.id)
            pid = self._process(one.paths)
            namespace = self._namespace(pid) if pid else 0
            self.unreadable += bool(pid) and not (namespace and host)
            if namespace and host and namespace != host:
                of.setdefault(namespace, []).append((one, pid))
        found: dict[bytes, tuple[Running, int] | None] = {}  # None: of several, or the host's (pasta copies it)
        if of:
            found |= dict.fromkeys(map(keys.address, addresses(f"{self._proc}/{looked}/net", 0)))
        for users in of.values():
            if len(users) > 1:
                self.ambiguous += len(users)
                continue
            for address in addresses(f"{self._proc}/{users[0][1]}/net"):
                key = keys.address(address)
                self.ambiguous += key in found
                found[key] = None if key in found else users[0]
        told = {key: user for key, user in found.items() if user is not None}
        with self._store.batch():
            for key, tags in list(self._known.items()):
                if key not in told:
                    self._store.end(key, layer=Layer.OS, at_ns=now, tags=tags)
                    del self._known[key]
            for key, (one, pid) in told.items():
                if self._known.get(key) is not one.tags:
                    since = now if key in self._known or one.id in self._seen else min(now, self._began(pid) or now)
                    self._known[key] = one.tags
                    self._store.put(key, one.tags, layer=Layer.OS, since_ns=since, node=self._node)
        self._seen = seen

    # -- inside

    def _run(self) -> None:
        soon: list[float] = []
        while not self._stopping:
            if self._woken.wait(soon.pop(0) if soon else LOOK_S):
                self._woken.clear()
                soon = list(SOON_S)
                continue
            try:
                self.look()
            except Exception:
                log.exception("addresses of containers: a look failed: a bug")

    def _process(self, paths: Iterable[str]) -> int:
        """A process of a container; 0 if there is none (yet)."""
        for path in paths:
            for folder in (path, *_below(path)):
                for word in procfs.read(f"{folder}/cgroup.procs", 1 << 16).split():
                    if word.isdigit() and word != b"0":  # 0: of no namespace of processes that is ours
                        return int(word)
        return 0

    def _namespace(self, pid: int) -> int:
        """The inode number of its network namespace; 0 if it cannot be seen."""
        try:
            return os.stat(f"{self._proc}/{pid}/ns/net").st_ino
        except OSError:
            return 0

    def _began(self, pid: int) -> int:
        """Unix time in ns, good to a clock tick; 0: not known."""
        stat = procfs.stat(f"{self._proc}/{pid}")
        ticks = stat.life.start_ticks if stat is not None else 0
        return self._boot_ns + ticks * 1_000_000_000 // procfs.TICKS if ticks else 0


def addresses(net: str, most: int = ADDRESSES_MAX) -> list[str]:
    """What a network namespace has for itself, by /proc/PID/net: without loopback and what holds on one link only.
    IPv4: fib_trie (the kernel's fib_trie.c); IPv6: if_inet6 (its fourth number is the scope, 00 is global). At most so
    many, 0: all.
    """
    v4 = LOCAL.findall(procfs.read(f"{net}/fib_trie", NET_MAX).decode("ascii", "replace"))
    found = dict.fromkeys(text for text in v4 if not text.startswith("127."))
    for line in procfs.read(f"{net}/if_inet6", NET_MAX).decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) == 6 and words[3] == "00" and re.fullmatch(r"[0-9a-f]{32}", words[0]):
            found[":".join(words[0][i : i + 4] for i in range(0, 32, 4))] = None
    return list(found)[: most or None]


def _below(path: str) -> list[str]:
    """Control groups in a container's, two levels deep: an init system keeps none in its own."""
    try:
        return [str(folder) for glob in ("*/", "*/*/") for folder in Path(path).glob(glob)]
    except OSError:
        return []
