"""For every test."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.support.examples import ALL
from tests.support.own_ports import keep_apart

keep_apart()

# By the clock a busy machine would be measured, not what is tried.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

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


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--all"):
        os.environ[ALL] = "yes"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    rare = [item for item in items if item.get_closest_marker("rare")]
    config.hook.pytest_deselected(items=rare)
    items[:] = [item for item in items if item not in rare]


def pytest_collection_finish() -> None:
    # Half a million objects of modules and tests, which are there to the end: each full collection of garbage while
    # tests run would look through all of them again, for a tenth of the time of those that are no more than Python.
    gc.freeze()
