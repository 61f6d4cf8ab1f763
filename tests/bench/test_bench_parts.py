"""The parts of `make bench` that are programs of their own: names of figures, what is compared with what, and the end
of what they start. No figure is judged here."""

import contextlib
import json
import os
import re
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bench
import machine
import parts
import report
import smart_encoding
import smart_prometheus
import smart_table
import smart_tags
import tsdb_index
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from zerospan.exporter.process.labels import label_name

LABEL = re.compile(r'(\w+)="([^"]*)"')

# What each script writes, as of a real run.
SCALE = {
    "list_cpu_s": 1.5, "peak_mb": 110.0, "rss_mb": 100.0, "change_us": 90.0, "change_core_percent": 9.0, "errors": "",
}  # fmt: skip
TAGS = {
    "lookups": [
        {"addresses": n, "lookup_ns": 50.0, "lookup_with_port_ns": 48.0, "memory_bytes_per_address": 3464}
        for n in (100, 10_000)
    ],
    "encode": {"traces_ns": 160.0, "traces_with_peer_ns": 190.0},
}
FANOUT = {
    "subscribers": 5000, "connected_mib": 576.0, "store_mib": 103.0, "connect_cpu_s": 10.0, "cut": {},
    "pods_changed": {"latency_ms_p50_p95_p99": [17.0, 29.0, 34.0], "cpu_percent": 15.0},
    "services_changed": {"latency_ms_p50_p95_p99": [381.0, 995.0, 1027.0], "cpu_us_a_message": 119.0},
}  # fmt: skip
PROXY = [
    {"rewrite": True, "us_request": 2.3},
    {"in": "grpc", "out": "grpc", "compression": "none", "spans_s_core": 196142},
    {"in": "grpc", "out": "http/protobuf", "compression": "gzip", "spans_s_core": 156852},
    {"in": "http", "out": "http/protobuf", "compression": "none", "spans_s_core": 455498},
]
ASSEMBLY = {
    **{f"lag_{q}_{n}_hosts": 1 for q in ("p50_ms", "p99_ms", "traces_missing") for n in (1, 2, 3)},
    "open_request_bytes_1_hosts": 1452, "open_request_bytes_3_hosts": 1137,
}  # fmt: skip


def some_report() -> report.Report:
    return report.Report("bench", machine.About(cores=2, cpu="c", kernel="6", python="3", busy_before=0.0, nat=False))


def test_rows_are_named_once_and_every_reach_can_be_compared() -> None:
    assert [name for name, n in Counter(row.name for row in report.ROWS).items() if n > 1] == []
    for row in report.ROWS:
        assert report.met(row, report.Figure.of([1.0])) in (("met", "MISS") if row.reach else ("",)), row


def test_every_figure_of_a_part_has_a_row_and_a_reach_where_one_is_asked() -> None:
    rows = {row.name: row for row in report.ROWS}
    found = {
        **parts.assembly_figures(ASSEMBLY), **parts.scale_figures(SCALE), **parts.tags_figures(TAGS),
        **parts.fanout_figures(FANOUT), **parts.proxy_figures(PROXY),
    }  # fmt: skip
    assert {name for name in found if not name.startswith("lag_missing_")} <= set(rows)
    reached = {name for name in found if name in rows and rows[name].reach}
    assert reached == {
        "lag_p99_ms_1", "lag_p99_ms_2", "lag_p99_ms_3", "enricher_list_cpu_s", "enricher_peak_mb",
        "enricher_change_core_percent", "tags_lookup_ns", "proxy_grpc_spans_per_s", "proxy_http_spans_per_s",
    }  # fmt: skip
    assert found["proxy_grpc_spans_per_s"] == [196142] and found["fanout_pod_p99_ms"] == [34.0]
    with pytest.raises(machine.BenchError, match="410"):
        parts.scale_figures({**SCALE, "errors": "410 Gone"})
    with pytest.raises(machine.BenchError, match="cut off"):
        parts.fanout_figures({**FANOUT, "cut": {"queue": 1}})


def test_links_are_measured_and_named() -> None:
    found = parts.links_figures(parts.script("links", "--links", "2000", timeout_s=60))
    rows = {row.name for row in report.ROWS}
    assert set(found) <= rows and all(values[0] >= 0 for values in found.values())
    assert found["links_per_s"][0] > 0


def test_a_part_that_fails_is_a_mark_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> parts.Figures:
        raise machine.BenchError("no back ends")

    monkeypatch.setattr(
        parts, "PARTS", {"smart": ("fails", fails), "links": ("goes on", lambda: {"links_per_s": [123.0]})}
    )
    monkeypatch.setattr(machine, "require", lambda names, *, root: None)
    out = tmp_path / "out.json"
    with contextlib.ExitStack() as undo:
        undo.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        assert bench.main(["--only", "smart,links", "--json", str(out)]) == 1
    found = json.loads(out.read_text())
    assert found["links_per_s"] == 123 and found["complete"] is False and found["marks"] == ["smart: no back ends"]
    assert "no back ends" in capsys.readouterr().out


