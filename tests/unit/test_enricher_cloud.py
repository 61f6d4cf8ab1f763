"""The cloud source against metadata services on loopback that check tokens and headers as the real ones do."""

import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import cloud_services as services
import msgspec
import pytest
from cloud_services import AlibabaService, AwsService, AzureService, GcpService, Service, say

from zerospan.enricher import keys
from zerospan.enricher.names import TAGS
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.cloud import dmi
from zerospan.enricher.sources.cloud.azure import cluster_of
from zerospan.enricher.sources.cloud.cloud import CloudConfig, CloudSource, problems
from zerospan.enricher.sources.cloud.metadata import MAX_BYTES, MAX_TEXT, Metadata, text
from zerospan.enricher.store import TagStore

KINDS: dict[str, type[Service]] = {
    "aws": AwsService,
    "gcp": GcpService,
    "azure": AzureService,
    "alibaba": AlibabaService,
}
WANT = {
    "aws": {
        "cloud.provider": "aws", "cloud.platform": "aws_eks", "cloud.region": "eu-central-1",
        "cloud.availability_zone": "eu-central-1b", "cloud.account.id": "123456789012",
        "cloud.resource_id": "arn:aws:ec2:eu-central-1:123456789012:instance/i-0f3a5c", "host.id": "i-0f3a5c",
        "host.name": "ip-10-0-17-4.eu-central-1.compute.internal", "host.type": "m6i.large",
        "host.image.id": "ami-07b0", "host.arch": "amd64", "k8s.cluster.name": "prod-1",
        "zerospan.cloud.vpc.id": "vpc-0a1b", "zerospan.cloud.subnet.id": "subnet-0c2d",
        "zerospan.cloud.subnet.cidr": "10.0.16.0/20", "zerospan.cloud.private_ip": "10.0.17.4",
        "zerospan.cloud.public_ip": "203.0.113.7", "host.ip": "10.0.17.4,2001:db8::17,10.0.18.9",
    },
    "gcp": {
        "cloud.provider": "gcp", "cloud.platform": "gcp_kubernetes_engine", "cloud.region": "europe-west1",
        "cloud.availability_zone": "europe-west1-b", "cloud.account.id": "my-project",
        "cloud.resource_id": "//compute.googleapis.com/projects/my-project/zones/europe-west1-b/instances/"
        "4520031799277581759",
        "host.id": "4520031799277581759", "host.name": "gke-prod-1-pool-1", "host.type": "e2-standard-4",
        "host.image.id": "projects/gke-node-images/global/images/cos-113", "host.image.name": "cos-113",
        "k8s.cluster.name": "prod-1", "zerospan.cloud.vpc.id": "default",
        "zerospan.cloud.subnet.cidr": "10.128.0.0/20", "zerospan.cloud.private_ip": "10.128.0.2",
        "zerospan.cloud.public_ip": "34.1.2.3", "host.ip": "10.128.0.2",
    },
    "azure": {
        "cloud.provider": "azure", "cloud.platform": "azure.aks", "cloud.region": "westeurope",
        "cloud.availability_zone": "westeurope-2", "cloud.account.id": "8d10da13",
        "cloud.resource_id": "/subscriptions/8d10da13/resourceGroups/x/providers/Microsoft.Compute/virtualMachines/v",
        "host.id": "13f56399", "host.name": "aks-pool-1000000", "host.type": "Standard_D2s_v5",
        "host.image.id": "microsoft-aks:aks:gen2:1.2.3", "host.image.name": "aks", "k8s.cluster.name": "prod-1",
        "zerospan.cloud.subnet.cidr": "10.224.0.0/16", "zerospan.cloud.private_ip": "10.224.0.4",
        "zerospan.cloud.public_ip": "51.0.0.1", "host.ip": "10.224.0.4",
        "zerospan.cloud.load_balancer": "50.0.0.1", "zerospan.cloud.nat_gateway": "50.0.0.50",
    },
    "alibaba": {
        "cloud.provider": "alibaba_cloud", "cloud.platform": "alibaba_cloud_ecs", "cloud.region": "cn-hangzhou",
        "cloud.availability_zone": "cn-hangzhou-i", "cloud.account.id": "160998252992",
        "host.id": "i-bp13znx0m0me8cquu", "host.name": "iZbp13znx0m0me8cquu", "host.type": "ecs.g6e.large",
        "host.image.id": "aliyun_3_x64_20G_alibase_20210425.vhd", "zerospan.cloud.vpc.id": "vpc-bp1e",
        "zerospan.cloud.subnet.id": "vsw-bp1f", "zerospan.cloud.subnet.cidr": "192.168.0.0/20",
        "zerospan.cloud.private_ip": "192.168.1.5", "zerospan.cloud.public_ip": "120.55.1.2",
        "host.ip": "192.168.1.5",
    },
}  # fmt: skip
ADDRESSES = {
    "aws": {"10.0.17.4", "2001:db8::17", "10.0.18.9", "203.0.113.7"},
    "gcp": {"10.128.0.2", "34.1.2.3"},
    "azure": {"10.224.0.4", "51.0.0.1"},
    "alibaba": {"192.168.1.5", "120.55.1.2"},
}
DMI_DATA = {
    "aws": {"sys_vendor": "Amazon EC2", "product_name": "m6i.large", "bios_vendor": "Amazon EC2"},
    "gcp": {"sys_vendor": "Google", "product_name": "Google Compute Engine"},
    "azure": {
        "sys_vendor": "Microsoft Corporation",
        "product_name": "Virtual Machine",
        "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77",
    },
    "alibaba": {"sys_vendor": "Alibaba Cloud", "product_name": "Alibaba Cloud ECS"},
}


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not become true"
        time.sleep(0.005)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(kind: str) -> Iterator[Any]:
    made = KINDS[kind]()
    yield made
    made.close()


