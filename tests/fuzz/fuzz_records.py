"""Mutation fuzzer of the engine's front door: random and mutated records must break no invariant.

    .venv/bin/python tests/fuzz/fuzz_records.py --seconds 20
    .venv/bin/python -m tests.fuzz.fuzz_records --iterations 500 --seed 7

Records come from a ring that our own kernel programs write; but a recording is a file from anywhere, and a bug in
either side must not become a crash in the other. Invariants, for any bytes: no exception, no crash; the ledger balances
after every step; tables stay within their bounds; at the end nothing is left open or referred to, and every batch is
well-formed OTLP.

A failure prints what repeats it (`--seed S --first I --iterations 1`) and exits with 1. Each campaign runs in a process
of its own, so that a crash is told as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import struct
import sys
import time
import traceback
from ctypes import c_longlong
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from engine_kit import MS, START, Rig, S, get, ok
from engine_nic import VXLAN, Nic
from engine_wire import Kernel, Process, Socket, Wire

from zerospan.exporter.abi import events

PROCESSES = [
    Process(10, "curl"),
    Process(20, "shop"),
    Process(30, "nginx", nginx=True),
    Process(40, "node", loop=True),
    Process(41, "haproxy", loop=True, order=1),
    Process(42, "envoy", loop=True, order=2),
    Process(50, "hidden", hidden=True),
    Process(60, "zerospan", agent=True),
]
KNOWN = {p.tgid: p for p in PROCESSES}
LIMITS = {
    "max_connections": 64,
    "max_open_bytes": 65536,
    "hold_bytes": 1,
    "registry_bytes": 65536,
    "points_bytes": 65536,
    "hops_bytes": 65536,
}
HOLD_MAX = 2 * 2 * (1 << 20) + 4096  # two queues of the least size
SEQUENCES_BYTES = 1 << 20  # link.sequences: a fixed table
PLACES = [(1, 2), (1, 3), (2**64 - 1, 2**32 - 1)]  # interfaces: namespace, index
INTERESTING = [0, 1, 2, 3, 7, 8, 63, 64, 255, 256, 512, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
HEADERS = ["X-Request-ID: one", "traceparent: 00-" + "1" * 32 + "-" + "2" * 16 + "-01", "Expect: 100-continue"]


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Tally:
    """What a campaign has seen, so that one that tests nothing shows."""

    iterations: int = 0
    records: int = 0
    bad: int = 0
    spans: int = 0


def nic(rng: random.Random, kernel: Kernel) -> Nic:
    """Some interface."""
    tunnel: dict[str, Any] = (
        {"tunnel": VXLAN, "vni": 7, "outer": ("192.0.2.1", "192.0.2.2")} if rng.random() < 0.5 else {}
    )
    role = rng.choice(["pod", "node", "tunnel"])
    place = rng.choice(PLACES)
    return Nic(kernel, *place, "eth0", role, rng.random() < 0.5, isns=rng.random() < 0.8, **tunnel)


def conversation(rng: random.Random, kernel: Kernel) -> None:
    """Some connections with something said on them, and some datagrams."""
    t = START
    for _ in range(rng.randrange(1, 4)):
        a, b = rng.sample(PROCESSES, 2)
        wire = Wire(
            kernel, (a, a.tgid + rng.randrange(3)), (b, b.tgid + rng.randrange(3)), known=rng.random() < 0.9,
            watch=rng.choice(["both", "client", "server"]),
        )  # fmt: skip
        nics = [nic(rng, kernel) for _ in range(rng.randrange(4))]
        sent = [0, 0]
        if rng.random() < 0.3:
            wire.client.connect(t)
        for i in range(rng.randrange(6)):
            ask, answer = rng.choice(
                [
                    (get(f"/{i}", *rng.sample(HEADERS, rng.randrange(3))), ok(b"x" * rng.randrange(2000))),
                    (
                        get(f"/{i}", method="POST", body=b"y" * rng.randrange(1, 2000)),
                        b"HTTP/1.1 200 X\r\n\r\nuntil the end",
                    ),
                    (b"*1\r\n$4\r\nPING\r\n" * rng.randrange(1, 30), b"+PONG\r\n" * rng.randrange(1, 30)),
                    (b"Q\0\0\0\rselect 1\0", b"C\0\0\0\rSELECT 1\0Z\0\0\0\5I"),
                    (rng.randbytes(50), rng.randbytes(50)),
                ]
            )
            for client, data in ((1, ask), (0, answer)):
                for n in nics:
                    seq = (wire.isns[1 - client] + 1 + sent[client]) % (1 << 32)
                    n.packet(wire, client == 1, seq, len(data), t + (1 - client) * MS, rng.randrange(1, 4))
                    if rng.random() < 0.2:
                        n.silence(wire, t + 2 * MS)
                sent[client] += len(data)
            t = wire.pass_on("client", ask, t, order=rng.choice(["sender", "reader"]), sizes=[rng.randrange(1, 99)])
            if rng.random() < 0.9:
                t = wire.pass_on("server", answer, t + MS, sizes=[rng.randrange(1, 99)])
        for n in nics:
            n.close(wire, t, rng.random() < 0.3)
        if rng.random() < 0.5:
            wire.close(t, rng.choice([0, 104, 110]))
        elif rng.random() < 0.5:
            wire.client.sweep(t)
    app = Socket(kernel, rng.choice(PROCESSES), 5, ("127.0.0.1", 4000), ("127.0.0.1", 53))
    for i in range(rng.randrange(4)):
        number = struct.pack("!H", rng.randrange(3))
        app.send(number + b"\1\0\0\1\0\0\0\0\0\0\4shop\0\0\1\0\1", t + i)
        if rng.random() < 0.7:
            app.recv(number + b"\x81\x80\0\1\0\0\0\0\0\0\4shop\0\0\1\0\1", t + i + 1)


def mutate_field(rng: random.Random, record: bytearray) -> None:
    """Another value in one field of the struct that the record says to be."""
    kinds = {kind: name for name, kind in events.KINDS.items()}
    owner = kinds.get(record[2], "zs_hdr")
    where = [(o, n) for o, n in events.FIELDS if o in ("zs_hdr", owner) and n not in ("hdr", "tgid")]
    offset, width = events.FIELDS[rng.choice(where)]
    if offset + width > len(record):
        return
    value = int.from_bytes(record[offset : offset + width], "little")
    value = rng.choice([rng.choice(INTERESTING), value + 1, value - 1, value ^ 1 << rng.randrange(8 * width)])
    record[offset : offset + width] = (value % (1 << 8 * width)).to_bytes(width, "little")


def mutate(rng: random.Random, records: list[bytes]) -> list[bytes]:
    out = list(records)
    for _ in range(rng.randrange(12)):
        i = rng.randrange(len(out)) if out else 0
        what = rng.randrange(9)
        if what == 0 or not out:
            out.insert(i, rng.randbytes(rng.choice([0, 1, 7, 8, 64, 112, 300])))
        elif what == 1:
            del out[i]
        elif what == 2:
            out.insert(rng.randrange(len(out) + 1), out[i])
        elif what == 3:
            j = rng.randrange(len(out))
            out[i], out[j] = out[j], out[i]
        else:
            record = bytearray(out[i])
            if what == 4:
                record = record[: rng.randrange(len(record) + 1)]
            elif what == 5 and record:
                record[rng.randrange(len(record))] ^= 1 << rng.randrange(8)
            elif what == 6 and len(record) > 64:  # the payload
                at = rng.randrange(64, len(record))
                record[at : at + 8] = rng.choice([b"\r\n\r\n", b"GET / ", b"HTTP/1.1", b"\0\0\0\0", rng.randbytes(8)])
            elif len(record) >= 8:
                mutate_field(rng, record)
            out[i] = bytes(record)
    return out


def iteration(rng: random.Random, tally: Tally) -> None:
    """One engine's life. Raises Broken."""
    kernel = Kernel(capture=rng.choice([64, 512, 16384]))
    kernel.lose = lambda n: rng.random() < 0.03
    conversation(rng, kernel)
    records = mutate(rng, [record.data for record in kernel.records])
    options: dict[str, Any] = LIMITS if rng.random() < 0.5 else {}
    rig = Rig(*PROCESSES, **options, hold_s=rng.choice([0, 0.1, 2]), timeout_s=rng.choice([0.001, 5]))
    rig.unique = False  # repeated records are repeated requests
    rig.known = KNOWN
    for place in PLACES:
        if rng.random() < 0.8:
            rig.engine.interfaces.set(*place, "eth0", "", "", "veth", rng.choice(["pod", "node"]))
    for i in range(0, len(records), 7):
        rig.push(records[i : i + 7])
        rig.tick(START + i * MS)
        if rng.random() < 0.1:
            rig.engine.lossy(rig.now)
        if rng.random() < 0.2:
            rig.settle(rig.now + rng.choice([0, MS, S, 100 * S]))
        if rng.random() < 0.05:
            rig.engine.expire(rig.now, 0)
        check(rig, options)
    rig.check()
    tally.iterations += 1
    tally.records += rig.counts["records"]
    tally.bad += rig.counts["records_bad"]
    tally.spans += len(rig.spans)


