"""service.name, .namespace, .version and .instance.id of what runs in Kubernetes.

By OpenTelemetry's semantic conventions ("Specify resource attributes using Kubernetes annotations", non-normative):
the first rule of an order that finds something wins, and the order is the user's. Pure functions; called by
sources/kubernetes/pods.pyx for both the API's and the kubelet's pods. What a process says of itself
(OTEL_SERVICE_NAME) is the agent's to know, and stands over all of this.

Words of an order: `annotation` (resource.opentelemetry.io/service.name), `annotation:KEY`, `label:KEY`, the kind of an
owner in small letters (`deployment`...), `custom` (a topmost owner that Kubernetes itself does not know, such as a
Rollout), `pod`, `container`, and for the namespace `namespace`, for the version `image`.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta

from zerospan.exporter.config.model import Section

PREFIX = "resource.opentelemetry.io/"
KINDS = ("deployment", "replicaset", "statefulset", "daemonset", "cronjob", "job", "replicationcontroller")
NAME_ORDER = (
    "annotation", "label:app.kubernetes.io/instance", "label:app.kubernetes.io/name", "deployment", "custom",
    "replicaset", "statefulset", "daemonset", "cronjob", "job", "replicationcontroller", "pod", "container",
)  # fmt: skip
Word = Annotated[
    str,
    Meta(
        pattern=r"^(annotation|deployment|custom|replicaset|statefulset|daemonset|cronjob|job|replicationcontroller"
        r"|pod|container|namespace|image|(annotation|label):.+)$"
    ),
]


class Naming(Section, frozen=True):
    """How services are named; the first rule that finds something wins."""

    name: Annotated[tuple[Word, ...], Meta(description="Order of rules for `service.name`.")] = NAME_ORDER
    namespace: Annotated[tuple[Word, ...], Meta(description="Order of rules for `service.namespace`.")] = (
        "annotation",
        "namespace",
    )
    version: Annotated[tuple[Word, ...], Meta(description="Order of rules for `service.version`.")] = (
        "annotation",
        "label:app.kubernetes.io/version",
        "image",
    )


def first(
    order: Iterable[str],
    what: str,
    annotations: Mapping[str, str],
    labels: Mapping[str, str],
    facts: Mapping[str, str],
) -> str:
    """The value of the first rule that finds one, or "". what: "service.name"...; facts: values of the plain words."""
    for word in order:
        if word == "annotation":
            value = annotations.get(PREFIX + what)
        elif word.startswith("label:"):
            value = labels.get(word[6:])
        elif word.startswith("annotation:"):
            value = annotations.get(word[11:])
        else:
            value = facts.get(word)
        if value:
            return value
    return ""


def instance(namespace: str, pod: str, container: str) -> str:
    """service.instance.id of a container that no annotation names."""
    return f"{namespace}.{pod}.{container}"


def split_image(image: str) -> tuple[str, str, str]:
    """Name, tag and digest of an image reference; what it lacks is "". The port of a registry is no tag."""
    name, _, digest = image.partition("@")
    head, _, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return (f"{head}/{last}" if head else last), tag, digest


def image_version(image: str) -> str:
    """service.version of an image: its tag, with the digest behind it where the reference has one."""
    _, tag, digest = split_image(image)
    return f"{tag}@{digest}" if tag and digest else tag or digest
