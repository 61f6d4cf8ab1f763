"""NIC points: finds the interfaces of all network namespaces, attaches bpf/nic.bpf.c to them, and says which is whose.

A thread of its own moves between namespaces, once a second and whenever rtnetlink tells of a change; nothing else of
the process leaves its namespace. Records (struct zs_nic) go into the ring and the counters of the Capture that is
given, so whoever drains that sees them. Needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN (setns)
and, to see other users' processes, CAP_SYS_PTRACE. Used by pipeline.py and `zerospan check`.
"""

import contextlib
import errno
import logging
import os
import select
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from zerospan.exporter.source import bpf, interfaces, nic_attach, own
from zerospan.exporter.source.capture import Capture, CaptureError, cgroup_folder, netns_inode, object_path
from zerospan.exporter.source.interfaces import Interface, Link
from zerospan.exporter.source.netns import CLONE_NEWNET, Namespace, find, initial, libc, mounts, name_of, used_by

log = logging.getLogger(__name__)

WAYS = nic_attach.WAYS  # in order of preference
RESCAN_S = 1.0
RESCAN_SHARE = 0.02  # of one core, at most: a machine with very many processes is looked at less often
START_S = 10.0
FLOWS = 65536  # connections at points; about 200 bytes each
KEPT = ("zs_nic_flows", "zs_nic_owns")  # maps that all objects here have together
SWEEP = "zs_nic_sweep"  # over KEPT[0]: runs that ended in silence


class Programs:
    """The loaded object. Before Linux 6.2 a program cannot see its packet's device: then one object a namespace.

    Raises CaptureError if neither can be had.
    """

    def __init__(self, shared: dict[str, int], share: float, flows: int = FLOWS, each: bool = False) -> None:
        self._shared = dict(shared)
        self._share = min(max(int(share * (1 << 32)) - 1, 0), 0xFFFFFFFF)
        self._flows = flows
        self._of: dict[tuple[int, tuple[str, ...]], bpf.Object] = {}
        self._one: bpf.Object | None = None
        self.reason = "one object for each namespace was asked for"
        if not each:
            try:
                self._one = self._load(0)
            except OSError as e:
                self.reason = str(e)
                log.info("NIC points: one object for each namespace, since one for all does not load: %s", e)
        if self._one is None:
            try:
                self._maps = self._load(1, (SWEEP,))  # it keeps the maps, and sweeps over them
            except OSError as e:
                raise CaptureError(f"NIC points: {e}") from e
        else:
            self._maps = self._one

    def _load(self, cookie: int, only: tuple[str, ...] | None = None) -> bpf.Object:
        made = bpf.Object(object_path("nic"))
        try:
            for name, fd in self._shared.items():
                made.share(name, fd)
            if KEPT[0] not in self._shared:
                made.set_max_entries(KEPT[0], self._flows)
            for name, _ in made.programs():
                made.set_autoload(name, only is None or name in only)
            made.set_constant("zs_nic_share", self._share)
            made.set_constant("zs_nic_netns_cookie", cookie)
            made.load()
        except BaseException:
            made.close()
            raise
        for name in KEPT:
            self._shared.setdefault(name, made.map_fd(name))
        return made

    def of(self, cookie: int, programs: tuple[str, ...]) -> bpf.Object:
        """An object with these programs, for the interfaces of a namespace. OSError if they do not load."""
        if self._one is not None:
            return self._one
        if (cookie, programs) not in self._of:
            self._of[cookie, programs] = self._load(cookie, programs)
        return self._of[cookie, programs]

    def forget(self, cookie: int) -> None:
        """The namespace is gone."""
        for at in [at for at in self._of if at[0] == cookie]:
            self._of.pop(at).close()

    @property
    def maps(self) -> bpf.Object:
        """The object through which the maps are reached."""
        return self._maps

    def close(self) -> None:
        for made in (*self._of.values(), self._maps):
            made.close()


@dataclass
class _Place:
    """A namespace that is watched."""

    ns: Namespace
    links: list[Link] = field(default_factory=list)
    attached: dict[int, tuple[str, nic_attach.Attachment]] = field(default_factory=dict)  # ifindex -> hook
    failed: dict[int, str] = field(default_factory=dict)  # ifindex -> why
    stale: bool = True


