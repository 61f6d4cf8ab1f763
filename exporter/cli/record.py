"""`zerospan record`: the kernel's records into a file, for `zerospan replay`."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time

from zerospan.exporter import pipeline
from zerospan.exporter.cli import options
from zerospan.exporter.source.recording import Tape

EPILOG = """examples:
  sudo zerospan record shop.zsr --duration 30
  sudo zerospan record shop.zsr --exe nginx --traces-file live.jsonl
  zerospan replay shop.zsr --traces-file again.jsonl

A recording holds the first bytes of every message as they were sent, PASSWORDS
AND PERSONAL DATA INCLUDED: nothing is masked in it. The file is made with mode
0600; give it to nobody who may not see the traffic. What the kernel lost to a
full ring is counted and printed (a larger capture.ring_bytes helps).
Nothing is sent to receivers meanwhile; --traces-file, --logs-file and
--metrics-listen work as in `zerospan run`."""

MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", metavar="FILE", help="the recording; must not exist yet")
    options.add_config(parser)
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after so long (default: never)")
    parser.add_argument(
        "--max-mib",
        type=float,
        default=1024.0,
        metavar="MIB",
        help="stop when the file has this size (default: 1024)",
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    options.add_sinks(parser)
    options.add_capture(parser)


def main(args: argparse.Namespace) -> int:
    if args.duration is not None and args.duration <= 0 or args.max_mib <= 0:
        print("zerospan record: --duration and --max-mib must be more than 0", file=sys.stderr)
        return 2
    config = options.without_receivers(options.configuration(args), metrics=args.metrics_listen)
    logging.getLogger().setLevel(config.log.level.upper())
    try:
        tape = Tape(args.file, force=args.force)
    except FileExistsError:
        print(
            f"zerospan: {args.file} exists already; name another file, or give --force to replace it",
            file=sys.stderr,
        )
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        agent = pipeline.build(config, tape=tape, control=False)
    except BaseException:
        tape.close()
        with contextlib.suppress(OSError):
            os.unlink(args.file)
        raise
    agent.start()
    hooks = agent.status()["hooks"]
    print(
        f"zerospan: ready, recording to {args.file} (hooks {hooks}); Ctrl-C ends it",
        file=sys.stderr,
        flush=True,
    )
    end = time.monotonic() + args.duration if args.duration else float("inf")
    while agent.failure is None and not tape.error:
        if tape.written >= args.max_mib * MIB:
            print(f"zerospan: {args.file} has reached {args.max_mib:g} MiB (--max-mib)", file=sys.stderr)
            break
        left = min(0.25, end - time.monotonic())
        if left <= 0 or stop.wait(left):
            break
    result = agent.stop()
    tape.end(agent.kernel())
    lost = {name: n for name, n in agent.kernel().items() if n and name.startswith("ring_full")}
    said = ", ".join(f"{name} {n}" for name, n in lost.items()) or "nothing"
    print(
        f"zerospan: {args.file}: {tape.records} records, {tape.written} bytes; lost by the kernel: {said}",
        file=sys.stderr,
    )
    print(result.line(), file=sys.stderr)
    return 1 if agent.failure is not None else 0
