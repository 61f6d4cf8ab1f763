"""The truth harness finds each way in which a link can be wrong; one that always says right proves nothing.

Spans are made from a plan, all right, then damaged one way a test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import truth
from truth import CLIENT, SERVER, Sent, by_body_size, judge

SENT = [Sent("1", "2"), Sent("2", "1.1"), Sent("3", "0")]
Span = dict[str, Any]


def spans(proxy: str = "") -> dict[tuple[str, str, int], Span]:
    """(hop, service, kind) -> span, as a faultless agent gives them."""
    made: dict[tuple[str, str, int], Span] = {}

    def add(hop: str, service: str, kind: int, parent: tuple[str, str, int] | None) -> tuple[str, str, int]:
        key = hop, service, kind
        made[key] = {
            "traceId": f"t{hop.partition('.')[0]}",
            "spanId": f"{hop}-{service}-{kind}",
            "parentSpanId": made[parent]["spanId"] if parent else "",
            "kind": kind,
            "service": service,
            "attributes": {
                "url.path": f"/t/{hop}/0/0",
                "zerospan.link.method": "none" if parent is None else "tcp_isn" if kind == SERVER else "thread",
            },
        }
        return key

    for sent in SENT:
        for hop in sent.hops():
            depth = hop.count(".")
            caller = None if depth == 0 else (hop.rpartition(".")[0], f"app{depth - 1}", SERVER)
            at = add(hop, "driver" if depth == 0 else f"app{depth - 1}", CLIENT, caller)
            if proxy and depth == 0:
                at = add(hop, proxy, CLIENT, add(hop, proxy, SERVER, at))
            add(hop, f"app{depth}", SERVER, at)
    return made


def test_hops_of_a_plan() -> None:
    assert Sent("7", "2.1").hops() == ["7", "7.1", "7.2", "7.1.1", "7.2.1"]
    assert Sent("7", "0").hops() == ["7"]


def test_what_is_right_is_said_to_be_right() -> None:
    score = judge(spans().values(), SENT)
    assert (score.all.precision, score.all.recall) == (1.0, 1.0)
    assert (score.whole, score.wrong_traces, score.split, score.strays) == (3, 0, 0, 0)
    assert score.links[SERVER].right == 7 and score.links[CLIENT].right == 4
    assert score.methods[CLIENT, "thread"].right == 4
    assert "100.00 %" in score.text() and json.dumps(score.json())


def test_a_call_below_another_request_is_wrong() -> None:
    made = spans()
    call = made["1.2", "app0", CLIENT]
    call |= {"parentSpanId": made["2", "app0", SERVER]["spanId"], "traceId": "t2"}
    made["1.2", "app1", SERVER]["traceId"] = "t2"
    score = judge(made.values(), SENT)
    assert score.links[CLIENT].wrong == 1 and score.methods[CLIENT, "thread"].wrong == 1
    assert (score.wrong_traces, score.split, score.whole) == (1, 1, 1)
    assert score.links[CLIENT].precision == 0.75 and score.links[CLIENT].recall == 0.75


def test_a_call_without_a_parent_is_unlinked() -> None:
    made = spans()
    for key, kind in ((("2.1", "app0", CLIENT), CLIENT), (("2.1", "app1", SERVER), SERVER)):
        made[key] |= {"traceId": "new"}
        if kind == CLIENT:
            made[key]["parentSpanId"] = ""
    made["2.1.1", "app1", CLIENT]["traceId"] = made["2.1.1", "app2", SERVER]["traceId"] = "new"
    score = judge(made.values(), SENT)
    calls = score.links[CLIENT]
    assert (calls.right, calls.wrong, calls.unlinked) == (3, 0, 1)
    assert (calls.precision, calls.recall) == (1.0, 0.75)
    assert (score.split, score.wrong_traces, score.whole) == (1, 0, 2)


def test_a_span_that_is_not_there_is_missing() -> None:
    made = spans()
    del made["1.1", "app1", SERVER]
    score = judge(made.values(), SENT)
    assert score.links[SERVER].missing == 1 and score.links[SERVER].recall == 6 / 7
    assert score.whole == 2
    assert judge([], SENT).all.recall == 0.0


@pytest.mark.parametrize("parent", ["1", "1.1"])
def test_siblings_and_rings_are_wrong_parents(parent: str) -> None:
    """A CLIENT span below another CLIENT span, and a SERVER span below a SERVER span."""
    made = spans()
    made["1.2", "app0", CLIENT]["parentSpanId"] = made[parent, "app0" if "." in parent else "driver", CLIENT]["spanId"]
    made["1.2", "app1", SERVER]["parentSpanId"] = made["1", "app0", SERVER]["spanId"]
    score = judge(made.values(), SENT)
    assert score.links[CLIENT].wrong == 1 and score.links[SERVER].wrong == 1


def test_a_parent_that_is_in_no_file_is_wrong() -> None:
    made = spans()
    made["1.1", "app0", CLIENT]["parentSpanId"] = "nowhere"
    made["3", "driver", CLIENT]["parentSpanId"] = "nowhere"  # the root serves nobody
    assert judge(made.values(), SENT).links[CLIENT].wrong == 2


def test_a_parent_of_the_right_hop_in_another_service_is_wrong() -> None:
    made = spans()
    made["1", "app0", SERVER]["service"] = "other"
    assert judge(made.values(), SENT).links[CLIENT].wrong == 2


def test_a_span_sent_twice_counts_once_and_other_traffic_not_at_all() -> None:
    made = spans()
    stray = {**made["1", "app0", SERVER], "attributes": {"url.path": "/healthz"}, "spanId": "x"}
    score = judge([*made.values(), made["1", "app0", SERVER], stray], SENT)
    assert score.whole == 3 and score.links[SERVER].right == 7 and score.strays == 1


def test_proxies_pass_on_the_same_hop() -> None:
    made = spans("nginx")
    score = judge(made.values(), SENT, proxies={"nginx"})
    assert score.all.recall == 1.0 and score.whole == 3
    assert score.links[CLIENT].right == 7 and score.links[SERVER].right == 10
    made["1", "nginx", CLIENT] |= {"parentSpanId": made["2", "nginx", SERVER]["spanId"], "traceId": "t2"}
    assert judge(made.values(), SENT, proxies={"nginx"}).links[CLIENT].wrong == 1
    del made["2", "nginx", CLIENT]
    assert judge(made.values(), SENT, proxies={"nginx"}).links[CLIENT].missing == 1


def test_identical_paths_are_told_apart_by_the_size_of_the_body() -> None:
    made = spans()
    for (hop, _, _), span in made.items():
        span["attributes"] = {"url.path": "/same"} | ({} if "." in hop else {"http.request.body.size": int(hop)})
    only = [span for (hop, _, _), span in made.items() if "." not in hop]
    score = judge(only, [Sent(one.number, "0") for one in SENT], ident=by_body_size)
    assert score.links[SERVER].right == 3 and score.whole == 3


def test_the_driver_may_be_outside() -> None:
    made = {key: span for key, span in spans().items() if key[1] != "driver"}
    for span in made.values():
        if span["parentSpanId"].startswith(("1-driver", "2-driver", "3-driver")):
            span["parentSpanId"] = ""
    score = judge(made.values(), SENT, driver_watched=False)
    assert score.whole == 3 and score.links[SERVER].right == 4 and score.links[SERVER].missing == 0


def test_the_command_line(tmp_path: Path) -> None:
    made = spans()
    otlp = {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": span["service"]}}]},
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                **span,
                                "attributes": [
                                    {"key": k, "value": {"stringValue": v}} for k, v in span["attributes"].items()
                                ],
                            }
                        ]
                    }
                ],
            }
            for span in made.values()
        ]
    }
    file, requests = tmp_path / "spans.jsonl", tmp_path / "requests"
    file.write_text(json.dumps(otlp) + "\n")
    requests.write_text("".join(f"{one.number} {one.plan}\n" for one in SENT))
    argv = [sys.executable, str(truth.__file__), str(file), "--requests", str(requests), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kinds"]["CLIENT"]["right"] == 4
