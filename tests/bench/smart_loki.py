"""Log lines with tags in a real Loki: bytes of its chunks and its index, memory of what it has open, CPU of the push.

The binary and the configuration of tests/e2e/backends, with the limits raised that tags as labels need (Loki refuses
more than 15 labels of a stream by itself). Its index becomes a file when it starts again. Used by smart_encoding.py.
"""

import contextlib
import re
import shutil
import string
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from machine import ROOT, BenchError, cpu_ns, wait_for
from smart_tags import Instance, pushes

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from backends.program import Program, ProgramError
from backends.query import request
from backends.stack import BIN, HERE, free_ports

# a stream that is pushed this fast would be split, which no stream of a real service is
LIMITS = (
    "limits_config:\n  max_label_names_per_series: 200\n  max_global_streams_per_user: 0\n"
    "  shard_streams: {enabled: false}\n"
)
START_S, FLUSH_S = 30.0, 60.0


@dataclass
class Case:
    """What one Loki gave. Bytes; seconds of CPU."""

    lines: int
    streams: int
    pushed: int  # bytes of the requests' bodies
    push_s: float
    heap: int  # live objects, all chunks still open
    chunks: int
    index: int  # as it reads it
    index_stored: int  # as it lies in the object store (gzip)


def run(way: str, who: list[Instance], lines: int, folder: Path) -> Case:
    """One case. BenchError."""
    folder.mkdir(parents=True)
    try:
        return _run(way, who, lines, folder)
    except (OSError, ProgramError) as e:
        raise BenchError(f"Loki, {way}: {e}") from e


def _run(way: str, who: list[Instance], lines: int, folder: Path) -> Case:
    total = len(who) * lines
    ports = dict(zip(("loki_http", "loki_grpc"), free_ports(2), strict=True))
    text = string.Template((HERE / "loki.yaml").read_text()).substitute(ports, data=folder)
    (folder / "loki.yaml").write_text(text.replace("limits_config:\n", LIMITS))
    url = f"http://127.0.0.1:{ports['loki_http']}"
    with contextlib.ExitStack() as undo:
        first = _start(folder, url)
        undo.callback(first.stop)
        begin = cpu_ns(first.pid)
        spent, pushed, at = 0, 0, time.time_ns() - 60 * 10**9
        for body in pushes(way, who, lines, at):
            request(f"{url}/loki/api/v1/push", body=body, headers={"Content-Type": "application/json"})
            pushed += len(body)
        spent = cpu_ns(first.pid) - begin
        taken = int(_metric(url, "loki_distributor_lines_received_total"))
        if taken != total:
            raise BenchError(f"Loki took {taken} of {total} lines")
        streams = int(_metric(url, "loki_ingester_memory_streams"))
        for _ in range(2):
            request(f"{url}/debug/pprof/heap?gc=1")
        heap = int(_metric(url, "go_memstats_heap_alloc_bytes"))
        open_chunks = _metric(url, "loki_ingester_memory_chunks")
        request(f"{url}/flush", body=b"")
        flushed = "loki_ingester_chunks_flushed_total"
        wait_for("Loki's chunks", lambda: _metric(url, flushed) >= open_chunks, FLUSH_S, 0.2)
    chunks = folder / "loki" / "chunks"
    if not (chunks / "fake").is_dir():
        raise BenchError("Loki wrote no chunks")
    with contextlib.ExitStack() as undo:
        again = _start(folder, url)
        undo.callback(again.stop)
        stored = chunks / "index"
        wait_for("Loki's index", lambda: any(stored.rglob("*.tsdb.gz")), FLUSH_S, 0.2)
    index = sum(f.stat().st_size for f in folder.rglob("*.tsdb"))
    made = Case(
        lines=total, streams=streams, pushed=pushed, push_s=spent / 1e9, heap=heap,
        chunks=sum(f.stat().st_size for f in (chunks / "fake").rglob("*") if f.is_file()),
        index=index, index_stored=sum(f.stat().st_size for f in stored.rglob("*.tsdb.gz")),
    )  # fmt: skip
    shutil.rmtree(folder)
    return made


def _start(folder: Path, url: str) -> Program:
    program = Program("loki", [str(BIN / "loki"), f"-config.file={folder}/loki.yaml"], folder / "log", lambda: _up(url))
    program.start()
    try:
        wait_for("Loki", program.ready, START_S)
    except BaseException:
        program.stop()
        raise
    return program


def _up(url: str) -> str | None:
    try:
        request(f"{url}/ready")
    except OSError as e:
        return str(e)
    return None


def _metric(url: str, name: str) -> float:
    text = request(f"{url}/metrics").decode()
    return sum(float(found) for found in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))
