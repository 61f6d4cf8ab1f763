"""What a person types, as keys: an address, a container, a process, a pod, a node. For the command line and HTTP."""

import re
from pathlib import Path

from zerospan.enricher import keys

CONTAINER = re.compile(r"[0-9a-f]{64}")
UUID = re.compile(r"[0-9a-f]{8}[-_](?:[0-9a-f]{4}[-_]){3}[0-9a-f]{12}")
PORT = re.compile(r"(?:\[([^\]]+)\]|([0-9.]+)):([0-9]{1,5})(?:/(tcp|udp))?")
PROC = Path("/proc")


def candidates(text: str, node: str, proc: Path | None = None) -> list[bytes]:
    """The keys that it may mean, the likeliest first; the first of which anything is known counts.

    node: whose processes a number means. proc: /proc of that node, where it is this one: a process of a container is
    found by the container. Raises ValueError if it can be none.
    """
    text = text.strip()
    if not text or len(text) > 400:
        raise ValueError("expected an address, a container id, a pod uid, a process id or a node's name")
    if text.isdecimal():
        found = [keys.process(node, int(text))]
        inside = container_of(int(text), proc) if proc is not None else ""
        return [*found, keys.container(inside)] if inside else found
    if match := PORT.fullmatch(text):
        address, port = match[1] or match[2], int(match[3])
        protocol = keys.UDP if match[4] == "udp" else keys.TCP
        if port > 65535:
            raise ValueError(f"{port} is no port")
        return [keys.endpoint(address, port, protocol), keys.address(address)]
    try:
        return [keys.address(text)]
    except ValueError:
        pass
    if UUID.fullmatch(text):
        return [keys.pod(text)]
    if "://" in text or CONTAINER.fullmatch(text):
        return [keys.container(text)]
    return [keys.node(text), keys.container(text), keys.pod(text)]


def container_of(pid: int, proc: Path = PROC) -> str:
    """The id of the container that a process is in, by its cgroup; empty if it is in none (or gone)."""
    try:
        text = (proc / str(pid) / "cgroup").read_text()
    except OSError:
        return ""
    found = CONTAINER.findall(text)
    return found[-1] if found else ""