@pytest.fixture
def aws() -> Iterator[AwsService]:
    made = AwsService()
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[CloudSource, TagStore]]]:
    """Starts a source whose first reading is over when it is returned; stops it at the end."""
    made: list[CloudSource] = []

    def start(address: str, folder: Path = tmp_path, **config: Any) -> tuple[CloudSource, TagStore]:
        store = TagStore()
        source = CloudSource(store, CloudConfig(address=address, **config), "n1", folder=folder)
        made.append(source)
        source.start()
        until(lambda: source.stats().in_sync)
        return source, store

    yield start
    for source in made:
        source.stop()
        assert source._thread is None or not source._thread.is_alive()


def dmi_folder(folder: Path, data: dict[str, str]) -> Path:
    for name, value in data.items():
        (folder / name).write_text(value + "\n")
    return folder


def tags_of(store: TagStore, key: bytes = keys.node("n1")) -> dict[str, str]:
    found = store.find(key)
    return found.tags() if found else {}


# -- which cloud


def test_dmi_names_the_cloud(kind: str, tmp_path: Path) -> None:
    assert dmi.provider(dmi_folder(tmp_path, DMI_DATA[kind])) == kind


@pytest.mark.parametrize(
    "data",
    [
        {"sys_vendor": "Xen", "product_name": "HVM domU", "bios_version": "4.11.amazon"},
        {"sys_vendor": "Amazon EC2", "product_name": "i4i.metal"},
    ],
)
def test_other_machines_of_aws(data: dict[str, str], tmp_path: Path) -> None:
    assert dmi.provider(dmi_folder(tmp_path, data)) == "aws"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"sys_vendor": "QEMU", "product_name": "Standard PC (Q35 + ICH9, 2009)", "bios_vendor": "SeaBIOS"},
        {"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine", "chassis_asset_tag": "0000"},
        {"sys_vendor": "Google", "product_name": "Eve"},  # a laptop
        {"sys_vendor": "Xen", "product_name": "HVM domU", "bios_version": "4.11"},
        {"sys_vendor": "\xff" * 5000},
    ],
)
def test_no_cloud_nobody_asked(data: dict[str, str], tmp_path: Path, aws: AwsService, run: Any) -> None:
    source, store = run(aws.address, dmi_folder(tmp_path, data))
    assert source.provider == "" and source._thread is None  # not even a thread that could ask
    assert aws.asked == [] and tags_of(store) == {}
    assert source.stats().errors == 0 and source.stats().lag_s == 0


