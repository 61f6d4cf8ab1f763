"""Capture: which hooks, which filters, what the kernel said. The policy over the libbpf binding (bpf.pyx).

Feature tests, never version tests: a layout is chosen by what the kernel's BTF has, and taken back if it does not load.
Used by pipeline.py and by `zerospan check`. Needs root or CAP_BPF, CAP_PERFMON (and CAP_SYS_PTRACE,
CAP_DAC_READ_SEARCH for names of other users' processes).
"""

import logging
import mmap
import os
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from zerospan.exporter.abi import events
from zerospan.exporter.config.model import ring_size
from zerospan.exporter.source import bpf
from zerospan.exporter.source.ring import Rings

log = logging.getLogger(__name__)

# In order of preference: the cheapest in the watched program first.
LAYOUTS = ("sock_length", "fexit", "sys_exit")
NEEDS = {
    "sock_length": "tracepoints sock_send_length and sock_recv_length (kernel 6.3)",
    "fexit": "fexit on inet_sendmsg and inet_recvmsg (kernel 5.5, not forbidden by its configuration)",
    "sys_exit": "tracepoint sys_exit with BTF (kernel 5.5)",
}
# A ring so small is wanted as it is: for tests, and where memory is scarce.
CPU_RINGS_FROM_BYTES = 1 << 20
# Programs for functions that only some kernels have (inet_sendpage: sendfile and splice, until 6.4).
OPTIONAL = {"zs_sendpage": "inet_sendpage"}


