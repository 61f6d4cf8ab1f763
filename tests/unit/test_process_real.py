"""Real processes, described from the real /proc. Skipped where a program is not installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_cases import decoded

from zerospan.exporter.config.model import Config
from zerospan.exporter.process import Describer

Start = Callable[..., int]
RUBY_TITLE = "Process.setproctitle('puma 5.6.5 (tcp://127.0.0.1:1) [catalog]'); STDOUT.puts 1; STDOUT.flush; sleep"


@pytest.fixture
def describer() -> Describer:
    return Describer(Config(), hidden=set(), host="h1")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program that ends with the test; with `told`, waits for its first output."""
    children: list[subprocess.Popen[bytes]] = []

    def run(argv: Sequence[str], *, told: bool = False, cwd: Path | None = None, **env: str) -> int:
        if shutil.which(argv[0]) is None:
            pytest.skip(f"{argv[0]} is not installed")
        env = {"PATH": os.environ["PATH"], **env}
        child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd, env=env
        )
        children.append(child)
        if told:
            assert child.stdout is not None and child.stdout.readline()
        # Popen returns a moment before execve has set up the new arguments and, after them, the environment.
        deadline = time.monotonic() + 10
        while not Path(f"/proc/{child.pid}/environ").read_bytes():
            assert time.monotonic() < deadline, f"{argv[0]} does not run"
        return child.pid

    yield run
    for child in children:
        child.kill()
        child.communicate()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_pythons_web_server_is_not_called_python(start: Start, describer: Describer) -> None:
    pid = start([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(free_port())])
    info = describer(pid, "python3")
    found = decoded(info.resource)
    assert info.service == "http.server" and info.series == f'job="http.server",instance="h1:{pid}"'.encode()
    assert found["process.runtime.name"] == "cpython" and found["telemetry.sdk.language"] == "python"
    assert found["process.executable.path"] == os.path.realpath(sys.executable)
    assert found["process.pid"] == pid


def test_a_renamed_program_has_its_new_name(start: Start, describer: Describer, tmp_path: Path) -> None:
    copy = tmp_path / "till-service"
    shutil.copy(shutil.which("sleep") or "", copy)
    info = describer(start([str(copy), "60"]), "till-service")
    assert info.service == "till-service" and not info.loop


def test_the_environment_of_a_process_counts(start: Start, describer: Describer) -> None:
    pid = start(["sleep", "60"], OTEL_SERVICE_NAME="till", OTEL_RESOURCE_ATTRIBUTES="service.namespace=acme")
    assert describer(pid, "sleep").series == f'job="acme/till",instance="h1:{pid}"'.encode()


def test_node_is_a_loop_and_called_by_its_script(start: Start, describer: Describer, tmp_path: Path) -> None:
    (tmp_path / "recommend.js").write_text("console.log(1); setInterval(() => {}, 1000)")
    info = describer(start(["node", "recommend.js"], told=True, cwd=tmp_path), "node")
    assert info.service == "recommend" and info.loop
    assert decoded(info.resource)["process.runtime.name"] == "nodejs"


def test_java_is_called_by_its_class(start: Start, describer: Describer, tmp_path: Path) -> None:
    source = "public class Pricing { public static void main(String[] a) throws Exception {"
    (tmp_path / "Pricing.java").write_text(source + "System.out.println(1); Thread.sleep(60000); } }")
    if shutil.which("javac") is None:
        pytest.skip("javac is not installed")
    subprocess.run(["javac", "Pricing.java"], cwd=tmp_path, check=True)
    java = ["java", "-Xmx32m", "-cp", str(tmp_path), "Pricing", "--password", "hunter2"]
    info = describer(start(java, told=True), "java")
    assert info.service == "Pricing" and b"hunter2" not in info.resource
    assert decoded(info.resource)["telemetry.sdk.language"] == "java"


def test_a_title_of_puma_names_its_tag(start: Start, describer: Describer) -> None:
    info = describer(start(["ruby", "-e", RUBY_TITLE], told=True), "ruby")
    assert info.service == "catalog"


