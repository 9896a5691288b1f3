"""`multidb render` as a person meets it: what it writes, what it says, and what it refuses with nothing written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from multidb import files
from multidb.errors import MultidbError, Refused, UsageError
from multidb.project import load_deployment
from tests.support.command import REPOSITORY, Folder

MANIFEST = "version: 1\nproject: shop\nruntime: compose\n"
APPS = "apps: {ann: {}, bob: {stores: [postgres, redis]}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path, [])
    made.manifest(MANIFEST + APPS)
    return made


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def render(folder: Path, overlay: str | None = None) -> list[str]:
    deployment = load_deployment(folder / "multidb.yaml", overlay)
    return deployment.write(deployment.files(new_secrets=True))


def test_this_repository_has_what_its_own_manifest_renders() -> None:
    deployment = load_deployment(REPOSITORY / "multidb.yaml")
    rendered = {path: file for path, file in deployment.files(new_secrets=False).items() if not file.private}
    states = deployment.compare(rendered)
    assert "infrastructure/docker-compose.yml" in states
    assert [path for path, state in states.items() if state != "current"] == [], "run: multidb render"


def test_it_writes_once_checks_and_hides(folder: Folder) -> None:
    before = folder.run("render", "--check", "--json")
    assert (before.code, before.json()["ok"]) == (1, False)
    assert everything(folder.path) == {"multidb.yaml"}, "a check writes nothing, no secret either"
    assert "wrote" in folder.ok("render").out
    assert "Nothing to write" in folder.ok("render").err
    assert folder.run("render", "--check").code == 0
    for path in ("infrastructure/.env", "apps/ann/.env", ".multidb/secrets.json"):
        assert stat.S_IMODE((folder.path / path).stat().st_mode) == 0o600
    (folder.path / "infrastructure/.env").write_text("# Written by multidb\nPOSTGRES_PASSWORD=changed-by-hand\n")
    (folder.path / "apps/bob/docker-compose.yml").unlink()
    check = folder.run("render", "--check", "--json")
    states = {file["path"]: file["state"] for file in check.json()["files"]}
    assert (check.code, states["infrastructure/.env"], states["apps/bob/docker-compose.yml"]) == (
        1,
        "different",
        "missing",
    )
    assert "POSTGRES_PASSWORD=" not in check.out + check.err
    assert sorted(folder.ok("render", "--json").json()["written"]) == [
        "apps/bob/docker-compose.yml",
        "infrastructure/.env",
    ]


def test_ci_without_the_secrets_checks_everything_else(folder: Folder) -> None:
    render(folder.path)
    for path in (".multidb/secrets.json", "infrastructure/.env", "apps/ann/.env", "apps/bob/.env"):
        (folder.path / path).unlink()
    assert folder.run("render", "--check").code == 0
    (folder.path / "apps/ann/.env.example").unlink()
    assert folder.run("render", "--check").code == 1


def test_a_secret_file_that_others_can_read_is_closed_again(folder: Folder) -> None:
    render(folder.path)
    (folder.path / "infrastructure/.env").chmod(0o644)
    assert render(folder.path) == ["infrastructure/.env"]
    assert stat.S_IMODE((folder.path / "infrastructure/.env").stat().st_mode) == 0o600


def _template(folder: Folder, name: str, text: str) -> None:
    path = folder.path / "templates" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_template_of_the_project_takes_the_place_of_ours(folder: Folder) -> None:
    _template(folder, "services/qdrant.yml.j2", "  {{ container.name }}:\n    image: mine:1\n    networks: [servers]\n")
    render(folder.path)
    text = (folder.path / "infrastructure/docker-compose.yml").read_text()
    assert "image: mine:1" in text
    assert 'image: "postgres:18-trixie"' in text


@pytest.mark.parametrize(
    ("name", "text", "where", "words"),
    [
        ("services/qdrant.yml.j2", "  q:\n    image: {{ gone }}\n", "services/qdrant.yml.j2:2", "'gone' is undefined"),
        ("services/qdrant.yml.j2", "  q:\n    image: {{ container.nothing }}\n", "services/qdrant.yml.j2:2", "nothing"),
        ("services/qdrant.yml.j2", "\n{% if %}\n", "services/qdrant.yml.j2:2", "Expected an expression"),
        ("services/qdrant.yml.j2", "  q:\n    {{ 1 / 0 }}\n", "services/qdrant.yml.j2:2", "division by zero"),
        ("services/qdrant.yml.j2", '{% include "gone.j2" %}', "docker-compose.yml.j2", "no template gone.j2"),
        ("services/qdrant.yml.j2", "  q: [\n", "infrastructure/docker-compose.yml", "not YAML"),
        ("services/qdrant.yml.j2", "  q: {ports: []}\n", "infrastructure/docker-compose.yml", "neither image"),
        ("docker-compose.yml.j2", "a: 1\n", "infrastructure/docker-compose.yml", "no services"),
        ("services/app.yml.j2", "\xff", "services/app.yml.j2", "cannot be read"),
        ("valkey/valkey.conf.j2", "{{ container.__class__.__mro__ }}{{ x }}", "valkey/valkey.conf.j2:1", "undefined"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_one_clear_error_and_nothing_is_written(
    folder: Folder, name: str, text: str, where: str, words: str
) -> None:
    _template(folder, name, "")
    (folder.path / "templates" / name).write_bytes(text.encode("latin-1"))
    before = everything(folder.path)
    with pytest.raises(UsageError) as caught:
        render(folder.path)
    assert where in str(caught.value.where)
    assert words in caught.value.message
    assert everything(folder.path) == before


def test_a_template_cannot_put_a_secret_where_others_read(folder: Folder) -> None:
    text = (REPOSITORY / "templates/env.j2").read_text()
    _template(folder, "valkey/valkey.conf.j2", "requirepass {{ container.secret }}")
    render(folder.path)  # the control: what a template can reach of a container is not its password
    for path in (folder.path / "infrastructure").iterdir():
        if path.is_file():
            path.unlink()
    _template(folder, "env.j2", text)
    known = load_deployment(folder.path / "multidb.yaml").state.secrets
    password = next(known.get(ref) for ref in known.refs() if ref.store == "redis")
    assert password is not None
    _template(folder, "valkey/valkey.conf.j2", f"requirepass {password.reveal()}")
    with pytest.raises(UsageError, match="a secret into a file that others can read"):
        render(folder.path)


@pytest.mark.parametrize(
    ("manifest", "error", "words"),
    [
        (
            "deploy: {strategy: separate, profiles: [monitoring]}\n" + APPS,
            UsageError,
            "monitoring stands beside shared",
        ),
        ("deploy: {strategy: separate, profiles: [pgbouncer]}\n" + APPS, UsageError, "every app has its own"),
        ("deploy: {strategy: single}\napps: {redis: {}}\n", UsageError, "a server is called redis too"),
    ],
)
def test_what_a_strategy_cannot_do_is_refused(
    folder: Folder, manifest: str, error: type[MultidbError], words: str
) -> None:
    folder.manifest(MANIFEST + manifest)
    with pytest.raises(error, match=words):
        render(folder.path)
    assert everything(folder.path) == {"multidb.yaml"}


def test_a_file_that_a_person_wrote_is_not_replaced(folder: Folder) -> None:
    (folder.path / "apps/bob").mkdir(parents=True)
    (folder.path / "apps/bob/docker-compose.yml").write_text("services: {mine: {image: x}}\n")
    with pytest.raises(Refused, match="did not write it"):
        render(folder.path)
    assert not (folder.path / "infrastructure").exists()


def test_an_unwritable_place_leaves_nothing_half_written(folder: Folder) -> None:
    (folder.path / "scripts").write_text("a file where a folder has to be")
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        render(folder.path)
    assert not [path for path in everything(folder.path) if path.startswith(("apps/", "infrastructure/"))]


def test_many_files_are_written_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "blocked").write_text("a file")
    wanted = {tmp_path / name: ("new", 0o644) for name in ("old", "fresh", "blocked/below")}
    with pytest.raises(UsageError, match="cannot be written"):
        files.write_all(wanted)
    assert ((tmp_path / "old").read_text(), everything(tmp_path)) == ("old", {"old", "blocked"})
    files.write_all({path: text for path, text in wanted.items() if path.parent == tmp_path})
    assert (tmp_path / "fresh").read_text() == "new"  # the control


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_leaves_nothing_half_written(folder: Folder) -> None:
    (folder.path / "infrastructure").mkdir(mode=0o555)
    with pytest.raises(UsageError, match="cannot be written"):
        render(folder.path)
    assert not [path for path in everything(folder.path) if path.startswith("apps/")]


def test_environments_share_the_apps_and_differ_in_their_servers(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: compose\n" + APPS)
    (folder.path / "multidb.dev.yaml").write_text("runtime: embedded\n")
    (folder.path / "multidb.prod.yaml").write_text(
        "runtime: external\nexternal:\n"
        '  postgres: {url: "postgresql://admin@db.example.com/postgres", password: {env: NOWHERE}}\n'
        '  neo4j: {url: "bolt+s://neo4j@graph.example.com", password: {env: NOWHERE}}\n'
        '  qdrant: {url: "https://vectors.example.com:6333", password: {env: NOWHERE}}\n'
        '  redis: {url: "rediss://admin@cache.example.com:6379", password: {env: NOWHERE}}\n'
    )
    base = load_deployment(folder.path / "multidb.yaml").files(new_secrets=True)
    assert "infrastructure/docker-compose.yml" in base
    prod = load_deployment(folder.path / "multidb.yaml", "prod").files(new_secrets=True)
    assert set(prod) == {"apps/ann/docker-compose.yml", "apps/bob/docker-compose.yml"}
    assert "external: true" not in prod["apps/ann/docker-compose.yml"].text, "there is no network of servers to join"
    dev = load_deployment(folder.path / "multidb.yaml", "dev")
    assert (dev.project.runtime, list(dev.project.apps)) == ("embedded", ["ann", "bob"])
    assert folder.run("render", "--check", "--env", "nowhere").code == 2
    prod_plan = folder.run("status", "--env", "prod", "--json")
    assert "db.example.com" in prod_plan.out, "the servers of prod are those of its file"
    dev_status = folder.run("status", "--env", "dev", "--json")
    assert '"postgres"' in dev_status.out
    assert "db.example.com" not in dev_status.out
