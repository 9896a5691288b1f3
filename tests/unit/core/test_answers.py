"""Kept answers: made again when something that they follow from has changed, and believed no more than a manifest."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multidb.access import StoreAccess, record_access, recorded_access
from multidb.answers import Answers, AppAnswer
from multidb.fleet import Fleet
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.secrets import Secret, SecretRef
from multidb.state import ProjectState

MANIFEST = """\
version: 1
project: shop
runtime: external
external: {postgres: {url: "postgresql://127.0.0.1:1"}, redis: {url: "redis://127.0.0.1:2"}}
include: ["apps/*/app.yaml"]
apps: {ann: {stores: [postgres, redis], labels: {team: blue}}}
"""
OF_ANN = "app-ann"
TOLD = "3f9c-told-to-nobody-else"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "multidb.yaml").write_text(MANIFEST)
    app, state = load_project(tmp_path / "multidb.yaml").apps["ann"], ProjectState(tmp_path)
    with state.change("numbers") as numbers:
        numbers["redis"] = {"ann": 3}
    refs = [spec.ref for store in app.stores for spec in provisioner(store).secrets(app)]
    state.secrets.put({ref: Secret(f"{TOLD}-{number}") for number, ref in enumerate(refs)})
    return tmp_path


def answers(folder: Path, overlay: str | None = None) -> Answers:
    return Answers(folder / "multidb.yaml", overlay)


def keep(folder: Path) -> AppAnswer:
    """Makes the answers, and leaves them to be found."""
    kept, project = answers(folder), load_project(folder / "multidb.yaml")
    kept.of_project(project)
    return kept.of_app(Fleet(project), "ann")


def test_an_answer_is_found_again_as_it_was(folder: Path) -> None:
    made = keep(folder)
    found = answers(folder).app("ann")
    assert found == made
    assert found is not None
    assert found.labels == {"team": "blue"}
    assert str(found.env["DATABASE_URL"]) == "postgresql://ann_user:***@127.0.0.1:1/ann"
    project = answers(folder).project()
    assert project is not None
    assert (project.project, project.runtime, project.apps) == ("shop", "external", ("ann",))


def test_no_secret_is_kept_with_it(folder: Path) -> None:
    keep(folder)
    files = list((folder / ".multidb" / "answers").iterdir())
    assert len(files) == 2
    assert not [file for file in files if TOLD in file.read_text()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_new_password_is_in_the_answer_at_once(folder: Path) -> None:
    keep(folder)
    ref = SecretRef("ann", "postgres", "user")
    ProjectState(folder).secrets.put({ref: Secret("another-that-is-as-long")})
    found = answers(folder).app("ann")
    assert found is not None
    url = found.env["DATABASE_URL"]
    assert isinstance(url, Secret)
    assert url.reveal() == "postgresql://ann_user:another-that-is-as-long@127.0.0.1:1/ann"


def _edit(folder: Path) -> None:
    (folder / "multidb.yaml").write_text(MANIFEST.replace("127.0.0.1:1", "127.0.0.1:9"))


def _include(folder: Path) -> None:
    (folder / "apps" / "bob").mkdir(parents=True)
    (folder / "apps" / "bob" / "app.yaml").write_text("bob: {stores: [redis]}\n")


def _number(folder: Path) -> None:
    with ProjectState(folder).change("numbers") as numbers:
        numbers["redis"]["ann"] = 4


def _forget(folder: Path) -> None:
    ProjectState(folder).secrets.delete([SecretRef("ann", "redis", "user")])


def _special(folder: Path) -> None:
    """A password that an address holds in another form."""
    ProjectState(folder).secrets.put({SecretRef("ann", "redis", "user"): Secret("with / and @ and a colon :")})


@pytest.mark.parametrize("change", [_edit, _include, _number, _forget, _special])
def test_what_has_changed_is_found_out_again(folder: Path, change: Callable[[Path], None]) -> None:
    keep(folder)
    change(folder)
    assert answers(folder).app("ann") is None


@pytest.mark.parametrize("section", ["audit", "backup-work", "backups", "first_issued", "issued", "told"])
def test_what_a_service_writes_down_all_day_makes_no_answer_old(folder: Path, section: str) -> None:
    keep(folder)
    path = folder / ".multidb" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, section: {"ann": {"newest": "20261121T140501Z-1a2b3c"}}}))
    assert answers(folder).app("ann") is not None
    path.write_text(json.dumps({**state, "of a later version": {"ann": {}}}))
    assert answers(folder).app("ann") is None


def test_an_included_file_is_looked_at_like_the_manifest(folder: Path) -> None:
    _include(folder)
    keep(folder)
    assert answers(folder).project() is not None
    (folder / "apps" / "bob" / "app.yaml").write_text("bob: {stores: [postgres]}\n")
    assert answers(folder).project() is None


def test_another_environment_and_a_container_get_no_answer_of_this_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "multidb.prod.yaml").write_text("apps: {}\n")
    keep(folder)
    assert answers(folder, "prod").project() is None
    monkeypatch.setenv("MULTIDB_INSIDE", "1")
    assert answers(folder).project() is None


def test_nothing_is_kept_of_a_manifest_that_changed_while_it_was_read(folder: Path) -> None:
    kept, project = answers(folder), load_project(folder / "multidb.yaml")
    _edit(folder)
    kept.of_project(project)
    assert answers(folder).project() is None


def test_nothing_is_kept_of_passwords_that_cannot_be_told_apart(folder: Path) -> None:
    secrets = ProjectState(folder).secrets
    secrets.put({SecretRef("ann", store, "user"): Secret(TOLD) for store in ("postgres", "redis")})
    keep(folder)
    assert answers(folder).app("ann") is None


def test_nothing_is_kept_where_there_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "multidb.yaml").write_text("version: 1\nproject: shop\napps: {}\n")
    answers(tmp_path).of_project(load_project(tmp_path / "multidb.yaml"))
    assert [file.name for file in tmp_path.iterdir()] == ["multidb.yaml"]


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    *parents, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        for name in parents:
            document = document[name]
        document[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("answer.env", {"A=1\nexport B": "a name that is more than one"}),
        _set("answer.env.REDIS_HOST", "two\nlines"),
        _set("answer.env.REDIS_HOST", 7),
        _set("answer.env.REDIS_URL", ["redis://", "ann/redis", "@127.0.0.1"]),
        _set("answer.env.REDIS_URL", ["redis://", "bob/redis/user", "@127.0.0.1"]),
        _set("answer.tenant_id", "clears \x1b[2J the screen"),
        _set("answer.labels", {"team": 1}),
        _set("answer.servers", [["postgres"]]),
        _set("answer.servers", [["postgres", "../../elsewhere"]]),
        _set("answer.credentials", []),
        _set("answer", []),
        _set("made_of.include", "apps"),
        _set("made_of", None),
    ],
)
def test_an_answer_that_somebody_has_changed_is_none(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    keep(folder)
    file = folder / ".multidb" / "answers" / f"{OF_ANN}.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    assert answers(folder).app("ann") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"made_of": 1}', "\udcff"])
def test_what_is_no_answer_is_none(folder: Path, text: str) -> None:
    keep(folder)
    (folder / ".multidb" / "answers" / "project.json").write_text(text, errors="surrogateescape")
    assert answers(folder).project() is None


@pytest.mark.parametrize("name", ["../project", "ann/../ann", "", "Ann"])
def test_a_name_that_is_none_leads_to_no_file(folder: Path, name: str) -> None:
    keep(folder)
    assert answers(folder).app(name) is None


def test_what_was_read_is_kept_for_each_app_of_a_server(tmp_path: Path) -> None:
    old, new = (StoreAccess("enforced", why, ("role ann_rw",), "2026-11-28T20:00:00+00:00") for why in ("old", "new"))
    record_access(tmp_path, "postgres", {"ann": old, "bob": old, "eve": old}, ["ann", "bob", "eve"])
    record_access(tmp_path, "postgres", {"bob": new}, ["ann", "bob"])
    assert recorded_access(tmp_path, "postgres") == {"ann": old, "bob": new}
    assert recorded_access(tmp_path, "redis") == {}
    (tmp_path / "access" / "postgres.json").write_text('{"ann": {"isolation": "enforced"}}')
    assert recorded_access(tmp_path, "postgres") == {}
