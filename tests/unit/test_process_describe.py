"""What is exported about a process: decoded by OpenTelemetry's, Prometheus' and JSON's own readers."""

import calendar
import json
import os
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))
from process_cases import Proc, decoded

from zerospan import __version__
from zerospan.exporter.config.model import (
    Config,
    Loki,
    Resource,
    Service,
    ServiceMatch,
    ServiceRule,
)
from zerospan.exporter.config.secret import Url
from zerospan.exporter.process import Describer, ProcessInfo, alive, labels
from zerospan.exporter.process.environ import PAIRS_MAX, pairs, stated
from zerospan.exporter.process.procfs import CMDLINE_MAX
from zerospan.exporter.process.resource import encode_resource

HEX = "c0ffee" * 10 + "cafe"
OTHER = "ab" * 32


def prometheus(text: bytes) -> dict[str, str]:
    """The labels as Prometheus reads them."""
    (family,) = text_string_to_metric_families(f"x{{{text.decode()}}} 1\n")
    return dict(family.samples[0].labels)


def stream(text: bytes) -> dict[str, str]:
    """The labels as Loki reads them, each once."""
    members = json.loads(f"{{{text.decode()}}}", object_pairs_hook=list)
    assert len({key for key, _ in members}) == len(members)
    return dict(members)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def describe(proc: Proc, pid: int, config: Config | None = None, comm: str = "shop") -> ProcessInfo:
    config = config or Config()
    return Describer(config, hidden=set(), host="h1", proc=str(proc.root))(pid, comm)


def test_the_resource_has_the_attributes_of_the_conventions(proc: Proc) -> None:
    java = "/usr/lib/jvm/java-17-openjdk/bin/java"
    argv = ["java", "-jar", "/srv/shop-1.4.2.jar", "--password=x"]
    proc.add(77, java, argv, cgroup=f"0::/docker/{HEX}\n", start_ticks=12345)
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + 12345 / os.sysconf("SC_CLK_TCK")
    info = describe(proc, 77)
    found = decoded(info.resource)
    created = str(found.pop("process.creation.time"))
    owner = found.pop("process.owner")
    assert found == {
        "service.name": "shop",
        "service.instance.id": "h1:77",
        "service.version": "1.4.2",
        "host.name": "h1",
        "host.id": "0123456789abcdef0123456789abcdef",
        "os.type": "linux",
        "process.pid": 77,
        "process.executable.name": "java",
        "process.executable.path": java,
        "process.command": "java",
        "process.runtime.name": "OpenJDK Runtime Environment",
        "process.runtime.version": "17",
        "telemetry.sdk.name": "zerospan",
        "telemetry.sdk.language": "java",
        "telemetry.sdk.version": __version__,
        "container.id": HEX,
    }
    assert owner == ("root" if os.geteuid() == 0 else str(os.geteuid()))
    at = time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S")
    assert created.endswith("Z") and abs(calendar.timegm(at) - before) < 2


def test_the_labels_are_those_that_grafana_joins_on(proc: Proc) -> None:
    proc.add(77)
    info = describe(proc, 77)
    assert info.labels == b'"service_name":"shop","source":"zerospan"'
    assert info.series == b'job="shop",instance="h1:77"'
    target = prometheus(info.target_info)
    assert target["process_executable_name"] == "shop" and target["process_pid"] == "77"
    assert target["host_name"] == "h1" and target["telemetry_sdk_name"] == "zerospan"
    # Every attribute stands in target_info once; the identity is in job and instance.
    attributes = decoded(info.resource)
    identity = {"service.name", "service.namespace", "service.instance.id"}
    assert target == {k.replace(".", "_"): str(v) for k, v in attributes.items() if k not in identity}


def test_the_environment_says_who_a_process_is(proc: Proc) -> None:
    text = (
        "service.name=ignored,service.namespace=acme,service.version=2.0,team=pay%2Cments,host.name=h9,"
        "process.pid=1,telemetry.sdk.name=x,empty=,=x,novalue,deployment.environment.name=prod"
    )
    proc.add(77, environ=["PATH=/bin", "OTEL_SERVICE_NAME=till", f"OTEL_RESOURCE_ATTRIBUTES={text}", "PW=hunter2"])
    info = describe(proc, 77)
    found = decoded(info.resource)
    assert found["service.name"] == info.service == "till"
    assert found["service.namespace"] == "acme" and found["service.version"] == "2.0"
    assert found["team"] == "pay,ments" and found["host.name"] == "h9"
    assert found["process.pid"] == 77 and found["telemetry.sdk.name"] == "zerospan"
    assert found["deployment.environment"] == found["deployment.environment.name"] == "prod"
    assert "empty" not in found and "novalue" not in found and "" not in found
    assert info.series == b'job="acme/till",instance="h1:77"'
    assert b"hunter2" not in info.resource + info.labels + info.series + info.target_info


