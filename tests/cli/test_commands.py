"""The command line without any server: help, exit codes, errors, JSON documents, what is imported when."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from rich.console import Console

from multidb.access import StoreAccess, record_access
from multidb.cli.command_line import COMMANDS
from multidb.cli.output import Output
from multidb.cli.plan_view import show_plan, show_report
from multidb.diagnosis import taken_ports
from multidb.errors import Locked, ServerDown
from multidb.model import Action, Change, Endpoint, Level, Resource, Server
from multidb.plan import Plan, ServerPlan
from multidb.project import load_project
from multidb.provisioners import provisioner
from multidb.provisioners.qdrant.provision.resources import token_ref
from multidb.report import Report, ServerReport
from multidb.runtime import ServerState, ServerStatus
from multidb.secrets import Secret
from multidb.state import ProjectState
from tests.support.command import FORKS, REPOSITORY, Folder
from tests.support.documents import assert_documented

DRAWING = ("rich", "jinja2", "cryptography", "asyncio")  # 50 to 100 ms each, and not for a line of text
DRIVERS = ("psycopg", "neo4j", "qdrant_client", "redis", "docker", "httpx", "urllib3", "grpc", "numpy")
ARRAYS = ("numpy", "pandas", "pyarrow")  # which the driver of Neo4j loads where they are installed


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, [])


def test_help_lists_every_command(folder: Folder) -> None:
    text = folder.ok("--help").out
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(folder: Folder, command: str) -> None:
    text = folder.ok(command, "--help").out
    assert "Example" in text
    assert f"multidb {command}" in " ".join(text.split())


CHECKING = ("pydantic", "pydantic_core._pydantic_core", "yaml", "importlib.metadata")  # what a manifest takes


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """The folder of a project that was applied. Nothing listens at its addresses: what is told comes from the manifest
    and the records alone."""
    urls = {"postgres": "postgresql", "neo4j": "bolt", "qdrant": "http", "redis": "redis"}
    external = {
        store: {"url": f"{scheme}://127.0.0.1:1", "password": {"env": "PASSWORD"}} for store, scheme in urls.items()
    }
    manifest = {"version": 1, "project": "shop", "runtime": "external", "external": external, "apps": {"ann": {}}}
    manifest["servers"] = {"neo4j": {"isolation": "database"}}
    (tmp_path / "multidb.yaml").write_text(json.dumps(manifest))
    project, state = load_project(tmp_path / "multidb.yaml"), ProjectState(tmp_path)
    with state.change("numbers") as numbers:
        numbers["redis"] = {"ann": 3}
    refs = [spec.ref for store in urls for spec in provisioner(store).secrets(project.apps["ann"])]
    state.secrets.put({ref: Secret(f"kept-{ref.store}-{ref.name}-for-ann") for ref in [*refs, token_ref("ann")]})
    for store in urls:
        access = StoreAccess("enforced", "it was read", ("its place",), "2026-11-28T20:00:00+00:00")
        record_access(state.folder, store, {"ann": access}, ["ann"])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "Start"),
        (["--version"], "multidb"),
        (["validate"], "no problems"),
        (["env", "ann", "--reveal"], "DATABASE_URL=postgresql://ann_user:kept-postgres-user-for-ann@127.0.0.1:1/ann"),
        (["env", "ann", "--reveal"], "QDRANT_API_KEY=kept-qdrant-token-for-ann"),
        (["show", "ann", "--json"], '"isolation": "enforced"'),
    ],
)
def test_what_needs_no_server_imports_no_driver(known: Path, arguments: list[str], said: str) -> None:
    """The first time the manifest is checked; then what was found is kept, and not even that is loaded."""
    assert said in _ran(known, arguments, (*DRIVERS, *DRAWING))
    assert said in _ran(known, arguments, (*DRIVERS, *DRAWING, *CHECKING))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("multidb ", "purge"),
        ("multidb en", "env"),
        ("multidb env --re", "--reveal"),
        ("multidb show --li", "--live"),
        ("multidb show ", "ann"),
        ("multidb restore ", "ann"),
        ("multidb backup --to ", "backups/"),
    ],
)
def test_completion_imports_neither_drivers_nor_models(known: Path, words: str, offered: str) -> None:
    asked = {"_MULTIDB_COMPLETE": "bash", "_MULTIDB_LINE": words}
    unwanted = {*DRIVERS, *DRAWING, *CHECKING, "typer", "http.client"} - ({"yaml"} if words.endswith(" ") else set())
    assert offered in _ran(known, [], sorted(unwanted), **asked)


def test_a_forked_command_of_the_tests_imports_nothing_anymore(tmp_path: Path) -> None:
    """An import that each of some thousand commands makes again is most of what the suite takes."""
    code = (
        "import sys\nbefore = {*sys.modules}\n"
        "import tests.support.command, multidb.cli.apply, multidb.provisioners.postgres, multidb.provisioners.neo4j\n"
        f"open({str(tmp_path / 'told')!r}, 'w').write(repr(sorted({{*sys.modules}} - before)))\n"
    )
    process = FORKS.Process(target=exec, args=(code,))
    process.start()
    process.join(60)
    assert (tmp_path / "told").read_text() == "[]"


def test_show_says_what_was_read_and_asks_only_when_it_is_told_to(known: Path) -> None:
    folder = Folder(known, [])
    assert "as read on 2026-11-28 20:00:00 UTC; multidb show ann --live asks" in folder.ok("show", "ann").out
    assert "credentials on redis: of unknown age" in folder.ok("show", "ann").out
    with ProjectState(known).change("issued") as issued:
        issued["ann"] = "2020-01-01T00:00:00+00:00"
    assert "credentials on redis: made 2020-01-01, " in folder.ok("show", "ann").out
    asked = folder.run("show", "ann", "--live", env={"PASSWORD": "of-some-admin"})
    assert asked.code == 4
    (known / ".multidb" / "access" / "redis.json").write_text("{}")
    asked = folder.run("show", "ann", env={"PASSWORD": "of-some-admin"})
    assert asked.code == 4, "nobody knows, so the servers are asked"


def _ran(folder: Path, arguments: list[str], unwanted: Sequence[str], **variables: str) -> str:
    """What a command prints that has to do without some modules."""
    code = (
        "import sys\nfrom multidb.cli import main\n"
        f"sys.argv = ['multidb', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {unwanted!r} if name in sys.modules], file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.strip() == "[]"
    return ran.stdout


NOT_FOR_A_PLAN = re.compile(
    r"multidb\.provisioners\.\w+\."
    r"(isolation\.(audit|holes\w*|rights|settings)|observe\.(credential_use|examination|health)|backup\.archive)"
)


@pytest.mark.parametrize(
    ("store", "scheme", "own"),
    [
        ("postgres", "postgresql", {"psycopg"}),
        ("redis", "redis", {"redis"}),
        ("qdrant", "http", {"urllib3"}),
        ("neo4j", "bolt", {"neo4j"}),
    ],
)
def test_a_plan_imports_the_drivers_of_the_stores_it_asks(
    tmp_path: Path, store: str, scheme: str, own: set[str]
) -> None:
    """Nothing listens there; the driver has to be loaded to find that out, and no other one, nor what no plan needs."""
    (tmp_path / "multidb.yaml").write_text(
        f"version: 1\nproject: shop\nruntime: external\napps: {{ann: {{stores: [{store}]}}}}\n"
        f"external: {{{store}: {{url: '{scheme}://admin@127.0.0.1:1', password: {{env: PASSWORD}}}}}}\n"
    )
    code = (
        "import sys\nfrom multidb.cli import main\nsys.argv = ['multidb', 'plan']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 4, end.code\n"
        f"print('drivers', *(name for name in {DRIVERS!r} if name in sys.modules))\n"
        "print('modules', *(name for name in sys.modules if name.startswith('multidb.')))"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PASSWORD": "long enough for anybody"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env, check=True
    )
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("drivers")]
    others = {"psycopg", "neo4j", "qdrant_client", "redis", "httpx", "urllib3"} - own
    loaded = set(line.split()[1:])
    assert own <= loaded
    assert not loaded & others
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("modules")]
    assert f"multidb.provisioners.{store}.provision.session" in line.split()
    assert not [name for name in line.split() if NOT_FOR_A_PLAN.fullmatch(name)]


@pytest.mark.parametrize("command", ["plan", "health"])
def test_a_command_loads_of_a_driver_what_it_has_use_for(tmp_path: Path, command: str) -> None:
    """The driver is there, and works without the arrays; an app that imports it beside multidb has them."""
    (tmp_path / "multidb.yaml").write_text(
        "version: 1\nproject: shop\nruntime: external\napps: {ann: {stores: [neo4j]}}\n"
        "external: {neo4j: {url: 'bolt://admin@127.0.0.1:1', password: {env: PASSWORD}}}\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PASSWORD": "long enough for anybody"}
    unwanted = (*ARRAYS, "xml.etree.ElementTree", "rich.live")
    code = (
        f"import sys\nfrom multidb.cli import main\nsys.argv = ['multidb', {command!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 4, end.code\n"
        f"import neo4j, neo4j.vector\nprint([name for name in {unwanted!r} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=env, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[]"
    library = "import sys, multidb.provisioners.neo4j, neo4j; print('numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", library], capture_output=True, text=True, env=env, check=True)
    assert ran.stdout == "True\n"


def test_help_does_not_even_read_the_model(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom multidb.cli import main\nsys.argv = ['multidb', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'pydantic' not in sys.modules and 'yaml' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env=env, check=True)


def test_no_manifest(folder: Folder) -> None:
    done = folder.run("plan")
    assert done.code == 2
    assert "multidb.yaml" in done.err
    assert "multidb init" in done.err


def test_init_writes_a_manifest_that_is_valid_and_keeps_secrets_out_of_git(folder: Folder) -> None:
    (folder.path / ".gitignore").write_text("node_modules")
    folder.ok("init", "--project", "shop")
    assert yaml.safe_load((folder.path / "multidb.yaml").read_text())["project"] == "shop"
    assert (folder.path / ".gitignore").read_text().splitlines() == ["node_modules", ".multidb/", ".env", "backups/"]
    assert sorted(entry.name for entry in folder.path.iterdir()) == [".gitignore", "multidb.yaml"]
    folder.ok("validate")
    again = folder.run("init")
    assert again.code == 3
    assert "already" in again.err


def test_every_problem_of_a_manifest_at_once(folder: Folder) -> None:
    folder.manifest(
        "version: 1\nproject: shop\nruntim: embedded\napps:\n  Bad-Name: {}\n  ok: {store: [postgres]}\n  fine_: {}\n"
    )
    done = folder.run("validate")
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if "multidb.yaml:" in line]
    assert len(lines) >= 4, done.err
    assert any("multidb.yaml:3:1" in line and "runtime" in line for line in lines)
    as_json = folder.run("validate", "--json")
    assert as_json.code == 2
    document = as_json.json()
    assert document["ok"] is False
    assert {problem["line"] for problem in document["error"]["problems"]} >= {3, 5, 6, 7}


def test_validate_says_what_is_there(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {}, bob: {stores: [redis]}}\n")
    document = folder.ok("validate", "--json").json()
    assert document.pop("apps") == ["ann", "bob"]
    assert document == {"version": 1, "command": "validate", "ok": True, "project": "shop", "runtime": "embedded"}


def test_the_schema_accepts_the_example_and_refuses_a_mistake(folder: Folder) -> None:
    schema = json.loads(folder.ok("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    example = yaml.safe_load((REPOSITORY / "multidb.yaml").read_text())
    jsonschema.validate(example, schema)
    example["apps"]["lernmi"] = {"stores": ["postgress"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(example, schema)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "--app", "nobody"], ["nobody", "ann"]),
        (["plan", "--store", "mysql"], ["mysql", "postgres"]),
        (["frobnicate"], ["frobnicate"]),
        (["plan", "--frobnicate"], ["frobnicate"]),
        (["env", "No-Good!"], ["No-Good!"]),
        (["apply", "missing.json"], ["missing.json", "plan --out"]),
    ],
)
def test_usage_errors_say_what_and_what_next(folder: Folder, arguments: list[str], words: list[str]) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {}}\n")
    done = folder.run(*arguments)
    assert done.code == 2, done.err
    assert all(word in done.err for word in words), done.err
    as_json = folder.run(*arguments, "--json")
    assert as_json.code == 2
    assert as_json.json()["error"]["message"]


def test_containers_without_an_engine(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: compose\napps: {ann: {stores: [redis]}}\n")
    no_engine = {"DOCKER_HOST": f"unix://{folder.path}/none.sock"}
    for command in ("up", "restart", "down", "status"):
        done = folder.run(command, env=no_engine)
        assert done.code == 4
        assert "no Docker engine answers" in done.err
        assert "runtime: embedded" in done.err
    assert folder.run("plan", env=no_engine).code == 4
    assert not (folder.path / "infrastructure").exists()


def test_deleting_data_is_asked_for_and_only_where_there_are_volumes(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {stores: [redis]}}\n")
    assert folder.run("down", "--yes-destroy", "shop").code == 2
    asked = folder.run("down", "--volumes")
    assert asked.code == 3
    assert "--yes-destroy shop" in asked.err
    assert folder.run("down", "--volumes", "--yes-destroy", "sho").code == 3
    refused = folder.run("down", "--volumes", "--yes-destroy", "shop")
    assert refused.code == 3
    assert ".multidb/servers" in refused.err


def test_logs_of_a_server_that_has_said_nothing(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {stores: [redis]}}\n")
    log = folder.path / ".multidb" / "logs" / "redis.log"
    assert folder.ok("logs", "--json").json()["logs"] == {"redis": []}
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("one\ntwo\nthree\n")
    assert folder.ok("logs", "redis", "-n", "2").out == "two\nthree\n"
    assert folder.ok("logs").out.splitlines()[0] == "redis | one"
    command = [sys.executable, "-c", "from multidb.cli import main; main()", "logs", "-f", "--json"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, cwd=folder.path, stdout=subprocess.PIPE, text=True, env=env) as following:
        assert following.stdout is not None
        assert "one" in following.stdout.readline()
        with log.open("a") as more:
            more.write("four\n")
        read = [json.loads(following.stdout.readline()) for _ in range(3)]
        following.send_signal(signal.SIGINT)
        assert (following.wait(60), following.stdout.read()) == (0, "")
    assert_documented("\n".join(map(json.dumps, read)))
    assert [(each["server"], each["line"]) for each in read] == [("redis", line) for line in ("two", "three", "four")]
    unknown = folder.run("logs", "postgres")
    assert unknown.code == 2
    assert "servers: redis" in unknown.err


def test_add_app_without_apply_keeps_comments(folder: Folder) -> None:
    text = "# mine\nversion: 1\nproject: shop\nruntime: embedded\napps:\n  ann: {} # first\n"
    folder.manifest(text)
    folder.ok("add-app", "beep-boop", "--stores", "postgres,redis", "--no-apply")
    after = (folder.path / "multidb.yaml").read_text()
    assert after.startswith(text)
    assert yaml.safe_load(after)["apps"]["beep_boop"] == {"stores": ["postgres", "redis"]}
    folder.ok("add-app", "beep_boop", "--no-apply")
    assert (folder.path / "multidb.yaml").read_text() == after


def test_add_app_that_cannot_be_leaves_the_manifest_alone(folder: Folder) -> None:
    text = "version: 1\nproject: shop\nruntime: embedded\napps:\n  ann: {}\n"
    folder.manifest(text)
    done = folder.run("add-app", "ann_user", "--collection", "Bad Name:0:cosine", "--no-apply")
    assert done.code == 2, done.err
    assert (folder.path / "multidb.yaml").read_text() == text


def test_a_manifest_file_elsewhere(folder: Folder) -> None:
    (folder.path / "other").mkdir()
    (folder.path / "other" / "x.yaml").write_text("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {}}\n")
    folder.ok("validate", "-f", "other/x.yaml")
    folder.ok("validate", env={"MULTIDB_FILE": "other/x.yaml"})


def test_a_pipe_that_closes_early_is_no_error(folder: Folder) -> None:
    command = f"{sys.executable} -c 'from multidb.cli import main; main()' schema | head -1"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(["bash", "-c", command], cwd=folder.path, capture_output=True, text=True, env=env, check=True)
    assert ran.stdout == "{\n"
    assert ran.stderr == ""


def test_a_fault_of_our_own_is_no_traceback_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    from multidb.cli.output import report_error
    from multidb.secrets import Secret

    Secret("very-secret-value")
    assert report_error(RuntimeError("boom very-secret-value"), ["plan"]) == 1
    said = capsys.readouterr().err
    assert "RuntimeError: boom ***" in said
    assert "Traceback" not in said


def test_manifests_are_not_executable(folder: Folder) -> None:
    folder.ok("init")
    assert stat.S_IMODE((folder.path / "multidb.yaml").stat().st_mode) == 0o644


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_ctrl_c_says_so_and_what_next(folder: Folder, form: tuple[str, ...]) -> None:
    """The server accepts connections and never answers: the command is stopped in the middle of its work."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        folder.manifest(
            "version: 1\nproject: shop\nruntime: external\napps: {ann: {stores: [redis]}}\n"
            f"external: {{redis: {{url: 'redis://127.0.0.1:{port}', password: {{env: ADMIN}}}}}}\n"
        )
        running = subprocess.Popen(
            [sys.executable, "-c", "from multidb.cli import main; main()", "plan", *form],
            cwd=folder.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "ADMIN": "secret-of-the-admin"},
        )
        silent.settimeout(30)
        connection, _ = silent.accept()
        with connection:
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    if form:
        assert json.loads(out)["error"]["code"] == "interrupted"
    else:
        assert "Interrupted. Run the command again" in err
    assert "Traceback" not in out + err


