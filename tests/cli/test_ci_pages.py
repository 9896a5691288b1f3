"""The workflows of docs/ci/ and action.yml: as their official schemas have it, and step by step as they stand there.

What a runner does is done here as far as the workflows need it: expressions, `if`, the checkout, GITHUB_OUTPUT. What
takes the network is not: installing multidb, and `gh`, in whose place stands a program that writes down what it is
asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest
import yaml

from tests.support.command import REPOSITORY
from tests.support.openbao import ROOT_TOKEN, Bao
from tests.support.openbao import running as openbao_server

PAGES = REPOSITORY / "docs" / "ci"
FENCE = re.compile(r"^<!-- (workflow|gitlab): (.+?) -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCHEMAS = {"workflow": "github-workflows", "gitlab": "gitlab-ci", "action": "github-actions"}
ATTRIBUTES = re.findall(
    r"^<!-- file: .gitattributes -->\n```text\n(.*?)^```$",
    (PAGES / "github-actions.md").read_text(),
    re.MULTILINE | re.DOTALL,
)[0]
ACTION = (REPOSITORY / "action.yml").read_text()
USED = "./.github/actions/multidb"  # where the page has the reader put it


def fences() -> dict[str, tuple[str, str]]:
    """By the name of the file that it is to be, what a YAML of the pages is, and its text."""
    return {
        name: (kind, text)
        for page in sorted(PAGES.glob("*.md"))
        for kind, name, text in FENCE.findall(page.read_text())
    } | {"action.yml": ("action", ACTION)}


class _Plain(yaml.SafeLoader):
    """YAML as GitHub reads it: `on` is a word."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def parsed(text: str) -> Any:
    return yaml.load(text, _Plain)


@cache
def schema(name: str) -> Any:
    path = files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{SCHEMAS[name]}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    return jsonschema.validators.validator_for(document)(document)


def wrong_with(kind: str, text: str) -> str:
    error = jsonschema.exceptions.best_match(schema(kind).iter_errors(parsed(text)))
    return "" if error is None else f"{error.json_path}: {error.message[:500]}"


@pytest.mark.parametrize("name", fences())
def test_it_is_as_its_schema_says(name: str) -> None:
    kind, text = fences()[name]
    assert wrong_with(kind, text) == ""
    broken = {
        "workflow": ("runs-on:", "run-on:"),
        "gitlab": ("script:", "scripts:"),
        "action": ("using: composite", "using: compose"),
    }
    old, new = broken[kind]
    assert wrong_with(kind, text.replace(old, new)), "the positive control"


def test_what_a_workflow_gives_the_action_are_its_inputs() -> None:
    inputs = parsed(ACTION)["inputs"]
    uses = [
        step
        for kind, text in fences().values()
        if kind == "workflow"
        for job in parsed(text)["jobs"].values()
        for step in job["steps"]
        if step.get("uses") == USED
    ]
    assert len(uses) == 11
    assert [name for step in uses for name in step["with"] if name not in inputs] == []


def test_no_expression_stands_in_a_shell() -> None:
    """What GitHub puts there would be a part of the script, whatever it is called: it belongs into a variable."""
    scripts = re.findall(r"run: (?:\|\n(?:[ ]{8,}.*\n)+|.*)", ACTION + "".join(text for _, text in fences().values()))
    assert len(scripts) > 10
    assert [script for script in scripts if "${{" in script] == []


# --- run, in order, in empty folders ---------------------------------------------------------------------------------


