"""The tag service over real gRPC: snapshots, changes, asked-for keys, resuming, slow subscribers."""

import ipaddress
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from enricher_kit import SECOND, T0, Follower, free_port, put_pod, serving, tcp, until

from zerospan.enricher import client as client_module
from zerospan.enricher import keys
from zerospan.enricher.client import SERVICE, WATCH, resolve
from zerospan.enricher.fanout import ALL_NODES, Fanout, TooMuch
from zerospan.enricher.source import Layer
from zerospan.enricher.store import Piece, TagStore
from zerospan.enricher.wire import tags_pb2 as pb


def test_a_node_is_told_its_keys_and_no_others() -> None:
    store = TagStore()
    mine = put_pod(store, "n1", "cart", "10.0.0.7")
    other = put_pod(store, "n2", "pay", "10.0.0.8")
    everywhere = keys.address("10.96.0.1")
    store.put(
        everywhere, store.make({"k8s.service.name": "kubernetes"}), layer=Layer.KUBERNETES, since_ns=T0, node=ALL_NODES
    )
    store.put(keys.node("n1"), store.make({"k8s.node.name": "n1"}), layer=Layer.KUBERNETES, since_ns=T0)
    with serving(store) as service, Follower(tcp(service), "n1") as f:
        until(lambda: f.client.stats().in_sync)
        assert set(f.mirror.bindings) == {*mine, everywhere, keys.node("n1")}
        assert not f.differs(store)
        tags = f.find(mine[2])
        assert tags is not None and tags["k8s.pod.name"] == "cart" and tags["k8s.cluster.name"] == "test"
        assert f.find(other[0]) is None


def test_changes_are_told_within_a_second() -> None:
    store = TagStore()
    with serving(store) as service, Follower(tcp(service), "n1") as f:
        until(lambda: f.client.stats().in_sync)
        made = put_pod(store, "n1", "cart", "10.0.0.7")
        began = time.monotonic()
        until(lambda: f.find(made[0]))
        assert time.monotonic() - began < 1
        store.end(made[0], layer=Layer.KUBERNETES)
        until(lambda: f.mirror.bindings[made[0]][0][2])
        assert not f.differs(store)


def test_a_key_that_moves_is_told_to_both_nodes_and_then_forgotten() -> None:
    store = TagStore(keep_s=0)
    old = put_pod(store, "n1", "cart", "10.0.0.7")
    with serving(store) as service, Follower(tcp(service), "n1") as f1, Follower(tcp(service), "n2") as f2:
        until(lambda: f1.find(old[0]) and f2.client.stats().in_sync)
        put_pod(store, "n2", "pay", "10.0.0.7", since_ns=T0 + 60 * SECOND)
        until(lambda: (f2.find(old[0]) or {}).get("service.name") == "pay")
        until(lambda: (f1.find(old[0]) or {}).get("service.name") == "pay")
        assert f1.mirror.find(old[0], T0 + SECOND) is not None  # its past is known at both
        store.end(old[1], layer=Layer.KUBERNETES)
        store.sweep()
        until(lambda: old[1] not in f1.mirror.bindings)
        assert not f1.differs(store) and not f2.differs(store)


def test_asked_for_keys_are_answered_also_when_unknown_and_followed_until_dropped() -> None:
    store = TagStore()
    asked, told = [], []
    far = keys.address("10.9.9.9")
    with (
        serving(store, on_want=asked.extend, on_drop=told.extend) as service,
        Follower(tcp(service), "n1") as f,
        Follower(tcp(service), "n2") as g,
    ):
        f.want([far])
        until(lambda: f.mirror.bindings.get(far) == [])
        g.want([far])
        until(lambda: g.mirror.bindings.get(far) == [])
        assert asked.count(far) == 1
        put_pod(store, "n9", "db", "10.9.9.9")
        until(lambda: f.find(far) and g.find(far))
        f.drop([far])
        until(lambda: service.stats().wanted == 3)  # both nodes' own keys and g's
        assert far not in told
        put_pod(store, "n9", "db", "10.9.9.9", since_ns=T0 + SECOND, more="other")
        until(lambda: (g.find(far) or {}).get("service.name") == "other")
        assert (f.find(far) or {}).get("service.name") == "db"
        g.drop([far])
        until(lambda: far in told)


