"""Whose spans those of network interfaces are: a resource of the host, not of a process.

One service for all of them ("zerospan-network"): Tempo shows spans by service, and the interfaces of a host are neither
the client's nor the server's. The host is in its resource, the interface in the span. Used by the pipeline.
"""

from collections.abc import Mapping

from zerospan.exporter.process import labels
from zerospan.exporter.process.info import ProcessInfo
from zerospan.exporter.process.resource import Value, encode_resource

SERVICE = "zerospan-network"
SHARED = "network"


def network_info(host: Mapping[str, Value]) -> ProcessInfo:
    """host: resource attributes of this host (host.name, host.id, os.type...)."""
    instance = str(host.get("host.name", "localhost"))
    attributes = {**host, "service.name": SERVICE, "service.instance.id": instance}
    return ProcessInfo(
        tgid=0,
        service=SERVICE,
        resource=encode_resource(attributes),
        labels=labels.stream(SERVICE, {}),
        series=labels.series(SERVICE, "", instance),
        target_info=b"",
        shared=SHARED,
    )


NETWORK = network_info({})
