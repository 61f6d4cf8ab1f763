"""Settings from the environment: OpenTelemetry's standard variables, and ZEROSPAN_<KEY> for each key.

Source of the OTEL_* meanings: the OpenTelemetry specification's pages on the OTLP exporter and on environment
variables (empty = unset, time-outs in milliseconds, headers and attributes percent-decoded; what cannot be
understood is ignored with a warning). ZEROSPAN_* are ours and checked like the file. Called by `load.py`.
"""

import difflib
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
from msgspec import inspect

from zerospan.exporter.config import shape
from zerospan.exporter.config.model import Config
from zerospan.exporter.config.shape import Path
from zerospan.exporter.config.tree import Tree

log = logging.getLogger("zerospan.config")

SIGNALS = ("traces", "logs")
PROTOCOLS = ("http/protobuf", "grpc")
DEFAULT_ENDPOINT = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
# Of one process, not of everything an agent sees: in the agent's environment they would rename every service.
PER_SERVICE = ("service.name", "service.instance.id")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def variables(model: type[msgspec.Struct] = Config, prefix: str = "ZEROSPAN_") -> dict[str, tuple[Path, inspect.Type]]:
    """ZEROSPAN_CAPTURE_RING_BYTES -> (("capture", "ring_bytes"), type), for keys that a variable can hold."""
    found: dict[str, tuple[Path, inspect.Type]] = {}
    for path, field in shape.fields(shape.root(model)):
        kind, _ = shape.bare(field.type)
        if isinstance(kind, inspect.StructType):
            continue
        if isinstance(kind, inspect.VarTupleType) and isinstance(shape.bare(kind.item_type)[0], inspect.StructType):
            continue
        found[prefix + "_".join(path).upper()] = (path, kind)
    return found


def lay_zerospan(
    tree: Tree, env: Mapping[str, str], model: type[msgspec.Struct] = Config, prefix: str = "ZEROSPAN_"
) -> None:
    """Lays ZEROSPAN_<KEY> over `tree`. Warns of a variable near to a known name; others may be anyone's."""
    known = variables(model, prefix)
    for name, value in env.items():
        if not name.startswith(prefix) or not value:
            continue
        if name in known:
            path, kind = known[name]
            tree.set(path, _plain(kind, value), f"environment {name}")
        elif name != f"{prefix}CONFIG" and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.85)):
            log.warning("environment %s: unknown variable, ignored; did you mean %s?", name, near[0])


def _plain(kind: inspect.Type, text: str) -> Any:
    """`text` as the plain value that YAML would give; what does not parse stays text: shape.py complains."""
    kind, _ = shape.bare(kind)
    match kind:
        case inspect.BoolType():
            return True if text.lower() in TRUE else False if text.lower() in FALSE else text
        case inspect.IntType() | inspect.FloatType():
            for number in (int, float):
                try:
                    return number(text)
                except ValueError:
                    pass
            return text
        case inspect.VarTupleType():
            return [_plain(kind.item_type, item.strip()) for item in text.split(",") if item.strip()]
        case inspect.DictType():
            pairs = dict(_pairs(text))
            return text if None in pairs else pairs
    return text


def _pairs(text: str) -> Iterator[tuple[str | None, str]]:
    """`a=1,b=x%20y` as pairs, percent-decoded (W3C Baggage, no properties); (None, "") for no pair."""
    for item in text.split(","):
        if not item.strip():
            continue
        name, equals, value = item.partition("=")
        if equals and name.strip():
            yield unquote(name.strip()), unquote(value.strip())
        else:
            yield None, ""


def lay_otel(tree: Tree, env: Mapping[str, str], named_later: frozenset[Path]) -> None:
    """Lays the OTEL_* variables over `tree`. `named_later`: the keys that layers above will set."""
    for signal in SIGNALS:
        _Signal(tree, env, signal).lay(named_later)
    if text := env.get("OTEL_RESOURCE_ATTRIBUTES", "").strip():
        attributes = _mapping("OTEL_RESOURCE_ATTRIBUTES", text)
        for name in PER_SERVICE:
            if attributes.pop(name, None) is not None:
                log.warning("environment OTEL_RESOURCE_ATTRIBUTES: %s ignored: each service keeps its own", name)
        tree.set(("resource", "attributes"), attributes, "environment OTEL_RESOURCE_ATTRIBUTES")


