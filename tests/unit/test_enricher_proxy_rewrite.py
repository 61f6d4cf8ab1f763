"""The rewriter against opentelemetry-proto: decode(output) is decode(input) with the attributes, and nothing else."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format

sys.path.insert(0, str(Path(__file__).parent))
from otlp_cases import CASES, REQUESTS, SHOP, canonical, changed, count, decoded, field, groups, logs, metrics, traces

from zerospan.enricher.proxy import json_body, json_list, rewrite
from zerospan.enricher.proxy.config import Signal
from zerospan.enricher.proxy.json_body import Json
from zerospan.enricher.proxy.resources import Protobuf

ADD = {"k8s.pod.name": "cart-1", "k8s.namespace.name": "ü" * 100}


def dropped(resource: bytes) -> bytes:
    """Another service.name, and more."""
    codec = Protobuf()
    without = [a for a in codec.read(resource) if a[0] == "service.name"]
    return codec.write(resource, without, {"service.name": "new", **ADD})


@pytest.mark.parametrize("name", CASES)
def test_only_the_resource_changes(name: str) -> None:
    signal, body = CASES[name]
    before = decoded(signal, body)
    assert before is not None
    out, items = rewrite.rewrite(body, signal, dropped)
    assert canonical(decoded(signal, out)) == canonical(changed(before, "service.name", {"service.name": "new", **ADD}))
    assert items == count(before)


@pytest.mark.parametrize("name", CASES)
def test_nothing_to_add_is_the_same_object(name: str) -> None:
    signal, body = CASES[name]
    assert rewrite.rewrite(body, signal, lambda resource: None)[0] is body


def test_one_of_several_groups() -> None:
    signal, body = CASES["several"]
    turn = iter(range(9))
    out, _ = rewrite.rewrite(body, signal, lambda resource: dropped(resource) if next(turn) == 2 else None)
    before, after = decoded(signal, body), decoded(signal, out)
    for i, (a, b) in enumerate(zip(groups(before), groups(after), strict=True)):
        assert (canonical(a) == canonical(b)) == (i != 2)


def test_attributes_are_what_protobuf_reads() -> None:
    found = rewrite.attributes(groups(traces(SHOP))[0].resource.SerializeToString())
    assert [(key, texts) for key, texts, _, _ in found] == [
        ("service.name", ("shop",)),
        ("host.ip", ("127.0.0.1", "10.1.2.3")),
        ("container.id", ("ab" * 32,)),
        ("process.pid", ()),
    ]


def test_the_last_of_a_oneof_wins() -> None:
    key, text, truth = field(1, b"host.name"), field(2, field(1, b"a")), field(2, b"\x10\x01")
    assert [a[1] for a in rewrite.attributes(field(1, key + text + truth) + field(1, key + truth + text))] == [
        (),
        ("a",),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",  # a length is missing
        b"\x0a\x05abc",  # shorter than its length
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length that no message has
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a varint without end
        b"\x00\x01",  # field 0
        b"\x0f",  # wire type 7
        b"\x0c",  # the end of no group
        b"\x0b",  # a group without end
        b"\x0b" * 200 + b"\x0c" * 200,  # too deep
        field(1, b"\x0a\x05abc"),
        field(1, field(2, b"\x12\x09")),
        b"hello",
    ],
)
def test_malformed(body: bytes) -> None:
    for signal in REQUESTS:
        with pytest.raises(rewrite.Malformed):
            rewrite.rewrite(body, signal, lambda resource: resource + b"")


@pytest.mark.parametrize("resource", [b"\x0a", field(1, field(1, b"\xff")), field(1, field(2, field(1, b"\xc0\x80")))])
def test_malformed_resources(resource: bytes) -> None:
    with pytest.raises(rewrite.Malformed):
        rewrite.attributes(resource)


def test_what_replace_raises_goes_through() -> None:
    def fail(resource: bytes) -> bytes | None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        rewrite.rewrite(CASES["traces"][1], "traces", fail)


def as_json(message: Any) -> bytes:
    return json_format.MessageToJson(message).encode()


@pytest.mark.parametrize(
    ("signal", "message"),
    [("traces", traces(SHOP, {})), ("metrics", metrics(SHOP)), ("logs", logs(SHOP, SHOP)), ("logs", logs())],
)
def test_json(signal: Signal, message: Any) -> None:
    codec = Json()

    def replace(resource: bytes) -> bytes:
        without = [a for a in codec.read(resource) if a[0] == "service.name"]
        return codec.write(resource, without, {"service.name": "new", **ADD})

    out, items = json_body.rewrite(as_json(message), signal, replace)
    after = json_format.Parse(out, REQUESTS[signal]())
    assert after == changed(message, "service.name", {"service.name": "new", **ADD})
    assert items == count(message)


def test_json_keeps_what_it_does_not_know_and_numbers_as_they_are() -> None:
    body = b'{"x": 1.50, "resourceSpans": [{"y": 12345678901234567890123, "resource": {"z": null}}, {}]}'
    out, _ = json_body.rewrite(body, "traces", lambda resource: Json().write(resource, [], {"a": "b"}))
    assert b"12345678901234567890123" in out and b"1.50" in out
    assert [set(g) for g in msgspec.json.decode(out)["resourceSpans"]] == [{"y", "resource"}, {"resource"}]


def test_json_resources_that_are_not_there() -> None:
    """Absent, null, empty; blanks and texts that look like brackets about them."""
    body = (
        b' { "resourceSpans" : [ {} , { } ,{"resource":null},\n{"a":"]}\\"{[,"} ,{"resource" : {}, "scopeSpans":[ ]}'
        b',{"scopeSpans":[{"spans":[{"name":"a,\\\\"},{"name":"]"},3, [1,2]]},{},{"spans":null}]} ] }'
    )
    seen = []

    def replace(resource: bytes) -> bytes:
        seen.append(resource)
        return b'{"n":%d}' % len(seen)

    out, items = json_body.rewrite(body, "traces", replace)
    assert seen == [b"{}"] * 6 and items == 4
    before, after = msgspec.json.decode(body)["resourceSpans"], msgspec.json.decode(out)["resourceSpans"]
    assert [group["resource"] for group in after] == [{"n": n} for n in range(1, 7)]
    for a, b in zip(before, after, strict=True):
        assert {k: v for k, v in a.items() if k != "resource"} == {k: v for k, v in b.items() if k != "resource"}
    assert json_body.rewrite(body, "traces", lambda _: None) == (body, 4)


def test_elements_of_random_lists() -> None:
    """As a decoder finds them, whatever stands in the texts; those of nothing but escapes take no longer."""
    for seed in range(300):
        rng = random.Random(seed)

        def value(depth: int, rng: random.Random = rng) -> Any:
            kind = rng.randrange(5 if depth < 4 else 3)
            if kind == 3:
                return [value(depth + 1) for _ in range(rng.randrange(4))]
            if kind == 4:
                return {value(9): value(depth + 1) for _ in range(rng.randrange(4))}
            return "".join(rng.choices('\\"[]{},: aü', k=rng.randrange(6)))

        wanted = [value(0) for _ in range(rng.randrange(6))]
        text = json.dumps(wanted, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5).encode()
        found = list(json_list.elements(text))
        assert [json.loads(bytes(one)) for one in found] == wanted and json_list.count(text) == len(wanted)
        assert all(text[json_list.place(one, text) :].startswith(bytes(one)) for one in found)
        for cut in range(len(text)):  # never beyond the end
            with contextlib.suppress(rewrite.Malformed):
                assert len(list(json_list.elements(text[:cut]))) <= len(wanted)
    assert json_list.count(b'["' + b"\\\\" * (1 << 21) + b'", ""]') == 2
    with pytest.raises(ValueError):
        json_list.place(b"x", b"xyz")


def test_json_of_nothing_but_members_costs_little() -> None:
    """Lists and objects of millions are never all there at once."""
    n = 300_000
    many, named = b",".join([b"{}"] * n), b",".join([b'"m%d":0' % i for i in range(n)])
    for inner in (
        many,
        b'{"scopeSpans":[%b]}' % many,
        b'{"scopeSpans":[{"spans":[%b]}]}' % many,
        b"{%b}" % named,
        b'{"scopeSpans":[{%b}]}' % named,
    ):
        body = b'{"resourceSpans":[%b]}' % inner
        tracemalloc.start()
        json_body.rewrite(body, "traces", lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * len(body), (peak, len(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"resourceSpans": 3}',
        b'{"resourceSpans": [3]}',
        b'{"resourceSpans": [{"resource": 3}]}',
    ]
    + [
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": 3}]}}]}',
        b"[" * 100_000,
        b'{"resourceSpans": [{"a": \xff}]}',
    ]
    + [b'{"resourceSpans": [{"scopeSpans": [{"spans": {}}]}]}'],
)
def test_malformed_json(body: bytes) -> None:
    with pytest.raises(rewrite.Malformed):
        json_body.rewrite(body, "traces", lambda resource: Json().write(resource, Json().read(resource), {}))
