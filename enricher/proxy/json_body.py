"""The JSON form of the three requests: walked down to the resources; all else stays the text that it is.

One group is decoded at a time, and of it the texts of the members that the walk needs: a request costs little more than
its own bytes, whatever is in it.

Source: the OTLP specification, "JSON Protobuf Encoding" (lowerCamelCase names; unknown ones are kept here).
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from zerospan.enricher.proxy.config import SIGNALS, Signal
from zerospan.enricher.proxy.json_list import count, elements, place
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


NULL = msgspec.Raw(b"null")


def _decoder(*names: str) -> msgspec.json.Decoder[Any]:
    """Of an object's members with these names: their texts."""
    return msgspec.json.Decoder(msgspec.defstruct("Members", [(name, msgspec.Raw, NULL) for name in names]))


_requests = {signal: _decoder(LISTS[signal][0]) for signal in SIGNALS}
_groups = {signal: _decoder("resource", LISTS[signal][1]) for signal in SIGNALS}
_scopes = {signal: _decoder(LISTS[signal][2]) for signal in SIGNALS}
_metric = _decoder(*POINTS)
_data = _decoder("dataPoints")
_object = msgspec.json.Decoder(Object)
_raws = msgspec.json.Decoder(list[msgspec.Raw] | None)
_key_value = msgspec.json.Decoder(_KeyValue)
_encode = msgspec.json.Encoder().encode


def rewrite(body: bytes, signal: Signal, replace: Callable[[bytes], bytes | None]) -> tuple[bytes, int]:
    """As rewrite.rewrite, for a JSON body. Raises Malformed."""
    groups_name, scopes_name, items_name = LISTS[signal]
    group_of, scope_of = _groups[signal].decode, _scopes[signal].decode
    try:
        items = at = 0
        parts: list[bytes | memoryview] = []
        for text in elements(getattr(_requests[signal].decode(body), groups_name)):
            group = group_of(text)
            for scope in elements(getattr(group, scopes_name)):
                items += _count(getattr(scope_of(scope), items_name), signal)
            resource = group.resource
            new = replace(b"{}" if resource == NULL else bytes(resource))
            if new is None:
                continue
            if resource is NULL:  # there is none
                start = to = place(text, body) + 1
                rest = bytes(text[1:]).strip()
                new = b'"resource":' + new + (b"" if rest == b"}" else b",")
            else:
                start = place(resource, body)
                to = start + len(memoryview(resource))
            parts += (memoryview(body)[at:start], new)
            at = to
        return (b"".join((*parts, memoryview(body)[at:])) if parts else body), items
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


def _count(items: msgspec.Raw, signal: Signal) -> int:
    """Spans, records, or the data points of metrics."""
    if signal != "metrics":
        return count(items)
    found = 0
    for text in elements(items):
        metric = _metric.decode(text)
        for kind in POINTS:
            data = getattr(metric, kind)
            if data != NULL:
                found += count(_data.decode(data).dataPoints)
    return found


def _texts(value: _Value | None) -> tuple[str, ...]:
    if value is None:
        return ()
    if value.stringValue is not None:
        return (value.stringValue,)
    if value.arrayValue is not None:
        return tuple(v.stringValue for v in value.arrayValue.values or () if v.stringValue is not None)
    return ()
