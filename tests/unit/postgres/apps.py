"""An app, and what the functions of the store are told of its server."""

from __future__ import annotations

from multidb.model import App, StoreContext
from multidb.provisioners.postgres.provision.options import AppOptions
from multidb.provisioners.postgres.provision.resources import (
    Extension,
    PostgresFacts,
)


def app(name: str = "lernmi", **options: object) -> App:
    return App(name, name, {"postgres": AppOptions(**options)})


def facts(number: int = 180006, superuser: bool = True, **more: object) -> PostgresFacts:
    return PostgresFacts(
        product="PostgreSQL",
        version=f"{number // 10000}",
        number=number,
        admin="postgres" if superuser else "plat",
        superuser=superuser,
        createrole=True,
        createdb=True,
        extensions={"ltree": Extension("1.3", True, None), "vector": Extension("0.8", False, None)},
        **more,  # type: ignore[arg-type]
    )


def context(known: PostgresFacts | None = None) -> StoreContext:
    return StoreContext("digi", known or facts())
