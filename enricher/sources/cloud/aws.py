"""AWS: the instance metadata service, version 2 only (tokens; EC2 User Guide, "Instance metadata categories").

Tags of the instance are there only if "InstanceMetadataTags" is enabled; so is the name of an EKS cluster, which the
managed node groups write as a tag.
"""

from zerospan.enricher.sources.cloud.metadata import (
    MAX_INTERFACES,
    TAG,
    Machine,
    Metadata,
    MetadataError,
    Tokens,
    addresses,
    cidr,
    json,
    lines,
    matching,
    segment,
    text,
)

ADDRESS = "169.254.169.254"
HEADER = "X-aws-ec2-metadata-token"
CLUSTER_TAGS = ("aws:eks:cluster-name", "eks:cluster-name")
DATA = "/latest/meta-data/"


class Aws:
    """See metadata.Cloud."""

    def __init__(self, http: Metadata, *, ttl_s: int = 21600) -> None:
        self._tokens = Tokens(http, HEADER, ttl_s=ttl_s)

    def read(self, globs: tuple[str, ...]) -> Machine:
        """About 10 requests on one connection, and three for each further interface."""
        document = json(self._tokens.get("/latest/dynamic/instance-identity/document"), "the identity document")
        said = {key: text(value) for key, value in document.items()} if isinstance(document, dict) else {}
        if not said.get("instanceId"):
            raise MetadataError("the identity document names no instance")
        instance, region, account = said["instanceId"], said.get("region", ""), said.get("accountId", "")
        mac = self._text("mac")
        names = lines(self._tokens.get(DATA + "tags/instance"))
        cluster = ""
        for name in CLUSTER_TAGS:
            if not cluster and name in names:
                cluster = self._text("tags/instance/" + segment(name))
        machine = Machine()
        self._interfaces(machine, mac)
        machine.private = addresses((said.get("privateIp"), *machine.private))
        at = f"network/interfaces/macs/{segment(mac)}/"
        partition = self._text("services/partition")
        whole = partition and region and account
        machine.tags = {
            "cloud.provider": "aws",
            "cloud.platform": "aws_eks" if cluster else "aws_ec2",
            "cloud.region": region,
            "cloud.availability_zone": said.get("availabilityZone", ""),
            "cloud.account.id": account,
            "cloud.resource_id": f"arn:{partition}:ec2:{region}:{account}:instance/{instance}" if whole else "",
            "host.id": instance,
            "host.name": self._text("local-hostname"),
            "host.type": said.get("instanceType", ""),
            "host.image.id": said.get("imageId", ""),
            "host.arch": {"x86_64": "amd64", "arm64": "arm64", "i386": "x86"}.get(said.get("architecture", ""), ""),
            "k8s.cluster.name": cluster,
            "zerospan.cloud.vpc.id": self._text(at + "vpc-id") if mac else "",
            "zerospan.cloud.subnet.id": self._text(at + "subnet-id") if mac else "",
            "zerospan.cloud.subnet.cidr": cidr(self._text(at + "subnet-ipv4-cidr-block")) if mac else "",
        }
        for name in matching(names, globs):
            machine.tags[TAG + name] = self._text("tags/instance/" + segment(name))
        return machine

    def _interfaces(self, machine: Machine, mac: str) -> None:
        """The first IPv4 address of each interface and the public one of that: the further ones are pods' own with the
        VPC CNI, and so are IPv6 addresses behind the first.
        """
        macs = [m.rstrip("/") for m in lines(self._tokens.get(DATA + "network/interfaces/macs/"))]
        for each in sorted(macs, key=lambda m: m != mac)[:MAX_INTERFACES]:
            at = f"{DATA}network/interfaces/macs/{segment(each)}/"
            for name in ("local-ipv4s", "ipv6s"):
                machine.private += addresses(lines(self._tokens.get(at + name))[:1])
            machine.public += addresses(lines(self._tokens.get(at + "public-ipv4s"))[:1])

    def _text(self, path: str) -> str:
        return text(self._tokens.get(DATA + path))
