"""A caller without rights gets nothing, on every face; certificates and tokens rotate."""

import http.client
import os
import shutil
import ssl
import stat
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from enricher_kit import Authority, Follower, put_pod, serving, tcp, until

from zerospan.enricher import keys
from zerospan.enricher.client import WATCH, Security, channel, resolve
from zerospan.enricher.security import Rights
from zerospan.enricher.security import Security as Faces
from zerospan.enricher.store import TagStore
from zerospan.enricher.wire import tags_pb2 as pb
from zerospan.exporter.config import Secret
from zerospan.exporter.sinks.prometheus import MetricsServer

TOKEN = "s3cr3t-t0ken"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pki")
    ca, other = Authority(folder), Authority(folder, "other")
    return {
        "ca": ca, "other": other, "server": ca.issue("server"), "client": ca.issue("client"),
        "stranger": other.issue("stranger"), "folder": folder,
    }  # fmt: skip


def store_with_pod() -> tuple[TagStore, bytes]:
    store = TagStore()
    return store, put_pod(store, "n1", "cart", "10.0.0.7")[0]


def test_a_bearer_token_is_needed_for_every_call(tmp_path: Path) -> None:
    store, key = store_with_pod()
    (tmp_path / "tokens").write_text(f"# the agents'\n{TOKEN}\nsecond\n")
    security = Faces(tokens=(Secret("first"),), token_files=(str(tmp_path / "tokens"),))
    with serving(store, security=security) as service:
        for good in (TOKEN, "first", "second"):
            assert resolve(tcp(service), [key], Security(token=good)).bindings[0].pieces
        for bad in ("", "wrong", TOKEN[:-1], TOKEN + "x", "# the agents'"):
            with pytest.raises(OSError, match="UNAUTHENTICATED: it wants a bearer token that it knows$") as e:
                resolve(tcp(service), [key], Security(token=bad))
            assert "cart" not in str(e.value)
        with channel(tcp(service), Security()) as made:
            for method in (WATCH, "/zerospan.enricher.v1.TagService/None"):
                call = made.stream_stream(method, pb.WatchRequest.SerializeToString, pb.TagUpdate.FromString)
                for metadata in (
                    (),
                    (("authorization", "Basic " + TOKEN),),
                    (("authorization", f"Bearer {TOKEN}"),) * 2,
                ):
                    with pytest.raises(grpc.RpcError) as failed:
                        list(call(iter([pb.WatchRequest(open=pb.Open(node="n1"))]), metadata=metadata))
                    assert failed.value.code() == grpc.StatusCode.UNAUTHENTICATED
                    assert not failed.value.details()
        assert service.stats().refused == 5 + 6
        (tmp_path / "mine").write_text(TOKEN + "\n")
        with Follower(tcp(service), "n1", Security(token_file=str(tmp_path / "mine"))) as f:
            until(lambda: f.find(key))


@pytest.mark.parametrize("content", [b"\xff\xfe\n", "tök\n".encode(), b"two\nlines\n", b"a\0b"])
def test_a_token_that_no_header_may_have_is_said_and_tried_again(content: bytes, tmp_path: Path) -> None:
    store, key = store_with_pod()
    file = tmp_path / "mine"
    file.write_bytes(content)
    with serving(store, security=Faces(tokens=(Secret(TOKEN),))) as service:
        with pytest.raises(OSError, match="expected one line of ASCII text"):
            resolve(tcp(service), [key], Security(token_file=str(file)))
        with Follower(tcp(service), "n1", Security(token_file=str(file))) as f:
            until(lambda: "expected one line of ASCII text" in f.client.stats().last_error)
            file.write_text(TOKEN)
            until(lambda: f.find(key))


def test_tokens_rotate(tmp_path: Path) -> None:
    store, key = store_with_pod()
    file = tmp_path / "tokens"
    file.write_text("old\n")
    with serving(store, security=Faces(token_files=(str(file),))) as service:
        resolve(tcp(service), [key], Security(token="old"))
        file.write_text("newer\n")
        resolve(tcp(service), [key], Security(token="newer"))
        with pytest.raises(OSError, match="UNAUTHENTICATED"):
            resolve(tcp(service), [key], Security(token="old"))
        file.write_text("\n")  # in the middle of a rotation
        resolve(tcp(service), [key], Security(token="newer"))


def test_a_token_file_without_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("# nothing\n")
    with pytest.raises(ValueError, match="no token"):
        Rights(Faces(token_files=(str(tmp_path / "t"),)))
    with pytest.raises(OSError):
        Rights(Faces(token_files=(str(tmp_path / "absent"),)))


def test_tls(pki: dict[str, Any]) -> None:
    store, key = store_with_pod()
    cert, private = pki["server"]
    with serving(store, security=Faces(cert=cert, key=private)) as service:
        with Follower(tcp(service), "n1", Security(ca=pki["ca"].cert)) as f:
            until(lambda: f.find(key))
        for wrong in (Security(), Security(ca=pki["other"].cert)):
            with pytest.raises(OSError, match="UNAVAILABLE|DEADLINE"):
                resolve(tcp(service), [key], wrong, timeout_s=2)


def test_mutual_tls(pki: dict[str, Any]) -> None:
    store, key = store_with_pod()
    (cert, private), ca = pki["server"], pki["ca"].cert
    with serving(store, security=Faces(cert=cert, key=private, client_ca=ca)) as service:
        mine, stranger = pki["client"], pki["stranger"]
        assert resolve(tcp(service), [key], Security(ca=ca, cert=mine[0], key=mine[1])).bindings[0].pieces
        for wrong in (Security(ca=ca), Security(ca=ca, cert=stranger[0], key=stranger[1])):
            with pytest.raises(OSError, match="UNAVAILABLE|DEADLINE"):
                resolve(tcp(service), [key], wrong, timeout_s=2)


