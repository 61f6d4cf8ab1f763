"""Mutation fuzzer of all parsers: the unit tests' conversations, changed at random, must break no invariant.

    .venv/bin/python tests/fuzz/fuzz_proto.py --seconds 20 http redis
    .venv/bin/python -m tests.fuzz.fuzz_proto --iterations 5000 --seed 7

Invariants, for any bytes: no exception; each message takes bytes, within its run and behind the one before;
fields and masked texts stay within their bounds; the same bytes give the same messages, however they are
split; processor time grows with the number of bytes. For unchanged conversations: masked texts contain none
of the planted secrets.

A failure prints what repeats it (`--seed S --first I --iterations 1 NAME`) and exits with 1. Knows nothing of
any protocol: a new one needs a <name>_cases.py with CASES, and a line in TABLES.
"""

from __future__ import annotations

import argparse
import importlib
import random
import string
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from proto_cases import Case, Message, Turn

from zerospan.exporter.proto.harness import Conversation

TABLES = {"http": "http1_cases", "redis": "redis_cases", "postgresql": "postgres_cases", "dns": "dns_cases",
          "fastcgi": "fastcgi_cases"}  # fmt: skip
SECRET = b"s3cr3t"  # planted in the tables only where masking must hide it
HEAD_MAX = 16384  # STREAM_MAX: no field is longer than the bytes that are kept
MASKED_MAX = 1024  # the harness' buffer
SHORT = {"operation": 64, "status_text": 64}
FIELDS = (
    *("operation", "target", "query", "domain", "collection"),
    *("status_text", "message", "user_agent", "request_id"),
)
REPORT_MAX = 4000  # characters of a failure's report
TURN_MAX = 64 * 1024  # bytes of a mutated turn
SECONDS_FIXED = 0.2  # processor time that any conversation may take, and what each byte may add
SECONDS_PER_BYTE = 20e-6
# A response of no bytes takes an open request instead, which bounds it as well.
MAY_TAKE_NOTHING = {"postgresql"}
Runs = list[tuple[int, list[Message]]]


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Tally:
    """What a campaign has seen, so that one that tests nothing shows."""

    iterations: int = 0
    messages: int = 0
    refusals: int = 0
    bytes: int = 0


def load(name: str) -> list[Case]:
    """The table of a parser; SystemExit if there is none."""
    try:
        return list(importlib.import_module(TABLES[name]).CASES)
    except KeyError:
        raise SystemExit(f"fuzz_proto: no parser named {name!r}; there are {', '.join(TABLES)}") from None
    except ModuleNotFoundError as missing:
        raise SystemExit(f"fuzz_proto: {name}: {missing}; write tests/unit/{TABLES[name]}.py") from None


# ---- feeding ----


def feed(name: str, case: Case, rng: random.Random | None, captured: int | None = None) -> Runs:
    """The messages of each run, with the run's length. With `rng`, each turn comes in random pieces."""
    talk = Conversation(name, case.server_port, case.datagram)
    runs: Runs = []
    side: bool | None = None
    for from_client, data in case.turns:
        if from_client != side or case.datagram:
            if runs:
                runs[-1][1].extend(talk.finish())
            runs.append((0, []))
            side = from_client
        length, messages = runs[-1]
        for piece in [data] if case.datagram else pieces(data, rng):
            messages.extend(dict(m) for m in talk.feed(from_client, piece, captured=captured))
        runs[-1] = (length + len(data), messages)
    if runs:
        runs[-1][1].extend(talk.finish())
    return runs


