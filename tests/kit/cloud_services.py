"""Metadata services of four clouds on loopback: they check what the real ones check, and can misbehave on command.

Each counts what it was asked (`asked`) and what it refused (`refused`). Answers have the form of the clouds' own
documentation.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Service:
    """A server on a free port of 127.0.0.1; `address` is HOST:PORT. Set `odd` to answer otherwise: a function of the
    handler that returns whether it has answered."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused = 0
        self.odd: Callable[[BaseHTTPRequestHandler], bool] | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes

            def do_GET(self) -> None:
                service.asked.append(f"{self.command} {self.path}")
                try:
                    if service.odd is None or not service.odd(self):
                        service.answer(self)
                except OSError:
                    pass  # the client has gone

            do_PUT = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, h: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError


def say(h: BaseHTTPRequestHandler, status: int, body: str | bytes = b"", **headers: str) -> None:
    body = body.encode() if isinstance(body, str) else body
    h.send_response(status)
    for name, value in headers.items():
        h.send_header(name.replace("_", "-"), value)
    h.send_header("Content-Length", str(len(body)))
    h.end_headers()
    h.wfile.write(body)


class Tokened(Service):
    """AWS and Alibaba: PUT gives a token for so many seconds (at most `lives_s`), GET wants it, else 401."""

    prefix = ""

    def __init__(self, data: dict[str, str]) -> None:
        super().__init__()
        self.data = data
        self.tokens: dict[str, float] = {}
        self.lives_s = 21600.0

    def answer(self, h: BaseHTTPRequestHandler) -> None:
        if h.command == "PUT":
            ttl = h.headers.get(self.prefix + "-ttl-seconds", "")
            if h.path != "/latest/api/token" or not ttl.isdecimal() or not 1 <= int(ttl) <= 21600:
                self.refused += 1
                return say(h, 400)
            if h.headers.get("X-Forwarded-For"):
                self.refused += 1
                return say(h, 403)
            token = secrets.token_urlsafe(40)
            lives_s = min(float(ttl), self.lives_s)
            self.tokens[token] = time.monotonic() + lives_s
            return say(h, 200, token, **{self.prefix + "-ttl-seconds": str(int(lives_s))})
        if self.tokens.get(h.headers.get(self.prefix, ""), 0) <= time.monotonic():
            self.refused += 1
            return say(h, 401)
        found = self.data.get(h.path)
        return say(h, 404, "<html>404</html>") if found is None else say(h, 200, found)


MAC, MAC2 = "02:29:96:8f:6a:2d", "02:29:96:8f:6a:2e"


def quoted(mac: str) -> str:
    return mac.replace(":", "%3A")


class AwsService(Tokened):
    prefix = "X-aws-ec2-metadata-token"

    def __init__(self) -> None:
        at = "/latest/meta-data/network/interfaces/macs/"
        super().__init__({
            "/latest/dynamic/instance-identity/document": json.dumps({
                "accountId": "123456789012", "architecture": "x86_64", "availabilityZone": "eu-central-1b",
                "billingProducts": None, "imageId": "ami-07b0", "instanceId": "i-0f3a5c", "instanceType": "m6i.large",
                "pendingTime": "2026-11-23T10:00:00Z", "privateIp": "10.0.17.4", "region": "eu-central-1",
                "version": "2017-09-30",
            }),
            "/latest/meta-data/mac": MAC,
            "/latest/meta-data/local-hostname": "ip-10-0-17-4.eu-central-1.compute.internal",
            "/latest/meta-data/services/partition": "aws",
            "/latest/meta-data/tags/instance": "Name\nteam\naws:eks:cluster-name",
            "/latest/meta-data/tags/instance/Name": "node-7",
            "/latest/meta-data/tags/instance/team": "shop",
            "/latest/meta-data/tags/instance/aws%3Aeks%3Acluster-name": "prod-1",
            at: f"{MAC2}/\n{MAC}/",
            f"{at}{quoted(MAC)}/vpc-id": "vpc-0a1b",
            f"{at}{quoted(MAC)}/subnet-id": "subnet-0c2d",
            f"{at}{quoted(MAC)}/subnet-ipv4-cidr-block": "10.0.16.0/20",
            f"{at}{quoted(MAC)}/local-ipv4s": "10.0.17.4\n10.0.17.99\n10.0.17.100",
            f"{at}{quoted(MAC)}/public-ipv4s": "203.0.113.7",
            f"{at}{quoted(MAC)}/ipv6s": "2001:db8::17",
            f"{at}{quoted(MAC2)}/local-ipv4s": "10.0.18.9\n10.0.18.77",
        })  # fmt: skip


class AlibabaService(Tokened):
    prefix = "X-aliyun-ecs-metadata-token"

    def __init__(self) -> None:
        at = "/latest/meta-data/"
        super().__init__({
            at + "instance-id": "i-bp13znx0m0me8cquu",
            at + "hostname": "iZbp13znx0m0me8cquu",
            at + "instance/instance-type": "ecs.g6e.large",
            at + "image-id": "aliyun_3_x64_20G_alibase_20210425.vhd",
            at + "mac": MAC,
            at + "network/interfaces/macs/": f"{MAC}/",
            at + f"network/interfaces/macs/{quoted(MAC)}/primary-ip-address": "192.168.1.5",
            at + "private-ipv4": "192.168.1.5",
            at + "eipv4": "120.55.1.2",
            at + "region-id": "cn-hangzhou",
            at + "zone-id": "cn-hangzhou-i",
            at + "owner-account-id": "160998252992",
            at + "vpc-id": "vpc-bp1e", at + "vswitch-id": "vsw-bp1f", at + "vswitch-cidr-block": "192.168.0.0/20",
            at + "tags/instance/": "team", at + "tags/instance/team": "shop",
        })  # fmt: skip


