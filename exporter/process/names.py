"""What a service is called, by what runs in its process. Called by describe.py where nobody has given a name.

An interpreter is never a name: where nothing tells what it runs, the name is `unknown_service:python3`, as
the resource conventions want it (service.name). What a program got as an argument becomes a name only where
it is known to be a script, a module, an application; so no password does.
"""

from collections.abc import Callable

from zerospan.exporter.process import java, node, python, ruby, scripts
from zerospan.exporter.process.program import Program, is_interpreter
from zerospan.exporter.process.text import clean

UNKNOWN = "unknown_service"
NAMERS: dict[str, Callable[[Program], str]] = {
    "python": python.name,
    "java": java.name,
    "node": node.name,
    "deno": node.name,
    "bun": node.name,
    "ruby": ruby.name,
    **scripts.NAMERS,
}
# Executables whose product is known by another name.
PRODUCTS = {
    "postgres": "postgresql",
    "postmaster": "postgresql",
    "redis-server": "redis",
    "valkey-server": "valkey",
    "keydb-server": "keydb",
    "mysqld": "mysql",
    "mariadbd": "mariadb",
    "mongod": "mongodb",
    "clickhouse-server": "clickhouse",
    "varnishd": "varnish",
    "nats-server": "nats",
}


def name_of(p: Program) -> str:
    """service.name of a program: 1 to 255 printable characters."""
    if p.family:
        found = clean(NAMERS[p.family](p))
        if found and not is_interpreter(found):
            return PRODUCTS.get(found, found)
    return name_of_comm(p.name)


def name_of_comm(name: str) -> str:
    """service.name by the name of an executable or a command alone."""
    name = clean(name)
    if not name:
        return UNKNOWN
    return f"{UNKNOWN}:{name}"[:255] if is_interpreter(name) else PRODUCTS.get(name, name)
