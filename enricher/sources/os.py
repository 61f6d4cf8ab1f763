"""This host: what it is, its containers, and on demand its processes. Read from /proc, /sys and files, no daemon asked.

In a container the host's file system may stand elsewhere (`root`); with hostPID its /proc is /proc. Needs no right but
to read; without CAP_SYS_PTRACE other users' environments are missing. Made by registry.py, one for each node.
"""

import os
import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from zerospan.enricher import keys
from zerospan.enricher.source import Layer, SourceStats
from zerospan.enricher.sources.cgroup_watch import CgroupWatch, tops
from zerospan.enricher.sources.container_net import ContainerNet
from zerospan.enricher.sources.containers import HostContainers
from zerospan.enricher.sources.processes import HostProcesses, ServiceOrder, ServiceWord
from zerospan.enricher.store import Piece, TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.exporter.config.model import Section, Text
from zerospan.exporter.process import procfs
from zerospan.exporter.process.containers import Containers, host_root
from zerospan.exporter.process.text import clean, decode

FILE_MAX = 64 << 10
ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm32", "armv6l": "arm32", "i386": "x86", "i686": "x86",
    "ppc64le": "ppc64", "ppc64": "ppc64", "s390x": "s390x", "ia64": "ia64",
}  # fmt: skip
RELEASE = re.compile(r"""^(NAME|PRETTY_NAME|VERSION_ID)=(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s"']*))$""", re.MULTILINE)


class OsConfig(Section, frozen=True):
    """This host, its containers and processes."""

    enabled: Annotated[bool, Meta(description="Look at this host.")] = True
    root: Annotated[str, Meta(description="Where the host's file system stands, e.g. /host; empty: here.")] = ""
    proc: Annotated[str, Meta(description="The host's /proc; empty: `root`/proc if it is there, else /proc.")] = ""
    sys: Annotated[str, Meta(description="The host's /sys; empty: `root`/sys if it is there, else /sys.")] = ""
    host_name: Annotated[str, Meta(description="`host.name`; empty: the host's own.")] = ""
    cgroups: Annotated[
        tuple[Text, ...],
        Meta(description="Folders of control groups to watch, with all below; empty: all groups of the host."),
    ] = ()
    max_cgroups: Annotated[
        int, Meta(ge=16, le=1 << 20, description="Watches; folders beyond are looked at every second.")
    ] = 65536
    docker: Annotated[tuple[Text, ...], Meta(description="Further data folders of docker.")] = ()
    containerd: Annotated[
        tuple[Text, ...],
        Meta(description="Further folders of containerd's tasks (STATE/io.containerd.runtime.v2.task)."),
    ] = ()
    storages: Annotated[tuple[Text, ...], Meta(description="Further storages of podman and CRI-O.")] = ()
    process_env: Annotated[
        tuple[Text, ...],
        Meta(description="Globs of environment variables that become tags of processes; none by default."),
    ] = ()
    service_order: Annotated[
        tuple[ServiceWord, ...], Meta(description="Who names a process's service, the first that can.")
    ] = ServiceOrder


