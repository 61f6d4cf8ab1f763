"""The self-test: one HTTP request over loopback must come out of the hooks as a CLIENT and a SERVER span.

A child process speaks to itself; it says nothing before its pid is among those whose spans are not
exported. What counts is the request with its answer at each end (counter selftest_answered), not the spans'
leaving, which waits for link.hold_s. Made by `zerospan run` before it says that it is ready, and by
`zerospan check`.
"""

import contextlib
import logging
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from zerospan.exporter.config import Config

if TYPE_CHECKING:
    from zerospan.exporter.pipeline import Pipeline

log = logging.getLogger(__name__)

WAIT_S = 5.0
POLL_S = 0.005
ENDS = 2  # the request is seen where it is sent and where it is received

# Both ends in one process, in turn: nothing depends on the scheduler. It prints done, or its complaint.
CHILD = """
import socket, sys
sys.stdin.readline()
try:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname(), timeout=4) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"GET /zerospan/self-test HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
                server.recv(4096)
                server.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
                client.recv(4096)
                print("done", flush=True)
                sys.stdin.readline()
except OSError as e:
    print(e, flush=True)
"""


class SelfTest:
    """`hidden`: pids whose spans are kept back; give it to pipeline.build()."""

    def __init__(self) -> None:
        self.hidden: set[int] = set()

    def run(self, agent: "Pipeline", config: Config) -> str:
        """Empty if the request came out, else what is wrong and what to do. Takes at most 6 s.

        Sets agent.selftest, which `zerospan status` shows.
        """
        skipped = _filters(config)
        if skipped:
            log.info("self-test left out: the filters (%s) would leave its request out, too", skipped)
            agent.selftest = f"skipped: filters are set ({skipped})"
            return ""
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )
        self.hidden.add(child.pid)
        key = struct.pack("=I", child.pid)
        filtered = bool(config.filter.pid) and agent.capture is not None
        try:
            if filtered and agent.capture is not None:
                agent.capture.object.update("zs_filter_pid", key, b"\1")
            problem = self._ask(agent, child)
        except OSError as e:
            problem = f"could not be made: {e}"
        finally:
            if filtered and agent.capture is not None:
                with contextlib.suppress(OSError):  # it was not written: the map is full
                    agent.capture.object.delete("zs_filter_pid", key)
            child.kill()
            child.communicate()
            self.hidden.discard(child.pid)  # the number may come again; who had it is known by now
        agent.selftest = f"failed: {problem}" if problem else "passed"
        return problem

    def _ask(self, agent: "Pipeline", child: "subprocess.Popen[bytes]") -> str:
        assert child.stdin is not None and child.stdout is not None
        before, kernel = agent.engine.counts(), agent.kernel()
        child.stdin.write(b"go\n")
        child.stdin.flush()
        said = child.stdout.readline().decode("utf-8", "replace").strip()
        if said != "done":
            return (
                f"its request over 127.0.0.1 failed ({said or 'the child process ended'}): is the loopback"
                " interface up (`ip link set lo up`)?"
            )
        end = time.monotonic() + WAIT_S
        while True:
            counts = agent.engine.counts()
            answered = counts["selftest_answered"] - before["selftest_answered"]
            if answered >= ENDS:
                return ""
            if agent.failure is not None:
                return "the drain thread has ended: a bug, please report what stands above"
            if time.monotonic() >= end:
                break
            time.sleep(POLL_S)
        return diagnosis(answered, before, counts, kernel, agent.kernel(), agent)


def diagnosis(
    answered: int,
    before: dict[str, int],
    counts: dict[str, int],
    kernel: dict[str, int],
    kernel_now: dict[str, int],
    agent: "Pipeline",
) -> str:
    """Where the request was lost: hook, ring or pipeline."""
    hooks = agent.capture.choice.layout if agent.capture is not None else "none"
    lost = {
        name: kernel_now[name] - kernel.get(name, 0)
        for name in kernel_now
        if name.startswith("ring_full") and kernel_now[name] > kernel.get(name, 0)
    }
    what = f"a request over 127.0.0.1 came out at {answered} of its {ENDS} ends within {WAIT_S:g} s: "
    if lost:
        return what + (
            f"the ring buffer is full ({', '.join(f'{k}={n}' for k, n in lost.items())}); raise capture.ring_bytes"
        )
    if kernel_now.get("emitted", 0) == kernel.get("emitted", 0):
        others = "sys_exit" if hooks != "sys_exit" else "sock_length"
        return what + f"the hooks ({hooks}) report nothing at all; try `--hooks {others}`, and run `zerospan check`"
    if counts["records"] == before["records"]:
        return what + "the kernel wrote records, but none was read: a bug, please report it"
    if counts["records_bad"] > before["records_bad"]:
        return what + "records of another ABI: the BPF objects and the agent were built apart; run `make setup` again"
    came = counts["records"] - before["records"]
    return what + (
        f"records came ({came}), but not all of it: an overloaded machine, or"
        f" hooks ({hooks}) that miss calls. Try again, then other --hooks"
    )


def _filters(config: Config) -> str:
    """The filters that the self-test's own process cannot be let through."""
    names = [name for name in config.filter.__struct_fields__ if name != "pid" and getattr(config.filter, name)]
    return ", ".join(names)
