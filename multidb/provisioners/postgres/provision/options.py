"""What the manifest may say about Postgres: an app's database and logins, and the server. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from multidb.document import APP_ID
from multidb.model.options import ContainerOptions, Section
from multidb.provisioners.postgres.provision.applications import APPLICATIONS, ApplicationName

__all__ = [
    "EXTENSION_SCHEMA",
    "NAME_LIMIT",
    "STORE",
    "AppOptions",
    "Duration",
    "Pool",
    "Reader",
    "ServerOptions",
    "duration_of",
    "duration_text",
]

STORE = "postgres"
EXTENSION_SCHEMA = "extensions"
"""Where a shared database has its extensions."""
NAME_LIMIT = 63  # bytes; the server cuts longer names silently
_READER = re.compile("[a-z][a-z0-9]{0,15}")
_NO_READERS = frozenset({"owner", "rw", "ro", "user", "readonly", "migrate", "restricted"})  # of an app app_reader
_LISTED = ", ".join(sorted(_NO_READERS))
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?")
_UNITS: Mapping[str, float] = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_of(text: object) -> timedelta:
    """A length of time as Postgres takes it: ``30000`` (milliseconds), ``"30s"`` and ``"0.5 min"`` are the same.

    ``"0"`` means no limit. `ValueError` for anything else.
    """
    match = _DURATION.fullmatch(str(text).strip()) if not isinstance(text, bool) else None
    if match is None:
        raise ValueError("must be a duration such as 500ms, 30s, 5min, 1h, or 0 for no limit")
    milliseconds = round(float(match[1]) * _UNITS[match[2] or "ms"])
    if not milliseconds and float(match[1]):
        raise ValueError("must be a duration of at least 1ms; 0 means no limit")
    if milliseconds > 2_147_483_647:
        raise ValueError("must be a duration of at most 24 days")
    return timedelta(milliseconds=milliseconds)


def duration_text(length: timedelta) -> str:
    """A length of time in the one form in which Postgres' settings are compared and set: ``30s``, ``5min``, ``0``."""
    milliseconds = length // timedelta(milliseconds=1)
    for unit in ("d", "h", "min", "s"):
        if milliseconds and milliseconds % _UNITS[unit] == 0:
            return f"{int(milliseconds // _UNITS[unit])}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0"


def _extension_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name) or len(name) > NAME_LIMIT:
            raise ValueError(f"must be names of extensions such as vector or uuid-ossp, not {name!r}")
    return tuple(sorted(set(names)))


Duration = Annotated[
    timedelta, BeforeValidator(duration_of, json_schema_input_type=str), PlainSerializer(duration_text, str)
]


def _reader_names(readers: Mapping[str, Reader]) -> Mapping[str, Reader]:
    for name in readers:
        if not _READER.fullmatch(name) or name in _NO_READERS:
            raise ValueError(f"{name!r} is no name of a reader: 1 to 16 letters a-z and digits, and none of {_LISTED}")
    return readers


def _tables(tables: tuple[str, ...] | str) -> tuple[str, ...] | str:
    for table in () if isinstance(tables, str) else tables:
        schema, _, name = table.partition(".")
        if not schema or not name or "\0" in table or max(len(schema.encode()), len(name.encode())) > NAME_LIMIT:
            raise ValueError(f"must be all, or tables such as public.orders and public.*, not {table!r}")
    return tables if isinstance(tables, str) else tuple(sorted(set(tables)))


class Reader(Section):
    """A further login of the app that only reads."""

    tables: Annotated[tuple[str, ...] | Literal["all"], AfterValidator(_tables)] = Field(
        default="all",
        json_schema_extra={"errorMessage": "must be all, or a list of tables such as public.orders and public.*"},
        description="What it may read: all, as the read-only login; or tables by schema and name. public.* are those "
        "of a schema, also later ones; a table that is made anew gets its right by the next apply.",
    )
    connection_limit: int = Field(
        default=5, ge=1, le=10_000, description="Connections that the login may hold at a time."
    )


class Pool(Section):
    """How many connections a process of the app keeps, as its variables say."""

    min: int = Field(default=0, ge=0, le=10_000, description="Connections that it keeps open.")
    max: int = Field(ge=1, le=10_000, description="The most that it opens.")

    @model_validator(mode="after")
    def _in_order(self) -> Pool:
        if self.min > self.max:
            raise ValueError(f"must be a pool whose min ({self.min}) is no more than its max ({self.max})")
        return self


_SCHEMA = re.compile(r"(?!.*__)[a-z][a-z0-9_]{0,56}")  # what is called as one and __new is for a moment beside it
_NO_SCHEMAS = frozenset({"public", "information_schema", EXTENSION_SCHEMA})
_NOT_IN_A_SCHEMA = {
    "test_database": "its tests would need a database of their own: give them an app of their own, or a schema",
    "locale": "the database is shared, and so is how its text is sorted",
}
"""Options that an app with a schema in a shared database cannot have, each with the reason."""


def _schema_name(name: str | None) -> str | None:
    if name is not None and (not _SCHEMA.fullmatch(name) or name.startswith("pg_") or name in _NO_SCHEMAS):
        kept = ", ".join(sorted(_NO_SCHEMAS))
        raise ValueError(f"must be a name of letters a-z, digits and _, not {name!r}; none of pg_*, {kept}")
    return name


def _database_name(name: str | None) -> str | None:
    if name is not None and (not re.fullmatch(APP_ID, name) or name.startswith(("pg_", "multidb"))):
        raise ValueError(f"must be a name of 2 to 31 letters a-z, digits and _, not {name!r}; none of pg_*, multidb*")
    return name


