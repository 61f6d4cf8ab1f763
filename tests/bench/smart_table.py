"""The SmartEncoding table: its rows, made of figures by plain names. Used by smart_encoding.py and report.py."""

from collections.abc import Mapping

BATCH = 100  # spans of one process in a batch: half a second at 200 requests/s

# measure -> unit, of what, text: the rows of the table, in its order
MEASURES: Mapping[str, tuple[str, str]] = {
    "labels": ("", "Prometheus: labels on each series"),
    "series_bytes": ("B", "Prometheus, disk: a series' own entry and postings"),
    "disk_bytes": ("B", "Prometheus, disk: whole index by series (values and target_info, too)"),
    "wire_bytes": ("B", "Prometheus: text of a scrape by series"),
    "heap_bytes": ("B", "Prometheus, memory: live heap by series"),
    "first_us": ("us", "Prometheus: CPU of a new series"),
    "scrape_us": ("us", "Prometheus: CPU of a series in each later scrape"),
    "query_ms": ("ms", "Prometheus: CPU of a query that groups all by a tag, whole"),
    "otlp_bytes": ("B", f"OTLP: a span ({BATCH} of a process in a batch)"),
    "otlp_gzip_bytes": ("B", "OTLP: the same, gzip"),
    "loki_streams": ("", "Loki: streams, whole"),
    "loki_chunk_bytes": ("B", "Loki, disk: chunks by line"),
    "loki_index_bytes": ("B", "Loki, disk: index by line"),
    "loki_disk_bytes": ("B", "Loki, disk: both by line"),
    "loki_heap_bytes": ("B", "Loki, memory: live heap by line, chunks open"),
    "loki_push_us": ("us", "Loki: CPU of a line"),
}
WHOLE = ("labels", "query_ms", "loki_streams")  # not what tags add


def markdown(found: Mapping[str, float]) -> list[str]:
    """The SmartEncoding table: lines of Markdown. Nothing if it was not measured."""
    counts = sorted({int(name.rpartition("_")[2]) for name in found if "_ours_" in name})
    if not counts:
        return []
    head = "".join(f" ours, {n} | inline, {n} | x |" for n in counts)
    out = [f"| what tags add | without |{head}", "|---|---|" + "---|---|---|" * len(counts)]
    for measure, (unit, text) in MEASURES.items():
        none = found.get(f"smart_{measure}_none")
        if none is None:
            continue
        row = f"| {text} | {_shown(none, unit)} |"
        for n in counts:
            ours, inline = (found.get(f"smart_{measure}_{way}_{n}") for way in ("ours", "inline"))
            ratio = found.get(f"smart_{measure}_ratio_{n}")
            cells = ("" if value is None else _shown(value, unit) for value in (ours, inline))
            row += "".join(f" {cell} |" for cell in cells) + (f" {ratio:.3g} |" if ratio is not None else " |")
        out.append(row)
    return out


def _shown(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()
