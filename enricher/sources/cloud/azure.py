"""Azure: the instance metadata service and its word on load balancers ("Azure Instance Metadata Service").

It does not name the virtual network. A zone is told as Kubernetes' node label has it ("westeurope-2"). The name of an
AKS cluster is a tag of the machines, or stands in the name of their resource group, if it can be told apart there.
"""

import http.client

from zerospan.enricher.sources.cloud.metadata import (
    TAG,
    Machine,
    Metadata,
    MetadataError,
    addresses,
    items,
    json,
    matching,
    network,
    pick,
    text,
)

ADDRESS = "169.254.169.254"
HEADERS = {"Metadata": "true"}
INSTANCE = "/metadata/instance?api-version=2021-02-01"
BALANCER = "/metadata/loadbalancer?api-version=2020-10-01"
CLUSTER_TAG = "aks-managed-cluster-name"


class Azure:
    """See metadata.Cloud."""

    def __init__(self, http: Metadata) -> None:
        self._http = http

    def read(self, globs: tuple[str, ...]) -> Machine:
        """Two requests."""
        said = json(self._http.get(INSTANCE, HEADERS), "the instance's metadata")
        compute = pick(said, "compute")
        instance, location = text(pick(compute, "vmId")), text(pick(compute, "location"))
        if not instance:
            raise MetadataError("the instance's metadata names no machine")
        own = {
            name: text(pick(tag, "value"))
            for tag in items(compute, "tagsList", limit=256)
            if (name := text(pick(tag, "name")))
        }
        group = text(pick(compute, "resourceGroupName"))
        cluster = own.get(CLUSTER_TAG, "") or cluster_of(group, location)
        interfaces = items(said, "network", "interface")
        machine = Machine()
        # The first of each interface: with Azure CNI, the further ones are pods' own.
        firsts = [ip for i in interfaces for ip in items(i, "ipv4", "ipAddress", limit=1)]
        machine.private = addresses(
            [pick(ip, "privateIpAddress") for ip in firsts]
            + [pick(ip, "privateIpAddress") for i in interfaces for ip in items(i, "ipv6", "ipAddress", limit=1)]
        )
        machine.public = addresses(pick(ip, "publicIpAddress") for ip in firsts)
        balancers, outbound = self._balancers(machine)
        subnet = next((s for i in interfaces for s in items(i, "ipv4", "subnet")), None)
        zone, image = text(pick(compute, "zone")), pick(compute, "storageProfile", "imageReference")
        parts = [text(pick(image, key)) for key in ("publisher", "offer", "sku", "version")]
        machine.tags = {
            "cloud.provider": "azure",
            "cloud.platform": "azure.aks" if group.lower().startswith("mc_") or cluster else "azure.vm",
            "cloud.region": location,
            "cloud.availability_zone": f"{location}-{zone}" if zone and location else "",
            "cloud.account.id": text(pick(compute, "subscriptionId")),
            "cloud.resource_id": text(pick(compute, "resourceId")),
            "host.id": instance,
            "host.name": text(pick(compute, "osProfile", "computerName")) or text(pick(compute, "name")),
            "host.type": text(pick(compute, "vmSize")),
            "host.image.id": text(pick(image, "id")) or (":".join(parts) if all(parts) else ""),
            "host.image.name": parts[1],
            "k8s.cluster.name": cluster,
            "zerospan.cloud.subnet.cidr": network(pick(subnet, "address"), pick(subnet, "prefix")),
            "zerospan.cloud.load_balancer": ",".join(balancers),
            "zerospan.cloud.nat_gateway": ",".join(outbound),
        }
        for name in matching(own, globs):
            machine.tags[TAG + name] = own[name]
        return machine

    def _balancers(self, machine: Machine) -> tuple[list[str], list[str]]:
        """Front ends of load balancers before this machine, and those that its own calls leave by. The machine's public
        address is told here if it is of the standard kind. That there is no such service is no error.
        """
        try:
            said = json(self._http.get(BALANCER, HEADERS) or b"{}", "the load balancer's metadata")
        except (MetadataError, OSError, http.client.HTTPException):
            return [], []
        rules = pick(said, "loadbalancer")
        own = (pick(p, "frontendIpAddress") for p in items(rules, "publicIpAddresses"))
        machine.public = addresses([*machine.public, *own])
        return (
            addresses(pick(r, "frontendIpAddress") for r in items(rules, "inboundRules"))[:4],
            addresses(pick(r, "frontendIpAddress") for r in items(rules, "outboundRules"))[:4],
        )


def cluster_of(group: str, location: str) -> str:
    """The cluster in a name like MC_group_cluster_location; "" if there is none or more than one way to read it."""
    head, tail = "mc_", f"_{location}".lower()
    lower = group.lower()
    if not location or not (lower.startswith(head) and lower.endswith(tail)):
        return ""
    middle = group[len(head) : len(group) - len(tail)]
    return middle.partition("_")[2] if middle.count("_") == 1 else ""
