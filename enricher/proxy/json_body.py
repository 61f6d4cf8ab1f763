"""The JSON form of the three requests: decoded down to the resources; spans and records stay the text that they are.

Source: the OTLP specification, "JSON Protobuf Encoding" (lowerCamelCase names; unknown ones are kept here).
"""

from collections.abc import Callable, Sequence

import msgspec

from zerospan.enricher.proxy.config import Signal
from zerospan.enricher.proxy.resources import Attribute
from zerospan.enricher.proxy.rewrite import Malformed

Object = dict[str, msgspec.Raw]
LISTS = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
}
POINTS = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")
WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Value(msgspec.Struct):
    stringValue: str | None = None
    arrayValue: "_Array | None" = None


class _Array(msgspec.Struct):
    values: list[_Value] | None = None


class _KeyValue(msgspec.Struct):
    key: str = ""
    value: _Value | None = None


_object = msgspec.json.Decoder(Object)
_objects = msgspec.json.Decoder(list[Object] | None)
_raws = msgspec.json.Decoder(list[msgspec.Raw] | None)
_key_value = msgspec.json.Decoder(_KeyValue)
_encode = msgspec.json.Encoder().encode


def rewrite(body: bytes, signal: Signal, replace: Callable[[bytes], bytes | None]) -> tuple[bytes, int]:
    """As rewrite.rewrite, for a JSON body. Raises Malformed."""
    groups_name, scopes_name, items_name = LISTS[signal]
    try:
        request = _object.decode(body)
        groups = _list(request, groups_name)
        items, changed = 0, False
        for group in groups:
            for scope in _list(group, scopes_name):
                items += _count(scope, items_name, signal)
            resource = bytes(group.get("resource", b"{}"))
            new = replace(b"{}" if resource == b"null" else resource)
            if new is not None:
                group["resource"] = msgspec.Raw(new)
                changed = True
        if not changed:
            return body, items
        request[groups_name] = msgspec.Raw(_encode(groups))
        return _encode(request), items
    except WRONG as e:
        raise Malformed(f"not OTLP JSON: {e}") from None


class Json:
    """A resource in JSON; a place is the index of an attribute."""

    def read(self, resource: bytes) -> list[Attribute]:
        try:
            raws = _raws.decode(_object.decode(resource).get("attributes", b"null")) or []
            found: list[Attribute] = []
            for i, raw in enumerate(raws):
                attribute = _key_value.decode(raw)
                found.append((attribute.key, _texts(attribute.value), i, i + 1))
            return found
        except WRONG as e:
            raise Malformed(f"not an OTLP resource: {e}") from None

    def write(self, resource: bytes, without: Sequence[Attribute], more: dict[str, str]) -> bytes:
        members = _object.decode(resource)
        raws = _raws.decode(members.get("attributes", b"null")) or []
        gone = {start for _, _, start, _ in without}
        kept = [raw for i, raw in enumerate(raws) if i not in gone]
        kept += [msgspec.Raw(_encode({"key": key, "value": {"stringValue": value}})) for key, value in more.items()]
        members["attributes"] = msgspec.Raw(_encode(kept))
        return _encode(members)


def _list(members: Object, name: str) -> list[Object]:
    return _objects.decode(members[name]) or [] if name in members else []


def _count(scope: Object, name: str, signal: Signal) -> int:
    if signal != "metrics":
        return len(_raws.decode(scope[name]) or []) if name in scope else 0
    found = 0
    for metric in _list(scope, name):
        for kind in POINTS:
            if kind in metric and metric[kind] != msgspec.Raw(b"null"):
                data = _object.decode(metric[kind])
                found += len(_raws.decode(data["dataPoints"]) or []) if "dataPoints" in data else 0
    return found


def _texts(value: _Value | None) -> tuple[str, ...]:
    if value is None:
        return ()
    if value.stringValue is not None:
        return (value.stringValue,)
    if value.arrayValue is not None:
        return tuple(v.stringValue for v in value.arrayValue.values or () if v.stringValue is not None)
    return ()
