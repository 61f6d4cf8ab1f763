"""Memory of the agent: at its start, and under full load for a minute; BPF maps included."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from bench_agent import Account, agent
from traffic import Nginx

EVERY_S = 2.0


@dataclass
class Memory:
    """MB (10^6 bytes): process, maps, programs, total; see Agent.memory_mb."""

    start: dict[str, float]
    end: dict[str, float]
    peak_mb: float
    account: Account


@dataclass
class _Wrk:
    """wrk in a thread of its own; its failure is raised by the one who waits for it."""

    nginx: Nginx
    seconds: int
    requests: int = 0
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        try:
            self.requests = self.nginx.wrk(self.seconds).requests
        except Exception as e:
            self.error = e
        finally:
            self.done.set()


def run(nginx: Nginx, folder: Path, sink: str, seconds: int) -> Memory:
    """Loads nginx for so many seconds; the last figures are taken while the load still runs."""
    with agent(folder, sink) as watcher:
        start = watcher.memory_mb()
        wrk = _Wrk(nginx, seconds)
        threading.Thread(target=wrk, daemon=True).start()
        samples = [start]
        while not wrk.done.wait(min(EVERY_S, seconds / 4)):
            samples.append(watcher.memory_mb())
        if wrk.error is not None:
            raise wrk.error
        watcher.drain(2 * wrk.requests)
        account = watcher.stop()
        account.judge(wrk.requests, 1)
    return Memory(start, samples[-1], max(s["total"] for s in samples), account)