def test_a_table_in_a_pipe_has_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a/rather/long/path" * 20
    Output("status").table(("server", "address"), [("qdrant", path)])
    assert any(path in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("command", ["up", "status"])
def test_without_apps_the_next_step_is_add_app(folder: Folder, command: str) -> None:
    assert "Next: multidb add-app NAME" in folder.ok("init").out
    assert "multidb add-app NAME" in folder.ok(command).out


def test_a_manifest_in_a_parent_folder_is_pointed_out(folder: Folder) -> None:
    folder.ok("init")
    (folder.path / "apps" / "ann").mkdir(parents=True)
    inside = Folder(folder.path / "apps" / "ann", [])
    assert "-f ../../multidb.yaml" in inside.run("plan").err
    assert "multidb init" in inside.run("plan", "-f", "other.yaml").err


def test_the_hint_of_a_wrong_manifest_names_its_file(folder: Folder) -> None:
    (folder.path / "other one.yaml").write_text("version: 2\n")
    assert "then: multidb validate -f 'other one.yaml'" in folder.run("plan", "-f", "other one.yaml").err
    (folder.path / "multidb.yaml").write_text("")
    assert "then: multidb validate\n" in folder.run("plan").err


def test_two_apps_may_not_ask_for_one_db_number(folder: Folder) -> None:
    entry = "{stores: [redis], redis: {db: 3}}"
    folder.manifest(f"version: 1\nproject: shop\nruntime: embedded\napps:\n  ann: {entry}\n  bob: {entry}\n")
    done = folder.run("validate")
    assert done.code == 2
    assert "app ann asks for redis db 3, and so does bob" in done.err
    assert "app bob asks for redis db 3, and so does ann" in done.err


def test_apps_added_at_once_are_all_there(folder: Folder) -> None:
    folder.ok("init")
    names = [f"app{number}" for number in range(5)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: folder.ok("add-app", name, "--no-apply"), names))
    assert set(yaml.safe_load((folder.path / "multidb.yaml").read_text())["apps"]) == set(names)