class AppOptions(Section):
    """``apps.<app>.postgres``: what one app wants of its database."""

    database: Annotated[str | None, AfterValidator(_database_name)] = Field(
        default=None,
        description="A database that several apps share, each with a schema of its own, instead of one for this app "
        "alone: the wall between them is partial (docs/security.md). With schema.",
    )
    schema_name: Annotated[str | None, AfterValidator(_schema_name)] = Field(
        default=None,
        alias="schema",
        description="The app's schema in that database: its tables, and where its logins look names up.",
    )
    reads: Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(sorted(set(names))))] = Field(
        default=(),
        description="Apps with a schema in the same database whose tables this app may read, later ones too. Whoever "
        "reads an app's views and tables runs its functions, so name only apps that this one trusts.",
    )
    pool: Pool | None = Field(
        default=None,
        description="How many connections a process of the app keeps: POSTGRES_POOL_MIN and POSTGRES_POOL_MAX. Its max "
        "is at most connection_limit; multidb doctor adds all of them up.",
    )

    extensions: Annotated[tuple[str, ...], AfterValidator(_extension_names)] = Field(
        default=(),
        description="Extensions created in the app's database, in schema public; in one that apps share, in schema "
        "extensions.",
    )
    roles: Literal["simple", "split"] = Field(
        default="simple",
        description="simple: the app's login may change its own schema. split: a separate <app>_migrate login does, "
        "which before Postgres 17 also refreshes materialized views.",
    )
    profile: ApplicationName | None = Field(
        default=None,
        description="The application that the app is, as its makers ship it: gives it the variables that it reads, "
        "connections for its workers, and ten minutes for a statement, since it migrates when it starts.",
    )
    test_database: bool = Field(
        default=False,
        description="A second database <app>_test for the app's tests, with the same logins, rights and limits; its "
        "address is TEST_DATABASE_URL. It is in no backup, and goes with the app.",
    )
    maintain: bool = Field(
        default=False,
        description="The app cannot do without REFRESH MATERIALIZED VIEW, VACUUM, ANALYZE, REINDEX and CLUSTER by the "
        "login that it works with. It may everywhere but with roles: split before Postgres 17, which is refused then.",
    )
    connection_limit: int = Field(
        default=20, ge=1, le=10_000, description="Connections that the app's login may hold at a time."
    )
    readonly_connection_limit: int = Field(
        default=5, ge=1, le=10_000, description="Connections that the read-only login may hold at a time."
    )
    readers: Annotated[dict[str, Reader], AfterValidator(_reader_names)] = Field(
        default_factory=dict,
        description="Further logins that only read, by name: <app>_reader_<name>, whose address is "
        "<APP>_DB_READER_<NAME>_URL.",
    )
    replica: str | None = Field(
        default=None,
        pattern=r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$",
        json_schema_extra={"errorMessage": "must be a host, with or without a port: replica.example.com:5432"},
        description="Where the addresses of logins that only read lead to: a replica of the server, HOST or HOST:PORT, "
        "as the app sees it. multidb itself asks the server.",
    )
    statement_timeout: Duration = Field(
        default=timedelta(seconds=30),
        description="Longest time a statement of the app may take; 0 for no limit. Exempt are the login for migrations "
        "of roles: split, and what multidb connect --migrate runs.",
    )
    idle_in_transaction_session_timeout: Duration = Field(
        default=timedelta(minutes=1),
        description="Longest time a transaction of the app may stand idle; 0 for no limit.",
    )
    locale: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.@-]+$",
        description="Locale of a new database, as the server's system knows it; the server's default without it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_the_profile_says(cls, value: Any) -> Any:
        name = value.get("profile") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or name not in set(ApplicationName):
            return value
        return {**APPLICATIONS[ApplicationName(name)].options, **value}

    @model_validator(mode="after")
    def _what_a_schema_has(self) -> AppOptions:
        if (self.database is None) is not (self.schema_name is None):
            raise ValueError("must have database and schema together, or neither")
        if self.database is None and self.reads:
            raise ValueError("must have a schema in a shared database (database, schema) to read another app's (reads)")
        for option, why in _NOT_IN_A_SCHEMA.items() if self.database is not None else ():
            if getattr(self, option):
                raise ValueError(f"must be without {option} where an app has a schema in a shared database: {why}")
        if self.pool is not None and self.pool.max > self.connection_limit:
            raise ValueError(
                f"must have a pool of at most connection_limit ({self.connection_limit}), not {self.pool.max}"
            )
        for name, reader in self.readers.items() if self.database is not None else ():
            others = [table for table in reader.tables if table.partition(".")[0] != self.schema_name]
            if not isinstance(reader.tables, str) and others:
                raise ValueError(f"must have readers of tables in schema {self.schema_name}, not {others[0]} ({name})")
        return self

    @model_validator(mode="after")
    def _what_the_profile_needs(self) -> AppOptions:
        if self.profile is not None and APPLICATIONS[self.profile].only_simple and self.roles == "split":
            raise ValueError(f"must be roles: simple with profile: {self.profile}, which makes tables while it runs")
        return self


class ServerOptions(ContainerOptions):
    """``servers.postgres``: the shared server of an embedded or compose runtime."""

    port: int | None = Field(default=None, ge=1, le=65_535, description="TCP port; a free one is taken without it.")
    max_connections: int = Field(default=200, ge=10, le=10_000, description="Connections that the server accepts.")
    close_defaults: bool = Field(
        default=True,
        repr=False,  # a running server knows nothing of it
        description="Whether the server's own databases are closed to everybody who was not let in by name; false "
        "leaves them as they are, and the apps' isolation is partial where they are open.",
    )
