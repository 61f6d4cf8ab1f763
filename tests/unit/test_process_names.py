"""service.name by the command line: a table of what people run, and what must never become a name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_cases import CASES, Case, Proc

from zerospan.exporter.config.model import Config
from zerospan.exporter.process import Describer
from zerospan.exporter.process.names import name_of
from zerospan.exporter.process.program import program

INTERPRETERS = [
    "python",
    "python3",
    "python3.11",
    "java",
    "ruby",
    "ruby3.1",
    "node",
    "nodejs",
    "sh",
    "bash",
    "dash",
    "php",
    "perl",
    "dotnet",
    "beam.smp",
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.argv))[:60] or "no arguments")
def test_a_program_gets_the_name_of_what_it_runs(case: Case, tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    proc.add(77, case.exe, case.argv, cwd=case.cwd)
    info = Describer(Config(), hidden=set(), proc=str(tmp_path))(77, "comm-of-it")
    assert info.service == case.name


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.argv))[:60] or "no arguments")
def test_no_secret_of_an_argument_is_exported(case: Case, tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    proc.add(77, case.exe, case.argv, cwd=case.cwd)
    info = Describer(Config(), hidden=set(), proc=str(tmp_path))(77, "comm-of-it")
    for exported in (info.service.encode(), info.resource, info.labels, info.series, info.target_info):
        assert b"hunter" not in exported and b"s3cret" not in exported


def test_no_service_is_called_like_an_interpreter() -> None:
    for name in INTERPRETERS:
        for argv in ((name,), (name, name), (name, "-m", name), (name, f"/srv/{name}"), (f"{name} {name}",)):
            p = program(f"/usr/bin/{name}", argv, f"/srv/{name}", name)
            assert name_of(p) not in INTERPRETERS


def test_a_child_of_multiprocessing_is_what_its_parent_is(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    python = "/usr/bin/python3.11"
    proc.add(10, python, ["python3", "/usr/bin/uvicorn", "basket:app", "--workers", "2"])
    code = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"
    proc.add(11, python, ["python3", "-c", code, "--multiprocessing-fork"], parent=10)
    info = Describer(Config(), hidden=set(), proc=str(tmp_path))(11, "uvicorn")
    assert (info.service, info.loop) == ("basket", True)


@pytest.mark.parametrize(
    ("exe", "argv", "nginx", "loop"),
    [
        ("/usr/sbin/nginx", ["nginx: worker process"], True, False),
        ("/usr/local/openresty/nginx/sbin/nginx", ["nginx"], True, False),
        ("/usr/sbin/angie", ["angie: worker process"], True, False),
        ("/usr/bin/python3", ["nginx: worker process"], False, False),  # what it calls itself is not believed
        ("", ["nginx: worker process"], False, False),
        ("/usr/bin/node", ["node", "a.js"], False, True),
        ("/usr/bin/node", ["npm start"], False, True),
        ("/usr/bin/deno", ["deno", "run", "a.ts"], False, True),
        ("/usr/bin/bun", ["bun", "a.ts"], False, True),
        ("/usr/bin/envoy", ["envoy"], False, True),
        ("/usr/sbin/haproxy", ["haproxy"], False, True),
        ("/usr/bin/python3", ["python3", "/usr/bin/uvicorn", "a:b"], False, True),
        ("/usr/bin/python3", ["python3", "-m", "hypercorn", "a:b"], False, True),
        ("/usr/bin/python3", ["python3", "/usr/bin/daphne", "a:b"], False, True),
        ("/usr/bin/python3", ["python3", "/usr/bin/twistd", "web"], False, True),
        ("/usr/bin/python3", ["python3", "/usr/bin/gunicorn", "-k", "gevent", "a:b"], False, True),
        (
            "/usr/bin/python3",
            ["python3", "-m", "gunicorn", "-kuvicorn.workers.UvicornWorker", "a:b"],
            False,
            True,
        ),
        ("/usr/bin/python3", ["python3", "/usr/bin/gunicorn", "--worker-class=eventlet", "a:b"], False, True),
        ("/usr/bin/python3", ["python3", "/usr/bin/gunicorn", "-k", "gthread", "a:b"], False, False),
        ("/usr/bin/python3", ["python3", "/usr/bin/gunicorn", "a:b"], False, False),
        ("/usr/bin/python3", ["python3", "a.py"], False, False),
        ("/usr/bin/java", ["java", "-jar", "a.jar"], False, False),
        ("/usr/sbin/varnishd", ["varnishd"], False, False),
    ],
)
def test_profiles_follow_the_executable(exe: str, argv: list[str], nginx: bool, loop: bool, tmp_path: Path) -> None:
    Proc(tmp_path).add(77, exe, argv)
    info = Describer(Config(), hidden=set(), proc=str(tmp_path))(77, "nginx")
    assert (info.nginx, info.loop) == (nginx, loop)
