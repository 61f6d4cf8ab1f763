"""Alibaba Cloud: the metadata service of ECS, with a token, so that its hardened mode answers, too (ECS User Guide,
"Instance metadata"). The name of an ACK cluster is not among what it says.
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
    lines,
    matching,
    segment,
    text,
)

ADDRESS = "100.100.100.200"
HEADER = "X-aliyun-ecs-metadata-token"
DATA = "/latest/meta-data/"


class Alibaba:
    """See metadata.Cloud."""

    def __init__(self, http: Metadata, *, ttl_s: int = 21600) -> None:
        self._tokens = Tokens(http, HEADER, ttl_s=ttl_s)

    def read(self, globs: tuple[str, ...]) -> Machine:
        """About 15 requests on one connection."""
        instance = self._text("instance-id")
        if not instance:
            raise MetadataError("the service names no instance")
        machine = Machine()
        machine.private = addresses([self._text("private-ipv4")])
        macs = [m.rstrip("/") for m in lines(self._tokens.get(DATA + "network/interfaces/macs/"))]
        for mac in macs[:MAX_INTERFACES]:  # the first of each: with Terway, further ones are pods' own
            at = f"network/interfaces/macs/{segment(mac)}/"
            machine.private = addresses([*machine.private, self._text(at + "primary-ip-address")])
        machine.public = addresses([self._text("eipv4"), self._text("public-ipv4")])
        machine.tags = {
            "cloud.provider": "alibaba_cloud",
            "cloud.platform": "alibaba_cloud_ecs",
            "cloud.region": self._text("region-id"),
            "cloud.availability_zone": self._text("zone-id"),
            "cloud.account.id": self._text("owner-account-id"),
            "host.id": instance,
            "host.name": self._text("hostname") or self._text("instance/instance-name"),
            "host.type": self._text("instance/instance-type"),
            "host.image.id": self._text("image-id"),
            "zerospan.cloud.vpc.id": self._text("vpc-id"),
            "zerospan.cloud.subnet.id": self._text("vswitch-id"),
            "zerospan.cloud.subnet.cidr": cidr(self._text("vswitch-cidr-block")),
        }
        if globs:
            for name in matching(lines(self._tokens.get(DATA + "tags/instance/")), globs):
                machine.tags[TAG + name] = self._text("tags/instance/" + segment(name))
        return machine

    def _text(self, path: str) -> str:
        return text(self._tokens.get(DATA + path))