def test_none_is_none_on_a_cloud(kind: str, service: Any, tmp_path: Path, run: Any) -> None:
    source, _ = run(service.address, dmi_folder(tmp_path, DMI_DATA[kind]), provider="none")
    assert source.provider == "" and service.asked == []


# -- what it says


def test_all_tags_and_addresses(kind: str, service: Any, tmp_path: Path, run: Any) -> None:
    source, store = run(service.address, dmi_folder(tmp_path, DMI_DATA[kind]))
    assert source.stats().errors == 0, source.stats().last_error
    assert tags_of(store) == WANT[kind]
    assert set(WANT[kind]) <= set(TAGS)  # docs/tags.md has them
    assert service.refused == 0
    told = {keys.unpacked(key[1:]) for key in store.of_node("n1") if key[:1] == keys.ADDRESS}
    assert told == ADDRESSES[kind]
    for address in told:
        assert store.find(keys.address(address)) is store.find(keys.node("n1"))
    piece = store.pieces(keys.node("n1"))[0]  # known for the time before this enricher, too
    assert piece.since_ns < time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9


def test_the_services_of_the_tests_refuse_what_the_real_ones_refuse(kind: str, service: Any) -> None:
    path = {
        "aws": "/latest/meta-data/mac",
        "alibaba": "/latest/meta-data/mac",
        "gcp": "/computeMetadata/v1/instance/id",
        "azure": "/metadata/instance?api-version=2021-02-01",
    }[kind]
    http = Metadata(service.address, timeout_s=5, total_s=5)
    http.begin()
    assert http.ask(path, {})[0] == {"aws": 401, "alibaba": 401, "gcp": 403, "azure": 400}[kind]
    http.end()


def test_own_tags_by_glob_only(kind: str, service: Any, run: Any) -> None:
    _, store = run(service.address, provider=kind, tags=("te*",))
    assert tags_of(store) == WANT[kind] | {"zerospan.cloud.tag.team": "shop"}


def test_secrets_of_gcp_are_never_asked_for(run: Any) -> None:
    gcp = GcpService()
    _, store = run(gcp.address, provider="gcp", tags=("*",))
    assert "zerospan.cloud.tag.team" in tags_of(store)
    assert not any("kube-env" in path or path.endswith("/v1/?recursive=true") for path in gcp.asked)
    assert "hunter2" not in str(tags_of(store))
    gcp.close()


def test_plain_machines_are_not_of_a_cluster(run: Any) -> None:
    aws, gcp, azure = AwsService(), GcpService(), AzureService()
    del aws.data["/latest/meta-data/tags/instance"]  # the default: tags are not in the metadata
    del gcp.data["/computeMetadata/v1/instance/attributes/cluster-name"]
    azure.instance["compute"]["resourceGroupName"] = "web"
    azure.balancer = None
    for kind, service, platform in (
        ("aws", aws, "aws_ec2"),
        ("gcp", gcp, "gcp_compute_engine"),
        ("azure", azure, "azure.vm"),
    ):
        source, store = run(service.address, provider=kind, tags=("*",))
        found = tags_of(store)
        assert found["cloud.platform"] == platform and "k8s.cluster.name" not in found
        assert source.stats().errors == 0
        service.close()