class GcpService(Service):
    """Wants Metadata-Flavor: Google and no X-Forwarded-For, else 403; says the same header."""

    def __init__(self) -> None:
        super().__init__()
        at = "/computeMetadata/v1/"
        interfaces = [{
            "accessConfigs": [{"externalIp": "34.1.2.3", "type": "ONE_TO_ONE_NAT"}], "dnsServers": ["169.254.169.254"],
            "forwardedIps": [], "gateway": "10.128.0.1", "ip": "10.128.0.2", "ipAliases": ["10.4.0.0/24"],
            "mac": "42:01:0a:80:00:02", "mtu": 1460, "network": "projects/123456/networks/default",
            "subnetmask": "255.255.240.0", "targetInstanceIps": [],
        }]  # fmt: skip
        self.data = {
            at + "project/project-id": "my-project",
            at + "instance/id": "4520031799277581759",
            at + "instance/name": "gke-prod-1-pool-1",
            at + "instance/zone": "projects/123456/zones/europe-west1-b",
            at + "instance/machine-type": "projects/123456/machineTypes/e2-standard-4",
            at + "instance/image": "projects/gke-node-images/global/images/cos-113",
            at + "instance/network-interfaces/?recursive=true": json.dumps(interfaces),
            at + "instance/attributes/": "cluster-name\ncluster-location\nkube-env\nteam",
            at + "instance/attributes/cluster-name": "prod-1",
            at + "instance/attributes/cluster-location": "europe-west1",
            at + "instance/attributes/kube-env": "BOOTSTRAP_SECRET: hunter2",
            at + "instance/attributes/team": "shop",
        }

    def answer(self, h: BaseHTTPRequestHandler) -> None:
        if h.headers.get("Metadata-Flavor") != "Google" or h.headers.get("X-Forwarded-For"):
            self.refused += 1
            return say(h, 403)
        found = self.data.get(h.path)
        return say(h, 404 if found is None else 200, found or "", Metadata_Flavor="Google", Server="Metadata Server")


class AzureService(Service):
    """Wants Metadata: true and a known api-version, and no X-Forwarded-For, else 400."""

    def __init__(self) -> None:
        super().__init__()
        self.instance: dict[str, Any] = {
            "compute": {
                "azEnvironment": "AzurePublicCloud", "location": "westeurope", "name": "aks-pool-1", "osType": "Linux",
                "osProfile": {"computerName": "aks-pool-1000000", "adminUsername": "azureuser"},
                "resourceGroupName": "MC_shop_prod-1_westeurope",
                "resourceId": "/subscriptions/8d10da13/resourceGroups/x/providers/Microsoft.Compute/virtualMachines/v",
                "storageProfile": {"imageReference": {
                    "id": "", "offer": "aks", "publisher": "microsoft-aks", "sku": "gen2", "version": "1.2.3"}},
                "subscriptionId": "8d10da13", "tags": "team:shop",
                "tagsList": [{"name": "team", "value": "shop"}, {"name": "cost", "value": "42"}],
                "vmId": "13f56399", "vmSize": "Standard_D2s_v5", "zone": "2",
            },
            "network": {"interface": [{
                "ipv4": {
                    "ipAddress": [{"privateIpAddress": "10.224.0.4", "publicIpAddress": ""},
                                  {"privateIpAddress": "10.224.0.5", "publicIpAddress": ""}],
                    "subnet": [{"address": "10.224.0.0", "prefix": "16"}],
                },
                "ipv6": {"ipAddress": []}, "macAddress": "000D3A123456",
            }]},
        }  # fmt: skip
        self.balancer: dict[str, Any] | None = {"loadbalancer": {
            "publicIpAddresses": [{"frontendIpAddress": "51.0.0.1", "privateIpAddress": "10.224.0.4"}],
            "inboundRules": [{"frontendIpAddress": "50.0.0.1", "protocol": "tcp", "frontendPort": 80,
                              "backendPort": 8080, "privateIpAddress": "10.224.0.4"}],
            "outboundRules": [{"frontendIpAddress": "50.0.0.50", "privateIpAddress": "10.224.0.4"}],
        }}  # fmt: skip

    def answer(self, h: BaseHTTPRequestHandler) -> None:
        path, _, query = h.path.partition("?api-version=")
        if h.headers.get("Metadata") != "true" or h.headers.get("X-Forwarded-For") or not query:
            self.refused += 1
            return say(h, 400, '{"error": "Bad request"}')
        found = {"/metadata/instance": self.instance, "/metadata/loadbalancer": self.balancer}.get(path)
        return say(h, 404, "{}") if found is None else say(h, 200, json.dumps(found), Content_Type="application/json")
