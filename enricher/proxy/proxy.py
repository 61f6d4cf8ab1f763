"""The whole proxy: one thread with an asyncio loop, its listeners, the way to the endpoint. Made by enricher/run.py.

Assumes the store outlives it. start() returns when the listeners are bound; stop() gives what is in flight a time, then
tells the senders to come again.
"""

import asyncio
import concurrent.futures
import logging
import threading

import msgspec

from zerospan.enricher.proxy.config import ProxyConfig, Signal, problems
from zerospan.enricher.proxy.forward import Forwarder, upstream
from zerospan.enricher.proxy.intake import Intake
from zerospan.enricher.proxy.ledger import Ledger, SignalStats
from zerospan.enricher.proxy.resources import Resources, ResourceStats
from zerospan.enricher.proxy.server_http import HttpServer
from zerospan.enricher.security import Rights
from zerospan.enricher.store import TagStore

log = logging.getLogger("zerospan.proxy")

START_S = 15.0


class ProxyStats(msgspec.Struct, kw_only=True):
    """Of this moment; on /metrics."""

    signals: dict[Signal, SignalStats]
    resources: ResourceStats
    crowded: int  # resources left as they were: over 256 KiB, or their request would have grown too much
    held_bytes: int  # of requests that are not answered yet
    limit_bytes: int
    connections: int  # HTTP
    turned_away: int  # HTTP connections beyond max_senders
    not_found: int  # HTTP requests that are no OTLP
    failing: bool  # the last attempt at the endpoint did not work
    last_error: str


class Proxy:
    """Raises ValueError for a configuration that cannot be."""

    def __init__(self, store: TagStore, config: ProxyConfig, rights: Rights) -> None:
        wrong = problems(config)
        if wrong:
            raise ValueError("; ".join(f"{'.'.join(key)}: {text}" for key, text in wrong))
        self.grpc_port = 0  # where it listens, once it is started; 0: not
        self.http_port = 0
        self._config = config
        self._rights = rights
        self._ledger = Ledger(config.queue_bytes)
        self._resources = Resources(store, config.associate, overwrite=config.overwrite, cache_bytes=config.cache_bytes)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._main, name="zs-proxy", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._grace_s = 0.0
        self._intake: Intake | None = None
        self._forwarder: Forwarder | None = None
        self._http: HttpServer | None = None

    def start(self) -> None:
        """Listens. Raises OSError (address in use, TLS files), ImportError without grpcio."""
        self._thread.start()
        self._started.result(START_S)

    def stop(self, grace_s: float = 2.0) -> None:
        """Takes nothing more; what is in flight has grace_s seconds. Repeatable; returns within grace_s + 3 s."""
        loop, stop = self._loop, self._stop
        if loop is None or stop is None:
            return
        self._grace_s = grace_s
        try:
            loop.call_soon_threadsafe(stop.set)
        except RuntimeError:  # it has ended
            return
        self._thread.join(grace_s + 3)

    def stats(self) -> ProxyStats:
        """A snapshot, from any thread."""
        http, forwarder = self._http, self._forwarder
        return ProxyStats(
            signals=self._ledger.snapshot(),
            resources=msgspec.structs.replace(self._resources.stats),
            crowded=self._intake.crowded if self._intake else 0,
            held_bytes=self._ledger.held_bytes,
            limit_bytes=self._ledger.limit_bytes,
            connections=http.connections if http else 0,
            turned_away=http.turned_away if http else 0,
            not_found=http.not_found if http else 0,
            failing=bool(forwarder and forwarder.failing),
            last_error=forwarder.last_error if forwarder else "",
        )

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as e:
            if not self._started.done():
                self._started.set_exception(e)
            else:
                log.exception("proxy: ended by an error of our own")

    async def _run(self) -> None:
        config = self._config
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        way = upstream(config)
        grpc_server = None
        try:
            self._forwarder = Forwarder(config, way)
            intake = self._intake = Intake(config, self._rights, self._ledger, self._resources, self._forwarder)
            if config.listen_http is not None:
                self._http = HttpServer(config, self._rights, intake)
                self.http_port = await self._http.start(config.listen_http)
            if config.listen_grpc is not None:
                from zerospan.enricher.proxy.server_grpc import GrpcServer  # grpcio only where it is used

                grpc_server = GrpcServer(config, self._rights, intake)
                self.grpc_port = await grpc_server.start(config.listen_grpc)
            self._started.set_result(None)
            await self._stop.wait()
            intake.stopping = True
            self._forwarder.stop()
            grace = asyncio.create_task(grpc_server.stop(self._grace_s + 1)) if grpc_server is not None else None
            if self._http is not None:
                await self._http.stop()
            await intake.drain(self._grace_s)
            if grace is not None:
                await grace
            await asyncio.sleep(0)  # the last answers are written
        finally:
            if self._http is not None:
                await self._http.close()
            if grpc_server is not None:
                await grpc_server.stop(0)
            await way.close()
