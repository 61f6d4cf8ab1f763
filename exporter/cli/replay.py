"""`zerospan replay`: a recording through the same pipeline, without root and without the kernel."""

import argparse
import json
import logging
import signal
import sys
import threading

from zerospan.exporter import pipeline
from zerospan.exporter.cli import options
from zerospan.exporter.source.replay import Replay

EPILOG = """examples:
  zerospan replay shop.zsr --traces-file spans.jsonl --logs-file requests.jsonl
  zerospan replay shop.zsr --json                  the ledger as JSON
  zerospan replay shop.zsr --config agent.yaml     to its receivers
  zerospan replay shop.zsr --speed real            at the recorded pace
  zerospan replay shop.zsr --metrics-listen 127.0.0.1:9464   until Ctrl-C

Times, ids and links are those of the recording, every time the same. Names of
services, too: they were looked up when it was recorded. Masking (privacy.mask)
and limits are those of this configuration. Needs no root."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", metavar="FILE", help="made by `zerospan record`")
    options.add_config(parser)
    parser.add_argument("--speed", choices=("max", "real"), default="max", help="pace (default: max)")
    parser.add_argument("--partial", action="store_true", help="take a recording that was cut off as far as it goes")
    parser.add_argument("--json", action="store_true", help="the ledger as a JSON object on standard output")
    options.add_sinks(parser)


def main(args: argparse.Namespace) -> int:
    config = options.configuration(args)
    logging.getLogger().setLevel(config.log.level.upper())
    recording = Replay(args.file, args.partial)
    stop = threading.Event()
    agent = pipeline.build(config, replay=recording, control=False)

    def end(*_: object) -> None:
        stop.set()
        agent.ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    agent.realtime = args.speed == "real"
    agent.start()
    while not agent.ended.wait(1.0):
        pass
    if agent.failure is None and args.metrics_listen and not stop.is_set():
        print(
            f"zerospan: replayed; http://{config.metrics.listen}/metrics is served until Ctrl-C",
            file=sys.stderr,
        )
        while not stop.wait(1.0):
            pass
    result = agent.stop()
    counts = agent.engine.counts()
    if args.json:
        print(
            json.dumps(
                {
                    "file": args.file,
                    "records": recording.records,
                    "replayed": counts["records"],
                    "seen": result.seen,
                    "exported": result.exported,
                    "dropped": result.dropped,
                    "in_flight": result.in_flight,
                    "balanced": result.balanced,
                    "kernel": recording.kernel,
                    "pipeline": counts,
                }
            )
        )
    else:
        print(
            f"zerospan: {args.file}: {counts['records']} of {recording.records} records replayed",
            file=sys.stderr,
        )
        print(result.line(), file=sys.stderr)
    return 1 if agent.failure is not None else 0
