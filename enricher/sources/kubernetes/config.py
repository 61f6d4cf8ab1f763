"""Settings of the sources that read Kubernetes: its API, and a node's kubelet."""

from typing import Annotated, Literal

from msgspec import Meta

from zerospan.enricher.naming import Naming
from zerospan.exporter.config.model import Section, Text

OWNERS = ("deployments", "statefulsets", "daemonsets", "cronjobs")
Kind = Literal[
    "namespaces", "nodes", "replicasets", "jobs", "ingresses", "services", "endpointslices", "pods",
    "deployments", "statefulsets", "daemonsets", "cronjobs",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "namespaces", "nodes", "replicasets", "jobs", "ingresses", "services", "endpointslices", "pods",
)  # fmt: skip
Globs = tuple[Text, ...]


class Picks(Section, frozen=True):
    """Which labels, annotations and variables become tags, by name; `*` stands for any text. Empty: none."""

    pod_labels: Annotated[Globs, Meta(description="Labels of pods, as `k8s.pod.label.NAME`.")] = ()
    pod_annotations: Annotated[Globs, Meta(description="Annotations of pods, as `k8s.pod.annotation.NAME`.")] = ()
    node_labels: Annotated[Globs, Meta(description="Labels of nodes, as `k8s.node.label.NAME`.")] = ()
    namespace_labels: Annotated[Globs, Meta(description="Labels of namespaces, as `k8s.namespace.label.NAME`.")] = ()
    workload_labels: Annotated[
        Globs,
        Meta(description="Labels of Deployments and other workloads in `watch`, as `k8s.deployment.label.NAME`..."),
    ] = ()
    container_env: Annotated[
        Globs,
        Meta(description="Plain variables of containers' specifications, as `zerospan.k8s.container.env.NAME`."),
    ] = ()


class Kubernetes(Section, frozen=True):
    """The API server: what every pod, node and service of the cluster (or of a part of it) is."""

    enabled: Annotated[bool, Meta(description="Ask the API server.")] = False
    kubeconfig: Annotated[
        str,
        Meta(description="Path of a kubeconfig. Empty: `KUBECONFIG`, else the service account of the own pod."),
    ] = ""
    context: Annotated[str, Meta(description="Context of the kubeconfig; empty: its current one.")] = ""
    cluster_name: Annotated[
        str, Meta(description="`k8s.cluster.name`; empty: as nodes' labels tell it, where they do.")
    ] = ""
    cluster_uid: Annotated[
        str, Meta(description="`k8s.cluster.uid`, until the uid of the namespace kube-system tells it.")
    ] = ""
    namespace: Annotated[str, Meta(description="Watch this namespace only; empty: all.")] = ""
    node: Annotated[
        str, Meta(description="Watch this node and its pods only (scope `node`); empty: the whole cluster.")
    ] = ""
    watch: Annotated[
        tuple[Kind, ...],
        Meta(description="Kinds to watch. Further ones for their labels and custom owners: " + ", ".join(OWNERS) + "."),
    ] = KINDS
    page: Annotated[int, Meta(ge=1, le=5000, description="Objects in a page of a list; 250 lie in the caches.")] = 250
    node_port_keys: Annotated[
        int,
        Meta(ge=0, le=1 << 22, description="Most (node address, node port) pairs that are kept; further ones not."),
    ] = 200_000
    picks: Picks = Picks()
    naming: Naming = Naming()


class Kubelet(Section, frozen=True):
    """The node's own kubelet: its pods, with no API server."""

    enabled: Annotated[bool, Meta(description="Ask the kubelet for its pods.")] = False
    url: Annotated[
        str, Meta(description="Empty: `https://ADDRESS:10250`, ADDRESS by `NODE_IP` or `HOST_IP`, else 127.0.0.1.")
    ] = ""
    token_file: Annotated[str, Meta(description="Bearer token; read again when it changes. Empty: none.")] = (
        "/var/run/secrets/kubernetes.io/serviceaccount/token"
    )
    ca_file: Annotated[str, Meta(description="CA of the kubelet's certificate; empty: the system's.")] = (
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    )
    client_cert_file: Annotated[str, Meta(description="Client certificate, PEM; empty: none.")] = ""
    client_key_file: Annotated[str, Meta(description="Its key.")] = ""
    insecure: Annotated[bool, Meta(description="Do not verify the kubelet's certificate (often self-signed).")] = False
    poll_s: Annotated[float, Meta(ge=0.2, le=600, description="Time between two looks, where nothing hints.")] = 5
    cluster_name: Annotated[str, Meta(description="`k8s.cluster.name`.")] = ""
    cluster_uid: Annotated[str, Meta(description="`k8s.cluster.uid`.")] = ""
    picks: Picks = Picks()
    naming: Naming = Naming()
