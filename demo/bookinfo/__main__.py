"""`make demo-bookinfo`: Istio's Bookinfo on two nodes under the agent; one curl, one trace; then a load, judged.

Starts two nodes joined by VXLAN with six pods (namespaces of this machine), the agent, then sends one request by curl
and prints its trace as a tree with hop times and counts of its spans; then sends a load and judges every trace
against the table of expected.py. Exit code 0: all requests were answered, curl's trace and at least 99.9 % of the
load's are whole, none holds what is another's. 1: not so, or something could not start.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from demo.bookinfo import judge
from demo.bookinfo.agents import Agent
from demo.bookinfo.client import Request
from demo.bookinfo.cluster import Bookinfo
from demo.bookinfo.expected import HOPS, INTERNAL, NICS, PROCESSES
from demo.hosts import HostsError
from zerospan.exporter.tree import Span, render_trace

WHOLE = 0.999  # share of the load's requests that must be one whole trace
WIDTH = 132
EXAMPLES = """examples:
  python -m demo.bookinfo                          one trace, then 30 requests/s for 5 s
  python -m demo.bookinfo --rate 100 --seconds 60  the load of the acceptance
  python -m demo.bookinfo --seconds 0              the one trace alone
  python -m demo.bookinfo --tag                    look-ups are judged by the request's id, too
  python -m demo.bookinfo --same-path              requests that nothing but evidence tells apart
  python -m demo.bookinfo --per-host --links redis://127.0.0.1:6379/0    three agents that share their links
  python -m demo.bookinfo --otlp http://127.0.0.1:4318   show it in your Tempo, too
"""


def say(text: str) -> None:
    print(f"bookinfo: {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo.bookinfo",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rate", type=float, default=30.0, help="requests a second of the load (default 30)")
    add("--seconds", type=float, default=5.0, help="how long (default 5; 0: no load)")
    add("--connections", type=int, default=32, help="of the client, at most (default 32)")
    add("--tag", action="store_true", help="names looked up carry the request's id, so that it can judge them")
    add("--forward", action="store_true", help="programs hand X-Request-ID on, as Istio's own sample does")
    add("--no-answer-id", action="store_true", help="the Envoys do not show X-Request-ID in their answers")
    add("--same-path", action="store_true", help="one path for all requests; their ids travel in User-Agent")
    add("--per-host", action="store_true", help="an agent for each host: the two nodes and the client's")
    add("--links", metavar="URL", help="Redis where the agents of --per-host share what links their spans")
    add("--otlp", metavar="URL", help="send the spans there, too (OTLP/HTTP)")
    add("--keep", metavar="DIR", help="keep the spans and the agent's log there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments()
    args = parser.parse_args(argv)
    if args.rate <= 0 or args.seconds < 0 or args.connections < 1:
        parser.error("--rate and --connections must be above 0, --seconds not below")
    if args.links and not args.per_host:
        parser.error("--links is for several agents: give --per-host, too")
    if args.tag and args.same_path:
        parser.error("--tag takes the id from the path, which --same-path leaves without one: give one of them")
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    with contextlib.ExitStack() as stack:
        folder = Path(args.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="zerospan-bookinfo-")))
        try:
            return run(args, folder)
        except HostsError as error:
            say(str(error))
            return 1
        except KeyboardInterrupt:
            return 130


def run(args: argparse.Namespace, folder: Path) -> int:
    say("starting two nodes: curl -> ingress -> productpage -> details, reviews -> ratings; five Envoys, dnsmasq")
    how = {"forward": args.forward, "answer_id": not args.no_answer_id, "tag": args.tag, "same_path": args.same_path}
    with Bookinfo(**how) as bookinfo:
        say(f"all answer after {bookinfo.start_s:.1f} s; starting the agent")
        settings = bookinfo.settings()
        if args.otlp:
            settings["otlp"] = {"traces": {"endpoint": args.otlp}}
        if args.links:
            settings["links"] = args.links
        hosts = bookinfo.hosts if args.per_host else {"all": bookinfo.namespaces}
        agents = [Agent(folder / name, namespaces, settings) for name, namespaces in hosts.items()]
        with contextlib.ExitStack() as running:
            for agent in agents:
                running.enter_context(agent)
            one = bookinfo.curl()
            many: list[Request] = []
            if args.seconds:
                say(f"sending {args.rate:g} requests/s for {args.seconds:g} s")
                many = bookinfo.load(args.rate, args.seconds, args.connections)
            for agent in agents:
                agent.settle()
        memory = bookinfo.rss_mib()
        if dead := bookinfo.dead():
            say(f"ended by themselves: {', '.join(dead)}\n{bookinfo.tails()}")
    traces = judge.by_request(judge.read(agent.traces for agent in agents))
    first = judge.judge(traces, [one.rid])
    title("One request, one trace")
    for trace in traces.get(one.rid, []):
        print(render_trace(trace, width=WIDTH, color=sys.stdout.isatty()), end="")
    title("Its spans")
    print(counted([span for trace in traces.get(one.rid, []) for span in trace]))
    print(first.text())
    good = one.status == 200 and first.whole == 1.0 and not dead
    if many:
        load = judge.judge(traces, [request.rid for request in many], visitor="client")
        title(f"The load: {args.rate:g} requests/s for {args.seconds:g} s")
        print(latencies(many))
        print(load.text())
        good = good and load.whole >= WHOLE and load.wrong == 0 and all(r.status == 200 for r in many)
    title("The agents' ledgers, the programs' memory")
    for name, agent in zip(hosts, agents, strict=True):
        print(f"{name}: {agent.ledger}")
    print("RSS, MiB (shared pages in each): " + ", ".join(f"{name} {mib:.0f}" for name, mib in memory.items()))
    if args.keep:
        print("spans: " + ", ".join(str(agent.traces) for agent in agents))
    return 0 if good else 1


def seen_by(span: Span) -> str:
    if span.name.startswith("DNS"):
        return "look-ups"
    return "Envoys" if span.service.endswith("-envoy") else "programs"


def counted(spans: Sequence[Span]) -> str:
    """Spans by what saw them, with the table's numbers."""
    points = [span for span in spans if span.kind == INTERNAL]
    ends = Counter(seen_by(span) for span in spans if span.kind != INTERNAL)
    seen = ", ".join(f"{count} of {what}" for what, count in sorted(ends.items()))
    return (f"{len(spans) - len(points)} process spans ({seen}), {len(points)} of network interfaces;"
            f" the table has {len(PROCESSES)} ({len(HOPS)} hops, both ends) and {len(NICS)}")  # fmt: skip


def latencies(requests: Sequence[Request]) -> str:
    """What the client saw."""
    times = sorted(1000 * request.latency_s for request in requests)
    late = max(request.late_s for request in requests)
    statuses = ", ".join(f"{count} x {status}" for status, count in Counter(r.status for r in requests).items())
    return (f"{statuses}; p50 {times[len(times) // 2]:.1f} ms, p99 {times[len(times) * 99 // 100]:.1f} ms,"
            f" sent at most {1000 * late:.0f} ms late")  # fmt: skip


def title(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
