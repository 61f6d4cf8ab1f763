"""Labels of Prometheus and Loki as the encoders want them: text without braces, escaped once. Called by
describe.py.

Sources: Prometheus' text format 0.0.4 (escapes), OpenTelemetry's "Prometheus and OpenMetrics Compatibility"
(job and instance from service.*, names of target_info), Loki's push API.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from zerospan.exporter.process import stamp
from zerospan.exporter.process.resource import Value
from zerospan.exporter.process.stamp import loki_name

IDENTITY = frozenset(("service.name", "service.namespace", "service.instance.id"))  # they are job and instance
STREAM = ("k8s.cluster.name", "k8s.namespace.name")  # labels of a Loki stream beside the service's
RESERVED = frozenset(("job", "instance"))
NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]+")


def series(service: str, namespace: str, instance: str) -> bytes:
    """`job="namespace/service",instance="..."`."""
    job = f"{namespace}/{service}" if namespace else service
    return f'job="{_escaped(job)}",instance="{_escaped(instance)}"'.encode()


def target_info(attributes: Mapping[str, Value]) -> bytes:
    """Each attribute that is not in job and instance. Of two that become one name the first counts."""
    found: dict[str, str] = {}
    for key, value in attributes.items():
        name = label_name(key)
        if key not in IDENTITY and name not in RESERVED and name not in found:
            found[name] = f'{name}="{_escaped(str(value))}"'
    return ",".join(found.values()).encode()


def stream(service: str, more: Mapping[str, str], attributes: Mapping[str, Value] | None = None) -> bytes:
    """`"service_name":"shop","source":"zerospan"`, cluster and namespace, and the configured labels, which may replace
    these. Few: each value is a stream of its own.
    """
    tags = {loki_name(key): str(attributes[key]) for key in STREAM if key in attributes} if attributes else {}
    found = {"source": "zerospan", **tags, **more}
    found.pop("service_name", None)
    return json.dumps({"service_name": service, **found}, ensure_ascii=False, separators=(",", ":"))[1:-1].encode()


def metadata(attributes: Mapping[str, Value], tags: Iterable[str]) -> bytes:
    """What each Loki line says of its own process: which copy of the service, and its tags."""
    wanted = ("service.namespace", "service.instance.id", "service.version", *tags)
    return stamp.metadata({key: attributes[key] for key in wanted if key in attributes}, ("service.name", *STREAM))


@lru_cache(1024)
def label_name(key: str) -> str:
    """An attribute's key as a label: other characters become _, a name does not begin with a digit or __."""
    name = NOT_IN_A_NAME.sub("_", key)
    if not name or name[0].isdigit():
        name = "key_" + name
    return "key" + name if name.startswith("__") else name


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value
