"""How tags look in what is exported: encoded once for each tag set, then only copied.

Called by follow.py for the sets of remote addresses and by process/describe.py for the agent's own processes. Tags come
from the enricher, which has them from elsewhere (labels, annotations, files): they are cleaned and bounded here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache

import msgspec

from zerospan.exporter.process.resource import encode_attribute
from zerospan.exporter.process.text import clean
from zerospan.exporter.tags.names import PEER_TAGS

PREFIX = "zerospan.peer."
SERVICE = "k8s.service.name"
SERVICE_TYPE = "zerospan.k8s.service.type"  # of a Service's address only
RANGE = "zerospan.range.name"
CONTAINER = "k8s.container.name"
VALUE_MAX = 255  # characters
PEER_MAX = 4096  # bytes of zerospan.peer.* of one span
META_MAX = 64  # members of a line's structured metadata that say whose it is
META_BYTES = 8192
SPAN, LOG = 0x4A, 0x32  # tags of Span.attributes and LogRecord.attributes
NOT_A_NAME = re.compile("[^A-Za-z0-9_]")


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Bytes of one tag set; by tags/peer.pxd's Form where there are three."""

    name: bytes
    space: bytes
    peer: tuple[bytes, bytes, bytes]
    service: tuple[bytes, bytes, bytes]
    own: bytes
    stands_for: bool


def stamp(tags: Mapping[str, object], names: Iterable[str] = PEER_TAGS) -> Stamp:
    """names: which tags are said of a peer."""
    chosen: list[tuple[str, str]] = []
    service = ""
    size = 0
    for name in names:
        value = clean(str(tags.get(name, "")), VALUE_MAX)
        if not value:
            continue
        if name == SERVICE:
            service = value
            continue
        size += len(name) + len(value.encode()) + len(PREFIX) + 16
        if size > PEER_MAX:
            break
        chosen.append((name, value))
    stands_for = bool(tags.get(SERVICE_TYPE))
    called = str(tags.get("service.name", ""))
    if not called and stands_for:
        called = str(tags.get(SERVICE, ""))
    called = clean(called or str(tags.get(RANGE, "")))
    namespace = str(tags.get("service.namespace", ""))
    if not namespace and not tags.get("service.name"):
        namespace = str(tags.get("k8s.namespace.name", ""))
    as_service = [(SERVICE, service)] if service else []
    return Stamp(
        name=called.encode(),
        space=clean(namespace).encode() if called else b"",
        peer=_forms(chosen, PREFIX),
        service=_forms(as_service, PREFIX),
        # an interface is its pod's, not one of the containers'
        own=_fields(SPAN, [(name, value) for name, value in chosen if name != CONTAINER], ""),
        stands_for=stands_for,
    )


def metadata(attributes: Mapping[str, object], without: Iterable[str] = ()) -> bytes:
    """What a Loki line says of its own process: members of structured metadata, `,"key":"value"`; bounded."""
    taken = {loki_name(name) for name in without} | _of_spans()  # a member must not stand twice
    out: list[bytes] = []
    size = 0
    for name, value in attributes.items():
        text = clean(str(value), VALUE_MAX)
        if not text or loki_name(name) in taken:
            continue
        taken.add(loki_name(name))
        member = _member(name, text)
        size += len(member)
        if size > META_BYTES or len(out) == META_MAX:
            break
        out.append(member)
    return b"".join(out)


@cache
def _of_spans() -> frozenset[str]:
    from zerospan.exporter.encode.attributes import names  # compiled code, which needs this package

    own = ("trace_id", "span_id", "level", "duration_ns", "span_kind")
    return frozenset((*own, *(loki_name(name) for name in names())))


def loki_name(name: str) -> str:
    """As encode/attributes.pyx."""
    return NOT_A_NAME.sub("_", name)


def _forms(tags: list[tuple[str, str]], prefix: str) -> tuple[bytes, bytes, bytes]:
    json_members = b"".join(_member(prefix + name, value) for name, value in tags)
    return _fields(SPAN, tags, prefix), _fields(LOG, tags, prefix), json_members


def _fields(tag: int, tags: list[tuple[str, str]], prefix: str) -> bytes:
    return b"".join(encode_attribute(tag, prefix + name, value) for name, value in tags)


def _member(name: str, value: str) -> bytes:
    return f",{json.dumps(loki_name(name))}:{json.dumps(value, ensure_ascii=False)}".encode()
