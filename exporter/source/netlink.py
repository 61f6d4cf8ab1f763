"""rtnetlink: the interfaces of a network namespace, clsact filters, and what changes. rtnetlink(7), RFC 3549.

A socket belongs to the namespace in which it was made, wherever its owner goes later. Errors are OSError with the
kernel's errno. Used by netns.py and nic_attach.py, by one thread; by the enricher's conntrack for nfnetlink.
"""

import os
import socket
import struct
from collections.abc import Iterator

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
RTMGRP_LINK = 1
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
RTM_GETNSID = 90
NETNSA_NSID, NETNSA_FD = 1, 3
NESTED = 0x3FFF  # the type of an attribute without its flags
HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
RECEIVE_BYTES = 1 << 18

Message = tuple[int, bytes]


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute (struct rtattr), padded."""
    return ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type; what does not fit is left out."""
    out, at = {}, 0
    while at + 4 <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > len(data):
            break
        out[kind & NESTED] = data[at + 4 : at + length]
        at += length + 3 & ~3
    return out


def text(value: bytes | None) -> str:
    """A NUL-terminated attribute."""
    return (value or b"").split(b"\0", 1)[0].decode(errors="replace")


def number(value: bytes | None) -> int | None:
    """A signed 32-bit attribute; None if there is none."""
    return int(struct.unpack("=i", value)[0]) if value is not None and len(value) == 4 else None


def messages(data: bytes) -> Iterator[Message]:
    """(type, body) of each message of one datagram."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        if length < HEADER.size or at + length > len(data):
            return
        yield kind, data[at + HEADER.size : at + length]
        at += length + 3 & ~3


class Netlink:
    """Requests in the namespace in which the calling thread is when this is made."""

    def __init__(self, family: int = NETLINK_ROUTE) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self.socket.settimeout(5)
        self._number = 0

    def request(self, kind: int, flags: int, body: bytes) -> list[Message]:
        """Sends one request and collects its answers until its end or acknowledgement."""
        return list(self.answers(kind, flags, body))

    def answers(self, kind: int, flags: int, body: bytes) -> Iterator[Message]:
        """As request(), each answer as it comes: for tables that are large. Must be read to its end, or closed."""
        self._number += 1
        number = self._number
        head = HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, number, 0)
        self.socket.send(head + body)
        while True:
            data = self.socket.recv(RECEIVE_BYTES)
            at = 0
            while at + HEADER.size <= len(data):
                length, answer, _, echoed, _ = HEADER.unpack_from(data, at)
                if length < HEADER.size:
                    break
                content = data[at + HEADER.size : at + length]
                at += length + 3 & ~3
                if echoed != number:
                    continue  # the rest of an answer that was given up
                if answer == NLMSG_ERROR:
                    error = -struct.unpack_from("=i", content)[0]
                    if error:
                        raise OSError(error, os.strerror(error))
                    return
                if answer == NLMSG_DONE:
                    return
                yield answer, content
                if not flags & (NLM_F_DUMP | NLM_F_ACK):
                    return

    def links(self) -> list[bytes]:
        """struct ifinfomsg and attributes of each interface."""
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        return [content for kind, content in self.request(RTM_GETLINK, NLM_F_DUMP, body) if kind == RTM_NEWLINK]

    def nsid(self, netns_fd: int) -> int | None:
        """The number by which this namespace's interfaces call another one (IFLA_LINK_NETNSID); None: it has none."""
        body = struct.pack("=Bxxx", 0) + attribute(NETNSA_FD, struct.pack("=I", netns_fd))
        for _, content in self.request(RTM_GETNSID, 0, body):
            found = number(attributes(content[4:]).get(NETNSA_NSID))
            return found if found is not None and found >= 0 else None
        return None

    def close(self) -> None:
        self.socket.close()


class Changes:
    """Notifications of interfaces that came, changed and went, of the namespace in which this is made."""

    def __init__(self) -> None:
        self.socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_ROUTE
        )
        self.socket.bind((0, RTMGRP_LINK))

    def read(self) -> tuple[bool, set[int]]:
        """(whether anything changed, numbers of the interfaces that are gone) since the last call."""
        changed = False
        gone: set[int] = set()
        while True:
            try:
                data = self.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return changed, gone
            except OSError:  # ENOBUFS: more than the socket holds
                changed = True
                continue
            changed = True
            for kind, content in messages(data):
                if kind == RTM_DELLINK and len(content) >= 16:
                    family, ifindex = struct.unpack_from("=Bxxxi", content)
                    if family == 0:  # AF_BRIDGE says that a bridge lost a port
                        gone.add(ifindex)

    def close(self) -> None:
        self.socket.close()