def test_a_server_that_was_refused_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    changes = tuple(Change(Action.CREATE, Resource(name=f"thing{n}"), None) for n in range(50))
    locked = Locked("another run works here", where=".multidb/locks/apply-toy")
    show_report(Output("apply"), Report(Plan("shop", ()), (ServerReport("toy", "toy", (), (), changes, locked),)))
    assert capsys.readouterr().out == "toy: nothing was changed; .multidb/locks/apply-toy: another run works here\n"


def test_a_server_is_named_once_with_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    down = ServerDown("is not running", where="server toy", hint="start it: multidb up")
    show_plan(Output("plan"), Plan("shop", (ServerPlan("toy", "toy", error=down),)))
    assert capsys.readouterr().out.splitlines()[0] == "server toy: is not running"


def test_nothing_done_on_any_server_is_not_applied_in_part(folder: Folder) -> None:
    folder.manifest("version: 1\nproject: shop\nruntime: embedded\napps: {ann: {stores: [postgres, redis]}}\n")
    done = folder.run("apply", "--yes")
    assert done.code == 4
    assert "not tried" not in done.out + done.err


def test_a_server_that_hangs_has_its_port_from_us() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server("redis", "redis", Endpoint(host="127.0.0.1", port=listening.getsockname()[1]))
        hanging = ServerStatus("redis", "redis", ServerState.FAILED, server, "runs and does not answer", os.getpid())
        assert list(taken_ports([hanging])) == []
        assert [found.level for found in taken_ports([replace(hanging, pid=None)])] == [Level.ERROR]


