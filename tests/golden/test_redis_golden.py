"""Redis' and Valkey's plans as text, to be read in review. `MULTIDB_UPDATE_GOLDEN=1` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multidb.model import App, StoreContext
from multidb.plan import diff
from multidb.provisioners.redis import PROVISIONER
from multidb.provisioners.redis.provision.options import AppOptions
from multidb.provisioners.redis.provision.resources import RedisFacts
from tests.support.redis_tables import REDIS_6, REDIS_7, VALKEY_9


@pytest.mark.parametrize(
    ("name", "facts", "isolation"),
    [
        ("redis_valkey9", VALKEY_9, "database"),
        ("redis_valkey9_prefix", VALKEY_9, "prefix"),
        ("redis_redis7", REDIS_7, "database"),
        ("redis_redis6_unsaved", REDIS_6, "database"),
    ],
)
def test_a_fresh_plan(name: str, facts: RedisFacts, isolation: str) -> None:
    apps = [
        App("digi_core", "digi-core", {"redis": AppOptions.model_validate({"isolation": isolation})}),
        App(
            "lernmi",
            "lernmi",
            {"redis": AppOptions.model_validate({"isolation": isolation, "channels": ("rq:pubsub:*",)})},
        ),
    ]
    assert PROVISIONER.allocate is not None
    context = StoreContext("digi", facts, None, PROVISIONER.allocate(apps, facts, {}))
    changes = diff(PROVISIONER.desired(apps, context), [])
    text = "\n".join(s.text for change in changes for s in PROVISIONER.statements(change, context)) + "\n"
    golden = Path(__file__).with_name(f"{name}.redis")
    if os.environ.get("MULTIDB_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
