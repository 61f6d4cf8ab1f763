"""The source that people write: names and tags of address ranges, addresses, ports and nodes, inline or in a YAML file.

    entries:
      - {name: orders-db, addresses: [10.0.16.0/24], tags: {cloud.provider: aws, db.owner: team-orders}}
      - {name: vault, addresses: ["10.0.0.7:8200", "[2001:db8::7]:8200"]}
      - {nodes: [n1], tags: {rack: "7"}}
      - {match: {k8s.namespace.name: shop, container.image.name: "*/cart"}, tags: {team: shop}}
      - {match: {process.executable.path: /opt/legacy/*}, tags: {service.name: legacy}}

A range lies under everything that other sources know of an address; an address, a port or a node stands over it. What a
wider range says holds in a narrower one, too, unless that says otherwise; so do the tags of an address and its ranges
for its ports. The file is read again when it changes; a version that is wrong is refused whole, told once and counted,
and the one before stays. Made by registry.py; `problems` is for the check of the configuration.
"""

import difflib
import ipaddress
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from zerospan.enricher import keys
from zerospan.enricher.names import SERVICE_NAME, TAGS
from zerospan.enricher.source import Layer, SourceStats
from zerospan.enricher.sources.match import Matcher, Rule
from zerospan.enricher.store import Network, TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.exporter.config import shape
from zerospan.exporter.config.model import Section
from zerospan.exporter.config.shape import Complain, Path
from zerospan.exporter.config.tree import ConfigError, Tree, dotted

log = logging.getLogger("zerospan.enricher.static")

MAX_TEXT = 256
PAUSE_S = 0.02
TAG_NAME = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*")
FAMILIES = tuple(name for name in TAGS if name.endswith("."))
PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[^:/]*)):(?P<port>\d{1,5})(?:/(?P<protocol>tcp|udp))?")
ADVICE = "expected an address, a range (10.0.16.0/20) or a port of an address (10.0.0.7:5432, [::1]:53/udp)"

Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Tags = dict[str, str]


class Entry(Section, frozen=True):
    """What is said of some addresses, of some nodes, or of all that fits."""

    name: Annotated[
        str, Meta(description="What people call these addresses: `zerospan.range.name`, and `service.name`.")
    ] = ""
    addresses: Annotated[
        tuple[Text, ...],
        Meta(description="Ranges (10.0.16.0/20), addresses, ports of addresses (10.0.0.7:5432, [::1]:53/udp)."),
    ] = ()
    nodes: Annotated[tuple[Text, ...], Meta(description="Names of nodes or hosts; they take the tags only.")] = ()
    match: Annotated[
        dict[str, str],
        Meta(
            description="Names of tags and globs: whatever other sources know by tags that fit all of these takes"
            " `tags`, which win."
        ),
    ] = {}
    tags: Annotated[dict[str, str], Meta(description="Further tags, known ones (docs/tags.md) or your own.")] = {}


class StaticConfig(Section, frozen=True):
    """Names and tags that people write down."""

    file: Annotated[str, Meta(description="YAML file with `entries`; read again when it changes.")] = ""
    entries: Annotated[tuple[Entry, ...], Meta(description="The same, in this configuration.")] = ()
    poll_s: Annotated[float, Meta(ge=0.01, le=3600, description="Time between two looks at the file.")] = 2


class File(Section, frozen=True):
    """The file's content."""

    entries: tuple[Entry, ...] = ()


