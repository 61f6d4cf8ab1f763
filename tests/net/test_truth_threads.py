"""Thread-per-request servers, 50 requests in flight, 1 to 3 calls each: every link against the truth (kit/truth.py)."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from nginx import free_port
from truth import CLIENT, SERVER
from truth_run import Bench

PROGRAMS = Path(__file__).resolve().parent / "truth"
REQUESTS = 2000
GTHREAD = "--worker-class gthread --workers 2 --threads 25 --keep-alive 60"
IN_FLIGHT = 50

# The modules' own environment is the server's, so that getenv() has TRUTH_UPSTREAM.
APACHE = """ServerRoot {folder}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
ListenBacklog 1024
PidFile {folder}/apache.pid
Mutex fcntl
ErrorLog /dev/stderr
User www-data
Group www-data
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule php_module {php}
StartServers 20
MinSpareServers 20
MaxSpareServers 60
MaxRequestWorkers 60
KeepAlive On
MaxKeepAliveRequests 0
AliasMatch "^/t/.*" "{programs}/index.php"
<Directory "{programs}">
  Require all granted
  SetHandler application/x-httpd-php
</Directory>
"""

Start = Callable[[Bench, int], None]


def gunicorn(bench: Bench, port: int, *, keep: bool, options: str) -> None:
    argv = ["/usr/bin/gunicorn", "--chdir", str(PROGRAMS), "--bind", f"127.0.0.1:{port}", "--backlog", "1024",
            "--worker-tmp-dir", str(bench.folder), *options.split(), "app:app"]  # fmt: skip
    bench.start(argv, port, env={"TRUTH_KEEP": str(int(keep)), "PYTHONDONTWRITEBYTECODE": "1"})


def puma(bench: Bench, port: int, *, keep: bool, options: str) -> None:
    argv = ["/usr/bin/puma", "--bind", f"tcp://127.0.0.1:{port}?backlog=1024", "--environment", "production",
            *options.split(), str(PROGRAMS / "app.ru")]  # fmt: skip
    bench.start(argv, port, env={"TRUTH_KEEP": str(int(keep))})


def java(bench: Bench, port: int, *, mode: str) -> None:
    subprocess.run(["/usr/bin/javac", "-d", str(bench.folder), str(PROGRAMS / "Threads.java")], check=True)
    # Without it the JDK's server writes head and body apart and Nagle costs 40 ms on a kept connection.
    options = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dsun.net.httpserver.nodelay=true"]
    bench.start(["/usr/bin/java", *options, "-cp", str(bench.folder), "Threads", mode], port)


def apache(bench: Bench, port: int) -> None:
    modules = Path("/usr/lib/apache2/modules")
    php = next(modules.glob("libphp*.so"))
    conf = bench.folder / "apache.conf"
    conf.write_text(
        APACHE.format(folder=bench.folder, port=port, modules=modules, php=php, programs=PROGRAMS), encoding="ascii"
    )
    bench.start(["/usr/sbin/apache2", "-f", str(conf), "-DFOREGROUND"], port)


FPM = """[global]
error_log = /dev/stderr
daemonize = no
[truth]
listen = 127.0.0.1:{port}
listen.backlog = 1024
user = www-data
group = www-data
pm = static
pm.max_children = 50
clear_env = no
"""

NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn; user www-data;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream fpm {{ server 127.0.0.1:{fpm}; {keep} }}
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{
    include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME {programs}/index.php; fastcgi_pass fpm;
    fastcgi_keep_conn {keep_conn}; }} }}
}}
"""


def fpm(bench: Bench, port: int, *, keep: bool) -> None:
    """PHP-FPM by TCP behind nginx."""
    listener = free_port()
    conf = bench.folder / "fpm.conf"
    conf.write_text(FPM.format(port=listener))
    binary = max(Path("/usr/sbin").glob("php-fpm*"))
    bench.start([str(binary), "--nodaemonize", "--fpm-config", str(conf)], listener)
    conf = bench.folder / "nginx.conf"
    options = {"keep": "keepalive 50;" if keep else "", "keep_conn": "on" if keep else "off"}
    conf.write_text(NGINX.format(folder=bench.folder, port=port, fpm=listener, programs=PROGRAMS, **options))
    bench.start(["/usr/sbin/nginx", "-c", str(conf)], port)


RUNTIMES: dict[str, tuple[Start, bool]] = {
    # name: how it is started, whether the driver keeps its connections
    "gunicorn-sync": (functools.partial(gunicorn, keep=False, options="--worker-class sync --workers 8"), False),
    "gunicorn-gthread": (functools.partial(gunicorn, keep=True, options=GTHREAD), True),
    "puma": (functools.partial(puma, keep=True, options="--threads 25:25"), True),
    "puma-close": (functools.partial(puma, keep=False, options="--threads 25:25"), False),
    "java-pool": (functools.partial(java, mode="pool"), True),
    "java-connection": (functools.partial(java, mode="connection"), True),
    "apache-prefork": (apache, True),
    "nginx-php-fpm": (functools.partial(fpm, keep=False), True),
    "nginx-php-fpm-keep": (functools.partial(fpm, keep=True), True),
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_links_of_a_thread_per_request_server(tmp_path: Path, name: str) -> None:
    start, keep_alive = RUNTIMES[name]
    port = free_port()
    with Bench(name, tmp_path) as bench:
        start(bench, port)
        score = bench.measure(
            f"http://127.0.0.1:{port}",
            requests=REQUESTS,
            in_flight=IN_FLIGHT,
            keep_alive=keep_alive,
            proxies=("nginx",) if name.startswith("nginx") else (),
        )
    calls = score.links[CLIENT]
    assert calls.expected > REQUESTS, "the runtime made no calls: nothing was measured"
    assert calls.precision >= 0.999 and calls.recall >= 0.995, score.text()
    assert score.links[SERVER].right == score.links[SERVER].expected, score.text()
    assert score.wrong_traces <= REQUESTS // 1000, score.text()
