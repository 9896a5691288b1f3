"""The admin of a project's own Postgres, who may do what no app may."""

from __future__ import annotations

import psycopg

from multidb.runtime.hosted import admin_ref
from multidb.state import ProjectState
from tests.support.command import Folder


def as_admin(folder: Folder, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
    """A session of the admin's on the embedded server, each statement by itself."""
    state = ProjectState(folder.path)
    secret = state.secrets.get(admin_ref("postgres", "postgres"))
    assert secret is not None
    login = {"host": "127.0.0.1", "user": "postgres", "password": secret.reveal(), "dbname": database}
    return psycopg.connect(**login, port=state.read("ports")["postgres"], autocommit=True)
