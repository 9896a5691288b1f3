"""When a running server is said to have other options than the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from multidb.model import HostedServer
from multidb.model.options import ContainerOptions
from multidb.provisioners.neo4j.provision.options import ServerOptions as Neo4jOptions
from multidb.provisioners.postgres.provision.options import ServerOptions as PostgresOptions
from multidb.provisioners.qdrant.provision.options import ServerOptions
from multidb.provisioners.redis.provision.options import ServerOptions as RedisOptions
from multidb.runtime.hosted import options_text, outdated
from multidb.runtime.ledger import Process


class Options(ContainerOptions):
    """Of a version that has no `threads` yet, and fewer connections."""

    port: int | None = None
    connections: int = 100


class Later(ContainerOptions):
    """The same, of a version after it."""

    port: int | None = None
    grpc_port: int | None = None
    connections: int = 200
    threads: int = 4
    mirror: str | None = Field(default=None, repr=False)


Later.__name__ = Options.__name__


def said(recorded: str, now: ContainerOptions) -> bool:
    folder = Path("/nowhere")
    hosted = HostedServer("s", "qdrant", "shop", folder, folder, now)
    process = Process("s", "qdrant", "/nowhere", 1, 1.0, options=recorded)
    return "options have changed" in outdated(hosted, process)


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        (Options(), Later(), False),  # a new option, and another default
        (Options(port=1), Later(port=1), False),
        (Options(port=1), Later(port=1, mirror="https://mirror"), False),  # nothing that a server is told
        (Options(port=1), Later(), True),
        (Options(), Later(port=1), True),
        (Options(), Later(threads=5), True),
        (Options(), Later(grpc_port=1), True),
        (Options(connections=150), Later(), True),
        (Options(connections=150), Later(connections=151), True),
        (Options(memory="1g"), Later(memory="1g"), False),
        (Options(memory="1g"), Later(memory="2g"), True),
    ],
)
def test_what_the_manifest_says_nothing_of_has_not_changed(
    before: ContainerOptions, now: ContainerOptions, changed: bool
) -> None:
    assert said(options_text(before), now) is changed


EARLIER = "ServerOptions(image=None, memory=None, cpus=None, port=6333, grpc_port=None, token_days=365)"


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        (ServerOptions(port=6333), False),
        (ServerOptions(port=6333, version="1.18.3"), False),
        (ServerOptions(port=6333, version="1.18.2"), True),
        (ServerOptions(port=6334), True),
        (ServerOptions(port=6333, grpc_port=6334), True),
        (ServerOptions(port=6333, token_days=90), True),
        (ServerOptions(), True),
    ],
)
def test_a_server_that_the_first_version_started_is_not_asked_to_restart(now: ServerOptions, changed: bool) -> None:
    """That one wrote down every option that it knew."""
    assert said(EARLIER, now) is changed


@pytest.mark.parametrize(
    "left_alone",
    [
        PostgresOptions(close_defaults=False),
        RedisOptions(default_user="keep"),
        Neo4jOptions(close_defaults=False),
        Neo4jOptions(backup="dump"),
    ],
)
def test_what_only_multidb_heeds_asks_for_no_restart(left_alone: ContainerOptions) -> None:
    default = type(left_alone)()
    assert not said(options_text(default), left_alone)
    assert not said(options_text(left_alone), default)
    name, value = next((name, value) for name, value in left_alone if value != getattr(default, name))
    assert not said(f"ServerOptions({name}={value!r})", left_alone), "an earlier version wrote it down"
