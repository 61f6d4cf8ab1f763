"""The static source: what people write is in the store, what they take out leaves it, what is wrong is refused."""

import builtins
import io
import ipaddress
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from zerospan.enricher import keys
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.match import Matcher, Rule
from zerospan.enricher.sources.static import Entry, StaticConfig, StaticSource, problems, table
from zerospan.enricher.store import TagStore
from zerospan.exporter.config.tree import ConfigError


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not become true"
        time.sleep(0.005)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[StaticSource, TagStore]]]:
    made: list[StaticSource] = []

    def start(entries: Any = (), file: str = "") -> tuple[StaticSource, TagStore]:
        store = TagStore()
        config = msgspec.convert({"entries": entries, "file": file, "poll_s": 0.01}, StaticConfig)
        made.append(StaticSource(store, config))
        made[-1].start()
        return made[-1], store

    yield start
    for source in made:
        source.stop()
        assert source._thread is None or not source._thread.is_alive()


def tags_at(store: TagStore, address: str, port: int = 0, protocol: int = keys.TCP) -> dict[str, str]:
    found = store.find_address(keys.packed(address), port, protocol)
    return found.tags() if found else {}


def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)


# -- what is written is so


def test_a_range_an_address_a_port_and_a_node(run: Any) -> None:
    source, store = run([
        {"name": "orders RDS", "addresses": ["10.0.16.0/24"], "tags": {SN: "orders-db", "db.owner": "team-orders"}},
        {"name": "vault", "addresses": ["10.0.0.7:8200", "[2001:db8::7]:53/udp"]},
        {"name": "bastion", "addresses": ["10.0.0.7", "2001:db8::7", "192.0.2.1/32"]},
        {"nodes": ["n1"], "tags": {"rack": "7"}},
    ])  # fmt: skip
    orders = {SN: "orders-db", "zerospan.range.name": "orders RDS", "db.owner": "team-orders"}
    vault, bastion = ({SN: n, "zerospan.range.name": n} for n in ("vault", "bastion"))
    assert tags_at(store, "10.0.16.0") == tags_at(store, "10.0.16.255", 5432) == orders
    assert tags_at(store, "10.0.15.255") == tags_at(store, "10.0.17.0") == {}
    assert tags_at(store, "10.0.0.7", 8200) == tags_at(store, "2001:db8::7", 53, keys.UDP) == vault
    for address in ("10.0.0.7", "2001:db8::7", "192.0.2.1"):
        assert tags_at(store, address) == tags_at(store, address, 80) == bastion
    assert tags_at(store, "10.0.0.7", 8200, keys.UDP) == bastion
    found = store.find(keys.node("n1"))
    assert found is not None and found.tags() == {"rack": "7"} and store.of_node("n1") == [keys.node("n1")]
    assert source.stats().entities == {"range": 1, "address": 3, "endpoint": 2, "node": 1, "match": 0}
    assert source.stats().in_sync and source.stats().lag_s == 0
    assert tags_at(store, "10.0.0.7") == (store.find(keys.address("10.0.0.7"), 1) or {}).tags()  # it was always so


SN = "service.name"


def test_narrower_ranges_take_from_wider_ones_and_ports_from_all(run: Any) -> None:
    _, store = run([
        {"addresses": ["10.0.0.7:5432"], "name": "pg"},
        {"addresses": ["10.0.0.0/24"], "tags": {"a": "24", "b": "24"}},
        {"addresses": ["10.0.0.7"], "tags": {"host.name": "seven"}},
        {"addresses": ["10.0.0.0/8"], "tags": {"a": "8", "b": "8", "c": "8"}},
        {"addresses": ["0.0.0.0/0"], "tags": {"d": "0"}},
    ])  # fmt: skip
    assert tags_at(store, "8.8.8.8") == {"d": "0"}
    assert tags_at(store, "10.1.1.1") == {"a": "8", "b": "8", "c": "8", "d": "0"}
    in24 = {"a": "24", "b": "24", "c": "8", "d": "0"}
    assert tags_at(store, "10.0.0.8") == in24
    assert tags_at(store, "10.0.0.7") == in24 | {"host.name": "seven"}
    pg = {SN: "pg", "zerospan.range.name": "pg"}
    assert tags_at(store, "10.0.0.7", 5432) == in24 | {"host.name": "seven"} | pg
    assert tags_at(store, "2001:db8::1") == {}


