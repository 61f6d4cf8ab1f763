"""Compares each link that the agent made inside a proxy with what the programs around it know.

The client has noted which request it sent from which port and when, the upstream likewise which it read: so each SERVER
span of the proxy, and each SERVER span of the upstream, has the id that its request really had. The proxy's CLIENT span
stands above the upstream's SERVER span by the connection's own identity. No id is in any span.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVER, CLIENT = 2, 3


@dataclass
class Verdict:
    """Of the calls that a proxy made. right + wrong + unlinked + missing = calls."""

    calls: int = 0
    right: int = 0
    wrong: int = 0
    unlinked: int = 0
    missing: int = 0  # no span of the call or of its other end, or not known which request it was
    methods: Counter[str] = field(default_factory=Counter)  # of right and wrong ones
    mixed: int = 0  # calls whose trace is not that of the client's request, though they are said to be linked

    @property
    def precision(self) -> float:
        """Share of the links that are right, %; 100 if there are none."""
        made = self.right + self.wrong
        return 100.0 * self.right / made if made else 100.0

    @property
    def recall(self) -> float:
        """Share of the calls that have the right link, %."""
        return 100.0 * self.right / self.calls if self.calls else 0.0

    def __str__(self) -> str:
        by = ", ".join(f"{name} {n}" for name, n in self.methods.most_common())
        return (
            f"calls {self.calls:5}  precision {self.precision:6.2f} %  recall {self.recall:6.2f} %"
            f"  wrong {self.wrong:3}  unlinked {self.unlinked:4}  missing {self.missing}  by method: {by or 'none'}"
        )


class Notes:
    """What a program has noted: for each port, the ids of the requests in their order."""

    def __init__(self, path: Path) -> None:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.calls = sum(row[0] != "" for row in rows)  # a proxy's own requests have no id
        self.by_port: dict[int, list[str]] = defaultdict(list)
        for truth, port, _ in sorted(rows, key=lambda row: int(row[2])):
            self.by_port[port].append(truth)

    def truths(self, spans: Sequence[dict[str, Any]], service: str) -> dict[str, str]:
        """Span id -> the request's id, of a service's SERVER spans. The n-th request from a port is the n-th that was
        noted of it, whatever the clocks say; ports of which a span is missing are left out."""
        by_port: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for span in spans:
            if span["kind"] == SERVER and span["service"] == service:
                start = int(span["startTimeUnixNano"])
                by_port[span["attributes"]["client.port"]].append((start, span["spanId"]))
        out = {}
        for port, found in by_port.items():
            noted = self.by_port.get(port, [])
            if len(noted) == len(found):
                out.update({span_id: truth for (_, span_id), truth in zip(sorted(found), noted, strict=True)})
        return out


def judge(spans: Sequence[dict[str, Any]], proxy: str, upstream: str, sent: Notes, read: Notes) -> Verdict:
    """spans: of all programs, flat (kit/agent.py). proxy, upstream: service names."""
    verdict = Verdict(calls=read.calls)
    served, called = sent.truths(spans, proxy), read.truths(spans, upstream)
    known = {span["spanId"]: span for span in spans}
    seen = 0
    for span in spans:
        truth = called.get(span["spanId"], "")
        call = known.get(span.get("parentSpanId", ""))
        if not truth or call is None or call["service"] != proxy or call["kind"] != CLIENT:
            continue
        seen += 1
        request = known.get(call.get("parentSpanId", ""))
        if request is None:
            verdict.unlinked += 1
            continue
        assert request["kind"] == SERVER and request["service"] == proxy, request
        if request["spanId"] not in served:
            seen -= 1
            continue
        verdict.methods[call["attributes"]["zerospan.link.method"]] += 1
        if served[request["spanId"]] == truth:
            verdict.right += 1
        else:
            verdict.wrong += 1
        verdict.mixed += call["traceId"] != request["traceId"]
    verdict.missing = verdict.calls - seen
    return verdict
