"""Series with tags in a real Prometheus: bytes on disk and in its head, CPU of scrapes and of a query by a tag.

The binary of tests/e2e/backends. Each case has a Prometheus of its own that scrapes some turns of one big /metrics, is
made to collect garbage, asked, and made to write its head as a block (a snapshot). Used by smart_encoding.py.
"""

import contextlib
import http.server
import json
import re
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tsdb_index
from machine import ROOT, BenchError, cpu_ns, wait_for
from smart_tags import FAMILY, LINES, Instance, Metrics

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from backends.program import Program, ProgramError
from backends.query import request
from backends.stack import BIN, free_ports

TURNS = 3  # scrapes
LOOKS = 3  # at a first one
LARGE, LARGE_TURNS = 100 << 20, 2  # bytes of a scrape from which on there are fewer
EVERY_S, BYTES_PER_S = 3.0, 50e6  # between scrapes, and more for larger ones: none is under way when memory is read
START_S, SCRAPE_S, SNAPSHOT_S = 30.0, 90.0, 120.0
GROUPED = "k8s.node.name"
CONFIG = """
global: {{scrape_interval: {every}s, scrape_timeout: {every}s}}
scrape_configs:
  - job_name: agent
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


@dataclass
class Case:
    """What one Prometheus gave. Bytes; seconds of CPU."""

    series: int  # without target_info
    text: int  # bytes of a scrape
    scrape_s: float  # each later one
    heap: int  # live objects after a garbage collection
    index: tsdb_index.Index
    chunks: int
    query_s: float
    turns: int  # scrapes with other values
    groups: dict[str, float] = field(default_factory=dict)


def run(way: str, who: list[Instance], routes: int, folder: Path) -> Case:
    """One case. BenchError."""
    if missing := [name for name in ("prometheus",) if not (BIN / name).exists()]:
        raise BenchError(f"not in {BIN}: {', '.join(missing)}; bring them with: make e2e-backends")
    metrics = Metrics(way, who, routes)
    bodies = [metrics.body(0)]
    bodies += [metrics.body(turn) for turn in range(1, TURNS if len(bodies[0]) < LARGE else LARGE_TURNS)]
    del metrics
    series = len(who) * routes * LINES
    lines = bodies[0].count(b"\n")
    if lines != series + (len(who) if way == "ours" else 0):
        raise BenchError(f"{way}: a scrape has {lines} lines, with {series} series")
    folder.mkdir(parents=True)
    try:
        return _run(way, bodies, series, folder)
    except (OSError, ProgramError) as e:
        raise BenchError(f"Prometheus, {way}: {e}") from e


def first(way: str, who: list[Instance], routes: int, folder: Path, family: bytes = b"") -> float:
    """CPU seconds of a scrape in which all series are new, of one family alone, if it is named: the least of LOOKS,
    each by a new Prometheus. BenchError."""
    lines = Metrics(way, who, routes).body(0).splitlines(keepends=True)
    body = b"".join(line for line in lines if line.startswith(family))
    took = []
    for look in range(LOOKS):
        at = folder / str(look)
        at.mkdir(parents=True)
        try:
            with _scraping([body], at) as p:
                took.append(p.until(1))
        except (OSError, ProgramError) as e:
            raise BenchError(f"Prometheus, {way}: {e}") from e
    return min(took)


@dataclass
class _Scraping:
    """A Prometheus that waits for its first scrape."""

    url: str
    pid: int
    lines: int
    go: threading.Event

    def appended(self) -> int:
        return int(_metric(self.url, "prometheus_tsdb_head_samples_appended_total"))

    def until(self, turn: int) -> float:
        """Lets the scrapes go on until so many are done. CPU seconds meanwhile."""
        begin = cpu_ns(self.pid)
        self.go.set()
        wait_for(f"scrape {turn}", lambda: self.appended() >= self.lines * turn, SCRAPE_S, 0.1)
        return (cpu_ns(self.pid) - begin) / 1e9


@contextlib.contextmanager
def _scraping(bodies: list[bytes], folder: Path) -> Iterator[_Scraping]:
    every = round(EVERY_S + len(bodies[0]) / BYTES_PER_S)
    with contextlib.ExitStack() as undo:
        go = threading.Event()
        target = undo.enter_context(_serving(bodies, go))
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        (folder / "prometheus.yml").write_text(CONFIG.format(every=every, target=target))
        arguments = [
            f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{port}", "--web.enable-admin-api",
        ]  # fmt: skip
        program = Program("prometheus", [str(BIN / "prometheus"), *arguments], folder / "log", lambda: _up(url), 0.0)
        program.start()
        undo.callback(program.stop)
        wait_for("Prometheus", program.ready, START_S)
        yield _Scraping(url, program.pid, bodies[0].count(b"\n"), go)


def _run(way: str, bodies: list[bytes], series: int, folder: Path) -> Case:
    with _scraping(bodies, folder) as p:
        spent, marks = 0.0, []
        for turn in range(1, len(bodies) + 1):
            spent += p.until(turn)
            marks.append((spent, p.appended()))
        later = (marks[-1][1] - marks[0][1]) / p.lines  # one more may have come between two looks
        scrape_s = (marks[-1][0] - marks[0][0]) / later
        # what sync.Pool keeps goes with the second collection; while a scrape is under way there is more
        heap = min(_live(p.url) for _ in range(4))
        groups, query_s = _grouped(p.url, p.pid, way)
        block = next((folder / "data" / "snapshots" / _snapshot(p.url)).iterdir())
        return Case(
            series=series, text=len(bodies[0]), scrape_s=scrape_s, heap=heap,
            index=tsdb_index.read(block / "index"),
            chunks=sum(f.stat().st_size for f in (block / "chunks").iterdir()),
            query_s=query_s, turns=len(bodies), groups=groups,
        )  # fmt: skip


def _live(url: str) -> int:
    """Bytes that a garbage collection leaves."""
    request(f"{url}/debug/pprof/heap?gc=1")
    return int(_metric(url, "go_memstats_heap_alloc_bytes"))


def _grouped(url: str, pid: int, way: str) -> tuple[dict[str, float], float]:
    """Requests by the values of one tag, and the CPU of asking (least of three)."""
    tag = GROUPED.replace(".", "_")
    count = f"{FAMILY}_count"
    asked = {
        "none": f"sum by (instance) ({count})",
        "ours": f"sum by ({tag}) ({count} * on (job, instance) group_left ({tag}) target_info)",
        "inline": f"sum by ({tag}) ({count})",
    }[way]
    took, answer = [], b""
    for _ in range(3):
        begin = cpu_ns(pid)
        answer = request(f"{url}/api/v1/query", body=urllib.parse.urlencode({"query": asked}).encode())
        took.append((cpu_ns(pid) - begin) / 1e9)
    found: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
    return {next(iter(one["metric"].values())): float(one["value"][1]) for one in found}, min(took)


def _snapshot(url: str) -> str:
    asked = urllib.request.Request(f"{url}/api/v1/admin/tsdb/snapshot", data=b"", method="POST")
    with urllib.request.urlopen(asked, timeout=SNAPSHOT_S) as answer:
        name: str = json.load(answer)["data"]["name"]
    return name


def _metric(url: str, name: str) -> float:
    text = request(f"{url}/metrics").decode()
    return sum(float(found) for found in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def _up(url: str) -> str | None:
    try:
        request(f"{url}/-/ready")
    except OSError as e:
        return str(e)
    return None


@contextlib.contextmanager
def _serving(bodies: list[bytes], go: threading.Event) -> Iterator[int]:
    """One body after the other from `go` on; the last one again and again. The port."""
    left = list(reversed(bodies))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            go.wait(START_S)
            body = left.pop() if len(left) > 1 else left[0]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """A Prometheus that was ended."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