@dataclass
class Runner:
    """As much of a runner as the workflows need: a machine with nothing but the checkout, and what is given to it."""

    folder: Path
    given: dict[str, str]
    env: dict[str, str] = field(default_factory=dict)
    said: str = ""

    def job(self, text: str, name: str) -> list[int]:
        """Runs the steps of a job; their exit codes. What comes after a step that failed is run where it says so."""
        workflow = parsed(text)
        job = workflow["jobs"][name]
        shared = self.values({**workflow.get("env", {}), **job.get("env", {})})
        place = job.get("defaults", workflow.get("defaults", {})).get("run", {}).get("working-directory")
        codes: list[int] = []
        for step in job["steps"]:
            if step.get("uses") == USED:
                action = parsed((self.folder / USED / "action.yml").read_text())
                given = {key: str(value["default"]) for key, value in action["inputs"].items() if "default" in value}
                given |= self.values(step["with"]) | {"version": "installed"}
                inside = Runner(
                    self.folder, {f"inputs.{key}": value for key, value in given.items()}, self.env | shared
                )
                codes.append(inside.steps(action["runs"]["steps"]))
                self.said += inside.said
            elif "run" in step:
                codes.append(self.shell(step, shared, place))
            else:
                assert re.match("actions/checkout@|github/codeql-action/upload-sarif@", step["uses"])
        return codes

    def steps(self, steps: list[dict[str, Any]]) -> int:
        failed = 0
        for step in steps:
            condition = step.get("if", "")
            if self.holds(condition) and (not failed or "always()" in condition):
                failed = self.shell(step, {}, None) or failed
        return failed

    def shell(self, step: Mapping[str, Any], shared: Mapping[str, str], place: str | None) -> int:
        where = self.value(step.get("working-directory") or place or ".")
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder / where,
            env={**self.env, **shared, **self.values(step.get("env", {}))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
        self.said += done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode

    def values(self, texts: Mapping[str, Any]) -> dict[str, str]:
        return {name: self.value(text) for name, text in texts.items()}

    def value(self, text: Any) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: self.given[found[1]], str(text))

    def holds(self, condition: str) -> bool:
        for part in filter(None, condition.split(" && ")):
            if part != "always()":
                name, relation, text = part.partition(" != ")
                assert relation
                if self.given[name] == text.strip("'"):
                    return False
        return True


MANIFEST = """\
version: 1
project: ci
runtime: external
external:
  postgres: {{url: "postgresql://postgres@{address}/postgres", password: {{env: PG_ADMIN_PASSWORD}}}}
apps:
  web: {{stores: [postgres]}}
"""
GH = """\
#!/bin/sh
echo "$MARK $*" >> {log}
case "$*" in *--jq*) cat {known} ;; *PATCH*|*POST*) echo 77 > {known} ;; esac
"""


@dataclass
class Site:
    """A repository, the machine that the project is on, and what others are given of it."""

    root: Path
    machine: Path
    env: dict[str, str]
    secrets: str = ""

    def git(self, *arguments: str, folder: Path | None = None) -> None:
        subprocess.run(["git", *arguments], cwd=folder or self.machine, check=True, capture_output=True, env=self.env)

    def checkout(self, name: str) -> Path:
        """A folder with what is committed, and nothing else: another machine."""
        self.git("clone", "--quiet", str(self.root / "origin.git"), str(self.root / name), folder=self.root)
        return self.root / name

    def runner(self, folder: Path, **given: str) -> Runner:
        numbers = {
            "github.event.pull_request.number": "42",
            "github.token": "t",
            "vars.MULTIDB_FOLDER": str(self.machine),
        }
        secrets = {"secrets.MULTIDB_SECRETS": self.secrets, "secrets.PG_ADMIN_PASSWORD": self.env["PG_ADMIN_PASSWORD"]}
        env = {name: value for name, value in self.env.items() if name != "PG_ADMIN_PASSWORD"}
        github = {"GITHUB_OUTPUT": str(folder / ".output"), "GITHUB_REPOSITORY": "a/b", "GITHUB_ACTOR": "octocat"}
        return Runner(folder, {**numbers, **secrets, **given}, env | github)

    def add(self, folder: Path, line: str) -> None:
        with (folder / "multidb.yaml").open("a") as manifest:
            manifest.write(line)
        self.git("commit", "-qam", "Add an app", folder=folder)