def test_the_name_in_the_attributes_counts_if_there_is_no_other(proc: Proc) -> None:
    proc.add(77, environ=["OTEL_RESOURCE_ATTRIBUTES=service.name=till,service.instance.id=till-0"])
    info = describe(proc, 77)
    assert info.series == b'job="till",instance="till-0"'
    assert decoded(info.resource)["service.instance.id"] == "till-0"


def test_a_variable_whose_name_only_ends_alike_is_another(proc: Proc) -> None:
    proc.add(77, environ=["MY_OTEL_SERVICE_NAME=a", "X=\nOTEL_SERVICE_NAME=b"])
    assert describe(proc, 77).service == "shop"


def test_pairs_are_bounded_and_what_is_malformed_is_left_out() -> None:
    assert pairs(" a = b , c=d=e,%20=x,k=%zz,,") == {"a": "b", "c": "d=e", "k": "%zz"}
    assert len(pairs(",".join(f"k{i}=v" for i in range(10_000)))) == PAIRS_MAX
    assert all(len(k) <= 128 and len(v) <= 1024 for k, v in pairs(f"{'k' * 9999}={'v' * 9999}").items())
    assert stated(b"OTEL_SERVICE_NAME=" + b"\xff" * 100_000 + b"\0").service == "\ufffd" * 255
    assert stated(b"").service == "" and stated(b"OTEL_SERVICE_NAME").attributes == {}


def test_rules_come_first_and_the_first_match_counts(proc: Proc) -> None:
    rules = (
        ServiceRule(ServiceMatch(exe="/opt/*/java", cmdline="*billing*"), "no"),
        ServiceRule(ServiceMatch(cmdline="java -jar *bill[hi]ng*"), "billing"),
        ServiceRule(ServiceMatch(exe="*/java"), "late"),
    )
    config = Config(service=Service(rules))
    environ = ["OTEL_SERVICE_NAME=other"]
    proc.add(77, "/usr/bin/java", ["java", "-jar", "x\n/billing-1.jar"], environ=environ)
    proc.add(78, "/usr/bin/java", ["java", "Main"], environ=environ)
    proc.add(79, "/usr/bin/python3", ["python3", "x.py"], environ=environ)
    assert [describe(proc, pid, config).service for pid in (77, 78, 79)] == ["billing", "late", "other"]


def test_settings_of_the_agent_are_the_base(proc: Proc) -> None:
    attributes = {
        "deployment.environment": "test",
        "service.namespace": "acme",
        "team": "a",
        "host.name": "named",
    }
    labels = {"cluster": 'c"1', "source": "mine", "service_name": "bad"}
    config = Config(resource=Resource(attributes), loki=Loki(Url("http://127.0.0.1"), labels=labels))
    proc.add(77, environ=["OTEL_RESOURCE_ATTRIBUTES=team=b"])
    info = Describer(config, hidden=set(), proc=str(proc.root))(77, "shop")
    found = decoded(info.resource)
    assert found["team"] == "b" and found["deployment.environment.name"] == "test"
    assert prometheus(info.series) == {"job": "acme/shop", "instance": "named:77"}
    assert stream(info.labels) == {"service_name": "shop", "source": "mine", "cluster": 'c"1'}


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"0::/system.slice/docker-{HEX}.scope\n", HEX),
        (f"0::/docker/{HEX}\n", HEX),
        (f"12:cpu:/docker/{HEX}\n11:memory:/docker/{HEX}\n0::/\n", HEX),
        (f"0::/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{HEX}.scope\n", HEX),
        (f"5:pids:/kubepods/burstable/pod1-2/{HEX}\n", HEX),
        (f"0::/kubepods.slice/x.slice/crio-{HEX}.scope/container\n", HEX),
        (f"0::/machine.slice/libpod-{HEX}.scope\n", HEX),
        (f"0::/user.slice/user-1.slice/user@1.service/user.slice/libpod-{HEX}.scope/container\n", HEX),
        (f"0::/docker/{OTHER}/docker/{HEX}\n", HEX),
        (f"0::/../cri-containerd-{HEX}.scope\n", HEX),
        (f"0::/machine.slice/libpod-conmon-{HEX}.scope\n", ""),
        ("0::/system.slice/nginx.service\n", ""),
        (f"0::/x/{HEX}0\n", ""),
        ("", ""),
    ],
)
def test_the_container_is_that_of_the_control_group(cgroup: str, container: str, proc: Proc) -> None:
    proc.add(77, cgroup=cgroup)
    assert decoded(describe(proc, 77).resource).get("container.id", "") == container


