"""Describes a process for everything that is exported about it. Called once for each new process, from the
hot thread.

Some ten small reads of /proc, no other program, no network, no lookup of users or names. Never raises: a
process that has gone is described by its command name alone, and what fails is counted.
"""

import fnmatch
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec

from zerospan import __version__
from zerospan.exporter.config.model import Config, ServiceRule
from zerospan.exporter.process import (
    cgroup,
    cgroup_ids,
    java,
    labels,
    names,
    procfs,
    profiles,
    python,
    runtime,
    units,
    versions,
)
from zerospan.exporter.process.containers import Containers
from zerospan.exporter.process.environ import Stated, stated
from zerospan.exporter.process.info import ProcessInfo
from zerospan.exporter.process.program import Program, program
from zerospan.exporter.process.resource import Value, encode_resource
from zerospan.exporter.process.stamp import stamp
from zerospan.exporter.process.text import base, clean

GONE_MAX = 1024  # names (and containers) of processes that had ended, kept encoded; beyond, the oldest leave
LIVES_MAX = 1 << 16
COMMAND = re.compile(r"[\w./+@-]+")  # of argv[0]: a title may go on with anything
IN_NAMES = ("service.namespace", "service.instance.id", "service.version")
ENVIRONMENT = ("deployment.environment.name", "deployment.environment")  # new and old: tools read either

Matcher = Callable[[str], object]


class _Seen(NamedTuple):
    """What /proc says of a process."""

    stat: procfs.Stat
    argv: tuple[str, ...]
    program: Program
    runs: Program  # whose name counts: the parent's, for its workers
    language: str
    told: Stated
    place: cgroup.Place


class _Draft(NamedTuple):
    """A process as far as it says itself what it is: to be described again when its tags change."""

    tgid: int
    given: str  # its name by service.rules
    names: dict[str, str]  # by word of service.order, those that tell one
    otherwise: str  # its name where none tells
    told: Stated
    facts: dict[str, Value]
    place: cgroup.Place
    shared: str
    version: str = ""  # of its jar
    nginx: bool = False
    loop: bool = False
    order: int = 0


class Tags(Protocol):
    """What the enricher knows of own processes: tags/own.py."""

    def node(self) -> dict[str, str]: ...

    def of(self, tgid: int, place: cgroup.Place, shared: str, created: str = "") -> tuple[dict[str, str], int]:
        """Tags of a process, those of the node included, and ProcessInfo.waits."""

    def retire(self, shared: str) -> None:
        """The process has ended."""


