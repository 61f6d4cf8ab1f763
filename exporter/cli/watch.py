"""`zerospan watch`: requests and RED figures live in the terminal, from a pipeline of its own."""

import argparse
import logging
import select
import signal
import sys
import threading
import time

import msgspec

from zerospan.exporter import pipeline, requestlog
from zerospan.exporter.cli import options
from zerospan.exporter.config.model import Files, Link
from zerospan.exporter.requestlog import Red, Request
from zerospan.exporter.sinks.console import RequestSink, write_stdout
from zerospan.exporter.terminal import wants_color, width

EPILOG = """examples:
  sudo zerospan watch                    every request of this machine
  sudo zerospan watch --exe nginx --interval 1
  sudo zerospan watch --port 5432 --duration 30
  sudo zerospan watch --json | jq 'select(.duration_ms > 100)'

A line: when it ended, service, srv (seen where it was received) or cli (where
it was sent; the server is not on this machine), request, status, duration.
Colours only on a terminal, and not with NO_COLOR set. Needs no running agent
and does not disturb one. Ctrl-C ends it."""

HOLD_S = 0.3  # a person waits; the other end of a request on this machine is known by then


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_config(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per request and line, nothing else")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after so long (default: never)")
    parser.add_argument(
        "--interval",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="time between two tables of RED figures; 0: none (default: 5)",
    )
    options.add_capture(parser)


class Screen:
    """Standard output, shared by the sink's thread (lines) and the main thread (tables)."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._color = wants_color()
        self._lock = threading.Lock()
        self._red = Red()

    def show(self, requests: list[Request]) -> None:
        """Raises BrokenPipeError when nobody reads any more."""
        with self._lock:
            if self._json:
                write_stdout("".join(msgspec.json.encode(r).decode() + "\n" for r in requests))
                return
            columns = width()
            for r in requests:
                self._red.add(r)
            write_stdout("".join(requestlog.line(r, width=columns, color=self._color) + "\n" for r in requests))

    def table(self) -> None:
        with self._lock:
            if not self._json:
                write_stdout(self._red.table(width=width(), color=self._color))


def main(args: argparse.Namespace) -> int:
    if args.duration is not None and args.duration <= 0 or args.interval < 0:
        print(
            "zerospan watch: --duration must be more than 0 seconds, --interval not less than 0",
            file=sys.stderr,
        )
        return 2
    config = options.without_receivers(options.configuration(args))
    hold = HOLD_S if config.link.hold_s == Link().hold_s else config.link.hold_s
    config = msgspec.structs.replace(config, files=Files(), link=msgspec.structs.replace(config.link, hold_s=hold))
    logging.getLogger().setLevel(config.log.level.upper() if args.log_level else logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    screen = Screen(args.json)
    sink = RequestSink(screen.show)
    agent = pipeline.build(config, extra_sinks=[sink], control=False)
    agent.start()
    if not args.json:
        hooks = agent.status()["hooks"]
        print(f"zerospan: ready, watching (hooks {hooks}); Ctrl-C ends it", file=sys.stderr, flush=True)
    try:
        follow(args, agent, sink, screen, stop)
    finally:
        result = agent.stop(2.0)
    if not sink.closed.is_set() and not reader_gone():
        screen.table()
    if result.dropped and not sink.closed.is_set():
        print(f"zerospan: not all was shown: {result.line()}", file=sys.stderr)
    return 1 if agent.failure is not None else 0


def follow(
    args: argparse.Namespace,
    agent: pipeline.Pipeline,
    sink: RequestSink,
    screen: Screen,
    stop: threading.Event,
) -> None:
    """Until the duration is over, a signal comes, or nobody reads any more."""
    end = time.monotonic() + args.duration if args.duration else float("inf")
    table = time.monotonic() + args.interval if args.interval else float("inf")
    while agent.failure is None and not sink.closed.is_set() and not reader_gone():
        now = time.monotonic()
        if now >= table:
            table = now + args.interval
            try:
                screen.table()
            except OSError:
                return
        if now >= end or stop.wait(max(0.0, min(0.25, end - now, table - now))):
            return


def reader_gone() -> bool:
    """Whether the pipe or terminal behind standard output was closed, though nothing was written lately."""
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))
