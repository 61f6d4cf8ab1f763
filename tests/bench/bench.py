"""`make bench`: what the agent costs those whom it watches, and itself. Prints a table, writes JSON.

    python tests/bench/bench.py [--pairs 5] [--seconds 4] [--only NAME,...] [--json FILE] [--write-docs]

Needs root (it loads BPF programs), nginx, wrk, gcc, redis-server, nftables, the back ends of tests/e2e, two
cores, and a machine that does nothing else meanwhile; --only some parts needs less. Bounded in time; ends
everything that it started. docs/benchmarks.md says how each figure is measured. Exit code 1: it, or one of
its parts, could not be measured.
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "src"), str(HERE)]

import machine  # noqa: E402
import parts  # noqa: E402
import report  # noqa: E402
from machine import OTHER_CORE, ROOT, BenchError, GivenUpError, say  # noqa: E402

PAIRED = ("nginx", "latency", "syscalls")
SECTIONS = (*PAIRED, "memory", "replay", "encode", "scrape", *parts.PARTS)
LIVE = {*PAIRED, "memory", "replay"}  # need nginx, wrk and root
DOCS = ROOT / "docs" / "benchmarks.md"
NEEDS = {
    "links": ("redis-server",),
    "assembly": ("redis-server", "ip", "nft"),
    "nic": ("nginx", "wrk", "gcc", "ip", "nft"),
}
ROOTED = {*LIVE, "assembly", "nic"}
LIMIT_S = 1500


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGTERM, ended)
    signal.alarm(args.limit)
    try:
        made = run(args)
    except BenchError as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
    print(made.table())
    if args.json:
        Path(args.json).write_text(made.json())
    if args.write_docs:
        report.write_docs(DOCS, made.markdown())
    return 1 if made.failed else 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description="Measures what the agent costs.")
    parser.add_argument("--pairs", type=positive, default=5, help="pairs of without and with (default: 5)")
    parser.add_argument("--seconds", type=positive, default=4, help="of each run of a client (default: 4)")
    parser.add_argument("--memory-seconds", type=positive, default=60, help="of load before RSS is read (default: 60)")
    parser.add_argument(
        "--only",
        type=sections,
        default=frozenset(SECTIONS),
        metavar="NAME,...",
        help=f"only these: {', '.join(SECTIONS)}",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    parser.add_argument("--write-docs", action="store_true", help="write the tables into docs/benchmarks.md")
    parser.add_argument(
        "--limit", type=positive, default=LIMIT_S, help=f"give up after so many seconds (default: {LIMIT_S})"
    )
    args = parser.parse_args(argv)
    args.command = " ".join(["python tests/bench/bench.py", *map(shlex.quote, sys.argv[1:] if argv is None else argv)])
    return args


def run(args: argparse.Namespace) -> report.Report:
    """Measures what is wanted. Raises BenchError."""
    wanted = args.only
    live = bool(wanted & LIVE)
    needed = [name for part in parts.PARTS if part in wanted for name in NEEDS.get(part, ())]
    if live or needed:
        named = ("nginx", "wrk", "gcc", *needed) if live else needed
        machine.require(tuple(dict.fromkeys((*named, "taskset", "setpriv"))), root=bool(wanted & ROOTED))
    began = time.monotonic()
    made = report.Report(args.command, machine.About.here())
    if made.about.cores > OTHER_CORE:
        os.sched_setaffinity(0, {OTHER_CORE})
    if "encode" in wanted:
        import encode

        say("encoders")
        for name, ns in encode.run(spans=200_000, rounds=7).items():
            made.put(name, [ns])
    if "scrape" in wanted:
        import scrape

        say("scrapes")
        made.put("scrape_10k_ms", scrape.run(10_000, 7))
        made.put("scrape_100k_ms", scrape.run(100_000, 5))
    if live:
        measure_live(args, made)
    for name, (what, measured) in parts.PARTS.items():
        if name in wanted:
            say(what)
            made.add_part(name, measured)
    made.took_s = time.monotonic() - began
    return made


def measure_live(args: argparse.Namespace, made: report.Report) -> None:
    """Everything that needs nginx."""
    import memory
    import pairs
    import replay
    import traffic

    wanted = args.only
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zerospan-bench-")))
        folder.chmod(0o755)  # nginx's worker is another user
        sink, load, micro = (machine.compile_c(name, folder) for name in ("sink", "load", "micro"))
        (folder / "nginx").mkdir()
        nginx = stack.enter_context(traffic.nginx(folder / "nginx"))
        if wanted & set(PAIRED):
            plan = pairs.Plan(args.pairs, args.seconds, frozenset(wanted & set(PAIRED)), folder, sink, load, micro)
            made.add_pairs(*pairs.run(plan, nginx, say))
        if "replay" in wanted:
            say("recording and replay")
            made.add_replay(replay.run(nginx, folder, min(3, args.seconds), min(5, args.pairs)))
        if "memory" in wanted:
            say(f"memory: {args.memory_seconds} s of load")
            made.add_memory(memory.run(nginx, folder / "memory", sink, args.memory_seconds))


def positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def sections(text: str) -> frozenset[str]:
    names = frozenset(name for name in text.split(",") if name)
    unknown = sorted(names - set(SECTIONS))
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown) or 'nothing given'}; there are {', '.join(SECTIONS)}"
        )
    return names


def too_long(number: int, frame: FrameType | None) -> None:
    raise GivenUpError("took too long and was given up; use --limit, fewer --pairs, or --only")


def ended(number: int, frame: FrameType | None) -> None:
    raise GivenUpError("ended by SIGTERM; what it had started is ended, too")


if __name__ == "__main__":
    sys.exit(main())
