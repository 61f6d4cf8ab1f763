"""What stands once for all that is exported of a process. Made by describe.py; Processes keeps it."""

import msgspec

from zerospan.exporter.process.stamp import Stamp


class ProcessInfo(msgspec.Struct, frozen=True, gc=False):
    """A described process; the texts are encoded already, so that an export only copies them.

    shared: what this description is valid for. Two descriptions with the same text are the same entry: all
    processes of one name that had ended before they could be described ("comm:curl"), or one process that is
    described again because another of its threads spoke. Empty: an entry of its own.
    """

    tgid: int
    service: str  # service.name, 1 to 255 printable characters
    resource: bytes  # opentelemetry.proto.resource.v1.Resource
    labels: bytes  # Loki stream labels, JSON members without braces
    series: bytes  # Prometheus: job="...",instance="..." (escaped, no braces)
    target_info: bytes  # Prometheus: the further labels of target_info, may be empty
    nginx: bool = False  # its upstream pairing tells causes
    loop: bool = False  # many requests share a thread: threads tell no causes
    order: int = 0  # link/proxies.pxd, Order: which proxy's order of events tells causes
    hidden: bool = False  # its spans are not exported
    shared: str = ""
    namespace: str = ""  # service.namespace
    meta: bytes = b""  # members of a Loki line's structured metadata, each with a comma before it
    peer: Stamp | None = None  # how it looks at the other end of its requests
    waits: int = 0  # what its container is: 1 the enricher has not answered yet, 2 it knows nothing yet
