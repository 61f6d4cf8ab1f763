"""Tries the enricher out, as the agent uses it: does it answer, may this agent ask, does it serve this node.

For `zerospan check`. Asks once for the key of the node (enricher/client.py's resolve()); nothing is changed anywhere.
Blocking; no message holds a token. Needs grpcio where an enricher is configured.
"""

import time
from typing import Literal

import msgspec

from zerospan.exporter.config.model import Enricher
from zerospan.exporter.config.tree import ConfigError
from zerospan.exporter.tags.follow import access, node_of

TIMEOUT_S = 5.0
START = "start it (`zerospan enricher run`), or correct enricher.address"


class Probe(msgspec.Struct, frozen=True):
    """What came of it. state: "fail" if nothing would get tags. latency_ms: of the question."""

    state: Literal["ok", "info", "warn", "fail"]
    text: str
    fix: str = ""
    latency_ms: float = 0.0


def probe(config: Enricher, *, timeout_s: float = TIMEOUT_S) -> Probe:
    """config: enricher.*"""
    if config.address == "off":
        return Probe("info", "off: what addresses and containers are is not known")
    try:
        address, security = access(config)
    except ConfigError as e:
        what, _, fix = "; ".join(e.problems).partition("; ")
        return Probe("fail", what, fix)
    from zerospan.enricher import keys
    from zerospan.enricher.client import resolve

    node = node_of(config)
    began = time.monotonic()
    try:
        told = resolve(address, [keys.node(node)], security, timeout_s=timeout_s)
    except (OSError, ValueError) as e:
        return Probe("fail", str(e), hint(str(e)))
    took_ms = 1000 * (time.monotonic() - began)
    answers = f"{config.address} answers in {took_ms:.1f} ms"
    known = any(not piece.until_ns for binding in told.bindings for piece in binding.pieces)
    if not told.in_sync:
        text = f"{answers}, but has not seen all yet{'' if known else f', nor node {node}'}"
        return Probe("warn", text, "what it waits for is said by `zerospan enricher run`", took_ms)
    if not known:
        fix = "set enricher.node as the enricher has it (its `node`; in Kubernetes spec.nodeName)"
        return Probe("fail", f"{answers}, but knows no node {node}", fix, took_ms)
    return Probe("ok", f"{answers} and serves node {node}", "", took_ms)


def hint(said: str) -> str:
    """What to do about an error."""
    for word, text in (
        ("UNAUTHENTICATED", "give one of its tokens: enricher.token_file"),
        ("CERTIFICATE_VERIFY_FAILED", "give the authority's certificate: enricher.tls.ca"),
        ("SSL", "do both sides use TLS? enricher.tls; with mTLS it wants enricher.tls.cert, too"),
        ("Hostname", "say the name in its certificate: enricher.tls.server_name"),
        ("UNIMPLEMENTED", "that is no enricher's tag service: correct enricher.address"),
        ("permission denied", "let the agent and the enricher run as the same user"),
    ):
        if word in said:
            return text
    return START
