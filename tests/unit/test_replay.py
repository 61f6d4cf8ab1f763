"""A recording gives the same spans every time; a file that is none is refused, never with a crash."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import recording_cases as cases
from recording_cases import CURL, PRICES, SHOP, START, WALL, S

from zerospan.exporter import pipeline, tree
from zerospan.exporter.abi.events import ABI_VERSION
from zerospan.exporter.config import Config
from zerospan.exporter.engine import Engine
from zerospan.exporter.selfmon.ledger import Ledger
from zerospan.exporter.sinks.null import NullSink
from zerospan.exporter.source import recording, replay
from zerospan.exporter.source.recorder import Recorder
from zerospan.exporter.source.recording import ReplayError, Tape
from zerospan.exporter.source.replay import Replay
from zerospan.exporter.tree import CLIENT, SERVER, Span


class Kept(NullSink):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("kept", "traces")
        self.payloads: list[bytes] = []

    def put(self, batch):  # type: ignore[no-untyped-def]
        self.payloads.append(batch.payload)
        super().put(batch)


def play(path: Path, *, partial: bool = False) -> tuple[list[bytes], Ledger, Replay]:
    """The batches of a replay, its ledger, the source."""
    sink = Kept()
    source = Replay(str(path), partial)
    agent = pipeline.build(Config(), extra_sinks=[sink], replay=source, control=False)
    agent.start()
    assert agent.ended.wait(30)
    result = agent.stop()
    assert agent.failure is None
    return sink.payloads, result, source


def spans(payloads: list[bytes]) -> list[Span]:
    return [span for payload in payloads for span in tree.decode(payload)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.zsr"
    path.write_bytes(cases.whole(3))
    return path


def test_the_spans_are_those_of_the_records(file: Path) -> None:
    payloads, result, source = play(file)
    found = spans(payloads)
    assert len(found) == 12 and source.records == len(cases.conversation(3))
    assert (result.seen, result.exported, result.dropped, result.balanced) == (12, 12, {}, True)
    assert {(s.service, s.kind) for s in found} == {
        ("curl", CLIENT), ("shop", SERVER), ("shop", CLIENT), ("prices", SERVER),
    }  # fmt: skip
    traces = {s.trace_id for s in found}
    assert len(traces) == 3
    for trace in traces:
        chain = {(s.service, s.kind): s for s in found if s.trace_id == trace}
        assert chain["curl", CLIENT].parent_id == ""
        assert chain["shop", SERVER].parent_id == chain["curl", CLIENT].span_id
        assert chain["shop", CLIENT].parent_id == chain["shop", SERVER].span_id
        assert chain["prices", SERVER].parent_id == chain["shop", CLIENT].span_id


def test_times_are_those_of_the_recording(file: Path) -> None:
    payloads, _, _ = play(file)
    starts = sorted(s.start_ns for s in spans(payloads) if s.service == "curl")
    assert starts == [START + WALL + 10_000_000 * i for i in (1, 2, 3)]


def test_every_replay_is_the_same_to_the_byte(file: Path) -> None:
    assert play(file)[0] == play(file)[0] != []


def test_masking_is_that_of_the_replay(file: Path) -> None:
    assert b"secret" in file.read_bytes()
    assert not any(b"secret" in payload for payload in play(file)[0])


def test_losses_of_the_kernel_are_in_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "lost.zsr"
    path.write_bytes(cases.whole(kernel={"emitted": 3, "ring_full_request": 5}))
    _, result, source = play(path)
    assert source.kernel["ring_full_request"] == 5
    assert (result.seen, result.dropped, result.balanced) == (4 + 5, {"ring_full": 5}, True)


def test_a_number_that_came_again_has_its_second_description(tmp_path: Path) -> None:
    """A process ends (FORGET), another gets its number: each span has the name that was recorded for it."""
    first, second = cases.conversation(), cases.conversation()
    offset = 60 * S
    later = []
    for record in second:
        moved = bytearray(record)
        for at in (8, 16):  # time_ns; conn_id, so that the connections are new
            struct.pack_into("<Q", moved, at, struct.unpack_from("<Q", moved, at)[0] + offset)
        if moved[2] == 3 and struct.unpack_from("<Q", moved, 56)[0]:  # zs_msg.prev_end_ns
            struct.pack_into("<Q", moved, 56, struct.unpack_from("<Q", moved, 56)[0] + offset)
        later.append(bytes(moved))
    everyone = (CURL, SHOP, PRICES)
    gone = struct.pack("<3I", *(p.tgid for p in everyone))
    path = tmp_path / "again.zsr"
    path.write_bytes(
        cases.head()
        + b"".join(map(cases.process, everyone))
        + cases.tick(START + S)
        + b"".join(cases.frame(recording.RECORD, r) for r in first)
        + cases.tick(START + 10 * S)
        + cases.frame(recording.FORGET, gone)
        + b"".join(cases.process(p, f"new-{p.comm}") for p in everyone)
        + cases.tick(START + offset + S)
        + b"".join(cases.frame(recording.RECORD, r) for r in later)
        + cases.end(START + offset + 2 * S)
    )
    found = spans(play(path)[0])
    assert len(found) == 8
    names = {"curl", "shop", "prices"}
    assert {s.service for s in found if s.start_ns < START + WALL + offset} == names
    assert {s.service for s in found if s.start_ns > START + WALL + offset} == {f"new-{n}" for n in names}


def test_what_is_written_down_is_what_passed(file: Path, tmp_path: Path) -> None:
    """A recording of a replay has the same frames: Tape writes what Replay reads."""
    source = Replay(str(file))
    copy = tmp_path / "copy.zsr"
    tape = Tape(str(copy))
    tap = tape.record(source, self_tgid=1, wall_offset=WALL, hooks="none")
    engine = Engine(tap, tape.describing(source.describe))
    while (step := source.step()) is not None:
        kind, now, more = step
        if kind == replay.TICK:
            tape.tick(now, more)
            engine.tick(now, more)
        elif kind == replay.SETTLE:
            tape.settle(now)
            engine.settle(now)
        else:
            tape.finish(now, more)
            engine.finish(now, more)
    tape.end(source.kernel)
    assert tape.records == source.records
    assert tape.written == copy.stat().st_size
    assert spans(play(copy)[0]) == spans(play(file)[0])


def test_a_recording_is_for_its_owner_only_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.zsr"
    old = os.umask(0)
    try:
        Tape(str(path)).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        Tape(str(path))
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "link.zsr"
    link.symlink_to(target)
    with pytest.raises(FileExistsError):
        Tape(str(link))
    path.chmod(0o666)
    Tape(str(path), force=True).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and target.read_text() == "precious"


def test_a_full_disk_is_told(file: Path) -> None:
    source = Replay(str(file))
    with open("/dev/full", "wb") as full:
        tap = Recorder(source, full.fileno())
        for _ in range(40):
            tap.write(recording.FORGET, bytes(64 << 10))  # more than its buffer
        assert tap.error == errno.ENOSPC
        written = tap.written
        tap.write(recording.FORGET, bytes(8))
        tap.flush()
        assert tap.written == written, "nothing is counted as written after the error"


# ---- files that are no recordings ----


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"x", "no recording"),
        (b"GET / HTTP/1.1\r\n" * 100, "no recording"),
        (cases.head(version=99) + cases.end(1), "format 99"),
        (cases.head(abi=ABI_VERSION + 1) + cases.end(1), f"ABI version {ABI_VERSION + 1}"),
        (cases.head()[:30], "cut off in its header"),
        (recording.HEAD.pack(recording.MAGIC, 1, ABI_VERSION, 8, 0) + b"not json", "header cannot be read"),
        (cases.head() + cases.frame(77, b"") + cases.end(1), "no known frame"),
        (cases.head() + cases.frame(recording.TICK, b"short") + cases.end(1), "wrong frame"),
        (cases.head() + cases.frame(recording.RECORD, b"") + cases.end(1), "wrong frame"),
        (
            cases.head() + cases.frame(recording.PROCESS, b"\xc1junk") + cases.end(1),
            "description of a process",
        ),
        (cases.head() + cases.frame(recording.END, b"{}"), "last frame"),
        (cases.head() + cases.end(1) + b"12345678", "8 bytes after the end"),
        (cases.head() + recording.FRAME.pack(0xFFFFFFFF, recording.RECORD), "cut off"),
        (cases.head(), "cut off"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "wrong.zsr"
    path.write_bytes(data)
    with pytest.raises(ReplayError) as caught:
        Replay(str(path))
    assert str(path) in str(caught.value) and word in str(caught.value)


def test_a_recording_cut_at_any_byte_is_refused_or_taken_as_far_as_it_goes(tmp_path: Path) -> None:
    data = cases.whole()
    path = tmp_path / "cut.zsr"
    frames = len(cases.head())
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ReplayError):
            Replay(str(path))
        if n >= frames and n % 37 == 0:
            _, result, _ = play(path, partial=True)
            assert result.balanced


def test_a_damaged_recording_never_harms_the_agent(tmp_path: Path) -> None:
    """Bytes are changed anywhere: the file is refused, or replayed with a ledger that is balanced."""
    data = cases.whole(2)
    path = tmp_path / "damaged.zsr"
    chance = random.Random(7)
    refused = 0
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            changed[chance.randrange(len(cases.head()), len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            _, result, _ = play(path)
        except ReplayError:
            refused += 1
        else:
            assert result.balanced, changed.hex()
    assert 0 < refused < 150, "some of the damage shows, some does not"


def test_the_header_tells_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "about.zsr"
    tape = Tape(str(path))
    tape.record(Replay(str(_empty(tmp_path))), self_tgid=4711, wall_offset=WALL, hooks="sock_length")
    tape.finish(1, WALL)
    tape.end({"emitted": 0})
    about = Replay(str(path)).about
    assert (about["agent_pid"], about["hooks"], about["wall_offset_ns"]) == (4711, "sock_length", WALL)
    assert json.dumps(about)


def _empty(folder: Path) -> Path:
    path = folder / "empty.zsr"
    path.write_bytes(cases.head() + cases.end(1))
    return path
