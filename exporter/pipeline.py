"""The whole topology, from source to sinks, in one function; and the thread that drives it.

    capture (kernel) -> ring -> Engine: flows -> hold -> metrics, encoders -> batches -> sinks
                                                            |
                                        /metrics  <---------+--------> control socket (status)

All stages are built before any starts; they stop in reverse order, with a deadline. In place of the kernel
a recording can be the source (Replay): then the steps of the loop and their times are those of the
recording, and the sinks set the pace.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zerospan import __version__
from zerospan.exporter.config import Config
from zerospan.exporter.engine import Engine
from zerospan.exporter.link.exchange import Exchange
from zerospan.exporter.link.shared import Shared
from zerospan.exporter.link.store import MEMORY
from zerospan.exporter.metrics.exposition import Exposition
from zerospan.exporter.metrics.red import Red
from zerospan.exporter.process import Describer
from zerospan.exporter.process.network import network_info
from zerospan.exporter.selfmon.control import ControlServer
from zerospan.exporter.selfmon.counters import DROPS
from zerospan.exporter.selfmon.ledger import Ledger, ledger
from zerospan.exporter.selfmon.metrics import self_metrics
from zerospan.exporter.sinks.base import Batch, Signal, Sink
from zerospan.exporter.sinks.build import build as build_sinks
from zerospan.exporter.sinks.build import stop_all
from zerospan.exporter.sinks.console import TreeSink
from zerospan.exporter.sinks.prometheus import MetricsServer
from zerospan.exporter.source import replay as steps
from zerospan.exporter.source.capture import Capture, Filters
from zerospan.exporter.source.nic import Nics
from zerospan.exporter.source.recording import Describe, Tape
from zerospan.exporter.source.replay import Replay
from zerospan.exporter.tags.table import PeerTable

if TYPE_CHECKING:
    from zerospan.exporter.tags.follow import Follower
    from zerospan.exporter.tags.own import Own

log = logging.getLogger(__name__)

IDLE_NS = 60_000_000_000  # a thread or an id on the wire that was silent for so long is forgotten
IDLE_DRAINS = 2  # work in small pieces where there is some: whoever shares the core waits for one; few turns else
SLEEP_S = 0.02  # so late may stop() be heard
HOUSEKEEPING_S = 10.0
STOP_S = 10.0
ROOM = 0.5  # share of a sink's queue beyond which a replay waits


def wall_offset() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC, ns; the wall clock may be set while we run.

    Of the reading that was interrupted least, or spans would be off by the time for which the thread had no CPU.
    """
    best, offset = 1 << 62, 0
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < best:
            best, offset = after - before, wall - (before + after) // 2
        if best < 5_000:
            break
    return offset


def lost_messages(kernel: dict[str, int]) -> int:
    """Records of processes' messages for which the ring had no room. Those of interfaces do not count."""
    return sum(n for name, n in kernel.items() if name.startswith("ring_full") and name != "ring_full_nic")