def check(rig: Rig, options: dict[str, Any]) -> None:
    rig.balance()
    if not options:
        return
    memory, links = rig.engine.memory(), rig.engine.links()
    if memory["open"] > options["max_open_bytes"] or memory["hold"] > HOLD_MAX or memory["registry"] > 1 << 20:
        raise Broken(f"memory is not bounded: {memory}")
    if memory["points"] > options["points_bytes"] + SEQUENCES_BYTES or memory["hops"] > options["hops_bytes"]:
        raise Broken(f"memory of points is not bounded: {memory}")
    if links["connections"] > options["max_connections"]:
        raise Broken(f"{links['connections']} connections")


def campaign(
    seconds: float | None, iterations: int | None, seed: int, first: int = 0, at: Synchronized[int] | None = None
) -> Tally:
    """Runs until either bound is reached. Iteration i depends on (seed, i) alone."""
    tally = Tally()
    until = time.monotonic() + seconds if seconds is not None else None
    i = first
    while (iterations is None or i < first + iterations) and (until is None or time.monotonic() < until):
        if at is not None:
            at.value = i
        try:
            iteration(random.Random(f"{seed}/{i}"), tally)
        except Exception as error:
            where = f"--seed {seed} --first {i} --iterations 1"
            raise Broken(f"{type(error).__name__}: {error}\n  repeat with: {where}") from error
        i += 1
    return tally


