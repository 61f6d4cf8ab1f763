"""Fixtures of the kernel tests: real programs in the running kernel, real system calls, packets beside them.

All need root and a kernel with BTF. The two layouts that load on any current kernel pass the same tests.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pair import Pair
from peer import Peer
from records import Trace
from wire import Wire

from zerospan.exporter.source.capture import Capture, Filters

LAYOUTS = ("sock_length", "sys_exit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root: loads BPF programs"))


@pytest.fixture(params=LAYOUTS, scope="module")
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.stop()


@pytest.fixture
def peers() -> Iterator[Callable[..., Peer]]:
    """Makes further traffic processes; they end with the test."""
    made: list[Peer] = []

    def make(**kwargs: Any) -> Peer:
        made.append(Peer(**kwargs))
        return made[-1]

    yield make
    for peer in made:
        peer.stop()


@pytest.fixture
def load(layout: str) -> Iterator[Callable[..., Trace]]:
    """load(pid=..., port=...) loads the layout with filters, load(ring_bytes=...) with settings."""
    made: list[Capture] = []

    def make(
        ring_bytes: int = 8 << 20,
        payload_bytes: int = 512,
        large_ports: tuple[int, ...] = (),
        self_tgid: int | None = None,
        **filters: Any,
    ) -> Trace:
        chosen = Filters(**filters) if filters else None
        made.append(
            Capture(
                layout,
                ring_bytes=ring_bytes,
                payload_bytes=payload_bytes,
                large_ports=large_ports,
                self_tgid=self_tgid,
                filters=chosen,
            )
        )
        assert made[-1].choice.layout == layout
        return Trace(made[-1])

    yield make
    for capture in made:
        capture.close()


@pytest.fixture(scope="module")
def shared(layout: str, client: Peer, server: Peer) -> Iterator[Trace]:
    capture = Capture(layout, filters=Filters(pid=(client.pid, server.pid)))
    yield Trace(capture)
    capture.close()


@pytest.fixture
def trace(shared: Trace, client: Peer, server: Peer) -> Iterator[Trace]:
    """A capture of the processes `client` and `server`, whatever else runs on the machine."""
    yield shared.fresh()
    client.close_all()
    server.close_all()


@pytest.fixture
def tap() -> Iterator[Callable[[int], Wire]]:
    """tap(port): a packet capture of the loopback device."""
    made: list[Wire] = []

    def make(port: int) -> Wire:
        made.append(Wire(port))
        return made[-1]

    yield make
    for wire in made:
        wire.stop()


@pytest.fixture
def connect(client: Peer, server: Peer, tap: Callable[[int], Wire]) -> Callable[..., Pair]:
    """connect(): a new connection from `client` to `server`, with a packet capture of its port."""

    def make(host: str = "127.0.0.1", dual: str = "") -> Pair:
        return Pair(client, server, tap, host, dual)

    return make
