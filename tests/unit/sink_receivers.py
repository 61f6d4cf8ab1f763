"""Receivers on loopback for the tests of the sinks, and certificates (made by openssl at test time)."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6
from ssl import CERT_REQUIRED, PROTOCOL_TLS_SERVER, SSLContext

from zerospan.exporter.sinks.base import Batch, Signal, SinkStats


def batch(payload: bytes = b"x", count: int = 1, signal: Signal = "traces") -> Batch:
    return Batch(payload, count, signal, time.time_ns())


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Polls until `condition()` holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.002)


def balanced(stats: SinkStats) -> bool:
    """The ledger: whatever was put is sent, dropped or queued."""
    return stats.put_items == stats.sent_items + sum(stats.dropped.values()) + stats.queued_items


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes
    client: tuple[str, int]


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Receiver:
    """An HTTP server that keeps the requests and gives the answers of `script`, then 200 for ever."""

    def __init__(self, tls: SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.requests: list[Request] = []
        self.script: list[Answer | Callable[[BaseHTTPRequestHandler], None]] = []
        self.gate = threading.Event()  # cleared: answers wait
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {k.lower(): v for k, v in self.headers.items()}
                outer.requests.append(Request(self.path, headers, body, self.client_address))
                outer.gate.wait(20)
                step = outer.script.pop(0) if outer.script else Answer()
                if callable(step):
                    step(self)
                    return
                self.send_response(step.status)
                for name, value in step.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(step.body)))
                self.end_headers()
                self.wfile.write(step.body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = AF_INET6 if ":" in host else AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that break off are part of the tests

        self.server = Server((host, port), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.scheme = "https" if tls is not None else "http"
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}" if self.scheme == "https" else f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def receiver(tls: SSLContext | None = None) -> Iterator[Receiver]:
    made = Receiver(tls)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Certificates:
    """A CA, a server certificate for localhost, a client certificate; a second CA that signed nothing."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str
    other_ca: str

    def server_context(self, client_needed: bool) -> SSLContext:
        context = SSLContext(PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_cert, self.server_key)
        if client_needed:
            context.verify_mode = CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def make_certificates(folder: Path) -> Certificates:
    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "other"):
        openssl(
            "req",
            "-x509",
            *ec,
            "-keyout",
            f"{ca}.key",
            "-out",
            f"{ca}.pem",
            "-days",
            "2",
            "-subj",
            f"/CN={ca}",
        )
    for name in ("server", "client"):
        openssl("req", *ec, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "ext"),
        )
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key", "other.pem")
    return Certificates(*(str(folder / name) for name in names))
