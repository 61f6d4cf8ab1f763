"""A node's enricher behind one of cluster scope: what it was told is what its store says, whoever told it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from enricher_kit import SECOND, T0, free_port, serving, until

from zerospan.enricher import keys
from zerospan.enricher.config.model import Upstream
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore
from zerospan.enricher.upstream import LAYER, UpstreamSource

KEY = keys.address("10.0.0.5")
Told = tuple[str, int, int]  # service, since and until in seconds after T0; 0: open


def cluster(*bindings: Told) -> TagStore:
    """A replica that knows the key by these bindings."""
    store = TagStore()
    for name, since, end in bindings:
        store.put(
            KEY,
            store.make({"service.name": name}),
            layer=Layer.KUBERNETES,
            since_ns=T0 + since * SECOND,
            until_ns=T0 + end * SECOND if end else 0,
        )
    return store


def said(store: TagStore) -> list[tuple[str | None, int, int]]:
    return [(p.tags.get("service.name"), p.since_ns, p.until_ns) for p in store.pieces(KEY)]


@contextlib.contextmanager
def following(store: TagStore, port: int) -> Iterator[UpstreamSource]:
    made = UpstreamSource(store, Upstream(address=f"127.0.0.1:{port}"), "n1")
    made.start()
    made.want([KEY])
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    "replicas",
    [
        ([("b", 100, 0)], [("b", 50, 0)], [("b", 50, 200)]),
        ([("b", 1, 100), ("c", 100, 0)], [("b", 1, 0)]),
        ([("b", 1, 100), ("c", 100, 0)], [("b", 1, 200)]),
        ([("b", 1, 0)], [("c", 1, 0)], [("c", 1, 20), ("b", 30, 0)]),
    ],
)
def test_what_another_replica_tells_replaces_what_was_told(replicas: tuple[list[Told], ...]) -> None:
    """Each has times of its own for the same thing: none of the earlier one's may stay open."""
    store, port = TagStore(), free_port()
    with following(store, port):
        for bindings in replicas:
            there = cluster(*bindings)
            with serving(there, [f"127.0.0.1:{port}"]):
                until(lambda there=there: said(store)[-1:] == said(there)[-1:])
                first = said(there)[0][1]
                assert [piece for piece in said(store) if piece[1] >= first] == said(there)


def test_a_correction_by_the_same_replica() -> None:
    store, there, port = TagStore(), cluster(("b", 100, 0)), free_port()
    tags = there.make({"service.name": "b"})
    with serving(there, [f"127.0.0.1:{port}"]), following(store, port):
        until(lambda: said(store) == said(there))
        there.put(KEY, tags, layer=Layer.KUBERNETES, since_ns=T0 + 50 * SECOND)
        until(lambda: said(store) == said(there) == [("b", T0 + 50 * SECOND, 0)])
        there.end(KEY, layer=Layer.KUBERNETES, at_ns=T0 + 200 * SECOND)
        until(lambda: said(store) == said(there))


def test_the_nodes_own_key_stays_its_own_while_it_is_asked_for() -> None:
    store, there, port = TagStore(), TagStore(), free_port()
    there.put(KEY, there.make({"service.name": "b"}), layer=Layer.KUBERNETES, since_ns=T0, node="n1")
    with serving(there, [f"127.0.0.1:{port}"]):
        made = UpstreamSource(store, Upstream(address=f"127.0.0.1:{port}"), "n1")
        made.start()
        try:
            until(lambda: said(store) == said(there))
            made.want([KEY])
            there.put(KEY, there.make({"service.name": "c"}), layer=Layer.KUBERNETES, since_ns=T0, node="n1")
            until(lambda: said(store) == said(there))
            made.drop([KEY])
            assert said(store) == said(there) and store.node_of(KEY) == {"n1"}
        finally:
            made.stop()


def test_replace() -> None:
    store = TagStore()
    b, c, os = (store.make({"service.name": name}) for name in "bco")
    store.put(KEY, os, layer=Layer.OS, since_ns=7)
    assert store.replace(KEY, [(b, 10, 20), (c, 20, 0)], layer=LAYER, node="n1")
    revision = store.revision
    assert not store.replace(KEY, [(b, 10, 20), (c, 20, 0)], layer=LAYER, node="n1") and store.revision == revision
    assert store.replace(KEY, [(b, 15, 0)], layer=LAYER, node="n1")
    assert said(store) == [("o", 7, 10), ("b", 10, 0)] and store.of_node("n1") == [KEY]
    assert store.replace(KEY, [(b, 15, 30)], layer=LAYER)
    assert said(store) == [("o", 7, 10), ("b", 10, 30), ("o", 30, 0)]
    assert store.replace(KEY, [(c, 5, 6)], layer=LAYER) and said(store) == [("c", 5, 6), ("o", 7, 0)]
    assert store.of_node("n1") == []


def test_replace_finds_no_room() -> None:
    store = TagStore(max_keys=1)
    b = store.make({"service.name": "b"})
    store.put(keys.address("10.0.0.6"), b, layer=LAYER, since_ns=1)
    assert not store.replace(KEY, [(b, 1, 0)], layer=LAYER) and store.refused == 1 and not store.pieces(KEY)
