"""The agent's own metrics, zerospan_*, made of the status at each scrape."""

from collections.abc import Iterable, Mapping
from typing import Any

from zerospan.exporter.abi.events import COUNTERS
from zerospan.exporter.selfmon.counters import ROWS

Metric = tuple[str, str, str, Iterable[tuple[Mapping[str, object], float]]]

# Counters of the pipeline that are a state of the moment or stand in a family of their own.
LEDGER = {"seen", "released", "open_full", "own", "selftest", "unfinished", "encode", "not_sampled", "sdk_span"}


# What is counted of the links that agents of several hosts share.
LINKS = {
    "published": "ends of requests told to the store",
    "published_again": "of these, such as were told before: something was learned, or a long request kept alive",
    "asked": "questions for the other end or a cause",
    "found": "requests whose other end another agent told",
    "missing": "spans that left without their other end: no agent there, or too late",
    "late": "answers that came after the span had left",
    "bad": "values that are not an agent's, or of another version",
    "local": "requests of which both ends are here after all",
    "table_full": "requests left out: link.shared_bytes was reached",
    "names_full": "names of services of other hosts left out",
    "publish_dropped": "not told: link.shared_queue_bytes was reached",
    "ask_dropped": "not asked: link.shared_queue_bytes was reached",
    "passed": "requests that only pass this host's interfaces, asked for",
    "passing_refused": "such that were not asked for: more than 2000/s, or link.shared_bytes was reached",
    "rounds": "rounds sent to the store",
    "rounds_failed": "rounds without an answer in time",
    "connects": "connections made",
    "stored": "values that the store has taken",
    "store_errors": "values that it has refused",
    "publish_lost": "not told: the store was away for too long",
    "questions_lost": "questions that were lost with their connection; they are asked again",
    "oversized": "values that are too long to be an agent's",
}


# What is counted of what the enricher tells.
TAGS = {
    "updates": "messages of the enricher",
    "bindings": "keys told",
    "connects": "streams that told something",
    "failures": "streams and attempts that ended",
    "snapshots": "times that all was told anew",
    "resyncs": "of these, such as the agent asked for: a tag set had been forgotten",
    "asked": "addresses asked for",
    "ask_dropped": "addresses not asked for: too many questions were open",
    "evicted": "keys that left early: enricher.cache_bytes was reached",
}


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
    if status.get("links_shared"):
        out += _links(status["links_shared"])
    if status.get("enricher"):
        out += _tags(status["enricher"])
    return out + _sinks(status["sinks"])


def _links(links: Mapping[str, Any]) -> list[Metric]:
    events = links["events"]
    return [
        (
            "zerospan_links_events_total",
            "counter",
            "Links shared with other hosts: " + "; ".join(f"{name}: {text}" for name, text in LINKS.items()) + ".",
            [({"event": name}, events[name]) for name in LINKS],
        ),
        ("zerospan_links_connected", "gauge", "Whether the store of shared links answers.", [({}, links["connected"])]),
        ("zerospan_links_queue_bytes", "gauge", "Bytes that wait for that store.", [({}, links["queue_bytes"])]),
        ("zerospan_links_entries", "gauge", "Requests followed over hosts at the moment.", [({}, links["entries"])]),
        ("zerospan_links_round_trip_seconds", "gauge", "Of the last round.", [({}, links["round_trip_s"])]),
    ]


def _tags(tags: Mapping[str, Any]) -> list[Metric]:
    events = tags["events"]
    return [
        ("zerospan_enricher_connected", "gauge", "Whether the enricher answers.", [({}, int(tags["connected"]))]),
        ("zerospan_enricher_in_sync", "gauge", "Whether it has told all of this node.", [({}, int(tags["in_sync"]))]),
        (
            "zerospan_enricher_silent_seconds",
            "gauge",
            "Since the enricher was last heard; it says something every 30 s.",
            [({}, tags["silent_s"])],
        ),
        (
            "zerospan_enricher_state_changed_timestamp_seconds",
            "gauge",
            "When the agent was connected, or cut off.",
            [({}, tags["since_unix_s"])],
        ),
        (
            "zerospan_enricher_keys",
            "gauge",
            "Addresses, containers, pods and nodes that were told; of `negative` ones nothing is known.",
            [
                ({"state": "known"}, tags["keys"] - tags["negative"]),
                ({"state": "negative"}, tags["negative"]),
                ({"state": "unanswered"}, tags["unanswered"]),
            ],
        ),
        ("zerospan_enricher_tag_sets", "gauge", "Tag sets that were told.", [({}, tags["sets"])]),
        ("zerospan_enricher_memory_bytes", "gauge", "Memory of what was told.", [({}, tags["memory_bytes"])]),
        (
            "zerospan_enricher_events_total",
            "counter",
            "What the enricher told: " + "; ".join(f"{name}: {text}" for name, text in TAGS.items()) + ".",
            [({"event": name}, events[name]) for name in TAGS],
        ),
    ]


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
