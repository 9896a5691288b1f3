"""The client imports no more than it needs: nothing of the command line, and no driver before its store is used."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

CLIENT = REPOSITORY / "multidb" / "client"
DRIVERS = {"psycopg", "psycopg_binary", "psycopg_pool", "neo4j", "qdrant_client", "redis", "hiredis"}
# Distributions whose modules have another name, and what drivers bring along themselves.
MODULES = {"pyyaml": "yaml", "qdrant-client": "qdrant_client"}
BROUGHT_ALONG = {"httpx", "certifi", "urllib3", "pydantic"}  # by Qdrant's client


def cli_modules() -> set[str]:
    """The modules of what the command line depends on."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[><=; ]", requirement)[0] for requirement in project["dependencies"]]
    return {MODULES.get(name, name.replace("-", "_")) for name in names} | {"fastapi", "uvicorn"}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_loads_nothing_but_the_standard_library() -> None:
    loaded = python("import sys, multidb.client; print(*sys.modules)").split()
    ours = {name for name in loaded if name.partition(".")[0] == "multidb"}
    assert {name.partition(".")[0] for name in loaded} & (cli_modules() | DRIVERS) == set()
    assert all(name == "multidb" or name.startswith("multidb.client") for name in ours), ours


def test_importing_it_takes_a_tenth_of_a_second() -> None:
    """Processor time beside that of a bare interpreter; the best of three, since machines are busy."""
    code = "import resource; {}; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
    bare = min(float(python(code.format("pass"))) for _ in range(3))
    with_it = min(float(python(code.format("import multidb.client"))) for _ in range(3))
    assert with_it - bare < 0.1


@pytest.mark.parametrize(
    ("store", "needs"),
    [
        ("redis", {"redis", "hiredis"}),
        ("postgres", {"psycopg", "psycopg_binary", "psycopg_pool"}),
        ("neo4j", {"neo4j"}),
        ("qdrant", {"qdrant_client", *BROUGHT_ALONG}),
    ],
)
def test_a_store_needs_its_own_driver_and_nothing_of_the_command_line(store: str, needs: set[str]) -> None:
    refused = sorted((cli_modules() | DRIVERS) - needs)
    variables = {
        "APP_NAME": "ann",
        "APP_TENANT_ID": "ann",
        "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": "1",
        "NEO4J_URI": "bolt://127.0.0.1:1",
        "NEO4J_DATABASE": "ann",
        "QDRANT_PATH": ":memory:",
        "QDRANT_COLLECTION_PREFIX": "ann_",
    }
    python(
        f"import sys; sys.modules.update(dict.fromkeys({refused!r}))\n"
        f"from multidb.client import connect; connect(variables={variables!r}).{store}\n"
        "assert not [n for n in sys.modules if n.startswith('multidb.') and not n.startswith('multidb.client')]"
    )


@pytest.mark.parametrize(
    ("attribute", "package"),
    [("redis", "redis"), ("postgres", "psycopg_pool"), ("qdrant_async", "qdrant_client"), ("neo4j_async", "neo4j")],
)
def test_a_missing_driver_is_named_with_the_command_that_brings_it(attribute: str, package: str) -> None:
    shown = python(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from multidb.client import DriverMissing, connect\n"
        "try: connect(variables={'APP_NAME': 'a'})." + attribute + "\n"
        "except DriverMissing as error: print(error)"
    )
    assert f"the package {package} is not installed" in shown
    assert "pip install 'multidb-cli[client]'" in shown


def test_no_file_of_it_imports_the_rest_of_multidb() -> None:
    for file in CLIENT.rglob("*.py"):
        for line in file.read_text().splitlines():
            if re.match(r"\s*(from|import) multidb", line):
                assert re.match(r"\s*from multidb\.client", line), f"{Path(file).name}: {line}"