class Table:
    """What the entries say, by what they say it of; checked while it is made."""

    def __init__(self) -> None:
        self.ranges: dict[Network, Tags] = {}
        self.points: dict[bytes, Tags] = {}
        self.nodes: dict[bytes, str] = {}
        self.doubts: list[str] = []  # tags that look like a mistyped one
        self.rules: list[Rule] = []
        self._asked: list[tuple[str, Path, Complain]] = []  # what rules ask for
        self._ports: dict[bytes, str] = {}  # endpoint -> its address

    def add(self, entry: Entry, path: Path, complain: Complain) -> None:
        """Takes an entry in; complain(path, text) for all that is wrong with it."""
        if not entry.addresses and not entry.nodes and not entry.match:
            complain(path, "names nothing; give it addresses, nodes or match")
        elif entry.name and not entry.addresses:
            complain((*path, "name"), "is of addresses, and there are none; put what is said of others into tags")
        elif not entry.name and not entry.tags:
            complain(path, "says nothing; give it a name or tags")
        if problem := _text_problem(entry.name):
            complain((*path, "name"), problem)
        for name, value in entry.tags.items():
            at = (*path, "tags", name)
            problem = self._name_problem(name) or ("is empty" if not value else _text_problem(value))
            if problem:
                complain(at, problem)
        own = dict(entry.tags)
        named = own
        if entry.name:
            named = {SERVICE_NAME: entry.name, "zerospan.range.name": entry.name} | own
        for i, text in enumerate(entry.addresses):
            self._address(text, named, (*path, "addresses", str(i)), complain)
        for i, node in enumerate(entry.nodes):
            key = keys.node(node)
            if key in self.points:
                complain((*path, "nodes", str(i)), f"{node} stands in two entries; put all that is said of it into one")
            self.points[key] = own
            self.nodes[key] = node
        for name, glob in entry.match.items():
            if not glob:
                complain((*path, "match", name), "is empty; * stands for anything")
            self._asked.append((name, (*path, "match", name), complain))
        if entry.match:
            self.rules.append(Rule(entry.match, own))

    def finish(self) -> None:
        """After the last `add`. Narrower ranges take what wider ones say, ports what their address's entry and range
        say.
        """
        said = {name for rule in self.rules for name in rule.tags}
        for name, path, complain in self._asked:
            if name in said:
                complain(path, f"{name} is set by an entry with match; ask for what other sources say")
        done: dict[Network, Tags] = {}
        lengths: list[int] = []  # of the prefixes so far, the longest last
        for net in sorted(self.ranges, key=lambda n: n.prefixlen):
            done[net] = self._around(net, done, lengths) | self.ranges[net]
            if net.prefixlen not in lengths:
                lengths.append(net.prefixlen)
        self.ranges = done
        for key, text in self._ports.items():
            over = self._around(ipaddress.ip_network(text), done, lengths) | self.points.get(keys.address(text), {})
            self.points[key] = over | self.points[key]

    @staticmethod
    def _around(net: Network, done: dict[Network, Tags], lengths: list[int]) -> Tags:
        """What the narrowest of the ranges around it says, which has what the wider ones say."""
        for bits in reversed(lengths):
            if bits < net.prefixlen and (found := done.get(net.supernet(new_prefix=bits))) is not None:
                return found
        return {}

    def _address(self, text: str, tags: Tags, path: Path, complain: Complain) -> None:
        twice = f"{text} stands in two entries; put all that is said of it into one"
        try:
            if port := PORT.fullmatch(text):
                number, at = int(port["port"]), port["v6"] or port["v4"] or ""
                if not 1 <= number <= 65535:
                    raise ValueError(number)
                key = keys.endpoint(at, number, keys.UDP if port["protocol"] == "udp" else keys.TCP)
                self._ports[key] = str(ipaddress.ip_address(at))
            else:
                net = ipaddress.ip_network(text, strict=False)
                if "/" in text and net.prefixlen < net.max_prefixlen:
                    if ipaddress.ip_interface(text).ip != net.network_address:
                        complain(path, f"{text} is an address within a range; the range is {net}")
                    elif net in self.ranges:
                        complain(path, twice)
                    self.ranges[net] = tags
                    return
                key = keys.address(str(net.network_address))
        except ValueError:
            complain(path, f"{ADVICE}, got {text!r}")
            return
        if key in self.points:
            complain(path, twice)
        self.points[key] = tags

    def _name_problem(self, name: str) -> str:
        if name in TAGS and not name.endswith("."):
            return ""
        if any(name.startswith(family) and len(name) > len(family) for family in FAMILIES):
            return _text_problem(name)
        if not TAG_NAME.fullmatch(name) or len(name) > MAX_TEXT:
            return "is no name of a tag; use lower case letters, digits and _, with dots between (team, db.owner)"
        if near := difflib.get_close_matches(name, TAGS, n=1, cutoff=0.9):
            self.doubts.append(f"{name} is a tag of your own; did you mean {near[0]}?")
        return ""