def test_random_ranges_say_what_a_slow_search_says(run: Any) -> None:
    rng = random.Random(5)
    nets: dict[Any, str] = {}
    for i in range(300):
        bits = rng.randint(2, 30)
        net = ipaddress.ip_network((rng.getrandbits(16) << 16 | rng.getrandbits(8), bits), strict=False)
        nets[net] = str(i)
    _, store = run([{"addresses": [str(n)], "tags": {f"own{n.prefixlen}": v, "t": v}} for n, v in nets.items()])
    for _ in range(500):
        ip = ipaddress.IPv4Address(rng.getrandbits(16) << 16 | rng.getrandbits(8))
        want: dict[str, str] = {}
        for net in sorted((n for n in nets if ip in n), key=lambda n: n.prefixlen):
            want |= {f"own{net.prefixlen}": nets[net], "t": nets[net]}
        assert tags_at(store, str(ip)) == want


def test_ranges_lie_under_what_is_known_and_addresses_over_it(run: Any) -> None:
    _, store = run([
        {"name": "pods", "addresses": ["10.244.0.0/16"], "tags": {"tenant": "a"}},
        {"addresses": ["10.244.1.7"], "tags": {SN: "by hand"}},
    ])  # fmt: skip
    for address in ("10.244.1.7", "10.244.1.8"):
        store.put(
            keys.address(address),
            store.make({SN: "cart", "k8s.pod.name": "cart-1"}),
            layer=Layer.KUBERNETES,
            since_ns=5,
        )
    under = {"zerospan.range.name": "pods", "tenant": "a", "k8s.pod.name": "cart-1"}
    assert tags_at(store, "10.244.1.8") == under | {SN: "cart"}
    assert tags_at(store, "10.244.1.7") == under | {SN: "by hand"}


# -- what changes


