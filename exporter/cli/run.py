"""`zerospan run`: the agent."""

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time

from zerospan.exporter import pipeline
from zerospan.exporter.cli import options
from zerospan.exporter.selftest import SelfTest

# mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

EPILOG = """examples:
  zerospan run --traces-file spans.jsonl --logs-file log.jsonl --duration 60
  zerospan run --metrics-listen 127.0.0.1:9464 --exe nginx --port 8080
  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 zerospan run

SIGTERM, SIGINT and the end of the duration stop it: what is held leaves, the
sinks are flushed, the ledger is printed. `ready` on standard error says that
every hook is on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_config(parser)
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after so long (default: never)")
    options.add_sinks(parser)
    options.add_capture(parser)


def main(args: argparse.Namespace) -> int:
    if args.duration is not None and args.duration <= 0:
        print("zerospan run: --duration must be more than 0 seconds", file=sys.stderr)
        return 2
    config = options.configuration(args)
    frugal_malloc()
    logging.getLogger().setLevel(config.log.level.upper())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    selftest = SelfTest() if config.selftest else None
    agent = pipeline.build(config, hidden=selftest.hidden if selftest else None)
    agent.start()
    if selftest is not None:
        problem = selftest.run(agent, config)
        if problem:
            print(f"zerospan: WARNING: self-test: {problem}", file=sys.stderr)
    if not stop.is_set():
        layout = agent.status()["hooks"]
        print(f"zerospan: ready (hooks {layout}, pid {os.getpid()})", file=sys.stderr, flush=True)
        notify("READY=1")
    end = time.monotonic() + args.duration if args.duration else None
    while agent.failure is None:
        left = 1.0 if end is None else min(1.0, end - time.monotonic())
        if left <= 0 or stop.wait(left):
            break
    notify("STOPPING=1")
    result = agent.stop()
    print(result.line(), file=sys.stderr)
    for sink in agent.sinks:
        stats = sink.stats
        if stats.dropped or stats.last_error:
            print(
                f"zerospan: sink {stats.name}: sent {stats.sent_items}, dropped {stats.dropped or 0}"
                f"{'; last error: ' + stats.last_error if stats.last_error else ''}",
                file=sys.stderr,
            )
    return 1 if agent.failure is not None else 0


def frugal_malloc() -> None:
    """One arena, and large blocks (batches) given back when they are freed: glibc's defaults keep a third more."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 256 << 10), (M_TRIM_THRESHOLD, 1 << 20)):
            mallopt(option, value)


def notify(state: str) -> None:
    """Tells systemd (sd_notify(3)); nothing happens where NOTIFY_SOCKET is not set."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.connect("\0" + address[1:] if address.startswith("@") else address)
            s.sendall(state.encode())
    except OSError as e:
        logging.getLogger(__name__).warning("systemd was not told %s: %s", state, e)
