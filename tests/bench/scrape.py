"""How long /metrics takes with many series: the rendering of one scrape, in the agent's own code."""

import time

from machine import BenchError

from zerospan.exporter.metrics.harness import Feeder


def run(series: int, rounds: int) -> list[float]:
    """Milliseconds of CPU for the text of at least so many series; one value a round."""
    feeder = Feeder(max_series=4 * series, max_bytes=1 << 30)
    made = feeder.fill(series)
    out = []
    for _ in range(rounds):
        began = time.thread_time_ns()
        text = feeder.render()
        out.append((time.thread_time_ns() - began) / 1e6)
        lines = text.count(b"\n")
        if lines < made:
            raise BenchError(f"a scrape of {made} series has only {lines} lines")
    return out
