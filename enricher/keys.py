"""Keys: what tags are looked up by. A key is bytes: one letter for its kind, then the thing itself, small.

Made by sources and faces, compared by the store, sent as they are by the tag service (wire/tags.proto): so they mean
the same on every machine.
"""

import ipaddress
import re

ADDRESS = b"a"  # 16 bytes, network order; IPv4 is v4-mapped (RFC 4291, 2.5.5.2)
ENDPOINT = b"e"  # an address, the port (2 bytes, big-endian) and the IP protocol (1 byte): node ports, host ports
CONTAINER = b"c"  # container id: 32 bytes where it is 64 hexadecimal digits, else its text
POD = b"u"  # pod uid: 16 bytes where it is a UUID, else its text
NODE = b"n"  # the node's (host's) name, UTF-8
PROCESS = b"p"  # node's name, a NUL, pid in decimal digits
CONNECTION = (
    b"f"  # both ends of one connection as one end sees it: own address and port, peer's, IP protocol (37 bytes)
)

TCP, UDP = 6, 17
_MAPPED = bytes(10) + b"\xff\xff"
_HEX64 = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def packed(text: str) -> bytes:
    """16 bytes of an IP address in text form (a zone is left out). ValueError if it is none."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    return _MAPPED + ip.packed if ip.version == 4 else ip.packed


def packed_v4(address: bytes) -> bytes:
    """16 bytes of the 4 bytes of an IPv4 address."""
    return _MAPPED + address


def unpacked(address: bytes) -> str:
    """The text form of 16 bytes; v4-mapped addresses as IPv4."""
    if address.startswith(_MAPPED):
        return str(ipaddress.IPv4Address(address[12:]))
    return str(ipaddress.IPv6Address(address))


def address(text: str) -> bytes:
    """Key of an IP address in text form. ValueError if it is none."""
    return ADDRESS + packed(text)


def endpoint(text: str, port: int, protocol: int = TCP) -> bytes:
    """Key of a port of an address. ValueError if the address is none."""
    return ENDPOINT + packed(text) + port.to_bytes(2, "big") + bytes((protocol,))


def container(container_id: str) -> bytes:
    """Key of a container by its id; the runtime's prefix ("containerd://") may stand before it."""
    text = container_id.rpartition("://")[2]
    return CONTAINER + (bytes.fromhex(text) if _HEX64.fullmatch(text) else text.encode())


def pod(uid: str) -> bytes:
    """Key of a pod by its uid; the underscores of systemd's cgroup names are dashes."""
    text = uid.replace("_", "-")
    return POD + (bytes.fromhex(text.replace("-", "")) if _UUID.fullmatch(text) else text.encode())


def node(name: str) -> bytes:
    """Key of a node or host by its name."""
    return NODE + name.encode()


def process(node_name: str, pid: int) -> bytes:
    """Key of a process of a node."""
    return PROCESS + node_name.encode() + b"\0" + str(pid).encode()


def connection(own: str, port: int, peer: str, peer_port: int, protocol: int = TCP) -> bytes:
    """Key of a connection as the end `own` sees it; asks who its peer really is, behind NAT. Never in the store."""
    ends = packed(own) + port.to_bytes(2, "big") + packed(peer) + peer_port.to_bytes(2, "big")
    return CONNECTION + ends + bytes((protocol,))


def show(key: bytes) -> str:
    """For people and logs: "address 10.0.0.7", "endpoint 10.0.0.7:80/tcp"."""
    kind, rest = key[:1], key[1:]
    if kind == ADDRESS and len(rest) == 16:
        return f"address {unpacked(rest)}"
    if kind == ENDPOINT and len(rest) == 19:
        protocol = {TCP: "tcp", UDP: "udp"}.get(rest[18], str(rest[18]))
        return f"endpoint {unpacked(rest[:16])}:{int.from_bytes(rest[16:18], 'big')}/{protocol}"
    if kind == CONNECTION and len(rest) == 37:
        ends = (f"{unpacked(rest[at : at + 16])}:{int.from_bytes(rest[at + 16 : at + 18], 'big')}" for at in (0, 18))
        return "connection " + " -> ".join(ends)
    if kind == CONTAINER:
        return f"container {rest.hex() if len(rest) == 32 else rest.decode('utf-8', 'replace')}"
    if kind == POD:
        return f"pod {rest.hex() if len(rest) == 16 else rest.decode('utf-8', 'replace')}"
    if kind == NODE:
        return f"node {rest.decode('utf-8', 'replace')}"
    if kind == PROCESS:
        return "process " + rest.decode("utf-8", "replace").replace("\0", " ")
    return f"key {key.hex()}"