def test_a_range_is_told_to_those_who_asked_for_an_unknown_address() -> None:
    store = TagStore()
    far = keys.address("10.9.9.9")
    with serving(store) as service, Follower(tcp(service), "n1") as f:
        f.want([far])
        until(lambda: f.mirror.bindings.get(far) == [])
        store.put_range(ipaddress.ip_network("10.9.0.0/16"), store.make({"zerospan.range.name": "RDS"}))
        until(lambda: (f.find(far) or {}).get("zerospan.range.name") == "RDS")
        assert not f.differs(store)


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        (keys.process("n1", 1), keys.process("n1", 2)),
        (keys.connection("10.0.0.7", 40000, "10.96.0.9", 80), keys.connection("10.0.0.7", 40001, "10.96.0.9", 80)),
    ],
)
def test_kinds_that_a_source_answers_for(known: bytes, unknown: bytes) -> None:
    store = TagStore()
    base = store.make({"k8s.node.name": "n1"})
    asked: list[tuple[bytes, int]] = []

    def pieces(key: bytes, at_ns: int) -> list[Piece]:
        asked.append((key, at_ns))
        return [Piece(store.make({"service.name": "cart"}, base), T0, 0)] if key == known else []

    with serving(store, answers={known[:1]: pieces}) as service, Follower(tcp(service), "n1") as f:
        f.want([known, unknown])
        wanted = {"service.name": "cart", "k8s.node.name": "n1"}
        until(lambda: f.find(known) == wanted and f.mirror.bindings.get(unknown) == [])
        f.drop([known])
        f.want([known])
        until(lambda: asked.count((known, 0)) == 2)  # asked anew, not from a cache
        update = resolve(tcp(service), [known, unknown], at_ns=T0 + 1)
        (found, none) = update.bindings
        assert [p.set for p in found.pieces] == [store.make({"service.name": "cart"}, base).id]
        assert not none.pieces and {s.id for s in update.sets} == {found.pieces[0].set, base.id}
        assert not resolve(tcp(service), [known], at_ns=T0 - 1).bindings[0].pieces  # it was not there yet
        assert asked[-3:] == [(known, T0 + 1), (unknown, T0 + 1), (known, T0 - 1)]


def test_reconnect_resumes_with_what_changed() -> None:
    store = TagStore()
    kept = put_pod(store, "n1", "cart", "10.0.0.7")
    gone = put_pod(store, "n1", "old", "10.0.0.9")
    far = keys.address("10.9.9.9")
    port = free_port()
    with Follower(f"127.0.0.1:{port}", "n1") as f:
        with serving(store, [f"127.0.0.1:{port}"]):
            f.want([far])
            until(lambda: f.client.stats().in_sync and far in f.mirror.bindings)
        until(lambda: not f.client.stats().connected)
        new = put_pod(store, "n1", "pay", "10.0.0.8")
        put_pod(store, "n9", "db", "10.9.9.9")
        store.end(gone[0], layer=Layer.KUBERNETES)
        before = f.client.stats()
        with serving(store, [f"127.0.0.1:{port}"]) as service:
            until(lambda: f.find(new[2]) and f.find(far) and f.client.stats().in_sync)
            stats = f.client.stats()
            assert stats.resets == before.resets and service.stats().resumed == 1
            assert stats.bindings - before.bindings <= 8  # new pod 3, ended 1, asked for 1, node 1, not of this node 2
            assert f.find(kept[0])
            assert not f.differs(store)


def test_who_asks_again_is_told_everything_by_a_new_stream() -> None:
    """Nothing has failed, though sets that the first stream told were let go."""
    store = TagStore()
    pod = put_pod(store, "n1", "cart", "10.0.0.7")
    port = free_port()
    with serving(store, [f"127.0.0.1:{port}"]), Follower(f"127.0.0.1:{port}", "n1") as f:
        until(lambda: f.find(pod[0]) and f.client.stats().in_sync)
        with f.lock:
            f.mirror.forget()
        f.client.again()
        until(lambda: f.find(pod[0]) and f.client.stats().resets == 2)
        stats = f.client.stats()
        assert (stats.connections, stats.failures, stats.handler_errors) == (2, 0, 0)
        assert not f.differs(store)


