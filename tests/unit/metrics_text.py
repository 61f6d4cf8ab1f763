"""Reads what /metrics says with prometheus_client's own parsers, as {(sample name, labels): value}."""

from collections.abc import Mapping
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

Labels = frozenset[tuple[str, str]]


def parsed(raw: bytes, openmetrics: bool = False) -> list[Any]:
    """The metric families; raises if the text is not what the format allows."""
    return list((parse_openmetrics if openmetrics else parse_text)(raw.decode()))


def samples(raw: bytes, openmetrics: bool = False) -> dict[tuple[str, Labels], float]:
    """All samples; fails if one appears twice."""
    out: dict[tuple[str, Labels], float] = {}
    for family in parsed(raw, openmetrics):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in out, f"twice in one exposition: {key}"
            out[key] = sample.value
    return out


def find(raw: bytes, name: str, labels: Mapping[str, str] | None = None) -> dict[Labels, float]:
    """The samples of that name that have these labels (and perhaps others)."""
    wanted = set((labels or {}).items())
    return {have: v for (n, have), v in samples(raw).items() if n == name and wanted <= have}


def value(raw: bytes, name: str, **labels: str) -> float:
    """The value of the one sample of that name with these labels."""
    found = find(raw, name, labels)
    assert len(found) == 1, f"{name}{labels}: {found}"
    return next(iter(found.values()))


def total(raw: bytes, name: str, **labels: str) -> float:
    """The sum of all samples of that name with these labels."""
    return sum(find(raw, name, labels).values())