def pieces(data: bytes, rng: random.Random | None) -> Iterable[bytes]:
    """As records of the kernel, which have at most HEAD_MAX bytes."""
    if rng is None or not data:
        return [data[i : i + HEAD_MAX] for i in range(0, len(data) or 1, HEAD_MAX)]
    if len(data) <= 200 and rng.random() < 0.3:
        return [data[i : i + 1] for i in range(len(data))]
    anywhere = (rng.randrange(len(data)) for _ in range(rng.randrange(1, 20)))
    cuts = sorted({len(data), *range(0, len(data), HEAD_MAX), *anywhere})
    return [data[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


# ---- invariants ----


def check_runs(name: str, runs: Runs) -> None:
    """Places, lengths and bounds of every message."""
    for length, messages in runs:
        position = 0
        for m in messages:
            if m["type"] == "not_mine":
                continue
            at, consumed, total = number(m, "at"), number(m, "consumed"), number(m, "total")
            if at < position or at + consumed > length:
                raise Broken(f"{at}+{consumed} bytes after {position}, in a run of {length}: {m}")
            if consumed <= 0 and not (name in MAY_TAKE_NOTHING and m["type"] == "response"):
                raise Broken(f"takes no bytes: {m}")
            if total != -1 and total < consumed:
                raise Broken(f"total {total} < consumed {consumed}: {m}")
            position = at + consumed
            for key in FIELDS:
                if len(text(m, key)) > SHORT.get(key, HEAD_MAX):
                    raise Broken(f"{key} has {len(text(m, key))} bytes: {m['type']} at {at}")
            for key in ("masked", "masked_query"):
                if len(text(m, key)) > MASKED_MAX:
                    raise Broken(f"{key} has {len(text(m, key))} bytes: {m['type']} at {at}")


def check_sniff(name: str, case: Case, rng: random.Random) -> None:
    """It answers for any bytes, and nothing it was asked before changes the answer."""
    asked, fresh = (Conversation(name, case.server_port, case.datagram) for _ in range(2))
    for from_client, data in case.turns[:2]:
        head = data[: rng.choice([len(data), 512, 3])]
        sure = asked.sniff(from_client, head)
        asked.sniff(not from_client, head)
        if sure not in (0, 1, 2, 3) or len({sure, fresh.sniff(from_client, head), asked.sniff(from_client, head)}) > 1:
            raise Broken(f"sniff says {sure} for {head!r}")


def check_secrets(runs: Runs, secret: bytes) -> None:
    for _, messages in runs:
        for m in messages:
            for key in ("masked", "masked_query", "operation", "collection", "domain"):
                if secret in text(m, key):
                    raise Broken(f"{key} shows a secret: {m}")


def number(m: Message, key: str) -> int:
    value = m[key]
    assert isinstance(value, int)
    return value


def text(m: Message, key: str) -> bytes:
    value = m.get(key, b"")
    assert isinstance(value, bytes)
    return value


# ---- mutation ----

NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"00",
    b"",
    b"9" * 19,
    *(b"%d" % (2**n - 1) for n in (31, 32, 63)),
    b"2147483648",
]


def mutate(rng: random.Random, case: Case, table: list[Case]) -> Case:
    turns = [(side, bytearray(data)) for side, data in case.turns]
    if rng.random() < 0.1:
        rng.shuffle(turns)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        if turns:
            change(rng, rng.choice(turns)[1], rng.choice(rng.choice(table).turns)[1])
    limit = 0xFFFF if case.datagram else TURN_MAX
    return Case(case.name, [(s, bytes(d[:limit])) for s, d in turns], [], case.server_port, case.datagram)


def change(rng: random.Random, data: bytearray, other: bytes) -> None:
    """One change in place."""
    a = rng.randrange(len(data) + 1)
    b = min(len(data), a + rng.choice([1, 1, 2, 4, 16, 100]))
    match rng.randrange(10):
        case 0 if a < len(data):
            data[a] ^= 1 << rng.randrange(8)
        case 1 if a < len(data):
            data[a] = rng.choice(b"\x00\x01\x7f\x80\xff\r\n :,;*$-+?%&=@/'\"\\")
        case 2:
            del data[a:b]
        case 3:
            data[a:a] = data[a:b] * rng.choice([1, 2, 30])
        case 4:
            data[a:a] = rng.randbytes(rng.randrange(1, 9))
        case 5:
            c = rng.randrange(len(other) + 1)
            data[a:a] = other[c : c + rng.randrange(1, 200)]
        case 6:
            digits = [i for i in range(len(data)) if 48 <= data[i] <= 57]
            if digits:
                i = rng.choice(digits)
                data[i : i + 1] = rng.choice(NUMBERS)
        case 7:
            del data[a:]
        case 8 if data:
            data[:] = data * min(rng.choice([2, 3, 50]), TURN_MAX // len(data) + 1)
        case 9 if len(data) - a >= 4:
            data[a : a + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\4"])


# ---- the campaign ----


def iteration(name: str, table: list[Case], rng: random.Random, tally: Tally) -> None:
    """One conversation through all invariants; Broken if one fails."""
    original = rng.choice(table)
    intact = rng.random() < 0.2
    secret = SECRET
    if intact:
        secret = "".join(rng.choices(string.ascii_letters, k=len(SECRET))).encode()
        turns = [(s, d.replace(SECRET, secret)) for s, d in original.turns]
        case = Case(original.name, turns, [], original.server_port, original.datagram)
    else:
        case = mutate(rng, original, table)
    size = sum(len(d) for _, d in case.turns)
    start = time.process_time()
    whole = feed(name, case, None)
    spent = time.process_time() - start
    try:
        if spent > SECONDS_FIXED + size * SECONDS_PER_BYTE:
            raise Broken(f"{spent:.3f} s for {size} bytes")
        check_runs(name, whole)
        check_sniff(name, case, rng)
        if feed(name, case, None) != whole:
            raise Broken("the same bytes gave other messages")
        split = feed(name, case, rng)
        if split != whole:
            raise Broken(f"other messages when split: {first_difference(whole, split)}")
        cut = feed(name, case, None, captured=rng.choice([1, 7, 64, 512, rng.randrange(1, 1000)]))
        check_runs(name, cut)
        if intact:
            for runs in (whole, split, cut):
                check_secrets(runs, secret)
    except Broken as broken:
        raise Broken(f"{broken}\n  case {case.name!r}: {case.turns!r}"[:REPORT_MAX]) from None
    tally.iterations += 1
    tally.bytes += size
    for _, messages in whole:
        tally.messages += len(messages)
        tally.refusals += sum(m["type"] == "not_mine" for m in messages)


def first_difference(a: Runs, b: Runs) -> str:
    for (_, left), (_, right) in zip(a, b, strict=True):
        for i in range(max(len(left), len(right))):
            x, y = left[i] if i < len(left) else None, right[i] if i < len(right) else None
            if x != y:
                if x is None or y is None or set(x) != set(y):
                    return f"message {i}: {str(x)[:500]} / {str(y)[:500]}"
                return f"message {i}: " + ", ".join(f"{k} {x[k]!r:.200} / {y[k]!r:.200}" for k in x if x[k] != y[k])
    return "none"


def check_linear(name: str, table: list[Case]) -> None:
    """Four times the bytes take at most some twelve times as long, for each turn repeated within itself."""
    for case in table:
        if case.datagram:
            continue
        short, long = (min(_seconds(name, stretch(case, n)) for _ in range(3)) for n in (16_000, 64_000))
        if long > 12 * short + 0.02:
            raise Broken(f"16 kB: {short:.4f} s, 64 kB: {long:.4f} s, case {case.name!r}")


def stretch(case: Case, size: int) -> Case:
    turns: list[Turn] = [(s, (d * (size // max(1, len(d)) + 1))[:size]) for s, d in case.turns[:2]]
    return Case(case.name, turns, [], case.server_port)


def _seconds(name: str, case: Case) -> float:
    start = time.process_time()
    feed(name, case, None)
    return time.process_time() - start


def campaign(name: str, seconds: float | None, iterations: int | None, seed: int, first: int = 0) -> Tally:
    """Runs until either bound is reached. Iteration i depends on (name, seed, i) alone."""
    table = load(name)
    tally = Tally()
    until = time.monotonic() + seconds if seconds is not None else None
    i = first
    while (iterations is None or i < first + iterations) and (until is None or time.monotonic() < until):
        try:
            iteration(name, table, random.Random(f"{name}/{seed}/{i}"), tally)
        except Exception as error:
            where = f"--seed {seed} --first {i} --iterations 1 {name}"
            raise Broken(f"{type(error).__name__}: {error}\n  repeat with: {where}") from error
        i += 1
    return tally


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Mutation fuzzer of the protocol parsers.")
    parser.add_argument("names", nargs="*", default=list(TABLES), help=f"parsers: {', '.join(TABLES)} (all)")
    parser.add_argument("--seconds", type=float, help="time for each parser (10 if --iterations is not given)")
    parser.add_argument("--iterations", type=int, help="conversations for each parser")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first iteration, to repeat one")
    options = parser.parse_args(arguments)
    seconds = 10.0 if options.seconds is None and options.iterations is None else options.seconds
    failed = 0
    for name in options.names:
        try:
            if options.first == 0:
                check_linear(name, load(name))
            tally = campaign(name, seconds, options.iterations, options.seed, options.first)
        except Broken as broken:
            print(f"{name}: BROKEN: {broken}", file=sys.stderr)
            failed = 1
            continue
        print(
            f"{name}: {tally.iterations} conversations, {tally.bytes} bytes, {tally.messages} messages,"
            f" {tally.refusals} refusals, seed {options.seed}: all invariants hold"
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