def test_another_epoch_begins_anew() -> None:
    first, second = TagStore(), TagStore(clock=lambda: time.time_ns() + 1)
    old = put_pod(first, "n1", "cart", "10.0.0.7")
    new = put_pod(second, "n1", "pay", "10.0.0.8")
    far = keys.address("10.9.9.9")
    put_pod(second, "n9", "db", "10.9.9.9")
    port = free_port()
    with Follower(f"127.0.0.1:{port}", "n1") as f:
        f.want([far])
        with serving(first, [f"127.0.0.1:{port}"]):
            until(lambda: f.find(old[0]) and far in f.mirror.bindings)
        with serving(second, [f"127.0.0.1:{port}"]):
            until(lambda: f.find(new[0]) and f.find(far))
            assert f.find(old[0]) is None
            assert not f.differs(second)
            assert f.client.stats().epoch == second.epoch


def test_thousands_of_keys_and_asked_for_keys() -> None:
    store = TagStore()
    with store.batch():
        for i in range(1500):
            put_pod(store, "n1", f"p{i}", f"10.1.{i >> 8}.{i & 255}")
            put_pod(store, "n2", f"q{i}", f"10.2.{i >> 8}.{i & 255}")
    remote = [keys.address(f"10.2.{i >> 8}.{i & 255}") for i in range(3000)]
    with serving(store) as service, Follower(tcp(service), "n1") as f:
        f.want(remote)
        until(lambda: f.client.stats().in_sync and all(k in f.mirror.bindings for k in remote))
        assert not f.differs(store)
        assert sum(1 for k in remote if f.mirror.bindings[k]) == 1500
        assert service.stats().messages > 1  # in pieces


def test_more_changes_than_the_store_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    from zerospan.enricher import store as store_module

    monkeypatch.setattr(store_module, "LOG", 100)
    store = TagStore()
    gone = put_pod(store, "n1", "old", "10.0.0.9")
    with serving(store) as service, Follower(tcp(service), "n1") as f:
        until(lambda: f.find(gone[0]))
        with store.batch():
            for i in range(200):
                put_pod(store, "n1", f"p{i}", f"10.1.0.{i}")
        until(lambda: not f.differs(store))
        assert f.client.stats().resets == 2
        assert service.stats().snapshots == 2


def test_in_sync_follows_the_sources() -> None:
    store = TagStore()
    synced = threading.Event()
    with serving(store, in_sync=synced.is_set) as service, Follower(tcp(service), "n1") as f:
        until(lambda: f.client.stats().connected)
        assert not f.client.stats().in_sync
        synced.set()
        until(lambda: f.client.stats().in_sync)


def test_heartbeats_keep_the_revision_new() -> None:
    store = TagStore()
    with serving(store, heartbeat_s=0.05) as service, Follower(tcp(service), "n1") as f:
        until(lambda: f.client.stats().in_sync)
        put_pod(store, "n2", "pay", "10.0.0.8")  # not its affair
        until(lambda: f.client.stats().revision == store.revision)
        assert f.client.stats().silent_s < 5


def test_a_stream_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SILENCE_S", 0.3)
    store = TagStore()
    key = put_pod(store, "n1", "cart", "10.0.0.7")[0]
    with serving(store, heartbeat_s=1000) as service, Follower(tcp(service), "n1") as f:
        until(lambda: service.stats().streams >= 2)
        until(lambda: f.client.stats().failures and f.find(key))
        assert f.client.stats().resets == 1  # it resumed


def test_a_failure_in_handing_out_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TagStore()
    with serving(store) as service, Follower(tcp(service), "n1") as f:
        until(lambda: f.client.stats().in_sync)
        mark, fails = service._fanout._mark, [True]

        def once(key: bytes) -> None:
            if fails:
                fails.clear()
                raise RuntimeError("planted")
            mark(key)

        monkeypatch.setattr(service._fanout, "_mark", once)
        made = put_pod(store, "n1", "cart", "10.0.0.7")
        until(lambda: f.find(made[2]))
        assert not f.differs(store) and not fails


