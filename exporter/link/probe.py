"""Tries the store of shared links out, as the agent uses it: can it be reached, does it take and give values, how fast.

For `zerospan check`. Connects by store.py, writes one value to each node under a name of its own (`zs1:p:...`,
inside the pattern that an ACL gives agents), which is gone after a second. Blocking; no message holds a password.
"""

import binascii
import contextlib
import os
import statistics
import time
from socket import socket
from typing import Literal

import msgspec

from zerospan.exporter.config.secret import Url
from zerospan.exporter.link.store import MEMORY, SLOTS, Nodes, Store, StoreError, ask, connect, parse

ROUNDS = 10
VALUE = "zerospan check"
TTL_MS = 1000


class Probe(msgspec.Struct, frozen=True):
    """What came of it. state: "fail" if links would not be shared. latency_ms: of a round with the slowest node."""

    state: Literal["ok", "info", "warn", "fail"]
    text: str
    fix: str = ""
    latency_ms: float = 0.0


def probe(url: Url, *, timeout_s: float = 1.0, hold_s: float = 2.0) -> Probe:
    """url: configuration `links`; timeout_s, hold_s: link.shared_timeout_s, link.hold_s."""
    if url.reveal() == MEMORY:
        return Probe("info", "memory: of this host only; agents of several hosts need redis://")
    try:
        store = parse(url)
        nodes = connect(store, timeout_s)
    except (ValueError, StoreError) as e:
        return Probe("fail", f"{url}: {e}", hint(str(e)))
    with contextlib.ExitStack() as stack:
        for one in nodes.sockets:
            stack.callback(one.close)
            one.settimeout(timeout_s)
        try:
            took = [round_trip(one, names) for one, names in zip(nodes.sockets, names_of(nodes), strict=True)]
        except TimeoutError:
            return Probe("fail", f"{url} takes longer than {timeout_s:g} s for a value", "raise link.shared_timeout_s")
        except (OSError, ValueError, StoreError) as e:
            return Probe("fail", f"{url} can be reached, but: {e}", hint(str(e)))
        text = f"{url}: {version(nodes.sockets[0])}, {form(store, nodes)}, takes and gives values"
    slowest = max(took)
    text += f" in {1000 * slowest:.1f} ms"
    if slowest * 6 > hold_s:
        fix = "a trace over three hosts needs about six rounds within link.hold_s: raise it, or bring the store nearer"
        return Probe("warn", f"{text}; link.hold_s is {hold_s:g} s", fix, 1000 * slowest)
    return Probe("ok", text, "", 1000 * slowest)


def form(store: Store, nodes: Nodes) -> str:
    """What kind of store it is, for people."""
    kind = {"single": "one server", "sentinel": f"master {store.master!r} by its sentinels",
            "cluster": f"a cluster of {len(nodes.sockets)} masters"}[store.kind]  # fmt: skip
    return f"{kind} over TLS" if store.tls else kind


def names_of(nodes: Nodes) -> list[list[str]]:
    """Names that each node has: in different slots, so that one node of a cluster is not taken for all of it."""
    if nodes.owners is None:
        return [[name() for _ in range(ROUNDS)] for _ in nodes.sockets]
    missing = nodes.owners.count(0xFFFF)
    if missing:
        raise StoreError(f"the cluster serves only {SLOTS - missing} of {SLOTS} slots")
    found: list[list[str]] = [[] for _ in nodes.sockets]
    while any(len(of) < ROUNDS for of in found):
        made = name()
        of = found[nodes.owners[slot_of(made)]]
        if len(of) < ROUNDS:
            of.append(made)
    return found


def name() -> str:
    """A new one."""
    return f"zs1:p:{os.urandom(8).hex()}"


def slot_of(name: str) -> int:
    """Of a cluster ("Redis cluster specification"): CRC-16/XMODEM modulo 16384."""
    return binascii.crc_hqx(name.encode(), 0) % SLOTS


def round_trip(s: socket, names: list[str]) -> float:
    """Seconds for writing a value or for reading it, the median of some. Raises StoreError if it does not come back."""
    took = []
    for number, name in enumerate(names):
        value = f"{VALUE} {number}"
        for words, wanted in ((("SET", name, value, "PX", str(TTL_MS)), b"OK"), (("MGET", name), [value.encode()])):
            began = time.monotonic()
            said = ask(s, *words)
            took.append(time.monotonic() - began)
            if said != wanted:
                raise StoreError(f"{words[0]}: what was written did not come back: is it a Redis?")
    return statistics.median(took)


def version(s: socket) -> str:
    """As the server calls itself; it need not say."""
    try:
        said = ask(s, "INFO", "server")
    except StoreError:
        return "a server whose version this user may not see"
    lines = said.decode("utf-8", "replace").split("\r\n") if isinstance(said, bytes) else []
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    for name, key in (("Valkey", "valkey_version"), ("Redis", "redis_version")):
        if key in found:
            return f"{name} {found[key][:40]}"
    return "a server without a version"


def hint(said: str) -> str:
    """What to do about an error."""
    for word, text in (
        ("WRONGPASS", "correct the user and the password in `links`"),
        ("NOAUTH", "give a password: redis://USER:PASSWORD@HOST"),
        ("NOPERM", "the user needs SET, GET, MGET on ~zs1:* (ACL SETUSER)"),
        ("READONLY", "this is a replica: name the master, or use redis+sentinel://HOST/MASTER"),
        ("MOVED", "this is a node of a cluster: use redis+cluster://"),
        ("cluster support disabled", "this is no cluster: use redis://"),
        ("OOM", "the store's memory is full: raise its maxmemory, or set maxmemory-policy volatile-ttl"),
        ("certificate", "give the authority's certificate: ?ssl_ca_certs=FILE"),
        ("CERTIFICATE", "give the authority's certificate: ?ssl_ca_certs=FILE"),
        ("SSL", "is it a port for TLS? redis:// is without"),
        ("knows no master", "name the master as the sentinels do: redis+sentinel://HOST/MASTER"),
    ):
        if word in said:
            return text
    return "start the store, or correct `links`; until then traces end at each host"