class Nics:
    """The watched interfaces.

    `capture`: whose ring and counters are used; `netns`: names, paths or "self": only these namespaces, empty: all;
    `cgroup`: only namespaces that a process of these control groups is in now, empty: all;
    `share`: of the connections that are told, in (0, 1]; `way`: one of nic_attach.WAYS or "auto"; `lo`: loopback
    devices, too; `flows`: connections remembered, over all points; `each`: as on kernels before 6.2.
    start() returns when all interfaces that were there are watched. Raises CaptureError.
    """

    def __init__(
        self,
        capture: Capture,
        *,
        netns: tuple[str, ...] = (),
        cgroup: tuple[str, ...] = (),
        share: float = 1.0,
        way: str = "auto",
        lo: bool = False,
        flows: int = FLOWS,
        each: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise CaptureError(f"capture.nic: a share is more than 0 and at most 1, not {share}")
        self._only = frozenset(netns_inode(name) for name in netns)
        self._cgroups = tuple(cgroup_folder(path) for path in cgroup)
        self._ways = WAYS if way == "auto" else (way,)
        self._lo = lo
        self._programs = Programs(capture.shared(), share, flows, each)
        self._sweep = self._programs.maps.attach_map_iter(SWEEP, KEPT[0])
        self._places: dict[int, _Place] = {}
        self._nsids: dict[tuple[int, int], int] = {}  # (namespace, its number for another) -> the other
        self._table: dict[tuple[int, int], Interface] = {}
        self._own = own.Ports(self._programs.maps)
        self._poll = select.epoll()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._wake_r, select.EPOLLIN)
        self._ready = threading.Event()
        self._stopping = False
        self._scan_s = 0.0
        self._unresolved = False  # some veth's other end is in a namespace that is not known
        self._changed = True  # what the table is made of
        self._thread = threading.Thread(target=self._run, name="zs-nic", daemon=True)
        self.generation = 0  # raised whenever the table has changed

    def start(self) -> None:
        """Begins to watch; logs and goes on if that takes longer than 10 s."""
        self._thread.start()
        if not self._ready.wait(START_S):
            log.warning("NIC points: the interfaces are not all watched yet after %.0f s", START_S)

    def stop(self, timeout: float = 5.0) -> None:
        """Detaches everything. May be called twice, and without start()."""
        if self._stopping:
            return
        self._stopping = True
        os.write(self._wake_w, b"x")
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._thread.is_alive():
            log.error("NIC points: the thread did not end within %.0f s; programs may stay attached", timeout)
            return
        self._poll.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
        self._programs.close()

    def sweep(self) -> None:
        """Has the kernel say which runs ended in silence. Not after stop()."""
        bpf.run_iter(self._sweep)

    def interfaces(self) -> dict[tuple[int, int], Interface]:
        """(netns_cookie, ifindex) -> Interface, as of `generation`. Replaced at each change: not to be written."""
        return self._table

    def status(self) -> dict[str, Any]:
        """What is watched and what could not be: plain values."""
        table, places = self._table, list(self._places.values())
        hooks: dict[str, int] = {}
        for interface in table.values():
            hooks[interface.hook] = hooks.get(interface.hook, 0) + 1
        failed = {}
        for place in places:
            names = {link.ifindex: link.name for link in place.links}
            for ifindex, why in list(place.failed.items()):
                failed[f"{place.ns.name or place.ns.inode}/{names.get(ifindex, ifindex)}"] = why
        return {
            "interfaces": len(table),
            "namespaces": len(places),
            "hooks": hooks,
            "failed": failed,
            "generation": self.generation,
            "scan_seconds": round(self._scan_s, 6),
        }

    # ---- the thread ----

    def _run(self) -> None:
        due = 0.0
        try:
            while not self._stopping:
                try:
                    if time.monotonic() >= due:
                        began = time.thread_time()
                        self._look_for_namespaces()
                        self._own.refresh()
                        self._changed = self._changed or self._unresolved
                        self._scan_s = time.thread_time() - began
                        due = time.monotonic() + max(RESCAN_S, self._scan_s / RESCAN_SHARE)
                    self._settle()
                except Exception:
                    log.exception("NIC points: a look at the interfaces failed; the next one is made in a second")
                    due = time.monotonic() + RESCAN_S
                self._ready.set()
                self._wait(max(due - time.monotonic(), 0))
        finally:
            for place in list(self._places.values()):
                self._close(place)
            self._publish({})
            self._ready.set()

    def _wait(self, timeout: float) -> None:
        by_fd = {place.ns.changes.socket.fileno(): place for place in self._places.values()}
        for fd, _ in self._poll.poll(timeout):
            place = by_fd.get(fd)
            if place is None:
                continue
            changed, gone = place.ns.changes.read()
            place.stale = place.stale or changed
            for ifindex in gone:
                self._detach(place, ifindex)

    def _look_for_namespaces(self) -> None:
        there = used_by(self._cgroups) if self._cgroups else find()
        for inode in self._places.keys() - there.keys():
            self._close(self._places[inode])
        for inode in there.keys() - self._places.keys():
            if self._only and inode not in self._only:
                continue
            try:
                ns = Namespace(inode, there[inode], names().get(inode, ""))
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ESRCH):
                    log.warning("NIC points: namespace %d (%s) cannot be watched: %s", inode, there[inode], e)
                continue
            self._places[inode] = _Place(ns)
            self._changed = True
            self._poll.register(ns.changes.socket, select.EPOLLIN)

    def _close(self, place: _Place) -> None:
        for ifindex in list(place.attached):
            self._detach(place, ifindex)
        with contextlib.suppress(OSError):
            self._poll.unregister(place.ns.changes.socket)
        place.ns.close()
        inode = place.ns.inode
        self._places.pop(inode, None)
        self._changed = True
        self._programs.forget(place.ns.cookie)
        self._nsids = {at: other for at, other in self._nsids.items() if inode not in (at[0], other)}

    def _detach(self, place: _Place, ifindex: int) -> None:
        place.failed.pop(ifindex, None)
        place.stale = True
        if held := place.attached.pop(ifindex, None):
            held[1].close()

    def _settle(self) -> None:
        """Brings what is attached, and the table, to what there is now."""
        for place in list(self._places.values()):
            if not place.stale:
                continue
            place.stale = False
            self._changed = True
            try:
                place.links = [interfaces.parse(message) for message in place.ns.netlink.links()]
            except OSError as e:
                log.warning("NIC points: interfaces of namespace %d: %s", place.ns.inode, e)
                place.stale = True
                continue
            self._attach(place, interfaces.watched(place.links, self._lo))
        if self._changed:
            self._changed = False
            self._publish(self._make_table())

    def _attach(self, place: _Place, wanted: list[Link]) -> None:
        for ifindex in place.attached.keys() - {link.ifindex for link in wanted}:
            self._detach(place, ifindex)
        place.stale = False
        place.failed = {}
        missing = [link for link in wanted if link.ifindex not in place.attached]
        if not missing:
            return
        with place.ns.entered():
            for link in missing:
                why = []
                for way in self._ways:
                    try:
                        programs = self._programs.of(place.ns.cookie, nic_attach.needed(way, link.ethernet))
                        made = nic_attach.attach(way, programs, link.ifindex, link.name, link.ethernet)
                    except OSError as e:
                        if e.errno == errno.ENODEV:
                            break  # gone meanwhile
                        why.append(f"{way}: {e}")
                        continue
                    place.attached[link.ifindex] = (way, made)
                    break
                if link.ifindex not in place.attached and why:
                    place.failed[link.ifindex] = "; ".join(why)
                    log.warning("NIC points: %s of namespace %d: %s", link.name, place.ns.inode, "; ".join(why))

    def _make_table(self) -> dict[tuple[int, int], Interface]:
        links = {inode: place.links for inode, place in self._places.items()}
        self._unresolved = False
        for inode, mine in links.items():
            for link in mine:
                if link.peer_nsid is not None and link.kind in interfaces.PAIRS:
                    self._resolve(inode, link.peer_nsid)
                    self._unresolved = self._unresolved or (inode, link.peer_nsid) not in self._nsids
        found = interfaces.hosts(links, self._nsids, initial())
        out = {}
        for inode, place in self._places.items():
            for link in place.links:
                held = place.attached.get(link.ifindex)
                if held is None:
                    continue
                other = inode if link.peer_nsid is None else self._nsids.get((inode, link.peer_nsid), 0)
                pair = link.kind in interfaces.PAIRS
                out[place.ns.cookie, link.ifindex] = Interface(
                    ifindex=link.ifindex,
                    name=link.name,
                    netns=inode,
                    netns_name=place.ns.name,
                    netns_cookie=place.ns.cookie,
                    mac=link.mac,
                    kind=link.kind,
                    role=interfaces.role(link, inode, other, found),
                    peer_ifindex=link.peer if pair else 0,
                    peer_netns=other if pair else 0,
                    hook=held[0],
                    inside=inode not in found,
                )
        return out

    def _resolve(self, inode: int, nsid: int) -> None:
        """Finds out which namespace another one calls by a number, unless that is known."""
        if (inode, nsid) in self._nsids:
            return
        known = {other for (ns, _), other in self._nsids.items() if ns == inode}
        for other, place in self._places.items():
            if other == inode or other in known:
                continue
            try:
                with place.ns.descriptor() as fd:
                    answer = self._places[inode].ns.netlink.nsid(fd)
            except OSError:
                continue
            if answer is not None:
                self._nsids[inode, answer] = other
            if answer == nsid:
                return

    def _publish(self, table: dict[tuple[int, int], Interface]) -> None:
        if table != self._table:
            self._table = table
            self.generation += 1


