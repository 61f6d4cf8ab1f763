"""A small world of services with blocking threads, in simulated time, that knows the truth of every request.

Threads are generators: they yield a time to sleep (ns) or a Queue to wait for. Every socket call becomes a record at
its end, so that a reader's record may come before the sender's. A path says which request it is and which it serves:
"/7.3" is request 7, sent on behalf of request 3 (0: of nothing). Its answer has a status of its own.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from engine_kit import CLIENT, MS, SERVER, START, US, Rig, S, Span, get, ok
from engine_wire import Kernel, Process, Wire

Task = Generator[Any, Any, None]


@dataclass
class Queue:
    items: deque[Any] = field(default_factory=deque)
    waiters: deque[Task] = field(default_factory=deque)


def code_of(path: str) -> int:
    return 205 + int(path[1:].split(".")[0]) % 90


@dataclass
class Line:
    """A connection, its two ends' unread messages, and which connection it is of a caller's pool."""

    wire: Wire
    to_server: Queue = field(default_factory=Queue)
    to_client: Queue = field(default_factory=Queue)
    written: int = 0  # when the server's last call returns: nothing is read there before


@dataclass
class Service:
    """kind: "threads" (a worker reads, calls and answers) or "reactor" (one thread reads, workers call and answer)."""

    process: Process
    kind: str
    workers: int
    calls: list[Service] = field(default_factory=list)
    ready: Queue = field(default_factory=Queue)  # lines with a request to be read
    work: Queue = field(default_factory=Queue)  # what the reactor has read
    idle: dict[int, list[Line]] = field(default_factory=dict)  # kept connections by the service they lead to


class World:
    """services: front first. The clients speak with the front in a closed loop."""

    def __init__(self, seed: str, kinds: list[str], loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.now = START
        self.heap: list[tuple[int, int, Task, Any]] = []
        self.tasks = 0
        self.requests = 0
        self.loss = loss
        self.kernel = Kernel(lose=lambda n: self.loss > 0 and self.rng.random() < self.loss)
        self.lines: list[Line] = []
        self.services = [
            Service(Process(1000 * (i + 1), f"s{i}-{kind}"), kind, self.rng.choice([1, 2, 4, 8]))
            for i, kind in enumerate(kinds)
        ]
        for i, service in enumerate(self.services):
            service.calls = self.services[i + 1 :]
            self._start(service)
        self.caller = Process(99_000, "wrk")
        self.rig = Rig(*(s.process for s in self.services), self.caller, kernel=self.kernel, timeout_s=5)
        self.told = 0

    # ---- time ----

    def spawn(self, task: Task, value: Any = None, delay: int = 0) -> None:
        self.tasks += 1
        heapq.heappush(self.heap, (self.now + delay, self.tasks, task, value))

    def put(self, queue: Queue, item: Any, delay: int = 0) -> None:
        def later() -> Task:
            if queue.waiters:
                self.spawn(queue.waiters.popleft(), item)
            else:
                queue.items.append(item)
            return
            yield

        self.spawn(later(), None, delay)

    def step(self, task: Task, value: Any) -> None:
        while True:
            try:
                wanted = task.send(value)
            except StopIteration:
                return
            if not isinstance(wanted, Queue):
                self.spawn(task, None, wanted)
                return
            if not wanted.items:
                wanted.waiters.append(task)
                return
            value = wanted.items.popleft()

    def run(self, until: int) -> None:
        """Runs until that time, and the agent beside it as the pipeline does."""
        drained = settled = self.now
        while self.heap and self.heap[0][0] <= until:
            self.now, _, task, value = heapq.heappop(self.heap)
            self.step(task, value)
            if self.now - drained >= 10 * MS:
                drained = self.now
                self.rig.now = self.now
                self.rig.feed()
                self.rig.balance()
            if self.now - settled >= S // 2:
                settled = self.now
                self.agent()

    def agent(self) -> None:
        """The sweep, the look at the kernel's counters, time-outs."""
        for line in self.lines:
            line.wire.client.sweep(self.now)
            line.wire.server.sweep(self.now)
        lost = sum(self.kernel.lost.values())
        if lost != self.told:
            self.told = lost
            self.rig.engine.lossy(self.now)
        self.rig.engine.settle(self.now)

    def end(self) -> list[Span]:
        """What is left leaves. All spans."""
        self.rig.feed()
        self.agent()
        spans = self.rig.run(settle_s=12)
        self.rig.check()
        return spans

    # ---- programs ----

    def jitter(self, most: int = 3 * MS) -> int:
        return int(self.rng.expovariate(1) * most / 4) + US

    def _start(self, service: Service) -> None:
        base = service.process.tgid
        if service.kind == "reactor":
            self.spawn(self.reactor(service, base))
        for i in range(service.workers):
            worker = self.worker if service.kind == "reactor" else self.thread
            self.spawn(worker(service, base + 1 + i))

    def clients(self, n: int) -> None:
        for i in range(n):
            self.spawn(self.client(self.caller.tgid + 1 + i), None, self.jitter())

    def client(self, tid: int) -> Task:
        pool: dict[int, list[Line]] = {}
        while True:
            yield from self.call(self.caller, pool, self.services[0], tid, 0)
            yield self.jitter()

    def call(self, process: Process, pool: dict[int, list[Line]], to: Service, tid: int, served: int) -> Task:
        """Sends a request and waits for its answer."""
        self.requests += 1
        path = f"/{self.requests}.{served}"
        idle = pool.setdefault(to.process.tgid, [])
        if idle and self.rng.random() < 0.9:
            line = idle.pop()
        else:
            line = Line(Wire(self.kernel, (process, tid), (to.process, to.process.tgid)))
            self.lines.append(line)
        body = b"b" * self.rng.choice([0, 0, 10, 2000])
        ask = get(path, "X-Padding: " + "p" * self.rng.randrange(200), method="POST" if body else "GET", body=body)
        cut = self.rng.choice([len(ask), len(ask) - len(body), 20])
        # A head that comes by itself, then the rest: the server is told when all of it is there.
        line.wire.client.send(ask[:cut], self.now, tid)
        self.put(to.ready, (line, ask, path), max(self.rng.randrange(1, 60) * US, line.written - self.now))
        yield self.rng.randrange(1, 60) * US
        if cut < len(ask):
            line.wire.client.send(ask[cut:], self.now, tid)
        while True:
            data, last = yield line.to_client
            line.wire.client.recv(data, self.now, tid)
            if last:
                break
            yield self.rng.randrange(1, 20) * US
        if self.rng.random() < 0.05:
            line.wire.close(self.now)
            self.lines.remove(line)
        else:
            idle.append(line)

    def read(self, line: Line, ask: bytes, tid: int) -> Task:
        cut = self.rng.choice([len(ask), 30])
        line.wire.server.recv(ask[:cut], self.now, tid)
        if cut < len(ask):
            yield self.rng.randrange(1, 20) * US
            line.wire.server.recv(ask[cut:], self.now, tid)

    def serve(self, service: Service, line: Line, path: str, tid: int) -> Task:
        """Handles a request that was read, and answers."""
        number = int(path[1:].split(".")[0])
        for _ in range(self.rng.choice([0, 1, 1, 2, 3]) if service.calls else 0):
            yield self.jitter()
            yield from self.call(service.process, service.idle, self.rng.choice(service.calls), tid, number)
        yield self.jitter()
        body = b"a" * self.rng.choice([0, 2, 300, 4000])
        answer = ok(body, code=code_of(path))
        cut = self.rng.choice([len(answer), len(answer) - len(body)])
        parts = [part for part in (answer[:cut], answer[cut:]) if part]
        for part in parts:
            last = part is parts[-1]
            took = self.rng.randrange(1, 60) * US
            line.written = self.now + took
            # One system call: the other side may read before it returns.
            self.put(line.to_client, (part, last), self.rng.randrange(1, 60) * US if last else US)
            yield took
            line.wire.server.send(part, self.now, tid, self.rng.random() < 0.8 or part is parts[0])

    def thread(self, service: Service, tid: int) -> Task:
        while True:
            line, ask, path = yield service.ready
            yield from self.read(line, ask, tid)
            yield from self.serve(service, line, path, tid)

    def reactor(self, service: Service, tid: int) -> Task:
        while True:
            line, ask, path = yield service.ready
            yield from self.read(line, ask, tid)
            self.put(service.work, (line, path))

    def worker(self, service: Service, tid: int) -> Task:
        while True:
            line, path = yield service.work
            yield from self.serve(service, line, path, tid)


