"""The ledger: seen = exported + dropped by reason + in flight, at any moment, in spans.

A request is seen once at each end that is watched. What the kernel could not write into a full ring counts as seen and
dropped. With several trace sinks the one that has the least is the measure; each one's own ledger stands in `sinks`.
The agent's own requests and the start-up self-test are no part of it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from zerospan.exporter.sinks.base import SinkStats


class Ledger(NamedTuple):
    """All figures are spans."""

    seen: int
    exported: int
    dropped: dict[str, int]
    in_flight: dict[str, int]

    @property
    def balanced(self) -> bool:
        """Whether every span is accounted for."""
        return self.seen == self.exported + sum(self.dropped.values()) + sum(self.in_flight.values())

    def line(self) -> str:
        """For people: one line."""
        reasons = " ".join(f"{reason}={n}" for reason, n in sorted(self.dropped.items())) or "none"
        waiting = sum(self.in_flight.values())
        more = f" / in flight {waiting}" if waiting else ""
        verdict = "" if self.balanced else "  (DOES NOT BALANCE: a bug, please report it)"
        return f"ledger: seen {self.seen} / exported {self.exported} / dropped {reasons}{more}{verdict}"


def ledger(
    counts: Mapping[str, int],
    in_flight: Mapping[str, int],
    kernel: Mapping[str, int],
    sinks: Sequence[SinkStats],
    drops: Sequence[str],
) -> Ledger:
    """counts: Engine.counts(); in_flight: open and held spans; kernel: Capture.counters(), empty in a replay;
    drops: names of the counters that are drops of spans."""
    outside = counts["own"] + counts["selftest"]
    dropped = {name: counts[name] for name in drops if counts[name] and name not in ("own", "selftest")}
    lost = kernel.get("ring_full_request", 0)
    if lost:
        dropped["ring_full"] = lost
    waiting = {name: n for name, n in in_flight.items() if n}
    exported = counts["released"]
    traces = [s for s in sinks if s.signal == "traces"]
    if traces:
        worst = min(traces, key=lambda s: s.sent_items)
        exported = worst.sent_items
        for reason, n in worst.dropped.items():
            if n:
                dropped[f"sink_{reason}"] = n
        # between the encoder and the sinks: the batch that is being filled
        queued = counts["released"] - worst.sent_items - sum(worst.dropped.values())
        if queued:
            waiting["queued"] = queued
    return Ledger(counts["seen"] - outside + lost, exported, dropped, waiting)
