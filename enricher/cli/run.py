"""`zerospan enricher run`: the enricher."""

import argparse
import logging
import os
import signal
import sys
import threading
import time

from zerospan.enricher.cli import options

EPILOG = """examples:
  zerospan enricher run                                      this host
  zerospan enricher run --config /etc/zerospan/enricher.yaml
  zerospan enricher run --scope cluster --listen-grpc 0.0.0.0:4319 --config e.yaml
  zerospan enricher run --upstream zerospan-enricher.zerospan.svc:4319

`ready` on standard error says that all sources are in sync; agents are served
from the start on, with what is known; systemd is told then that it has started
(Type=notify). SIGTERM and SIGINT stop it."""

SAY_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_config(parser)
    options.add_run(parser)


def main(args: argparse.Namespace) -> int:
    from zerospan.enricher import run
    from zerospan.enricher.tuning import tune
    from zerospan.exporter.cli.daemon import frugal_malloc, long_slice, notify

    config = options.configuration(args)
    frugal_malloc()
    long_slice()
    run.raise_descriptors()
    logging.getLogger().setLevel(config.log.level.upper())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    enricher = run.build(config)
    tune()
    enricher.start()
    began = said = time.monotonic()
    # It serves: no unit shall wait for a source that may be away for hours.
    notify(f"READY=1\nSTATUS=waiting for {status(enricher.waiting_for())}")
    try:
        while not stop.is_set() and not enricher.in_sync():
            stop.wait(0.1)
            if time.monotonic() - said > SAY_S:
                said = time.monotonic()
                print(f"zerospan: waiting for {enricher.waiting_for()}", file=sys.stderr, flush=True)
                notify(f"STATUS=waiting for {status(enricher.waiting_for())}")
        if not stop.is_set():
            seconds = time.monotonic() - began
            print(
                f"zerospan: ready (scope {config.scope}, node {enricher.node}, {enricher.store.revision} changes"
                f" in {seconds:.1f} s, pid {os.getpid()})",
                file=sys.stderr,
                flush=True,
            )
            notify("STATUS=all sources are in sync")
            stop.wait()
        notify("STOPPING=1")
    finally:
        enricher.stop()
    return 0


def status(text: str) -> str:
    """One line: sd_notify(3) reads assignments line by line."""
    return " ".join(text.split())
