"""Mutation fuzzer of the OTLP proxy's rewriter, with opentelemetry-proto as the oracle.

    .venv/bin/python tests/fuzz/fuzz_otlp.py --seconds 20
    .venv/bin/python -m tests.fuzz.fuzz_otlp --iterations 500 --seed 7

Invariants, for any bytes: nothing but Malformed is raised, no crash; what protobuf's own reader takes is taken, and
decode(output) is decode(input) with the attributes that had to change; what it does not take stays broken.

A failure prints what repeats it and exits with 1. A campaign runs in a process of its own (see fuzz_records.guarded).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

import fuzz_records
from fuzz_records import Broken
from otlp_cases import CASES, canonical, changed, count, decoded

from zerospan.enricher.proxy import rewrite
from zerospan.enricher.proxy.config import SIGNALS, Signal
from zerospan.enricher.proxy.resources import Protobuf

ADD = {"service.name": "new", "k8s.pod.name": "p" * 130}
BYTES = [
    b"\x0a",
    b"\x12",
    b"\x0b",
    b"\x0c",
    b"\x00",
    b"\x80",
    b"\xff" * 9 + b"\x01",
    b"\x0a\x00",
    b"\x7f",
    b"\xff\xff\xff\xff\x0f",
]


@dataclass
class Tally:
    """What a campaign has seen, so that one that tests nothing shows."""

    iterations: int = 0
    valid: int = 0
    refused: int = 0
    left: int = 0  # broken where the walk does not look


def judge(signal: Signal, body: bytes, tally: Tally) -> None:
    """The invariants for one body. Raises Broken."""
    before = decoded(signal, body)
    codec = Protobuf()

    def instead(resource: bytes) -> bytes:
        without = [a for a in codec.read(resource) if a[0] == "service.name"]
        return codec.write(resource, without, ADD)

    try:
        out, items = rewrite.rewrite(body, signal, instead)
    except rewrite.Malformed as refusal:
        if before is not None:
            raise Broken(f"refused ({refusal}), but protobuf reads it") from None
        tally.refused += 1
        return
    if before is None:
        appended, _ = rewrite.rewrite(body, signal, lambda resource: codec.write(resource, [], ADD))
        if decoded(signal, appended) is not None:
            raise Broken("what was broken is none the less valid afterwards")
        tally.left += 1
        return
    after = decoded(signal, out)
    if after is None:
        raise Broken("the output is broken")
    if canonical(after) != canonical(changed(before, "service.name", ADD)):
        raise Broken("the output is another request")
    if items != count(before) and (signal != "metrics" or items < count(before)):
        raise Broken(f"{items} items, not {count(before)}")
    tally.valid += 1


def every_cut(seed: int, tally: Tally) -> None:
    """Each case cut at each of its offsets (of long ones: the first and last 2 KiB)."""
    for signal, body in CASES.values():
        for n in range(len(body)):
            if n < 2048 or n > len(body) - 2048:
                judge(signal, body[:n], tally)


def mutated(rng: random.Random) -> tuple[Signal, bytes]:
    signal, body = rng.choice(list(CASES.values()))
    data = bytearray(body)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(7)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at:at] = rng.choice(BYTES)
        elif what == 2:
            del data[at : at + rng.choice([1, 2, 8, 100])]
        elif what == 3:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif what == 4:
            other = rng.choice(list(CASES.values()))[1]
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + rng.randrange(200)]
        elif what == 5:
            data += data[:at]
        elif data:  # near the head: lengths and tags of the outer messages
            data[rng.randrange(min(len(data), 40))] = rng.randrange(256)
    if rng.random() < 0.1:
        signal = rng.choice(SIGNALS)
    return signal, bytes(data[: 1 << 17])


def campaign(seconds: float | None, iterations: int | None, seed: int, first: int = 0, at: object = None) -> Tally:
    """Runs until either bound is reached. Iteration i depends on (seed, i) alone."""
    tally = Tally()
    until = time.monotonic() + seconds if seconds is not None else None
    i = first
    while (iterations is None or i < first + iterations) and (until is None or time.monotonic() < until):
        if at is not None:
            at.value = i  # type: ignore[attr-defined]
        signal, body = mutated(random.Random(f"{seed}/{i}"))
        try:
            judge(signal, body, tally)
        except Exception as error:
            where = f"--seed {seed} --first {i} --iterations 1"
            raise Broken(f"{type(error).__name__}: {error}\n  repeat with: {where}") from error
        tally.iterations += 1
        i += 1
    return tally


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Mutation fuzzer of the OTLP proxy's rewriter.")
    parser.add_argument("--seconds", type=float, help="time (10 if --iterations is not given)")
    parser.add_argument("--iterations", type=int, help="requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first iteration, to repeat one")
    options = parser.parse_args(arguments)
    seconds = 10.0 if options.seconds is None and options.iterations is None else options.seconds
    try:
        tally = fuzz_records.guarded(seconds, options.iterations, options.seed, options.first, campaign)
    except Broken as broken:
        print(f"otlp: BROKEN: {broken}", file=sys.stderr)
        return 1
    print(
        f"otlp: {tally.iterations} requests, {tally.valid} valid, {tally.refused} refused, {tally.left} broken further"
        f" in, seed {options.seed}: all invariants hold"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
