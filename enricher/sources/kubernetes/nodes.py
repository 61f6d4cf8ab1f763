"""What a node is: tags from its object, and from the cloud's own id in it. Pure."""

import msgspec

from zerospan.enricher import keys
from zerospan.enricher.sources.kubernetes.globs import BAD_ADDRESS, Dropped, Glob, count
from zerospan.enricher.sources.kubernetes.model import Node, ns

ZONE = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
REGION = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
TYPE = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
CLUSTER = ("alpha.eksctl.io/cluster-name", "cluster.x-k8s.io/cluster-name")  # labels, then annotations
OF_NODE = ("InternalIP", "ExternalIP")


class NodeFacts(msgspec.Struct, gc=False):
    name: str
    since_ns: int
    addresses: tuple[bytes, ...]  # 16 bytes each
    tags: dict[str, str]
    cluster: str  # the cluster's name, where a label tells it


def read(node: Node, labels: Glob, dropped: Dropped) -> NodeFacts:
    """labels: those of its labels that become tags. dropped: counts what is left out."""
    meta, status = node.metadata, node.status
    own = meta.labels or {}
    info = status.node_info
    told = [a for a in status.addresses or () if a.type in OF_NODE]
    packed = []
    for address in told:
        try:
            packed.append(keys.packed(address.address))
        except ValueError:
            count(dropped, BAD_ADDRESS)
    arch = info.architecture
    tags = provider(node.spec.provider_id or "") | {
        "k8s.node.name": meta.name,
        "k8s.node.uid": meta.uid,
        "host.name": next((a.address for a in status.addresses or () if a.type == "Hostname"), meta.name),
        "host.ip": ",".join(a.address for a in told),
        "host.arch": arch,
        "os.type": info.operating_system,
        "os.description": info.os_image,
        "host.type": _first(own, TYPE),
    }
    for tag, labelled in (("cloud.region", REGION), ("cloud.availability_zone", ZONE)):
        tags[tag] = _first(own, labelled) or tags.get(tag, "")
    labels.pick("k8s.node.label.", own, tags, dropped)
    cluster = _first(own, CLUSTER) or _first(meta.annotations or {}, CLUSTER)
    return NodeFacts(meta.name, ns(meta.creation_timestamp), tuple(dict.fromkeys(packed)), tags, cluster)


def provider(id: str) -> dict[str, str]:
    """cloud.* and host.id from spec.providerID: aws:///ZONE/ID, gce://PROJECT/ZONE/NAME,
    azure:///subscriptions/ID/..., alibaba's REGION.ID (also with alicloud://). Else nothing.
    """
    scheme, _, rest = id.partition("://")
    parts = rest.strip("/").split("/")
    if scheme == "aws" and len(parts) >= 2:
        return {"cloud.provider": "aws", "cloud.availability_zone": parts[-2], "host.id": parts[-1]}
    if scheme == "gce" and len(parts) == 3:
        return {"cloud.provider": "gcp", "cloud.account.id": parts[0], "cloud.availability_zone": parts[1]}
    if scheme == "azure" and parts[0] == "subscriptions" and len(parts) >= 2:
        return {"cloud.provider": "azure", "cloud.account.id": parts[1], "cloud.resource_id": "/" + "/".join(parts)}
    name = rest if scheme == "alicloud" else id if "://" not in id else ""
    region, dot, instance = name.partition(".")
    if dot and instance.startswith("i-") and "-" in region:
        return {"cloud.provider": "alibaba_cloud", "cloud.region": region, "host.id": instance}
    return {}


def _first(named: dict[str, str], names: tuple[str, ...]) -> str:
    return next((named[name] for name in names if named.get(name)), "")
