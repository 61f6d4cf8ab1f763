"""ctnetlink: the kernel's connection tracking by netlink, only what is translated. One object for a network namespace.

Message and attribute numbers: linux/netfilter/nfnetlink_conntrack.h; nf_conntrack_netlink.c. Needs CAP_NET_ADMIN in the
namespace (and CAP_SYS_ADMIN to enter another one). Bytes of the kernel, checked all the same. Used by conntrack.py.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from zerospan.enricher.keys import packed_v4
from zerospan.exporter.source.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    Netlink,
    attribute,
    attributes,
    messages,
)

CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_TIMESTAMP, CTA_STATUS_MASK = 1, 2, 3, 20, 26
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
IPS_SRC_NAT, IPS_DST_NAT = 0x10, 0x20
IPS_NAT = IPS_SRC_NAT | IPS_DST_NAT
NEW_AND_DESTROY = 1 << 0 | 1 << 2  # NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY
NFGENMSG = 4  # struct nfgenmsg: family, version, res_id
SO_RCVBUFFORCE = 33
RECEIVE_BYTES = 1 << 16
READS, READS_LOST = 256, 1 << 20  # datagrams at once
# Classic BPF on the socket: what is not translated is dropped in the kernel, before it wakes us. The attribute of the
# status is sought behind struct nlmsghdr and struct nfgenmsg (SKF_AD_NLATTR); its value is in network byte order.
SKF_AD_NLATTR = 0xFFFFF000 + 12
FILTER = (
    (0x00, 0, 0, 16 + NFGENMSG),  # A = where attributes begin
    (0x01, 0, 0, CTA_STATUS),  # X = which
    (0x20, 0, 0, SKF_AD_NLATTR),  # A = where it is; 0: nowhere
    (0x15, 4, 0, 0),
    (0x07, 0, 0, 0),  # X = A
    (0x40, 0, 0, 4),  # A = its value
    (0x45, 0, 1, IPS_NAT),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)


class Event(NamedTuple):
    """ended: the kernel has forgotten it. at_ns: Unix time that the kernel wrote, 0 where it keeps none."""

    original: bytes
    reply: bytes
    ended: bool
    at_ns: int


class Conntrack:
    """Of the namespace in which the calling thread is. dump() after this: what comes in between is told twice."""

    def __init__(self, receive_bytes: int) -> None:
        self.socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
        )
        try:
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_bytes)
            except PermissionError:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            code = b"".join(struct.pack("=HBBI", *line) for line in FILTER)
            kept = ctypes.create_string_buffer(code, len(code))
            program = struct.pack("HxxxxxxP" if ctypes.sizeof(ctypes.c_void_p) == 8 else "HxxP", len(FILTER),
                                  ctypes.addressof(kept))  # fmt: skip
            self.socket.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
            self.socket.bind((0, NEW_AND_DESTROY))
            self._requests = Netlink(NETLINK_NETFILTER)
        except BaseException:
            self.socket.close()
            raise

    def dump(self) -> Iterator[Event]:
        """All translated connections: two passes, since the kernel's filter compares bits with one value."""
        for bit in (IPS_SRC_NAT, IPS_DST_NAT):
            value = struct.pack(">I", bit)
            body = bytes(NFGENMSG) + attribute(CTA_STATUS, value) + attribute(CTA_STATUS_MASK, value)
            for kind, content in self._requests.answers(CT_GET, NLM_F_DUMP, body):
                event = parse(kind, content)
                if event is not None:
                    yield event

    def read(self) -> tuple[list[Event], bool]:
        """What has happened since the last call, some hundreds at most; False if the kernel lost events (ENOBUFS): then
        all that it still holds is read, so that nothing older than a dump comes after it.
        """
        events: list[Event] = []
        whole = True
        rounds = READS
        while rounds > 0:
            rounds -= 1
            try:
                data = self.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                whole, rounds = False, READS_LOST
                continue
            for kind, content in messages(data):
                event = parse(kind, content)
                if event is not None:
                    events.append(event)
        return events, whole

    def close(self) -> None:
        self.socket.close()
        self._requests.close()


def parse(kind: int, content: bytes) -> Event | None:
    """One message; None if it is none of a translated connection with ports."""
    if kind not in (CT_NEW, CT_DELETE) or len(content) < NFGENMSG:
        return None
    found = attributes(content[NFGENMSG:])
    status = found.get(CTA_STATUS, b"")
    if len(status) != 4 or not int.from_bytes(status, "big") & IPS_NAT:
        return None
    original, reply = _tuple(found.get(CTA_TUPLE_ORIG, b"")), _tuple(found.get(CTA_TUPLE_REPLY, b""))
    if not original or not reply or (original[:18] == reply[18:36] and original[18:36] == reply[:18]):
        return None
    times = attributes(found.get(CTA_TIMESTAMP, b""))
    at = times.get(2 if kind == CT_DELETE else 1, b"")  # CTA_TIMESTAMP_STOP, CTA_TIMESTAMP_START
    return Event(original, reply, kind == CT_DELETE, int.from_bytes(at, "big") if len(at) == 8 else 0)


def _tuple(data: bytes) -> bytes:
    """37 bytes as keys.CONNECTION has them; b"" if it is none with ports."""
    parts = attributes(data)
    ip, proto = attributes(parts.get(CTA_TUPLE_IP, b"")), attributes(parts.get(CTA_TUPLE_PROTO, b""))
    source = _address(ip.get(CTA_IP_V4_SRC), ip.get(CTA_IP_V6_SRC))
    destination = _address(ip.get(CTA_IP_V4_DST), ip.get(CTA_IP_V6_DST))
    from_port, to_port = proto.get(CTA_PROTO_SRC_PORT, b""), proto.get(CTA_PROTO_DST_PORT, b"")
    number = proto.get(CTA_PROTO_NUM, b"")
    made = source + from_port + destination + to_port + number
    whole = len(source) == len(destination) == 16 and len(from_port) == len(to_port) == 2 and len(number) == 1
    return made if whole else b""


def _address(v4: bytes | None, v6: bytes | None) -> bytes:
    return packed_v4(v4) if v4 is not None and len(v4) == 4 else v6 or b""
