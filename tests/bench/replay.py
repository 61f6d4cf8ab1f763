"""How many spans a second one core can make: traffic of nginx and wrk, recorded, replayed as fast as it goes.

The whole pipeline of the agent with its default settings, but for sinks that only count: the same steps at
the recorded times, so that spans wait in the hold as they do in life.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from machine import BenchError, wait_for
from traffic import Nginx

from zerospan.exporter import pipeline
from zerospan.exporter.config import load
from zerospan.exporter.sinks.base import Signal
from zerospan.exporter.sinks.null import NullSink
from zerospan.exporter.source.recording import Tape
from zerospan.exporter.source.replay import Replay

SIGNALS: tuple[Signal, ...] = ("traces", "loki")  # those of the agent in pairs.py
RING_BYTES = 64 << 20
LINGER_S = 3.0  # an answer without a known end is over a second after its connection


@dataclass
class Result:
    """spans_per_s: one value for each replay, by CPU time. requests: those that wrk made while recording."""

    requests: int
    records: int
    spans: int
    spans_per_s: list[float]
    lost: int
    not_seen: int  # spans of requests whose answer was not understood


def record(nginx: Nginx, path: Path, seconds: int) -> tuple[int, int]:
    """Records full-speed traffic. The requests, and how many records the kernel had no room for."""
    config = load(None, {}, {"filter.port": [nginx.port], "capture.ring_bytes": RING_BYTES})
    tape = Tape(str(path))
    try:
        agent = pipeline.build(config, tape=tape, control=False)
        agent.start()
        try:
            requests = nginx.wrk(seconds).requests
            with contextlib.suppress(BenchError):  # what stays open is dropped, and counted, by stop()
                wait_for("the last answers", lambda: not agent.ledger().in_flight.get("open"), LINGER_S)
        finally:
            agent.stop()
        tape.end(agent.kernel())
    finally:
        tape.close()
    return requests, sum(n for name, n in agent.kernel().items() if name.startswith("ring_full_"))


def replay(path: Path) -> tuple[int, int, int, float]:
    """Records, spans, spans without an answer, and CPU seconds of this process for them."""
    source = Replay(str(path))
    sinks = [NullSink(f"null/{signal}", signal) for signal in SIGNALS]
    config = load(None, {}, {})
    agent = pipeline.build(config, replay=source, extra_sinks=sinks, control=False)
    began = time.process_time()
    agent.start()
    agent.ended.wait()
    result = agent.stop()
    took = time.process_time() - began
    records = source.records
    source.close()
    if agent.failure is not None:
        raise BenchError(f"the replay failed: {agent.failure!r}")
    return records, result.exported, agent.engine.counts()["not_seen"], took


def run(nginx: Nginx, folder: Path, seconds: int, times: int) -> Result:
    """Records once, replays `times` times. The recording lies in memory where there is /dev/shm."""
    shm = Path("/dev/shm")
    path = (shm if os.access(shm, os.W_OK) else folder) / f"zerospan-bench-{os.getpid()}.rec"
    try:
        requests, lost = record(nginx, path, seconds)
        rates = []
        for _ in range(times):
            records, spans, not_seen, took = replay(path)
            if not spans:
                raise BenchError("the replay made no spans: the recording holds no whole request")
            rates.append(spans / took)
    finally:
        path.unlink(missing_ok=True)
    return Result(requests, records, spans, rates, lost, not_seen)