def test_processes_that_have_gone_share_one_entry_by_name(proc: Proc) -> None:
    describer = Describer(Config(), hidden={9}, host="h1", proc=str(proc.root))
    infos = [describer(pid, "curl") for pid in range(1000, 2000)]
    assert {info.shared for info in infos} == {"comm:curl"}
    assert {info.series for info in infos} == {b'job="curl",instance="h1"'}
    assert describer.gone == describer.described == 1000 and describer.failed == 0
    found = decoded(infos[0].resource)
    assert found["service.name"] == found["process.executable.name"] == "curl"
    assert "process.pid" not in found
    assert describer(5, "").service == "unknown_service"
    assert describer(6, "python3").service == "unknown_service:python3"
    assert describer(7, "node").loop and not describer(8, "nginx").nginx
    # A hidden process must not hide the others of its name.
    assert describer(9, "curl").hidden and not describer(9, "curl").shared
    assert not describer(10, "curl").hidden


def test_a_zombie_has_gone(proc: Proc) -> None:
    proc.add(77, "", [], state="Z")
    assert describe(proc, 77).shared == "comm:shop"


def test_a_process_that_is_described_again_is_the_same_entry(proc: Proc) -> None:
    """Threads have names of their own, so each of them may be the reason to ask."""
    describer = Describer(Config(), hidden=set(), host="h1", proc=str(proc.root))
    proc.add(77)
    proc.add(78)
    first, again, other = describer(77, "main"), describer(77, "worker-1"), describer(78, "main")
    assert first.shared == again.shared != other.shared
    assert first.series == again.series and first.resource == again.resource
    (proc.root / "77" / "exe").unlink()
    (proc.root / "77" / "exe").symlink_to("/usr/bin/till")  # execve keeps pid and start time
    assert describer(77, "main").shared != first.shared


def test_hidden_follows_the_callers_set(proc: Proc) -> None:
    hidden = {77}
    describer = Describer(Config(), hidden=hidden, proc=str(proc.root))
    proc.add(77)
    assert describer(77, "shop").hidden
    hidden.clear()
    assert not describer(77, "shop").hidden


def test_alive_forgets_what_ended_and_what_took_its_number(proc: Proc) -> None:
    describer = Describer(Config(), hidden=set(), proc=str(proc.root))
    for pid in (77, 78, 79):
        proc.add(pid)
        describer(pid, "shop")
    assert describer.alive([77, 78, 79, 80]) == {77, 78, 79}
    (proc.root / "78").rename(proc.root / "old-78")
    (proc.root / "79").rename(proc.root / "old-79")
    proc.add(79, start_ticks=2000)
    assert describer.alive([77, 78, 79]) == {77}
    assert describer.alive({79}) == {79}  # once forgotten, it is a process like others
    assert alive([77, 78, 80], str(proc.root)) == {77}


def test_alive_knows_a_process_whose_folder_was_made_anew(proc: Proc) -> None:
    describer = Describer(Config(), hidden=set(), proc=str(proc.root))
    proc.add(77)
    describer(77, "shop")
    (proc.root / "77").rename(proc.root / "old-77")
    proc.add(77)  # another inode, the same start time
    assert describer.alive([77]) == {77}