def test_nothing_goes_on_after_the_limit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    began: list[str] = []

    def endless() -> parts.Figures:
        return {"links_per_s": [float(len(parts.script("endless", timeout_s=30)))]}

    def never() -> parts.Figures:
        began.append("never")
        return {}

    def endless_script(name: str, *arguments: str, timeout_s: float) -> list[str]:
        subprocess.run(["sleep", str(timeout_s)], check=True)
        return []

    monkeypatch.setattr(parts, "PARTS", {"links": ("endless", endless), "smart": ("never", never)})
    monkeypatch.setattr(parts, "script", endless_script)
    monkeypatch.setattr(machine, "require", lambda names, *, root: None)
    with contextlib.ExitStack() as undo:
        undo.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        assert bench.main(["--only", "links,smart", "--limit", "2"]) == 1
    assert began == [] and "too long" in capsys.readouterr().err


def test_what_a_script_started_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "endless.py").write_text(
        f"import sys; sys.path.insert(0, {str(parts.HERE)!r})\n"
        "import pathlib, subprocess, machine\n"
        "machine.leave_on_sigterm(); machine.progress('endless')\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(child.pid))\n"
        "try:\n    child.wait()\nfinally:\n    child.kill(); child.wait()\n"
    )
    (tmp_path / "wrong.py").write_text("raise SystemExit('words of the script')\n")
    monkeypatch.setattr(parts, "HERE", tmp_path)
    with pytest.raises(machine.BenchError, match="more than"):
        parts.script("endless", timeout_s=3)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
    assert "bench: endless" in capsys.readouterr().err
    with pytest.raises(machine.BenchError, match="words of the script"):
        parts.script("wrong", timeout_s=30)


# ---- SmartEncoding: both ways must say the same


def scrape(way: str, custom: int, n: int = 40) -> list[str]:
    who = smart_tags.instances(custom, n, tagged=way != "none")
    return smart_tags.Metrics(way, who, 2).body(0).decode().splitlines()


def test_custom_tags_change_no_byte_of_a_series() -> None:
    plain = scrape("none", 0)
    for custom in (0, 20, 80):
        lines = scrape("ours", custom)
        assert [line for line in lines if not line.startswith("target_info")] == plain
        assert len(lines) == len(plain) + 40
    assert len(plain) == 40 * 2 * smart_tags.LINES


