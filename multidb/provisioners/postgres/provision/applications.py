"""What whole applications, as their makers ship them, need of their database, by the names under which the manifest
asks for it. Pure.

A profile gives limits and the variables that the application itself reads, and no right that other apps have not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from multidb.secrets import Secret

__all__ = ["APPLICATIONS", "Application", "ApplicationName", "application_variables"]


class ApplicationName(StrEnum):
    """The applications."""

    AIRFLOW = "airflow"
    DIRECTUS = "directus"
    LABEL_STUDIO = "label-studio"
    MLFLOW = "mlflow"
    N8N = "n8n"
    PREFECT = "prefect"


@dataclass(frozen=True, slots=True)
class Application:
    """What one of them needs.

    Args:
        variables: names and values, in which ``{rest}`` is the address behind its scheme.
        connection_limit: its workers, each with all that its pool may open.
        only_simple: it makes tables while it runs.
    """

    variables: Mapping[str, str]
    connection_limit: int
    only_simple: bool = False

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the app where its entry does not say otherwise. All of these migrate when they start, and an
        upgrade over real data takes its time."""
        return {"connection_limit": self.connection_limit, "statement_timeout": "10min"}


APPLICATIONS: Final[Mapping[ApplicationName, Application]] = {
    # api server, scheduler, processor of DAGs and triggerer: SQLAlchemy's pool, 5 and 10 over, in each
    ApplicationName.AIRFLOW: Application({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://{rest}"}, 60),
    ApplicationName.DIRECTUS: Application(
        {
            "DB_CLIENT": "pg",
            "DB_HOST": "{host}",
            "DB_PORT": "{port}",
            "DB_DATABASE": "{database}",
            "DB_USER": "{user}",
            "DB_PASSWORD": "{password}",
        },
        20,
        only_simple=True,
    ),
    ApplicationName.LABEL_STUDIO: Application(
        {
            "DJANGO_DB": "default",
            "POSTGRE_HOST": "{host}",
            "POSTGRE_PORT": "{port}",
            "POSTGRE_NAME": "{database}",
            "POSTGRE_USER": "{user}",
            "POSTGRE_PASSWORD": "{password}",
        },
        20,
    ),
    # four workers of its server: SQLAlchemy's pool in each
    ApplicationName.MLFLOW: Application({"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://{rest}"}, 60),
    ApplicationName.N8N: Application(
        {
            "DB_TYPE": "postgresdb",
            "DB_POSTGRESDB_HOST": "{host}",
            "DB_POSTGRESDB_PORT": "{port}",
            "DB_POSTGRESDB_DATABASE": "{database}",
            "DB_POSTGRESDB_USER": "{user}",
            "DB_POSTGRESDB_PASSWORD": "{password}",
        },
        20,
    ),
    # SQLAlchemy's pool in the server, and in a second process of its services
    ApplicationName.PREFECT: Application({"PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://{asyncpg}"}, 30),
}


def application_variables(name: ApplicationName, url: str, asyncpg: str) -> dict[str, str | Secret]:
    """The variables by which an application finds its database.

    Args:
        url, asyncpg: its address, as libpq and as asyncpg take it.
    """
    parts = urlsplit(url)
    values = {
        "rest": url.partition("://")[2],
        "asyncpg": asyncpg.partition("://")[2],
        "host": parts.hostname or "",
        "port": str(parts.port or 5432),
        "database": unquote(parts.path[1:]),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }
    made = {name: (value, value.format_map(values)) for name, value in APPLICATIONS[name].variables.items()}
    secret = ("{rest}", "{asyncpg}", "{password}")
    return {
        name: Secret(text) if any(part in value for part in secret) else text for name, (value, text) in made.items()
    }
