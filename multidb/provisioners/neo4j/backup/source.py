"""Graphs that are elsewhere: in a database of a server that is not the project's, or in a dump of neo4j-admin.

A server is read through the driver in one transaction, as for a set (`graph`); nothing is written there. A dump is read
by nobody but Neo4j's own tool, which loads it into a server that stands still.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, Self
from urllib.parse import unquote, urlsplit

from multidb.errors import ArchiveError, UsageError, WrongVersion
from multidb.model import (
    App,
    Measures,
    Server,
    SourceLocation,
    StoreContext,
    Survey,
    at_source,
    counted,
    listed,
)
from multidb.provisioners.neo4j.backup.graph import LARGEST_EXCHANGE, UNIQUE, Graph
from multidb.provisioners.neo4j.backup.graph_file import Line, Numbers, Tally
from multidb.provisioners.neo4j.driver.connection import DRIVER_ERRORS, Bolt
from multidb.provisioners.neo4j.hosting.address import Neo4jAddress
from multidb.provisioners.neo4j.provision.cypher import makes_schema, quoted
from multidb.provisioners.neo4j.provision.options import STORE
from multidb.provisioners.neo4j.provision.resources import DEFAULT_DATABASE, Neo4jFacts
from multidb.secrets import Secret

__all__ = ["DumpSource", "GraphSource", "release", "source"]

_OLDEST: Final = 5
_ENTERPRISE: Final = "enterprise"
_FOLLOWING: Final = (
    "a graph tells nobody of its changes, and its nodes have no names that last, by which two times could be compared "
    "(an elementId goes to another node after a deletion). Stop its writers there"
)
_LABELS: Final = 200  # labels of which each is counted before anything is copied
_MAGIC: Final = (b"DZV1", b"DGV1", b"\x1f\x8b")  # of a dump: by zstd, by gzip, and gzip before Neo4j 4


def source(location: SourceLocation) -> GraphSource | DumpSource:
    """The source there, not opened yet."""
    return GraphSource(location) if location.path is None else DumpSource(location.path)


class GraphSource:
    """`multidb.model.ImportSource` for one database of a server."""

    def __init__(self, location: SourceLocation) -> None:
        self._location = location
        self._copied: Measures | None = None

    def __enter__(self) -> Self:
        server, user, password, database = _address(self._location)
        with ExitStack() as opened:
            self._bolt = opened.enter_context(Bolt(server, user, password, "multidb import"))
            with at_source(self._location, STORE), self._bolt.explained():
                self.version = self._version()
                self._database = database or self._home()
            self._graph = Graph(server, self._bolt, self._database, "source", shared=False)
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    def survey(self, app: App, context: StoreContext) -> Survey:
        """Exact counts, from the server's own store of them."""
        with at_source(self._location, STORE), self._bolt.explained():
            counts = self._counts()
            schema = list(self._graph.schema())
            losses = tuple(self._losses(schema, app, context))
            obstacles = tuple(self._obstacles(counts, context))
        kept = [line for line in schema if _is_kept(line, app, context)]
        counts["constraints"] = sum("constraint" in line for line in kept)
        counts["indexes"] = len(kept) - counts["constraints"]
        return Survey(
            product=f"Neo4j {self.version}, database {self._database}",
            counts=counts,
            losses=losses,
            obstacles=obstacles,
            following=f"{_FOLLOWING}: {self._read_only()}",
        )

    def _read_only(self) -> str:
        """What keeps writers away there, as the source's edition has it."""
        if self.edition == _ENTERPRISE:
            stopped = f"ALTER DATABASE {quoted(self._database)} SET ACCESS READ ONLY (SET ACCESS READ WRITE undoes it)"
        else:
            stopped = "server.databases.default_to_read_only=true in its neo4j.conf, and a restart"
        return f"{stopped}; then import it without --live, while it can be read"

    def _counts(self) -> dict[str, int]:
        counts = {
            "nodes": self._one("MATCH (n) RETURN count(n) AS one"),
            "relationships": self._one("MATCH ()-[r]->() RETURN count(r) AS one"),
        }
        labels = self._bolt.ask("CALL db.labels() YIELD label RETURN label", self._database)
        for row in labels[:_LABELS]:
            nodes = self._one(f"MATCH (n:{quoted(row['label'])}) RETURN count(n) AS one")
            counts |= {f"label {row['label']}": nodes} if nodes else {}
        types = self._bolt.ask("CALL db.relationshipTypes() YIELD relationshipType AS kind RETURN kind", self._database)
        for row in types[:_LABELS]:
            relationships = self._one(f"MATCH ()-[r:{quoted(row['kind'])}]->() RETURN count(r) AS one")
            counts |= {f"type {row['kind']}": relationships} if relationships else {}
        return counts

    def _one(self, text: str) -> int:
        return int(self._bolt.ask(text, self._database)[0]["one"])

    def _losses(self, schema: list[Line], app: App, context: StoreContext) -> Iterator[str]:
        yield "the numbers by which the server knows nodes and relationships (elementId): they get others"
        lost = sorted(
            {str(line["type"]) for line in schema if "constraint" in line and not _is_kept(line, app, context)}
        )
        if _is_shared(app, context):
            yield "constraints and indexes: with isolation: label they are the shared database's"
        elif lost:
            yield f"constraints of the kind {listed(lost)}, which only Enterprise has"
        users = self._optional("SHOW USERS YIELD user")
        if len(users) > 1:
            yield f"{counted(len(users), 'user')}, their roles and rights: the app has its own"
        others = [
            str(row["name"])
            for row in self._optional("SHOW DATABASES YIELD name, type WHERE type <> 'system' RETURN name")
            if row["name"] != self._database
        ]
        if others:
            yield f"other databases ({listed(sorted(set(others)), 6)}): each is an import into an app of its own"
        procedures = self._optional("SHOW PROCEDURES YIELD name WHERE name STARTS WITH 'apoc.trigger.' RETURN name")
        if procedures:
            yield "triggers of APOC, and whatever else procedures keep outside of the database"

    def _optional(self, text: str) -> list[dict[str, object]]:
        """The rows, or none where the login may not ask."""
        try:
            return self._bolt.ask(text)
        except DRIVER_ERRORS:
            return []

    def _obstacles(self, counts: dict[str, int], context: StoreContext) -> Iterator[str]:
        total = counts["nodes"] + counts["relationships"]
        if total > LARGEST_EXCHANGE and _has_databases(context):
            yield (
                f"{total:,} nodes and relationships would have to be exchanged in one transaction, and "
                f"{LARGEST_EXCHANGE:,} can: load a dump of it with neo4j-admin while the database is stopped"
            )

    # Copying and comparing

    def lines(self, kept: Neo4jFacts, *, shared: bool) -> Iterator[Line]:
        """Everything that the app's server can have, tallied on its way.

        Args:
            kept: what the server is.
            shared: the app has a label in a database of many: constraints and indexes stay behind.
        """
        with Numbers() as numbers:
            tally = Tally(numbers)
            for line in self._read(kept.roles and kept.multi_database, shared):
                if tally.add(line):
                    yield line
            self._copied = tally.measures()

    def _read(self, has_databases: bool, shared: bool) -> Iterator[Line]:
        with at_source(self._location, STORE):
            for line in self._graph.lines():
                if "create" not in line or (not shared and _is_possible(line, has_databases)):
                    yield self._checked(line)

    def _checked(self, line: Line) -> Line:
        if "create" in line and not makes_schema(line["create"]):
            raise ArchiveError(
                f"has a constraint or index that cannot be written down safely: {line['create'][:200]}",
                where=f"source {self._location.text}",
                hint="drop it there, or a copy of it, and make it by hand afterwards",
            )
        return line

    def language(self, kept: Neo4jFacts) -> str | None:
        """The language of its queries; None where the app's server has none, or none of that name."""
        with at_source(self._location, STORE):
            language = self._graph.language()
        newer = release(self.version) > release(kept.version)
        return None if newer else language

    def total(self) -> int:
        """How many nodes and relationships there are."""
        with at_source(self._location, STORE):
            return self._graph.total()

    def measure(self, app: App, context: StoreContext) -> Measures:
        with Numbers() as numbers:
            tally = Tally(numbers)
            for line in self._read(_has_databases(context), _is_shared(app, context)):
                tally.add(line)
            return tally.measures()

    def copied(self) -> Measures | None:
        return self._copied

    def _version(self) -> str:
        try:
            rows = self._bolt.ask("CALL dbms.components() YIELD name, versions, edition")
        except DRIVER_ERRORS as error:
            if "Security" in str(getattr(error, "code", "")) or not getattr(error, "code", ""):
                raise
            rows = []
        version = next((str(row["versions"][0]) for row in rows if row["name"] == "Neo4j Kernel"), "")
        self.edition = next((str(row["edition"]) for row in rows if row["name"] == "Neo4j Kernel"), "")
        major = re.match(r"\d+", version)
        if major is None or int(major[0]) < _OLDEST:
            product = f"Neo4j {version}" if version else "something else than Neo4j"
            raise WrongVersion(
                f"runs {product}, and Neo4j {_OLDEST} or newer is read",
                where=str(self._location.text),
                hint="import a dump of it instead (neo4j-admin), after an upgrade of the copy",
            )
        return version

    def _home(self) -> str:
        rows = self._optional("SHOW HOME DATABASE YIELD name")
        return str(rows[0]["name"]) if rows else DEFAULT_DATABASE


