"""Judges the agent's spans against what the demo's requests must have caused.

Reads OTLP JSON lines as the Collector's file exporter writes them (one ExportTraceServiceRequest a line) and
the requests that `drive.py` sent. Assumes that HTTP spans have the request id in url.path (or any attribute);
statements, look-ups and their servers belong to a request by their parents, unless the shop ran with `tag`
and they have the id, too. Called by `make demo`, the end-to-end tests and as
`python3 demo/truth.py SPANS... --requests FILE`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# For `python3 demo/truth.py`: the folder that holds the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.drive import load
from demo.expected import DOOR, KINDS, RID, ROLES, Edge

VERDICTS = ("whole", "broken", "mixed", "surplus", "missing")
_KINDS = {2: "SERVER", 3: "CLIENT", "SPAN_KIND_SERVER": "SERVER", "SPAN_KIND_CLIENT": "CLIENT"}


class Span(NamedTuple):
    """What is needed of a span. Ids in hex, `parent` empty for a root, `kind` SERVER, CLIENT or other."""

    trace: str
    id: str
    parent: str
    kind: str
    service: str
    protocol: str
    name: str
    rids: frozenset[str]


class Finding(NamedTuple):
    """The verdict on one request, why, and the traces that hold its id."""

    rid: str
    kind: str
    verdict: str
    reason: str
    traces: tuple[str, ...]


@dataclass
class Truth:
    """All findings. `strays`: traces with no request id (the programs' start-up, or statements cut off)."""

    findings: list[Finding] = field(default_factory=list)
    strays: int = 0
    spans: int = 0
    duplicates: int = 0  # spans seen again with the same ids; counted once in all else

    @property
    def counts(self) -> dict[str, int]:
        """How many requests got each verdict; the sum is the number of requests."""
        found = Counter(finding.verdict for finding in self.findings)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def right(self) -> bool:
        """Whether every request is one whole trace."""
        return bool(self.findings) and self.counts["whole"] == len(self.findings)

    def text(self, examples: int = 5) -> str:
        """The result for people: one line of counts, then the first few that are not whole."""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        lines = [
            f"{len(self.findings)} requests: {counts} ({self.spans} spans, {self.strays} traces with no id)"
        ]
        bad = [finding for finding in self.findings if finding.verdict != "whole"]
        for finding in bad[:examples]:
            where = ", ".join(finding.traces) or "-"
            lines.append(
                f"  {finding.verdict}: {finding.kind} {finding.rid}: {finding.reason} (trace {where})"
            )
        if len(bad) > examples:
            lines.append(f"  and {len(bad) - examples} more")
        return "\n".join(lines)


def read_spans(paths: Iterable[Path]) -> Iterator[Span]:
    """The spans of OTLP JSON lines files. ValueError names file and line of what is no JSON."""
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        message = json.loads(line)
                    except ValueError as error:
                        raise ValueError(f"{path}:{number}: not a line of OTLP JSON: {error}") from error
                    yield from spans_of(message)


def spans_of(message: Mapping[str, Any]) -> Iterator[Span]:
    """The spans of one ExportTraceServiceRequest in OTLP JSON."""
    for resource in message.get("resourceSpans", ()):
        service = _attributes(resource.get("resource", {})).get("service.name", "")
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                attributes = _attributes(span)
                texts = [span.get("name", ""), *attributes.values()]
                yield Span(
                    trace=span["traceId"].lower(),
                    id=span["spanId"].lower(),
                    parent=span.get("parentSpanId", "").lower(),
                    kind=_KINDS.get(span.get("kind"), "other"),
                    service=service,
                    protocol=_protocol(attributes),
                    name=span.get("name", ""),
                    rids=frozenset(rid for text in texts for rid in RID.findall(text)),
                )


def judge(
    spans: Iterable[Span],
    requests: Iterable[tuple[str, str]],
    *,
    roles: Mapping[str, str] = ROLES,
    servers: bool = True,
) -> Truth:
    """A verdict for each (request id, kind).

    `servers`: every call must have its SERVER span, databases' and the name server's, too; without it, the
    CLIENT spans alone are counted, by client and protocol.

    whole: one trace has the id and no other's, all its spans hang from one root at the door, the edges are
    the expected ones in the expected number. broken: something lacks or is cut off. mixed: its trace holds
    another request's id. surplus: more calls than the request makes, so another's hang here. missing: no span
    has it.
    """
    truth = Truth()
    traces: dict[str, dict[str, Span]] = defaultdict(dict)
    for span in spans:
        truth.spans += 1
        truth.duplicates += span.id in traces[span.trace]
        traces[span.trace][span.id] = span
    holders: dict[str, set[str]] = defaultdict(set)
    for trace, members in traces.items():
        rids = frozenset[str]().union(*(span.rids for span in members.values()))
        for rid in rids:
            holders[rid].add(trace)
        truth.strays += not rids
    for rid, kind in requests:
        held = tuple(sorted(holders.get(rid, ())))
        if not held:
            verdict, reason = "missing", "no span has its id"
        else:
            verdict, reason = _verdict(rid, kind, [traces[trace] for trace in held], roles, servers)
        truth.findings.append(Finding(rid, kind, verdict, reason, held))
    return truth


def _verdict(
    rid: str, kind: str, traces: Sequence[Mapping[str, Span]], roles: Mapping[str, str], servers: bool
) -> tuple[str, str]:
    for trace in traces:
        others = sorted({other for span in trace.values() for other in span.rids} - {rid})
        if others:
            return "mixed", f"its trace holds {', '.join(others[:3])}, too"
    if len(traces) > 1:
        return "broken", f"in {len(traces)} traces"
    trace = traces[0]
    cut = _cut(trace, roles)
    if cut:
        return "broken", cut
    found, faults = _edges(trace, roles, servers)
    wanted = Counter(KINDS[kind].edges)
    if not servers:
        found, wanted = _without_servers(found), _without_servers(wanted)
    lacking, surplus = wanted - found, found - wanted
    if lacking:
        return "broken", "lacks " + _list(lacking)
    if surplus:
        return "surplus", "has beyond what it makes " + _list(surplus)
    if faults:
        return "broken", "; ".join(faults[:3])
    return "whole", ""


def _cut(trace: Mapping[str, Span], roles: Mapping[str, str]) -> str:
    """Why the spans are not one tree with its root at the door; empty if they are."""
    roots = [span for span in trace.values() if not span.parent]
    if len(roots) != 1:
        return f"{len(roots)} roots: {', '.join(sorted(_show(span) for span in roots)[:3])}"
    orphans = [span for span in trace.values() if span.parent and span.parent not in trace]
    if orphans:
        return f"parent not in the trace: {_show(orphans[0])}"
    children: dict[str, list[str]] = defaultdict(list)
    for span in trace.values():
        children[span.parent].append(span.id)
    reached, todo = 0, [roots[0].id]
    while todo:
        reached += 1
        todo += children[todo.pop()]
    if reached != len(trace):
        return f"{len(trace) - reached} spans in a ring of parents"
    root = roots[0]
    doors = [one for one in trace.values() if one.kind == "SERVER" and _role(one, roles) == DOOR]
    if len(doors) != 1:
        return f"{len(doors)} SERVER spans of {DOOR}"
    # The client of the shop (curl, the driver) may or may not be watched.
    if root is not doors[0] and (doors[0].parent != root.id or root.kind != "CLIENT"):
        return f"its root is {_show(root)}"
    return ""


def _edges(
    trace: Mapping[str, Span], roles: Mapping[str, str], servers: bool
) -> tuple[Counter[Edge], list[str]]:
    """The calls of a trace counted, the one from outside left out; and what is wrong with single spans."""
    answered: dict[str, list[Span]] = defaultdict(list)
    faults = []
    for span in trace.values():
        if span.kind == "SERVER":
            answered[span.parent].append(span)
            if span.parent and trace[span.parent].kind != "CLIENT":
                faults.append(f"{_show(span)} is not below a CLIENT span")
    edges: Counter[Edge] = Counter()
    for span in trace.values():
        if span.kind != "CLIENT":
            continue
        below = answered[span.id]
        if len(below) > 1 or (servers and not below):
            faults.append(f"{len(below)} SERVER spans below {_show(span)}")
        server = _role(below[0], roles) if below else "?"
        if not span.parent and server == DOOR:
            continue
        if below and below[0].protocol != span.protocol:
            faults.append(f"{_show(span)} and its SERVER span differ in protocol: {below[0].protocol}")
        if span.parent and _role(trace[span.parent], roles) != _role(span, roles):
            faults.append(f"{_show(span)} is caused by another service, {trace[span.parent].service}")
        edges[Edge(_role(span, roles), server, span.protocol)] += 1
    return edges, faults


def _without_servers(edges: Counter[Edge]) -> Counter[Edge]:
    merged: Counter[Edge] = Counter()
    for edge, count in edges.items():
        merged[edge._replace(server="?")] += count
    return merged


def _role(span: Span, roles: Mapping[str, str]) -> str:
    return roles.get(span.service.lower(), span.service)


def _show(span: Span) -> str:
    return f"{span.service} {span.kind} {span.name!r}"


def _list(edges: Mapping[Edge, int]) -> str:
    return ", ".join(f"{count} of {edge}" for edge, count in sorted(edges.items()))


def _attributes(holder: Mapping[str, Any]) -> dict[str, str]:
    """Attributes as text; of arrays and maps, their JSON."""
    found = {}
    for attribute in holder.get("attributes", ()):
        value = next(iter(attribute.get("value", {}).values()), "")
        found[attribute["key"]] = value if isinstance(value, str) else json.dumps(value)
    return found


def _protocol(attributes: Mapping[str, str]) -> str:
    system = attributes.get("db.system.name") or attributes.get("db.system")
    if system:
        return system
    if any(key.startswith("dns.") for key in attributes):
        return "dns"
    return "http" if "http.request.method" in attributes else attributes.get("network.protocol.name", "?")


def main() -> int:
    """The command line; exit code 0 if every request is one whole trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("spans", nargs="+", type=Path, help="files of OTLP JSON lines")
    parser.add_argument("--requests", type=Path, required=True, help="what `shop.py --requests-file` wrote")
    parser.add_argument(
        "--role", action="append", default=[], metavar="NAME=ROLE", help="service.name of a service"
    )
    parser.add_argument(
        "--no-servers", action="store_true", help="do not ask for the SERVER span of every call"
    )
    parser.add_argument("--json", action="store_true", help="print the counts and findings as JSON")
    arguments = parser.parse_args()
    named = dict(pair.lower().split("=", 1) for pair in arguments.role)
    sent = [(request.rid, request.kind) for request in load(arguments.requests)]
    truth = judge(
        read_spans(arguments.spans), sent, roles={**ROLES, **named}, servers=not arguments.no_servers
    )
    if arguments.json:
        bad = [finding._asdict() for finding in truth.findings if finding.verdict != "whole"]
        print(json.dumps({**truth.counts, "strays": truth.strays, "spans": truth.spans, "findings": bad}))
    else:
        print(truth.text())
    return 0 if truth.right else 1


if __name__ == "__main__":
    sys.exit(main())
