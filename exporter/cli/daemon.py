"""What a process that runs for long tells glibc, the scheduler and systemd. Called by `run` and `enricher run`."""

import contextlib
import ctypes
import logging
import os
import socket
import struct

# mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

# sched_setattr(2): numbers of the calls, and size, policy, flags, nice, priority, runtime, deadline, period
SCHED_ATTR_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
SCHED_ATTR = struct.Struct("=IIQiIQQQ")
LONGEST_SLICE_NS = 100_000_000


def frugal_malloc() -> None:
    """One arena, and large blocks (batches) given back when they are freed: glibc's defaults keep a third more."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 256 << 10), (M_TRIM_THRESHOLD, 1 << 20)):
            mallopt(option, value)


def long_slice() -> bool:
    """Asks for a long time slice, for this thread and those that it makes: whoever wakes on its CPU then runs at once.

    The scheduler (EEVDF, Linux 6.12) prefers who asks for less at a time, if it has not had more than its share;
    shares stay equal. Older kernels take the wish and do nothing. Returns whether it was taken; who has another
    policy than the usual one keeps it.
    """
    set_call, get_call = SCHED_ATTR_CALLS.get(os.uname().machine, (0, 0))
    if not set_call:
        return False
    syscall = ctypes.CDLL(None).syscall
    now = ctypes.create_string_buffer(SCHED_ATTR.size)
    if syscall(get_call, 0, now, SCHED_ATTR.size, 0) != 0:
        return False
    _, policy, _, nice, *_ = SCHED_ATTR.unpack(now.raw)
    if policy != os.SCHED_OTHER:
        return False
    wish = SCHED_ATTR.pack(SCHED_ATTR.size, policy, 0, nice, 0, LONGEST_SLICE_NS, 0, 0)
    return bool(syscall(set_call, 0, wish, 0) == 0)


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