class CaptureError(Exception):
    """Hooks or filters that cannot be had: what, why, what to do. `reasons`: layout -> why it could not be used."""

    def __init__(self, message: str, reasons: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = reasons or {}


@dataclass(frozen=True)
class Filters:
    """Which traffic is captured; each list that is not empty must match.

    exe: paths, or names looked up in PATH; netns: paths, names of `ip netns`, or "self".
    """

    pid: tuple[int, ...] = ()
    exe: tuple[str, ...] = ()
    port: tuple[int, ...] = ()
    cgroup: tuple[str, ...] = ()
    netns: tuple[str, ...] = ()


@dataclass
class Choice:
    """What `zerospan check` prints: the layout in use, and why each other one is not."""

    layout: str
    reasons: dict[str, str] = field(default_factory=dict)


def object_path(layout: str) -> str:
    """The built object of a layout. CaptureError if it was not built."""
    path = files("zerospan.exporter") / "_bpf" / f"{layout}.bpf.o"
    if not path.is_file():
        raise CaptureError(f"{path} is missing: run `make bpf`")
    return str(path)


def missing(layout: str) -> str:
    """Empty if the running kernel seems to have what a layout needs, else what it lacks."""
    try:
        if layout == "sock_length":
            found = all(bpf.kernel_has_tracepoint(f"sock_{d}_length") for d in ("send", "recv"))
        elif layout == "sys_exit":
            found = bpf.kernel_has_tracepoint("sys_exit")
        else:
            found = all(bpf.kernel_has_function(f) for f in ("inet_sendmsg", "inet_recvmsg"))
    except OSError as e:
        return f"{e}; a kernel with CONFIG_DEBUG_INFO_BTF is needed"
    return "" if found else f"this kernel has no {NEEDS[layout]}"


class Capture:
    """The loaded programs. Everything is attached when the constructor returns; close() takes it all back.

    hooks: "auto" or the name of a layout. Sizes in bytes. Raises CaptureError.
    """

    def __init__(
        self,
        hooks: str = "auto",
        *,
        ring_bytes: int = 4 << 20,
        payload_bytes: int = 512,
        large_ports: tuple[int, ...] = (),
        filters: Filters | None = None,
        self_tgid: int | None = None,
    ) -> None:
        filters = filters or Filters()
        self.choice = Choice("")
        self.cpu_rings: list[int] = []  # fds; open, so that their memory is seen to be ours
        self.ring_bytes = ring_size(ring_bytes, mmap.PAGESIZE)
        for layout in LAYOUTS if hooks == "auto" else (hooks,):
            why = missing(layout)
            if not why:
                try:
                    self.object = self._load(layout, payload_bytes, large_ports, filters, self_tgid)
                except OSError as e:
                    why = str(e)
            if not why:
                self.choice.layout = layout
                break
            self.choice.reasons[layout] = why
            log.info("hooks %s: %s", layout, why)
        if not self.choice.layout:
            said = "; ".join(f"{layout}: {why}" for layout, why in self.choice.reasons.items())
            raise CaptureError(
                f"no hooks could be set ({said}). Run `zerospan check` for what is missing.", self.choice.reasons
            )
        rings = [(fd, events.CPU_RING_BYTES) for fd in self.cpu_rings]
        self.ring = Rings([(self.object.map_fd("zs_ring"), self.ring_bytes), *rings])
        log.info("hooks: %s", self.choice.layout)

    def _load(
        self, layout: str, payload_bytes: int, large_ports: tuple[int, ...], filters: Filters, self_tgid: int | None
    ) -> bpf.Object:
        made = bpf.Object(object_path(layout))
        try:
            wanted = filter_keys(filters)
            made.set_constant("zs_self_tgid", os.getpid() if self_tgid is None else self_tgid)
            made.set_constant("zs_payload_bytes", payload_bytes)
            made.set_constant("zs_large_bytes", events.PAYLOAD_MAX if large_ports else 0)
            made.set_constant("zs_filters", sum(events.FILTERS[name] for name, keys in wanted.items() if keys))
            made.set_max_entries("zs_ring", self.ring_bytes)
            cpus = online_cpus() if self.ring_bytes >= CPU_RINGS_FROM_BYTES else []
            made.set_max_entries("zs_cpu_rings", max(cpus, default=0) + 1)
            absent = {p for p, function in OPTIONAL.items() if not bpf.kernel_has_function(function)}
            programs = [(name, section) for name, section in made.programs() if name not in absent]
            for name, _ in programs:
                made.set_autoload(name, True)
            made.load()
            self._make_cpu_rings(made, cpus)
            for port in large_ports:
                made.update("zs_large_port", struct.pack("=H", port), b"\1")
            for name, keys in wanted.items():
                for key in keys:
                    made.update(f"zs_filter_{name}", key, b"\1")
            for name, section in programs:
                if not section.startswith("iter/"):
                    made.attach(name)
            self._sweep = made.attach_map_iter("zs_sweep", "zs_states")
        except BaseException:
            self._close_cpu_rings()
            made.close()
            raise
        return made

    def _make_cpu_rings(self, made: bpf.Object, cpus: list[int]) -> None:
        """A CPU that comes later has none: its records go straight into the ring that all share."""
        for cpu in cpus:
            fd = bpf.create_ring("zs_cpu_ring", events.CPU_RING_BYTES)
            self.cpu_rings.append(fd)
            made.update("zs_cpu_rings", struct.pack("=I", cpu), struct.pack("=I", fd))

    def _close_cpu_rings(self) -> None:
        while self.cpu_rings:
            os.close(self.cpu_rings.pop())

    def shared(self) -> dict[str, int]:
        """Maps (name -> fd) that a further object of programs is to use instead of its own: rings, counters."""
        return {name: self.object.map_fd(name) for name in ("zs_ring", "zs_cpu_rings", "zs_counts")}

    def sweep(self) -> None:
        """Has the kernel say how far the runs have come that went on without a record."""
        bpf.run_iter(self._sweep)

    def counters(self) -> dict[str, int]:
        """Reason -> count of the kernel programs' counters (ZS_COUNTERS of zs_abi.h)."""
        values = self.object.read_percpu("zs_counts", len(events.COUNTERS))
        return {name: value for (name, _), value in zip(events.COUNTERS, values, strict=True)}

    def detach(self) -> None:
        """Takes the programs off their hooks; what they wrote can still be drained and counted."""
        self.object.detach()

    def close(self) -> None:
        """Unloads everything."""
        self.object.close()
        self._close_cpu_rings()


def online_cpus() -> list[int]:
    """Numbers of the CPUs that run, from /sys (a list of ranges: "0-3,8")."""
    out: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return out


def filter_keys(filters: Filters) -> dict[str, list[bytes]]:
    """The elements of the filter maps. CaptureError names the value that cannot be used."""
    keys = {
        "pid": [struct.pack("=I", pid) for pid in filters.pid],
        "exe": [_exe_key(path) for path in _unique(filters.exe)],
        "port": [struct.pack("=H", port) for port in filters.port],
        "cgroup": [struct.pack("=Q", _cgroup_id(path)) for path in filters.cgroup],
        "netns": [struct.pack("=I", netns_inode(name)) for name in filters.netns],
    }
    for name, values in keys.items():
        if len(values) > events.FILTER_ENTRIES:
            raise CaptureError(f"filter {name}: {len(values)} values, at most {events.FILTER_ENTRIES} are possible")
    return keys


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _exe_key(name: str) -> bytes:
    path = name if "/" in name else shutil.which(name)
    if path is None:
        raise CaptureError(f"filter exe: no executable {name!r} in PATH; give its full path")
    try:
        st = os.stat(path)
    except OSError as e:
        raise CaptureError(f"filter exe: {path}: {e.strerror}") from e
    return struct.pack("=QII", st.st_ino, os.major(st.st_dev) << 20 | os.minor(st.st_dev), 0)


def _cgroup_id(path: str) -> int:
    return cgroup_folder(path).stat().st_ino


def cgroup_folder(path: str) -> Path:
    """The folder of a control group of version 2, by its path or that below /sys/fs/cgroup. Raises CaptureError."""
    tried = [Path(path)]
    if not path.startswith("/sys/fs/cgroup"):
        tried += [root / path.lstrip("/") for root in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))]
    for candidate in tried:
        if candidate.is_dir() and (candidate / "cgroup.procs").exists():
            return candidate
    raise CaptureError(f"filter cgroup: {path} is no cgroup of version 2 (looked in {', '.join(map(str, tried))})")


def netns_inode(name: str) -> int:
    """Inode number of a network namespace: a path, a name of `ip netns`, or "self". CaptureError if there is none."""
    path = "/proc/self/ns/net" if name == "self" else name if "/" in name else f"/run/netns/{name}"
    try:
        return os.stat(path).st_ino
    except OSError as e:
        raise CaptureError(
            f"filter netns: {path}: {e.strerror}; give a path, a name of `ip netns list`, or `self`"
        ) from e
