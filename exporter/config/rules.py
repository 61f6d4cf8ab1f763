"""What must hold between values that are each right by themselves. Called by `load.py`.

A message never holds the value of a header or the secret part of a URL.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from zerospan.exporter.config.env import PER_SERVICE
from zerospan.exporter.config.model import Config, Loki, OtlpSignal, Tls
from zerospan.exporter.config.secret import Secret, Url
from zerospan.exporter.config.shape import Path
from zerospan.exporter.link.store import MEMORY, parse

Problem = tuple[Path, str]

ENRICHER = re.compile(r"off|unix:/.+|(?:[^\s/@:\[\]]+|\[[0-9A-Fa-f:.%a-z]+\]):([0-9]{1,5})")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2, token
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 section 5.5
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")  # Prometheus' and Loki's label names
LOKI_LABELS, LOKI_LABEL_BYTES = 15, 2048  # Loki's default limits
RESERVED = ("content-type", "content-encoding", "content-length", "transfer-encoding", "host", "connection")


def problems(config: Config) -> Iterator[Problem]:
    """Each contradiction, with its key."""
    if config.link.max_hold_s < config.link.hold_s:
        yield ("link", "max_hold_s"), f"must not be less than link.hold_s ({config.link.hold_s:g})"
    if config.links.reveal() != MEMORY:
        try:
            parse(config.links)
        except ValueError as e:
            yield ("links",), str(e)
    if config.metrics.listen is not None:
        try:
            listen_address(config.metrics.listen)
        except ValueError as e:
            yield ("metrics", "listen"), str(e)
    address = ENRICHER.fullmatch(config.enricher.address)
    if address is None or (address[1] and not 0 < int(address[1]) < 65536):
        yield ("enricher", "address"), "expected unix:///PATH, HOST:PORT ([IPV6]:PORT, ports 1 to 65535) or off"
    for i, rule in enumerate(config.service.rules):
        if rule.match.exe is None and rule.match.cmdline is None:
            yield (
                ("service", "rules", str(i), "match"),
                "needs exe or cmdline; without both it would name every process",
            )
    for name in config.resource.attributes:
        if not name:
            yield ("resource", "attributes"), "an attribute without a name"
        if name in PER_SERVICE:
            yield (
                ("resource", "attributes", name),
                "each service keeps its own; use service.rules to name services",
            )
    if config.files.traces is not None and config.files.traces == config.files.logs != "-":
        yield ("files", "logs"), "must not be the file of files.traces"
    for signal, receiver in (("traces", config.otlp.traces), ("logs", config.otlp.logs)):
        if receiver is not None:
            yield from _otlp(("otlp", signal), receiver)
    if config.loki is not None:
        yield from _loki(config.loki)


def listen_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPV6]:PORT` as (host, port); an empty host is every address. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^\s:\[\]/]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"expected HOST:PORT (127.0.0.1:9464, [::1]:9464), got {text[:60]!r}")
    return match[1] or match[2], int(match[3])


def _otlp(path: Path, receiver: OtlpSignal) -> Iterator[Problem]:
    grpc = receiver.protocol == "grpc"
    yield from _url((*path, "endpoint"), receiver.endpoint, scheme_needed=not grpc)
    if grpc and "@" in receiver.endpoint.reveal():
        yield (*path, "endpoint"), "gRPC has no user and password in a URL; use headers"
    yield from _headers((*path, "headers"), receiver.headers)
    yield from _tls((*path, "tls"), receiver.tls)
    if grpc and receiver.tls.insecure_skip_verify:
        yield (
            (*path, "tls", "insecure_skip_verify"),
            "not possible with gRPC; give the receiver's CA as tls.ca",
        )


def _loki(loki: Loki) -> Iterator[Problem]:
    yield from _url(("loki", "url"), loki.url, scheme_needed=True)
    yield from _headers(("loki", "headers"), loki.headers)
    yield from _tls(("loki", "tls"), loki.tls)
    if loki.tenant is not None and not re.fullmatch(r"[\x21-\x7e]{1,150}", loki.tenant):
        yield ("loki", "tenant"), "expected 1 to 150 visible ASCII characters"
    for name, value in loki.labels.items():
        if not LABEL_NAME.fullmatch(name):
            yield ("loki", "labels", name), "not a label name: letters, digits and _, no digit first"
        if not value or len(value.encode()) > LOKI_LABEL_BYTES:
            yield ("loki", "labels", name), f"a label value has 1 to {LOKI_LABEL_BYTES} bytes"
    if len(loki.labels) > LOKI_LABELS:
        yield ("loki", "labels"), f"Loki takes at most {LOKI_LABELS} labels a stream; each costs streams"


def _url(path: Path, url: Url, scheme_needed: bool) -> Iterator[Problem]:
    text = url.reveal()
    try:
        parts = urlsplit(text if "://" in text else "//" + text)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    else:
        good = good and parts.scheme in (("http", "https") if scheme_needed else ("http", "https", ""))
    if not good or not re.fullmatch(r"[\x21-\x7e]+", text):
        form = (
            "http://HOST:PORT/PATH or https://..."
            if scheme_needed
            else "http://HOST:PORT, https://HOST:PORT or HOST:PORT"
        )
        yield path, f"expected {form}, got {str(url)[:80]!r}"


def _headers(path: Path, headers: dict[str, Secret]) -> Iterator[Problem]:
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name):
            yield path, "a name that is no header name (RFC 9110: letters, digits, -, no space or colon)"
        elif name.lower() in RESERVED:
            yield (*path, name), "is set by the agent itself"
        elif not HEADER_VALUE.fullmatch(value.reveal()):
            yield (
                (*path, name),
                "the value has a line end or a character that a header cannot hold (value not shown)",
            )


def _tls(path: Path, tls: Tls) -> Iterator[Problem]:
    if (tls.cert is None) != (tls.key is None):
        missing = "key" if tls.key is None else "cert"
        yield (*path, missing), "missing: a client certificate needs both tls.cert and tls.key"
