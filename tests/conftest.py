"""For every test."""

from __future__ import annotations

import os
import signal

import pytest

# What these say changes what a command asks; a test that is about them sets them itself.
for _name in ("CI", "MULTIDB_YES"):
    os.environ.pop(_name, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run that was started in the background ignores Ctrl-C, and so would every command that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# No test asks a host beyond this machine. Those of fetching a Qdrant have a host of their own, and say so.
os.environ["MULTIDB_QDRANT_DOWNLOAD"] = "never"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the tests that are marked rare")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    rare = [item for item in items if item.get_closest_marker("rare")]
    config.hook.pytest_deselected(items=rare)
    items[:] = [item for item in items if item not in rare]