@dataclass
class Pipeline:
    """All stages of a running agent. Made by build(); start(), then stop()."""

    config: Config
    engine: Engine
    sinks: list[Sink]
    describer: Describer
    capture: Capture | None = None
    nics: Nics | None = None  # points of the way; watched from start() on
    metrics: MetricsServer | None = None
    control: ControlServer | None = None
    exchange: Exchange | None = None  # with other hosts
    follower: "Follower | None" = None  # of the enricher
    own: "Own | None" = None  # which processes are to be described again
    tape: Tape | None = None
    replay: Replay | None = None
    realtime: bool = False  # a replay keeps the recorded pace
    selftest: str = "not run"
    started_ns: int = 0
    _thread: threading.Thread | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _interfaces: int = 0  # generation of the interfaces that the engine knows
    _kernel: dict[str, int] = field(default_factory=dict)
    failure: BaseException | None = None
    _finished: bool = False  # every span has left the engine
    ended: threading.Event = field(default_factory=threading.Event)  # the drain thread has

    def start(self) -> None:
        """Starts the sinks, the servers and the drain thread."""
        self.started_ns = time.time_ns()
        for sink in self.sinks:
            sink.start()
        for server in (self.metrics, self.control):
            if server is not None:
                server.start()
        if self.exchange is not None:
            self.exchange.start()
        if self.follower is not None:
            self.follower.start()
        if self.nics is not None:
            self.nics.start()
        self._thread = threading.Thread(target=self._run, name="drain")
        self._thread.start()

    def stop(self, deadline_s: float = STOP_S) -> Ledger:
        """Takes the hooks off, drains what they wrote, lets every span go, flushes the sinks. Returns the ledger."""
        if self.nics is not None:
            self.nics.stop()
        if self.capture is not None:
            self.capture.detach()
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.replay is not None:
            self._finish(self.replay.now, self.replay.wall_offset)
        else:
            self._finish(time.monotonic_ns(), wall_offset())
        if self.exchange is not None:
            self.exchange.stop()
        if self.follower is not None:
            self.follower.stop()
        for server in (self.control, self.metrics):
            if server is not None:
                server.stop()
        stop_all(self.sinks, deadline_s)
        result = self.ledger()
        if self.capture is not None:
            self._kernel = self.capture.counters()
            result = self.ledger()
            self.capture.close()
            self.capture = None
        return result

    def _finish(self, now: int, offset: int) -> None:
        if self._finished:
            return
        self._finished = True
        if self.tape is not None:
            self.tape.finish(now, offset)
        self.put(self.engine.finish(now, offset))

    def put(self, batches: Sequence[tuple[Signal, memoryview, int]]) -> None:
        """Hands encoded batches to the sinks that take their signal."""
        for signal, payload, count in batches:
            batch = Batch(payload, count, signal, time.time_ns())
            for sink in self.sinks:
                if sink.signal == signal:
                    sink.put(batch)
            if self.replay is not None:
                self._wait_for_room()

    def _run(self) -> None:
        try:
            if self.replay is None:
                self._drain()
            else:
                self._play(self.replay)
        except BaseException as e:
            self.failure = e
            log.exception("the drain thread ended: a bug; the agent stops")
        finally:
            self.ended.set()

    def _drain(self) -> None:
        tape = self.tape
        drain = pause = self.config.capture.drain_ms / 1000
        records = 0
        sweep_ns = self.config.capture.sweep_ms * 1_000_000
        swept = cleaned = time.monotonic_ns()
        lost = 0
        while not self._stops(pause):
            now, offset = time.monotonic_ns(), wall_offset()
            if tape is not None:
                tape.tick(now, offset)
            if self.nics is not None and self._interfaces != self.nics.generation:
                self._interfaces = self.nics.generation
                self.engine.interfaces.replace(self.nics.interfaces())
            if self.own is not None:
                self._describe_again(self.own)
            self.put(self.engine.tick(now, offset))
            pause = drain if self.engine.records != records else IDLE_DRAINS * drain
            records = self.engine.records
            if now - swept >= sweep_ns:
                swept = now
                if self.capture is not None:
                    with contextlib.suppress(OSError):  # detached meanwhile: the end is near
                        self.capture.sweep()
                        if self.nics is not None:
                            self.nics.sweep()
                    lost, before = lost_messages(self.kernel()), lost
                    if lost != before:
                        self.engine.lossy(now)
                if tape is not None:
                    tape.settle(now)
                self.engine.settle(now)
                self._tell_targets()
            if now - cleaned >= HOUSEKEEPING_S * 1e9:
                cleaned = now
                known = self.engine.processes.tgids()
                gone = set(known) - self.describer.alive(known)
                if tape is not None:
                    tape.expire(now, IDLE_NS)
                    tape.forget(gone)
                self.engine.expire(now, IDLE_NS)
                self.engine.forget(gone)

    def _stops(self, seconds: float) -> bool:
        """Sleeps; whether it is the end. Hundreds of times a second, where Event.wait() takes more CPU than a sleep."""
        if seconds > SLEEP_S:
            return self._stopping.wait(seconds)
        time.sleep(seconds)
        return self._stopping.is_set()

    def _describe_again(self, own: "Own") -> None:
        """Processes whose tags have come or changed: their spans that are still on hold leave with these."""
        for shared in own.due():
            if shared:
                info = self.describer.again(shared)
                if info is not None:
                    self.engine.refill(info)
            else:
                self.engine.refill(network_info(self.describer.host))

    def _play(self, replay: Replay) -> None:
        """Takes the recorded steps, at the recorded times."""
        began = time.monotonic_ns()
        while (step := replay.step()) is not None:
            kind, now, more = step
            if self.realtime:
                wait = (now - replay.first_ns) - (time.monotonic_ns() - began)
                if self._stopping.wait(max(0, wait) / 1e9):
                    return
            elif self._stopping.is_set():
                return
            if kind == steps.TICK:
                self.put(self.engine.tick(now, more))
            elif kind == steps.SETTLE:
                self.engine.settle(now)
                self._tell_targets()
            elif kind == steps.EXPIRE:
                self.engine.expire(now, more)
            elif kind == steps.FORGET:
                self.engine.forget(more)
            else:
                self._finish(now, more)
                self._tell_targets()

    def _wait_for_room(self) -> None:
        """A recording can wait, unlike the kernel: nothing of it is dropped because a sink is slow."""
        for sink in self.sinks:
            while (stats := sink.stats).queue_bytes > ROOM * stats.queue_limit_bytes:
                if self._stopping.wait(0.002):
                    return

    def _tell_targets(self) -> None:
        """target_info of processes that are new."""
        for index, info in self.engine.processes.told():
            if info.target_info and not info.hidden:
                self.engine.red.target_info(index, info.series, info.target_info)

    def kernel(self) -> dict[str, int]:
        """The kernel programs' counters; in a replay, those at the end of the recording."""
        return self.capture.counters() if self.capture is not None else self._kernel

    def ledger(self) -> Ledger:
        """Of this moment."""
        stats = [sink.stats for sink in self.sinks]
        state = self.engine.ledger()
        return ledger(self.engine.counts(), state["in_flight"], self.kernel(), stats, DROPS)  # type: ignore[arg-type]

    def status(self) -> dict[str, object]:
        """What `zerospan status` shows."""
        now = self.ledger()
        kernel = self.kernel()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round((time.time_ns() - self.started_ns) / 1e9, 1),
            "hooks": self.capture.choice.layout if self.capture is not None else "none",
            "selftest": self.selftest,
            "metrics": _address(self.metrics) if self.metrics is not None else None,
            "seen": now.seen,
            "exported": now.exported,
            "dropped": now.dropped,
            "in_flight": now.in_flight,
            "kernel": kernel,
            "nic": self.nics.status() if self.nics is not None else None,
            "pipeline": self.engine.counts(),
            "links": self.engine.links(),
            "links_shared": self.exchange.status() if self.exchange is not None else None,
            "enricher": self.follower.status() if self.follower is not None else None,
            "memory_bytes": self.engine.memory(),
            "routes": self.engine.routes.stats(),
            "sinks": [_sink_status(sink) for sink in self.sinks],
        }


