"""A service of tests/net/test_across_hosts.py: NAME ADDRESS PORT [NEXT_ADDRESS NEXT_PORT].

Blocking, a thread for each connection: GET /NAME/ID is answered after the next service has answered GET /NEXT/ID, on a
connection that the thread keeps. Run as a program of its own.
"""

import http.client
import http.server
import socket
import sys
import threading

ORDER = {"a": "b", "b": "c"}
NAME, ADDRESS, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
NEXT = (sys.argv[4], int(sys.argv[5])) if len(sys.argv) > 4 else None
LOCAL = threading.local()


def call(path: str) -> bytes:
    """The next service's answer, on this thread's connection."""
    if not hasattr(LOCAL, "connection"):
        assert NEXT is not None
        LOCAL.connection = http.client.HTTPConnection(*NEXT, timeout=20)
    LOCAL.connection.request("GET", path)
    body: bytes = LOCAL.connection.getresponse().read()
    return body


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        number = self.path.rpartition("/")[2]
        body = NAME.encode()
        if NEXT is not None:
            body += b">" + call(f"/{ORDER[NAME]}/{number}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Server(http.server.ThreadingHTTPServer):
    """With room for a burst."""

    request_queue_size = 128


Server((ADDRESS, PORT), Handler).serve_forever()