def _text_problem(text: str) -> str:
    if len(text) > MAX_TEXT:
        return f"is longer than {MAX_TEXT} characters"
    return "" if text.isprintable() else "has characters that cannot be printed"


def read(file: str) -> tuple[tuple[Entry, ...], Tree]:
    """The file's entries, and the tree that knows their lines. Raises ConfigError."""
    tree = Tree()
    tree.lay_file(file)
    wrong: list[str] = []
    shape.check(shape.root(File), tree.values, (), lambda at, text: wrong.append(tree.problem(at, text)))
    if wrong:
        raise ConfigError(wrong)
    entries = tree.values.get("entries") or ()
    return msgspec.convert([e or {} for e in entries], tuple[Entry, ...]), tree


def table(config: StaticConfig) -> Table:
    """All that configuration and file say. Raises ConfigError with all that is wrong, in the file with its line."""
    wrong: list[str] = []
    made = Table()
    for i, entry in enumerate(config.entries):
        made.add(entry, ("entries", str(i)), lambda at, text: wrong.append(_inline(at, text)))
    if config.file:
        try:
            entries, tree = read(config.file)
        except ConfigError as e:
            raise ConfigError(wrong + e.problems) from None
        for i, entry in enumerate(entries):
            made.add(entry, ("entries", str(i)), lambda at, text: wrong.append(tree.problem(at, text)))
    made.finish()
    if wrong:
        raise ConfigError(wrong)
    return made


def _inline(path: Path, text: str) -> str:
    return f"configuration: {dotted(('sources', 'static', *path))}: {text}"


def problems(config: StaticConfig) -> Iterator[str]:
    """What is wrong beyond types and ranges, in a user's words, the file's content included."""
    try:
        table(config)
    except ConfigError as e:
        yield from e.problems


