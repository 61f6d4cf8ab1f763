"""The benchmark's own arithmetic and its C programs: a wrong ruler makes every figure wrong."""

import http.client
import http.server
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bench
import machine
import pairs
import report
import traffic
from bench_agent import Account

STALL_S = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def slow_server() -> Iterator[int]:
    """Answers at once, but stands still once for STALL_S."""
    stalled = threading.Event()
    lock = threading.Lock()
    began = time.monotonic()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                if time.monotonic() - began > 1.0 and not stalled.is_set():
                    stalled.set()
                    time.sleep(STALL_S)
            # in one piece: http.server's own two writes would wait for a delayed acknowledgement
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_server_that_stands_still_shows_in_the_latency_of_all_that_were_due(folder: Path, slow_server: int) -> None:
    """At 200/s, 60 requests fall due in 0.3 s; from sending on only the few that are under way look slow."""
    load = machine.compile_c("load", folder)
    out = machine.measure_json(0, [load, str(slow_server), "/", "4", "200", "2", "0.2"], 20)
    assert out["requests"] == 440 and out["unanswered"] == 0 and out["samples"] == 400
    assert out["max_us"] > STALL_S * 0.9e6
    assert out["p90_us"] > 50_000  # 15 % of the samples waited, most of them long
    assert out["sent_p50_us"] <= out["p50_us"] < 50_000
    assert out["sent_window_p99_us"] <= out["window_p99_us"] <= out["max_us"]
    assert out["sent_window_p99_us"] > 0


def test_the_sink_answers_every_request_and_counts_its_bytes(folder: Path) -> None:
    sink = machine.compile_c("sink", folder)
    with machine.running(0, [sink], stdout=-1) as process:
        assert process.stdout is not None
        client = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=10)
        bodies = {"/v1/traces": [b"", b"x" * 3_000_000, b"y"], "/loki/api/v1/push": [b"z" * 10_000]}
        for path, sent in bodies.items():
            for body in sent:
                client.request("POST", path, body)
                answer = client.getresponse()
                assert answer.status == 200 and answer.read() == b""
        client.close()
        assert machine.end(process) == 0
        said = json.loads(process.stdout.read())
    assert (said["traces_posts"], said["traces_bytes"]) == (3, 3_000_001)
    assert (said["push_posts"], said["push_bytes"]) == (1, 10_000)
    assert (said["posts"], said["other_posts"]) == (4, 0)


def test_cpu_time_of_another_process_has_all_its_threads() -> None:
    code = "import hashlib,threading\nf=lambda:hashlib.pbkdf2_hmac('sha256',b'x',b'y',400000)\n"
    code += "t=[threading.Thread(target=f) for _ in range(2)]\n[x.start() for x in t]\n[x.join() for x in t]\n"
    code += "import time;print(time.process_time_ns(),flush=True);input()"
    with machine.running(0, [sys.executable, "-c", code], stdout=-1) as process:
        assert process.stdout is not None
        own = int(process.stdout.readline())
        assert own * 0.95 < machine.cpu_ns(process.pid) < own * 1.2
    with pytest.raises(machine.BenchError):
        machine.cpu_ns(process.pid)


def test_wrk_with_errors_is_no_measurement() -> None:
    out = """  Latency Distribution
     50%  612.00us
     75%  700.00us
     90%    1.00ms
     99%    1.50ms
  181000 requests in 4.00s, 218.00MB read
Requests/sec:  45250.10
"""
    good = traffic.parse_wrk(out, 1_810_000_000)
    assert good == traffic.Load(181000, 45250.10, 612.0, 1500.0, 10.0)
    with pytest.raises(machine.BenchError, match="Socket errors"):
        traffic.parse_wrk(out + "  Socket errors: connect 0, read 3, write 0, timeout 0\n", 1)
    with pytest.raises(machine.BenchError):
        traffic.parse_wrk("unable to connect", 1)


@pytest.mark.parametrize(
    ("exported", "dropped", "lost", "good"),
    [
        (2000, {}, 0, True),
        (2010, {"unfinished": 64}, 0, True),  # what a client leaves at its end
        (1999, {}, 0, False),
        (2000, {}, 1, False),
        (2000, {"ring_full": 1}, 0, False),
        (2000, {"unfinished": 65}, 0, False),
    ],
)
def test_a_run_that_lost_anything_is_marked(exported: int, dropped: dict[str, int], lost: int, good: bool) -> None:
    account = Account(seen=3000, exported=exported, dropped=dropped, events_lost=lost, sink={})
    account.judge(requests=1000, loads=1)
    assert (account.marks == []) is good


def test_a_scrape_counts_understood_answers_at_each_end() -> None:
    line = b'http_%s_request_duration_seconds_count{job="x",http_response_status_code="%s"} %d\n'
    scraped = line % (b"server", b"200", 900) + line % (b"server", b"404", 200) + line % (b"client", b"200", 1000)
    assert pairs.miscounted(scraped, 900) == []
    assert pairs.miscounted(scraped, 1000) == ["/metrics has 900 answers 200 at the server, of 1000"]


def some_report(ratios: list[float]) -> report.Report:
    about = machine.About(cores=2, cpu="cpu", kernel="6", python="3", busy_before=0.0, nat=False)
    made = report.Report("bench", about)
    made.put("nginx_rps_ratio", ratios)
    return made


def test_figures_are_medians_with_their_spread() -> None:
    made = some_report([0.9, 0.5, 0.7])
    got = json.loads(made.json())
    assert got["nginx_rps_ratio"] == 0.7
    assert got["spread"]["nginx_rps_ratio"] == [0.5, 0.9]
    assert got["complete"] is True
    made.marks.append("pair 1: lost")
    assert json.loads(made.json())["complete"] is False
    assert "lost" in made.table() and "lost" in made.markdown()


def test_what_is_asked_is_compared_with_the_median() -> None:
    row = next(r for r in report.ROWS if r.name == "nginx_rps_ratio")
    assert report.met(row, report.Figure.of([0.2, 0.65, 0.7])) == "met"
    assert report.met(row, report.Figure.of([0.64, 0.64, 0.9])) == "MISS"
    share = next(r for r in report.ROWS if r.name == "nginx_added_share")
    assert report.met(share, report.Figure.of([0.15])) == "met"
    assert report.met(share, report.Figure.of([0.151])) == "MISS"


def test_the_docs_keep_everything_outside_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_docs(page, some_report([0.7]).markdown())
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text and "| `nginx_rps_ratio` | 0.7 |" in text
    report.write_docs(page, "again")
    assert page.read_text() == f"before\n{report.BEGIN}\nagain\n{report.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="marks"):
        report.write_docs(page, "x")
    assert report.BEGIN in bench.DOCS.read_text() and report.END in bench.DOCS.read_text()


def test_what_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bench.main(["--only", "nginx"]) == 1
    said = capsys.readouterr().err
    assert "nginx-light" in said and "wrk" in said and "root" in said
