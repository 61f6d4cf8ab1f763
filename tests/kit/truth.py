"""Every link of an agent's spans against what the programs really did: precision, recall, wrong traces, by method.

The truth stands in the requests themselves, where no linker looks: each hop has its own path, `/t/<hop>/<plan>/<ms>`.
The driver's request number 17 is hop `17`; the first call made to serve it is hop `17.1`, the second call made to
serve that one `17.1.2`, and so on. So the right parent of a span follows from its own hop:

  SERVER span of hop H      the CLIENT span of hop H (the same request, the other end)
  CLIENT span of hop H.k    the SERVER span of hop H (the call was made to serve it)
  CLIENT span of hop 17     none: the driver serves nobody
  CLIENT span of a proxy    the SERVER span of the same hop in the same service (`proxies`)

What a runtime has to provide to be judged (see tests/net/truth/ for those that there are): an HTTP server that answers
GET /t/<hop>/<plan>/<ms> with 200. `plan` is "N" or "N.rest": make N calls, one after the other (or at once, if that is
what the runtime is for), k = 1..N, to $TRUTH_UPSTREAM/t/<hop>.<k>/<rest, "0" if there is none>/<ms>, read each answer
to its end, then answer. `plan` "0": wait `ms` milliseconds, then answer (kit/truth_peers.py is such an end point).
tests/net/test_truth_threads.py shows the ten lines that start one; kit/truth_run.py does the rest.

Where paths must be the same (proxies, identical requests in flight), give `ident=by_body_size`: the hop is then the
size of the request's body, which a proxy passes on and no linker looks at.

Counts are of links. right: the parent is a right one, present, in the same trace. wrong: any other parent. unlinked: no
parent where there should be one. missing: no such span at all. precision = right / (right + wrong), recall = right /
all that there should be (from what the driver sent, so that lost spans count). A wrong trace has spans of two requests.
Called by tests/net; `python tests/kit/truth.py SPANS... --requests FILE` judges files (a line each: "<number> <plan>").
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as a program

from agent import spans as spans_of_file

SERVER, CLIENT = 2, 3
KIND_NAMES = {SERVER: "SERVER", CLIENT: "CLIENT"}
PATH = re.compile(r"^/t/(\d+(?:\.\d+)*)/")

Span = Mapping[str, Any]
Ident = Callable[[Span], str | None]


class Sent(NamedTuple):
    """A request of the driver: its number and its plan."""

    number: str
    plan: str

    def hops(self) -> list[str]:
        """All hops that it causes, itself first."""
        found, level = [self.number], [self.number]
        for count in map(int, self.plan.split(".")):
            level = [f"{hop}.{k}" for hop in level for k in range(1, count + 1)]
            found += level
        return found


def by_path(span: Span) -> str | None:
    """The hop in url.path."""
    match = PATH.match(span["attributes"].get("url.path", ""))
    return match[1] if match else None


def by_body_size(span: Span) -> str | None:
    """The hop is the size of the request's body in bytes; 0 is no hop."""
    size = span["attributes"].get("http.request.body.size")
    return str(size) if size and int(size) else None