class StaticSource:
    """clock: Unix time in ns."""

    name = "static"

    def __init__(self, store: TagStore, config: StaticConfig, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._store, self._config, self._clock = store, config, clock
        self._stats = SourceStats()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ranges: dict[Network, TagSet] = {}
        self._points: dict[bytes, TagSet] = {}
        self._stamp: tuple[int, ...] | None = None
        self._current = time.monotonic()  # when what is told was last seen to be what is written
        self._good = False
        self._unread = False  # the last look could not read it: the next one tries again, whatever the stamp
        self._matcher = Matcher(store)
        self._wake = threading.Event()

    def start(self) -> None:
        """All entries are in the store when it returns."""
        self._look()
        if self._config.file or self._matcher.rules:
            self._store.listen(self._changed)
            self._wake.set()
            self._thread = threading.Thread(target=self._run, name="static", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(2)

    def stats(self) -> SourceStats:
        """in_sync: the file as it is now is in the store; lag_s: for how long it has not been."""
        self._stats.entities["match"] = len(self._matcher)
        self._stats.in_sync = self._good
        self._stats.lag_s = 0.0 if self._good else time.monotonic() - self._current
        return self._stats

    def _run(self) -> None:
        look = time.monotonic() + self._config.poll_s
        while not self._stop.is_set():
            if self._wake.wait(max(0.0, look - time.monotonic())):
                self._wake.clear()
                self._follow()
                self._stop.wait(PAUSE_S)  # changes come in swarms; those that come now are seen together
            if time.monotonic() >= look:
                self._look()
                look = time.monotonic() + self._config.poll_s

    def _changed(self) -> None:
        if self._matcher.rules:
            self._wake.set()

    def _follow(self) -> None:
        try:
            self._stats.changes += self._matcher.follow()
        except Exception as e:  # a source never raises out of its thread
            self._stats.last_error = f"{type(e).__name__}: {e}"
            log.warning("static entries with match", exc_info=e)
            self._stats.errors += 1

    def _look(self) -> None:
        """Reads all again if the file is another than at the last look. Never raises."""
        stamp = self._file_stamp()
        same = stamp == self._stamp
        if same and not self._unread:
            if self._good:
                self._current = time.monotonic()
            return
        again, self._stamp = self._stamp is not None, stamp  # of before the reading: what is written meanwhile is seen
        try:
            made = table(self._config)
            self._tell(made, 0 if not self._ranges and not self._points and not again else self._clock())
        except Exception as e:  # a source never raises out of its thread
            self._good, self._unread = False, _unread(e)
            known = isinstance(e, ConfigError)
            text = str(e).partition("\n")[0] if known else f"{type(e).__name__}: {e}"
            if same and text == self._stats.last_error:
                return  # as before, and said
            self._stats.last_error = text
            kept = "; the version before stays" if self._ranges or self._points else ""
            for problem in e.problems[:20] if isinstance(e, ConfigError) else ():
                log.warning("static entries refused%s: %s", kept, problem)
            if not known:
                log.warning("static entries refused%s", kept, exc_info=e)
            self._stats.errors += 1
            return
        self._good, self._unread, self._current = True, False, time.monotonic()
        for doubt in made.doubts:
            log.warning("static entries: %s", doubt)

    def _file_stamp(self) -> tuple[int, ...]:
        if not self._config.file:
            return ()
        try:
            at = os.stat(self._config.file)
        except OSError as e:
            return (e.errno or -1,)
        # the inode: a ConfigMap's link is turned; ctime: who may read it has changed
        return at.st_mtime_ns, at.st_ctime_ns, at.st_size, at.st_ino, at.st_dev

    def _tell(self, made: Table, since_ns: int) -> None:
        """The store holds what `made` says and nothing else of ours. since_ns 0: it has always been so."""
        store, stats = self._store, self._stats
        with store.batch():
            ranges = {net: store.make(tags) for net, tags in made.ranges.items()}
            points = {key: store.make(tags) for key, tags in made.points.items()}
            for net in self._ranges.keys() - ranges.keys():
                store.put_range(net, None)
                stats.changes += 1
            for net, tags in ranges.items():
                if self._ranges.get(net) is not tags:
                    store.put_range(net, tags)
                    stats.changes += 1
            for key in self._points.keys() - points.keys():
                stats.changes += store.end(key, layer=Layer.STATIC, at_ns=since_ns)
            for key, tags in points.items():
                if self._points.get(key) is not tags:
                    node = made.nodes.get(key, "")
                    stats.changes += store.put(key, tags, layer=Layer.STATIC, since_ns=since_ns, node=node)
        self._ranges, self._points = ranges, points
        stats.changes += self._matcher.set(made.rules, frozenset(points), since_ns)
        stats.entities = {"range": len(ranges), **_count(points)}


def _unread(e: BaseException | None) -> bool:
    """Whether it was the file that could not be read, not what stands in it that is wrong."""
    while e is not None and not isinstance(e, OSError):
        e = e.__context__
    return e is not None


def _count(points: Iterable[bytes]) -> dict[str, int]:
    names = {keys.ADDRESS: "address", keys.ENDPOINT: "endpoint", keys.NODE: "node"}
    found = dict.fromkeys(names.values(), 0)
    for key in points:
        found[names[key[:1]]] += 1
    return found
