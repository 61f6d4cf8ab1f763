"""Packets made by hand: TCP over IPv4 and IPv6 with all that may stand before it, in every tunnel."""

import socket
import struct

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
A4, B4 = "10.1.0.1", "10.2.0.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
OUT4 = "192.0.2.1", "192.0.2.2"
OUT6 = "2001:db8:f::1", "2001:db8:f::2"
IP4, IP6, TEB = 0x0800, 0x86DD, 0x6558
HOPS, ROUTING, FRAGMENT, AUTH, OPTIONS = 0, 43, 44, 51, 60


def tcp(port: int, payload: bytes = b"", *, seq: int = 1000, ack: int = 0, flags: int = ACK, back: bool = False,
        options: bytes = b"", offset: int | None = None) -> bytes:  # fmt: skip
    ports = (port, 80)[::-1] if back else (port, 80)
    size = 5 + len(options) // 4 if offset is None else offset
    return struct.pack("!HHIIBBHHH", *ports, seq, ack, size << 4, flags, 1000, 0, 0) + options + payload


def ip4(body: bytes, ends: tuple[str, str] = (A4, B4), proto: int = 6, *, options: bytes = b"", fragment: int = 0,
        total: int | None = None, ihl: int | None = None) -> bytes:  # fmt: skip
    words = 5 + len(options) // 4
    size = words * 4 + len(body) if total is None else total
    addresses = socket.inet_aton(ends[0]) + socket.inet_aton(ends[1])
    head = struct.pack("!BBHHHBBH", 0x40 | (words if ihl is None else ihl), 0, size, 7, fragment, 64, proto, 0)
    return head + addresses + options + body


def ip6(body: bytes, ends: tuple[str, str] = (A6, B6), proto: int = 6, *, total: int | None = None) -> bytes:
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, end) for end in ends)
    return struct.pack("!IHBB", 6 << 28, len(body) if total is None else total, proto, 64) + addresses + body


def extended(body: bytes, *headers: tuple[int, bytes], ends: tuple[str, str] = (A6, B6), last: int = 6) -> bytes:
    """IPv6 extension headers (RFC 8200): (type, content without the first byte), in order."""
    kinds = [kind for kind, _ in headers] + [last]
    chain = b"".join(bytes([kinds[i + 1]]) + content for i, (_, content) in enumerate(headers))
    return ip6(chain + body, ends, kinds[0])


def padding(units: int = 0) -> bytes:
    """Content of an options header of 8 * (units + 1) bytes."""
    return bytes([units]) + bytes([1, 4 + 8 * units]) + bytes(4 + 8 * units)


def fragment6(place: int = 0, more: bool = True) -> bytes:
    return struct.pack("!xHI", place << 3 | more, 99)


def auth(words: int = 4) -> bytes:
    """RFC 4302: the length counts 4-byte units minus 2."""
    return bytes([words]) + bytes((words + 2) * 4 - 2)


def ethernet(kind: int, body: bytes, *tags: tuple[int, int]) -> bytes:
    """IEEE 802.1Q tags: (Ethertype, VLAN)."""
    kinds = [kind_ for kind_, _ in tags] + [kind]
    marks = b"".join(struct.pack("!HH", 0x6000 | vlan, kinds[i + 1]) for i, (_, vlan) in enumerate(tags))
    return b"\2\0\0\0\0\2\2\0\0\0\0\1" + struct.pack("!H", kinds[0]) + marks + body


def udp(port: int, body: bytes) -> bytes:
    return struct.pack("!HHHH", 54321, port, 8 + len(body), 0) + body


def vxlan(vni: int, frame: bytes, port: int = 4789, flags: int = 0x08) -> bytes:
    """RFC 7348."""
    return udp(port, struct.pack("!B3xI", flags, vni << 8) + frame)


def geneve(vni: int, body: bytes, kind: int = TEB, options: bytes = b"", first: int = 0, flags: int = 0) -> bytes:
    """RFC 8926."""
    return udp(6081, struct.pack("!BBHI", first | len(options) // 4, flags, kind, vni << 8) + options + body)


def gre(body: bytes, kind: int, *, key: int | None = None, check: bool = False, number: bool = False,
        extra: int = 0) -> bytes:  # fmt: skip
    """RFC 2784, 2890."""
    flags = extra | (0x8000 if check else 0) | (0x2000 if key is not None else 0) | (0x1000 if number else 0)
    parts = [struct.pack("!HH", flags, kind)]
    parts += [bytes(4)] if check else []
    parts += [struct.pack("!I", key)] if key is not None else []
    parts += [struct.pack("!I", 5)] if number else []
    return b"".join(parts) + body
