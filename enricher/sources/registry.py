"""The sources by name: where their settings stand, where they themselves stand. The one table of them.

config/model.py makes `sources:` of it, run.py builds what is on. A source's module is imported only if it is built:
the settings must not cost what a client of a cloud or of Kubernetes costs.
"""

import importlib
import inspect
from typing import Any, NamedTuple

import msgspec

from zerospan.enricher.source import Source
from zerospan.enricher.store import TagStore


class Entry(NamedTuple):
    """MODULE:CLASS of the settings (a Section that can be made without arguments) and of the source."""

    config: str
    source: str
    of_node: bool  # it knows the host that it runs on: for scope `node` only
    text: str


BASE = "zerospan.enricher.sources"
SOURCES: dict[str, Entry] = {
    "kubernetes": Entry(
        f"{BASE}.kubernetes.config:Kubernetes", f"{BASE}.kubernetes.source:KubernetesSource", False, "Kubernetes' API."
    ),
    "kubelet": Entry(f"{BASE}.kubernetes.config:Kubelet", f"{BASE}.kubelet:KubeletSource", True, "The node's kubelet."),
    "cloud": Entry(f"{BASE}.cloud.cloud:CloudConfig", f"{BASE}.cloud.cloud:CloudSource", True, "The cloud's metadata."),
    "os": Entry(f"{BASE}.os:OsConfig", f"{BASE}.os:OsSource", True, "Processes and containers of this host."),
    "conntrack": Entry(
        f"{BASE}.conntrack:ConntrackConfig", f"{BASE}.conntrack:ConntrackSource", True, "Translated addresses."
    ),
    "static": Entry(f"{BASE}.static:StaticConfig", f"{BASE}.static:StaticSource", False, "What people write down."),
}


def find(place: str) -> Any:
    """MODULE:CLASS. Raises ImportError."""
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    try:
        return getattr(found, name)
    except AttributeError:
        raise ImportError(f"{module} has no {name}", name=module) from None


def settings() -> dict[str, type[msgspec.Struct]]:
    """The settings' classes of all sources."""
    return {name: find(entry.config) for name, entry in SOURCES.items()}


def build(name: str, store: TagStore, config: Any, node: str) -> Source:
    """The source, not started. node: this node, "" for a whole cluster; given to constructors that take it. Raises
    ImportError without its module; what its constructor raises.
    """
    make = find(SOURCES[name].source)
    arguments = [store, config]
    if "node" in inspect.signature(make).parameters:
        arguments.append(node)
    source: Source = make(*arguments)
    return source
