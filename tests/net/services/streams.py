"""A service with a blocking thread for each connection, whose answers take their time; calls are made on its thread.

    streams.py PORT NEXT RESETS

    /plain/N    one call on a connection that the thread keeps, then the answer
    /slow/N     a call, PAUSE seconds, a call, the answer
    /retry/N    a call to RESETS, a port where connections are reset, then one to NEXT
    /events/N   server-sent events, PAUSE seconds between them, a call in the middle
    /chat/N     a WebSocket: says what it is told until it is told to close

The calls of /plain/7 ask for /plain/7/c0 and so on. PAUSE comes from the environment.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, NEXT, RESETS = (int(a) for a in sys.argv[1:4])
PAUSE = float(os.environ.get("PAUSE", "1"))
EVENTS = 4
kept = threading.local()


def call(path: str, port: int = NEXT) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().read() == b"end"
    connection.close()


def call_kept(path: str) -> None:
    connection = getattr(kept, "connection", None)
    if connection is None:
        connection = kept.connection = http.client.HTTPConnection("127.0.0.1", NEXT, timeout=30)
    connection.request("GET", path)
    assert connection.getresponse().read() == b"end"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one write, where nothing is flushed

    def do_GET(self) -> None:
        getattr(self, self.path.split("/")[1])()

    def answer(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"end")

    def plain(self) -> None:
        call_kept(f"{self.path}/c0")
        self.answer()

    def slow(self) -> None:
        call(f"{self.path}/c0")
        time.sleep(PAUSE)
        call(f"{self.path}/c1")
        self.answer()

    def retry(self) -> None:
        try:
            call(f"{self.path}/c0", RESETS)
        except ConnectionResetError:
            call(f"{self.path}/c1")
        self.answer()

    def events(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(EVENTS):
            if i == EVENTS // 2:
                call(f"{self.path}/c0")
            event = b"data: %03d %s\n\n" % (i, b"x" * 300)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            time.sleep(PAUSE)
        self.wfile.write(b"0\r\n\r\n")

    def chat(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response_only(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.flush()
        while (head := self.rfile.read(2)) and head[0] & 15 != 8:
            mask, data = self.rfile.read(4), self.rfile.read(head[1] & 127)
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
            self.wfile.write(bytes([0x81, len(text)]) + text)
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", PORT), Handler).serve_forever()