class OsSource:
    """Source of the NODE key of this host, of its containers' keys and addresses; lookup() for processes."""

    name = "os"
    answers = (keys.PROCESS,)  # kinds of keys that pieces() answers for, not the store

    def __init__(self, store: TagStore, config: OsConfig, node: str) -> None:
        self._store, self._config, self._node = store, config, node
        root = config.root.rstrip("/")
        self._proc = config.proc or _there(f"{root}/proc")
        self._sys = config.sys or _there(f"{root}/sys")
        self._tags: TagSet | None = None
        self._errors, self._error = 0, ""
        files = Containers(
            root or host_root(self._proc),
            docker=config.docker,
            bundles=config.containerd,
            storages=config.storages,
        )
        self.containers = HostContainers(store, files, node, lambda: store.find(keys.node(node)) or self._tags)
        self.net = ContainerNet(store, node, self._proc, self.containers.outside)
        self.containers.on_new(self.net.came)
        self.watch = CgroupWatch(
            config.cgroups or tops(self._sys),
            self.containers.came,
            self.containers.went,
            max_watches=config.max_cgroups,
        )
        self.processes = HostProcesses(
            store,
            files,
            node,
            proc=self._proc,
            host=self.host_tags,
            env=config.process_env,
            order=config.service_order,
        )

    def start(self) -> None:
        try:
            self._tags = self._store.make(self.host_tags())
            self._store.put(keys.node(self._node), self._tags, layer=Layer.OS, since_ns=0, node=self._node)
        except OSError as e:
            self._errors, self._error = self._errors + 1, str(e)
        self.containers.start()
        self.watch.start()
        self.net.start()

    def stop(self) -> None:
        self.net.stop()
        self.watch.stop()
        self.containers.stop()

    def stats(self) -> SourceStats:
        watch = self.watch
        failing = watch.failing or self.containers.failing
        failures = watch.failures + self.containers.failures
        return SourceStats(
            in_sync=watch.in_sync.is_set() and not failing,
            entities={
                "container": len(self.containers),
                "cgroup": watch.folders(),
                "unwatched": watch.unwatched,
                "address": len(self.net),
                "ambiguous": self.net.ambiguous,
                "unreadable": self.net.unreadable,
            },
            lag_s=time.monotonic() - watch.heard if watch.unwatched or watch.error or watch.failing else 0.0,
            changes=self.containers.changes,
            errors=self._errors + watch.overflows + self.containers.refused + bool(watch.error) + failures,
            resyncs=watch.overflows,
            last_error=watch.error or self._error or ("a look failed: see the log" if failures else ""),
        )

    def lookup(self, pid: int) -> Mapping[str, str] | None:
        """Tags of a process of this host, of its container's, pod's and host's, too; None: there is none."""
        return self.processes.lookup(pid)

    def pieces(self, key: bytes, at_ns: int = 0) -> list[Piece]:
        """What the tag service answers for a PROCESS key: the process that has this number now, if it is of this host,
        and was there at that time (0: now). The set is not kept by the store: it goes with its next sweep.
        """
        node, _, pid = key[1:].partition(b"\0")
        if key[:1] != keys.PROCESS or node != self._node.encode() or not re.fullmatch(rb"[1-9]\d{0,9}", pid):
            return []
        tags = self.lookup(int(pid))
        if tags is None:
            return []
        began = tags.get("process.creation.time", "")
        since = int(datetime.fromisoformat(began).timestamp() * 1e9) if began else 0
        return [Piece(self._store.make(tags), since, 0)] if not at_ns or since <= at_ns else []

    def host_tags(self) -> dict[str, str]:
        """What this host is."""
        root = self._config.root.rstrip("/")
        name = self._config.host_name
        if not name and root:
            name = clean(_read(f"{root}/etc/hostname"))
        machine = os.uname().machine
        release = os_release(root)
        return {
            "host.name": name or os.uname().nodename,
            "host.id": machine_id(root) or procfs.machine_id(self._proc),
            "host.arch": ARCHITECTURES.get(machine, machine),
            "os.type": "linux",
            "os.name": release.get("NAME", ""),
            "os.version": release.get("VERSION_ID", ""),
            "os.description": release.get("PRETTY_NAME", ""),
        }


def os_release(root: str) -> dict[str, str]:
    """NAME, VERSION_ID and PRETTY_NAME. os-release(5)"""
    text = _read(f"{root}/etc/os-release") or _read(f"{root}/usr/lib/os-release")
    found: dict[str, str] = {}
    for key, double, single, bare in RELEASE.findall(text):
        found[key] = clean(re.sub(r"\\(.)", r"\1", double) or single or bare)
    return found


def machine_id(root: str) -> str:
    """machine-id(5) below a root; "" if there is none."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = _read(root + path).strip()
        if re.fullmatch(r"[0-9a-f]{32}", text):
            return text
    return ""


def _read(path: str) -> str:
    return decode(procfs.read(path, FILE_MAX))


def _there(path: str) -> str:
    """The path, or without its root if there is no such folder with anything in it."""
    try:
        found = any(Path(path).iterdir())
    except OSError:
        found = False
    return path if found else "/" + path.rpartition("/")[2]
