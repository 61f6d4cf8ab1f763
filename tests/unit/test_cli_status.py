"""`zerospan status` shows what the agent says, all of it as JSON, the rest readable at 80 columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import recording_cases as cases

from zerospan.exporter import pipeline
from zerospan.exporter.cli import main, status
from zerospan.exporter.config import load
from zerospan.exporter.source.replay import Replay


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[pipeline.Pipeline]:
    """An agent that has replayed three requests, lost two, and answers at its control socket."""
    path = tmp_path / "r.zsr"
    path.write_bytes(cases.whole(3, cases.ERROR, kernel={"emitted": 40, "ring_full_request": 2}))
    overrides = {"run_dir": str(tmp_path / "run"), "files.traces": str(tmp_path / "t.jsonl")}
    made = pipeline.build(load(None, {}, overrides), replay=Replay(str(path)))
    made.start()
    assert made.ended.wait(30)
    yield made
    made.stop()


def test_json_is_the_whole_status(agent: pipeline.Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--run-dir", agent.config.run_dir]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["seen"] == 12 + 2 and said["dropped"] == {"ring_full": 2}
    assert said["seen"] == said["exported"] + sum(said["dropped"].values()) + sum(said["in_flight"].values())
    assert {"hooks", "selftest", "sinks", "kernel", "pipeline", "uptime_s"} <= said.keys()


def test_the_human_form_fits_and_has_the_ledger(agent: pipeline.Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--run-dir", agent.config.run_dir]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "seen                  14" in text and "ring_full 2" in text
    assert "file/traces      ok" in text and "\x1b" not in text


def test_a_failing_sink_is_shown_with_its_last_error(agent: pipeline.Pipeline) -> None:
    now = agent.status()
    now["sinks"][0] |= {
        "failing": True,
        "last_error": "connection refused\x1b[31m",
        "dropped": {"rejected": 3},
    }  # type: ignore[index]
    text = status.render(now, now, 0.5)
    assert "FAILING" in text and "last error: connection refused" in text and "dropped 3" in text
    assert "\x1b" not in text, "a receiver's words cannot colour the terminal"
    assert "\x1b[31m" in status.render(now, now, 0.5, color=True)


def test_the_rate_is_that_of_the_interval(agent: pipeline.Pipeline) -> None:
    before, now = agent.status(), agent.status()
    now["seen"] = int(str(before["seen"])) + 50
    assert "now 100.0/s" in status.render(before, now, 0.5)
