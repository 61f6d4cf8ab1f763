"""The ledger against ground truth: nginx's count = SERVER spans = metrics' sum = log lines, or the difference is named.

wrk drives a real nginx with many requests (200,000 by default; ZEROSPAN_LEDGER_REQUESTS), over kept connections, over
a new connection for each request, through nginx as a proxy without upstream keep-alive, and with a ring of 64 KiB.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from agent import Agent, count_logs, count_spans
from cgroup import own_cgroup
from nginx import Nginx

REQUESTS = int(os.environ.get("ZEROSPAN_LEDGER_REQUESTS", "200000"))


def drive(port: int, requests: int, *, close: bool = False) -> int:
    """Sends about so many requests with wrk (it counts by time, so in rounds); returns how many it did."""
    done, seconds = 0, 1
    while done < requests:
        argv = ["wrk", "-t1", "-c32", f"-d{seconds}s", f"http://127.0.0.1:{port}/f.txt"]
        if close:
            argv[1:1] = ["-H", "Connection: close"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        done += int(re.findall(r"(\d+) requests in", said)[0])
        rate = float(re.findall(r"Requests/sec: +([\d.]+)", said)[0])
        seconds = max(1, min(10, round((requests - done) / max(rate, 1))))
    return done


def metric_sum(text: str, port_or_service: str) -> int:
    pattern = rf'^http_server_request_duration_seconds_count\{{[^}}]*job="{port_or_service}"[^}}]*\}} (\d+)'
    return sum(int(n) for n in re.findall(pattern, text, re.M))


@pytest.mark.parametrize("way", ["keep-alive", "new-connections", "proxy"])
@pytest.mark.parametrize("hooks", ["sock_length", "sys_exit"])
def test_every_request_is_accounted_for(tmp_path: Path, way: str, hooks: str) -> None:
    requests = REQUESTS if hooks == "sock_length" else REQUESTS // 10
    settings = {"capture": {"hooks": hooks, "ring_bytes": 64 << 20}}
    with (
        own_cgroup("ledger") as cgroup,
        Nginx(tmp_path / "nginx", proxy=way == "proxy") as nginx,
        Agent(tmp_path, settings, "--exe", "nginx", "--cgroup", cgroup) as agent,
    ):
        before = nginx.requests()
        drive(nginx.proxy_port or nginx.port, requests, close=way == "new-connections")
        counted = nginx.requests() - before + 1  # the two questions themselves: one before, one inside
        status = agent.settled(1.0)
        text = agent.metrics()
        agent.stop()
    assert status["kernel"]["emitted"] > 0
    assert agent.ledger["dropped"] == {}, agent.ledger
    assert sum(v for k, v in status["kernel"].items() if k.startswith("ring_full")) == 0
    assert count_spans(agent.traces_file, kind=2) == counted
    assert count_logs(agent.logs_file) == counted  # a call to a server that is seen makes no line of its own
    assert metric_sum(text, "nginx") == counted


def test_a_full_ring_is_counted_to_the_event(tmp_path: Path) -> None:
    settings = {"capture": {"ring_bytes": 65536, "drain_ms": 200}}
    with (
        own_cgroup("ring") as cgroup,
        Nginx(tmp_path / "nginx") as nginx,
        Agent(tmp_path, settings, "--exe", "nginx", "--cgroup", cgroup) as agent,
    ):
        before = nginx.requests()
        drive(nginx.port, REQUESTS // 4)
        counted = nginx.requests() - before + 1
        status = agent.settled(1.0)
        agent.stop()
    lost = agent.ledger["dropped"].get("ring_full", 0)
    assert lost > 0, "the ring was never full: the test shows nothing"
    assert lost == status["kernel"]["ring_full_request"]
    seen = count_spans(agent.traces_file, kind=2)
    assert set(agent.ledger["dropped"]) <= {"ring_full", "unfinished"}  # unfinished: the close was lost, too
    assert seen + sum(agent.ledger["dropped"].values()) == counted, agent.ledger