def _address(server: MetricsServer) -> str:
    return f"{server.listen.rpartition(':')[0]}:{server.port}"


def _sink_status(sink: Sink) -> dict[str, object]:
    stats = sink.stats
    return {name: getattr(stats, name) for name in stats.__struct_fields__}


def build(
    config: Config,
    *,
    extra_sinks: Sequence[Sink] = (),
    hidden: set[int] | None = None,
    replay: Replay | None = None,
    tape: Tape | None = None,
    control: bool = True,
) -> Pipeline:
    """Builds every stage; starts none. replay: the source instead of the kernel; tape: writes down what the
    kernel says.

    hidden: processes whose spans are not exported (the self-test's). Raises ConfigError, CaptureError,
    OSError.
    """
    sinks = [*build_sinks(config), *extra_sinks]
    if config.console.tree:
        sinks.append(TreeSink())
    # A recording says who the processes were: what the enricher says of them is not written down.
    follower, own = _follow(config) if replay is None and tape is None else (None, None)
    peers = follower.table if follower is not None else PeerTable()
    describer = Describer(config, hidden=hidden if hidden is not None else set(), tags=own)
    capture: Capture | None = None
    metrics: MetricsServer | None = None
    with contextlib.ExitStack() as undo:
        undo.callback(stop_all, sinks, 0)
        if follower is not None:
            undo.callback(follower.stop)
        red = Red(
            max_series=config.metrics.series_limit,
            ttl_s=config.metrics.series_ttl_s,
            exemplars=config.metrics.exemplars,
        )
        if replay is None:
            capture = Capture(
                config.capture.hooks,
                ring_bytes=config.capture.ring_bytes,
                payload_bytes=config.capture.payload_bytes,
                large_ports=config.capture.large_ports,
                filters=Filters(**{name: getattr(config.filter, name) for name in config.filter.__struct_fields__}),
            )
            undo.callback(capture.close)
        source: object = replay if capture is None else capture.ring
        describe: Describe = describer if replay is None else replay.describe
        self_tgid = os.getpid() if replay is None else int(replay.about["agent_pid"])
        if tape is not None and capture is not None:
            hooks = capture.choice.layout
            source = tape.record(source, self_tgid=self_tgid, wall_offset=wall_offset(), hooks=hooks)
            describe = tape.describing(describe)
        shared = exchange = None
        if replay is None and config.links.reveal() != MEMORY:
            link = config.link
            shared = Shared(ttl_s=link.shared_ttl_s, queue_bytes=link.shared_queue_bytes, table_bytes=link.shared_bytes)
            shared.want_points = config.capture.nic > 0
            exchange = Exchange(
                shared,
                config.links,
                ttl_s=link.shared_ttl_s,
                timeout_s=link.shared_timeout_s,
                queue_bytes=link.shared_queue_bytes,
            )
        engine = Engine(
            source,
            describe,
            signals={sink.signal for sink in sinks},
            self_tgid=self_tgid,
            mask=config.privacy.mask,
            timeout_s=config.assemble.timeout_s,
            max_connections=config.assemble.max_connections,
            max_open_bytes=config.assemble.max_open_bytes,
            route_limit=config.assemble.route_limit,
            hold_s=config.link.hold_s,
            max_hold_s=config.link.max_hold_s,
            hold_bytes=config.link.hold_bytes,
            registry_bytes=config.link.registry_bytes,
            honour_sampling=config.link.honour_sampling,
            sdk_client_spans=config.link.sdk_client_spans,
            red=red,
            shared=shared,
            network=network_info(describer.host),
            peers=peers,
        )
        pipeline = Pipeline(config, engine, sinks, describer, capture, tape=tape, replay=replay)
        pipeline.exchange = exchange
        pipeline.follower, pipeline.own = follower, own
        if capture is not None and config.capture.nic:
            pipeline.nics = Nics(
                capture, netns=config.filter.netns, cgroup=config.capture.nic_cgroup, share=config.capture.nic
            )
            undo.callback(pipeline.nics.stop)
        if replay is not None:
            pipeline._kernel = replay.kernel
        if config.metrics.listen is not None:
            metrics = MetricsServer(config.metrics.listen, _renderer(pipeline))
            undo.callback(metrics.stop)
        pipeline.metrics = metrics
        if control:
            pipeline.control = ControlServer(config.run_dir, pipeline.status)
        undo.pop_all()
    return pipeline


def _follow(config: Config) -> "tuple[Follower, Own] | tuple[None, None]":
    """What follows the enricher, if there is one. Imported here: it needs grpcio."""
    if config.enricher.address == "off":
        return None, None
    from zerospan.exporter.tags.follow import Follower, node_of
    from zerospan.exporter.tags.own import Own

    node = node_of(config.enricher)
    table = PeerTable(True, config.enricher.cache_bytes // 1024, config.enricher.unused_s)
    follower = Follower(config.enricher, node, table)
    return follower, Own(follower, node)


def _renderer(pipeline: Pipeline) -> Callable[[bool], bytes]:
    engine = pipeline.engine
    exposition = Exposition(engine.red, engine.routes, engine.processes.service_names)
    return lambda openmetrics: exposition.render(openmetrics, self_metrics(pipeline.status()))
