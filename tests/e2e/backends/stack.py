"""The four back ends together: `Stack` starts a Collector, Tempo, Loki and Prometheus on free loopback ports.

    Collector: OTLP in -> Tempo (traces), Loki (logs), its own log (metrics)
    Prometheus: scrapes the targets given to `Stack(scrape=...)` or `Stack.scrape` each second, exemplars too

Assumes the binaries of build.sh. Used by the session fixture `stack` (../conftest.py), and by people:
`python tests/e2e/backends/stack.py --run [--scrape HOST:PORT]`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import string
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

if __name__ == "__main__":  # started by its path, not as a module of the package
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backends.program import STOP_GRACE_S, Program, ProgramError
from backends.query import Queries, request

HERE = Path(__file__).resolve().parent
BIN = Path(os.environ.get("ZEROSPAN_BACKENDS_CACHE", HERE.parents[2] / ".cache" / "backends")) / "bin"
PROGRAMS = ("tempo", "loki", "prometheus", "otelcol")
PORTS = (
    "tempo_http", "tempo_grpc", "tempo_otlp_grpc", "tempo_otlp_http",
    "loki_http", "loki_grpc",
    "prometheus_http",
    "collector_otlp_grpc", "collector_otlp_http", "collector_metrics",
)  # fmt: skip
START_S = 60.0
STOPPED = "http://127.0.0.1:9"  # discard: where the URLs point while nothing runs


def missing() -> list[str]:
    """Names of the programs (promtool included) that build.sh has not brought yet."""
    return [name for name in (*PROGRAMS, "promtool") if not os.access(BIN / name, os.X_OK)]


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that nobody listens on at 127.0.0.1 now.

    From below the range that the kernel gives to outgoing connections (ip_local_port_range starts at 32768),
    so that none of those takes the port before the program does."""
    with_sockets: list[socket.socket] = []
    try:
        for port in random.sample(range(20000, 32000), 12000):
            candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                candidate.close()
                continue
            with_sockets.append(candidate)
            if len(with_sockets) == count:
                return [held.getsockname()[1] for held in with_sockets]
        raise ProgramError(f"no {count} free TCP ports in 20000..31999 on 127.0.0.1; see: ss -ltn")
    finally:
        for held in with_sockets:
            held.close()


class Stack(Queries):
    """Context manager: runs the four back ends and asks them (the methods of `Queries`).

    `scrape`: HOST:PORT of each target of Prometheus. `data`: folder for data, configurations and logs;
    without it a temporary one that disappears with the stack. Addresses are attributes:
    `tempo_url`, `loki_url`, `prometheus_url` (query APIs; Loki's push API too), `tempo_otlp_http`,
    `collector_otlp_http` (http://HOST:PORT, without /v1/traces), `tempo_otlp_grpc`, `collector_otlp_grpc`
    (HOST:PORT), `collector_metrics_url`. `__enter__` raises ProgramError if one does not become ready.
    """

    def __init__(
        self, scrape: Sequence[str] = (), data: Path | None = None, start_s: float = START_S
    ) -> None:
        super().__init__(STOPPED, STOPPED, STOPPED)
        self.tempo_otlp_http = self.collector_otlp_http = self.collector_metrics_url = STOPPED
        self.tempo_otlp_grpc = self.collector_otlp_grpc = STOPPED.removeprefix("http://")
        self.programs: list[Program] = []
        self._targets = list(scrape)
        self._given = data
        self._data: Path | None = None
        self._start_s = start_s

    @property
    def data(self) -> Path:
        """The folder with data, configurations (NAME.yaml) and logs (NAME.log) of the running stack."""
        if self._data is None:
            raise RuntimeError("the stack does not run")
        return self._data

    @property
    def pids(self) -> dict[str, int]:
        """Process id by program name."""
        return {program.name: program.pid for program in self.programs}

    @property
    def ready_s(self) -> dict[str, float]:
        """Seconds until each program was ready, by name."""
        return {program.name: program.ready_s for program in self.programs if program.ready_s is not None}

    def __enter__(self) -> Self:
        if absent := missing():
            raise ProgramError(
                f"not in {BIN}: {', '.join(absent)}; bring them with: make e2e-backends (or {HERE}/build.sh)"
            )
        if self._given is None:
            self._data = Path(tempfile.mkdtemp(prefix="zerospan-backends-"))
        else:
            self._data = self._given
            self._data.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop()

    def flush(self) -> None:
        """Makes Tempo complete its block now. Call it once all spans were sent: a structural TraceQL query
        sees parts of a trace that came seconds apart as one trace only in a completed block."""
        request(f"{self.tempo_url}/flush")

    def scrape(self, targets: Sequence[str], *, honor_labels: bool = False) -> None:
        """Gives Prometheus these targets (HOST:PORT) instead of the former; it takes them up within 5 s.

        honor_labels: `job` and `instance` are the services' own; else these are `exported_job`, `exported_instance`.
        """
        self._targets = list(targets)
        groups = [{"targets": self._targets}] if self._targets else []
        for name, mine in (("targets.json", not honor_labels), ("honored.json", honor_labels)):
            new = self.data / f"{name}.new"
            new.write_text(json.dumps(groups if mine else []))
            new.replace(self.data / name)  # Prometheus watches the folder and must not read half a file

    def _start(self) -> None:
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self.tempo_url = f"http://{addresses['tempo_http']}"
        self.tempo_otlp_http = f"http://{addresses['tempo_otlp_http']}"
        self.tempo_otlp_grpc = addresses["tempo_otlp_grpc"]
        self.loki_url = f"http://{addresses['loki_http']}"
        self.prometheus_url = f"http://{addresses['prometheus_http']}"
        self.collector_otlp_http = f"http://{addresses['collector_otlp_http']}"
        self.collector_otlp_grpc = addresses["collector_otlp_grpc"]
        self.collector_metrics_url = f"http://{addresses['collector_metrics']}/metrics"
        for name in PROGRAMS:
            template = string.Template((HERE / f"{name}.yaml").read_text())
            (self.data / f"{name}.yaml").write_text(template.substitute(ports, data=self.data))
        self.scrape(self._targets)

        def config(name: str) -> str:
            return str(self.data / f"{name}.yaml")

        self.programs = [
            self._program("tempo", [f"-config.file={config('tempo')}"], _get(f"{self.tempo_url}/ready")),
            self._program("loki", [f"-config.file={config('loki')}"], _get(f"{self.loki_url}/ready")),
            self._program(
                "prometheus",
                [
                    f"--config.file={config('prometheus')}",
                    f"--storage.tsdb.path={self.data / 'prometheus'}",
                    f"--web.listen-address={addresses['prometheus_http']}",
                    "--web.enable-remote-write-receiver",
                    "--enable-feature=exemplar-storage",
                    "--log.level=warn",
                ],
                _get(f"{self.prometheus_url}/-/ready"),
            ),
            # The Collector's core has no health endpoint: it is ready when its receiver takes an empty one.
            self._program(
                "otelcol",
                [f"--config={config('otelcol')}"],
                _post_empty(f"{self.collector_otlp_http}/v1/traces"),
            ),
        ]
        deadline = time.monotonic() + self._start_s
        for program in self.programs:
            program.start()
        waiting = list(self.programs)
        while waiting := [program for program in waiting if not program.ready()]:
            if time.monotonic() > deadline:
                raise ProgramError(
                    "\n".join(one.describe(f"not ready within {self._start_s:g} s") for one in waiting)
                )
            time.sleep(0.1)

    def _program(self, name: str, arguments: list[str], probe: Callable[[], str | None]) -> Program:
        # Once it was asked something, Tempo's query queue does not end on SIGTERM. Its data is on disk.
        grace_s = 1.0 if name == "tempo" else STOP_GRACE_S
        return Program(name, [str(BIN / name), *arguments], self.data / f"{name}.log", probe, grace_s)

    def _stop(self) -> None:
        for program in reversed(self.programs):
            program.stop()
        self.programs = []
        if self._given is None and self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
        self._data = None