def test_what_is_told_of_new_series_is_what_tags_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inline is measured whole, ours by target_info alone: both must come out as more than without tags."""
    spent = {("none", b""): 10e-6, ("ours", b"target_info{"): 2e-6, ("inline", b""): 30e-6}
    family = types.SimpleNamespace(labels=9, series=1, bytes=1)
    case = types.SimpleNamespace(
        series=1, text=1, scrape_s=1e-6, heap=1, query_s=1e-3,
        index=types.SimpleNamespace(others=family, info=family, bytes=1),
    )  # fmt: skip
    monkeypatch.setattr(smart_prometheus, "run", lambda *args: case)
    monkeypatch.setattr(smart_prometheus, "first", lambda way, who, routes, folder, family: spent[way, family])
    monkeypatch.setattr(smart_encoding, "check", lambda *args: None)
    found = smart_encoding.run(3, 1, 1, ["prometheus"], lambda said: None, customs=[0])
    assert found["smart_first_us_none"] == pytest.approx(10)
    assert found["smart_first_us_ours_20"] == pytest.approx(2)
    assert found["smart_first_us_inline_20"] == pytest.approx(20)
    assert found["smart_first_us_ratio_20"] == pytest.approx(10)


def test_series_say_the_same_both_ways() -> None:
    who = smart_tags.instances(20, 40)
    wanted = {one.instance: {label_name(name): text for name, text in one.tags.items()} for one in who}
    assert all(
        len(tags) == 40 and all(len(text) == smart_tags.VALUE for text in tags.values()) for tags in wanted.values()
    )
    infos = {}
    for line in scrape("ours", 20):
        if line.startswith("target_info"):
            found = dict(LABEL.findall(line))
            infos[found["instance"]] = {name: text for name, text in found.items() if name not in ("job", "instance")}
    assert infos == wanted
    plain, inline = scrape("none", 20), scrape("inline", 20)
    assert len(plain) == len(inline)
    for short, long in zip(plain, inline, strict=True):
        a, b = dict(LABEL.findall(short)), dict(LABEL.findall(long))
        assert b == {**a, **wanted[a["instance"]]}
        assert short.rpartition(" ")[2] == long.rpartition(" ")[2]


def test_every_tag_has_as_many_values_as_there_are_instances() -> None:
    who = smart_tags.instances(1, smart_tags.INSTANCES)
    for name in smart_tags.tag_names(1):
        assert len({one.tags[name] for one in who}) == 5000


def test_spans_say_the_same_both_ways() -> None:
    (one,) = smart_tags.instances(20, 1)

    def said(way: str) -> list[dict[str, str]]:
        (group,) = ExportTraceServiceRequest.FromString(smart_tags.otlp(way, 0, one, 3)).resource_spans
        own = {pair.key: str(pair.value) for pair in group.resource.attributes}
        return [own | {pair.key: str(pair.value) for pair in s.attributes} for s in group.scope_spans[0].spans]

    ours, inline, none = said("ours"), said("inline"), said("none")
    assert ours == inline and len(ours) == 3
    assert set(ours[0]) - set(none[0]) == set(one.tags)


def test_log_lines_say_the_same_both_ways() -> None:
    who = smart_tags.instances(0, 3)

    def said(way: str) -> list[dict[str, str]]:
        (body,) = smart_tags.pushes(way, who, 2, 1_763_000_000 * 10**9)
        found = []
        for stream in json.loads(body)["streams"]:
            for at, line, metadata in stream["values"]:
                assert not set(stream["stream"]) & set(metadata)
                found.append({"at": at, "line": line, **stream["stream"], **metadata})
        return found

    ours, inline = said("ours"), said("inline")
    assert ours == inline and len(ours) == 6
    assert {smart_tags.loki_name(name) for name in who[0].tags} <= set(ours[0])


def test_what_tags_add_is_what_is_more_than_without() -> None:
    cases: dict[str, dict[tuple[str, int], float]] = {
        "series_bytes": {
            ("none", 0): 80.0, ("ours", 20): 90.0, ("inline", 20): 300.0, ("ours", 100): 90.5, ("inline", 100): 900.0,
        },
        "loki_disk_bytes": {("none", 0): 60.0, ("ours", 20): 100.0, ("inline", 20): 300.0},
    }  # fmt: skip
    found = smart_encoding.figures(cases, 10)
    assert found["smart_series_bytes_ours_20"] == 10 and found["smart_series_bytes_inline_20"] == 220
    assert found["smart_series_bytes_ratio_20"] == 22 and found["smart_custom_series_bytes_80"] == 0.5
    assert found["smart_loki_even_lines_20"] == 10 * 240 / 40
    head, rule, *lines = smart_table.markdown(found)
    assert {line.count("|") for line in (head, rule, *lines)} == {9} and len(lines) == 2
    assert "| 80 B | 10 B | 220 B | 22 |" in lines[0]
    made = some_report()
    for name, value in found.items():
        made.put(name, [value])
    assert head in made.markdown() and head in made.table()
    assert "SmartEncoding" not in some_report().markdown()


PROMTOOL = smart_prometheus.BIN / "promtool"


@pytest.mark.skipif(not PROMTOOL.exists(), reason="make e2e-backends brings promtool")
def test_an_index_is_told_apart_by_series(tmp_path: Path) -> None:
    """A block that promtool makes of a text whose series are known."""

    def index(extra: str) -> tsdb_index.Index:
        lines = [f'up{{instance="i{i}",job="j{extra}"}} 1 1600000000' for i in range(300)]
        lines += [f'target_info{{instance="i{i}",a="a{i}",b="b{i}"}} 1 1600000000' for i in range(30)]
        text = "# TYPE up gauge\n" + "\n".join(lines[:300]) + "\n# TYPE target_info gauge\n" + "\n".join(lines[300:])
        source, out = tmp_path / f"text{len(extra)}", tmp_path / f"out{len(extra)}"
        source.write_text(text + "\n# EOF\n")
        command = [str(PROMTOOL), "tsdb", "create-blocks-from", "openmetrics", str(source), str(out)]
        subprocess.run(command, check=True, capture_output=True)
        (block,) = (found for found in out.iterdir() if (found / "index").exists())
        return tsdb_index.read(block / "index")

    plain, more = index(""), index('",more="values')
    assert (plain.others.series, plain.others.labels) == (300, 900)  # __name__, instance, job
    assert (plain.info.series, plain.info.labels) == (30, 120)
    assert plain.info == more.info or abs(plain.info.bytes - more.info.bytes) <= 30 * tsdb_index.ALIGN
    assert (more.others.series, more.others.labels) == (300, 1200)
    added = (more.others.bytes - plain.others.bytes) / 300
    assert 4 <= added <= 4 + tsdb_index.ALIGN + 2  # a posting, two references, what padding makes of them
    assert plain.shared > 0 and plain.bytes == plain.shared + plain.info.bytes + plain.others.bytes
    (tmp_path / "index").write_bytes(b"no index")
    with pytest.raises(tsdb_index.IndexFileError):
        tsdb_index.read(tmp_path / "index")


def test_the_ends_of_a_connection_in_two_namespaces_are_timed(tmp_path: Path) -> None:
    packets = machine.compile_c("packets", tmp_path)
    if os.geteuid() != 0:
        pytest.skip("entering a namespace needs root")
    for what in ("pong", "bulk"):
        own = "/proc/self/ns/net"
        found = machine.measure_json(0, [packets, own, "127.0.0.1", own, "28083", what, "128", "5"], 30)
        assert 0 < found["least"] <= found["median"] < 1e7
