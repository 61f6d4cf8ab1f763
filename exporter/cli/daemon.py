"""What a process that runs for long tells glibc and systemd. Called by `zerospan run` and `zerospan enricher run`."""

import contextlib
import ctypes
import logging
import os
import socket

# mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def frugal_malloc() -> None:
    """One arena, and large blocks (batches) given back when they are freed: glibc's defaults keep a third more."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 256 << 10), (M_TRIM_THRESHOLD, 1 << 20)):
            mallopt(option, value)


def notify(state: str) -> None:
    """Tells systemd (sd_notify(3)); nothing happens where NOTIFY_SOCKET is not set."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.connect("\0" + address[1:] if address.startswith("@") else address)
            s.sendall(state.encode())
    except OSError as e:
        logging.getLogger(__name__).warning("systemd was not told %s: %s", state, e)