def names() -> dict[int, str]:
    """Inode number -> name of the namespaces that `ip netns` or a container runtime named."""
    return {inode: name for inode, path in mounts().items() if (name := name_of(path))}


def missing(way: str) -> str:
    """Empty if the running kernel has this way to attach (tried on a loopback device of its own), else what it lacks.

    Needs the rights of root. The object is loaded with a ring of its own.
    """
    said: list[str] = []
    thread = threading.Thread(target=_try, args=(way, said), name="zs-nic-check")
    thread.start()
    thread.join()
    return said[0] if said else ""


def _try(way: str, said: list[str]) -> None:
    """On a thread that ends with it: its namespace goes with it."""
    try:
        if libc.unshare(CLONE_NEWNET):
            raise OSError(errno.EPERM, "unshare: a network namespace cannot be made")
        made = bpf.Object(object_path("nic"))
        try:
            made.set_max_entries("zs_ring", 65536)
            made.set_max_entries("zs_nic_flows", 1024)
            made.set_constant("zs_nic_netns_cookie", 1)
            for name, _ in made.programs():
                made.set_autoload(name, name in nic_attach.needed(way, True))
            made.load()
            nic_attach.attach(way, made, 1, "lo", True).close()
        finally:
            made.close()
    except (OSError, CaptureError) as e:
        said.append(str(e))