def _mapping(name: str, text: str) -> dict[str, str]:
    pairs = list(_pairs(text))
    if any(key is None for key, _ in pairs):
        log.warning("environment %s: a part without name=value is ignored", name)  # never the part: may be a secret
    return {key: value for key, value in pairs if key is not None}


class _Signal:
    """The variables of one OTLP signal: its own, OTEL_EXPORTER_OTLP_<SIGNAL>_<X>, go before the general."""

    def __init__(self, tree: Tree, env: Mapping[str, str], signal: str) -> None:
        self.tree, self.env, self.signal = tree, env, signal
        self.section: Path = ("otlp", signal)

    def lay(self, named_later: frozenset[Path]) -> None:
        exporter = f"OTEL_{self.signal.upper()}_EXPORTER"
        wanted = [w for w in (part.strip() for part in self.env.get(exporter, "").split(",")) if w]
        if "none" in wanted:
            self.tree.set(self.section, None, f"environment {exporter}")
            return
        for other in wanted:
            if other != "otlp":
                log.warning("environment %s: %r is not known here, ignored; known: otlp, none", exporter, other[:40])
        protocol = self.protocol()
        name, endpoint = self.variable("ENDPOINT")
        in_file = self.tree.get(self.section) is not None
        if endpoint:
            own = name != "OTEL_EXPORTER_OTLP_ENDPOINT"
            self.put("endpoint", self.url(endpoint, protocol, own), name)
        elif "otlp" in wanted and not in_file:
            self.put("endpoint", self.url(DEFAULT_ENDPOINT[protocol], protocol, False), exporter)
        elif not in_file and (*self.section, "endpoint") not in named_later:
            return  # not asked for: headers or a time-out alone do not switch a signal on
        self.details()

    def details(self) -> None:
        name, text = self.variable("PROTOCOL")
        if text in PROTOCOLS:
            self.put("protocol", text, name)
        elif text:
            log.warning(
                "environment %s: %r is not known here, ignored; known: %s",
                name,
                text[:40],
                ", ".join(PROTOCOLS),
            )
        name, text = self.variable("COMPRESSION")
        if text in ("gzip", "none"):
            self.put("compression", text, name)
        elif text:
            log.warning("environment %s: %r is not known here, ignored; known: gzip, none", name, text[:40])
        name, text = self.variable("HEADERS")
        if text:
            self.put("headers", _mapping(name, text), name)
        name, text = self.variable("TIMEOUT")
        if text.isdecimal() and int(text):
            self.put("timeout_s", int(text) / 1000, name)
        elif text:
            log.warning("environment %s: expected milliseconds, ignored", name)
        for suffix, key in (("CERTIFICATE", "ca"), ("CLIENT_CERTIFICATE", "cert"), ("CLIENT_KEY", "key")):
            name, text = self.variable(suffix)
            if text:
                self.put("tls", text, name, key)
        name, text = self.variable("INSECURE")
        if text:
            self.put("tls", text.lower() == "true", name, "insecure")

    def variable(self, suffix: str) -> tuple[str, str]:
        """The name and the text of the variable that counts; the text is empty where none is set."""
        own = f"OTEL_EXPORTER_OTLP_{self.signal.upper()}_{suffix}"
        name = own if self.env.get(own, "").strip() else f"OTEL_EXPORTER_OTLP_{suffix}"
        return name, self.env.get(name, "").strip()

    def put(self, key: str, value: Any, name: str, *below: str) -> None:
        self.tree.set((*self.section, key, *below), value, f"environment {name}")

    def protocol(self) -> str:
        for text in (
            self.env.get(f"ZEROSPAN_OTLP_{self.signal.upper()}_PROTOCOL"),
            self.variable("PROTOCOL")[1],
            self.tree.get((*self.section, "protocol")),
        ):
            if text in PROTOCOLS:
                return str(text)
        return "http/protobuf"

    def url(self, endpoint: str, protocol: str, own: bool) -> str:
        """The specification's path rule: a signal's own endpoint as it is (no path: /), else base + /v1/X."""
        if protocol == "grpc":
            return endpoint
        try:
            parts = urlsplit(endpoint)
        except ValueError:
            return endpoint  # rules.py says what is wrong with it
        path = (parts.path or "/") if own else f"{parts.path.rstrip('/')}/v1/{self.signal}"
        return urlunsplit(parts._replace(path=path))
