"""What an app reads in its env file, and whether it opens anything."""

from __future__ import annotations

import re

import neo4j
import psycopg
import redis
from dotenv import dotenv_values

from tests.support.case import NOT_LET_IN
from tests.support.command import Folder


def variables(folder: Folder, app: str) -> dict[str, str]:
    """As the app reads them."""
    values = dotenv_values(folder.path / "apps" / app / ".env")
    return {name: value for name, value in values.items() if value is not None}


def let_in(env: dict[str, str]) -> list[bool]:
    """By login and store, whether these open anything."""
    opened = []
    for name in sorted(name for name in env if name.endswith(("DB_URL", "DB_READONLY_URL", "DB_MIGRATE_URL"))):
        try:
            psycopg.connect(env[name]).close()
            opened.append(True)
        except psycopg.OperationalError as error:
            if not re.search(NOT_LET_IN, str(error)):
                raise
            opened.append(False)
    with redis.Redis.from_url(env["REDIS_URL"]) as client:
        try:
            opened.append(bool(client.ping()))
        except redis.AuthenticationError:
            opened.append(False)
    if "NEO4J_URI" in env:
        login = (env["NEO4J_USER"], env["NEO4J_PASSWORD"])
        with neo4j.GraphDatabase.driver(env["NEO4J_URI"], auth=login) as driver:
            try:
                driver.verify_connectivity()
                opened.append(True)
            except neo4j.exceptions.AuthError:
                opened.append(False)
    return opened