def test_certificates_and_client_cas_rotate(pki: dict[str, Any], tmp_path: Path) -> None:
    store, key = store_with_pod()
    files = [str(tmp_path / name) for name in ("cert", "key", "ca")]

    def place(server: tuple[str, str], ca: str) -> None:
        for source, target in zip((*server, ca), files, strict=True):
            shutil.copy(source, target + ".new")
            os.rename(target + ".new", target)

    place(pki["server"], pki["ca"].cert)
    with serving(store, security=Faces(cert=files[0], key=files[1], client_ca=files[2])) as service:
        before = Security(ca=pki["ca"].cert, cert=pki["client"][0], key=pki["client"][1])
        resolve(tcp(service), [key], before)
        place(pki["other"].issue("server2"), pki["other"].cert)
        after = Security(ca=pki["other"].cert, cert=pki["stranger"][0], key=pki["stranger"][1])
        resolve(tcp(service), [key], after)
        with pytest.raises(OSError, match="UNAVAILABLE|DEADLINE"):
            resolve(tcp(service), [key], before, timeout_s=2)
        Path(files[0]).write_text("broken")
        resolve(tcp(service), [key], after)


def test_the_unix_socket_is_of_its_owner_alone_and_needs_no_token(tmp_path: Path) -> None:
    store, key = store_with_pod()
    path = tmp_path / "run" / "s"
    with serving(store, [f"unix:{path}", "127.0.0.1:0"], Faces(tokens=(Secret("t"),))) as service:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Follower(f"unix:{path}", "n1") as f:
            until(lambda: f.find(key))
        with pytest.raises(OSError, match="UNAUTHENTICATED"):
            resolve(f"127.0.0.1:{service.ports['127.0.0.1:0']}", [key])
        with pytest.raises(OSError, match="another enricher"), serving(store, [f"unix:{path}"]):
            pass
        assert resolve(f"unix:{path}", [key]).bindings
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="no socket"), serving(store, [f"unix:{tmp_path}/file"]):
        pass


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "s"))
    store, key = store_with_pod()
    with serving(store, [f"unix:{tmp_path}/s"]):
        assert resolve(f"unix:{tmp_path}/s", [key]).bindings


def get(server: MetricsServer, path: str, context: ssl.SSLContext | None = None, token: str = "") -> tuple[int, bytes]:
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=context)
    with_token = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request("GET", path, headers=with_token)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def http_server(security: Faces) -> MetricsServer:
    rights = Rights(security)
    pages = {"/page": lambda query: (200, "text/plain", b"x" * 300_000)}
    return MetricsServer(
        "127.0.0.1:0", lambda _: b"metrics\n", timeout_s=1.0, tls=rights.ssl_context(), allow=rights.check,
        public=frozenset(("/healthz",)), pages=pages,
    )  # fmt: skip


def trusting(authority: Authority, client: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if client is not None:
        context.load_cert_chain(*client)
    return context


def test_http_wants_the_token() -> None:
    server = http_server(Faces(tokens=(Secret(TOKEN),)))
    server.start()
    try:
        assert get(server, "/metrics", token=TOKEN) == (200, b"metrics\n")
        for path in ("/metrics", "/page", "/none"):
            assert get(server, path) == (401, b"")
            assert get(server, path, token="wrong") == (401, b"")
        assert get(server, "/healthz") == (200, b"ok\n")
        assert get(server, "/none", token=TOKEN)[0] == 404
    finally:
        server.stop()


def test_https_with_client_certificates_and_rotation(pki: dict[str, Any], tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("cert", "key", "ca")]
    for source, target in zip((*pki["server"], pki["ca"].cert), files, strict=True):
        shutil.copy(source, target)
    server = http_server(Faces(cert=files[0], key=files[1], client_ca=files[2]))
    server.start()
    try:
        old = trusting(pki["ca"], pki["client"])
        assert get(server, "/metrics", old) == (200, b"metrics\n")
        assert get(server, "/page", old) == (200, b"x" * 300_000)
        for wrong in (trusting(pki["ca"]), trusting(pki["ca"], pki["stranger"])):
            with pytest.raises((ssl.SSLError, OSError)):
                get(server, "/metrics", wrong)
        with pytest.raises(OSError):
            get(server, "/metrics")  # plain text
        for source, target in zip((*pki["other"].issue("server3"), pki["other"].cert), files, strict=True):
            shutil.copy(source, target)
        assert get(server, "/metrics", trusting(pki["other"], pki["stranger"])) == (200, b"metrics\n")
        with pytest.raises((ssl.SSLError, OSError)):
            get(server, "/metrics", trusting(pki["other"], pki["client"]))
    finally:
        server.stop()


def test_a_handshake_that_never_ends_holds_nobody_up(pki: dict[str, Any]) -> None:
    import socket

    server = http_server(Faces(cert=pki["server"][0], key=pki["server"][1]))
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            assert get(server, "/metrics", trusting(pki["ca"])) == (200, b"metrics\n")
            s.settimeout(10)
            assert s.recv(100) == b""  # its time is over
    finally:
        server.stop()


def test_secrets_are_not_shown() -> None:
    from zerospan.enricher.config import describe, load

    config = load(None, {"ZEROSPAN_ENRICHER_SECURITY_TOKENS": f"{TOKEN},b"})
    assert TOKEN not in repr(config) + str(describe(config))
    assert keys.NODE == b"n" and config.security.tokens == (Secret(TOKEN), Secret("b"))