@pytest.fixture(scope="module")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao_server(tmp_path_factory.mktemp("bao")) as server:
        server.ask("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        yield server


def put_action(folder: Path) -> None:
    """The action, as the page has the reader put it there."""
    (folder / USED).mkdir(parents=True)
    (folder / USED / "action.yml").write_text(ACTION)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ci-") as name:
        root = Path(name)
        root.chmod(0o755)  # as root, Postgres runs as another user, who has to get in
        servers, programs = root / "servers", root / "programs"
        programs.mkdir()
        gh = programs / "gh"
        gh.write_text(GH.format(log=root / "asked", known=root / "known"))
        gh.chmod(0o755)
        (root / "known").touch()
        env = {
            **{name: os.environ[name] for name in ("LANG", "TMPDIR", "MULTIDB_TEST_QDRANT") if name in os.environ},
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "HOME": name,
            "CI": "true",
            "GIT_CONFIG_COUNT": "3",
            "GIT_CONFIG_KEY_0": "user.name",
            "GIT_CONFIG_VALUE_0": "ann",
            "GIT_CONFIG_KEY_1": "user.email",
            "GIT_CONFIG_VALUE_1": "ann@example.org",
            "GIT_CONFIG_KEY_2": "init.defaultBranch",
            "GIT_CONFIG_VALUE_2": "main",
        }
        servers.mkdir()
        (servers / "multidb.yaml").write_text(
            "version: 1\nproject: other\nruntime: embedded\napps: {nobody: {stores: [postgres]}}\n"
        )

        def multidb(folder: Path, *arguments: str) -> str:
            command = [Path(sys.executable).parent / "multidb", *arguments]
            return subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True).stdout

        try:
            (status,) = json.loads(multidb(servers, "up", "--json"))["servers"]
            kept = json.loads((servers / ".multidb/secrets.json").read_text())["secrets"]
            env["PG_ADMIN_PASSWORD"] = kept["@postgres/postgres/admin"]
            machine = root / "machine"
            here = Site(root, machine, env)
            here.git("init", "-q", "--bare", str(root / "origin.git"), folder=root)
            here.git("clone", "-q", str(root / "origin.git"), str(machine), folder=root)
            (machine / "multidb.yaml").write_text(MANIFEST.format(address=status["address"]))
            put_action(machine)
            (machine / ".gitignore").write_text(".multidb/\napps/\n*.xml\npreview.txt\n")
            (machine / ".gitattributes").write_text(ATTRIBUTES)
            (machine / "mask.sql").write_text("CREATE TABLE masked ();\n")
            here.git("add", "-A")
            here.git("commit", "-qm", "Begin")
            here.git("push", "-q", "origin", "HEAD:main")
            multidb(machine, "apply", "--yes")
            here.secrets = (machine / ".multidb/secrets.json").read_text()
            yield here
        finally:
            multidb(servers, "down")


@pytest.mark.server
def test_a_pull_request_gets_one_comment_and_main_is_applied(site: Site) -> None:
    _, text = fences()[".github/workflows/databases.yml"]
    for machine in ("first", "second"):
        folder = site.checkout(machine)
        site.add(folder, "  shop: {stores: [postgres]}\n")
        runner = site.runner(folder)
        assert runner.job(text, "plan") == [0, 0], runner.said
        assert "shop" in (folder / "plan.md").read_text()
        assert not (folder / ".multidb/secrets.json").exists(), "nothing of it stays there"
        assert site.env["PG_ADMIN_PASSWORD"] not in runner.said + (folder / "plan.md").read_text()
    mark = "<!-- multidb plan -->"
    asked = (site.root / "asked").read_text().splitlines()
    assert [line.startswith(mark) for line in asked] == [True, False, True, False]
    assert "--method POST repos/a/b/issues/42/comments -F body=@plan.md" in asked[1]
    assert "--method PATCH repos/a/b/issues/comments/77 -F body=@plan.md" in asked[3]
    site.git("push", "-q", "origin", "HEAD:main", folder=folder)
    runner = site.runner(site.checkout("runner"))
    assert runner.job(text, "apply") == [0, 0, 0, 0], runner.said
    history = subprocess.run(
        ["multidb", "history", "--json"], cwd=site.machine, env=site.env, capture_output=True, check=True
    )
    run = json.loads(history.stdout)["runs"][0]
    assert (run["command"], run["apps"], run["actor"]) == ("apply", ["shop"], "octocat")
    site.secrets = (site.machine / ".multidb/secrets.json").read_text()


