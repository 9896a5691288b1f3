"""Toy: a box of text for every app.

**What an app gets.** A box, painted as its entry says, and a key that opens it. **How it is isolated.** The server lets
a key into its own box only. **Over its quota** the box is sealed: it can be read and emptied. **What marks it as
ours.** The box's owner, ``<project>/<app>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from multidb.model import (
    Archive,
    Health,
    HostedServer,
    Hosting,
    Probe,
    Provisioner,
    Querying,
    Question,
    QuestionRows,
    Server,
    Session,
    TakeOffline,
    Tenant,
)
from multidb.secrets import Secret
from multidb_toy import resources
from multidb_toy.hosting.address import ToyAddress
from multidb_toy.hosting.container import containers
from multidb_toy.statements import statements

__all__ = ["PROVISIONER"]


def _connect(server: Server, admin: Secret | None, application: str) -> Session:
    from multidb_toy.session import ToySession

    return ToySession(server, admin)


def _check_health(tenant: Tenant, may_write: bool) -> Health:
    from multidb_toy.tenant import check_health

    return check_health(tenant, may_write)


def _probe(attacker: Tenant, victims: Sequence[Tenant]) -> Iterable[Probe]:
    from multidb_toy.tenant import probe

    return probe(attacker, victims)


def _check_question(words: Sequence[str]) -> None:
    from multidb_toy.tenant import check_question

    check_question(words)


def _answer(tenant: Tenant, question: Question) -> AbstractContextManager[QuestionRows]:
    from multidb_toy.tenant import answer

    return answer(tenant, question)


def _archive(server: Server, admin: Secret | None, application: str, take_offline: TakeOffline | None) -> Archive:
    from multidb_toy.archive import ToyArchive

    return ToyArchive(server, admin)


def _processes(hosting: Hosting) -> Sequence[HostedServer]:
    from multidb_toy.hosting.process import processes

    return processes(hosting)


PROVISIONER = Provisioner(
    name=resources.STORE,
    title="Toy",
    app_options=resources.AppOptions,
    server_options=resources.ServerOptions,
    derived_names=resources.derived_names,
    secrets=resources.secrets,
    desired=resources.desired,
    statements=statements,
    env=resources.env,
    isolation=resources.isolation,
    connect=_connect,
    check_health=_check_health,
    querying=Querying("box", _check_question, _answer, "greeting"),
    probe=_probe,
    archive=_archive,
    processes=_processes,
    address=ToyAddress,
    containers=containers,
    templates=Path(__file__).parent / "templates",
)
