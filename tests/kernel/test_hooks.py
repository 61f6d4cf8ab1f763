"""What is loaded and where it is attached: the layouts, their choice, and that nothing is left behind."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pair import Pair
from records import Trace

from zerospan.exporter.abi import events
from zerospan.exporter.config import ring_size
from zerospan.exporter.source import bpf
from zerospan.exporter.source.capture import LAYOUTS, Capture, CaptureError, object_path

Connect = Callable[..., Pair]


def bpftool(*args: str) -> Any:
    return json.loads(subprocess.run(["bpftool", "-j", *args], capture_output=True, check=True).stdout)


def programs() -> dict[int, str]:
    return {p["id"]: p.get("name", "") for p in bpftool("prog", "list") or []}


def attached(ids: set[int]) -> set[str]:
    """Tracepoints and iterators that programs are linked to."""
    out = set()
    for link in bpftool("link", "list") or []:
        if link["prog_id"] in ids:
            out.add(link.get("tp_name") or link.get("target_name") or link["type"])
    return out


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_object_can_be_opened(name: str) -> None:
    """Whether it can be loaded is the kernel's to say; the file is whole, with its programs and settings."""
    made = bpf.Object(object_path(name))
    sections = dict(made.programs())
    assert sections["zs_set_state"] == "tp_btf/inet_sock_set_state"
    assert sections["zs_destroy"] == "tp_btf/tcp_destroy_sock"
    assert sections["zs_sweep"].startswith("iter/")
    for constant in ("zs_self_tgid", "zs_payload_bytes", "zs_filters"):
        made.set_constant(constant, 1)
    with pytest.raises(KeyError, match="zs_none"):
        made.set_constant("zs_none", 1)
    made.close()
    made.close()


def test_a_file_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "x.bpf.o").write_bytes(b"no ELF")
    with pytest.raises(OSError, match=r"x\.bpf\.o"):
        bpf.Object(str(tmp_path / "x.bpf.o"))


def test_where_the_programs_are_attached(layout: str, load: Callable[..., Trace]) -> None:
    """sock_length: no other system call passes any hook. Everything goes when the capture is closed."""
    before = set(programs())
    trace = load()
    new = set(programs()) - before
    hooks = attached(new)
    common = {"inet_sock_set_state", "tcp_destroy_sock"}
    if layout == "sock_length":
        assert hooks == common | {"sock_send_length", "sock_recv_length", "bpf_sk_storage_map"}
    else:
        assert hooks == common | {"sys_exit", "bpf_map_elem"}
    trace.capture.close()
    Trace.wait(lambda: not new & set(programs()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_is_asked_for_is_used_or_refused(name: str) -> None:
    """Never another one in its place."""
    try:
        capture = Capture(name)
    except CaptureError as e:
        assert name in str(e) and "zerospan check" in str(e)
        assert name == "fexit", "the other two load on any current kernel"
        return
    assert capture.choice.layout == name
    capture.close()


def test_the_cheapest_layout_is_chosen() -> None:
    capture = Capture("auto")
    index = LAYOUTS.index(capture.choice.layout)
    assert set(capture.choice.reasons) == set(LAYOUTS[:index])
    assert all(capture.choice.reasons.values())
    assert capture.choice.layout == "sock_length" or not bpf.kernel_has_tracepoint("sock_send_length")
    capture.close()


def test_one_layout_tells_what_the_other_tells(connect: Connect) -> None:
    """Both at once, the same traffic: the same messages, in the same words."""
    pair = connect()
    traces = [Trace(Capture(name)) for name in ("sock_length", "sys_exit")]
    for _ in range(20):
        pair.exchange()
    pair.client.writev(pair.c, [b"", b"GET ", b"/x HTTP/1.1\r\n\r\n"])
    pair.server.recv_all(pair.s, 19)
    pair.server.sendfile(pair.s, b"HTTP/1.1 200 OK\r\n\r\n")
    pair.client.recv_all(pair.c, 19)
    pair.close()
    told = []
    for trace in traces:
        trace.until(lambda t: all(e.closes for e in pair.ends(t)))
        words = []
        for end in pair.ends(trace):
            for r in end.order + [end.conn]:
                skip = ("conn_id", "time_ns", "end_ns", "prev_end_ns", "run_end_ns")
                words.append({k: v for k, v in r.items() if k not in skip})
        told.append(words)
        trace.capture.close()
    assert told[0] == told[1]


def test_ring_sizes() -> None:
    assert [ring_size(n) for n in (0, 1, 65536, 65537, 8 << 20, (8 << 20) + 1)] == [
        65536,
        65536,
        65536,
        131072,
        8 << 20,
        16 << 20,
    ]


def test_settings_reach_the_kernel(load: Callable[..., Trace]) -> None:
    trace = load(ring_bytes=100_000)
    assert trace.capture.object.map_size("zs_ring") == 131072
    assert set(trace.capture.counters()) == {name for name, _ in events.COUNTERS}


def test_drain_gives_back_the_space(load: Callable[..., Trace], client: Any, server: Any, connect: Connect) -> None:
    trace = load(ring_bytes=65536, pid=(client.pid, server.pid))
    pair = connect()
    for _ in range(5):
        for _ in range(60):
            pair.exchange()
        assert trace.capture.ring.fill() > 0.3
        trace.drain()
        assert trace.capture.ring.fill() == 0
    assert trace.lost() == {}
    assert trace.capture.ring.records == len(trace.records) == trace.counters()["emitted"]