def _get(url: str) -> Callable[[], str | None]:
    return lambda: _answers(lambda: request(url))


def _post_empty(url: str) -> Callable[[], str | None]:
    return lambda: _answers(lambda: request(url, body=b"{}", headers={"Content-Type": "application/json"}))


def _answers(ask: Callable[[], bytes]) -> str | None:
    try:
        ask()
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read(500).decode(errors='replace').strip()}"
    except OSError as error:
        return str(error)
    return None


def _describe(stack: Stack, targets: Sequence[str]) -> None:
    loki = f"{stack.loki_url}/loki/api/v1"
    rows = [
        ("OTLP to the Collector", f"{stack.collector_otlp_http} (HTTP), {stack.collector_otlp_grpc} (gRPC)"),
        ("OTLP to Tempo", f"{stack.tempo_otlp_http} (HTTP), {stack.tempo_otlp_grpc} (gRPC)"),
        ("TraceQL", f"{stack.tempo_url}/api/search?q=%7B%7D"),
        ("Loki push, LogQL", f"{loki}/push, {loki}/query_range"),
        ("Prometheus", f"{stack.prometheus_url} scrapes {', '.join(targets) or 'nothing (--scrape)'}"),
        ("Collector's own metrics", stack.collector_metrics_url),
        ("data and logs", str(stack.data)),
    ]
    for program in stack.programs:
        cost = f"ready after {stack.ready_s[program.name]:.1f} s, {program.rss_bytes >> 20} MiB"
        rows.append((program.name, f"pid {program.pid}, {cost}"))
    for name, value in rows:
        print(f"{name:24} {value}")


def main() -> int:
    """Runs the stack in the foreground until SIGINT or SIGTERM. Exit status 1 if it does not start."""
    parser = argparse.ArgumentParser(description="Collector, Tempo, Loki and Prometheus on loopback.")
    parser.add_argument("--run", action="store_true", required=True, help="run until Ctrl-C")
    parser.add_argument(
        "--scrape",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help="a target for Prometheus (repeatable)",
    )
    parser.add_argument("--data", type=Path, help="folder for data and logs (default: a temporary one)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stack(scrape=arguments.scrape, data=arguments.data) as stack:
            _describe(stack, arguments.scrape)
            print("Ctrl-C stops them.", flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except ProgramError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
