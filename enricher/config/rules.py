"""What must hold between the enricher's settings that are each right by themselves. Called by the loader.

A source or the proxy whose module has `problems(config)` beside its settings is asked, too: it tells (path, text) or
text alone.
"""

import importlib
import ipaddress
from collections.abc import Iterator
from typing import Any

from zerospan.enricher.config.model import Config
from zerospan.enricher.sources import registry
from zerospan.exporter.config.rules import listen_address
from zerospan.exporter.config.shape import Path

Problem = tuple[Path, str]


def problems(config: Config) -> Iterator[Problem]:
    """Each contradiction, with its key."""
    security = config.security
    if (security.cert is None) != (security.key is None):
        yield ("security",), "cert and key need each other"
    if security.client_ca is not None and security.cert is None:
        yield ("security", "client_ca"), "needs cert and key: client certificates are asked for within TLS"
    guarded = bool(security.tokens or security.token_files or security.client_ca)
    faces = [("listen", name, getattr(config.listen, name)) for name in ("grpc", "http")]
    faces += [("proxy", name, getattr(config.proxy, name, None)) for name in ("listen_grpc", "listen_http")]
    for section, name, address in faces:
        if address is None:
            continue
        try:
            host, _ = listen_address(address)
        except ValueError as e:
            if section != "proxy":  # which tells its own, below
                yield (section, name), str(e)
            continue
        if not (guarded or security.anyone or loopback(host)):
            yield (
                (section, name),
                "beyond loopback a caller needs rights: set security.tokens, .token_files or .client_ca (or .anyone)",
            )
    if any(not secret.reveal() for secret in security.tokens):
        yield ("security", "tokens"), "a token that is empty"
    if config.listen.grpc is None and config.listen.unix is None and config.listen.http is None and not config.proxy:
        yield ("listen",), "there is no face: set grpc, unix or http"
    if config.upstream is not None:
        if config.scope != "node":
            yield ("upstream",), "only an enricher of scope `node` follows another one"
        if bool(config.upstream.cert) != bool(config.upstream.key):
            yield ("upstream",), "cert and key need each other"
    for name in config.sources.__struct_fields__:
        settings = getattr(config.sources, name)
        asked_for = getattr(settings, "enabled", False) and not type(settings)().enabled
        if config.scope == "cluster" and registry.SOURCES[name].of_node and asked_for:
            yield ("sources", name, "enabled"), "knows one host only: for scope `node`"
        yield from _of(("sources", name), settings)
    if config.proxy is not None:
        yield from _of(("proxy",), config.proxy)


def loopback(host: str) -> bool:
    """Whether only this host reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _of(at: Path, config: Any) -> Iterator[Problem]:
    ask = getattr(importlib.import_module(type(config).__module__), "problems", None)
    for problem in ask(config) if ask is not None else ():
        if isinstance(problem, str):
            yield at, problem
        else:
            yield (*at, *problem[0]), problem[1]
