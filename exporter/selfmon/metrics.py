"""The agent's own metrics, zerospan_*, made of the status at each scrape."""

from collections.abc import Iterable, Mapping
from typing import Any

from zerospan.exporter.abi.events import COUNTERS
from zerospan.exporter.selfmon.counters import ROWS

Metric = tuple[str, str, str, Iterable[tuple[Mapping[str, object], float]]]

# Counters of the pipeline that are a state of the moment or stand in a family of their own.
LEDGER = {"seen", "released", "open_full", "own", "selftest", "unfinished", "encode", "not_sampled", "sdk_span"}


def self_metrics(status: Mapping[str, Any]) -> list[Metric]:
    """Rows (name, type, help, samples) for Exposition.render."""
    out: list[Metric] = [
        ("zerospan_build_info", "gauge", "Version of the agent.", [({"version": status["version"]}, 1)]),
        ("zerospan_spans_seen_total", "counter", "Requests observed, one at each watched end.", [({}, status["seen"])]),
        ("zerospan_spans_exported_total", "counter", "Spans delivered.", [({}, status["exported"])]),
        (
            "zerospan_spans_dropped_total",
            "counter",
            "Spans that were seen and not delivered.",
            [({"reason": reason}, n) for reason, n in sorted(status["dropped"].items())],
        ),
        (
            "zerospan_spans_in_flight",
            "gauge",
            "Spans seen and neither delivered nor dropped yet.",
            [({"where": where}, n) for where, n in sorted(status["in_flight"].items())],
        ),
        (
            "zerospan_kernel_events_total",
            "counter",
            "Counters of the kernel programs: " + "; ".join(f"{name}: {text}" for name, text in COUNTERS) + ".",
            [({"event": name}, status["kernel"].get(name, 0)) for name, _ in COUNTERS],
        ),
        (
            "zerospan_pipeline_events_total",
            "counter",
            "Counters of the pipeline: "
            + "; ".join(f"{name}: {text}" for name, text in ROWS if name not in LEDGER)
            + ".",
            [({"event": name}, status["pipeline"][name]) for name, _ in ROWS if name not in LEDGER],
        ),
        (
            "zerospan_link_events_total",
            "counter",
            "Calls without a link: evidence that disagreed, was ambiguous or was forgotten; registry entries refused;"
            " trace contexts that could not name their trace: there were two, or it had left under another name.",
            [
                ({"event": name}, status["links"][name])
                for name in (
                    "disagreements",
                    "ambiguous",
                    "calls_forgotten",
                    "ids_refused",
                    "registry_refused",
                    "contexts_disputed",
                    "contexts_late",
                )
            ],
        ),
        (
            "zerospan_memory_bytes",
            "gauge",
            "Memory that the pipeline's tables hold.",
            [({"table": name}, n) for name, n in sorted(status["memory_bytes"].items())],
        ),
    ]
    return out + _sinks(status["sinks"])


def _sinks(sinks: list[dict[str, Any]]) -> list[Metric]:
    def each(key: str) -> list[tuple[Mapping[str, object], float]]:
        return [({"sink": s["name"], "signal": s["signal"]}, s[key]) for s in sinks]

    return [
        ("zerospan_sink_sent_items_total", "counter", "Items that a sink has delivered.", each("sent_items")),
        ("zerospan_sink_sent_bytes_total", "counter", "Payload bytes that a sink has delivered.", each("sent_bytes")),
        ("zerospan_sink_retries_total", "counter", "Attempts after the first.", each("retries")),
        ("zerospan_sink_queue_bytes", "gauge", "Payload bytes that wait in a sink's queue.", each("queue_bytes")),
        (
            "zerospan_sink_dropped_items_total",
            "counter",
            "Items that a sink gave up.",
            [
                ({"sink": s["name"], "signal": s["signal"], "reason": reason}, n)
                for s in sinks
                for reason, n in sorted(s["dropped"].items())
            ],
        ),
    ]
