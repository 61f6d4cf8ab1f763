"""A connection between two traffic processes, with a packet capture beside it."""

from collections.abc import Callable

from peer import Peer
from records import End, Trace
from wire import Wire

REQUEST = b"GET /7 HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\n\r\n"


class Pair:
    """client, server: the processes; c, s: their descriptors; wire: the packets of the server's port."""

    def __init__(self, client: Peer, server: Peer, tap: Callable[[int], Wire], host: str, dual: str = "") -> None:
        self.client, self.server = client, server
        self.listener, self.port = server.listen("::" if dual else host, dual=bool(dual))
        self.wire = tap(self.port)
        self.c, self.client_port = client.connect(dual or host, self.port)
        self.s = server.accept(self.listener)

    def ends(self, trace: Trace) -> tuple[End, End]:
        """(client's end, server's end)"""
        trace.drain()
        return trace.end(self.client_port, self.port), trace.end(self.port, self.client_port)

    def exchange(self, request: bytes = REQUEST, answer: bytes = ANSWER) -> None:
        """One request and its answer, by the plainest calls."""
        self.client.send(self.c, request)
        self.server.recv_all(self.s, len(request))
        self.server.send(self.s, answer)
        self.client.recv_all(self.c, len(answer))

    def close(self) -> None:
        self.client.close(self.c)
        self.server.close(self.s)
