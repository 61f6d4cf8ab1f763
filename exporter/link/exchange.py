"""Carries what the engine tells and asks (`Shared`) to Redis or Valkey and back, on a thread of its own.

Rounds leave every 25 ms, whether or not earlier ones are answered: a store that takes 500 ms delays answers by that
and stops nothing. A round that is not answered in time ends the connection; then there are new attempts with growing
pauses. What was to be published is kept for the next connection (bounded in bytes and age), questions are dropped: the
engine asks again by itself. Nothing here may delay a span: they leave on time with what is known. Made by
`pipeline.py`.
"""

import logging
import random
import select
import socket
import ssl
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from zerospan.exporter.config.secret import Url
from zerospan.exporter.link.shared import Shared
from zerospan.exporter.link.shared_wire import Replies, commands, split
from zerospan.exporter.link.store import Nodes, StoreError, connect, parse
from zerospan.exporter.sinks.queue import printable

log = logging.getLogger(__name__)

ROUND_S = 0.025
ROUND_BYTES = 512 << 10  # of one round, before it is encoded
FLYING_MAX = 128  # rounds under way on one connection
AGE_MAX_S = 30.0  # what waited longer is of no use: link.max_hold_s
DATAGRAM_TTL_S = 10.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 5.0
LOG_EVERY_S = 30.0
RECV_BYTES = 256 << 10
# Answers after which the store is looked for afresh: another node has the slot or became the master, or it is starting.
MOVED = ("MOVED", "ASK", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")


@dataclass
class _Round:
    sent: float  # monotonic
    born: float  # of its oldest item
    puts: bytes
    sets: int
    questions: int


@dataclass
class _Lane:
    """A connection and what is under way on it."""

    socket: socket.socket
    replies: Replies
    flying: deque[_Round] = field(default_factory=deque)


class Exchange:
    """start(), then stop(). status() from any thread."""

    def __init__(
        self, shared: Shared, url: Url, *, ttl_s: float = 60.0, timeout_s: float = 1.0, queue_bytes: int = 8 << 20
    ) -> None:
        self.shared = shared
        self.store = parse(url)
        self.url = str(url)
        self._ttl_ms = int(ttl_s * 1000)
        self._datagram_ttl_ms = int(min(ttl_s, DATAGRAM_TTL_S) * 1000)
        self._timeout_s = timeout_s
        self._limit = queue_bytes
        self._lanes: list[_Lane] = []
        self._nodes: Nodes | None = None
        self._kept: deque[tuple[bytes, float]] = deque()  # of rounds that failed: to be sent again
        self._kept_bytes = 0
        self._flying_bytes = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._said_at = float("-inf")
        self._failing = False
        self.connected = False
        self.error = ""
        self.counts = dict.fromkeys(
            ("rounds", "rounds_failed", "connects", "stored", "store_errors", "publish_lost", "questions_lost",
             "oversized"), 0
        )  # fmt: skip
        self.round_trip_s = 0.0

    def start(self) -> None:
        """Begins to connect."""
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def stop(self, deadline_s: float = 2.0) -> None:
        """Sends what waits, if it is connected; waits for at most `deadline_s`."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(deadline_s)

    def status(self) -> dict[str, object]:
        """For `zerospan status` and /metrics."""
        return {
            "store": self.url,
            "connected": self.connected,
            "last_error": self.error,
            "round_trip_s": round(self.round_trip_s, 6),
            "queue_bytes": self.shared.mail.queued + self._kept_bytes + self._flying_bytes,
            "queue_limit_bytes": self._limit,
            "entries": self.shared.n,
            "events": {**self.shared.counts(), **self.counts},
        }

    # ---- the thread ----

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._open()
                failures = 0
                while not self._stopping.is_set():
                    self._step()
                self._flush()
            except (OSError, ValueError, StoreError) as e:
                failures += 1
                self._failed(e)
                self._pause(min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1.0))
            except Exception:
                log.exception("shared links: a bug; the connection is made anew")
                self._failed(RuntimeError("a bug; see the log"))
                self._pause(PAUSE_MAX_S)
        self._close()

    def _open(self) -> None:
        self._nodes = connect(self.store, self._timeout_s)
        single = self._nodes.owners is not None
        self._lanes = [_Lane(s, Replies(single)) for s in self._nodes.sockets]
        for lane in self._lanes:
            lane.socket.settimeout(self._timeout_s)
        self.counts["connects"] += 1
        if self.counts["connects"] > 1:
            self.shared.forgotten()
        self.connected = True
        if self._failing:
            self._failing = False
            log.info("shared links: %s works again", self.url)

    def _step(self) -> None:
        """A round leaves; answers are read until the next one is due."""
        now = time.monotonic()
        due = now + ROUND_S
        if max(len(lane.flying) for lane in self._lanes) < FLYING_MAX and self._flying_bytes < self._limit:
            full = self._send(now)
            if full:
                due = now  # there is more: only what has come is read meanwhile
        while True:
            left = due - time.monotonic()
            # also where nothing is under way: that the store has gone shows there
            ready = self._ready(left)
            for lane in self._lanes:
                if lane.socket.fileno() in ready:
                    self._read(lane)
                elif lane.flying and time.monotonic() - lane.flying[0].sent > self._timeout_s:
                    raise TimeoutError(f"no answer within {self._timeout_s:g} s")
            if left <= 0:
                return

    def _ready(self, seconds: float) -> set[int]:
        """Descriptors with something to read, at the latest after so long."""
        poll = select.poll()
        for lane in self._lanes:
            poll.register(lane.socket, select.POLLIN)
        return {fd for fd, _ in poll.poll(max(0.0, 1000 * seconds))}

    def _send(self, now: float) -> bool:
        """Sends what waits, one round at most. Whether there is more."""
        puts, gets, size, born = [], [], 0, now
        while size < ROUND_BYTES and self._kept:
            data, when = self._kept.popleft()
            self._kept_bytes -= len(data)
            if now - when > AGE_MAX_S:
                self.counts["publish_lost"] += _count(data)
                continue
            puts.append(data)
            born = min(born, when)
            size += len(data)
        while size < ROUND_BYTES and (item := self.shared.mail.take()) is not None:
            puts.append(item[0])
            gets.append(item[1])
            born = min(born, item[2] / 1e9)
            size += len(item[0]) + len(item[1])
        if not size:
            return False
        assert self._nodes is not None
        parts = [(b"".join(puts), b"".join(gets))]
        if self._nodes.owners is not None:
            parts = split(*parts[0], self._nodes.owners, len(self._lanes))
        for lane, (some, questions) in zip(self._lanes, parts, strict=True):
            if some or questions:
                self._round(lane, some, questions, now, born)
        return size >= ROUND_BYTES

    def _round(self, lane: _Lane, puts: bytes, gets: bytes, now: float, born: float) -> None:
        data, sets = commands(puts, gets, self._ttl_ms, self._datagram_ttl_ms, self._nodes.owners is not None)  # type: ignore[union-attr]
        lane.flying.append(_Round(now, born, puts, sets, len(gets) // 9))
        self._flying_bytes += len(puts)
        lane.replies.expect(sets, gets)
        self.counts["rounds"] += 1
        lane.socket.sendall(data)

    def _read(self, lane: _Lane) -> None:
        replies = lane.replies
        stored, errors, oversized = replies.stored, replies.errors, replies.oversized
        done = 0
        while True:
            data = lane.socket.recv(RECV_BYTES)
            if not data:
                raise StoreError("the connection was closed")
            done += replies.feed(data)
            if not (isinstance(lane.socket, ssl.SSLSocket) and lane.socket.pending()):
                break
        for _ in range(done):
            ended = lane.flying.popleft()
            self._flying_bytes -= len(ended.puts)
            self.round_trip_s = time.monotonic() - ended.sent
        self.counts["stored"] += replies.stored - stored
        self.counts["store_errors"] += replies.errors - errors
        self.counts["oversized"] += replies.oversized - oversized
        if values := replies.take():
            self.shared.mail.give(values)
        if replies.error:
            self.error, replies.error = printable(replies.error), ""
            if self.error.split(" ")[0] in MOVED:
                raise StoreError(self.error)
            self._say(self.error)

    def _flush(self) -> None:
        """At the end: what waits, and its answers, within a time-out."""
        end = time.monotonic() + self._timeout_s
        while self._send(time.monotonic()):
            pass
        while time.monotonic() < end and (waiting := [lane for lane in self._lanes if lane.flying]):
            ready = self._ready(0.05)
            for lane in waiting:
                if lane.socket.fileno() in ready:
                    self._read(lane)

    # ---- failures ----

    def _failed(self, e: Exception) -> None:
        self.error = printable(str(e))
        now = time.monotonic()
        for lane in self._lanes:
            for lost in lane.flying:
                self.counts["rounds_failed"] += 1
                self.counts["questions_lost"] += lost.questions
                if lost.puts:
                    self._keep(lost.puts, lost.born)
        self._close()
        self._failing = True
        self._say(self.error, now)

    def _keep(self, puts: bytes, born: float) -> None:
        self._kept.append((puts, born))
        self._kept_bytes += len(puts)
        while self._kept_bytes > self._limit:
            data, _ = self._kept.popleft()
            self._kept_bytes -= len(data)
            self.counts["publish_lost"] += _count(data)

    def _pause(self, seconds: float) -> None:
        """Waits; what comes meanwhile is kept, as far as it is of use later."""
        end = time.monotonic() + seconds
        while not self._stopping.is_set() and time.monotonic() < end:
            while (item := self.shared.mail.take()) is not None:
                self.counts["questions_lost"] += len(item[1]) // 9
                if item[0]:
                    self._keep(item[0], item[2] / 1e9)
            now = time.monotonic()
            while self._kept and now - self._kept[0][1] > AGE_MAX_S:
                data, _ = self._kept.popleft()
                self._kept_bytes -= len(data)
                self.counts["publish_lost"] += _count(data)
            self._stopping.wait(min(ROUND_S * 2, max(0.0, end - now)))

    def _close(self) -> None:
        self.connected = False
        for lane in self._lanes:
            lane.socket.close()
        self._lanes = []
        self._flying_bytes = 0

    def _say(self, message: str, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        if now - self._said_at >= LOG_EVERY_S:
            self._said_at = now
            log.warning("shared links: %s: %s (traces end at this host meanwhile)", self.url, message)


def _count(puts: bytes) -> int:
    """Values in a queue's block."""
    at = n = 0
    while at + 12 <= len(puts):
        at += 12 + int.from_bytes(puts[at + 10 : at + 12], sys.byteorder)
        n += 1
    return n