@pytest.mark.parametrize(
    "group, location, cluster",
    [
        ("MC_shop_prod-1_westeurope", "westeurope", "prod-1"),
        ("mc_shop_prod-1_westeurope", "WestEurope", "prod-1"),
        ("MC_a_b_c_westeurope", "westeurope", ""),  # a_b and c, or a and b_c
        ("MC_shop_prod-1_eastus", "westeurope", ""),
        ("MC__westeurope", "westeurope", ""),
        ("shop", "westeurope", ""),
        ("", "", ""),
    ],
)
def test_cluster_in_the_name_of_a_group(group: str, location: str, cluster: str) -> None:
    assert cluster_of(group, location) == cluster


def test_the_tag_of_aks_names_the_cluster_where_the_group_cannot(run: Any) -> None:
    azure = AzureService()
    azure.instance["compute"]["resourceGroupName"] = "MC_a_b_c_westeurope"
    azure.instance["compute"]["tagsList"].append({"name": "aks-managed-cluster-name", "value": "b_c"})
    assert tags_of(run(azure.address, provider="azure")[1])["k8s.cluster.name"] == "b_c"
    azure.close()


# -- tokens


def test_one_token_serves_many_readings(aws: AwsService, run: Any) -> None:
    run(aws.address, provider="aws", refresh_s=1)
    until(lambda: sum("document" in path for path in aws.asked) >= 2)
    assert sum(path.startswith("PUT") for path in aws.asked) == 1 and aws.refused == 0


@pytest.mark.parametrize("kind", ["aws", "alibaba"])
def test_a_token_is_renewed_before_it_ends(kind: str, service: Any, run: Any) -> None:
    service.lives_s = 1
    source, _ = run(service.address, provider=kind, refresh_s=1)
    until(lambda: sum(path.startswith("PUT") for path in service.asked) >= 3)
    assert service.refused == 0 and source.stats().errors == 0


@pytest.mark.parametrize("kind", ["aws", "alibaba"])
def test_a_token_that_was_revoked_is_renewed(kind: str, service: Any, run: Any) -> None:
    source, store = run(service.address, provider=kind, refresh_s=1)
    service.tokens.clear()
    until(lambda: service.refused)
    until(lambda: sum(path.startswith("PUT") for path in service.asked) >= 2)
    until(lambda: sum("instance-id" in p or "document" in p for p in service.asked) >= 3)  # refused, asked again
    assert service.refused == 1 and source.stats().errors == 0 and tags_of(store) == WANT[kind]


def test_no_token_says_why(aws: AwsService, run: Any) -> None:
    def silent(h: BaseHTTPRequestHandler) -> bool:
        return h.command == "PUT" and time.sleep(1) is None

    aws.odd = silent  # what a container sees whose packets are one hop too far
    source, _ = run(aws.address, provider="aws", timeout_s=0.1)
    assert "HttpPutResponseHopLimit" in source.stats().last_error


# -- what goes wrong


def test_changes_are_followed_and_what_went_is_ended(aws: AwsService, run: Any) -> None:
    source, store = run(aws.address, provider="aws", refresh_s=1)
    before = time.time_ns()
    at = "/latest/meta-data/network/interfaces/macs/" + services.quoted(services.MAC)
    aws.data[at + "/public-ipv4s"] = "203.0.113.8"
    until(lambda: tags_of(store, keys.address("203.0.113.8")))
    assert tags_of(store)["zerospan.cloud.public_ip"] == "203.0.113.8"
    assert store.find(keys.address("203.0.113.7")) is None
    then = store.find(keys.address("203.0.113.7"), before)
    assert then is not None and then.get("zerospan.cloud.public_ip") == "203.0.113.7"
    assert source.stats().entities == {"machine": 1, "address": 4}


def test_other_sources_win_and_the_cloud_fills_in(aws: AwsService, run: Any) -> None:
    _, store = run(aws.address, provider="aws")
    key = keys.node("n1")
    store.put(key, store.make({"host.name": "n1.lan", "k8s.node.name": "n1"}), layer=Layer.KUBERNETES, since_ns=1)
    assert tags_of(store) == WANT["aws"] | {"host.name": "n1.lan", "k8s.node.name": "n1"}


