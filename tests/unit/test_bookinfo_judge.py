"""The judge of the Bookinfo demo: the table is one tree, and each way to be wrong has its verdict."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo.bookinfo import judge
from demo.bookinfo.expected import NICS, PROCESSES, SERVER, SPANS

from zerospan.exporter.tree import Span

RID, OTHER = "zs00000an000001", "zs00000an000002"


def trace(rid: str, trace_id: str = "t1") -> list[Span]:
    """The spans of one request just as the table says; with ids that are unique over requests."""
    return [
        Span(
            trace_id=trace_id,
            span_id=f"{rid} {row.id}",
            parent_id=f"{rid} {row.parent}" if row.parent else "",
            service=row.service,
            name=row.name,
            kind=row.kind,
            start_ns=0,
            end_ns=1,
            error=False,
            attributes={**row.attributes} if row.attributes else {"url.path": f"/r/{rid}/x"},
        )
        for row in SPANS
    ]


def verdict(spans: Iterable[Span], rid: str = RID) -> str:
    return judge.judge(judge.by_request(spans), [rid]).findings[0].verdict


def test_the_table_is_one_tree_of_distinct_spans() -> None:
    known: set[str] = set()
    for row in SPANS:
        assert row.parent in known or not row.parent, f"{row}: its parent must stand before it"
        known.add(row.id)
    assert len(known) == len(SPANS)
    assert [row.id for row in SPANS if not row.parent] == ["edge client"]
    labels = Counter((r.parent, r.kind, r.service, r.name, tuple(r.attributes.values())) for r in SPANS)
    assert max(labels.values()) == 1, "siblings that nothing tells apart"


def test_the_table_has_deepflows_24_and_the_look_ups() -> None:
    lookups = [row for row in PROCESSES if row.name.startswith("DNS")]
    assert (len(PROCESSES) - len(lookups), len(lookups)) == (24, 12)
    assert len(NICS) == 2 * 4 + 3 * 8  # two hops within a node's reach, three across; DeepFlow's Bookinfo has 14


def test_whole() -> None:
    assert verdict([*trace(RID), *trace(OTHER, "t2")]) == "whole"
    tagged = trace(RID)
    for span in tagged:
        if "dns.question.name" in span.attributes:
            span.attributes["dns.question.name"] = f"{RID}.{span.attributes['dns.question.name']}"
    assert verdict(tagged) == "whole"
    marked = trace(RID)
    for span in marked:
        if "zerospan.netns" in span.attributes:
            span.attributes["zerospan.netns"] = f"zh-bookinfo-12.345-{span.attributes['zerospan.netns']}"
    assert verdict(marked) == "whole"
    marked[-1].attributes["zerospan.netns"] += "2"
    assert verdict(marked) == "broken"


@pytest.mark.parametrize("row", SPANS, ids=lambda row: row.id)
def test_any_span_that_lacks_breaks_it(row: object) -> None:
    at = SPANS.index(row)  # type: ignore[arg-type]
    spans = trace(RID)
    del spans[at]
    found = judge.judge(judge.by_request(spans), [RID])
    assert found.findings[0].verdict == "broken"
    assert str(row) in found.lacking


def test_a_span_below_the_wrong_parent_breaks_it() -> None:
    spans = trace(RID)
    rows = [row.id for row in SPANS]
    spans[rows.index("ratings client")].parent_id = spans[rows.index("reviews server")].span_id
    assert verdict(spans) == "broken"


def test_two_traces_are_broken() -> None:
    spans = trace(RID)
    for span in spans[-2:]:
        span.trace_id, span.parent_id = "t2", "" if span is spans[-2] else span.parent_id
    assert verdict(spans) == "broken"


def test_anothers_span_is_mixed_and_one_too_many_surplus() -> None:
    spans, more = trace(RID), trace(OTHER)
    leaf = next(span for span in more if span.service == "ratings" and span.kind == SERVER)
    leaf.parent_id = next(s.parent_id for s in spans if s.service == "ratings" and s.kind == SERVER)
    assert verdict([*spans, leaf]) == "mixed"
    leaf.attributes.clear()
    assert verdict([*spans, leaf]) == "surplus"


def test_missing_and_the_client() -> None:
    assert verdict(trace(OTHER)) == "missing"
    spans = trace(RID)
    spans[0].service = "client"
    assert verdict(spans) == "broken"
    assert judge.judge(judge.by_request(spans), [RID], visitor="client").whole == 1.0
