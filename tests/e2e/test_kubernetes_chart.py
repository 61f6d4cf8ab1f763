"""The Helm chart as text: what the real helm makes of its values; the programs' own loaders read what it writes."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from kube_chart import CHART, NAMESPACE, Chart, helm
from kube_cluster import ROOT
from kube_daemon import KubeError

from zerospan.enricher import config as enricher_config
from zerospan.exporter import config as agent_config
from zerospan.exporter.cli.machine import CAPABILITIES

MANIFEST = ROOT / "deploy/kubernetes/zerospan.yaml"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
Json = dict[str, Any]
FULL: Json = {
    "clusterName": "prod-1",
    "tls": {"existingSecret": "zerospan-tls"},
    "perNode": {"cgroup": "/sys/fs/cgroup/nodes/$(NODE_NAME)", "containerd": "/run/$(NODE_NAME)/tasks"},
    "agent": {"nic": 0.5, "hostPort": 9464, "config": {"otlp": {"traces": {"endpoint": "http://tempo:4318"}}}},
    "enricher": {"cluster": {"config": {"sources": {"kubernetes": {"watch": ["pods", "nodes", "deployments"]}}}}},
    "serviceMonitor": {"enabled": True},
}


def render(values: Json | None = None, *options: str) -> list[Json]:
    """The objects that helm would install."""
    text = helm(
        "template", "zs", CHART, "--namespace", "somewhere", "--values", "-", *options, stdin=json.dumps(values or {})
    )
    return [one for one in yaml.safe_load_all(text) if one]


def one(objects: list[Json], kind: str, name: str) -> Json:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods(objects: list[Json]) -> Iterator[Json]:
    for each in objects:
        if each["kind"] in ("Deployment", "DaemonSet"):
            yield each["spec"]["template"]["spec"]


def test_helm_finds_no_fault() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


WRONG: dict[str, list[Any]] = {
    "agent.nic": [2, "on", -1],
    "agent.metricsPort": [0, "http", 70000],
    "agent.unknown": [1],
    "unknown": [1],
    "agent.env": [{"NAME": "value"}],
    "image.pullPolicy": ["Sometimes"],
    "image.digest": ["sha256:12"],
    "enricher.node.kubelet": ["yes", True],
    "enricher.cluster.replicas": [0, "2"],
    "perNode.cgroup": ["nodes/n1"],
    "daemonset.maxUnavailable": ["some", 0],
    "serviceMonitor.interval": ["15"],
    "token": ["secret"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_helm_refuses_wrong_values_and_says_where(key: str, value: Any) -> None:
    values: Any = value
    for name in reversed(key.split(".")):
        values = {name: values}
    with pytest.raises(KubeError) as refused:
        render(values)
    assert "values don't meet the specifications of the schema" in str(refused.value)
    assert key.split(".")[-1] in str(refused.value)


def test_every_value_is_in_the_schema_and_has_words() -> None:
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(values, SCHEMA)

    def compare(path: str, schema: Json, value: Any) -> None:
        if "properties" in schema and schema.get("additionalProperties") is False and path not in RESOURCES:
            assert schema["properties"].keys() - {"global"} == value.keys(), path
            for name, inner in schema["properties"].items():
                if name in value:
                    compare(f"{path}.{name}", inner, value[name])

    compare("", SCHEMA, values)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\s*\w+:", line) and not re.match(r"\s*(requests|limits|enabled):", line):
            before = next((above for above in reversed(lines[:number]) if above.strip()), "")
            opens = line.rstrip().endswith(":")
            assert "#" in line or before.strip().startswith("#") or opens, f"line {number + 1} says nothing: {line}"


RESOURCES = {".agent.resources", ".enricher.node.resources", ".enricher.cluster.resources"}


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "full"])
def test_the_programs_read_what_the_chart_writes(values: Json, tmp_path: Path) -> None:
    objects = render(values)
    node = one(objects, "ConfigMap", "zs-zerospan-node")["data"]
    cluster = one(objects, "ConfigMap", "zs-zerospan-enricher")["data"]
    for name, text in (
        ("agent", node["agent.yaml"]),
        ("node", node["enricher.yaml"]),
        ("cluster", cluster["enricher.yaml"]),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    agent = agent_config.load(str(tmp_path / "agent.yaml"), env=variables(objects, "agent"))
    assert agent.enricher.address == "unix:///run/zerospan/enricher.sock"
    assert agent.capture.nic == values.get("agent", {}).get("nic", 0)
    beside = enricher_config.load(str(tmp_path / "node.yaml"), env=variables(objects, "enricher"))
    assert beside.scope == "node" and beside.upstream is not None
    service = one(objects, "Service", "zs-zerospan-enricher")
    assert beside.upstream.address == f"zs-zerospan-enricher.somewhere.svc:{service['spec']['ports'][0]['port']}"
    for_all = enricher_config.load(str(tmp_path / "cluster.yaml"), env={})
    assert for_all.scope == "cluster" and for_all.sources.kubernetes.enabled
    if values:
        assert agent.filter.cgroup == agent.capture.nic_cgroup == ("/sys/fs/cgroup/nodes/n1",)
        assert beside.sources.os.cgroups == ("/sys/fs/cgroup/nodes/n1",)
        assert beside.sources.os.containerd == ("/run/n1/tasks",)
        assert beside.upstream.ca and for_all.security.cert
        assert beside.cluster.name == for_all.cluster.name == "prod-1"


def variables(objects: list[Json], container: str) -> dict[str, str]:
    """The container's variables as on node n1."""
    spec = one(objects, "DaemonSet", "zs-zerospan-node")["spec"]["template"]["spec"]
    [found] = [each for each in spec["containers"] if each["name"] == container]
    known = {"NODE_NAME": "n1", "HOST_IP": "192.0.2.1"}
    for each in found["env"]:
        if "value" in each:
            known[each["name"]] = re.sub(r"\$\((\w+)\)", lambda m: known[m[1]], each["value"])
    return known


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "full"])
def test_containers_have_few_rights(values: Json) -> None:
    named = {name.removeprefix("CAP_") for _, name, _ in CAPABILITIES} - {"SYS_RESOURCE"}  # kernels before 5.11
    wanted = {"agent": named if values else named - {"NET_ADMIN", "NET_RAW", "SYS_ADMIN"}}
    for pod in pods(render(values)):
        assert not pod.get("hostNetwork") and not pod.get("hostIPC")
        assert pod.get("hostPID", False) == (len(pod["containers"]) == 2)
        paths = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
        assert set(paths.values()) <= {"/sys/fs/cgroup"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
            assert "privileged" not in context and context["capabilities"]["drop"] == ["ALL"]
            if container["name"] == "agent":
                assert set(context["capabilities"]["add"]) == wanted["agent"]
                assert ("cgroups" in {m["name"] for m in container["volumeMounts"]}) == bool(values)
            elif pod.get("hostPID"):
                assert set(context["capabilities"]["add"]) == {"SYS_PTRACE", "DAC_READ_SEARCH"}
            else:
                assert "add" not in context["capabilities"] and pod["securityContext"]["runAsNonRoot"]
            for mount in container["volumeMounts"]:
                assert mount.get("readOnly") or mount["name"] == "run", mount
            assert (
                container["resources"]["limits"]["memory"]
                and container["livenessProbe"]
                and container["readinessProbe"]
            )
        accounts = [each for each in pod["volumes"] if "projected" in each]
        assert pod["automountServiceAccountToken"] != bool(accounts), "one token, for the enricher alone"


def test_the_role_follows_what_is_watched() -> None:
    for values, wanted in (
        ({}, set(enricher_config.Config().sources.kubernetes.watch)),
        (FULL, {"pods", "nodes", "deployments"}),
    ):
        role = one(render(values), "ClusterRole", "zs-zerospan-enricher")
        assert {kind for rule in role["rules"] for kind in rule["resources"]} == wanted
        assert {tuple(rule["verbs"]) for rule in role["rules"]} == {("list", "watch")}


def test_what_is_off_is_not_there() -> None:
    kinds = {each["kind"] for each in render()}
    assert {"PodMonitor", "ServiceMonitor"} & kinds == set()
    assert {"PodMonitor", "ServiceMonitor"} <= {each["kind"] for each in render(FULL)}
    off = render({"rbac": {"create": False}, "token": {"existingSecret": "mine"}})
    assert {"ClusterRole", "ClusterRoleBinding", "Secret"} & {each["kind"] for each in off} == set()
    quiet = render({"enricher": {"node": {"kubelet": "off"}, "cluster": {"replicas": 1}}})
    assert "zs-zerospan-node" not in {each["metadata"]["name"] for each in quiet if each["kind"] == "ClusterRole"}
    assert "PodDisruptionBudget" not in {each["kind"] for each in quiet}


def test_a_changed_configuration_makes_new_pods_and_a_new_token_does_not() -> None:
    def templates(values: Json) -> list[Any]:
        return [each["spec"]["template"] for each in render(values) if each["kind"] in ("Deployment", "DaemonSet")]

    assert templates({}) == templates({})  # the token is another in each
    changed = copy.deepcopy(FULL)
    changed["agent"]["config"]["log"] = {"level": "debug"}
    assert templates(FULL) != templates(changed)


def test_the_plain_manifests_are_the_charts() -> None:
    made = subprocess.run([ROOT / "tools/manifests.sh", "-"], capture_output=True, text=True, check=True).stdout
    assert MANIFEST.read_text() == made, "the chart has changed: run tools/manifests.sh"


def test_the_api_server_takes_the_plain_manifests(chart: Chart) -> None:
    text = MANIFEST.read_text().replace(f"namespace: {NAMESPACE}", "namespace: default")
    said = chart.cluster.kubectl("apply", "--dry-run=server", "--filename", "-", stdin=text)
    assert "daemonset.apps/zerospan-node created (server dry run)" in said