def test_a_dead_port_and_a_silent_one_cost_less_than_a_second(kind: str, run: Any) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # accepts, never answers
    dead = socket.create_server(("127.0.0.1", 0))
    for server in (silent, dead):
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if server is dead:
            dead.close()
        begin = time.monotonic()
        source, store = run(address, provider=kind)  # the default time-outs
        assert time.monotonic() - begin < 1
        stats = source.stats()
        assert stats.errors >= 1 and stats.last_error.startswith(kind) and tags_of(store) == {}
    silent.close()


def test_it_is_asked_again_with_back_off_and_keeps_what_it_knew(kind: str, service: Any, run: Any) -> None:
    source, store = run(service.address, provider=kind, refresh_s=1)
    service.odd = lambda h: say(h, 503) is None
    until(lambda: source.stats().errors >= 2)
    assert tags_of(store) == WANT[kind]  # stale is better than nothing; lag tells
    assert source.stats().lag_s > 0.5
    service.odd = None
    errors = source.stats().errors
    until(lambda: source.stats().lag_s < 0.5)
    assert source.stats().errors - errors <= 1


def drip(h: BaseHTTPRequestHandler) -> bool:
    h.send_response(200)
    h.send_header("Content-Length", "1000")
    h.end_headers()
    for _ in range(1000):
        h.wfile.write(b"x")
        time.sleep(0.02)
    return True


def drip_head(h: BaseHTTPRequestHandler) -> bool:
    h.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(1000):
        h.wfile.write(b"x")
        time.sleep(0.02)
    return True


def huge(h: BaseHTTPRequestHandler) -> bool:
    h.send_response(200)
    h.send_header("Content-Length", str(1 << 40))
    h.end_headers()
    while True:
        h.wfile.write(b'"' * 65536)


def short(h: BaseHTTPRequestHandler) -> bool:
    """A body that ends before its length: half an id must not become one."""
    h.send_response(200)
    h.send_header("Content-Length", "100")
    h.send_header("Metadata-Flavor", "Google")
    h.end_headers()
    h.wfile.write(b"i-0f")
    h.close_connection = True
    return True


def redirect(h: BaseHTTPRequestHandler) -> bool:
    say(h, 302, Location="http://" + h.headers["Host"] + "/elsewhere")
    return True


def garbage(h: BaseHTTPRequestHandler) -> bool:
    h.wfile.write(b"\x00\xff\x16\x03\x01 not http\r\n\r\n" * 10)
    h.close_connection = True
    return True


def nested(h: BaseHTTPRequestHandler) -> bool:
    say(h, 200, b"[" * 100_000, Metadata_Flavor="Google")
    return True


def control(h: BaseHTTPRequestHandler) -> bool:
    say(h, 200, b"\x1b[31mevil\x00\r\n", Metadata_Flavor="Google")
    return True


def long(h: BaseHTTPRequestHandler) -> bool:
    say(h, 200, b"x" * 5000, Metadata_Flavor="Google")
    return True


def heads(h: BaseHTTPRequestHandler) -> bool:
    h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(5000)) + b"\r\n")
    return True


@pytest.mark.parametrize(
    "odd", [drip, drip_head, huge, short, redirect, garbage, nested, control, long, heads], ids=lambda f: f.__name__
)
def test_odd_answers_are_errors_and_tell_nothing(kind: str, service: Any, odd: Any, run: Any) -> None:
    service.odd = odd
    begin = time.monotonic()
    source, store = run(service.address, provider=kind, timeout_s=0.3)
    assert time.monotonic() - begin < 3
    assert source.stats().errors >= 1 and source.stats().last_error
    assert store.of_node("n1") == []
    assert not any("elsewhere" in path for path in service.asked)  # no redirect is followed
    service.odd = None  # and it is well again afterwards
    until(lambda: tags_of(store) == WANT[kind])


