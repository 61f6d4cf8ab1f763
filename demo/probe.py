"""Free addresses for the demo shop's programs, and whether each of them answers yet.

Every probe is one short exchange in the server's own protocol on loopback, False on any failure. Used by
`shop.py` only.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct

HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on. All are held until all are known, so no two are alike."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            holder = held.enter_context(socket.socket())
            holder.bind((HOST, 0))
            ports.append(int(holder.getsockname()[1]))
        return ports


def free_dns() -> tuple[str, int]:
    """An address of 127/8 whose port 53 is free for UDP and TCP; with no right to it, a free high port."""
    for last in range(2, 250):
        address = f"127.0.0.{last}"
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind((address, 53))
                udp.bind((address, 53))
                return address, 53
            except PermissionError:
                break
            except OSError:
                continue
    return HOST, free_ports(1)[0]


def http_ok(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/healthz", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def redis_ok(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64) == b"+PONG\r\n"
    except OSError:
        return False


def postgres_ok(port: int) -> bool:
    """Whether the server refuses TLS (`N`) and then asks for a password or lets in, instead of an error."""
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(struct.pack("!II", 8, 80877103))
            if connection.recv(1) != b"N":
                return False
            fields = b"user\0postgres\0database\0postgres\0\0"
            connection.sendall(struct.pack("!II", 8 + len(fields), 196608) + fields)
            return connection.recv(1) == b"R"  # 'E' while it is still starting up
    except OSError:
        return False


def dns_ok(server: tuple[str, int]) -> bool:
    question = b"".join(bytes([len(label)]) + label.encode() for label in ("catalog", "shop", "test"))
    with socket.socket(type=socket.SOCK_DGRAM) as asker:
        asker.settimeout(0.5)
        try:
            asker.connect(server)
            asker.send(
                struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + question + b"\0" + struct.pack("!2H", 1, 1)
            )
            return asker.recv(512).endswith(socket.inet_aton(HOST))
        except OSError:
            return False