def test_what_leaves_the_file_leaves_the_store(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "static.yaml"
    whole = [
        {"name": "r", "addresses": ["10.0.16.0/24", "10.0.0.0/8"]},
        {"name": "a", "addresses": ["192.0.2.7", "192.0.2.7:80"]},
        {"nodes": ["n1", "n2"], "tags": {"rack": "7"}},
    ]
    file.write_text(yaml.safe_dump({"entries": whole}))
    inline = {"name": "stays", "addresses": ["198.51.100.1"]}
    source, store = run([inline], str(file))
    before = time.time_ns()
    assert source.stats().entities == {"range": 2, "address": 2, "endpoint": 1, "node": 2, "match": 0}
    replace(file, yaml.safe_dump({"entries": [{"name": "r2", "addresses": ["10.0.0.0/8"]}]}))
    until(lambda: tags_at(store, "10.0.16.1").get(SN) == "r2")
    assert source.stats().entities == {"range": 1, "address": 1, "endpoint": 0, "node": 0, "match": 0}
    assert tags_at(store, "192.0.2.7") == tags_at(store, "192.0.2.7", 80) == {}
    assert store.find(keys.node("n1")) is None and store.find(keys.node("n2")) is None
    assert tags_at(store, "198.51.100.1")[SN] == "stays"
    then = store.find(keys.address("192.0.2.7"), before)
    assert then is not None and then.get(SN) == "a"  # what was, was
    replace(file, "entries: []\n")
    until(lambda: not tags_at(store, "10.0.16.1"))
    assert store.counts()["ranges"] == 0
    replace(file, yaml.safe_dump({"entries": whole}))  # and it comes back
    until(lambda: tags_at(store, "192.0.2.7", 80))
    assert store.find(keys.node("n2")) is not None


def test_an_untouched_file_is_not_read_again_and_an_equal_one_changes_nothing(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "static.yaml"
    text = "entries: [{name: r, addresses: [10.0.0.0/8, 192.0.2.7]}]\n"
    file.write_text(text)
    source, store = run(file=str(file))
    revision, ranges, changes = store.revision, store.range_revision, source.stats().changes
    stamp = source._stamp
    replace(file, "# a comment\n" + text)
    until(lambda: source._stamp != stamp and source.stats().in_sync)
    assert (store.revision, store.range_revision, source.stats().changes) == (revision, ranges, changes)


BAD = [
    "entries: [{name: x, addresses: [10.0.16.1/20]}]",
    "entries: [{name: x, addresses: [10.0.16.0/33]}]",
    "entries: {a: b}",
    "entries: [",
    "\xff\xfe",
    "entries: [{name: x, addresses: [10.0.0.1], tag: {a: b}}]",
    "",  # the file is gone
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_version_is_refused_whole_and_said_once(
    bad: str, run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = tmp_path / "static.yaml"
    good = "entries: [{name: r, addresses: [10.0.0.0/8, 192.0.2.7]}]\n"
    file.write_text(good)
    source, store = run(file=str(file))
    if bad:
        replace(file, bad)
    else:
        file.unlink()
    until(lambda: source.stats().errors)
    looks = len(caplog.records)
    time.sleep(0.1)  # ten looks at the file
    assert source.stats().errors == 1 and len(caplog.records) == looks >= 1
    assert str(file) in caplog.text and "the version before stays" in caplog.text
    assert not source.stats().in_sync and source.stats().lag_s > 0.05
    assert tags_at(store, "10.1.1.1")[SN] == "r" and tags_at(store, "192.0.2.7")[SN] == "r"
    replace(file, good.replace("name: r", "name: r3"))
    until(lambda: source.stats().in_sync)
    assert tags_at(store, "10.1.1.1")[SN] == "r3" and source.stats().lag_s == 0


def test_a_file_that_may_be_read_later_is_read_then(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = tmp_path / "static.yaml"
    file.write_text("entries: [{name: r, addresses: [192.0.2.7]}]\n")
    real = open

    def refuses(name: Any, *args: Any, **more: Any) -> Any:
        if str(name) == str(file):
            raise PermissionError(13, "Permission denied", str(file))
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "open", refuses)
    monkeypatch.setattr(io, "open", refuses)
    source, store = run(file=str(file))
    stamp, looks = source._stamp, len(caplog.records)
    time.sleep(0.1)  # ten looks
    assert source.stats().errors == 1 and len(caplog.records) == looks == 1 and not source.stats().in_sync
    monkeypatch.undo()  # and nothing of the file has changed
    until(lambda: source.stats().in_sync)
    assert tags_at(store, "192.0.2.7")[SN] == "r" and source._stamp == stamp
    file.chmod(0o400)
    until(lambda: source._stamp != stamp)


def test_a_match_forgets_what_left_the_store_while_it_did_not_look(run: Any) -> None:
    store = TagStore()
    matcher = Matcher(store)
    matcher.set([Rule({"container.name": "cart-*"}, {"team": "a"})], frozenset(), 0)
    cart = store.make({"container.name": "cart-1"})
    store.put(CONTAINER, cart, layer=Layer.KUBERNETES, since_ns=100)
    matcher.follow()
    assert len(matcher) == 1
    store.end(CONTAINER, layer=Layer.KUBERNETES, at_ns=200)
    store.end(CONTAINER, layer=Layer.STATIC, at_ns=200)
    store.sweep()
    for i in range(70_000):  # more than the store remembers
        store.put(OTHER, cart, layer=Layer.OS, since_ns=i + 1)
        store.end(OTHER, layer=Layer.OS, at_ns=i + 2)
    assert not store.pieces(CONTAINER) and store.since(0) is None
    matcher.follow()
    store.sweep()
    matcher.follow()
    assert CONTAINER not in matcher._open


def test_a_link_that_is_turned_is_a_change(run: Any, tmp_path: Path) -> None:
    """As the kubelet does it with ConfigMaps: file -> ..data/file, ..data -> a folder with a time in its name."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(f"entries: [{{name: {name}, addresses: [192.0.2.7]}}]\n")
        os.utime(tmp_path / name / "f", (1, 1))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "f").symlink_to("..data/f")
    _, store = run(file=str(tmp_path / "f"))
    assert tags_at(store, "192.0.2.7")[SN] == "one"
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", tmp_path / "..data")
    until(lambda: tags_at(store, "192.0.2.7").get(SN) == "two")


def test_listeners_hear_of_a_file_once_and_of_addresses_in_its_ranges_only(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("entries: []\n")
    _, store = run(file=str(file))
    inside, outside = keys.address("10.0.0.1"), keys.address("192.0.2.1")
    for key in (inside, outside):
        store.put(key, store.make({"a": "b"}), layer=Layer.KUBERNETES, since_ns=1)
    heard: list[list[bytes] | None] = []
    revision = store.revision
    store.listen(lambda: heard.append(store.since(revision)))
    replace(file, yaml.safe_dump({"entries": [{"name": "r", "addresses": [f"10.{i}.0.0/16" for i in range(200)]}]}))
    until(lambda: heard)
    assert heard == [[inside]] and store.revision == revision + 1


# -- what comes and goes


def known(store: TagStore, key: bytes, at_ns: int = 0) -> dict[str, str]:
    found = store.find(key, at_ns)
    return found.tags() if found else {}


CONTAINER, OTHER, PROCESS = keys.container("a" * 64), keys.container("b" * 64), keys.process("n1", 7)
MATCH = [
    {"match": {"container.name": "cart-*", "k8s.namespace.name": "shop"}, "tags": {"team": "a", SN: "cart"}},
    {"match": {"process.executable.path": "/opt/legacy/*"}, "tags": {SN: "legacy"}},
    {"match": {"container.name": "*-2"}, "tags": {"team": "two"}},
]


def test_names_of_containers_and_paths_of_processes(run: Any) -> None:
    source, store = run(MATCH)

    def put(key: bytes, **tags: str) -> None:
        made = store.make({name.replace("_", "."): value for name, value in tags.items()})
        store.put(key, made, layer=Layer.OS, since_ns=5, node="n1")

    put(CONTAINER, container_name="cart-2", k8s_namespace_name="shop", service_name="x")
    put(OTHER, container_name="cart-1", k8s_namespace_name="test")
    put(PROCESS, process_executable_path="/opt/legacy/bin/run")
    until(lambda: source.stats().entities["match"] == 2)
    assert known(store, CONTAINER) == {
        "container.name": "cart-2",
        "k8s.namespace.name": "shop",
        "team": "two",  # the later entry
        SN: "cart",
    }
    assert known(store, PROCESS)[SN] == "legacy" and "team" not in known(store, OTHER)
    assert known(store, CONTAINER, 4) == {} and known(store, CONTAINER, 5)["team"] == "two"
    revision = store.revision
    time.sleep(0.1)
    assert store.revision == revision  # following one's own changes comes to an end


def test_a_match_ends_with_what_it_lies_over(run: Any) -> None:
    _, store = run(MATCH)
    cart = store.make({"container.name": "cart-1", "k8s.namespace.name": "shop"})
    store.put(CONTAINER, cart, layer=Layer.KUBERNETES, since_ns=100)
    until(lambda: known(store, CONTAINER).get("team"))
    store.end(CONTAINER, layer=Layer.KUBERNETES, at_ns=200)
    until(lambda: not known(store, CONTAINER))
    assert known(store, CONTAINER, 199)["team"] == "a" and known(store, CONTAINER, 201) == {}
    store.put(OTHER, cart, layer=Layer.KUBERNETES, since_ns=100, until_ns=200)  # it was short
    until(lambda: known(store, OTHER, 150).get("team"))
    assert known(store, OTHER, 250) == {}


def test_rules_that_change_leave_the_past_alone(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text(yaml.safe_dump({"entries": MATCH}))
    source, store = run(file=str(file))
    cart = store.make({"container.name": "cart-1", "k8s.namespace.name": "shop"})
    store.put(CONTAINER, cart, layer=Layer.KUBERNETES, since_ns=100)
    until(lambda: known(store, CONTAINER).get("team") == "a")
    before = time.time_ns()
    replace(file, yaml.safe_dump({"entries": [{"match": {"container.name": "cart-1"}, "tags": {"team": "b"}}]}))
    until(lambda: known(store, CONTAINER).get("team") == "b")
    assert known(store, CONTAINER, before)["team"] == "a" and SN not in known(store, CONTAINER)
    replace(file, "entries: []\n")
    until(lambda: "team" not in known(store, CONTAINER))
    assert known(store, CONTAINER) == cart.tags() and known(store, CONTAINER, before)["team"] == "a"
    assert source.stats().entities["match"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_any_history_is_matched_as_a_slow_look_at_it_says(seed: int, run: Any) -> None:
    """Keys that are used again and again by this and that; at each moment the rule lies over what fits it, only."""
    rng = random.Random(seed)
    source, store = run([{"match": {"kind": "y*"}, "tags": {"team": "a"}}])
    wanted = [keys.address(f"10.0.0.{i}") for i in range(3)]
    truth: dict[bytes, list[tuple[int, str]]] = {key: [] for key in wanted}  # since when it is what; "": nothing
    now = 10
    for _ in range(40):
        now += rng.randint(2, 9)
        key, kind = rng.choice(wanted), rng.choice(["yes", "yet", "no", ""])
        if sum(1 for _ in truth[key]) >= 7:
            continue  # the store remembers 8
        if kind:
            store.put(key, store.make({"kind": kind}), layer=Layer.KUBERNETES, since_ns=now)
        elif truth[key] and truth[key][-1][1]:
            store.end(key, layer=Layer.KUBERNETES, at_ns=now)
        else:
            continue
        truth[key].append((now, kind))
        if rng.random() < 0.3:
            time.sleep(0.003)  # sometimes the source sees the steps between

    def right() -> bool:
        for key, steps in truth.items():
            for at in range(8, now + 20):
                kind = next((k for since, k in reversed(steps) if since <= at), "")
                want = {"kind": kind} | ({"team": "a"} if kind.startswith("y") else {}) if kind else {}
                if known(store, key, at) != want:
                    return False
        return True

    until(right, 5)
    assert source.stats().errors == 0


def test_a_history_longer_than_the_store_keeps_comes_to_an_end(run: Any) -> None:
    _, store = run([{"match": {"kind": "y*"}, "tags": {"team": "a"}}])
    for layer in (Layer.OS, Layer.KUBERNETES):
        for i in range(20):
            made = store.make({"kind": "yes" if i % 2 else "no", "i": str(i)})
            store.put(CONTAINER, made, layer=layer, since_ns=10 * i + layer)
    until(lambda: known(store, CONTAINER).get("team") == "a")
    time.sleep(0.1)
    revision = store.revision
    time.sleep(0.1)
    assert store.revision == revision and known(store, CONTAINER)["i"] == "19"


# -- what is wrong


@pytest.mark.parametrize(
    "entry, at, words",
    [
        ({"name": "x", "addresses": ["10.0.16.1/20"]}, "addresses[0]", "the range is 10.0.16.0/20"),
        ({"name": "x", "addresses": ["db.example.org"]}, "addresses[0]", "expected an address"),
        ({"name": "x", "addresses": ["10.0.0.1:0"]}, "addresses[0]", "expected an address"),
        ({"name": "x", "addresses": ["10.0.0.1:70000"]}, "addresses[0]", "expected an address"),
        ({"name": "x", "addresses": ["10.0.0.1:80/sctp"]}, "addresses[0]", "expected an address"),
        ({"name": "x", "addresses": ["10.0.0.0/24:80"]}, "addresses[0]", "expected an address"),
        ({"name": "x", "addresses": ["10.0.0.1", "10.0.0.1"]}, "addresses[1]", "stands in two entries"),
        ({"name": "x", "addresses": ["10.0.0.1", "::ffff:10.0.0.1"]}, "addresses[1]", "stands in two entries"),
        ({"name": "x", "addresses": ["10.0.0.0/8", "10.0.0.0/8"]}, "addresses[1]", "stands in two entries"),
        ({"nodes": ["n", "n"], "tags": {"a": "b"}}, "nodes[1]", "stands in two entries"),
        ({"name": "x"}, "", "names nothing"),
        ({"addresses": ["10.0.0.1"]}, "", "says nothing"),
        ({"name": "x", "nodes": ["n"], "tags": {"a": "b"}}, "name", "is of addresses"),
        ({"addresses": ["10.0.0.1"], "tags": {"Team": "b"}}, "tags.Team", "lower case"),
        ({"addresses": ["10.0.0.1"], "tags": {"a..b": "b"}}, "tags.a..b", "lower case"),
        ({"addresses": ["10.0.0.1"], "tags": {"k8s.pod.label.": "b"}}, "tags.k8s.pod.label.", "lower case"),
        ({"addresses": ["10.0.0.1"], "tags": {"a": ""}}, "tags.a", "is empty"),
        ({"addresses": ["10.0.0.1"], "tags": {"a": "x" * 257}}, "tags.a", "longer than 256"),
        ({"addresses": ["10.0.0.1"], "tags": {"a": "x\ny"}}, "tags.a", "cannot be printed"),
        ({"match": {"a": "b"}, "tags": {"a": "c"}}, "match.a", "is set by an entry with match"),
        ({"match": {"a": ""}, "tags": {"b": "c"}}, "match.a", "is empty"),
        ({"match": {"a": "b"}}, "", "says nothing"),
        ({"name": "\x1b[1m", "addresses": ["10.0.0.1"]}, "name", "cannot be printed"),
    ],
)
def test_each_mistake_is_told_with_its_place(entry: dict[str, Any], at: str, words: str, tmp_path: Path) -> None:
    dot = "." if at else ""
    told = list(problems(StaticConfig(entries=(msgspec.convert(entry, Entry),))))
    assert any(t.startswith(f"configuration: sources.static.entries[0]{dot}{at}: ") and words in t for t in told), told
    file = tmp_path / "f.yaml"
    file.write_text("# first line\n" + yaml.safe_dump({"entries": [entry]}))
    told = list(problems(StaticConfig(file=str(file))))
    assert any(t.startswith(f"{file}: entries[0]{dot}{at}: ") and words in t and "(line " in t for t in told), told


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("entries:\n- name: a\n  addresses: [x]\n- name: b\n  addresses:\n  - 10.0.0.1\n  - y\n")
    with pytest.raises(ConfigError) as caught:
        table(StaticConfig(file=str(file), entries=(Entry(name="c"),)))
    first, second, third = caught.value.problems
    assert "sources.static.entries[0]" in first
    assert "entries[0].addresses[0]" in second and second.endswith("(line 3)")
    assert "entries[1].addresses[1]" in third and third.endswith("(line 7)")


@pytest.mark.parametrize("text", ["", "# nothing yet", "entries: []"])
def test_an_empty_file_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(text)
    made = table(StaticConfig(file=str(tmp_path / "f")))
    assert made.points == {} and made.ranges == {}


def test_own_tags_and_families_are_allowed_and_near_misses_doubted() -> None:
    tags = {"team": "a", "db.owner": "b", "k8s.pod.label.app.kubernetes.io/Name": "c", "service.nam": "d"}
    made = table(StaticConfig(entries=(Entry(addresses=("10.0.0.1",), tags=tags),)))
    assert made.points == {keys.address("10.0.0.1"): tags}
    (doubt,) = made.doubts
    assert "service.nam " in doubt and "service.name?" in doubt


def test_nothing_written_is_in_sync(run: Any) -> None:
    source, store = run()
    assert source.stats().in_sync and source._thread is None and not any(store.counts().values())