@dataclass
class Verdict:
    """Counts of spans."""

    calls: int = 0
    linked: int = 0
    answered: int = 0
    spans: int = 0


def judge(spans: list[Span]) -> Verdict:
    """AssertionError if an answer, a parent or a trace is wrong."""
    v = Verdict(spans=len(spans))
    known = {s.span_id: s for s in spans}
    # An answer that is still to come may tell: calls of requests that were under way at the end have no link.
    done = {s.path[1:].split(".")[0] for s in spans if s.kind == SERVER and s.code is not None}
    for span in spans:
        assert span.code in (None, code_of(span.path)), f"{span.path} was given another's answer {span.code}"
        v.answered += span.code is not None
        parent = known.get(span.parent_id)
        number, serves = span.path[1:].split(".")
        if span.kind == SERVER:
            assert parent is None or (parent.path, parent.kind) == (span.path, CLIENT), f"{span} under {parent}"
        elif serves == "0":
            assert span.parent_id == "", f"{number} serves nothing and was linked"
        else:
            v.calls += parent is not None or serves in done
            if parent is not None:
                assert parent.kind == SERVER and parent.path.split(".")[0] == f"/{serves}", (
                    f"request {number} serves {serves}, and was linked to {parent.path} by {span.link}"
                )
                v.linked += 1
    return v
