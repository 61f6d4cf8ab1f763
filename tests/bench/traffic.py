"""The watched pair: nginx with one worker on one core, wrk or the fixed-rate client on the other.

nginx answers as cheaply as it can (sendfile, tcp_nopush, open_file_cache, no access log), so that what is
added weighs most.
"""

import contextlib
import grp
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import (
    OTHER_CORE,
    SERVER_CORE,
    BenchError,
    cpu_ns,
    measure,
    measure_json,
    program,
    running,
    wait_for,
)

CONNECTIONS = 32
FILE_BYTES = 1024
PATH = "/f.html"

CONFIG = """
daemon off;
user {user} {group};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=100 inactive=1h;
    open_file_cache_valid 1h;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
    }}
}}
"""


@dataclass
class Load:
    """One run of wrk. Times in us."""

    requests: int
    rps: float
    p50_us: float
    p99_us: float
    server_us: float  # CPU of nginx's worker for one request


@dataclass
class Nginx:
    """A running nginx: its port and its worker's process id."""

    port: int
    worker: int

    def wrk(self, seconds: int) -> Load:
        """CONNECTIONS connections as fast as they go, for whole seconds."""
        command = [program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
        before = cpu_ns(self.worker)
        out = measure(OTHER_CORE, [*command, f"http://127.0.0.1:{self.port}{PATH}"], seconds + 20)
        took = cpu_ns(self.worker) - before
        return parse_wrk(out, took)

    def fixed_rate(self, load: str, rate: float, seconds: float) -> dict[str, Any]:
        """The client of load.c, after 0.3 s that do not count."""
        command = [load, str(self.port), PATH, str(CONNECTIONS), f"{rate:.0f}", str(seconds), "0.3"]
        return measure_json(OTHER_CORE, command, seconds + 20)


def parse_wrk(out: str, server_ns: int) -> Load:
    """wrk's output. BenchError if there were errors: then the figures mean nothing."""
    wrong = re.search(r"Socket errors:.*|Non-2xx.*", out)
    total = re.search(r"(\d+) requests in", out)
    rps = re.search(r"Requests/sec:\s+([\d.]+)", out)
    at = {share: re.search(rf"\n\s+{share}%\s+([\d.]+)(us|ms|s)", out) for share in (50, 99)}
    if wrong or total is None or rps is None or None in at.values() or not int(total[1]):
        raise BenchError(f"wrk: {wrong[0] if wrong else 'no figures in its output: ' + out[:200]!r}")
    unit = {"us": 1.0, "ms": 1e3, "s": 1e6}
    p50, p99 = (float(m[1]) * unit[m[2]] for m in at.values() if m is not None)
    n = int(total[1])
    return Load(n, float(rps[1]), p50, p99, server_ns / 1e3 / n)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Nginx]:
    """nginx in the foreground, everything it writes below `folder`, which others must be able to enter."""
    port = free_port()
    nobody = pwd.getpwnam("nobody")
    (folder / "www").mkdir()
    (folder / "www" / PATH.lstrip("/")).write_bytes(b"x" * FILE_BYTES)
    config = folder / "nginx.conf"
    group = grp.getgrgid(nobody.pw_gid).gr_name
    config.write_text(CONFIG.format(folder=folder, port=port, user=nobody.pw_name, group=group))
    log = folder / "error.log"
    command = [program("nginx"), "-p", str(folder), "-e", str(log), "-c", str(config)]
    with (
        (folder / "nginx.out").open("w") as out,
        running(SERVER_CORE, command, stdout=out, stderr=subprocess.STDOUT) as process,
    ):

        def up() -> bool:
            if process.poll() is not None:
                raise BenchError(f"nginx does not start: {(folder / 'nginx.out').read_text().strip()}")
            return answers(port) and len(children(process.pid)) == 1

        wait_for("nginx", up, 10)
        yield Nginx(port, children(process.pid)[0])
