"""An app's `profile`: the profile of each of its stores that knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from multidb.errors import ManifestError
from multidb.model import App
from multidb.project import load_project

HEAD = "version: 1\nproject: digi\nruntime: embedded\ndefaults: {postgres: {connection_limit: 9}}\napps:\n"


def loaded(folder: Path, entry: str) -> App:
    path = folder / "multidb.yaml"
    path.write_text(f"{HEAD}  ann: {entry}\n")
    return load_project(path).apps["ann"]


def given(app: App) -> dict[str, dict[str, object]]:
    return {store: options.model_dump(mode="json", exclude_unset=True) for store, options in app.stores.items()}


def test_each_store_that_knows_it_has_it_and_the_entry_and_the_defaults_say_otherwise(tmp_path: Path) -> None:
    options = given(loaded(tmp_path, "{profile: n8n, stores: [postgres, redis, qdrant], postgres: {roles: split}}"))
    assert options["postgres"] == {
        "profile": "n8n",
        "connection_limit": 9,
        "statement_timeout": "10min",
        "roles": "split",
    }
    assert options["redis"] == {"profile": "n8n", "scripts": True}
    assert "profile" not in options["qdrant"]
    assert given(loaded(tmp_path, "{profile: rq, stores: [postgres, redis]}"))["postgres"] == {"connection_limit": 9}
    assert "profile" not in given(loaded(tmp_path, "{profile: null, stores: [redis]}"))["redis"]
    other = given(loaded(tmp_path, "{profile: n8n, stores: [redis], redis: {profile: celery}}"))
    assert other["redis"]["profile"] == "celery"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{profile: mlflo, stores: [postgres]}",
            "6:18: app ann: no store of it has a profile mlflo. They have: airflow,",
        ),
        ("{profile: rq, stores: [postgres]}", "no store of it has a profile rq. They have: airflow,"),
        ("{profile: rq, stores: [qdrant]}", "no store of it has a profile rq. They have: none."),
        ("{profile: [rq], stores: [redis]}", "profile must be text"),
        ("{profile: rq, stores: [redis], redis: {isolation: prefix}}", "whose keys have fixed names"),
    ],
)
def test_what_no_store_knows_is_named_with_what_they_do(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(ManifestError) as refused:
        loaded(tmp_path, entry)
    assert message in str(refused.value)