@pytest.mark.server
def test_a_nightly_audit_leaves_its_findings_also_when_it_fails(site: Site) -> None:
    _, text = fences()[".github/workflows/database-audit.yml"]
    folder = site.checkout("audit")
    runner = site.runner(folder)
    assert runner.job(text, "audit")[0] in (0, 1), runner.said
    assert json.loads((folder / "audit.sarif").read_text())["version"] == "2.1.0"
    assert not (folder / ".multidb/secrets.json").exists()
    site.secrets, kept = "{}", site.secrets  # a secret that was put in wrong
    assert site.runner(wrong := site.checkout("wrong")).job(text, "audit") == [4]
    assert json.loads((wrong / "audit.sarif").read_text())["runs"][0]["results"]
    site.secrets = kept


def anywhere(site: Site, openbao: Bao, app: str) -> Site:
    """Another project on the same server, called as its only app, with its state and its secrets where every job
    reaches them."""
    there = Site(site.root / f"of-{app}", site.root / f"of-{app}" / "first", {**site.env, "VAULT_TOKEN": ROOT_TOKEN})
    there.root.mkdir()
    there.git("init", "-q", "--bare", str(there.root / "origin.git"), folder=there.root)
    first = there.checkout("first")
    manifest = (site.machine / "multidb.yaml").read_text().partition("apps:")[0]
    secrets = f"secrets: {{vault: {{url: '{openbao.url}', mount: kv, path: {app}}}}}\n"
    (first / "multidb.yaml").write_text(
        f"{manifest.replace('project: ci', f'project: {app}')}state: postgres\n{secrets}"
        f"apps:\n  {app}: {{stores: [postgres]}}\n"
    )
    put_action(first)
    for name in (".gitattributes", "mask.sql"):
        shutil.copy(site.machine / name, first / name)
    (first / ".gitignore").write_text(".multidb/\napps/\n*.xml\nplan.md\npreview.*\n")
    there.git("add", "-A")
    there.git("commit", "-qm", "Begin")
    there.git("push", "-q", "origin", "HEAD:main")
    return there


@pytest.mark.server
def test_with_a_shared_state_every_job_is_a_machine_of_its_own(site: Site, openbao: Bao) -> None:
    """From empty folders: what one job has made, the next knows, and nothing but the checkout is handed on."""
    _, text = fences()[".github/workflows/databases-anywhere.yml"]
    there = anywhere(site, openbao, "far")
    env = there.env

    def job(name: str, folder: Path, actor: str) -> list[int]:
        runner = there.runner(folder, **{"secrets.VAULT_TOKEN": env["VAULT_TOKEN"]})
        runner.env["GITHUB_ACTOR"] = actor
        codes = runner.job(text, name)
        assert env["PG_ADMIN_PASSWORD"] not in runner.said, "no secret in a log"
        assert codes == [0] * len(codes), runner.said
        assert not (folder / ".multidb/secrets.json").exists()
        return codes

    assert job("apply", there.checkout("one"), "ann") == [0, 0, 0]
    for machine, app in (("two", "near"), ("three", "here")):
        folder = there.checkout(machine)
        there.add(folder, f"  {app}: {{stores: [postgres]}}\n")
        job("plan", folder, "bob")
        plan = (folder / "plan.md").read_text()
        assert app in plan
        assert "create" in plan
        there.git("push", "-q", "origin", "HEAD:main", folder=folder)
        job("apply", there.checkout(f"{machine}-merged"), "bob")
    last = there.checkout("last")
    command = ["multidb", "history", "--json"]
    done = subprocess.run(command, cwd=last, env=env, capture_output=True, text=True, check=True)
    runs = json.loads(done.stdout)["runs"]
    assert [(run["command"], run["apps"], run["actor"]) for run in runs] == [
        ("apply", ["here"], "bob"),
        ("apply", ["near"], "bob"),
        ("apply", ["far"], "ann"),
    ]
    by_hand = (last / "multidb.yaml").read_text().partition("@")[2].partition("/")[0]
    admin = f"postgresql://postgres:{env['PG_ADMIN_PASSWORD']}@{by_hand}/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("ALTER ROLE far_user CONNECTION LIMIT 3")
    planned = subprocess.run(
        ["multidb", "plan", "--json"], cwd=last, env=env, capture_output=True, text=True, check=True
    )
    assert {change["cause"] for change in json.loads(planned.stdout)["changes"]} == {"server"}


