"""Without and with the agent, in turn: nginx at full speed, a client at half of it, unrelated calls.

A pair is one phase without and one with the agent, one right after the other; which comes first changes
from pair to pair, so that a machine that gets slower or faster favours neither. Every ratio and difference
is taken within its pair.
"""

import contextlib
import re
import threading
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_agent import Account, Agent, agent
from machine import SERVER_CORE, measure_json
from traffic import Load, Nginx

Say = Callable[[str], None]
CALLS = ("getppid", "read", "close")
HOLD_S = 2  # link.hold_s: until then spans only gather
ANSWERED = re.compile(
    rb"^http_(server|client)_request_duration_seconds_count\{"
    rb"[^}]*http_response_status_code=\"200\"[^}]*\} (\d+)",
    re.M,
)


@dataclass(frozen=True)
class Plan:
    """What is measured, for how long (seconds), with which programs."""

    pairs: int
    seconds: int
    sections: frozenset[str]  # of "nginx", "latency", "syscalls"
    folder: Path
    sink: str
    load: str
    micro: str
    batches: int = 1000


@dataclass
class Phase:
    """What one phase gave. us: per request."""

    full: Load | None = None
    half: dict[str, Any] | None = None
    calls: dict[str, Any] | None = None
    agent_us: float | None = None
    sink_us: float | None = None
    account: Account | None = None


@dataclass
class Pair:
    without: Phase
    with_agent: Phase


@dataclass
class _Tally:
    """Requests that were answered, and how many runs of a client there were."""

    requests: int = 0
    runs: int = field(default=0)

    def add(self, requests: int) -> None:
        self.requests += requests
        self.runs += 1


def run(plan: Plan, nginx: Nginx, say: Say) -> tuple[list[Pair], float]:
    """The pairs, and the rate of the fixed-rate client: half of what nginx gives without the agent."""
    rate = nginx.wrk(max(1, plan.seconds // 2)).rps / 2
    say(f"half load: {rate:.0f} requests/s")
    pairs = []
    for i in range(plan.pairs):
        phases = {}
        for watched in (False, True) if i % 2 == 0 else (True, False):
            say(f"pair {i + 1} of {plan.pairs}: {'with' if watched else 'without'} the agent")
            if watched:
                with agent(plan.folder / f"pair{i}", plan.sink) as running:
                    phases[True] = _phase(plan, nginx, rate, running)
            else:
                phases[False] = _phase(plan, nginx, rate, None)
        pairs.append(Pair(phases[False], phases[True]))
    return pairs, rate


def _phase(plan: Plan, nginx: Nginx, rate: float, watcher: Agent | None) -> Phase:
    phase = Phase()
    tally = _Tally()
    if "nginx" in plan.sections:
        _full_speed(plan, nginx, watcher, phase, tally)
    if "latency" in plan.sections:
        phase.half = nginx.fixed_rate(plan.load, rate, plan.seconds)
        tally.add(phase.half["requests"] + phase.half["learned"])
    if "syscalls" in plan.sections:
        phase.calls = measure_json(SERVER_CORE, [plan.micro, str(SERVER_CORE), str(plan.batches)], 60)
    if watcher is not None:
        watcher.drain(2 * tally.requests)
        scraped = watcher.scrape()
        phase.account = watcher.stop()
        phase.account.judge(tally.requests, tally.runs)
        phase.account.marks += miscounted(scraped, tally.requests)
    return phase


def miscounted(scraped: bytes, requests: int) -> list[str]:
    """What is wrong with a scrape after so many requests that were answered with 200."""
    found = {b"server": 0, b"client": 0}
    for end, n in ANSWERED.findall(scraped):
        found[end] += int(n)
    return [
        f"/metrics has {n} answers 200 at the {end.decode()}, of {requests}" for end, n in found.items() if n < requests
    ]


def _full_speed(plan: Plan, nginx: Nginx, watcher: Agent | None, phase: Phase, tally: _Tally) -> None:
    """wrk, first until spans leave the hold as fast as they enter, then for the figures.

    The agent's CPU is taken over both and until its last span has left: all work for these requests.
    """
    if watcher is None:
        nginx.wrk(1)
        phase.full = nginx.wrk(plan.seconds)
        return
    cpu, sink_cpu = watcher.cpu_ns(), watcher.sink_cpu_ns()
    tally.add(nginx.wrk(HOLD_S + 1).requests)
    scrape = threading.Timer(plan.seconds / 2, _scrape, [watcher])  # a Prometheus comes by
    scrape.start()
    phase.full = nginx.wrk(plan.seconds)
    scrape.join()
    tally.add(phase.full.requests)
    watcher.drain(2 * tally.requests)
    phase.agent_us = (watcher.cpu_ns() - cpu) / 1e3 / tally.requests
    phase.sink_us = (watcher.sink_cpu_ns() - sink_cpu) / 1e3 / tally.requests


def _scrape(watcher: Agent) -> None:
    with contextlib.suppress(OSError, urllib.error.URLError):  # what is wrong shows in the last scrape
        watcher.scrape()