def test_an_api_key_that_no_header_can_carry_is_no_fault_of_ours(folder: Folder) -> None:
    folder.manifest(
        "version: 1\nproject: shop\nruntime: external\napps: {ann: {stores: [qdrant]}}\n"
        "external: {qdrant: {url: 'http://127.0.0.1:1', password: {env: ADMIN}}}\n"
    )
    done = folder.run("plan", env={"ADMIN": "schlüssel-of-the-admin"})
    assert done.code == 4
    assert "no HTTP header can carry" in done.out
    assert "schlüssel" not in done.out + done.err


def test_doctor_tells_a_server_that_answers_and_lets_nobody_in(folder: Folder) -> None:
    """It accepts connections, which is all that its state says; what it answers is not Redis."""

    def answer(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,), daemon=True)
        thread.start()
        url = f"redis://127.0.0.1:{listening.getsockname()[1]}"
        folder.manifest(
            "version: 1\nproject: shop\nruntime: external\napps: {ann: {stores: [redis]}}\n"
            f"external: {{redis: {{url: '{url}', password: {{env: ADMIN}}}}}}\n"
        )
        done = folder.run("doctor", "--json", env={"ADMIN": "secret-of-the-admin"})
        listening.shutdown(socket.SHUT_RDWR)
    levels = [finding["level"] for finding in done.json()["findings"] if finding["subject"] == "redis"]
    assert (done.code, levels) == (1, ["ok", "error"])


def test_progress_without_an_end_shows_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    output, screen = Output("up"), io.StringIO()
    output.err = Console(file=screen, force_terminal=True, width=100)
    with output.working():
        output.progress("redis", "starting", 2)
        output.progress("postgres", "applying", 3, 7)
    assert "3/7" in screen.getvalue()
    assert "?" not in re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", screen.getvalue())


def test_names_between_colons_are_no_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """A statement that is shown is to be pasted: ``:watch:`` in it is the name of a project."""
    Output("plan").say("ACL SETUSER ann_user &__multidb__:watch:ann:1")
    Output("plan").note(":key:")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("ACL SETUSER ann_user &__multidb__:watch:ann:1\n", ":key:\n")