def child(pipe: Any, at: Synchronized[int], bounds: tuple[float | None, int | None, int, int], run: Any) -> None:
    try:
        pipe.send(run(*bounds, at))
    except Broken as broken:
        traceback.print_exc()
        pipe.send(str(broken))


def guarded(seconds: float | None, iterations: int | None, seed: int, first: int = 0, run: Any = None) -> Any:
    """A campaign (run; None: ours) in a process of its own. Returns its tally. Raises Broken, also if it crashes."""
    context = multiprocessing.get_context("fork")
    at: Synchronized[int] = context.Value(c_longlong, first)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(there, at, (seconds, iterations, seed, first), run or campaign))
    process.start()
    there.close()
    try:
        result = here.recv()
    except EOFError:
        process.join()
        raise Broken(
            f"the process died ({process.exitcode})\n  repeat with: --seed {seed} --first {at.value} --iterations 1"
        ) from None
    process.join()
    if isinstance(result, str):
        raise Broken(result)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Mutation fuzzer of the engine's records.")
    parser.add_argument("--seconds", type=float, help="time (10 if --iterations is not given)")
    parser.add_argument("--iterations", type=int, help="engines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first iteration, to repeat one")
    options = parser.parse_args(arguments)
    seconds = 10.0 if options.seconds is None and options.iterations is None else options.seconds
    try:
        tally = guarded(seconds, options.iterations, options.seed, options.first)
    except Broken as broken:
        print(f"records: BROKEN: {broken}", file=sys.stderr)
        return 1
    print(
        f"records: {tally.iterations} engines, {tally.records} records, {tally.bad} of them bad, {tally.spans} spans,"
        f" seed {options.seed}: all invariants hold"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
