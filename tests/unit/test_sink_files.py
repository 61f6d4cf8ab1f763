"""Files of JSON lines: whole lines only, rotation, files that move, disks that fill, readers that leave."""

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).parent))
from sink_receivers import balanced, batch, until

from zerospan.exporter.sinks.files import FileSink
from zerospan.exporter.sinks.retry import RetryPolicy

FAST = RetryPolicy(initial_s=0.001, max_s=0.01, max_elapsed_s=60)


def as_json(payload: bytes) -> bytes:
    return json.dumps({"n": payload.decode()}).encode()


def sink_to(path: Path | str, **settings: object) -> FileSink:
    settings.setdefault("retry", FAST)
    return FileSink("file/traces", "traces", str(path), convert=as_json, **settings)  # type: ignore[arg-type]


def numbers(path: Path) -> list[str]:
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line)["n"] for line in text.splitlines()]


def test_a_line_a_batch_appended(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    for run in ("a", "b"):
        sink = sink_to(path)
        sink.start()
        for i in range(3):
            sink.put(batch(f"{run}{i}".encode(), count=2))
        sink.stop(5)
        assert sink.stats.sent_items == 6 and sink.stats.sent_wire_bytes == 3 * len('{"n": "a0"}\n')
    assert numbers(path) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert path.stat().st_mode & 0o007 == 0


def test_protobuf_becomes_otlp_json(tmp_path: Path) -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="GET /", trace_id=b"t" * 16, span_id=b"s" * 8)
    sink = FileSink("file/traces", "traces", str(tmp_path / "t"), retry=FAST)
    sink.start()
    sink.put(batch(request.SerializeToString()))
    sink.put(batch(b"\xff\xff", count=5))
    sink.stop(5)
    (line,) = (tmp_path / "t").read_text().splitlines()
    (span,) = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert span["name"] == "GET /" and span["traceId"] == (b"t" * 16).hex()
    assert sink.stats.sent_items == 1 and sink.stats.dropped == {"rejected": 5}


def test_each_batch_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t"
    sink = sink_to(path)
    sink.start()
    sink.put(batch(b"1"))
    until(lambda: sink.stats.sent_items == 1)
    assert numbers(path) == ["1"]
    sink.stop(5)


def test_rotation_keeps_files_small_and_loses_only_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "t"
    sink = sink_to(path, rotate_bytes=50, rotate_keep=2)
    sink.start()
    for i in range(20):
        sink.put(batch(b"%02d" % i))
    sink.stop(5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "t.1", "t.2"]
    assert all(p.stat().st_size <= 50 for p in tmp_path.iterdir())
    kept = numbers(tmp_path / "t.2") + numbers(tmp_path / "t.1") + numbers(path)
    assert kept == [f"{i:02d}" for i in range(20 - len(kept), 20)] and len(kept) >= 8


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "t"
    sink = sink_to(path)
    sink.start()
    sink.put(batch(b"1"))
    until(lambda: sink.stats.sent_items == 1)
    path.rename(tmp_path / "old")
    sink.put(batch(b"2"))
    sink.stop(5)
    assert numbers(tmp_path / "old") == ["1"] and numbers(path) == ["2"]


def test_a_full_disk_leaves_no_torn_line_and_is_retried(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, set in a child, gives the short write and then the error of a disk that is full."""
    path = tmp_path / "t"
    code = f"""
import resource, signal, sys, time
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from sink_receivers import batch, until, balanced
from test_sink_files import sink_to
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
sink = sink_to({str(path)!r})
sink.start()
for i in range(4):
    sink.put(batch(b"%08d" % i))
until(lambda: sink.stats.retries >= 3)
assert "too large" in sink.stats.last_error, sink.stats.last_error
assert sink.stats.failing and sink.stats.sent_items == 2 and balanced(sink.stats)
assert open({str(path)!r}).read().count("\\n") == 2 and open({str(path)!r}).read().endswith("\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
until(lambda: sink.stats.sent_items == 4)
sink.stop(5)
assert not sink.stats.failing and sink.stats.dropped == {{}}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert numbers(path) == [f"{i:08d}" for i in range(4)]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_dev_full_is_counted_and_stop_is_quick() -> None:
    sink = sink_to("/dev/full")
    sink.start()
    sink.put(batch(b"1", count=3))
    until(lambda: sink.stats.retries >= 2)
    assert "No space left" in sink.stats.last_error
    sink.stop(10)
    assert sink.stats.dropped == {"shutdown": 3} and balanced(sink.stats)


def test_a_batch_that_cannot_be_converted_is_rejected(tmp_path: Path) -> None:
    sink = sink_to(tmp_path / "t")
    sink.start()
    sink.put(batch(b"\xff", count=3))
    sink.put(batch(b"ok", count=4))
    sink.stop(5)
    assert sink.stats.dropped == {"rejected": 3} and numbers(tmp_path / "t") == ["ok"]


def test_a_folder_that_is_missing_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sink_to(tmp_path / "none" / "t")


def test_a_named_pipe_waits_for_its_reader_and_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = sink_to(path)
    sink.start()
    sink.put(batch(b"1"))
    until(lambda: sink.stats.retries >= 1)
    with path.open() as reader:
        assert json.loads(reader.readline()) == {"n": "1"}
    sink.put(batch(b"2"))
    until(lambda: sink.stats.retries >= 2)
    with path.open() as reader:
        assert json.loads(reader.readline()) == {"n": "2"}
    sink.stop(5)
    assert sink.stats.sent_items == 2 and sink.stats.dropped == {}


def test_a_pipe_whose_reader_sleeps_does_not_hold_up_stop(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = sink_to(path)
    sink.start()
    sink.put(batch(b"x" * 2_000_000, count=2))
    until(lambda: sink.stats.queued_batches == 1)
    sink.stop(0.3)
    assert sink.stats.dropped == {"shutdown": 2} and balanced(sink.stats)
    os.close(reader)


def child(tmp_path: Path, body: str) -> subprocess.Popen[bytes]:
    head = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from sink_receivers import batch, until, balanced
from test_sink_files import sink_to
"""
    return subprocess.Popen([sys.executable, "-c", head + body], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_standard_output_lines_of_two_sinks_do_not_mix(tmp_path: Path) -> None:
    process = child(
        tmp_path,
        """
sinks = [sink_to("-"), sink_to("-")]
for n, sink in enumerate(sinks):
    sink.start()
for i in range(20):
    for n, sink in enumerate(sinks):
        sink.put(batch(b"%d" % n * 20_000))
for sink in sinks:
    sink.stop(10)
    assert sink.stats.sent_items == 20
""",
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = [json.loads(line)["n"] for line in out.splitlines()]
    assert len(lines) == 40 and {len(set(line)) for line in lines} == {1}


def test_a_closed_standard_output_is_counted() -> None:
    process = child(
        Path(),
        """
sink = sink_to("-")
sink.start()
import os
r, w = os.pipe()
os.close(r)
os.dup2(w, 1)
late = sink_to("-")
late.start()
late.put(batch(b"1", count=3))
until(lambda: late.stats.queued_items == 0)
assert late.stats.dropped == {"rejected": 3} and "standard output" in late.stats.last_error
late.stop(1)
sink.stop(1)
os._exit(0)
""",
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_two_threads_of_writers_keep_lines_whole(tmp_path: Path) -> None:
    path = tmp_path / "t"
    sink = sink_to(path)
    sink.start()

    def put(n: int) -> None:
        for i in range(50):
            sink.put(batch(f"{n}-{i}".encode()))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.stop(5)
    assert sorted(numbers(path)) == sorted(f"{n}-{i}" for n in range(3) for i in range(50))