def _raw(address: str) -> tuple[grpc.Channel, Any]:
    options = [
        ("grpc.http2.lookahead_bytes", 65536),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    channel = grpc.insecure_channel(address, options)
    return channel, channel.stream_stream(WATCH, pb.WatchRequest.SerializeToString, pb.TagUpdate.FromString)


def test_one_who_does_not_read_is_cut_and_the_others_go_on() -> None:
    store = TagStore()
    with store.batch():
        for i in range(3000):
            put_pod(store, "n1", f"p{i}-{'x' * 300}", f"10.1.{i >> 8}.{i & 255}")
    asked = threading.Event()

    def requests() -> Any:
        yield pb.WatchRequest(open=pb.Open(node="n1"))
        asked.wait(60)

    with serving(store, stall_s=1.0) as service, Follower(tcp(service), "n1") as f:
        channel, watch = _raw(tcp(service))
        call = watch(requests())
        until(lambda: service.stats().cut.get("stalled"))
        until(lambda: service.stats().subscribers == 1)
        until(lambda: f.client.stats().in_sync)
        new = put_pod(store, "n1", "new", "10.3.0.1")
        until(lambda: f.find(new[0]))
        assert not f.differs(store)
        with pytest.raises(grpc.RpcError) as e:
            for _ in call:
                pass
        assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        asked.set()
        channel.close()


def test_one_who_does_not_read_does_not_hold_up_the_end() -> None:
    store = TagStore()
    with store.batch():
        for i in range(2000):
            put_pod(store, "n1", f"p{i}-{'x' * 300}", f"10.1.{i >> 8}.{i & 255}")
    ended = threading.Event()

    def requests() -> Any:
        yield pb.WatchRequest(open=pb.Open(node="n1"))
        ended.wait(60)

    channel = None
    with serving(store) as service:
        channel, watch = _raw(tcp(service))
        call = watch(requests())
        until(lambda: any(s.writing for s in list(service._streams.values())))
        began = time.monotonic()
    assert time.monotonic() - began < 3
    ended.set()
    call.cancel()
    channel.close()


def test_one_who_opens_and_says_nothing_is_ended() -> None:
    ended = threading.Event()

    def requests() -> Any:
        ended.wait(60)
        return
        yield

    with serving(TagStore(), stall_s=1.0) as service:
        channel, watch = _raw(tcp(service))
        with pytest.raises(grpc.RpcError) as e:
            list(watch(requests()))
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        ended.set()
        channel.close()


def test_what_waits_for_a_subscriber_is_bounded() -> None:
    store = TagStore()
    asked = threading.Event()

    def requests() -> Any:
        yield pb.WatchRequest(open=pb.Open(node="n1"))
        asked.wait(60)

    with serving(store, stream_bytes=4096) as service:
        channel, watch = _raw(tcp(service))
        call = watch(requests())
        next(call)
        with store.batch():
            for i in range(100):
                put_pod(store, "n1", f"p{i}", f"10.1.0.{i}")
        with pytest.raises(grpc.RpcError) as e:
            for _ in call:
                pass
        assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert service.stats().cut == {"slow": 1}
        asked.set()
        channel.close()


def test_sets_of_a_stream_are_bounded() -> None:
    store = TagStore()
    with serving(store, max_sets=60) as service, Follower(tcp(service), "n1") as f:
        for i in range(300):
            put_pod(store, "n1", "cart", "10.0.0.7", since_ns=T0 + i, more=f"name{i}")
            if i % 50 == 0:
                until(lambda: not f.differs(store))
        until(lambda: not f.differs(store) and f.client.stats().in_sync)
        until(lambda: service.stats().cut.get("renewed"))
        until(lambda: not f.differs(store) and f.client.stats().in_sync)
        assert f.client.stats().resets == 1  # all others resumed
        assert len(f.mirror.sets) < 150


@pytest.mark.parametrize("bad", [b"", b"a" * 600])
def test_a_bad_key_is_refused(bad: bytes) -> None:
    with serving(TagStore()) as service:
        with pytest.raises(OSError, match="INVALID_ARGUMENT"):
            resolve(tcp(service), [bad])
        channel, watch = _raw(tcp(service))
        with channel, pytest.raises(grpc.RpcError):
            list(watch(iter([pb.WatchRequest(open=pb.Open(node="n"), want=[bad])])))


def test_too_many_asked_for_keys_are_refused() -> None:
    with serving(TagStore(), max_wants=100) as service:
        channel, watch = _raw(tcp(service))
        wanted = [keys.address(f"10.0.0.{i}") for i in range(200)]
        with channel, pytest.raises(grpc.RpcError) as e:
            list(watch(iter([pb.WatchRequest(open=pb.Open(node="n")), pb.WatchRequest(want=wanted)])))
        assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert service.stats().cut == {"too_many_keys": 1}


def test_so_many_keys_may_be_asked_for_beside_the_nodes_own() -> None:
    """An upstream.max_keys of limits.max_wants must be possible."""
    wanted = [keys.address(f"10.0.0.{i}") for i in range(100)]
    with serving(TagStore(), max_wants=100) as service, Follower(tcp(service), "n") as f:
        f.want(wanted)
        until(lambda: all(key in f.mirror.bindings for key in wanted))
        assert service.stats().cut == {} and f.client.stats().connections == 1
        assert len(resolve(tcp(service), wanted).bindings) == 100
        with pytest.raises(OSError, match="INVALID_ARGUMENT"):
            resolve(tcp(service), [*wanted, wanted[0]])


def test_a_node_with_a_name_too_long_is_refused_and_leaves_nothing() -> None:
    with serving(TagStore()) as service:
        channel, watch = _raw(tcp(service))
        with channel:
            for name in ("n" * 512, "ä" * 300):
                with pytest.raises(grpc.RpcError) as e:
                    list(watch(iter([pb.WatchRequest(open=pb.Open(node=name))])))
                assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert service.stats().subscribers == 0 and service.stats().wanted == 0


def test_who_is_refused_leaves_nothing_wanted() -> None:
    """Whatever a request was refused for: on_want and on_drop have told the same keys in the end."""
    followed: set[bytes] = set()
    a = [keys.address(f"10.0.0.{i}") for i in range(6)]
    fanout = Fanout(TagStore(), lambda: True, max_wants=3, on_want=followed.update, on_drop=followed.difference_update)
    for drop, want, after in (
        (a[:2], a[2:], set(a[2:5])),
        (a[:2], [a[2], b""], {a[2]}),
        ((), [b"x" * 600], set(a[:2])),
        ([], a[1:], set(a[:3])),
    ):
        sub, other = (fanout.open("", 0, 0, lambda: None) for _ in range(2))
        fanout.ask(sub, a[:2], ())
        with pytest.raises(TooMuch):
            fanout.ask(sub, want, drop)
        assert followed == after == set(fanout._wanters)
        fanout.ask(other, a[2:5], ())  # those that somebody asks for already are followed, too
        assert followed == after | set(a[2:5])
        fanout.close(sub)
        assert followed == set(a[2:5])
        fanout.close(other)
        assert not followed and not fanout.stats()["wanted"]


def test_a_range_that_changes_while_nobody_asks() -> None:
    """What was encoded before of an address that the store does not know is not told after."""
    store = TagStore()
    fanout = Fanout(store, lambda: True)
    sub = fanout.open("", 0, 0, lambda: None)
    key = keys.address("10.0.0.5")
    for tags in (None, store.make({"zerospan.range.name": "ten"}), store.make({"zerospan.range.name": "other"}), None):
        if tags is not None or store.pieces(key):
            store.put_range(ipaddress.ip_network("10.0.0.0/8"), tags)
        fanout.tick()
        fanout.ask(sub, [key], ())
        told = pb.TagUpdate.FromString(fanout.message(sub) or b"")
        assert [p.set for b in told.bindings for p in b.pieces] == [p.tags.id for p in store.pieces(key)]
        assert len(store.pieces(key)) == (tags is not None)
        fanout.ask(sub, (), [key])


def test_a_stream_without_open_is_refused() -> None:
    with serving(TagStore()) as service:
        channel, watch = _raw(tcp(service))
        with channel, pytest.raises(grpc.RpcError) as e:
            list(watch(iter([pb.WatchRequest(want=[b"aaa"])])))
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_resolve_answers_once_and_at_a_time() -> None:
    store = TagStore()
    key = put_pod(store, "n1", "old", "10.0.0.7")[0]
    put_pod(store, "n2", "new", "10.0.0.7", since_ns=T0 + 60 * SECOND)
    with serving(store) as service:
        update = resolve(tcp(service), [key, keys.address("10.0.0.99")], at_ns=T0 + SECOND)
        (known, unknown) = update.bindings
        assert len(known.pieces) == 1 and not unknown.pieces
        assert len(resolve(tcp(service), [key]).bindings[0].pieces) == 2
        sets = {s.id: s for s in update.sets}
        assert "old" in sets[known.pieces[0].set].tags and sets[known.pieces[0].set].base in sets


def test_a_port_that_is_taken_is_said() -> None:
    with (
        serving(TagStore()) as service,
        pytest.raises(OSError, match="cannot listen"),
        serving(TagStore(), [tcp(service)]),
    ):
        pass


def test_stop_ends_streams_soon(tmp_path: Path) -> None:
    store = TagStore()
    with Follower(f"unix:{tmp_path}/s", "n1") as f:
        with serving(store, [f"unix:{tmp_path}/s"]):
            until(lambda: f.client.stats().in_sync)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("handler", ["_on_update", "_on_connect"])
def test_the_client_goes_on_after_its_handler_failed(handler: str) -> None:
    store = TagStore()
    key = put_pod(store, "n1", "cart", "10.0.0.7")[0]
    with serving(store) as service:
        f = Follower(tcp(service), "n1")
        take, fails = getattr(f.client, handler), [True]

        def once(*update: Any) -> None:
            if fails.pop() if fails else False:
                raise RuntimeError("planted")
            take(*update)

        setattr(f.client, handler, once)
        with f:
            until(lambda: f.find(key))
            assert f.client.stats().handler_errors == 1


def test_service_name_is_that_of_the_proto() -> None:
    assert pb.DESCRIPTOR.services_by_name["TagService"].full_name == SERVICE


@pytest.mark.parametrize("seed", [1, 2])
def test_random_changes_reach_every_mirror(seed: int) -> None:
    """Whatever happens to the store and to connections, at the end every mirror equals the store."""
    rng = random.Random(seed)
    store = TagStore(keep_s=0.05)
    nodes = [f"n{i}" for i in range(4)]
    addresses = [f"10.0.0.{i}" for i in range(40)]
    port = free_port()
    stop = threading.Event()

    def change(rng: random.Random) -> None:
        while not stop.is_set():
            ip = rng.choice(addresses)
            what = rng.random()
            if what < 0.6:
                put_pod(
                    store,
                    rng.choice(nodes),
                    f"p{rng.randrange(30)}",
                    ip,
                    since_ns=time.time_ns(),
                    more=f"v{rng.randrange(5)}",
                )
            elif what < 0.8:
                store.end(keys.address(ip), layer=Layer.KUBERNETES)
            elif what < 0.83:
                store.sweep()
            elif what < 0.86:
                network = ipaddress.ip_network(f"10.0.0.{rng.randrange(4) * 16}/28")
                store.put_range(network, store.make({"zerospan.range.name": "r"}) if rng.random() < 0.5 else None)
            else:
                time.sleep(0.002)

    def ask(rng: random.Random, f: Follower) -> None:
        while not stop.is_set():
            some = [keys.address(rng.choice(addresses)) for _ in range(3)]
            (f.want if rng.random() < 0.6 else f.drop)(some)
            time.sleep(0.005)

    followers = [Follower(f"127.0.0.1:{port}", node) for node in (*nodes, "n1", "")]
    threads = [threading.Thread(target=change, args=(random.Random(rng.random()),)) for _ in range(2)]
    threads += [threading.Thread(target=ask, args=(random.Random(rng.random()), f)) for f in followers]
    for f in followers:
        f.client.start()
    for t in threads:
        t.start()
    try:
        for _ in range(3):  # the enricher is cut off and comes again
            with serving(store, [f"127.0.0.1:{port}"]):
                time.sleep(0.5)
        stop.set()
        for t in threads:
            t.join()
        with serving(store, [f"127.0.0.1:{port}"]):
            for f in followers:
                until(lambda f=f: f.client.stats().connected and not f.differs(store))
                own = set(store.of_node(f.client.node))
                with f.lock:
                    left = [k for k, p in f.mirror.bindings.items() if p and k not in own and k not in f.wanted]
                assert f.client.stats().handler_errors == 0
                # what was dropped stays until its owner forgets it; nothing of other nodes was told unasked
                assert all(k[:1] == keys.ADDRESS for k in left)
    finally:
        stop.set()
        for f in followers:
            f.client.stop()
