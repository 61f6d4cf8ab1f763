"""`zerospan run`: the agent."""

import argparse
import logging
import os
import signal
import sys
import threading
import time

from zerospan.exporter import pipeline
from zerospan.exporter.cli import options
from zerospan.exporter.cli.daemon import frugal_malloc, long_slice, notify
from zerospan.exporter.selftest import SelfTest

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
    long_slice()
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
