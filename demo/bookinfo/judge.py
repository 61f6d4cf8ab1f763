"""Judges traces against the table of expected.py: is each request one whole trace, with nothing of another's?

Assumes spans as this agent exports them (zerospan.exporter.tree), and that HTTP spans have the request's id in
url.path or user_agent.original. Look-ups have it in the name asked for where Bookinfo runs with `tag`, and are else
told by their parents. Called by `__main__.py` and tests/e2e/test_bookinfo.py.
"""

from __future__ import annotations

import gc
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from demo.bookinfo.expected import KINDS, SPANS, VISITOR, Row
from demo.hosts import MARK
from zerospan.exporter.tree import Span, spans_of

RID = re.compile(r"zs[0-9a-f]{6}n[0-9]{6}")
WITH_RID = ("url.path", "dns.question.name", "user_agent.original")  # attributes that hold a request's id
VERDICTS = ("whole", "broken", "mixed", "surplus", "missing")


class Finding(NamedTuple):
    """The verdict on one request, why, and the traces that hold its id."""

    rid: str
    verdict: str
    reason: str
    traces: tuple[str, ...]


@dataclass
class Verdicts:
    """All findings; `lacking`: how often each row of the table was not there."""

    findings: list[Finding] = field(default_factory=list)
    lacking: Counter[str] = field(default_factory=Counter)
    spans: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many requests got each verdict; the sum is the number of requests."""
        found = Counter(finding.verdict for finding in self.findings)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def whole(self) -> float:
        """Share of requests that are one whole trace, 0 to 1."""
        return self.counts["whole"] / len(self.findings) if self.findings else 0.0

    @property
    def wrong(self) -> int:
        """Requests whose trace holds what is not theirs."""
        return self.counts["mixed"] + self.counts["surplus"]

    def text(self, examples: int = 5) -> str:
        """For people: one line of counts, then the first few that are not whole and what is lacking most."""
        counted = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        lines = [f"{len(self.findings)} requests: {counted} ({100 * self.whole:.2f} % whole, {self.spans} spans)"]
        bad = [finding for finding in self.findings if finding.verdict != "whole"]
        for finding in bad[:examples]:
            lines.append(
                f"  {finding.verdict}: {finding.rid}: {finding.reason} (trace {', '.join(finding.traces) or '-'})"
            )
        if len(bad) > examples:
            lines.append(f"  and {len(bad) - examples} more")
        for row, count in self.lacking.most_common(examples):
            lines.append(f"  lacking {count} times: {row}")
        return "\n".join(lines)


def read(paths: Iterable[Path]) -> Iterator[Span]:
    """The spans of files of OTLP JSON lines (`--traces-file`), of one agent or several."""
    for path in paths:
        with path.open("rb") as lines:
            for line in lines:
                yield from spans_of(msgspec.json.decode(line))


def by_request(spans: Iterable[Span]) -> dict[str, list[list[Span]]]:
    """The traces that hold each request's id. A span seen twice counts once."""
    traces: dict[str, dict[str, Span]] = defaultdict(dict)
    gc.disable()  # nothing here is a cycle, and the collector would walk all spans again and again: half of the time
    try:
        for span in spans:
            traces[span.trace_id][span.span_id] = span
    finally:
        gc.enable()
    holders: dict[str, list[list[Span]]] = defaultdict(list)
    for members in traces.values():
        trace = list(members.values())
        for rid in set[str]().union(*(rids(span) for span in trace)):
            holders[rid].append(trace)
    return holders


def judge(
    holders: Mapping[str, Sequence[Sequence[Span]]],
    requests: Sequence[str],
    *,
    visitor: str = VISITOR,
    table: Sequence[Row] = SPANS,
) -> Verdicts:
    """A verdict for each request id. `holders`: what by_request() gave. `visitor`: service.name of the client.

    whole: one trace, its spans are the table's, each below the one that it belongs below. broken: one is lacking, or
    hangs elsewhere. mixed: another request's id is in the trace. surplus: spans that the table does not have.
    missing: no span has it.
    """
    verdicts = Verdicts()
    for rid in requests:
        traces = holders.get(rid, [])
        verdicts.spans += sum(map(len, traces))
        ids = tuple(trace[0].trace_id for trace in traces)
        others = sorted(set[str]().union(*(rids(span) for trace in traces for span in trace)) - {rid})
        matched, lacking, surplus = compare([span for trace in traces for span in trace], table, visitor=visitor)
        verdicts.lacking.update(str(row) for row in lacking)
        if not traces:
            found = "missing", "no span has its id"
        elif others:
            found = "mixed", f"its trace holds {', '.join(others[:3])}, too"
        elif len(traces) > 1:
            found = "broken", f"in {len(traces)} traces; below other parents or lacking: {_some(lacking)}"
        elif lacking:
            found = (
                "broken",
                f"lacking: {_some(lacking)}" + (f"; not in the table: {_some(surplus)}" if surplus else ""),
            )
        elif surplus:
            found = "surplus", f"not in the table: {_some(surplus)}"
        else:
            found = "whole", ""
        verdicts.findings.append(Finding(rid, *found, ids))
    return verdicts


def compare(
    spans: Sequence[Span], table: Sequence[Row] = SPANS, *, visitor: str = VISITOR
) -> tuple[dict[str, Span], list[Row], list[str]]:
    """Row id -> span, for spans that are what and where the table says; rows that are lacking; spans that are too
    many."""
    below: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        below[span.parent_id].append(span)
    matched: dict[str, Span] = {}
    lacking = []
    for row in table:
        parent = matched.get(row.parent)
        at = below[parent.span_id if parent else ""] if parent or not row.parent else []
        found = next((span for span in at if _is(span, row, visitor)), None)
        if found is None:
            lacking.append(row)
        else:
            at.remove(found)
            matched[row.id] = found
    left = [span for group in below.values() for span in group]
    return matched, lacking, [f"{s.service} {KINDS.get(s.kind, s.kind)} {s.name!r}" for s in left]


def rids(span: Span) -> set[str]:
    """Ids of requests in the span."""
    return {rid for key in WITH_RID if key in span.attributes for rid in RID.findall(str(span.attributes[key]))}


def _is(span: Span, row: Row, visitor: str) -> bool:
    service = visitor if row.service == VISITOR else row.service
    return (span.kind, span.service, span.name) == (row.kind, service, row.name) and all(
        _stable(span.attributes.get(key, "")) == value for key, value in row.attributes.items()
    )


def _stable(value: object) -> str:
    """Without what changes from run to run: ids of requests, the mark of a namespace's name."""
    return MARK.sub("", RID.sub("", str(value)).lstrip("."))


def _some(things: Sequence[object], limit: int = 3) -> str:
    more = f" and {len(things) - limit} more" if len(things) > limit else ""
    return ", ".join(map(str, things[:limit])) + more
