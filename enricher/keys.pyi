ADDRESS: bytes  # 16 bytes, network order; IPv4 is v4-mapped (RFC 4291, 2.5.5.2)
ENDPOINT: bytes  # an address, the port (2 bytes, big-endian) and the IP protocol (1 byte): node ports, host ports
CONTAINER: bytes  # container id: 32 bytes where it is 64 hexadecimal digits, else its text
POD: bytes  # pod uid: 16 bytes where it is a UUID, else its text
NODE: bytes  # the node's (host's) name, UTF-8
PROCESS: bytes  # node's name, a NUL, pid in decimal digits
CONNECTION: bytes  # both ends of one connection as one end sees it: own address and port, peer's, IP protocol
TCP: int
UDP: int

def packed(text: str) -> bytes:
    """16 bytes of an IP address in text form (a zone is left out). ValueError if it is none."""

def packed_v4(address: bytes) -> bytes:
    """16 bytes of the 4 bytes of an IPv4 address."""

def unpacked(address: bytes) -> str:
    """The text form of 16 bytes; v4-mapped addresses as IPv4."""

def address(text: str) -> bytes:
    """Key of an IP address in text form. ValueError if it is none."""

def endpoint(text: str, port: int, protocol: int = TCP) -> bytes:
    """Key of a port of an address. ValueError if the address is none."""

def container(container_id: str) -> bytes:
    """Key of a container by its id; the runtime's prefix ("containerd://") may stand before it."""

def pod(uid: str) -> bytes:
    """Key of a pod by its uid; the underscores of systemd's cgroup names are dashes."""

def node(name: str) -> bytes:
    """Key of a node or host by its name."""

def process(node_name: str, pid: int) -> bytes:
    """Key of a process of a node."""

def connection(own: str, port: int, peer: str, peer_port: int, protocol: int = TCP) -> bytes:
    """Key of a connection as the end `own` sees it; asks who its peer really is, behind NAT. Never in the store."""

def show(key: bytes) -> str:
    """For people and logs: "address 10.0.0.7", "endpoint 10.0.0.7:80/tcp"."""
