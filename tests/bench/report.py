"""From measurements to figures with plain names; a table for people, JSON, the table in docs/benchmarks.md.

Every figure is the median over pairs or rounds, with the least and the greatest beside it.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory
import replay
import smart_table
from bench_agent import Account
from machine import About, BenchError, GivenUpError
from pairs import CALLS, Pair
from traffic import CONNECTIONS

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"


@dataclass(frozen=True)
class Row:
    """One figure: what it is, what is asked of it, what the best peer gave in this set-up."""

    name: str
    unit: str
    text: str
    reach: str = ""  # "<= 0.15"
    peer: str = ""


ROWS = (
    Row("nginx_rps_ratio", "", "requests/s with the agent / without; both cores full", ">= 0.65", "0.45"),
    Row("nginx_rps", "1/s", "requests/s without the agent"),
    Row("nginx_us_per_request", "us", "CPU of nginx's worker a request, without the agent", "", "9.8"),
    Row("nginx_us_per_request_with", "us", "the same with the agent", "", "13.9"),
    Row("nginx_added_share", "", "added CPU in nginx's worker / its own", "<= 0.15", "0.42"),
    Row(
        "agent_us_per_request",
        "us",
        "CPU of the agent a request (two spans, a log line, metrics)",
        "",
        "13.0",
    ),
    Row("agent_share", "", "the same / nginx's own CPU a request", "<= 0.6", "1.33"),
    Row("sink_us_per_request", "us", "CPU of the receiver a request, no part of the agent's"),
    Row("p50_us", "us", "p50 at half load without the agent"),
    Row("p99_us", "us", "p99 of a tenth of a second at half load, the median of all, without the agent"),
    Row("p99_run_us", "us", "p99 of the whole run, in which the machine itself stands still now and then"),
    Row("added_p50_us", "us", "added to p50 at half load"),
    Row("added_p99_us", "us", "added to p99 at half load, from when the request was due", "<= 50"),
    Row("added_sent_p99_us", "us", "the same, from sending on: without the client's own wait for the core"),
    Row("added_p99_run_us", "us", "added to p99 of the whole run, from when the request was due"),
    Row("getppid_added_ns", "ns", "added to getppid()", "<= 0", "46"),
    Row("read_added_ns", "ns", "added to read() of /dev/zero, 1 byte", "<= 0", "376"),
    Row("close_added_ns", "ns", "added to close(-1)", "<= 0", "222"),
    Row("replay_spans_per_s", "1/s", "spans a second on one core, recorded traffic", ">= 150000"),
    Row("encode_ns_per_span", "ns", "our encoder, a span of 22 attributes", "<= 600"),
    Row("encode_log_ns", "ns", "our encoder, an OTLP log record"),
    Row("encode_loki_ns", "ns", "our encoder, a Loki line"),
    Row("encode_sdk_ns_per_span", "ns", "OpenTelemetry SDK's encoder, the same span"),
    Row("encode_upb_ns_per_span", "ns", "opentelemetry-proto's objects (upb), the same span"),
    Row("rss_mb", "MB", "memory after a minute of full load, BPF maps included", "<= 100", "352"),
    Row("rss_peak_mb", "MB", "the most in that minute"),
    Row("rss_maps_mb", "MB", "BPF maps and programs in it"),
    Row("rss_start_mb", "MB", "memory at start, BPF maps included"),
    Row("scrape_10k_ms", "ms", "CPU for a scrape of 10,000 series"),
    Row("scrape_100k_ms", "ms", "CPU for a scrape of 100,000 series"),
    Row("links_per_s", "1/s", "links between hosts told and found by one core, Redis included", ">= 100000"),
    Row("links_engine_us", "us", "CPU of the engine for a link"),
    Row("links_wire_us", "us", "CPU of the exchange for a link"),
    Row("links_redis_us", "us", "CPU of Redis for a link"),
    Row("links_redis_bytes", "B", "memory of Redis for a link"),
    Row("links_table_bytes", "B", "memory of the agents for a link"),
    *(
        Row(f"lag_{q}_ms_{n}", "ms", f"end of the root's answer -> last span at the receiver, {n} host(s)", reach)
        for n in (1, 2, 3)
        for q, reach in (("p50", ""), ("p99", "<= 3000"))
    ),
    Row("open_request_bytes", "B", "memory of an open request, its connection and links"),
    Row("open_request_shared_bytes", "B", "the same, one end on another host"),
    Row("nic_rps_ratio_0", "", "requests/s with the agent / without, pods on two hosts, no points at interfaces"),
    Row("nic_rps_ratio_1", "", "requests/s with points / without, 1 a host"),
    Row("nic_rps_ratio_4", "", "the same, 4 a host: pod, veth, tunnel, uplink"),
    Row("nic_pong_ns_1", "ns", "a packet that is a whole message, at one point; 1 a host"),
    Row("nic_pong_ns_4", "ns", "the same, 4 a host"),
    Row("nic_bulk_ns_1", "ns", "a packet amid a long run, at one point; 1 a host"),
    Row("nic_bulk_ns_4", "ns", "the same, 4 a host"),
    Row("nic_lost_4", "", "records of interfaces lost in the kernel, all runs at full speed, 4 points a host"),
    Row("nic_lost_messages_4", "", "records of processes lost meanwhile"),
    Row("enricher_list_cpu_s", "s", "CPU for listing 50,000 pods and what belongs to them", "<= 2"),
    Row("enricher_peak_mb", "MB", "the most memory meanwhile", "<= 120"),
    Row("enricher_rss_mb", "MB", "memory afterwards"),
    Row("enricher_change_us", "us", "CPU of a change of a pod"),
    Row("enricher_change_core_percent", "%", "of a core, 1,000 changes/s", "<= 10"),
    Row("tags_lookup_ns", "ns", "a lookup in the agent, among 10,000 addresses", "<= 1000"),
    Row("tags_lookup_port_ns", "ns", "the same, address and port first"),
    Row("tags_address_bytes", "B", "memory of the agent for an address with its tags"),
    Row("tags_span_added_ns", "ns", "the other end's tags in a span"),
    Row("fanout_mib", "MiB", "memory of an enricher of 50,000 pods with 5,000 subscribers"),
    Row("fanout_subscriber_kib", "KiB", "of which for each subscriber"),
    Row("fanout_connect_cpu_s", "s", "its CPU until all have their node's tags"),
    Row("fanout_pod_p99_ms", "ms", "a pod's change until its subscribers have it, 100/s, p99"),
    Row("fanout_pod_core_percent", "%", "of a core meanwhile"),
    Row("fanout_all_p99_ms", "ms", "a change that all 5,000 get, 1/s, p99"),
    Row("fanout_message_us", "us", "CPU of each such message"),
    Row("proxy_grpc_spans_per_s", "1/s", "OTLP proxy, spans a second of one core, gRPC in and out", ">= 100000"),
    Row("proxy_http_spans_per_s", "1/s", "the same, HTTP in and out", ">= 100000"),
    Row("proxy_gzip_spans_per_s", "1/s", "the same, gRPC in, HTTP with gzip out"),
    Row("proxy_rewrite_us", "us", "of which rewriting a request of 100 spans"),
    Row("smart_series_bytes_ratio_20", "", "Prometheus, disk: bytes on the series, inline / ours", ">= 10"),
    Row(
        "smart_disk_bytes_ratio_20", "", "the same, whole index: each value once in both, target_info in ours", ">= 10"
    ),
    Row("smart_heap_bytes_ratio_20", "", "Prometheus, memory: inline / ours, target_info included", ">= 10"),
    Row("smart_first_us_ratio_20", "", "Prometheus, CPU of new series: inline / ours, target_info included", ">= 10"),
    Row("smart_otlp_bytes_ratio_20", "", "OTLP, bytes of a span: inline / ours (100 spans a batch)", ">= 10"),
    Row(
        "smart_loki_disk_bytes_ratio_20", "", "Loki, chunks and index: inline / ours, 10 lines of an instance", ">= 10"
    ),
    Row("smart_loki_even_lines_20", "", "lines of an instance in a chunk from which on labels would be smaller"),
    Row("smart_custom_labels_80", "", "labels that 80 custom tags add to a series, ours", "<= 0"),
    Row("smart_custom_series_bytes_80", "B", "bytes on disk that they add to a series, ours", "<= 0"),
    Row("smart_target_info_bytes_100", "B", "of target_info, once for each instance, with 20 and 80 tags"),
    Row("events_lost", "", "records lost in the kernel, all runs", "<= 0"),
    Row("spans_exported", "", "spans that left, all runs"),
    Row("spans_expected", "", "requests that were answered, twice: one span at each end"),
    Row("busy_before", "", "share of the machine that other programs used before the run: noise"),
)
# What system calls cost is read to 0.1 ns and varies by a few: less than this is no cost.
# References into the table of symbols are longer or shorter as the values are sorted.
NOISE = {"smart_custom_series_bytes_80": 2.0, "getppid_added_ns": 3.0, "read_added_ns": 3.0, "close_added_ns": 3.0}


@dataclass(frozen=True)
class Figure:
    """Median, least and greatest of what was measured."""

    value: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(values: Iterable[float]) -> "Figure":
        v = sorted(values)
        return Figure(statistics.median(v), v[0], v[-1], len(v))


@dataclass
class Report:
    """Everything of one run of the benchmark."""

    command: str
    about: About
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)
    marks: list[str] = dataclasses.field(default_factory=list)
    runs: dict[str, Any] = dataclasses.field(default_factory=dict)
    took_s: float = 0
    failed: bool = False
    _totals: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.put("busy_before", [self.about.busy_before])

    def put(self, name: str, values: Iterable[float]) -> None:
        values = list(values)
        if values:
            self.figures[name] = Figure.of(values)

    def add_pairs(self, pairs: Sequence[Pair], rate: float) -> None:
        self.runs["half_load_rate"] = rate
        self.runs["pairs"] = [dataclasses.asdict(pair) for pair in pairs]
        full = [(p.without.full, p.with_agent.full, p.with_agent) for p in pairs]
        fulls = [(a, b, phase) for a, b, phase in full if a is not None and b is not None]
        self.put("nginx_rps_ratio", (b.rps / a.rps for a, b, _ in fulls))
        self.put("nginx_rps", (a.rps for a, _, _ in fulls))
        self.put("nginx_us_per_request", (a.server_us for a, _, _ in fulls))
        self.put("nginx_us_per_request_with", (b.server_us for _, b, _ in fulls))
        self.put("nginx_added_share", (b.server_us / a.server_us - 1 for a, b, _ in fulls))
        agents = [(a, phase.agent_us) for a, _, phase in fulls if phase.agent_us is not None]
        self.put("agent_us_per_request", (us for _, us in agents))
        self.put("agent_share", (us / a.server_us for a, us in agents))
        self.put("sink_us_per_request", (p.sink_us for _, _, p in fulls if p.sink_us is not None))
        halves = [(p.without.half, p.with_agent.half) for p in pairs]
        for name, key in (("p50_us", "p50_us"), ("p99_us", "window_p99_us"), ("p99_run_us", "p99_us")):
            self.put(name, (a[key] for a, _ in halves if a is not None))
            self.put(f"added_{name}", _added(halves, key))
        self.put("added_sent_p99_us", _added(halves, "sent_window_p99_us"))
        calls = [(p.without.calls, p.with_agent.calls) for p in pairs]
        for name in CALLS:
            self.put(f"{name}_added_ns", _added(calls, f"{name}_ns"))
        for i, pair in enumerate(pairs, 1):
            if pair.with_agent.account is not None:
                self.account(f"pair {i}", pair.with_agent.account)
            for name, half in (("half load", pair.with_agent.half), ("half load", pair.without.half)):
                if half is not None and half["unanswered"]:
                    self.marks.append(f"pair {i}, {name}: {half['unanswered']} requests were not answered in time")

    def add_memory(self, m: memory.Memory) -> None:
        self.runs["memory"] = dataclasses.asdict(m)
        self.put("rss_start_mb", [m.start["total"]])
        self.put("rss_mb", [m.end["total"]])
        self.put("rss_peak_mb", [m.peak_mb])
        self.put("rss_maps_mb", [m.end["maps"] + m.end["programs"]])
        self.account("memory", m.account)

    def add_replay(self, r: replay.Result) -> None:
        self.runs["replay"] = dataclasses.asdict(r)
        self.put("replay_spans_per_s", r.spans_per_s)
        if r.lost:
            self.marks.append(f"replay: the recording lacks {r.lost} records that the kernel lost")
        if r.not_seen > 2 * CONNECTIONS:
            self.marks.append(f"replay: the answers of {r.not_seen} of {r.spans} spans were not understood")
        if r.spans < 2 * r.requests:
            self.marks.append(f"replay: {r.spans} spans of {r.requests} requests, watched at both ends")

    def add_part(self, name: str, measured: Callable[[], Mapping[str, Sequence[float]]]) -> None:
        """What a part found; one that failed is a mark, and the others go on. GivenUpError: none goes on."""
        began = time.monotonic()
        try:
            found = measured()
        except GivenUpError:
            raise
        except BenchError as e:
            self.failed = True
            self.marks.append(f"{name}: {e}")
            return
        self.runs[name] = {"took_s": round(time.monotonic() - began, 1), **found}
        for figure, values in found.items():
            self.put(figure, values)
        for n in (1, 2, 3):
            if missing := found.get(f"lag_missing_{n}", [0])[0]:
                self.marks.append(f"{name}: {missing:.0f} traces over {n} hosts were not whole")

    def account(self, run: str, a: Account) -> None:
        """Adds up what left; marks a run that lost something: its figures are of less work."""
        self.marks += [f"{run}: {mark}" for mark in a.marks]
        for name, n in (
            ("events_lost", a.events_lost),
            ("spans_exported", a.exported),
            ("spans_expected", a.expected),
        ):
            self._totals[name] = self._totals.get(name, 0) + n
            self.put(name, [self._totals[name]])

    def json(self) -> str:
        """Figures by plain names; `spread`: least, greatest; `marks`: why not to trust them; `runs`: raw."""
        out: dict[str, Any] = {name: _rounded(figure.value) for name, figure in self.figures.items()}
        out["complete"] = not self.marks
        out["marks"] = self.marks
        out["spread"] = {name: [_rounded(f.low), _rounded(f.high)] for name, f in self.figures.items()}
        out["command"] = self.command
        out["machine"] = dataclasses.asdict(self.about)
        out["took_s"] = round(self.took_s, 1)
        out["runs"] = self.runs
        return json.dumps(out, indent=2) + "\n"

    def table(self) -> str:
        """For a terminal."""
        head = f"{'figure':<27}{'median':>11}  {'least .. greatest':<24}{'reach':<11}{'':<6}{'peer':<7}what"
        lines = [head]
        for row, f, value, spread in self._rows():
            name = f"{row.name:<27}{value:>11}  {spread:<24}"
            lines.append(f"{name}{row.reach:<11}{met(row, f):<6}{row.peer:<7}{row.text}")
        return "\n".join(lines + self._smart() + self.notes())

    def markdown(self) -> str:
        """For docs/benchmarks.md."""
        about = self.about
        lines = [
            f"Measured {time.strftime('%Y-%m-%d')} with `{self.command}` ({self.took_s:.0f} s): "
            f"{about.cpu}, {about.cores} CPUs, Linux {about.kernel}, Python {about.python}.",
            "",
            "| figure | median | least .. greatest | reach | best peer | what |",
            "|---|---|---|---|---|---|",
        ]
        for row, f, value, spread in self._rows():
            reach = f"{row.reach}: {met(row, f)}" if row.reach else ""
            lines.append(f"| `{row.name}` | {value} | {spread} | {reach} | {row.peer} | {row.text} |")
        if smart := self._smart():
            lines += [
                "",
                "SmartEncoding: what tags add to a series, a span, a line, by the number of tags.",
                "",
                *smart,
            ]
        notes = self.notes()
        return "\n".join(lines + ([""] if notes else []) + [f"* {note}" for note in notes])

    def _smart(self) -> list[str]:
        return smart_table.markdown({name: figure.value for name, figure in self.figures.items()})

    def notes(self) -> list[str]:
        out = [f"MARKED, not to be trusted: {mark}" for mark in self.marks]
        if self.about.busy_before > 0.1:
            out.append(f"other programs used {self.about.busy_before:.0%} of this machine: noise")
        if self.about.nat:
            out.append("NAT tables are in use on this machine: they are part of nginx's own cost")
        return out

    def _rows(self) -> Iterable[tuple[Row, Figure, str, str]]:
        """What was measured, in the order of ROWS: with its value and its spread as text."""
        for row in ROWS:
            f = self.figures.get(row.name)
            if f is not None:
                spread = f"{_shown(f.low)} .. {_shown(f.high)}" if f.n > 1 else ""
                yield row, f, f"{_shown(f.value)} {row.unit}".rstrip(), spread


def met(row: Row, figure: Figure) -> str:
    """Whether what is asked is reached; nothing where nothing is asked."""
    if not row.reach:
        return ""
    relation, limit = row.reach.split()
    value, bound = figure.value, float(limit)
    if relation == "<=":
        return "met" if value <= bound + NOISE.get(row.name, 0) else "MISS"
    return "met" if value >= bound else "MISS"


def write_docs(path: Path, text: str) -> None:
    """Replaces what stands between the two marks. ValueError if they are not there."""
    whole = path.read_text()
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path}: the marks {BEGIN} and {END} are missing; put them where the tables belong")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _added(sides: Iterable[tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]], key: str) -> list[float]:
    return [b[key] - a[key] for a, b in sides if a is not None and b is not None]


def _rounded(value: float) -> float:
    """To four significant digits, whole numbers as they are."""
    return int(value) if value == int(value) else float(f"{value:.4g}")


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