HOSTILE = [
    ("/x/a\nb\x1b[31m", ["a\nb\x00"], []),
    ('/x/"};evil{"', ['"};evil{"'], []),
    ("/x/back\\slash", ["back\\slash"], []),
    ("/usr/bin/python3", ["python3", "x" * 100_000], []),
    ("/usr/bin/python3", ["python3", *["-W"] * 50_000, "a.py"], []),
    ("/usr/bin/java", ["java", "-cp", "x" * CMDLINE_MAX, "com.acme.Main"], []),
    ("/usr/bin/java", ["java", *["-cp"] * 5000], []),
    ("/usr/bin/node", ["node", *["--a"] * 5000], []),
    ("/usr/bin/ruby", ["puma " + "[" * 60_000], []),
    ("/usr/bin/python3", ["gunicorn: worker [" + "a." * 30_000 + "]"], []),
    ("/usr/bin/python3", ["gunicorn: worker [" * 3000], []),
    ("/usr/bin/python3", ["python3", "-m", "." * 60_000], []),
    ("/usr/bin/perl", ["", "", ""], []),
    ("/usr/bin/perl", ["\xa0\u202e\u2028"], []),
    ("/usr/bin/node", ["node", "//../../.."], []),
    ("/usr/bin/\u202egnp", ["x"], []),
    (
        "/x/shop",
        [b"\xff\xfe\xfd" * 1000],
        [b'OTEL_SERVICE_NAME=\xff"\n\\', b"OTEL_RESOURCE_ATTRIBUTES=\xff=\xff,"],
    ),
    ("/x/shop", ["shop"], ["OTEL_SERVICE_NAME=" + "s" * 100_000]),
    ("/x/shop", ["shop"], ["OTEL_RESOURCE_ATTRIBUTES=" + "k%0A=v%22%0A%5C," * 5000]),
    ("/x/shop", ["shop"], ["OTEL_RESOURCE_ATTRIBUTES=job=a,instance=b,__name__=c,1x=d,a.b=e,a_b=f"]),
    ("/x/" + "n" * 255, ["n"], []),
    ("/x/shop", [], [b"\0" * 1000]),
]


@pytest.mark.parametrize(("exe", "argv", "environ"), HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_process_calls_itself_the_export_is_well_formed(
    exe: str, argv: list[str | bytes], environ: list[str | bytes], proc: Proc
) -> None:
    proc.add(77, exe, argv, environ=environ, comm="a) R (b")
    describer = Describer(Config(), hidden=set(), host='h"\n1', proc=str(proc.root))
    began = time.perf_counter()
    info = describer(77, "a\n\x00b")
    assert time.perf_counter() - began < 1  # linear: a quadratic walk over these takes minutes
    assert describer.failed == 0
    assert 1 <= len(info.service) <= 255 and info.service.isprintable()
    found = decoded(info.resource)
    assert found["service.name"] == info.service
    assert all(value.isprintable() for value in found.values() if isinstance(value, str))
    assert stream(info.labels)["service_name"] == info.service
    assert set(prometheus(info.series)) == {"job", "instance"}
    target = prometheus(info.target_info)
    assert not {"job", "instance", "__name__"} & set(target)
    assert b"\n" not in info.series + info.target_info + info.labels
    assert len(info.resource) < 200_000


def test_a_fault_of_ours_is_counted_and_the_process_still_described(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.add(77)
    describer = Describer(Config(), hidden=set(), proc=str(proc.root))
    monkeypatch.setattr("zerospan.exporter.process.names.name_of", lambda p: 1 / 0)
    assert describer(77, "shop").service == "shop"
    assert describer.failed == 1


def test_integers_of_a_resource_are_64_bits() -> None:
    values = {"a": 0, "b": 127, "c": 128, "d": (1 << 63) - 1, "e": -1, "f": -(1 << 63), "g": "x" * 20_000}
    assert decoded(encode_resource(values)) == values
    with pytest.raises(ValueError, match="no 64-bit integer"):
        encode_resource({"a": 1 << 63})


def test_label_values_survive_prometheus_reader() -> None:
    value = 'a"b\\c\nd\\n{},='
    assert prometheus(labels.series(value, "", value)) == {"job": value, "instance": value}
    assert prometheus(labels.target_info({"k.x": value, "1": 2})) == {"k_x": value, "key_1": "2"}
    assert stream(labels.stream(value, {}))["service_name"] == value


def test_half_a_path_is_no_name(proc: Proc) -> None:
    filler = "-W" + "x" * (CMDLINE_MAX - len("python3\0") - len("-W\0") - len("/srv/till"))
    proc.add(77, "/usr/bin/python3", ["python3", filler, "/srv/tillers.py"])
    assert describe(proc, 77).service == "unknown_service:python3"