class Describer:
    """config: service.rules, resource.attributes, loki.labels. hidden: processes whose spans are not
    exported; the caller may change it. host: host.name, else resource.attributes' or the system's. proc:
    another /proc. containers: whose files name containers, else those of the host that process 1 sees. tags: of the
    enricher; None: there is none.
    """

    def __init__(
        self,
        config: Config,
        *,
        hidden: set[int],
        host: str | None = None,
        proc: str = "/proc",
        containers: Containers | None = None,
        tags: Tags | None = None,
    ) -> None:
        self.described = 0  # processes described, those that had gone included
        self.gone = 0  # of these: had ended before they could be described
        self.failed = 0  # of these: a fault of ours; described by their command name
        self._proc = proc
        self._hidden = hidden
        self._order = config.service.order
        self._containers = containers or Containers.of_host(proc)
        self._rules = [_rule(rule) for rule in config.service.rules]
        self._stream_labels = dict(config.loki.labels) if config.loki is not None else {}
        self._users = procfs.users(proc)
        self._cgroups = cgroup_ids.CgroupIds(proc)
        self._boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._gone_infos: dict[str, ProcessInfo] = {}  # by ProcessInfo.shared
        self._lives: dict[int, procfs.Life] = {}
        self._tags = tags
        self._peer_tags = config.enricher.peer_tags
        self._drafts: dict[str, _Draft] = {}  # by ProcessInfo.shared, where there are tags
        self._ended: list[tuple[str, ...]] = [
            (),
            (),
        ]  # drafts of processes that have ended: their last spans are on hold
        configured = {key: clean(value, 1024) for key, value in config.resource.attributes.items()}
        # in a pod the system's name is the pod's
        own = os.environ.get("NODE_NAME") or os.uname().nodename
        self._host = clean(host or configured.get("host.name", "") or own) or "localhost"
        self._found: dict[str, Value] = {
            "host.name": self._host,
            "host.id": procfs.machine_id(proc),
            "os.type": "linux",
        }
        self._configured: dict[str, Value] = {
            **{key: value for key, value in configured.items() if value},
            "telemetry.sdk.name": "zerospan",
            "telemetry.sdk.version": __version__,
        }
        if host:
            self._configured["host.name"] = self._host

    @property
    def host(self) -> dict[str, Value]:
        """Resource attributes of this host and of the configuration: what all descriptions share."""
        tags = self._tags.node() if self._tags is not None else {}
        common = {**self._found, **tags, **self._configured}
        return {key: value for key, value in common.items() if value != ""}

    def __call__(self, tgid: int, comm: str, cgroup_id: int = 0) -> ProcessInfo:
        """The description of a process. comm: the name of its thread that spoke, "" if not known. cgroup_id: its
        control group of version 2, by the kernel's word; 0: not told.
        """
        self.described += 1
        try:
            return self._describe(tgid, comm, cgroup_id)
        except Exception:  # the hot thread must go on, whatever a process has made of its /proc
            self.failed += 1
            return self._by_comm(tgid, comm, cgroup_id)

    describe = __call__

    def alive(self, tgids: Iterable[int]) -> set[int]:
        """Those that still run, and are the processes described, not later ones of the same number."""
        found = set()
        for tgid in procfs.alive(tgids, self._proc):
            was = self._lives.get(tgid)
            if was is None or self._same(tgid, was):
                found.add(tgid)
        gone = set(tgids) - found
        for tgid in gone:
            self._lives.pop(tgid, None)
        if self._tags is not None:
            self._retire(gone)
        return found

    def again(self, shared: str) -> ProcessInfo | None:
        """The description with the tags of now; None if the process has ended."""
        draft = self._drafts.get(shared)
        if draft is None:
            return None
        try:
            info = self._finish(draft)
        except Exception:  # as at the first time
            self.failed += 1
            return None
        if not draft.tgid:
            self._gone_infos[shared] = info
        return info

    def _retire(self, gone: set[int]) -> None:
        """Lets go the drafts of those that had ended at the last but one call."""
        for shared in self._ended.pop(0):
            if self._drafts.pop(shared, None) is not None and self._tags is not None:
                self._tags.retire(shared)
        self._ended.append(tuple(shared for shared, draft in self._drafts.items() if draft.tgid and draft.tgid in gone))

    def _same(self, tgid: int, was: procfs.Life) -> bool:
        folder = f"{self._proc}/{tgid}"
        try:
            if os.stat(folder).st_ino == was.inode:
                return True
        except OSError:
            return False
        # Another inode may be the kernel's cache at work: the start time decides.
        now = procfs.stat(folder)
        if now is None or now.life.start_ticks != was.start_ticks:
            return False
        self._lives[tgid] = now.life
        return True

    def _see(self, tgid: int, comm: str) -> _Seen | None:
        folder = f"{self._proc}/{tgid}"
        stat = procfs.stat(folder)
        if stat is None or stat.state in ("Z", "X"):
            return None
        argv = procfs.command_line(folder)
        p = program(procfs.link(f"{folder}/exe"), argv, procfs.link(f"{folder}/cwd"), comm)
        told = stated(procfs.read(f"{folder}/environ", procfs.ENVIRON_MAX))
        runs = self._parent(p, stat)
        language = runtime.language_of(p, f"{folder}/exe")
        return _Seen(stat, argv, p, runs, language, told, cgroup.of_process(folder))

    def attributes(self, tgid: int) -> dict[str, Value] | None:
        """The resource of a process alone, for who does not export it; None if there is no such process."""
        seen = self._see(tgid, "")
        return None if seen is None else self._attributes(self._draft(tgid, "", seen), {})

    def _draft(self, tgid: int, comm: str, seen: _Seen) -> _Draft:
        p, stat, language = seen.program, seen.stat, seen.language
        given, told = self._given(p, seen.argv), self._names(seen)
        otherwise = names.name_of(seen.runs)
        facts: dict[str, Value | None] = {
            "process.pid": tgid,
            "process.executable.name": clean(base(p.exe)) or clean(comm),
            "process.executable.path": clean(p.exe, 1024),
            "process.command": _command(p, seen.argv),
            "process.owner": self._owner(stat.uid, seen.place.container),
            "process.creation.time": self._created(stat.life),
            "process.runtime.name": runtime.runtime_of(p, language),
            "process.runtime.version": versions.version_of(p, language, f"{self._proc}/{tgid}"),
            "telemetry.sdk.language": language,
            "zerospan.systemd.unit": clean(seen.place.unit),
        }
        own = given or next((told[word] for word in self._order if told.get(word)), otherwise)
        return _Draft(
            tgid,
            given,
            told,
            otherwise,
            seen.told,
            {key: value for key, value in facts.items() if value},
            seen.place,
            f"process:{tgid}:{stat.life.start_ticks}:{p.exe}:{own}",
            clean(java.jar(seen.runs)[1]) if seen.runs.family == "java" else "",
            profiles.is_nginx(base(p.exe)),
            profiles.is_loop(seen.runs, language),
            profiles.order_of(base(p.exe)),
        )

    def _describe(self, tgid: int, comm: str, cgroup_id: int) -> ProcessInfo:
        seen = self._see(tgid, comm)
        if seen is None:
            self.gone += 1
            return self._by_comm(tgid, comm, cgroup_id)
        if cgroup_id and not seen.place.container:  # it may have ended while it was looked at
            told = self._cgroups.place(cgroup_id)
            seen = seen._replace(place=told) if told.container else seen
        self._remember(tgid, seen.stat.life)
        return self._finish(self._draft(tgid, comm, seen))

    def _by_comm(self, tgid: int, comm: str, cgroup_id: int) -> ProcessInfo:
        """Of a process of which nothing is known but the name, and perhaps the container."""
        place = self._cgroups.place(cgroup_id)
        shared = f"comm:{comm}" if not place.container else f"comm:{comm}:{place.container}"
        known = self._gone_infos.get(shared)
        if known is not None and tgid not in self._hidden:
            return known
        name = clean(comm)
        facts: dict[str, Value] = {"process.executable.name": name} if name else {}
        hidden = tgid in self._hidden
        draft = _Draft(
            0,
            "",
            {},
            names.name_of_comm(comm),
            Stated("", {}),
            facts,
            place,
            "" if hidden else shared,
            loop=profiles.is_loop_comm(comm),
        )
        info = msgspec.structs.replace(self._finish(draft, keep=not hidden), tgid=tgid, hidden=hidden)
        if not hidden:
            if len(self._gone_infos) >= GONE_MAX:
                self._let_go(next(iter(self._gone_infos)))
            self._gone_infos[shared] = info
        return info

    def _let_go(self, shared: str) -> None:
        self._gone_infos.pop(shared, None)
        if self._drafts.pop(shared, None) is not None and self._tags is not None:
            self._tags.retire(shared)

    def _finish(self, draft: _Draft, *, keep: bool = True) -> ProcessInfo:
        """With the tags of now."""
        tags: dict[str, str] = {}
        waits = 0
        if self._tags is not None:
            created = str(draft.facts.get("process.creation.time", ""))
            tags, waits = self._tags.of(draft.tgid, draft.place, draft.shared if keep else "", created)
            if draft.shared and keep:
                self._drafts[draft.shared] = draft
        attributes = self._attributes(draft, tags)
        service = str(attributes["service.name"])
        namespace = str(attributes.get("service.namespace", ""))
        enriched = self._tags is not None
        return ProcessInfo(
            tgid=draft.tgid,
            service=service,
            resource=encode_resource(attributes),
            labels=labels.stream(service, self._stream_labels, attributes),
            series=labels.series(service, namespace, str(attributes["service.instance.id"])),
            target_info=labels.target_info(attributes),
            nginx=draft.nginx,
            loop=draft.loop,
            order=draft.order,
            hidden=draft.tgid in self._hidden,
            shared=draft.shared,
            namespace=namespace,
            meta=labels.metadata(attributes, tags) if enriched else b"",
            peer=stamp(attributes, self._peer_tags) if enriched else None,
            waits=waits,
        )

    def _attributes(self, draft: _Draft, tags: Mapping[str, str]) -> dict[str, Value]:
        """Least first: what was found here, what the enricher says, the agent's settings, what the process says of
        itself; its name by `service.order`.
        """
        attributes: dict[str, Value] = {
            "service.name": "",  # first, for people
            "service.instance.id": f"{self._host}:{draft.tgid}" if draft.tgid else self._host,
            **self._found,
            **{key: clean(value, 1024) for key, value in tags.items()},
            **self._configured,
            **draft.told.attributes,
        }
        attributes["service.name"] = self._name(draft, tags)
        for key in IN_NAMES:
            if key in attributes:
                attributes[key] = clean(str(attributes[key]))
        new, old = ENVIRONMENT
        if new in attributes or old in attributes:
            attributes.setdefault(new, attributes.get(old, ""))
            attributes.setdefault(old, attributes[new])
        if draft.version and not attributes.get("service.version"):
            attributes["service.version"] = draft.version
        attributes |= draft.facts
        if draft.place.container:
            attributes.setdefault("container.id", draft.place.container)
        return {key: value for key, value in attributes.items() if value != ""}

    def _name(self, draft: _Draft, tags: Mapping[str, str]) -> str:
        if draft.given:
            return draft.given
        for word in self._order:
            found = clean(tags.get("service.name", "")) if word == "kubernetes" else draft.names.get(word, "")
            if found:
                return found
        return draft.otherwise

    def _names(self, seen: _Seen) -> dict[str, str]:
        """service.name by each word of `service.order` that tells one here."""
        place = seen.place
        found = {"env": seen.told.service}
        program_name = names.name_of(seen.runs)
        if "systemd" in self._order and not place.container:
            found["systemd"] = units.name_of_unit(place.unit)
        if "container" in self._order and place.container and not place.pod:
            details = self._containers.find(place.container)
            found["container"] = details.service_name() if details is not None else ""
        if not program_name.startswith(names.UNKNOWN):
            found["executable"] = program_name
        return {word: name for word, name in found.items() if name}

    def _given(self, p: Program, argv: tuple[str, ...]) -> str:
        """The name of the first rule that matches, else ""."""
        if self._rules:
            line = " ".join(argv)
            for exe, cmdline, name in self._rules:
                if (exe is None or (p.exe and exe(p.exe))) and (cmdline is None or cmdline(line)):
                    return name
        return ""

    def _parent(self, p: Program, stat: procfs.Stat) -> Program:
        """The program of the parent, if this is a worker that Python's multiprocessing has spawned for it."""
        for _ in range(2):  # a fork server may stand between
            if p.family != "python" or stat.parent <= 1 or not python.is_child(p):
                break
            folder = f"{self._proc}/{stat.parent}"
            above = procfs.stat(folder)
            if above is None:
                break
            argv, exe = procfs.command_line(folder), procfs.link(f"{folder}/exe")
            p, stat = program(exe, argv, procfs.link(f"{folder}/cwd"), ""), above
        return p

    def _owner(self, uid: int, container: str) -> str:
        """The host's name of the user; in a container, whose users are others, the number, except root."""
        return self._users.get(uid, str(uid)) if not container or uid == 0 else str(uid)

    def _created(self, life: procfs.Life) -> str:
        """ISO 8601 in UTC with milliseconds; good to a clock tick (10 ms)."""
        if not life.start_ticks:
            return ""
        at = datetime.fromtimestamp(self._boot + life.start_ticks / procfs.TICKS, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _remember(self, tgid: int, life: procfs.Life) -> None:
        if len(self._lives) >= LIVES_MAX:
            del self._lives[next(iter(self._lives))]
        self._lives[tgid] = life


def _rule(rule: ServiceRule) -> tuple[Matcher | None, Matcher | None, str]:
    exe, cmdline = rule.match.exe, rule.match.cmdline
    return _glob(exe), _glob(cmdline), clean(rule.name) or names.UNKNOWN


def _glob(pattern: str | None) -> Matcher | None:
    """fnmatch's translation does not backtrack over its stars, so time is linear for each of them."""
    return None if pattern is None else re.compile(fnmatch.translate(pattern)).match


def _command(p: Program, argv: tuple[str, ...]) -> str:
    """argv[0] without what a title adds to it; no argument is shown, since it may hold a secret."""
    match = COMMAND.match(argv[0]) if argv else None
    return clean(match[0] if match else base(p.exe), 1024)
