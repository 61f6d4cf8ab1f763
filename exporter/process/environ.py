"""What a process says of itself in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. Called by describe.py.

Nothing else of an environment is looked at, and the bytes are not kept. Format: OpenTelemetry specification,
"Specifying resource information via an environment variable"; a pair that is not well-formed is left out.
"""

from typing import NamedTuple
from urllib.parse import unquote

from zerospan.exporter.process.text import clean, decode

SERVICE_NAME = b"\0OTEL_SERVICE_NAME="
RESOURCE_ATTRIBUTES = b"\0OTEL_RESOURCE_ATTRIBUTES="
PAIRS_MAX = 64
KEY_MAX, VALUE_MAX = 128, 1024  # characters; Tempo cuts values at 2048 bytes
# What the agent knows better: a variable is inherited by every child, a pid is not.
OWN = ("process.", "telemetry.", "os.")


class Stated(NamedTuple):
    """service: the name, "" if none is given. attributes: the others, without empty ones."""

    service: str
    attributes: dict[str, str]


def stated(environ: bytes) -> Stated:
    """Reads the two variables from the bytes of /proc/PID/environ (perhaps cut)."""
    environ = b"\0" + environ
    service = clean(decode(_value(environ, SERVICE_NAME)))
    attributes = pairs(decode(_value(environ, RESOURCE_ATTRIBUTES)))
    named = clean(attributes.pop("service.name", ""))
    return Stated(service or named, attributes)


def pairs(text: str) -> dict[str, str]:
    """`key=value,key=value`, percent-decoded; the last one of a key counts."""
    found: dict[str, str] = {}
    for pair in text.split(",", PAIRS_MAX)[:PAIRS_MAX]:
        key, equals, value = pair.partition("=")
        key = clean(unquote(key.strip()), KEY_MAX)
        value = clean(unquote(value.strip()), VALUE_MAX)
        if equals and key and value and not key.startswith(OWN):
            found[key] = value
    return found


def _value(environ: bytes, name: bytes) -> bytes:
    at = environ.find(name)
    if at < 0:
        return b""
    at += len(name)
    end = environ.find(b"\0", at)
    return environ[at : end if end >= 0 else len(environ)]