class DumpSource:
    """`multidb.model.ImportSource` for a dump of neo4j-admin. What is in it is told only by loading it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        try:
            with self.path.open("rb") as file:
                beginning = file.read(4)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UsageError(f"cannot be read: {reason}", where=str(self.path), hint="name a file") from None
        if not beginning.startswith(_MAGIC):
            raise ArchiveError(
                "is no dump of neo4j-admin",
                where=str(self.path),
                hint="name a file that neo4j-admin database dump has written",
            )
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    @contextlib.contextmanager
    def file(self, _: str) -> Iterator[BinaryIO]:
        """Its bytes."""
        with self.path.open("rb") as file:
            yield file

    def survey(self, app: App, context: StoreContext) -> Survey:
        shared = (
            "loading a dump replaces a whole database, and with isolation: label the app has a part of one: load it "
        )
        shared += "into a server elsewhere, and import from its URL"
        return Survey(
            product="dump of neo4j-admin",
            size=self.path.stat().st_size,
            losses=(
                "users, roles and rights, which are in the database system",
                "a comparison of both sides: what is in a dump is known only once it is loaded",
            ),
            obstacles=(shared,) if _is_shared(app, context) else (),
            following="a file does not change: leave out --live",
        )

    def measure(self, app: App, context: StoreContext) -> Measures:
        """Nothing: the tool that loads it checks it as it does."""
        return Measures()

    def copied(self) -> Measures | None:
        return None


def _has_databases(context: StoreContext) -> bool:
    facts = context.facts
    return isinstance(facts, Neo4jFacts) and facts.roles and facts.multi_database


def _is_shared(app: App, context: StoreContext) -> bool:
    facts = context.facts
    labelled = facts.labelled if isinstance(facts, Neo4jFacts) else ()
    return not _has_databases(context) and any(owner.app == app.id for owner in labelled)


def _is_possible(line: Line, has_databases: bool) -> bool:
    return "constraint" not in line or line["type"] == UNIQUE or has_databases


def _is_kept(line: Line, app: App, context: StoreContext) -> bool:
    return not _is_shared(app, context) and _is_possible(line, _has_databases(context))


def _address(location: SourceLocation) -> tuple[Server, str, Secret | None, str]:
    """The server, who logs in, and the database in the URL."""
    refusal = Neo4jAddress.refusal(location.url or "")
    if refusal is not None:
        raise UsageError(f"the address {refusal}", where="--from-neo4j", hint=f"such as {Neo4jAddress.example()}")
    endpoint = Neo4jAddress(url=location.url).endpoint(Path())
    database = unquote(urlsplit(location.url or "").path.strip("/"))
    return Server("source", STORE, endpoint, external=True), endpoint.user or "neo4j", location.password, database


def release(version: str) -> tuple[int, ...]:
    """``2026.08.1`` as (2026, 8): versions of one release read each other's data."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