@pytest.mark.server
def test_a_nightly_audit_needs_the_checkout_and_the_shared_state_alone(site: Site, openbao: Bao) -> None:
    """Two nights on two machines; in the second, somebody has opened a wall by hand."""
    _, text = fences()[".github/workflows/database-audit-anywhere.yml"]
    there = anywhere(site, openbao, "night")
    subprocess.run(["multidb", "apply", "--yes"], cwd=there.machine, env=there.env, check=True, capture_output=True)

    def audited(name: str) -> tuple[list[int], list[str]]:
        folder = there.checkout(name)
        runner = there.runner(folder, **{"secrets.VAULT_TOKEN": there.env["VAULT_TOKEN"]})
        codes = runner.job(text, "audit")
        assert there.env["PG_ADMIN_PASSWORD"] not in runner.said
        assert not (folder / ".multidb/secrets.json").exists()
        (run,) = json.loads((folder / "audit.sarif").read_text())["runs"]
        return codes, [result["ruleId"] for result in run["results"] if result["level"] == "error"]

    first = audited("first-night")
    by_hand = (there.machine / "multidb.yaml").read_text().partition("@")[2].partition("/")[0]
    admin = f"postgresql://postgres:{there.env['PG_ADMIN_PASSWORD']}@{by_hand}/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("GRANT CONNECT ON DATABASE night TO PUBLIC")
        second = audited("second-night")
        connection.execute("REVOKE CONNECT ON DATABASE night FROM PUBLIC")
    assert first == ([0], [])
    assert second[0] == [1]
    assert second[1]


@pytest.mark.server
@pytest.mark.rare
def test_a_preview_comes_and_goes(site: Site) -> None:
    _, text = fences()[".github/workflows/preview.yml"]
    folder = site.checkout("preview")
    for _ in range(2):  # opened, and pushed to
        runner = site.runner(folder)
        assert runner.job(text, "clone") == [0, 0, 0], runner.said
    assert "DATABASE_URL" in (site.machine / "apps/web_pr42/.env").read_text()
    assert "web_pr42" in (site.machine / "multidb.yaml").read_text()
    site.add(other := site.checkout("other"), "  mail: {stores: [postgres]}\n")
    site.git("push", "-q", "origin", "HEAD:main", folder=other)
    assert site.runner(folder).job(fences()[".github/workflows/databases.yml"][1], "apply") == [0, 0, 0, 0]
    assert "web_pr42" in (site.machine / "multidb.yaml").read_text(), "the entry of a clone is kept"
    assert site.runner(folder).job(text, "expire") == [0]
    runner = site.runner(folder)
    assert runner.job(text, "end") == [0, 0], runner.said
    assert "web_pr42" not in (site.machine / "multidb.yaml").read_text()


