"""Control groups, units, containers' files, versions: what they say of a process, and which of them names it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_cases import Proc, decoded

from zerospan.exporter.config.load import load
from zerospan.exporter.config.model import Config, Service
from zerospan.exporter.process import Describer, versions
from zerospan.exporter.process.cgroup import Place, place
from zerospan.exporter.process.containers import Containers, host_root, image_parts
from zerospan.exporter.process.program import program
from zerospan.exporter.process.units import name_of_unit

HEX, OTHER = "c0ffee" * 10 + "cafe", "ab" * 32
UID = "3ff91a52-77aa-4c0e-9d2b-0123456789ab"
UNDERSCORED = UID.replace("-", "_")
STATIC = "0f" * 16


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"/kubepods/burstable/pod{UID}/{HEX}", Place(HEX, UID)),
        (f"/kubepods/pod{UID}/{HEX}", Place(HEX, UID)),
        (f"/n1/kubepods/besteffort/pod{UID}/{HEX}", Place(HEX, UID)),
        (f"/kubepods/pod{UID}", Place(pod=UID)),
        (f"/kubepods/burstable/pod{STATIC}/{HEX}", Place(HEX, STATIC)),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{HEX}.scope",
            Place(HEX, UID, "containerd"),
        ),
        (f"/n1.slice/n1-kubepods.slice/n1-kubepods-pod{UNDERSCORED}.slice/crio-{HEX}.scope", Place(HEX, UID, "cri-o")),
        (f"/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/docker-{HEX}.scope", Place(HEX, UID, "docker")),
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{UNDERSCORED}.slice:cri-containerd:{HEX}",
            Place(HEX, UID, "containerd"),
        ),
        # a node that is a container, and a container inside a pod
        (f"/docker/{OTHER}/kubelet/kubepods/pod{UID}/{HEX}", Place(HEX, UID)),
        (f"/kubepods/pod{UID}/{OTHER}/docker/{HEX}", Place(HEX, UID, "docker")),
        (f"/docker/{HEX}/system.slice/nginx.service", Place(HEX, runtime="docker", unit="nginx.service")),
        (f"/system.slice/docker-{HEX}.scope", Place(HEX, runtime="docker")),
        (f"/machine.slice/libpod-{HEX}.scope/container", Place(HEX, runtime="podman")),
        (f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{HEX}.scope", Place(HEX, runtime="podman")),
        (f"/machine.slice/machine-libpod_pod_{OTHER}.slice", Place()),
        (f"/kubepods.slice/x.slice/crio-conmon-{HEX}.scope", Place(unit=f"crio-conmon-{HEX}.scope")),
        ("/system.slice/nginx.service", Place(unit="nginx.service")),
        ("/system.slice/system-shop.slice/shop@eu.service", Place(unit="shop@eu.service")),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", Place(unit="shop.service")),
        ("/user.slice/user-1000.slice/session-3.scope", Place(unit="session-3.scope")),
        ("/", Place()),
        (f"/kubepods/podcast-{UID}/x", Place()),
        (f"/kubepods/pod{UID}0/x", Place()),
        ("/a" * 4000, Place()),
    ],
)
def test_a_path_tells_container_pod_runtime_and_unit(path: str, said: Place) -> None:
    assert place(path) == said


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("nginx.service", "nginx"),
        ("redis-server.service", "redis"),
        ("postgresql@15-main.service", "postgresql"),
        ("shop@1.service", "shop"),
        ("gunicorn@shop.service", "shop"),
        ("gunicorn@2.service", "gunicorn"),
        (r"web\x2dshop.service", "web-shop"),
        ("cron.service", ""),
        ("user@1000.service", ""),
        ("docker.service", ""),
        ("run-r0a1b2c3d4e5f.service", ""),
        ("run-u12.service", ""),
        ("run-p100-i200.service", ""),
        ("session-3.scope", ""),
        (r"a\x20b.service", ""),
        (".service", ""),
        ("", ""),
    ],
)
def test_a_unit_of_one_program_names_it(unit: str, name: str) -> None:
    assert name_of_unit(unit) == name


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def docker(root: Path, id: str, name: str, labels: dict[str, str] | None = None) -> None:
    config = {"Image": "registry:5000/acme/till:2.1", "Labels": labels, "Env": ["PW=hunter2"]}
    content = {"ID": id, "Name": f"/{name}", "Config": config, "State": {"Pid": 7}}
    write(root / f"var/lib/docker/containers/{id}/config.v2.json", content)


def test_the_runtimes_files_name_containers(tmp_path: Path) -> None:
    docker(tmp_path, HEX, "till", {"com.docker.compose.service": "cash", "com.docker.compose.project": "shop"})
    found = Containers(str(tmp_path)).find(HEX)
    assert found is not None
    assert (found.runtime, found.name, found.service, found.project) == ("docker", "till", "cash", "shop")
    assert image_parts(found.image) == ("registry:5000/acme/till", "2.1")
    bundle = tmp_path / "run/containerd/io.containerd.runtime.v2.task/k8s.io"
    notes = {
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-name": "cart-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": UID,
        "io.kubernetes.cri.image-name": "acme/cart@sha256:" + HEX,
    }
    write(bundle / OTHER / "config.json", {"ociVersion": "1.0", "annotations": notes, "process": {"env": ["A=b"]}})
    containers = Containers(str(tmp_path))
    found = containers.find(OTHER)
    assert found is not None
    assert (found.runtime, found.pod, found.namespace, found.uid) == ("containerd", "cart-0", "shop", UID)
    assert (found.container, found.name, found.sandbox) == ("app", "", False)
    pause = "12" * 32
    notes = {**notes, "io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.container-name": ""}
    write(bundle / pause / "config.json", {"annotations": notes})
    found = containers.find(pause)
    assert found is not None and found.sandbox and not found.container


def test_podmans_list_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "var/lib/containers/storage/overlay-containers/containers.json"
    one = {"id": HEX, "names": ["till"], "metadata": json.dumps({"image-name": "docker.io/acme/till:3"})}
    write(path, [one])
    containers = Containers(str(tmp_path))
    found = containers.find(HEX)
    assert found is not None and (found.runtime, found.name, found.image) == ("podman", "till", "docker.io/acme/till:3")
    assert containers.find(OTHER) is None
    temporary = path.with_name("new")
    write(temporary, [one, {"id": OTHER, "names": ["cart"], "metadata": "no json"}])
    temporary.rename(path)
    found = containers.find(OTHER)
    assert found is not None and found.name == "cart"
    short = "12" * 32
    write(path.with_name("volatile-containers.json"), [{"id": short, "names": ["short"], "metadata": "{}"}])
    found = containers.find(short)
    assert found is not None and (found.runtime, found.name) == ("podman", "short")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"Name": 7}', b"\xff\xfe", b"[" * 100_000, b" " * (5 << 20)])
def test_files_that_mean_something_else_are_left_out(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"var/lib/docker/containers/{HEX}/config.v2.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    containers = Containers(str(tmp_path))
    assert containers.find(HEX) is None and containers.find("../" * 20) is None


def test_a_name_is_no_path(tmp_path: Path) -> None:
    write(tmp_path / "var/lib/docker/config.v2.json", {"Name": "/x"})
    assert Containers(str(tmp_path)).find("..") is None


def test_images_are_taken_apart() -> None:
    assert image_parts("nginx") == ("nginx", "")
    assert image_parts("localhost:5000/a/b:1@sha256:" + HEX) == ("localhost:5000/a/b", "1")
    assert image_parts("sha256:" + HEX) == image_parts(HEX) == image_parts("") == ("", "")


NAMES = {"env": "till", "systemd": "shopd", "executable": "app"}


def test_the_order_decides_who_names_a_service(tmp_path: Path) -> None:
    """Each word gives its own name; what cannot tell lets the next one speak."""
    proc = Proc(tmp_path)
    docker(tmp_path / "1/root", HEX, "cart")
    python = ("/usr/bin/python3.11", ["python3", "app.py"])
    unit, container = "0::/system.slice/shopd.service\n", f"0::/system.slice/docker-{HEX}.scope\n"
    proc.add(77, *python, environ=["OTEL_SERVICE_NAME=till"], cgroup=unit)
    proc.add(78, *python, cgroup=unit)
    proc.add(79, *python, cgroup=container)
    proc.add(80, *python, cgroup="0::/user.slice/user-0.slice/session-1.scope\n")
    proc.add(81, "/usr/bin/python3.11", ["python3"], cgroup=unit)
    proc.add(82, *python, cgroup=f"0::/kubepods/pod{UID}/{HEX}\n")  # a pod's container: Kubernetes names it

    def named(*order: Any) -> list[str]:
        config = Config(service=Service(order=order)) if order else Config()
        describer = Describer(config, hidden=set(), host="h1", proc=str(proc.root))
        services = [describer(pid, "python3").service for pid in (77, 78, 79, 80, 81, 82)]
        assert describer.failed == 0
        return services

    assert named() == ["till", "shopd", "cart", "app", "shopd", "app"]
    assert named("executable", "systemd", "env") == ["app", "app", "app", "app", "shopd", "app"]
    assert named("container", "env", "executable") == [
        "till",
        "app",
        "cart",
        "app",
        "unknown_service:python3.11",
        "app",
    ]
    assert named("kubernetes")[4] == "unknown_service:python3.11"
    info = Describer(Config(), hidden=set(), host="h1", proc=str(proc.root))(78, "python3")
    assert decoded(info.resource)["zerospan.systemd.unit"] == "shopd.service"


def test_the_order_is_configured_by_words(tmp_path: Path) -> None:
    path = tmp_path / "z.yaml"
    path.write_text("service: {order: [container, env, executable]}\n")
    assert load(str(path), {}).service.order == ("container", "env", "executable")


@pytest.mark.parametrize(
    ("exe", "version"),
    [
        ("/usr/bin/python3.11", "3.11"),
        ("/root/.pyenv/versions/3.11.7/bin/python3.11", "3.11.7"),
        ("/home/a/.local/share/uv/python/cpython-3.12.4-linux-x86_64-gnu/bin/python3.12", "3.12.4"),
        ("/opt/app/bin/python3", ""),
        ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "17"),
        ("/usr/lib/jvm/temurin-25-jdk-amd64/bin/java", "25"),
        ("/opt/jdk-21.0.2+13/bin/java", "21.0.2+13"),
        ("/opt/java/openjdk/bin/java", ""),
        ("/root/.nvm/versions/node/v20.11.1/bin/node", "20.11.1"),
        ("/opt/node-v22.1.0-linux-x64/bin/node", "22.1.0"),
        ("/usr/bin/node", ""),
        ("/usr/bin/ruby3.1", "3.1"),
        ("/usr/local/rbenv/versions/3.3.0/bin/ruby", "3.3.0"),
        ("/usr/sbin/php-fpm8.2", "8.2"),
        ("/usr/bin/php8.2", "8.2"),
        ("/usr/lib/erlang/erts-13.1.5/bin/beam.smp", "13.1.5"),
        ("/usr/bin/pypy3.10", ""),  # the language's version, not the runtime's
        ("/srv/releases/1.2.3/shop", ""),
    ],
)
def test_a_path_tells_the_runtimes_version(exe: str, version: str, tmp_path: Path) -> None:
    p = program(exe, (exe,), "/", "")
    assert versions.version_of(p, "", str(tmp_path / "gone")) == version


def test_files_beside_the_program_tell_more(tmp_path: Path) -> None:
    root = tmp_path / "root"
    home = root / "opt/java/openjdk"
    home.mkdir(parents=True)
    text = 'IMPLEMENTOR="x"\nJAVA_RUNTIME_VERSION="21.0.4+7-LTS"\nJAVA_VERSION="21.0.4"\n'
    (root / "etc").mkdir()
    (root / "etc/release").write_text(text)
    (home / "release").symlink_to("/etc/release")  # of the container, not of this machine
    (tmp_path / "exe").write_text("")
    assert versions.version_of(program("/opt/java/openjdk/bin/java", ("java",), "/", ""), "java", str(tmp_path)) == (
        "21.0.4+7-LTS"
    )
    assert versions.read_inside(str(root), "/opt/../../../../../../etc/release") == text.encode()
    (home / "gone").symlink_to("/etc/machine-id")
    assert versions.read_inside(str(root), "/opt/java/openjdk/gone") == b""  # it would be this machine's
    assert versions.read_inside(str(root), "/opt") == versions.read_inside(str(root / "no"), "/x") == b""


def test_versions_of_the_programs_of_this_machine() -> None:
    """Against what they say of themselves."""
    seen = 0
    for name, family, argument in (("node", "nodejs", "--version"), ("java", "java", "-version")):
        path = shutil.which(name)
        if path is None:
            continue
        seen += 1
        said = subprocess.run([path, argument], capture_output=True, text=True, check=True)
        exe = str(Path(path).resolve())
        child = subprocess.Popen(["sleep", "30"])
        try:
            found = versions.version_of(program(exe, (name,), "/", ""), family, f"/proc/{child.pid}")
        finally:
            child.kill()
            child.wait()
        assert found and found in said.stdout + said.stderr
    if not seen:
        pytest.skip("neither node nor java is installed")


def test_the_version_of_go_stands_in_its_programs(tmp_path: Path) -> None:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not Path(go).is_file():
        pytest.skip("go is not installed")
    Path(go).read_bytes()  # in memory: nothing is fetched from a disk
    said = subprocess.run([go, "version", go], capture_output=True, text=True, check=True).stdout.split()[-1]
    (tmp_path / "exe").symlink_to(go)
    assert versions.version_of(program(go, ("go",), "/", ""), "go", str(tmp_path)) == said


def test_the_hosts_files_are_our_own_where_those_of_process_1_are_not_to_be_seen(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/root").symlink_to(tmp_path / "gone")
    assert host_root(str(tmp_path)) == ""
    (tmp_path / "gone").mkdir()
    assert host_root(str(tmp_path)) == f"{tmp_path}/1/root"
