"""SmartEncoding: what 20 standard tags and 0, 20, 80 custom ones cost in a real Prometheus, in OTLP and in a real Loki.

    .venv/bin/python tests/bench/smart_encoding.py [--instances 5000] [--routes 1] [--lines 10] [--only PART,...]

Each tag has as many values of 16 characters as there are instances. `ours` and `inline` are smart_tags.py's. What is
told is what the tags add: the same without any tags is subtracted. Needs what tests/e2e/backends/build.sh brings; no
root. Part of `make bench`; figures go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).resolve().parent)]

import smart_loki  # noqa: E402
import smart_prometheus  # noqa: E402
import smart_tags  # noqa: E402
from machine import BenchError, leave_on_sigterm, progress  # noqa: E402
from smart_table import BATCH, MEASURES, WHOLE, markdown  # noqa: E402

CUSTOM = (0, 20, 80)
PARTS = ("prometheus", "otlp", "loki")
CPU_NOISE = 0.05
RATIO_MAX = 1000.0
SAMPLE = 50  # instances whose spans are encoded
Say = Callable[[str], None]
Found = dict[str, float]


def run(
    instances: int, routes: int, lines: int, parts: Sequence[str], say: Say, customs: Sequence[int] = CUSTOM
) -> Found:
    """All figures by plain names: smart_MEASURE_none, smart_MEASURE_ours_TAGS, smart_MEASURE_inline_TAGS."""
    cases: dict[str, dict[tuple[str, int], float]] = {name: {} for name in MEASURES}
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="zerospan-smart-") as name:
        folder = Path(name)
        plans = [("none", 0), *((way, custom) for custom in customs for way in smart_tags.WAYS[1:])]
        reference: dict[int, float] = {}
        for way, custom in plans:
            who = smart_tags.instances(custom, instances, tagged=way != "none")
            tags = 0 if way == "none" else len(smart_tags.STANDARD) + custom
            at = folder / f"{way}-{tags}"

            def put(measure: str, value: float, key: tuple[str, int] = (way, tags)) -> None:
                cases[measure][key] = value

            if "prometheus" in parts:
                say(f"SmartEncoding: Prometheus, {way}, {tags} tags")
                p = smart_prometheus.run(way, who, routes, at / "prometheus")
                check(way, p, who, reference)
                n = p.series
                put("labels", p.index.others.labels / p.index.others.series)
                put("series_bytes", p.index.others.bytes / n)
                put("disk_bytes", p.index.bytes / n)
                put("wire_bytes", p.text / n)
                put("heap_bytes", p.heap / n)
                # what ours has more is target_info, byte for byte: between two large figures it would be lost
                family, before = (b"target_info{", cases["first_us"]["none", 0]) if way == "ours" else (b"", 0.0)
                first_s = smart_prometheus.first(way, who, routes, at / "first", family)
                put("first_us", before + first_s * 1e6 / n)
                put("scrape_us", p.scrape_s * 1e6 / n)
                put("query_ms", p.query_s * 1e3)
                if way == "ours":  # what stands once for each instance
                    found[f"smart_target_info_bytes_{tags}"] = p.index.info.bytes / p.index.info.series
            if "otlp" in parts:
                bodies = [smart_tags.otlp(way, i, one, BATCH) for i, one in enumerate(who[:SAMPLE])]
                put("otlp_bytes", sum(map(len, bodies)) / len(bodies) / BATCH)
                put("otlp_gzip_bytes", sum(len(gzip.compress(b, 6)) for b in bodies) / len(bodies) / BATCH)
            if "loki" in parts:
                say(f"SmartEncoding: Loki, {way}, {tags} tags")
                k = smart_loki.run(way, who, lines, at / "loki")
                put("loki_streams", k.streams)
                put("loki_chunk_bytes", k.chunks / k.lines)
                put("loki_index_bytes", k.index_stored / k.lines)
                put("loki_disk_bytes", (k.chunks + k.index_stored) / k.lines)
                put("loki_heap_bytes", k.heap / k.lines)
                put("loki_push_us", k.push_s * 1e6 / k.lines)
    return found | figures(cases, lines)


def check(way: str, case: smart_prometheus.Case, who: list[smart_tags.Instance], reference: dict[int, float]) -> None:
    """Both ways must answer the grouped question alike, and have a group for each value. BenchError."""
    if way == "none":
        return
    wanted = {one.tags[smart_prometheus.GROUPED] for one in who}
    if set(case.groups) != wanted:
        raise BenchError(f"{way}: {len(case.groups)} groups for {len(wanted)} values of {smart_prometheus.GROUPED}")
    if case.turns in reference and reference[case.turns] != sum(case.groups.values()):
        raise BenchError(f"{way}: the groups have {sum(case.groups.values())} requests, not {reference[case.turns]}")
    reference[case.turns] = sum(case.groups.values())


def figures(cases: Mapping[str, Mapping[tuple[str, int], float]], lines: int) -> Found:
    """What the tags add, and how many times more that is inline; what custom tags add to a series that has the standard
    ones already."""
    out: Found = {}
    for measure, by in cases.items():
        if not by:
            continue
        none = by["none", 0]
        out[f"smart_{measure}_none"] = none
        for (way, tags), value in by.items():
            if way != "none":
                out[f"smart_{measure}_{way}_{tags}"] = value if measure in WHOLE else value - none
        for tags in sorted({tags for way, tags in by if way == "ours"}):
            ours, inline = out[f"smart_{measure}_ours_{tags}"], out[f"smart_{measure}_inline_{tags}"]
            if measure in ("labels", "query_ms"):
                continue
            # what is less than a share of what there is without tags cannot be told from nothing
            least = none * (CPU_NOISE if measure.endswith("_us") else 0)
            out[f"smart_{measure}_ratio_{tags}"] = min(inline / max(ours, least, 1e-9), RATIO_MAX)
        least = min((tags for way, tags in by if way == "ours"), default=0)
        if measure in ("labels", "series_bytes"):
            for tags in sorted({tags for way, tags in by if way == "ours"} - {least}):
                more = out[f"smart_{measure}_ours_{tags}"] - out[f"smart_{measure}_ours_{least}"]
                out[f"smart_custom_{measure}_{tags - least}"] = more
    for tags in sorted({tags for way, tags in cases.get("loki_disk_bytes", {}) if way == "ours"}):
        # labels of a stream are paid once a chunk, metadata with each line: from so many lines on labels are smaller
        ours, inline = (out[f"smart_loki_disk_bytes_{way}_{tags}"] for way in ("ours", "inline"))
        out[f"smart_loki_even_lines_{tags}"] = lines * inline / ours if ours > 0 else 0.0
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--instances", type=int, default=smart_tags.INSTANCES)
    parser.add_argument("--routes", type=int, default=1, help=f"routes of an instance, {smart_tags.LINES} series each")
    parser.add_argument("--lines", type=int, default=10, help="log lines of an instance in a chunk")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--custom", default=",".join(map(str, CUSTOM)), help="numbers of custom tags")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    leave_on_sigterm()
    began = time.monotonic()
    try:
        customs = [int(n) for n in args.custom.split(",")]
        found = run(args.instances, args.routes, args.lines, args.only.split(","), progress, customs)
    except BenchError as e:
        sys.exit(f"smart_encoding: {e}")
    print("\n".join(markdown(found)))
    for name, value in found.items():
        if any(word in name for word in ("_custom_", "_even_", "target_info")):
            print(f"{name:<40} {value:,.4g}")
    print(f"{time.monotonic() - began:.0f} s")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
