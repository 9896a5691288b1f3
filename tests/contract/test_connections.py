"""The servers of a manifest are asked before anything is done with them: `validate --connect`, `init`, `doctor`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multidb.ports import choose
from tests.contract.case_redis import ADMIN, PASSWORD, real_server, valkey_binary
from tests.support.command import Folder, on_terminal
from tests.support.postgres_servers import PLATFORM, Cluster, cluster

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    with cluster(18) as made:
        yield made


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with real_server(tmp_path_factory.mktemp("valkey"), binary=valkey_binary) as real:
        yield f"redis://{ADMIN}@127.0.0.1:{real.server.endpoint.port}"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, [])


def passwords(postgres: Cluster) -> dict[str, str]:
    return {"PG": postgres.password, "PLAT": postgres.platform_password, "KV": PASSWORD, "NO": "not-the-password"}


def address(postgres: Cluster, login: str = "postgres") -> str:
    return f"postgresql://{login}@127.0.0.1:{postgres.port}/postgres"


def external(folder: Folder, apps: dict[str, Any] | None = None, **servers: Any) -> None:
    """A manifest, one line for each section and server."""
    lines = ["version: 1", "project: shop", "runtime: external", f"apps: {json.dumps(apps or {})}", "external:"]
    folder.manifest(
        "\n".join([*lines, *(f"  {store}: {json.dumps(entry)}" for store, entry in servers.items())]) + "\n"
    )


def asked(folder: Folder, postgres: Cluster, code: int) -> dict[str, dict[str, Any]]:
    done = folder.run("validate", "--connect", "--json", env=passwords(postgres))
    assert done.code == code, done.out + done.err
    assert not any(password in done.out + done.err for password in passwords(postgres).values())
    return {server["server"]: server for server in done.json()["servers"]}


def test_every_server_is_asked_whether_an_app_uses_it_or_not(folder: Folder, postgres: Cluster, valkey: str) -> None:
    entry = {"url": address(postgres, PLATFORM), "password": {"env": "PLAT"}}
    external(folder, postgres=entry, redis={"url": valkey, "password": {"env": "KV"}})
    servers = asked(folder, postgres, 0)
    assert list(servers) == ["postgres", "redis"]
    assert [server["ok"] for server in servers.values()] == [True, True]
    assert servers["postgres"]["product"].startswith("PostgreSQL 18")
    assert servers["postgres"]["where"].endswith("multidb.yaml:6:3")
    (right,) = servers["postgres"]["findings"]
    assert (right["level"], right["subject"]) == ("ok", "postgres")
    assert f"{PLATFORM} is no superuser" in right["message"]
    assert "extensions that are not trusted are left out" in right["message"]
    assert "may make users" in servers["redis"]["findings"][0]["message"]
    assert not (folder.path / ".multidb").exists()
    states = folder.ok("status", "--json").json()["servers"]
    assert [(server["server"], server["state"]) for server in states] == [("postgres", "running"), ("redis", "running")]
    findings = folder.ok("doctor", "--json", env=passwords(postgres)).json()["findings"]
    assert {finding["subject"] for finding in findings if "may" in finding["message"]} == {"redis"}
    assert any(finding["subject"] == "postgres" and "no superuser" in finding["message"] for finding in findings)


def test_what_is_wrong_with_each_server_is_said_at_once(folder: Folder, postgres: Cluster, valkey: str) -> None:
    free = choose(())
    external(
        folder,
        {"ann": {"stores": ["postgres"], "postgres": {"extensions": ["no_such"]}}},
        postgres={"url": address(postgres), "password": {"env": "PG"}},
        neo4j={"url": f"bolt://127.0.0.1:{free}", "password": {"env": "MISSING"}},
        qdrant={"url": f"http://127.0.0.1:{free}"},
        redis={"url": valkey, "password": {"env": "NO"}},
    )
    servers = asked(folder, postgres, 4)
    assert [name for name, server in servers.items() if server["ok"]] == []
    assert "no extension no_such, which ann wants" in str(servers["postgres"]["findings"])
    errors = {name: server["error"] for name, server in servers.items() if server["error"]}
    assert {name: error["code"] for name, error in errors.items()} == {
        "neo4j": "usage",
        "qdrant": "server-down",
        "redis": "authentication",
    }
    assert errors["qdrant"]["hint"] == "start it where it runs, or correct external.qdrant.url in the manifest"
    assert "MISSING" in errors["neo4j"]["message"]
    text = folder.run("validate", "--connect", env=passwords(postgres)).out
    for name, line in (("neo4j", 7), ("qdrant", 8), ("redis", 9)):
        assert re.search(rf"error +{name} +multidb\.yaml:{line}:3: ", text), text


def test_no_hint_names_a_command_that_these_servers_refuse(folder: Folder) -> None:
    """Which commands those are, the refusals themselves say."""
    free = choose(())
    urls = {"postgres": "postgresql://127.0.0.1", "neo4j": "bolt://127.0.0.1", "redis": "redis://127.0.0.1"}
    servers = {store: {"url": f"{url}:{free}"} for store, url in urls.items()}
    external(folder, {"ann": {}}, **servers, qdrant={"path": "vectors"})
    assert folder.run("up").code == 3
    looking = ("status", "doctor", "validate --connect")
    for command in (*looking, "plan", "health", "usage", "audit", "backup", "env ann"):
        done = folder.run(*command.split())
        said = done.out + done.err
        assert not re.search(r"multidb (up|down|restart|recover|logs)\b", said), f"{command}: {said}"
        if command in looking:
            assert not (folder.path / "vectors").exists(), f"{command} changes nothing"
            assert command == "status" or "make it: multidb apply; or correct external.qdrant.path" in said


def test_servers_of_our_own_that_were_not_started_are_said(folder: Folder, postgres: Cluster) -> None:
    folder.manifest("version: 1\nproject: shop\napps: {ann: {stores: [redis]}}\nservers:\n  redis: {databases: 9}\n")
    server = asked(folder, postgres, 4)["redis"]
    assert server["error"]["hint"] == "start it: multidb up"
    assert server["where"].endswith("multidb.yaml:5:3")


def test_init_tries_what_it_is_given_and_writes_no_password(folder: Folder, postgres: Cluster, valkey: str) -> None:
    given = ["--address", address(postgres), "--password-from", "postgres=env:PG", "--address", valkey]
    wrong = folder.run("init", *given, "--password-from", "redis=env:NO", "--json", env=passwords(postgres))
    assert (wrong.code, [*folder.path.iterdir()]) == (4, [])
    assert [(server["server"], server["ok"]) for server in wrong.json()["servers"]] == [
        ("postgres", True),
        ("redis", False),
    ]
    assert "--no-connect" in wrong.err
    done = folder.ok("init", *given, "--password-from", "redis=env:KV", env=passwords(postgres))
    assert "postgres is a superuser" in done.out
    text = (folder.path / "multidb.yaml").read_text()
    assert yaml.safe_load(text)["external"] == {
        "postgres": {"url": address(postgres), "password": {"env": "PG"}},
        "redis": {"url": valkey, "password": {"env": "KV"}},
    }
    assert not any(password in text + done.out + done.err for password in passwords(postgres).values())
    folder.ok("validate", "--connect", env=passwords(postgres))
    assert sorted(entry.name for entry in folder.path.iterdir()) == [".gitignore", "multidb.yaml"]


def test_init_asks_at_a_terminal(folder: Folder, postgres: Cluster, valkey: str) -> None:
    typed = [
        "elsewhere",  # no runtime
        "ext",
        "mysql://root@db",  # no Postgres
        address(postgres).replace("@", ":hunter2@"),  # a password in it
        address(postgres),
        "hunter2",  # a password instead of where it is
        "env:PG",
        *("", ""),  # neither Neo4j nor Qdrant
        valkey,
        "env:NO",
        "n",
    ]
    code, shown = on_terminal(folder.path, ["init"], typed="\n".join(typed) + "\n", **passwords(postgres))
    assert code == 4, shown
    assert [*folder.path.iterdir()] == []
    for words in (
        "one of embedded, compose, external",
        "which mysql:// is not",
        "must not carry a password",
        "env:NAME",
    ):
        assert words in " ".join(shown.split()), shown  # as wide as the terminal
    assert "Write the manifest all the same? [y/N]" in shown
    code, shown = on_terminal(
        folder.path, ["init"], typed="\n".join([*typed[:-2], "env:KV"]) + "\n", **passwords(postgres)
    )
    assert code == 0, shown
    assert set(yaml.safe_load((folder.path / "multidb.yaml").read_text())["external"]) == {"postgres", "redis"}
    assert "hunter2" not in (folder.path / "multidb.yaml").read_text()


@pytest.mark.parametrize("options", [["--yes"], ["--runtime", "compose"], ["--json", "-y"]])
def test_init_does_not_ask_where_that_is_not_wanted(folder: Folder, options: list[str]) -> None:
    code, shown = on_terminal(folder.path, ["init", *options])
    assert (code, "?" in shown) == (0, False), shown
    runtime = yaml.safe_load((folder.path / "multidb.yaml").read_text())["runtime"]
    assert runtime == ("compose" if "compose" in options else "embedded")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runtime", "external"], ["no servers yet", "multidb init --address postgresql://"]),
        (["--runtime", "embedded", "--address", "redis://db"], ["starts its own"]),
        (["--address", "mysql://root:hunter2@db"], ["no store of multidb is at mysql://", "postgresql:// (postgres)"]),
        (["--address", "root:hunter2@db"], ["--address is no URL"]),
        (["--address", "redis://me:hunter2@db"], ["must not carry a password", "--password-from redis=env:NAME"]),
        (["--address", "redis://a", "--address", "valkey://b"], ["two servers of redis"]),
        (["--address", "redis://a", "--password-from", "redis=hunter2"], ["only where it is read from"]),
        (["--address", "redis://a", "--password-from", "qdrant=env:A"], ["a store that has an --address"]),
        (["--address", "redis://a", "--password-from", "redis=env:hunter-2"], ["name of an environment variable"]),
    ],
)
def test_init_refuses_in_words(folder: Folder, options: list[str], words: list[str]) -> None:
    done = folder.run("init", *options)
    assert (done.code, [*folder.path.iterdir()]) == (2, [])
    assert all(word in done.err for word in words), done.err
    assert "hunter2" not in done.err + done.out


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"url": "mysql://root@db"}, "beginning with postgresql:// or postgres://, which mysql:// is not"),
        ({"url": "postgresql://db", "app_url": "redis://hunter2@db"}, "app_url beginning with postgresql://"),
        ({"url": "hunter2:secret"}, "such as postgresql://postgres@db.example.com:5432"),
    ],
)
def test_a_manifest_refuses_addresses_of_other_products(folder: Folder, entry: dict[str, str], words: str) -> None:
    external(folder, postgres=entry)
    done = folder.run("validate")
    assert done.code == 2
    assert words in done.err
    assert "hunter2" not in done.err


def test_git_leaves_out_what_init_says(folder: Folder) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    subprocess.run([git, "init", "--quiet", str(folder.path)], check=True)
    folder.ok("init", "--project", "shop", "--yes")
    (folder.path / "multidb.yaml").write_text(
        "version: 1\nproject: shop\nruntime: compose\napps: {ann: {stores: [postgres]}}\nbackup: {to: [./backups]}\n"
    )
    folder.ok("render")
    (folder.path / "backups" / "shop").mkdir(parents=True)
    (folder.path / "backups" / "shop" / "dump").write_text("data")
    listed = subprocess.run(
        [git, "-C", str(folder.path), "ls-files", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert "multidb.yaml" in listed
    assert [name for name in listed if name.endswith(".env") or name.startswith((".multidb", "backups"))] == []
    secret = [path for path in folder.path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077 == 0]
    assert {str(path.relative_to(folder.path)) for path in secret if ".git/" not in str(path)} & {*listed} == set()
