"""The pages under docs/using-from: their programs, as they stand there, with an app's variables on real servers."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY, Folder, program_output, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(600)]

MANIFEST = """\
version: 1
project: others
runtime: embedded
apps:
  ann: {stores: [postgres, redis]}
  bob: {stores: [postgres, redis], redis: {isolation: prefix}}
"""
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>com.example</groupId><artifactId>app</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.postgresql</groupId><artifactId>postgresql</artifactId><version>42.7.4</version></dependency>
    <dependency><groupId>redis.clients</groupId><artifactId>jedis</artifactId><version>5.2.0</version></dependency>
  </dependencies>
</project>
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("others-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


def block(page: str, language: str, number: int = 0) -> str:
    text = (REPOSITORY / "docs" / "using-from" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")


@pytest.mark.parametrize("app", ["ann", "bob"])
def test_go(folder: Folder, tmp_path: Path, app: str) -> None:
    need("go")
    (tmp_path / "go.mod").write_text("module example.com/app\n\ngo 1.22\n")
    (tmp_path / "main.go").write_text(block("go", "go"))
    program_output(["go", "mod", "tidy"], tmp_path)
    assert program_output(["go", "run", "."], tmp_path, folder.variables(app)) == f"{app}_user hello\n"


@pytest.mark.parametrize("app", ["ann", "bob"])
def test_java(folder: Folder, tmp_path: Path, app: str) -> None:
    need("java", "javac", "mvn")
    (tmp_path / "pom.xml").write_text(POM)
    (tmp_path / "Main.java").write_text(block("java", "java"))
    program_output(["mvn", "-q", "-B", "dependency:build-classpath", "-Dmdep.outputFile=path"], tmp_path)
    path = f"{(tmp_path / 'path').read_text().strip()}:{tmp_path}"
    program_output(["javac", "-cp", path, "Main.java"], tmp_path)
    assert (
        program_output(["java", "-cp", path, "Main"], tmp_path, folder.variables(app)).splitlines()[-1]
        == f"{app}_user hello"
    )


@pytest.mark.parametrize(("number", "said"), [(0, ["ann_owner", "PONG"]), (1, ["1", "OK"])])
def test_a_shell(folder: Folder, number: int, said: list[str]) -> None:
    need("psql", "redis-cli")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "set -e\n" + block("shell", "sh", number)
    assert program_output(["bash", "-c", script], folder.path, {"PATH": path}).split() == said


def test_typescript(folder: Folder, tmp_path: Path) -> None:
    need("npm", "node")
    for name in ("multidb.ts", "package.json"):
        shutil.copy(REPOSITORY / "clients" / "typescript" / name, tmp_path)
    (tmp_path / "main.ts").write_text(block("typescript", "ts"))
    program_output(["npm", "install", "--silent", "--no-audit"], tmp_path)
    options = ["--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext", "--skipLibCheck"]
    program_output(["npx", "tsc", *options, "--strict", "multidb.ts", "main.ts"], tmp_path)
    env = {"MULTIDB_ENV_FILE": str(folder.path / "apps" / "ann" / ".env")}
    assert program_output(["node", "main.js"], tmp_path, env) == "ann_user hello\nhealthy\n"