def test_a_huge_body_is_not_kept_in_memory(kind: str, service: Any, run: Any) -> None:
    service.odd = huge
    run(service.address, provider=kind, timeout_s=0.5)
    gc.collect()
    assert not [o for o in gc.get_objects() if isinstance(o, bytes | bytearray) and len(o) > 2 * MAX_BYTES]


WRONG: list[Any] = [None, True, 1.5, [], {}, [1], {"a": 1}, "\x00", "x" * 1000, "\ud800", "", 1 << 80, [[None]]]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_types_anywhere_are_left_out(wrong: Any, run: Any) -> None:
    """Each value of Azure's answer, the most nested one, becomes something else once: no tag is wrong, nothing ends."""
    azure = AzureService()
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, below in list(node.items() if isinstance(node, dict) else enumerate(node)):
            spots.append((node, key))
            if isinstance(below, dict | list):
                walk(below)

    walk(azure.instance)
    walk(azure.balancer)
    from zerospan.enricher.sources.cloud.azure import Azure
    from zerospan.enricher.sources.cloud.metadata import MetadataError

    http = Metadata(azure.address, timeout_s=5, total_s=60)
    http.begin()
    right = set(WANT["azure"].values()) | {"shop", "42", "azure.vm", "aks-pool-1"}
    for node, key in spots:
        kept, node[key] = node[key], wrong
        try:
            machine = Azure(http).read(("*",))
        except MetadataError:
            pass
        else:
            for value in (*machine.tags.values(), *machine.private, *machine.public):
                assert isinstance(value, str) and len(value) <= 3 * MAX_TEXT and value.isprintable()
            assert {v for v in machine.tags.values() if v} <= right, (node, key)
        node[key] = kept
    http.end()
    azure.close()


@pytest.mark.parametrize(
    "value, want",
    [
        ("a", "a"),
        (b"a\n", "a"),
        (5, "5"),
        (True, ""),
        (None, ""),
        (b"\xff", ""),
        ("a\nb", ""),
        ("x" * 257, ""),
        ([], ""),
    ],
)
def test_text(value: object, want: str) -> None:
    assert text(value) == want


def test_proxies_of_the_environment_are_not_asked(aws: AwsService, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = socket.create_server(("127.0.0.1", 0))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
    _, store = run(aws.address, provider="aws")
    assert tags_of(store) == WANT["aws"]
    proxy.setblocking(False)
    with pytest.raises(BlockingIOError):
        proxy.accept()
    proxy.close()


def test_stop_does_not_wait_for_an_answer(run: Any, tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    store = TagStore()
    config = CloudConfig(address=f"127.0.0.1:{silent.getsockname()[1]}", provider="gcp", timeout_s=30)
    source = CloudSource(store, config, "n1", folder=tmp_path)
    source.start()
    connection, _ = silent.accept()
    begin = time.monotonic()
    source.stop()
    assert time.monotonic() - begin < 2
    assert source._thread is not None and not source._thread.is_alive()
    connection.close()
    silent.close()


def test_no_thread_is_left(aws: AwsService, run: Any) -> None:
    source, _ = run(aws.address, provider="aws")
    source.stop()
    until(lambda: not [t for t in threading.enumerate() if t.name == "cloud" or isinstance(t, threading.Timer)])


@pytest.mark.parametrize("address", ["http://169.254.169.254", "a/b", "host:port", "fd00:ec2::254", "u@h", "h:99999"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    assert [path for path, _ in problems(CloudConfig(address=address))] == [("address",)]


@pytest.mark.parametrize("address", ["", "169.254.169.254", "127.0.0.1:80", "[fd00:ec2::254]:80", "metadata.local"])
def test_an_address_that_is_one(address: str) -> None:
    assert not list(problems(CloudConfig(address=address)))


def test_config_is_checked() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"provider": "ibm"}, CloudConfig)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"providr": "aws"}, CloudConfig)
    assert json.loads(msgspec.json.encode(CloudConfig()))["provider"] == "auto"
