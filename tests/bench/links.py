"""What a link between hosts costs: telling one end of a request and finding the other, Redis included.

`.venv/bin/python tests/bench/links.py [--links N] [--round N]`: two engines that see one end each, a real redis-server
on loopback, no root. A link is one value told (SET) and one found (MGET). CPU is this process's and redis-server's own;
one core's worth of links per second follows from their sum. The engine's share is the difference of the same
conversation with and without sharing, both ends together. Not a test: figures go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from engine_kit import START, WALL, describe, get, ok
from engine_wire import Kernel, Process, Wire
from machine import leave_on_sigterm

from zerospan.exporter.engine import Engine
from zerospan.exporter.link.shared import Shared
from zerospan.exporter.link.shared_wire import Replies, commands
from zerospan.exporter.source.memory import Records

MS = 1_000_000
CLIENT, SERVER = Process(10, "client"), Process(20, "server")
TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def records(n: int, watch: str) -> list[bytes]:
    """n requests, each end by itself, hundreds on a connection."""
    kernel = Kernel()
    t = START
    for i in range(n):
        if i % 200 == 0:
            isns = (i * 0x9E3779B1 % 2**32, i * 0x85EBCA77 % 2**32)
            wire = Wire(kernel, (CLIENT, 10), (SERVER, 20), isns=isns, watch=watch, addresses=("10.0.0.1", "10.0.0.2"))
        t = wire.pass_on("client", get("/r"), t, step=1000)
        t = wire.pass_on("server", ok(), t, step=1000)
    return [r.data for r in kernel.records]


def engine(source: Records, shared: Shared | None) -> Engine:
    known = {p.tgid: p for p in (CLIENT, SERVER)}
    # held for as long as it takes: the records' own times are no matter here
    return Engine(
        source, lambda tgid, comm, _: describe(known[tgid]), mask=False, registry_bytes=1 << 30, hold_s=60,
        max_hold_s=60, hold_bytes=1 << 30, shared=shared,
    )  # fmt: skip


class Store:
    """A connection to a real redis-server; rounds are sent and read as exchange.py does."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.replies = Replies()
        self.rounds = self.told = self.asked = 0

    def round(self, puts: list[bytes], gets: list[bytes]) -> bytes:
        asked = b"".join(gets)
        data, sets = commands(b"".join(puts), asked, 60_000, 10_000)
        self.told += sets
        self.asked += len(asked) // 9
        self.rounds += 1
        self.replies.expect(sets, asked)
        self.socket.sendall(data)
        while self.replies.feed(self.socket.recv(1 << 18)) == 0:
            pass
        return self.replies.take()


def drive(data: list[list[bytes]], shares: list[Shared], store: Store | None, chunk: int) -> float:
    """Both engines get `chunk` records a tick; every third tick what they tell and ask is carried. Then a second.

    Returns the CPU time of the engines alone.
    """
    sources = [Records(1 << 30) for _ in data]
    engines = [engine(s, shared) for s, shared in zip(sources, shares or [None, None], strict=True)]
    spent, now, at = 0.0, START, 0
    while at < len(data[0]) + 125 * chunk:
        for source, records_of in zip(sources, data, strict=True):
            for record in records_of[at : at + chunk]:
                assert source.push(record)
        at += chunk
        now += 8 * MS
        began = time.process_time()
        for each in engines:
            each.tick(now, WALL)
        spent += time.process_time() - began
        for shared in shares if at // chunk % 3 == 0 else ():
            puts, gets = [], []
            while (item := shared.mail.take()) is not None:
                puts.append(item[0])
                gets.append(item[1])
            if store is not None and (puts or gets) and (values := store.round(puts, gets)):
                shared.mail.give(values)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--links", type=int, default=100_000)
    parser.add_argument("--round", type=int, default=500, help="values told in a round (25 ms), each way")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    leave_on_sigterm()
    n = args.links // 2  # each request makes two: its server is told of its client, and the other way round
    data = [records(n, "client"), records(n, "server")]
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(tempfile.TemporaryDirectory())
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        redis = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        undo.callback(lambda: (redis.kill(), redis.wait()))
        while True:
            with contextlib.suppress(OSError):
                store = Store(port)
                break
            time.sleep(0.05)
        chunk = max(2 * args.round // 3, 2)  # two records a request
        alone = min(drive(data, [], None, chunk) for _ in range(2))
        shares = [Shared(queue_bytes=1 << 30, table_bytes=1 << 30) for _ in range(2)]
        before, began, wall = cpu_of(redis.pid), time.process_time(), time.monotonic()
        together = drive(data, shares, store, chunk)
        own, wall = time.process_time() - began - together, time.monotonic() - wall
        redis_cpu = cpu_of(redis.pid) - before
        memory = subprocess.run(["redis-cli", "-p", str(port), "INFO", "memory"], capture_output=True, text=True).stdout
        used = int(next(line.partition(":")[2] for line in memory.splitlines() if line.startswith("used_memory:")))
        links = sum(s.counts()["found"] for s in shares)
        assert links == 2 * n, f"{links} of {2 * n} ends were found"
        engine_us = 1e6 * (together - alone) / links
        result = {
            "links": links,
            "told": store.told,
            "asked": store.asked,
            "rounds": store.rounds,
            "told_per_round": round(store.told / store.rounds),
            "engine_us_per_link": round(engine_us, 2),
            "wire_us_per_link": round(1e6 * own / links, 2),
            "redis_us_per_link": round(1e6 * redis_cpu / links, 2),
            "links_per_s_per_core": round(links / (own + redis_cpu + together - alone)),
            "wall_s": round(wall, 2),
            "redis_bytes_per_link": round(used / links),
            "table_bytes_per_link": round(sum(s.nbytes() for s in shares) / links),
        }
    for name, value in result.items():
        print(f"{name:<22} {value}")
    if args.json:
        Path(args.json).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
