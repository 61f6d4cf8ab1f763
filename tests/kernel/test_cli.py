"""The commands as a user types them, as root, on real traffic; each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pair import Pair

from zerospan.exporter import pipeline, selftest
from zerospan.exporter.config import load
from zerospan.exporter.selftest import SelfTest
from zerospan.exporter.tree import CLIENT, SERVER, Span, spans_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "zerospan.exporter.cli"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
REQUEST = "GET /orders/{} HTTP/1.1\r\nHost: shop.local\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Command:
    """A command under way; what it says on standard error is in a file."""

    def __init__(self, folder: Path, *argv: str) -> None:
        self.err = folder / f"{argv[0]}.err"
        self.out = folder / f"{argv[0]}.out"
        with self.err.open("wb") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen([*COMMAND, *argv], stdout=out, stderr=err, env=ENV)

    def until(self, word: str, deadline_s: float = 30) -> float:
        """Waits until `word` was said on standard error. Returns the seconds."""
        began = time.monotonic()
        while word not in self.err.read_text():
            assert self.process.poll() is None, f"it ended: {self.err.read_text()}"
            assert time.monotonic() - began < deadline_s, f"no {word!r}: {self.err.read_text()}"
            time.sleep(0.01)
        return time.monotonic() - began

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    made: list[Command] = []

    def make(*argv: str) -> Command:
        made.append(Command(tmp_path, *argv))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def zerospan(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *argv], capture_output=True, text=True, env=ENV, timeout=120)


def exchange(pair: Pair, requests: int) -> None:
    """Keep-alive requests from one process to another."""
    for i in range(requests):
        pair.exchange(REQUEST.format(i).encode(), ANSWER)


def spans_in(path: Path) -> list[Span]:
    return [span for line in path.read_text().splitlines() for span in spans_of(json.loads(line))]


def pids(pair: Pair) -> list[str]:
    return ["--pid", str(pair.client.pid), "--pid", str(pair.server.pid)]


# ---- check and the self-test ----


def test_check_finds_this_machine_usable_by_trying() -> None:
    done = zerospan("check", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0 and said["usable"] is True, said["verdict"]
    states = {f["name"]: f["state"] for f in said["findings"]}
    assert states[f"hooks {said['hooks']}"] == states["self-test"] == "ok"


def test_run_is_ready_after_a_self_test_that_no_ledger_knows(command: Callable[..., Command], tmp_path: Path) -> None:
    agent = command("run", "--run-dir", str(tmp_path / "run"), "--traces-file", str(tmp_path / "t"))
    agent.until("ready")
    status = json.loads(zerospan("status", "--json", "--run-dir", str(tmp_path / "run")).stdout)
    assert status["selftest"] == "passed" and status["pipeline"]["selftest_answered"] == 2
    assert agent.end(signal.SIGTERM) == 0
    assert "WARNING" not in agent.err.read_text()
    assert not [s for s in spans_in(tmp_path / "t") if "self-test" in str(s.attributes.get("url.path"))]


@pytest.mark.parametrize(
    ("filters", "result"),
    [({"filter.pid": (1,)}, "passed"), ({"filter.port": (9,)}, "skipped: filters are set (port)")],
)
def test_the_self_test_with_filters(filters: dict[str, Any], result: str) -> None:
    """It lets its own process through a pid filter, and takes it out again; other filters leave it out."""
    config = load(None, {}, filters)
    test = SelfTest()
    agent = pipeline.build(config, hidden=test.hidden, control=False)
    agent.start()
    try:
        assert test.run(agent, config) == ""
        assert agent.selftest == result and not test.hidden
    finally:
        agent.stop()


def test_hooks_that_report_nothing_are_told_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "WAIT_S", 0.3)
    config = load(None, {})
    test = SelfTest()
    agent = pipeline.build(config, hidden=test.hidden, control=False)
    assert agent.capture is not None
    agent.capture.detach()
    agent.start()
    try:
        problem = test.run(agent, config)
    finally:
        agent.stop()
    assert "0 of its 2 ends" in problem and "report nothing at all" in problem and "--hooks" in problem
    assert agent.selftest.startswith("failed")


def test_a_missing_loopback_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "CHILD", selftest.CHILD.replace('("127.0.0.1", 0)', '("192.0.2.1", 0)'))
    test = SelfTest()
    agent = pipeline.build(load(None, {}), hidden=test.hidden, control=False)
    agent.start()
    try:
        assert "loopback" in test.run(agent, load(None, {}))
    finally:
        agent.stop()


# ---- record and replay ----


def test_a_replay_is_what_the_live_run_exported(
    connect: Callable[..., Pair], command: Callable[..., Command], tmp_path: Path
) -> None:
    pair = connect()
    file, live = tmp_path / "a.zsr", tmp_path / "live.jsonl"
    recorder = command("record", str(file), *pids(pair), "--traces-file", str(live))
    recorder.until("ready")
    exchange(pair, 50)
    assert recorder.end() == 0
    said = recorder.err.read_text()
    assert "lost by the kernel: nothing" in said
    assert file.stat().st_mode & 0o777 == 0o600
    spans = spans_in(live)
    assert len(spans) == 100 and {s.kind for s in spans} == {CLIENT, SERVER}
    again = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for path in again:
        done = zerospan("replay", str(file), "--traces-file", str(path), "--json")
        ledger = json.loads(done.stdout)
        assert done.returncode == 0 and ledger["balanced"] and ledger["seen"] == ledger["exported"] == 100
        assert f"{ledger['records']} records" in said
    assert again[0].read_bytes() == again[1].read_bytes()
    assert spans_in(again[0]) == spans, "ids, times, names, attributes, order"


def test_a_recording_ends_by_itself_at_its_size(
    connect: Callable[..., Pair], command: Callable[..., Command], tmp_path: Path
) -> None:
    pair = connect()
    file = tmp_path / "small.zsr"
    recorder = command("record", str(file), *pids(pair), "--max-mib", "0.02")
    recorder.until("ready")
    exchange(pair, 100)
    assert recorder.process.wait(30) == 0
    assert "0.02 MiB" in recorder.err.read_text()
    assert zerospan("replay", str(file)).returncode == 0, "what there is, is whole"


def test_a_recording_that_exists_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "old.zsr"
    file.write_text("old")
    done = zerospan("record", str(file), "--duration", "0.1")
    assert done.returncode == 1 and "--force" in done.stderr and file.read_text() == "old"
    done = zerospan("record", str(file), "--duration", "0.1", "--port", "70000")
    assert done.returncode == 2


# ---- watch ----


def test_watch_json_is_one_object_per_request(
    connect: Callable[..., Pair], command: Callable[..., Command], tmp_path: Path
) -> None:
    pair = connect()
    watch = command("watch", "--json", *pids(pair), "--log-level", "info")
    watch.until("hooks: ")
    time_out = time.monotonic() + 20
    while not watch.out.read_text().count("\n") and time.monotonic() < time_out:
        exchange(pair, 1)  # the hooks are on a moment after they are named
    seen = watch.out.read_text().count("\n")
    assert watch.end() == 0
    rows = [json.loads(line) for line in watch.out.read_text().splitlines()]
    assert len(rows) >= seen > 0
    keys = {tuple(row) for row in rows}
    assert len(keys) == 1, "the same keys in the same order"
    assert {(r["kind"], r["operation"], r["status"], r["route"]) for r in rows} == {
        ("server", "GET", "200", "/orders/{id}")
    }
    assert len({r["span_id"] for r in rows}) == len(rows)


def test_watch_shows_lines_and_figures_at_80_columns(
    connect: Callable[..., Pair], command: Callable[..., Command]
) -> None:
    pair = connect()
    watch = command("watch", *pids(pair), "--interval", "0.5", "--duration", "4")
    watch.until("ready")
    exchange(pair, 20)
    assert watch.process.wait(30) == 0
    text = watch.out.read_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and "\x1b" not in text
    shown = [line for line in lines if re.match(r"\d\d:\d\d:\d\d\.\d{3} \S+ +srv GET /orders/\d+ +200 +\d", line)]
    assert len(shown) == 20
    assert any(re.search(r"GET /orders/\{id\} +\d+\.\d +0\.0 ", line) for line in lines)


def test_watch_ends_quietly_when_nobody_reads(connect: Callable[..., Pair]) -> None:
    pair = connect()
    watch = subprocess.Popen(
        [*COMMAND, "watch", *pids(pair)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV
    )
    assert watch.stdout is not None and watch.stderr is not None
    assert "ready" in watch.stderr.readline()
    watch.stdout.close()  # and no traffic at all
    assert watch.wait(10) == 0
    assert watch.stderr.read() == ""
    watch.stderr.close()


# ---- status ----


def test_status_and_run_agree(connect: Callable[..., Pair], command: Callable[..., Command], tmp_path: Path) -> None:
    pair = connect()
    run_dir = str(tmp_path / "run")
    agent = command("run", *pids(pair), "--run-dir", run_dir, "--traces-file", str(tmp_path / "t"))
    agent.until("ready")
    exchange(pair, 10)
    end = time.monotonic() + 20
    while True:
        status = json.loads(zerospan("status", "--json", "--run-dir", run_dir).stdout)
        if status["exported"] == 20 or time.monotonic() > end:
            break
    assert (status["seen"], status["exported"], status["dropped"]) == (20, 20, {})
    text = zerospan("status", "--run-dir", run_dir).stdout
    assert "hooks" in text and max(map(len, text.splitlines())) <= 80
    second = zerospan("run", "--run-dir", run_dir, "--duration", "1")
    assert second.returncode == 1 and "runs already" in second.stderr
    assert agent.end() == 0
    assert "ledger: seen 20 / exported 20 / dropped none" in agent.err.read_text()
    assert zerospan("status", "--run-dir", run_dir).returncode == 1
