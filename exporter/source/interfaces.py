"""Which interfaces are points of the way, and whose: what rtnetlink says of them, and their roles.

Pure functions over what netlink.py read; nic.py calls them whenever something has changed.

Whose an interface is follows from how namespaces hang together by pairs of veth. A *host* is the initial namespace, or
one at which another hangs that leads nowhere else (a pod), or one with tunnels beside its veths. A veth between a host
and something that is none is a pod's, both its ends; a veth between hosts is an uplink.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from zerospan.exporter.source.netlink import attributes, number, text

Role = Literal["pod", "node", "tunnel"]

IFF_UP = 1
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_LINK_NETNSID = 1, 3, 5, 10, 18, 37
IFLA_INFO_KIND = 1

PAIRS = {"veth", "netkit"}
TUNNELS = {
    "vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl", "vti", "vti6", "xfrm",
    "wireguard", "tun",
}  # fmt: skip
STACKED = {"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"}
AGGREGATES = {"bond", "team"}  # they are watched, their members are not: each packet passes both


@dataclass(frozen=True)
class Link:
    """One interface as rtnetlink tells it."""

    ifindex: int
    name: str
    mac: str
    kind: str  # IFLA_INFO_KIND; "" for a device without one (hardware, virtio), "lo"
    up: bool
    ethernet: bool  # packets begin with an Ethernet header
    peer: int  # ifindex of the other end of a pair, or of the device below; 0: none
    peer_nsid: int | None  # by which the namespace calls the one `peer` is in; None: it is in the same
    master: int


@dataclass(frozen=True)
class Interface:
    """A point that is watched."""

    ifindex: int
    name: str
    netns: int  # inode number
    netns_name: str  # of `ip netns` or a container runtime; may be empty
    netns_cookie: int
    mac: str
    kind: str  # of the kernel: "veth", "vxlan", ...; "" for hardware
    role: Role  # "tunnel" is a node's, too
    peer_ifindex: int  # of a veth's other end; 0: none, or not known
    peer_netns: int  # inode number; 0: not known
    hook: str = ""  # "tcx", "clsact", "packet"
    inside: bool = False  # of a pod: its own end, not the host's


def parse(message: bytes) -> Link:
    """struct ifinfomsg and its attributes."""
    _, device, ifindex, flags, _ = struct.unpack_from("=BxHiII", message)
    found = attributes(message[16:])
    kind = text(attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND))
    address = found.get(IFLA_ADDRESS, b"")
    return Link(
        ifindex=ifindex,
        name=text(found.get(IFLA_IFNAME)),
        mac=":".join(f"{b:02x}" for b in address) if len(address) == 6 else "",
        kind="lo" if device == ARPHRD_LOOPBACK else kind,
        up=bool(flags & IFF_UP),
        ethernet=device in (ARPHRD_ETHER, ARPHRD_LOOPBACK),
        peer=number(found.get(IFLA_LINK)) or 0,
        peer_nsid=number(found.get(IFLA_LINK_NETNSID)),
        master=number(found.get(IFLA_MASTER)) or 0,
    )


def watched(links: Iterable[Link], lo: bool = False) -> list[Link]:
    """Those whose packets are looked at: not bridges, nor what only stands for others, nor what is down."""
    by_index = {link.ifindex: link for link in links}
    out = []
    for link in by_index.values():
        master = by_index.get(link.master)
        if not link.up or (master is not None and master.kind in AGGREGATES):
            continue
        hardware = link.kind == "" and link.ethernet
        if hardware or link.kind in PAIRS | TUNNELS | STACKED | AGGREGATES or (lo and link.kind == "lo"):
            out.append(link)
    return out


Peers = Mapping[tuple[int, int], int]  # (namespace, number it has for another) -> the other's inode
Neighbour = int | tuple[int, int]  # a namespace that was looked at, or one of which only the number is known


def hosts(links: Mapping[int, Iterable[Link]], peers: Peers, first: int) -> set[int]:
    """The namespaces that are hosts; `first`: the initial one, always one if it was looked at."""
    near: dict[int, set[Neighbour]] = {ns: set() for ns in links}
    found = {first} & set(links)
    for ns, mine in links.items():
        kinds = {link.kind for link in mine if link.up}
        if kinds & PAIRS and kinds & TUNNELS - {"tun", "wireguard"}:
            found.add(ns)
        for link in mine:
            if link.kind in PAIRS and link.peer_nsid is not None:
                other = peers.get((ns, link.peer_nsid))
                near[ns].add(other if other is not None else (ns, link.peer_nsid))
    for ns, others in near.items():
        hanging = [o for o in others if isinstance(o, int) and o != first and near.get(o) == {ns}]
        if hanging and len(others) > 1:
            found.add(ns)
    for group in _joined(near):
        if not group & found:  # plain machines on a cable, or all that the filter lets us see of one
            found |= group
    return found


def _joined(near: Mapping[int, set[Neighbour]]) -> list[set[int]]:
    """Namespaces that hang together."""
    left, out = set(near), []
    while left:
        group, todo = set(), [left.pop()]
        while todo:
            ns = todo.pop()
            group.add(ns)
            others = {o for o in near[ns] if isinstance(o, int) and o in left}
            left -= others
            todo += others
        out.append(group)
    return out


def role(link: Link, ns: int, other: int, found: set[int]) -> Role:
    """Whose an interface of namespace `ns` is; `other`: the namespace of a veth's other end, 0 if not known."""
    if link.kind in TUNNELS:
        return "tunnel"
    if link.kind in PAIRS:
        if ns not in found:
            return "pod"
        return "pod" if other and other not in found else "node"
    return "node" if ns in found else "pod"
