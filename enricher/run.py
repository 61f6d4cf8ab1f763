"""The whole topology of the enricher, from sources to faces, in one function; and what runs it.

sources -> store -> tag service (gRPC, Unix socket)
                 -> HTTP: /metrics, /lookup, /healthz, /readyz
                 -> OTLP proxy
"""

import contextlib
import json
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from zerospan.enricher.config import Config
from zerospan.enricher.lookup import PROC, candidates
from zerospan.enricher.metrics import Exposition, State
from zerospan.enricher.security import Rights
from zerospan.enricher.service import TagService
from zerospan.enricher.source import Source
from zerospan.enricher.sources import registry
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.enricher.upstream import UpstreamSource
from zerospan.exporter.sinks.prometheus import MetricsServer

log = logging.getLogger(__name__)

SWEEP_S = 60.0
SYNC_LOOK_S = 0.2
PUBLIC = frozenset(("/healthz", "/readyz"))
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class Face(Protocol):
    """What is served beside the tag service and HTTP: the OTLP proxy."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def stats(self) -> Any: ...


def node_name(config: Config, env: Mapping[str, str] = os.environ) -> str:
    """This node's name: configured, NODE_NAME, the host's."""
    return config.node or env.get("NODE_NAME", "") or socket.gethostname()


class Enricher:
    """All parts of a running enricher. Made by build(); start(), then stop()."""

    def __init__(self, config: Config, node: str, store: TagStore, rights: Rights) -> None:
        self.config, self.node, self.store, self.rights = config, node, store, rights
        self.sources: dict[str, Source] = {}
        self.upstream: UpstreamSource | None = None
        self.service: TagService | None = None
        self.http: MetricsServer | None = None
        self.proxy: Face | None = None
        self.answers: dict[bytes, Any] = {}  # kind of key -> the source's pieces(), for what is not in the store
        self._running = False  # the sources have been started
        self._synced = False
        self._looked = 0.0
        self._stopping = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="zerospan-sweep", daemon=True)
        self._started: list[tuple[str, Callable[[], None]]] = []

    def start(self) -> None:
        """Starts sources, then faces. What had started is stopped if one cannot. Raises OSError and what a source's
        start raises.
        """
        parts: list[tuple[str, Any, Callable[[], None] | None]] = []
        if self.service is not None:
            service = self.service
            parts.append(("tag service", service, lambda: service.stop(min(2.0, self.config.limits.stop_s))))
        parts += [(name, p, None) for name, p in (("http", self.http), ("proxy", self.proxy)) if p is not None]
        try:
            for name, source in self.sources.items():
                source.start()
                self._started.append((name, source.stop))
            self._running = True
            for name, part, stop in parts:
                part.start()
                self._started.append((name, stop or part.stop))
        except BaseException:
            self.stop()
            raise
        self._sweeper.start()

    def stop(self) -> None:
        """Stops all in reverse; what takes longer than limits.stop_s is left behind, and said."""
        deadline = time.monotonic() + self.config.limits.stop_s
        self._stopping.set()
        for name, stop in reversed(self._started):
            thread = threading.Thread(target=_quietly, args=(name, stop), daemon=True)
            thread.start()
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("%s did not stop in time", name)
        self._started.clear()

    def in_sync(self) -> bool:
        """Whether every source has been in sync; it stays so."""
        now = time.monotonic()
        if self._running and not self._synced and now - self._looked > SYNC_LOOK_S:
            self._looked = now
            self._synced = all(source.stats().in_sync for source in self.sources.values())
        return self._synced

    def waiting_for(self) -> str:
        """The sources that are not in sync yet, with their last errors."""
        waits = []
        for name, source in self.sources.items():
            stats = source.stats()
            if not stats.in_sync:
                waits.append(f"{name} ({stats.last_error})" if stats.last_error else name)
        return ", ".join(waits)

    def state(self) -> State:
        """For /metrics."""
        assert self.service is not None
        sources = {name: source.stats() for name, source in self.sources.items()}
        return State(
            in_sync=self.in_sync(),
            sources=sources,
            service=self.service.stats(),
            http=self.http.stats() if self.http is not None else {},
            upstream_refused=self.upstream.refused if self.upstream is not None else 0,
            more=registry.find("zerospan.enricher.proxy.metrics:families")(self.proxy.stats()) if self.proxy else (),
        )

    def find(self, key: bytes) -> TagSet | None:
        """What the key is now, by the store or the source that answers for its kind."""
        answer = self.answers.get(key[:1])
        if answer is None:
            return self.store.find(key)
        pieces = answer(key, 0)
        return pieces[-1].tags if pieces and not pieces[-1].until_ns else None

    # -- pages

    def lookup(self, query: dict[str, list[str]]) -> tuple[int, str, bytes]:
        """/lookup?key=...: one JSON object of tags."""
        wanted = query.get("key", [])
        if len(wanted) != 1:
            return 400, TEXT, b"expected /lookup?key=ADDRESS, CONTAINER, PID, POD-UID or NODE\n"
        try:
            found = candidates(wanted[0], self.node, PROC if self.config.scope == "node" else None)
        except ValueError as e:
            return 400, TEXT, f"{e}\n".encode()
        for key in found:
            tags = self.find(key)
            if tags is not None:
                return 200, JSON, json.dumps(tags.tags(), ensure_ascii=False, sort_keys=True).encode() + b"\n"
        return 404, TEXT, b"nothing is known of it\n"

    def ready(self, _: dict[str, list[str]]) -> tuple[int, str, bytes]:
        """/readyz."""
        return (200, TEXT, b"ok\n") if self.in_sync() else (503, TEXT, b"not ready\n")

    def _sweep(self) -> None:
        while not self._stopping.wait(SWEEP_S):
            self.store.sweep()


def _quietly(name: str, stop: Callable[[], None]) -> None:
    try:
        stop()
    except Exception:
        log.exception("%s could not be stopped", name)


def build(config: Config) -> Enricher:
    """Builds every part; starts none. Raises ImportError for a source that is not installed, OSError or ValueError for
    files that cannot be used, what a source's constructor raises.
    """
    node = node_name(config)
    limits = config.limits
    store = TagStore(keep_s=limits.keep_s, max_keys=limits.max_keys)
    try:
        rights = Rights(config.security)
    except ValueError as e:
        raise OSError(f"security: {e}") from None
    made = Enricher(config, node, store, rights)
    if config.upstream is not None:
        made.upstream = UpstreamSource(store, config.upstream, node)
        made.sources["upstream"] = made.upstream
    for name in config.sources.__struct_fields__:
        settings = getattr(config.sources, name)
        if getattr(settings, "enabled", True) and (config.scope == "node" or not registry.SOURCES[name].of_node):
            own = node if config.scope == "node" else ""
            made.sources[name] = registry.build(name, store, completed(settings, config), own)
    for source in made.sources.values():
        made.answers.update(dict.fromkeys(getattr(source, "answers", ()), getattr(source, "pieces", None)))
    introduce(made.sources)

    listen = [address for address in (config.listen.grpc,) if address]
    if config.listen.unix is not None:
        listen.append(f"unix:{config.listen.unix}")
    made.service = TagService(
        store,
        listen,
        rights,
        made.in_sync,
        stall_s=limits.stall_s,
        max_wants=limits.max_wants,
        stream_bytes=limits.stream_bytes,
        on_want=made.upstream.want if made.upstream is not None else None,
        on_drop=made.upstream.drop if made.upstream is not None else None,
        answers=made.answers,
    )
    if config.proxy is not None:
        made.proxy = registry.find("zerospan.enricher.proxy.proxy:Proxy")(store, config.proxy, rights)
    if config.listen.http is not None:
        own = node if config.scope == "node" else ""
        exposition = Exposition(store, made.state, own=own, max_targets=limits.target_info)
        made.http = MetricsServer(
            config.listen.http,
            exposition.render,
            limits.http_connections,
            key="listen.http",
            tls=rights.ssl_context(),
            allow=rights.check,
            public=PUBLIC,
            pages={"/lookup": made.lookup, "/readyz": made.ready},
        )
    return made


def introduce(sources: Mapping[str, Source]) -> None:
    """Makes the kubelet's source look at once where the host's meets a pod's new control group."""
    containers = getattr(sources.get("os"), "containers", None)
    look = getattr(sources.get("kubelet"), "hint", None)
    if containers is None or look is None:
        return

    def new(container_id: str, pod_uid: str, path: str) -> None:
        if pod_uid:
            look()

    containers.on_new(new)


def completed(settings: Any, config: Config) -> Any:
    """A source's settings with what the whole configuration knows: the cluster's name and uid."""
    known = {"cluster_name": config.cluster.name, "cluster_uid": config.cluster.uid}
    missing = {k: v for k, v in known.items() if v and getattr(settings, k, None) == ""}
    return msgspec.structs.replace(settings, **missing) if missing else settings


def raise_descriptors() -> None:
    """As many open connections as the system lets us have: a subscriber is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
