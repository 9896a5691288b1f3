"""Libraries of apps in an environment of their own, with the credentials as they are issued, on real servers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Folder, program_output, project_folder

pytestmark = [pytest.mark.server, pytest.mark.rare, pytest.mark.timeout(600)]

PACKAGES = ("alembic>=1.13", "sqlalchemy[asyncio]>=2", "asyncpg", "psycopg[binary]", "arq", "neomodel>=5.4")
MANIFEST = """\
version: 1
project: frameworks
runtime: embedded
apps:
  ann: {stores: [postgres, redis, neo4j]}
  bob: {stores: [postgres], postgres: {roles: split}}
"""

ALEMBIC_INI = "[alembic]\nscript_location = migrations\n"
ALEMBIC_ENV = """\
import asyncio, os
from alembic import context
from sqlalchemy import create_engine, pool
from sqlalchemy.ext.asyncio import create_async_engine

def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def run_async():
    async with create_async_engine(os.environ["DATABASE_URL_ASYNC"], poolclass=pool.NullPool).connect() as connection:
        await connection.run_sync(run)
        await connection.commit()

if os.environ.get("ASYNCHRONOUS"):
    asyncio.run(run_async())
else:
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    with create_engine(url).connect() as connection:
        run(connection)
        connection.commit()
"""
REVISION = """\
import sqlalchemy as sa
from alembic import op
revision, down_revision = "1", None

def upgrade():
    op.create_table("people", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))

def downgrade():
    op.drop_table("people")
"""
ORM = """\
import asyncio, os
from sqlalchemy import create_engine, func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

class Base(DeclarativeBase): ...
class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

with Session(create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))) as session:
    session.add(Person(name="ann"))
    session.commit()

async def count():
    engine = create_async_engine(os.environ["DATABASE_URL_ASYNC"])
    async with AsyncSession(engine) as session:
        print(await session.scalar(select(func.count()).select_from(Person)))
    await engine.dispose()

asyncio.run(count())
"""
ARQ = """\
import asyncio, os
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

async def add(context, a, b):
    return a + b

async def main():
    settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    job = await (await create_pool(settings)).enqueue_job("add", 1, 2)
    await Worker([add], redis_settings=settings, burst=True, handle_signals=False).main()
    print(await job.result(timeout=30))

asyncio.run(main())
"""
NEOMODEL = """\
import os
from urllib.parse import urlsplit
from neomodel import IntegerProperty, StringProperty, StructuredNode, config, db
server = urlsplit(os.environ["NEO4J_URI"])
config.DATABASE_URL = f"{server.scheme}://{os.environ['NEO4J_USER']}:{os.environ['NEO4J_PASSWORD']}@{server.netloc}"

class Person(StructuredNode):
    name = StringProperty(unique_index=True)
    age = IntegerProperty()

db.install_all_labels()
Person(name="ann", age=7).save()
print(Person.nodes.get(name="ann").age)
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    with project_folder("frameworks-", MANIFEST) as made:
        made.ok("up")
        made.ok("apply", "--yes")
        yield made


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the libraries and without multidb."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    there = tmp_path_factory.mktemp("libraries") / "venv"
    for command in (
        [uv, "venv", "--quiet", str(there)],
        [uv, "pip", "install", "--quiet", "--python", there, *PACKAGES],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    return there / "bin" / "python"


@pytest.mark.parametrize("asynchronous", ["", "1"])
@pytest.mark.parametrize("app", ["ann", "bob"])
def test_alembic_migrates_and_sqlalchemy_uses(
    folder: Folder, python: Path, tmp_path: Path, app: str, asynchronous: str
) -> None:
    (tmp_path / "migrations/versions").mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text(ALEMBIC_INI)
    (tmp_path / "migrations/env.py").write_text(ALEMBIC_ENV)
    (tmp_path / "migrations/versions/first.py").write_text(REVISION)
    (tmp_path / "use.py").write_text(ORM)
    multidb = Path(sys.executable).parent / "multidb"
    migrating: list[str | Path] = [multidb, "connect", app, "--file", folder.path / "multidb.yaml", "--migrate", "--"]
    alembic: list[str | Path] = [*migrating, python, "-m", "alembic"]
    program_output([*alembic, "upgrade", "head"], tmp_path, {"ASYNCHRONOUS": asynchronous})
    assert program_output([python, "use.py"], tmp_path, folder.variables(app)).splitlines() == ["1"]
    program_output([*alembic, "downgrade", "base"], tmp_path, {"ASYNCHRONOUS": asynchronous})
    assert "No changes" in folder.ok("plan", "--check").out


def test_arq_works(folder: Folder, python: Path, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(ARQ)
    assert program_output([python, "work.py"], tmp_path, folder.variables("ann")).splitlines()[-1] == "3"


def test_neomodel_works(folder: Folder, python: Path, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(NEOMODEL)
    assert program_output([python, "work.py"], tmp_path, folder.variables("ann")).splitlines()[-1] == "7"
