"""Three stores that exist nowhere, for tests of what must not know any real one."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from multidb.manifest import StoreSchema
from multidb.model import App, DerivedName
from multidb.model.container import Pooler
from multidb.model.options import ContainerOptions


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableOptions(Options):
    connection_limit: int = Field(default=20, ge=1, description="Connections at once.")
    statement_timeout: str = Field(default="30s", description="The longest a statement may run.")
    extensions: tuple[str, ...] = ()
    split: bool = False

    @field_validator("statement_timeout")
    @classmethod
    def _duration(cls, value: str) -> str:
        if value[-1:] not in ("s", "h"):
            raise ValueError("must be a duration such as 30s or 2min")
        return value


class TableServer(ContainerOptions):
    port: int | None = Field(default=None, ge=1, le=65535, description="Where it listens.")


class Vectors(Options):
    size: int = Field(ge=1, description="Numbers in a vector.")
    distance: Literal["cosine", "dot", "euclid"] = "cosine"


class VectorOptions(Options):
    collections: dict[str, Vectors] = Field(default_factory=dict, description="Collections by type.")


class CacheOptions(Options):
    db: int | None = Field(default=None, ge=0, description="The DB number.")


class FromEnv(Options):
    env: str


class FromFile(Options):
    file: str


class Address(Options):
    url: str
    password: FromEnv | FromFile | None = None


def table_names(app: App) -> list[DerivedName]:
    return [
        DerivedName("table database", app.id, 20, f"the database of {app.id}"),
        DerivedName("table role", f"{app.id}_rw", 30, f"the writer of {app.id}"),
        DerivedName("table role", app.id, 30),
    ]


def vector_names(app: App) -> list[DerivedName]:
    return [DerivedName("collection", f"{app.id}_{kind}", 60) for kind in app.stores["vectors"].collections]


def same_number(apps: Sequence[App]) -> Iterator[tuple[App, str]]:
    taken: dict[int, App] = {}
    for app in apps:
        number = app.stores["cache"].db
        if number is not None and (first := taken.setdefault(number, app)) is not app:
            yield app, f"db {number} is also that of app {first.id}"


STORES = {
    "tables": StoreSchema(
        "tables",
        TableOptions,
        TableServer,
        table_names,
        reserved=("public", "sys_*"),
        own=("sys_*",),
        address=Address,
        poolers=(Pooler("funnel", "funnel:3", "Funnel 2 or later", 7000, "FUNNEL_PASSWORD", {}),),
    ),
    "vectors": StoreSchema("vectors", VectorOptions, TableServer, vector_names, address=Address),
    "cache": StoreSchema("cache", CacheOptions, TableServer, lambda app: (), check=same_number, address=Address),
}
