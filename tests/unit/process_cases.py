"""A /proc of our own making, and command lines with the names that they must give. For test_process_*.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from opentelemetry.proto.resource.v1.resource_pb2 import Resource


class Case(NamedTuple):
    """What /proc says of a process and the service.name that follows."""

    exe: str
    argv: Sequence[str | bytes]
    name: str
    cwd: str = "/"


PY, NODE, JAVA, RUBY = (
    "/usr/bin/python3.11",
    "/usr/bin/node",
    "/usr/lib/jvm/java-17-openjdk/bin/java",
    "/usr/bin/ruby3.1",
)
GUNICORN = ["/usr/bin/python3", "/usr/bin/gunicorn"]
UVICORN = ["/opt/venv/bin/python", "/opt/venv/bin/uvicorn"]

CASES = [
    # Python: scripts
    Case(PY, ["python3", "app.py"], "app", "/srv/shop"),
    Case(PY, ["python3", "/srv/billing/worker.py", "--password", "hunter2"], "worker"),
    Case(PY, ["python3", "-u", "-X", "importtime", "-W", "ignore", "stock.py"], "stock"),
    Case(PY, ["python3", "-Bu", "--check-hash-based-pycs", "always", "stock.py"], "stock"),
    Case(PY, ["python3", "main.py"], "invoices", "/srv/invoices"),
    Case(PY, ["python3", "main.py"], "main", "/app"),
    Case(PY, ["python3", "/srv/invoices/src/__main__.py"], "invoices"),
    Case(PY, ["/opt/venv/bin/python", "/opt/venv/bin/shopd", "--token=abc"], "shopd"),
    Case(PY, ["python3", "manage.py", "runserver", "0:8000"], "webshop", "/home/ann/webshop"),
    Case(PY, ["python3", "-c", "import socket; password = 'x'"], "unknown_service:python3.11", "/srv/shop"),
    Case(PY, ["python3", "-"], "unknown_service:python3.11"),
    Case(PY, ["python3"], "unknown_service:python3.11"),
    Case("/usr/bin/pypy3", ["pypy3", "app.py"], "app"),
    # Python: modules
    Case(PY, ["python3", "-m", "http.server", "8000"], "http.server"),
    Case(PY, ["python3", "-m", "acme.pricing"], "pricing"),
    Case(PY, ["python3", "-macme.pricing.__main__"], "pricing"),
    Case(PY, ["python3", "-um", "acme.pricing.main"], "pricing"),
    Case(PY, ["python3", "-m", "app.main"], "orders", "/srv/orders"),
    Case(PY, ["python3", "-m", "debugpy", "--listen", "5678", "shop.py"], "shop"),
    Case(PY, ["python3", "-m", "coverage", "run", "-m", "acme.stock"], "stock"),
    # Python: servers
    Case(PY, [*GUNICORN, "-w", "2", "shop:app"], "shop"),
    Case(
        PY,
        [*GUNICORN, "--bind", "unix:web", "-k", "gthread", "--preload", "acme.shop.wsgi:application"],
        "shop",
    ),
    Case(PY, [*GUNICORN, "-e", "TOKEN=a:b", "-b:8000", "shop:create_app('s3cret')"], "shop"),
    Case(PY, [*GUNICORN, "--name", "checkout", "app:app"], "checkout"),
    Case(PY, [*GUNICORN, "--chdir", "/srv/checkout", "app:app"], "checkout"),
    Case(PY, [*GUNICORN, "-c", "gunicorn.conf.py"], "checkout", "/srv/checkout/current"),
    Case(PY, [*GUNICORN, "app:app"], "app"),
    Case(PY, ["gunicorn: master [shop:app]"], "shop"),
    Case(PY, ["gunicorn: worker [acme.shop.wsgi:application]"], "shop"),
    Case(PY, ["gunicorn: worker [shop:create_app('s3cret')]"], "shop"),
    Case(PY, [*UVICORN, "--host", "::", "--factory", "acme.basket:make"], "basket"),
    Case(PY, ["python3", "-m", "uvicorn", "basket:app", "--reload"], "basket"),
    Case(PY, ["python3", "/usr/bin/hypercorn", "-w", "2", "basket:app"], "basket"),
    Case(PY, ["python3", "/usr/bin/daphne", "-p", "80", "mysite.asgi:application"], "mysite"),
    Case(PY, ["python3", "/usr/bin/waitress-serve", "--port=80", "basket:app"], "basket"),
    Case(PY, ["python3", "/usr/bin/celery", "-A", "proj", "-b", "amqp://u:hunter2@h", "worker"], "proj"),
    Case(PY, ["python3", "-m", "celery", "--app=proj.celery", "worker"], "proj"),
    Case(PY, ["[celeryd: celery@host:MainProcess] -active- (-A proj worker)"], "proj"),
    Case(PY, ["python3", "/usr/bin/flask", "--app", "hello:make('hunter2')", "run"], "hello"),
    Case(PY, ["python3", "-m", "flask", "run"], "blog", "/srv/blog"),
    Case(PY, ["python3", "/usr/bin/streamlit", "run", "report.py"], "report"),
    Case(PY, ["python3", "/usr/bin/twistd", "-n", "-y", "feed.tac"], "feed"),
    Case("/usr/bin/uwsgi-core", ["uwsgi", "--http", ":80", "--module", "shop.wsgi:application"], "shop"),
    Case("/usr/bin/uwsgi-core", ["uwsgi", "--ini", "/etc/uwsgi/shop.ini"], "shop"),
    # Java
    Case(JAVA, ["java", "-Xmx64m", "-Dsecret=x", "-jar", "/srv/x/shop.jar"], "shop"),
    Case(JAVA, ["java", "-jar", "shop-1.4.2-SNAPSHOT.jar"], "shop"),
    Case(JAVA, ["java", "-jar", "/opt/price-engine/lib/app.jar"], "price-engine"),
    Case(JAVA, ["java", "-jar", "target/quarkus-app/quarkus-run.jar"], "till", "/srv/till"),
    Case(JAVA, ["java", "-cp", "/a.jar:/b.jar", "com.acme.pricing.Main", "--password", "hunter2"], "pricing"),
    Case(
        JAVA,
        ["java", "--add-opens", "java.base/java.lang=ALL-UNNAMED", "com.acme.PriceServer"],
        "PriceServer",
    ),
    Case(JAVA, ["java", "-cp", "x", "com.acme.Main"], "acme"),
    Case(JAVA, ["java", "-cp", "x", "Main"], "tariff", "/opt/tariff"),
    Case(JAVA, ["java", "-p", "mods", "-m", "com.acme.till/com.acme.till.Main"], "till"),
    Case(JAVA, ["java", "-Dspring.application.name=ledger", "-jar", "app.jar"], "ledger"),
    Case(JAVA, ["java", "-Dotel.service.name=books", "-jar", "shop.jar"], "books"),
    Case(JAVA, ["java", "-cp", "/opt/kafka/libs/*", "kafka.Kafka", "server.properties"], "kafka"),
    Case(JAVA, ["java", "-cp", "b.jar", "org.apache.catalina.startup.Bootstrap", "start"], "tomcat"),
    Case(JAVA, ["java", "Shop.java"], "Shop"),
    Case(JAVA, ["java"], "unknown_service:java"),
    # JavaScript
    Case(NODE, ["node", "recommend.js"], "recommend"),
    Case(NODE, ["node", "server.js"], "server", "/"),
    Case(NODE, ["node", "server.js"], "till", "/srv/till"),
    Case(NODE, ["node", "-r", "dotenv/config", "--inspect=0:9229", "dist/index.js"], "till", "/srv/till"),
    Case(NODE, ["node", "."], "till", "/srv/till"),
    Case(NODE, ["node", "/srv/till/bin/www"], "till"),
    Case(NODE, ["node", "--title", "hunter2", "stock.js"], "stock"),
    Case(NODE, ["node", "--unknown", "hunter2", "stock.js"], "stock"),
    Case(NODE, ["node", "--unknown", "hunter2", "hunter3"], "unknown_service:node"),
    Case(NODE, ["node", "-e", "serve()", "hunter2"], "unknown_service:node", "/srv/till"),
    Case(NODE, ["npm start"], "till", "/srv/till"),
    Case(NODE, ["node", "/usr/bin/npm", "run", "start"], "till", "/srv/till"),
    Case(NODE, ["node", "/srv/till/node_modules/.bin/next", "start"], "till", "/srv/till"),
    Case(NODE, ["next-server (v14.0.1)"], "till", "/srv/till"),
    Case(NODE, ["node", "/usr/lib/node_modules/@acme/gate/dist/index.js"], "gate"),
    Case(NODE, ["node", "/x/node_modules/.bin/ts-node", "src/basket.ts"], "basket"),
    Case(NODE, ["node /srv/basket/index.js"], "basket"),
    Case(NODE, ["PM2 v5.3.0: God Daemon (/root/.pm2)"], "pm2"),
    Case("/usr/bin/deno", ["deno", "run", "--allow-net", "https://u:hunter2@x.org/feed.ts?k=hunter3"], "feed"),
    Case("/usr/bin/bun", ["bun", "run", "start"], "till", "/srv/till"),
    # Ruby
    Case(RUBY, ["ruby", "app.rb"], "app"),
    Case(RUBY, ["ruby", "-r", "bundler/setup", "--yjit", "-I", "lib", "stock.rb"], "stock"),
    Case(RUBY, ["puma 5.6.5 (tcp://127.0.0.1:9292) [catalog]"], "catalog"),
    Case(RUBY, ["puma: cluster worker 0: 4242 [catalog]"], "catalog"),
    Case(RUBY, ["puma 5.6.5 (ssl://0.0.0.0:9292?key=/k&pass=hunter2)"], "catalog", "/srv/catalog"),
    Case(RUBY, ["/usr/bin/ruby", "/usr/bin/puma", "-C", "puma.rb"], "catalog", "/srv/catalog"),
    Case(RUBY, ["/usr/bin/ruby", "/usr/bin/puma", "--tag", "stock"], "stock", "/srv/catalog"),
    Case(RUBY, ["ruby", "/usr/bin/bundle", "exec", "puma"], "catalog", "/srv/catalog"),
    Case(RUBY, ["ruby", "/usr/bin/rackup", "-p", "80", "config.ru"], "catalog", "/srv/catalog"),
    Case(RUBY, ["unicorn worker[0] -c /etc/u.rb"], "catalog", "/srv/catalog"),
    Case(RUBY, ["ruby", "bin/rails", "server"], "catalog", "/srv/catalog/current"),
    Case(RUBY, ["sidekiq 6.5.1 catalog [0 of 5 busy]"], "catalog"),
    Case(RUBY, ["Passenger RubyApp: /var/www/catalog (production)"], "catalog"),
    Case(RUBY, ["ruby", "-e", "puts 1", "hunter2"], "unknown_service:ruby3.1"),
    # PHP, Perl, shells, .NET, Erlang, others
    Case("/usr/sbin/php-fpm8.2", ["php-fpm: pool shop"], "shop"),
    Case("/usr/sbin/php-fpm8.2", ["php-fpm: pool www"], "php-fpm"),
    Case("/usr/sbin/php-fpm8.2", ["php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)"], "php-fpm"),
    Case("/usr/bin/php8.2", ["php", "-d", "memory_limit=1G", "artisan", "serve"], "forum", "/srv/forum"),
    Case("/usr/bin/php8.2", ["php", "-S", "0:80", "-t", "public"], "forum", "/srv/forum"),
    Case("/usr/bin/perl", ["perl", "-w", "feed.pl"], "feed"),
    Case("/usr/bin/perl", ["starman master --listen :80"], "starman"),
    Case("/bin/bash", ["bash", "-eu", "/opt/poll.sh", "hunter2"], "poll"),
    Case("/bin/dash", ["sh", "-c", "curl -u me:hunter2 http://x"], "unknown_service:dash"),
    Case("/bin/bash", ["-bash"], "unknown_service:bash"),
    Case("/bin/busybox", ["busybox", "httpd", "-f"], "httpd"),
    Case("/bin/busybox", ["/bin/sh", "/opt/poll.sh"], "poll"),
    Case("/usr/bin/dotnet", ["dotnet", "/app/Shop.Api.dll", "--key", "hunter2"], "Shop.Api"),
    Case(
        "/usr/lib/erlang/erts-13/bin/beam.smp",
        ["beam.smp", "--", "-setcookie", "hunter2", "--", "-sname", "chat@host"],
        "chat",
    ),
    Case("/usr/lib/erlang/erts-13/bin/beam.smp", ["beam.smp", "--", "-sname", "rabbit@host"], "rabbitmq"),
    Case("/usr/bin/lua5.4", ["lua", "gate.lua"], "gate"),
    # Programs of their own
    Case(
        "/usr/lib/postgresql/15/bin/postgres",
        ["postgres: shop: ann shop 127.0.0.1(4242) SELECT"],
        "postgresql",
    ),
    Case("/usr/bin/redis-server", ["/usr/bin/redis-server 127.0.0.1:6379"], "redis"),
    Case("/usr/bin/redis-check-rdb", ["/usr/bin/redis-server 127.0.0.1:6379"], "redis"),
    Case("/usr/bin/redis-check-rdb", ["/usr/bin/redis-sentinel *:26379 [sentinel]"], "redis-sentinel"),
    Case("/usr/bin/redis-check-rdb", ["redis-check-rdb", "hunter2"], "redis-check-rdb"),
    Case("/usr/sbin/nginx", ["nginx: worker process"], "nginx"),
    Case("/usr/sbin/nginx (deleted)", ["nginx: worker process"], "nginx"),
    Case("/usr/sbin/mysqld", ["mysqld"], "mysql"),
    Case("/usr/sbin/mariadbd", ["mariadbd"], "mariadb"),
    Case("/usr/sbin/dnsmasq", ["dnsmasq", "-k"], "dnsmasq"),
    Case("/usr/sbin/haproxy", ["haproxy", "-f", "x"], "haproxy"),
    Case("/usr/local/bin/envoy", ["envoy", "-c", "x"], "envoy"),
    Case("/usr/bin/mysql", ["mysql", "-phunter2"], "mysql"),
    Case("/usr/bin/curl", ["curl", "-u", "me:hunter2", "http://x"], "curl"),
    Case("/lib64/ld-linux-x86-64.so.2", ["ld.so", "--library-path", "/x", "/opt/shop", "-v"], "shop"),
    Case("/lib/ld-musl-x86_64.so.1", ["ld.so", PY, "basket.py"], "basket"),
    Case("/memfd:shop (deleted)", ["shop"], "shop"),
    Case("/nix/store/abc/bin/.shop-wrapped", ["shop"], "shop"),
    # The executable cannot be read
    Case("", ["/usr/bin/python3", "basket.py"], "basket"),
    Case("", ["nginx: worker process"], "nginx"),
    Case("", [], "comm-of-it"),
]


class Proc:
    """A folder that looks like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        etc = root / "1" / "root" / "etc"
        etc.mkdir(parents=True)
        (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (etc / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nme:x:{os.geteuid() or 4242}:0::/:/bin/sh\n")

    def add(
        self,
        pid: int,
        exe: str = "/usr/bin/shop",
        argv: Sequence[str | bytes] = ("shop",),
        *,
        cwd: str = "/",
        environ: Sequence[str | bytes] = (),
        cgroup: str = "0::/\n",
        start_ticks: int = 1000,
        parent: int = 1,
        state: str = "S",
        comm: str = "shop",
    ) -> int:
        """A process; an empty exe cannot be read. Returns pid."""
        folder = self.root / str(pid)
        folder.mkdir()
        encoded = [arg.encode() if isinstance(arg, str) else arg for arg in argv]
        (folder / "cmdline").write_bytes(b"".join(arg + b"\0" for arg in encoded))
        pairs = [pair.encode() if isinstance(pair, str) else pair for pair in environ]
        (folder / "environ").write_bytes(b"".join(pair + b"\0" for pair in pairs))
        (folder / "cgroup").write_text(cgroup)
        zeros = " ".join("0" * 17)
        (folder / "stat").write_text(f"{pid} ({comm}) {state} {parent} {zeros} {start_ticks} 0 0\n")
        if exe:
            (folder / "exe").symlink_to(exe)
        (folder / "cwd").symlink_to(cwd)
        return pid


def decoded(resource: bytes) -> dict[str, str | int]:
    """The attributes of an encoded resource, read by OpenTelemetry's own classes. Keys must be unique."""
    message = Resource.FromString(resource)
    found: dict[str, str | int] = {}
    for pair in message.attributes:
        assert pair.key not in found, f"{pair.key} stands twice"
        kind = pair.value.WhichOneof("value")
        assert kind in ("string_value", "int_value")
        found[pair.key] = pair.value.string_value if kind == "string_value" else pair.value.int_value
    return found