@pytest.mark.server
@pytest.mark.rare
def test_a_preview_comes_and_goes_from_machines_that_have_nothing(site: Site, openbao: Bao) -> None:
    _, text = fences()[".github/workflows/preview-anywhere.yml"]
    text = text.replace("web", "trip")  # the app that is cloned: `web` is another project's on this server
    there, clone = anywhere(site, openbao, "trip"), "trip_pr42"
    given = {"secrets.VAULT_TOKEN": ROOT_TOKEN, "env.CLONE": clone}
    subprocess.run(["multidb", "apply", "--yes"], cwd=there.machine, env=there.env, check=True, capture_output=True)
    for machine in ("opened", "pushed-to"):
        folder = there.checkout(machine)
        runner = there.runner(folder, **given)
        assert runner.job(text, "clone") == [0] * 4, runner.said
        assert f"{clone}" in (folder / "preview.yaml").read_text()
    assert clone in (there.checkout("committed") / "multidb.yaml").read_text()
    for machine, job, steps in (("night", "expire", 2), ("closed", "end", 3)):
        runner = there.runner(there.checkout(machine), **given)
        assert runner.job(text, job) == [0] * steps, runner.said
    last = there.checkout("after")
    assert clone not in (last / "multidb.yaml").read_text()
    done = subprocess.run(
        ["multidb", "history", "--json"], cwd=last, env=there.env, check=True, capture_output=True, text=True
    )
    commands = [run["command"] for run in json.loads(done.stdout)["runs"]]
    assert commands == ["purge", "remove-app", "clone", "apply"]
    subprocess.run(["multidb", "plan", "--check"], cwd=last, env=there.env, check=True, capture_output=True)


@pytest.mark.server
@pytest.mark.rare
def test_gitlab_does_the_same(site: Site) -> None:
    jobs = parsed(fences()[".gitlab-ci.yml"][1])
    (site.root / "given").write_text((site.machine / ".multidb/secrets.json").read_text())
    given = {
        "MULTIDB_SECRETS": str(site.root / "given"),
        "MULTIDB_FOLDER": str(site.machine),
        "CI_DEFAULT_BRANCH": "main",
    }
    for name in ("plan", "audit", "health", "apply"):
        folder = site.checkout(f"gitlab-{name}")
        job = {**jobs.get(jobs[name].get("extends", ""), {}), **jobs[name]}
        runner = Runner(folder, {}, {**site.env, **given})
        lines = [*job.get("before_script", []), *job["script"]]
        code = runner.shell({"run": "\n".join(lines)}, {}, None)
        assert code in ((0, 1) if name == "audit" else (0,)), f"{name}: {runner.said}"
        assert runner.shell({"run": "\n".join(job.get("after_script", []))}, {}, None) == 0
        assert not (folder / ".multidb/secrets.json").exists()
        for report in ("plan.md", "audit.xml", "health.xml"):
            assert (folder / report).exists() == report.startswith(name)


@pytest.mark.server
@pytest.mark.rare
def test_gitlab_does_the_same_from_machines_that_have_nothing(site: Site, openbao: Bao) -> None:
    jobs = parsed(fences()[".gitlab-ci.anywhere.yml"][1])
    there = anywhere(site, openbao, "lab")

    def job(name: str, machine: str, **given: str) -> Path:
        folder = there.checkout(machine)
        runner = Runner(folder, {}, {**there.env, **given})
        lines = [*jobs[".multidb"]["before_script"], *jobs[name]["script"]]
        assert runner.shell({"run": "\n".join(lines)}, {}, None) == 0, f"{name}: {runner.said}"
        assert there.env["PG_ADMIN_PASSWORD"] not in runner.said
        assert not (folder / ".multidb/secrets.json").exists()
        return folder

    job("apply", "one", GITLAB_CI="true", GITLAB_USER_LOGIN="ann")
    there.add(there.checkout("work"), "  side: {stores: [postgres]}\n")
    there.git("push", "-q", "origin", "HEAD:main", folder=there.root / "work")
    assert "side" in (job("plan", "two") / "plan.md").read_text()
    job("apply", "three", GITLAB_CI="true", GITLAB_USER_LOGIN="bob")
    assert "no changes" in (job("plan", "four") / "plan.md").read_text().lower()
    assert 'failures="0"' in (job("audit", "five") / "audit.xml").read_text()
    assert (job("health", "six") / "health.xml").read_text()
    done = subprocess.run(
        ["multidb", "history", "--json"],
        cwd=there.root / "six",
        env=there.env,
        check=True,
        capture_output=True,
        text=True,
    )
    runs = [(run["command"], run["apps"], run["actor"]) for run in json.loads(done.stdout)["runs"]]
    assert runs == [("apply", ["side"], "bob"), ("apply", ["lab"], "ann")]