@dataclass
class Links:
    """Links of one kind or one method. `expected` is 0 where it cannot be told (of a method)."""

    right: int = 0
    wrong: int = 0
    unlinked: int = 0
    missing: int = 0

    @property
    def expected(self) -> int:
        """How many there should be."""
        return self.right + self.unlinked + self.missing + self.wrong

    @property
    def precision(self) -> float:
        """Of the links made, the share that is right; 1 of none."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else 1.0

    @property
    def recall(self) -> float:
        """Of the links that there should be, the share that was made right; 1 of none."""
        return self.right / self.expected if self.expected else 1.0

    def json(self) -> dict[str, float]:
        """Counts and shares."""
        return {**vars(self), "expected": self.expected, "precision": self.precision, "recall": self.recall}


@dataclass
class Score:
    """The result. `links`: by kind; `methods`: by (kind, zerospan.link.method)."""

    requests: int = 0
    spans: int = 0
    links: dict[int, Links] = field(default_factory=lambda: {SERVER: Links(), CLIENT: Links()})
    methods: dict[tuple[int, str], Links] = field(default_factory=lambda: defaultdict(Links))
    whole: int = 0  # requests that are one trace with every link right
    wrong_traces: int = 0  # traces with spans of two requests
    split: int = 0  # requests in more than one trace
    strays: int = 0  # spans without a hop
    examples: list[str] = field(default_factory=list)

    @property
    def all(self) -> Links:
        """SERVER and CLIENT links together."""
        one, two = self.links[SERVER], self.links[CLIENT]
        return Links(*(vars(one)[name] + vars(two)[name] for name in vars(one)))

    def json(self) -> dict[str, Any]:
        """The whole result for a file."""
        return {
            "requests": self.requests,
            "spans": self.spans,
            "whole": self.whole,
            "wrong_traces": self.wrong_traces,
            "split": self.split,
            "strays": self.strays,
            "kinds": {KIND_NAMES[kind]: links.json() for kind, links in self.links.items()},
            "methods": {f"{KIND_NAMES[kind]} {method}": links.json() for (kind, method), links in self.methods.items()},
            "examples": self.examples,
        }

    def text(self) -> str:
        """The table for people."""
        rows: list[tuple[str, ...]] = [("links", "right", "wrong", "unlinked", "missing", "precision", "recall")]
        for kind, links in self.links.items():
            rows.append(self._row(KIND_NAMES[kind], links))
        for (kind, method), links in sorted(self.methods.items()):
            counts = (links.right, links.wrong, links.unlinked)
            rows.append((f"  {KIND_NAMES[kind]} {method}", *map(str, counts), "", f"{100 * links.precision:.2f} %", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            f"{self.requests} requests, {self.spans} spans ({self.strays} of other traffic): {self.whole} whole,"
            f" {self.wrong_traces} wrong traces, {self.split} requests split"
        ]
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
        return "\n".join([*lines, *self.examples])

    @staticmethod
    def _row(name: str, links: Links) -> tuple[str, ...]:
        counts = (links.right, links.wrong, links.unlinked, links.missing)
        return (name, *map(str, counts), f"{100 * links.precision:.2f} %", f"{100 * links.recall:.2f} %")


def judge(
    spans: Iterable[Span],
    sent: Sequence[Sent],
    *,
    ident: Ident = by_path,
    proxies: Collection[str] = (),
    servers: bool = True,
    driver_watched: bool = True,
    examples: int = 5,
) -> Score:
    """Compares every link with the truth.

    spans: flat, as `agent.spans` reads them. proxies: service names that pass a request on with its path unchanged; a
    request's SERVER spans then number one more for each. servers=False: the called ends speak what is not seen.
    driver_watched=False: no CLIENT spans of the driver are expected, and its requests' SERVER spans are roots.
    """
    score = Score(requests=len(sent))
    hops = {hop: one for one in sent for hop in one.hops()}
    found: list[tuple[str, Span]] = []
    by_id: dict[tuple[str, str], tuple[str, Span]] = {}
    traces: dict[str, set[str]] = defaultdict(set)  # trace id -> requests in it
    holders: dict[str, set[str]] = defaultdict(set)  # request -> its traces
    for span in spans:
        hop = ident(span)
        score.spans += 1
        if hop is None or hop not in hops or span["kind"] not in KIND_NAMES:
            score.strays += 1
            continue
        if (span["traceId"], span["spanId"]) in by_id:
            continue  # sent twice by a retry of the sink
        by_id[span["traceId"], span["spanId"]] = hop, span
        found.append((hop, span))
        number = hop.partition(".")[0]
        traces[span["traceId"]].add(number)
        holders[number].add(span["traceId"])
    faults: set[str] = set()
    seen: Counter[tuple[int, str]] = Counter()
    for hop, span in found:
        kind = span["kind"]
        number = hop.partition(".")[0]
        root = "." not in hop and (kind == CLIENT or not driver_watched) and span["service"] not in proxies
        parent_id = span.get("parentSpanId") or ""
        parent = by_id.get((span["traceId"], parent_id)) if parent_id else None
        if not root:
            seen[kind, hop] += 1
        if not parent_id:
            verdict = "" if root else "unlinked"
        elif parent is None or root:
            verdict = "wrong"
        else:
            verdict = "right" if _is_parent(parent, hop, span, proxies) else "wrong"
        if not verdict:
            continue
        for links in (score.links[kind], score.methods[kind, span["attributes"].get("zerospan.link.method", "?")]):
            setattr(links, verdict, getattr(links, verdict) + 1)
        if verdict != "right":
            faults.add(number)
            if len(score.examples) < examples:
                below = f"hop {parent[0]} of {parent[1]['service']}" if parent else parent_id or "nothing"
                score.examples.append(
                    f"  {verdict}: {KIND_NAMES[kind]} of {span['service']}, hop {hop}, below {below}"
                    f" (trace {span['traceId']})"
                )
    for hop in hops:
        for kind in (SERVER, CLIENT) if servers else (CLIENT,):
            due = 1 + len(proxies) * ("." not in hop)
            if "." not in hop and (kind == CLIENT or not driver_watched):
                due -= 1
            lacking = max(0, due - seen[kind, hop])
            score.links[kind].missing += lacking
            if lacking:
                faults.add(hop.partition(".")[0])
                if len(score.examples) < examples:
                    score.examples.append(f"  missing: {KIND_NAMES[kind]} span of hop {hop}")
    mixed = {trace for trace, numbers in traces.items() if len(numbers) > 1}
    score.wrong_traces = len(mixed)
    score.split = sum(len(held) > 1 for held in holders.values())
    for one in sent:
        held = holders.get(one.number, set())
        score.whole += len(held) == 1 and not held & mixed and one.number not in faults
    return score


def _is_parent(parent: tuple[str, Span], hop: str, span: Span, proxies: Collection[str]) -> bool:
    parent_hop, parent_span = parent
    if span["kind"] == SERVER:
        return bool(parent_hop == hop and parent_span["kind"] == CLIENT and parent_span is not span)
    same_service: bool = parent_span["service"] == span["service"]
    if parent_span["kind"] != SERVER or not same_service:
        return False
    return parent_hop == (hop if span["service"] in proxies else hop.rpartition(".")[0])


def read_sent(path: Path) -> list[Sent]:
    """What the driver wrote: a line a request, its number and its plan."""
    return [Sent(*line.split()) for line in path.read_text().splitlines() if line]


def main() -> int:
    """The command line; exit code 0 if there is no wrong link."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spans", nargs="+", type=Path, help="files of OTLP JSON lines")
    parser.add_argument("--requests", type=Path, required=True, help="a line each: number and plan")
    parser.add_argument("--proxy", action="append", default=[], help="service.name of a proxy")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    spans = [span for path in arguments.spans for span in spans_of_file(path)]
    score = judge(spans, read_sent(arguments.requests), proxies=arguments.proxy)
    print(json.dumps(score.json(), indent=2) if arguments.json else score.text())
    return 1 if score.all.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
