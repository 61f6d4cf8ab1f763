"""Google Cloud: the metadata server of Compute Engine ("Predefined metadata keys").

Each thing is asked for by its own name: a recursive answer from the top would hold start-up scripts and, on GKE,
kube-env with the credentials that a node starts with. What an opt-in glob names of instance/attributes/ (the closest to
tags that the server tells: labels it does not) is read one by one for the same reason.
"""

from zerospan.enricher.sources.cloud.metadata import (
    TAG,
    Machine,
    Metadata,
    MetadataError,
    addresses,
    items,
    json,
    last,
    lines,
    matching,
    network,
    pick,
    segment,
    text,
)

ADDRESS = "169.254.169.254"
HEADERS = {"Metadata-Flavor": "Google"}
DATA = "/computeMetadata/v1/"
SECRETS = ("kube-env", "kubelet-config", "configure-sh", "user-data", "ssh-keys", "startup-script", "*password*")


class Gcp:
    """See metadata.Cloud."""

    def __init__(self, http: Metadata) -> None:
        self._http = http

    def read(self, globs: tuple[str, ...]) -> Machine:
        """About 10 requests on one connection."""
        status, body, head = self._http.ask(DATA + "instance/id", HEADERS)
        instance = text(self._http.body("instance/id", status, body))
        if head.get("Metadata-Flavor") != "Google" or not instance:
            raise MetadataError(f"{self._http.address} does not answer as the metadata server of Google Cloud")
        project, zone = self._text("project/project-id"), last(self._text("instance/zone"))
        image, cluster = self._text("instance/image"), self._text("instance/attributes/cluster-name")
        machine = Machine()
        found = json(self._get("instance/network-interfaces/?recursive=true") or b"[]", "the list of interfaces")
        interfaces = items({"": found}, "")
        machine.private = addresses(
            a for i in interfaces for a in (pick(i, "ip"), *items(i, "ipv6s", limit=1), *items(i, "ipv6", limit=1))
        )
        machine.public = addresses(pick(c, "externalIp") for i in interfaces for c in items(i, "accessConfigs"))
        first = interfaces[0] if interfaces else None
        whole = project and zone
        machine.tags = {
            "cloud.provider": "gcp",
            "cloud.platform": "gcp_kubernetes_engine" if cluster else "gcp_compute_engine",
            "cloud.region": zone.rpartition("-")[0],
            "cloud.availability_zone": zone,
            "cloud.account.id": project,
            "cloud.resource_id": f"//compute.googleapis.com/projects/{project}/zones/{zone}/instances/{instance}"
            if whole
            else "",
            "host.id": instance,
            "host.name": self._text("instance/name"),
            "host.type": last(self._text("instance/machine-type")),
            "host.image.id": image,
            "host.image.name": last(image),
            "k8s.cluster.name": cluster,
            "zerospan.cloud.vpc.id": last(pick(first, "network")),
            "zerospan.cloud.subnet.cidr": network(pick(first, "ip"), pick(first, "subnetmask")),
        }
        if globs:
            names = lines(self._get("instance/attributes/"))
            secret = set(matching(names, SECRETS))
            for name in matching((n for n in names if n not in secret and not n.endswith("/")), globs):
                machine.tags[TAG + name] = self._text("instance/attributes/" + segment(name))
        return machine

    def _get(self, path: str) -> bytes | None:
        return self._http.get(DATA + path, HEADERS)

    def _text(self, path: str) -> str:
        return text(self._get(path))