def test_perl_and_shell_scripts_have_their_names(start: Start, describer: Describer, tmp_path: Path) -> None:
    (tmp_path / "feed.pl").write_text("$| = 1; print qq(1\\n); sleep 60")
    (tmp_path / "poll.sh").write_text("echo 1; read line")
    assert describer(start(["perl", str(tmp_path / "feed.pl")], told=True), "perl").service == "feed"
    assert describer(start(["sh", str(tmp_path / "poll.sh")], told=True), "sh").service == "poll"


def test_a_program_in_go_is_recognised_by_its_note(start: Start, describer: Describer, tmp_path: Path) -> None:
    gofmt = shutil.which("gofmt") or "/usr/local/go/bin/gofmt"
    if not os.access(gofmt, os.X_OK):
        pytest.skip("gofmt, a Go program, is not installed")
    shutil.copy(gofmt, tmp_path / "till")
    info = describer(start([str(tmp_path / "till")]), "till")  # it reads its standard input
    found = decoded(info.resource)
    assert info.service == "till" and info.loop  # goroutines share threads
    assert found["telemetry.sdk.language"] == found["process.runtime.name"] == "go"


def test_nginx_is_nginx_by_its_executable(start: Start, describer: Describer, tmp_path: Path) -> None:
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{}}"
    )
    pid = start(["nginx", "-e", f"{tmp_path}/log", "-p", str(tmp_path), "-c", str(conf)])
    info = describer(pid, "nginx")
    assert info.service == "nginx" and info.nginx and not info.loop


def test_redis_is_redis_whatever_its_file_is_called(start: Start, describer: Describer, tmp_path: Path) -> None:
    pid = start(
        ["redis-server", "--bind", "127.0.0.1", "--port", str(free_port()), "--save", "", "--dir", str(tmp_path)],
        told=True,
    )
    assert describer(pid, "redis-server").service == "redis"


def test_a_process_that_gave_up_root_has_its_own_owner(start: Start, describer: Describer) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give it up")
    pid = start(["setpriv", "--reuid=nobody", "--clear-groups", "sh", "-c", "echo 1; read line"], told=True)
    assert decoded(describer(pid, "sh").resource)["process.owner"] == "nobody"


def test_an_ended_process_is_known_by_its_command_name(describer: Describer) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    info = describer(child.pid, "curl")
    assert (info.service, info.series, info.shared) == ("curl", b'job="curl",instance="h1"', "comm:curl")
    assert describer.gone == 1


def test_alive_is_true_of_processes_only(start: Start, describer: Describer) -> None:
    pid = start(["sleep", "60"])
    describer(pid, "sleep")
    ended = subprocess.Popen(["true"])
    ended.wait()
    threads = [int(name) for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
    assert describer.alive([pid, os.getpid(), ended.pid, *threads]) == {pid, os.getpid()}


def test_every_process_of_this_machine_can_be_described(
    describer: Describer, capsys: pytest.CaptureFixture[str]
) -> None:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    took = []
    for pid in pids:
        began = time.perf_counter()
        info = describer(pid, "x")
        took.append(time.perf_counter() - began)
        assert decoded(info.resource)["service.name"] == info.service
    assert describer.failed == 0
    took.sort()
    with capsys.disabled():
        median, most = (1e6 * took[at] for at in (len(took) // 2, -1))
        print(f"\n{len(pids)} processes: median {median:.0f} us, most {most:.0f} us")


def test_a_process_in_a_unit_is_called_by_the_unit(start: Start, describer: Describer) -> None:
    """A control group as systemd makes them, and a real process in it."""
    mount = next(
        (m for m in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if Path(m, "cgroup.controllers").exists()), ""
    )
    top = Path(mount, f"osx-unit-{os.getpid()}")
    unit = top / "system.slice" / "till.service"
    try:
        unit.mkdir(parents=True)
    except OSError as e:
        pytest.skip(f"no control groups can be made here: {e}")
    try:
        child = subprocess.Popen(["sleep", "60"])
        (unit / "cgroup.procs").write_text(str(child.pid))
        info = describer(child.pid, "sleep")
        assert info.service == "till"
        assert decoded(info.resource)["zerospan.systemd.unit"] == "till.service"
    finally:
        child.kill()
        child.wait()
        deadline = time.monotonic() + 5
        for folder in (unit, unit.parent, top):
            while True:
                try:
                    folder.rmdir()
                    break
                except OSError:
                    assert time.monotonic() < deadline
