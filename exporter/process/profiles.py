"""What is known of an executable's way to work: may threads tell which request caused a call? Called by
describe.py.

loop: several requests share a thread in turns, so the thread tells nothing. Python with asyncio inside a
program of its own cannot be seen from outside: the link stage notices two open requests on one thread by
itself.
"""

from collections.abc import Sequence

from zerospan.exporter.process import python
from zerospan.exporter.process.arguments import option
from zerospan.exporter.process.program import Program, family_of

NGINX = frozenset(("nginx", "openresty", "angie", "tengine", "freenginx"))
# varnishd is not here: it gives each request a thread of its own.
LOOPS = frozenset(("envoy", "haproxy", "trafficserver", "traffic_server", "squid", "lighttpd", "h2o"))
ORDERS = {"haproxy": 1, "envoy": 2}  # link/proxies.pxd, Order
LOOP_FAMILIES = frozenset(("node", "deno", "bun"))
LOOP_SERVERS = frozenset(("uvicorn", "hypercorn", "daphne", "twistd", "sanic"))
LOOP_WORKERS = ("uvicorn", "gevent", "eventlet", "tornado", "aiohttp")  # gunicorn's worker classes


def is_nginx(exe_name: str) -> bool:
    """By the name of the executable file, never by what a process calls itself."""
    return exe_name in NGINX


def order_of(exe_name: str) -> int:
    """Which proxy's rule holds, 0 for none; by the executable file, too."""
    return ORDERS.get(exe_name, 0)


def is_loop(p: Program, language: str) -> bool:
    """Whether threads are no evidence. Go counts: while a goroutine waits, its thread serves others."""
    if p.name in LOOPS or p.family in LOOP_FAMILIES or language == "go":
        return True
    return p.family == "python" and _python(p)


def is_loop_comm(comm: str) -> bool:
    """The same of a process of which only the name is known."""
    return comm in LOOPS or comm in LOOP_SERVERS or family_of(comm) in LOOP_FAMILIES


def _python(p: Program) -> bool:
    if p.title:
        return p.title.startswith(tuple(LOOP_SERVERS))
    runs, args = python.tool(p)
    if runs == "gunicorn":
        return _loop_worker(args)
    return runs in LOOP_SERVERS


def _loop_worker(args: Sequence[str]) -> bool:
    worker = option(args, "-k", "--worker-class").lower()
    return any(name in worker for name in LOOP_WORKERS)
