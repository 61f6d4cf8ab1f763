"""Fixtures of the end-to-end tests: the real back ends, once in a session; the marker `e2e` on every test.

Without the binaries the tests fail with the command that brings them; they are never skipped.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for `backends`, which is no part of the installed package

from backends.program import ProgramError  # noqa: E402
from backends.stack import Stack  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test of this folder `e2e`, so that none is forgotten when they are left out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Collector, Tempo, Loki and Prometheus, running and ready. Their logs stay in pytest's temporary folder.

    All tests share them: use ids and label values of your own, `stack.scrape([...])` for Prometheus' targets.
    """
    with contextlib.ExitStack() as stop:
        try:
            running = stop.enter_context(Stack(data=tmp_path_factory.mktemp("backends")))
        except ProgramError as error:
            pytest.fail(str(error), pytrace=False)
        yield running
