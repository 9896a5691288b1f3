"""For every unit test."""

from __future__ import annotations

import pytest

from multidb import secrets


@pytest.fixture(autouse=True)
def _no_secrets_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of other tests of the same process must not be masked in what this one reads."""
    monkeypatch.setattr(secrets, "HELD_VALUES", set())
