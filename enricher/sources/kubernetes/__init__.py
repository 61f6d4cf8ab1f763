"""Kubernetes: what the API server knows of pods, nodes and services. `KubernetesSource` is the source.

model (JSON -> structs) -> reflector (list, watch) -> pods, nodes, services, owners (what it means) -> book, claims
(which keys, how long) -> the store.
"""

from zerospan.enricher.sources.kubernetes.config import Kubelet, Kubernetes, Picks
from zerospan.enricher.sources.kubernetes.source import KubernetesSource

__all__ = ["Kubelet", "Kubernetes", "KubernetesSource", "Picks"]
