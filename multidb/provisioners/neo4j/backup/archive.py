"""An app's graph coming and going: read in one transaction through the driver, written in batches.

Neo4j has no snapshots: a transaction sees what others commit while it reads. The bookmark of the database, which moves
with every commit, is compared before and after; where it has not moved, nothing was written in between, and the part is
`consistent`. Relationships to nodes that came too late for the file are left out of it.

A database cannot be renamed, and Community has only one. So what replaces the live data does so in one transaction, of
at most `LARGEST_EXCHANGE` nodes and relationships, which Neo4j keeps in memory; or a whole server takes the place of
another (``Runtime.adopt``).

With ``servers.neo4j.backup: dump`` a part is what ``neo4j-admin database dump`` writes, where the server may be stopped
for it. It is measured through the driver all the same, while it still works: then the app's logins are off, and the
database's bookmark tells whether that was in time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import neo4j

from multidb.errors import ArchiveError, NeedsServer, Refused, WrongVersion
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Measures,
    Offline,
    Owner,
    Part,
    Place,
    PlaceKind,
    Progress,
    Server,
    Statement,
    StoreContext,
    TakeOffline,
    unwatched,
)
from multidb.provisioners.neo4j.backup.graph_file import FILE, FORMAT, HEAD, Line, Numbers, Tally, read, write
from multidb.provisioners.neo4j.backup.places import dropping, making, place_name, places, roles_of
from multidb.provisioners.neo4j.backup.values import decode, encode
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.provision.cypher import makes_schema, quoted, requoted
from multidb.provisioners.neo4j.provision.removal import disconnect
from multidb.provisioners.neo4j.provision.resources import (
    Neo4jFacts,
    ServerOptions,
    database_name,
    read_mark,
    user_name,
)
from multidb.provisioners.neo4j.provision.session import Neo4jSession, connect
from multidb.provisioners.neo4j.provision.statements import SYSTEM
from multidb.secrets import MemorySecretStore, Secret

__all__ = ["DUMP_FORMAT", "LARGEST_EXCHANGE", "Neo4jArchive", "decoded"]

_DUMP: Final = "neo4j.dump"
DUMP_FORMAT: Final = "neo4j-admin dump"

LARGEST_EXCHANGE: Final = 200_000
_FETCHED: Final = 1_000  # rows asked for at once
_BATCH: Final = 5_000  # rows written in one transaction; a long text or list counts for more
# Seconds, as long as the server answers others meanwhile; an index over all data is made before the answer.
_DELETING: Final = 24 * 3600.0
_INDEXING: Final = 24 * 3600.0
_UNIQUE: Final = "UNIQUENESS"  # the one kind of constraint that Community has
_NO_ROOM: Final = "a Neo4j without databases has room for one graph"

_Work = Sequence[tuple[str, Mapping[str, Any]]]
"""Statements with the parameters of each."""
_Run = Callable[[_Work], Sequence[Sequence[Any]]]
"""Runs them in one transaction and gives the rows that they answer."""


@dataclass(frozen=True, slots=True)
class _Survey:
    """What was read of a graph from beginning to end.

    Args:
        moment: the database's bookmark before; it is still the same when nothing was written since.
        end: the last line of a file that holds all this.
        constraints: the kinds that there are.
    """

    moment: frozenset[str]
    measures: Measures
    end: Line
    constraints: list[str]


class Neo4jArchive:
    """An `OfflineArchive` on one Neo4j; see `multidb.model.Archive`.

    Args:
        take_offline: how to stop the server; None where it must not be.
    """

    def __init__(
        self, server: Server, admin: Secret | None, application: str, take_offline: TakeOffline | None = None
    ) -> None:
        self._server = server
        self._login = (server, admin, application)
        self._take_offline = take_offline
        self._foreseen: _Survey | None = None

    def __enter__(self) -> Self:
        self._connect()
        return self

    def _connect(self) -> None:
        self._session: Neo4jSession = connect(*self._login)
        self._bolt: Bolt = self._session.bolt

    def __exit__(self, *exc: object) -> None:
        self._session.close()

    def goes_offline(self, app: App, context: StoreContext, progress: Progress) -> bool:
        if self._take_offline is None or ServerOptions.of(context.options).backup != "dump":
            return False
        self._foreseen = self._survey(self.live(app, context), progress)
        return True

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        place, facts = self.live(app, context), self._session.facts
        if self._foreseen is not None:
            survey = self._dump(place, self._foreseen, writer, progress)
            unchanged, shape, client = True, DUMP_FORMAT, f"neo4j-admin {facts.version}"
        else:
            with writer.file(FILE) as stream:
                write(stream, HEAD)
                survey = self._survey(place, progress, partial(write, stream))
                write(stream, survey.end)
                unchanged = self._bookmark(place.name) == survey.moment
            shape, client = FORMAT, f"Neo4j Python driver {neo4j.__version__}"
        return Part(
            format=shape,
            server=f"{facts.product} {facts.version}",
            client=client,
            consistent=unchanged,
            measures=survey.measures,
            details={"constraints": survey.constraints},
        )

    def live(self, app: App, context: StoreContext) -> Place:
        return Place(PlaceKind.LIVE, app, self._live_name(app))

    def prepare(self, kind: PlaceKind, app: App, context: StoreContext) -> Place:
        if kind is PlaceKind.LIVE:
            raise ValueError("the live place is made by apply")
        if not self._has_databases:
            if not self._server.scratch:
                raise NeedsServer(_NO_ROOM, where=str(self._server), hint="restore into the app's empty server instead")
            place = Place(kind, app, self._session.facts.default_database)
            self._empty(place)
            return place
        with self._bolt.explained():
            made = making(self._bolt, kind, Owner(context.project, app.id), str(self._server))
        self._run(made)
        return Place(kind, app, place_name(kind, app.id))

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        self._refuse_unfit(part)
        if part.format == DUMP_FORMAT:
            self._load_dump(place, reader, progress)
            return
        with reader.file(FILE) as stream:
            lines = read(stream, str(self._server))
            total = part.measures.counts.get("nodes", 0) + part.measures.counts.get("relationships", 0)
            if place.kind is PlaceKind.LIVE and not self.is_empty(place):
                if self._has_databases:
                    raise self._occupied(place)
                self._exchange(place, lines, total, progress)
            else:
                self._load(place, lines, total, progress)

    def _occupied(self, place: Place) -> ArchiveError:
        where, hint = f"{self._server}, database {place.name}", f"multidb restore {place.app.id} --replace"
        return ArchiveError("is not empty", where=where, hint=hint)

    def measure(self, place: Place) -> Measures:
        return self._survey(place, unwatched).measures

    def is_empty(self, place: Place) -> bool:
        database, label = self._spot(place)
        return not self._ask(f"MATCH {_node(label)} RETURN 1 AS one LIMIT 1", database)

    def replace(self, new: Place, context: StoreContext) -> None:
        if not self._has_databases:
            raise ArchiveError("the scratch server takes the place of the live one", where=str(self._server))
        live = self.live(new.app, context)
        self._run([disconnect(user_name(new.app.id), context)])
        self._exchange(live, self._lines(new.name, None), self._total(new.name, None), unwatched)
        self.discard(new)

    def discard(self, place: Place) -> None:
        if place.kind is PlaceKind.LIVE:
            raise ValueError("the live place is not discarded")
        if self._has_databases:
            with self._bolt.explained():
                gone = dropping(roles_of(self._bolt), place)
            self._run(gone)
        elif self._server.kept:
            self._empty(place)

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        if not self._has_databases:
            return ()
        with self._bolt.explained():
            return places(roles_of(self._bolt), app, context.project)

    # Where things are

    @property
    def _has_databases(self) -> bool:
        facts: Neo4jFacts = self._session.facts
        return facts.roles and facts.multi_database

    def _live_name(self, app: App) -> str:
        return database_name(app.id) if self._has_databases else str(self._session.facts.default_database)

    def _spot(self, place: Place) -> tuple[str, str | None]:
        """The database, and the label by which the app shares it with others, if it does."""
        facts: Neo4jFacts = self._session.facts
        labelled = not self._has_databases and any(owner.app == place.app.id for owner in facts.labelled)
        return place.name, place.app.id if labelled else None

    # Dumps of neo4j-admin

    def _dump(self, place: Place, survey: _Survey, writer: ArchiveWriter, progress: Progress) -> _Survey:
        """Dumps the database, and gives the survey that is true of the dump. The app's logins are off."""
        if self._bookmark(place.name) != survey.moment:  # it has written before they were
            survey = self._survey(place, progress)
        with self._offline(progress) as server, writer.file(_DUMP) as stream:
            server.dump(place.name, stream)
        if self._bookmark(place.name) != survey.moment:
            raise ArchiveError(
                "somebody wrote to it while its app's logins were off",
                where=str(self._server),
                hint="end what else logs in there, then run the command again",
            )
        return survey

    def _load_dump(self, place: Place, reader: ArchiveReader, progress: Progress) -> None:
        if not self.is_empty(place):
            raise self._occupied(place)
        progress(place.app.id, "loading the dump")
        with self._offline(progress) as server, reader.file(_DUMP) as stream:
            server.load(place.name, stream)

    @contextlib.contextmanager
    def _offline(self, progress: Progress) -> Iterator[Offline]:
        assert self._take_offline is not None  # else no dump is made, and loading one is refused
        self._session.close()
        with self._take_offline(progress) as server:
            yield server
        self._connect()

    # Reading

    def _survey(self, place: Place, progress: Progress, keep: Callable[[Line], None] = lambda line: None) -> _Survey:
        """Reads everything and measures it. `keep` gets each line that counts."""
        database, label = self._spot(place)
        constraints: set[str] = set()
        with Numbers() as numbers:
            before, total = self._bookmark(database), self._total(database, label)
            tally = Tally(numbers)
            for done, line in enumerate(self._lines(database, label)):
                if tally.add(line):
                    keep(line)
                if "constraint" in line:
                    constraints.add(line["type"])
                if done % _FETCHED == 0:
                    progress(place.app.id, "reading the graph", done, total)
            return _Survey(before, tally.measures(), tally.end(), sorted(constraints))

    def _lines(self, database: str, label: str | None) -> Iterator[Line]:
        """Everything there is, in the order of the file, read as it comes."""
        with self._reading(database) as transaction:
            text = f"MATCH {_node(label)} RETURN elementId(n), labels(n), properties(n)"
            for element, labels, properties in self._rows(transaction, text):
                kept = sorted(name for name in labels if name != label)
                yield {"node": _number(element), "labels": kept, "properties": self._encoded(element, properties)}
            pattern = f"{_node(label, 'a')}-[r]->{_node(label, 'b')}"
            text = f"MATCH {pattern} RETURN elementId(r), type(r), elementId(a), elementId(b), properties(r)"
            for element, kind, start, end, properties in self._rows(transaction, text):
                ends = {"from": _number(start), "to": _number(end)}
                yield {"relationship": kind, **ends, "properties": self._encoded(element, properties)}
        if label is None:
            yield from self._schema(database)

    def _schema(self, database: str) -> Iterator[Line]:
        """Constraints and indexes, without those that come by themselves and our mark."""
        columns = "name, type, entityType, labelsOrTypes, properties, createStatement"
        for row in self._ask(f"SHOW CONSTRAINTS YIELD {columns}", database):
            kind = _UNIQUE if row["type"].endswith(_UNIQUE) else row["type"]  # called otherwise in Cypher 25
            create = requoted(row["createStatement"])
            yield {"constraint": row["name"], "type": kind, "on": _about(row), "create": create}
        for row in self._ask(f"SHOW INDEXES YIELD {columns}, owningConstraint", database):
            if row["owningConstraint"] is None and row["type"] != "LOOKUP" and read_mark(row["name"]) is None:
                create = requoted(row["createStatement"])
                yield {"index": row["name"], "type": row["type"], "on": _about(row), "create": create}

    @contextlib.contextmanager
    def _reading(self, database: str) -> Iterator[neo4j.Transaction]:
        with self._opened(database, default_access_mode=neo4j.READ_ACCESS, fetch_size=_FETCHED) as session:
            with self._in_time():
                transaction = session.begin_transaction()
            yield transaction
            with self._in_time():
                transaction.rollback()

    def _rows(self, transaction: neo4j.Transaction, text: str) -> Iterator[neo4j.Record]:
        with self._in_time():
            result = transaction.run(text)
        while rows := self._fetched(result):
            yield from rows

    def _fetched(self, result: neo4j.Result) -> list[neo4j.Record]:
        with self._in_time():
            return result.fetch(_FETCHED)

    def _encoded(self, element: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {name: encode(value) for name, value in properties.items()}
        except TypeError:
            raise ArchiveError(
                "a property has a value that Python's driver cannot hold (a year before 1 or after 9999, a zone that "
                "it does not know)",
                where=f"{self._server}, element {element}",
                hint=f"find it: MATCH (n) WHERE elementId(n) = '{element}' RETURN n",
            ) from None

    def _bookmark(self, database: str) -> frozenset[str]:
        """Where the database is: every commit moves it on."""
        with self._in_time(), self._bolt.session(database) as session:
            session.run("RETURN 1").consume()
            return session.last_bookmarks().raw_values

    def _total(self, database: str, label: str | None) -> int:
        nodes = self._ask(f"MATCH {_node(label)} RETURN count(n) AS total", database)[0]["total"]
        relationships = self._ask("MATCH ()-[r]->() RETURN count(r) AS total", database)[0]["total"]
        return int(nodes + (0 if label else relationships))

    # Writing

    def _refuse_unfit(self, part: Part) -> None:
        """Refuses what this server could not take, before anything is loaded."""
        facts: Neo4jFacts = self._session.facts
        made_by = part.server.rpartition(" ")[2]
        if part.format not in (FORMAT, DUMP_FORMAT):
            raise ArchiveError(
                f"the part is of the format {part.format}; {FORMAT} and {DUMP_FORMAT} are known",
                where=str(self._server),
                hint="restore it with the multidb that made it",
            )
        if part.format == DUMP_FORMAT and self._take_offline is None:
            raise Refused(
                "the part is a dump of neo4j-admin, and multidb cannot stop this server to load it",
                where=str(self._server),
                hint="load it by hand (docs/restore-by-hand.md), or make a set with servers.neo4j.backup: export",
            )
        if _release(made_by) > _release(facts.version):
            raise WrongVersion(
                f"runs Neo4j {facts.version}, and the part was made by {made_by}",
                where=str(self._server),
                hint="restore it on that version or a newer one",
            )
        constraints = part.details.get("constraints")
        others = sorted(set(constraints) - {_UNIQUE}) if isinstance(constraints, list) else []
        if others and not self._has_databases:
            raise WrongVersion(
                f"has no constraints of the kind {', '.join(others)}, which only Enterprise has",
                where=str(self._server),
                hint="restore it on Neo4j Enterprise",
            )

    def _load(self, place: Place, lines: Iterable[Line], total: int, progress: Progress) -> None:
        """Loads into an empty place, many transactions."""
        database, label = self._spot(place)
        with self._opened(database) as session, Numbers() as numbers:

            def run(work: _Work) -> list[list[Any]]:
                with self._in_time():
                    return session.execute_write(_all, work)

            loader = _Loader(run, numbers, label)
            loader.take(lines, lambda done: progress(place.app.id, "loading the graph", done, total))
        self._change_schema(database, label, loader.schema)

    def _exchange(self, place: Place, lines: Iterable[Line], total: int, progress: Progress) -> None:
        """Takes away what is in the place and loads something else, in one transaction; then its schema likewise.

        An interruption in between leaves the new data with the old schema; the next run makes the new one.
        """
        database, label = self._spot(place)
        size = total + self._total(database, label)
        if size > LARGEST_EXCHANGE:
            raise ArchiveError(
                f"{size} nodes and relationships would have to be exchanged in one transaction; {LARGEST_EXCHANGE} can",
                where=f"{self._server}, database {database}",
                hint="restore into an empty server, or with neo4j-admin while this one is stopped",
            )
        with self._opened(database) as session, Numbers() as numbers:
            with self._in_time():
                transaction = session.begin_transaction()

            def run(work: _Work, seconds: float | None = None) -> list[list[Any]]:
                with self._in_time(seconds):
                    return _all(transaction, work)

            run([(f"MATCH {_node(label)} DETACH DELETE n", {})], _DELETING)
            loader = _Loader(run, numbers, label)
            loader.take(lines, lambda done: progress(place.app.id, "loading the graph", done, total))
            with self._in_time():
                transaction.commit()
        self._change_schema(database, label, loader.schema)

    def _change_schema(self, database: str, label: str | None, schema: Sequence[Line]) -> None:
        """Makes the constraints and indexes those of the file; a place without nodes may have some, too."""
        if label is not None:
            return
        odd = next((line for line in schema if not makes_schema(line["create"])), None)
        if odd is not None:
            raise ArchiveError(
                f"{FILE} has a line that makes neither a constraint nor an index: {odd['create'][:200]}",
                where=str(self._server),
                hint="restore another set",
            )
        self._drop_schema(database, keep={line["create"] for line in schema})
        there = {line["create"] for line in self._schema(database)}
        self._make_schema(database, [line for line in schema if line["create"] not in there])

    def _make_schema(self, database: str, schema: Sequence[Line]) -> None:
        for line in schema:
            self._ask(line["create"], database, seconds=_INDEXING)
        if schema:
            self._ask("CALL db.awaitIndexes($seconds)", database, {"seconds": int(_INDEXING)}, _INDEXING)

    def _drop_schema(self, database: str, keep: Iterable[str] = ()) -> None:
        for line in list(self._schema(database)):
            if line["create"] not in set(keep):
                kind = "constraint" if "constraint" in line else "index"
                self._ask(f"DROP {kind.upper()} {quoted(line[kind])} IF EXISTS", database)

    def _empty(self, place: Place) -> None:
        self._drop_schema(place.name)
        text = "MATCH (n) CALL { WITH n DETACH DELETE n } IN TRANSACTIONS OF 10000 ROWS"
        self._ask(text, place.name, seconds=_DELETING)

    # Talking to the server: an error of the driver is explained here, where no error of the set's files can be meant.

    def _ask(
        self, text: str, database: str = SYSTEM, values: Mapping[str, Any] | None = None, seconds: float | None = None
    ) -> list[dict[str, Any]]:
        with self._bolt.explained():
            return self._bolt.ask(text, database, values, seconds or self._server.progress_timeout)

    @contextlib.contextmanager
    def _in_time(self, seconds: float | None = None) -> Iterator[None]:
        with self._bolt.explained(), self._bolt.within(seconds or self._server.progress_timeout):
            yield

    @contextlib.contextmanager
    def _opened(self, database: str, **options: Any) -> Iterator[neo4j.Session]:
        session = self._bolt.session(database, **options)
        try:
            yield session
        finally:
            with self._in_time():
                session.close()

    def _run(self, statements: Sequence[Statement]) -> None:
        list(self._session.run(statements, MemorySecretStore()))


class _Loader:
    """Turns lines into statements for many rows at a time, and hands them to `run`, one transaction's worth a time."""

    def __init__(self, run: _Run, numbers: Numbers, label: str | None) -> None:
        self.schema: list[Line] = []
        self._run = run
        self._numbers = numbers
        self._label = label
        self._prefix = ""  # of every element id of this database
        self._nodes: dict[tuple[str, ...], list[list[Any]]] = {}
        self._relationships: dict[str, list[list[Any]]] = {}
        self._weight = 0

    def take(self, lines: Iterable[Line], report: Callable[[int], None]) -> None:
        """Everything; the last batch, too."""
        for done, line in enumerate(lines, 1):
            if "node" in line:
                self._node(line)
            elif "relationship" in line:
                self._relationship(line)
            else:
                self.schema.append(line)
            if self._weight >= _BATCH:
                self._flush()
                report(done)
        self._flush()

    def _node(self, line: Line) -> None:
        labels = (*line["labels"], *((self._label,) if self._label else ()))
        self._nodes.setdefault(labels, []).append([line["node"], decoded(line)])
        self._weight += _weight(line)

    def _relationship(self, line: Line) -> None:
        if self._nodes:
            self._flush()
        ends = [self._numbers[line["from"]], self._numbers[line["to"]]]
        if not all(ends):
            raise ArchiveError(f"{FILE} has a relationship between nodes that are not in it")
        start, end = (number - 1 for number in ends)
        self._relationships.setdefault(line["relationship"], []).append([start, end, decoded(line)])
        self._weight += _weight(line)

    def _flush(self) -> None:
        work: list[tuple[str, Mapping[str, Any]]] = [
            (
                # One answer for all: a row costs the driver more than what is in it.
                f"UNWIND $rows AS row CREATE (n{_labels(labels)}) SET n = row[1] "
                "RETURN collect([row[0], elementId(n)]) AS made",
                {"rows": rows},
            )
            for labels, rows in self._nodes.items()
        ]
        work += [
            (
                "UNWIND $rows AS row "
                "MATCH (a) WHERE elementId(a) = $prefix + row[0] MATCH (b) WHERE elementId(b) = $prefix + row[1] "
                f"CREATE (a)-[r:{quoted(kind)}]->(b) SET r = row[2]",
                {"rows": rows, "prefix": self._prefix},
            )
            for kind, rows in self._relationships.items()
        ]
        for (made,) in self._run(work) if work else ():
            for number, element in made:
                self._prefix = element[: element.rindex(":") + 1]
                self._numbers[number] = _number(element) + 1
        self._nodes, self._relationships, self._weight = {}, {}, 0


def _all(transaction: Any, work: _Work) -> list[list[Any]]:
    """Sends the statements, and gives the rows that they answered."""
    rows: list[list[Any]] = []
    for text, parameters in work:
        rows += transaction.run(text, parameters).values()
    return rows


def _node(label: str | None, name: str = "n") -> str:
    return f"({name}{_labels((label,) if label else ())})"


def _labels(labels: Iterable[str]) -> str:
    return "".join(f":{quoted(label)}" for label in labels)


def _number(element: str) -> int:
    """The number that an element id ends with; what is before it is the same in the whole database."""
    return int(element.rpartition(":")[2])


def _about(row: Mapping[str, Any]) -> list[Any]:
    """What a constraint or an index is for, the same in every version of the server."""
    return [row["entityType"], sorted(row["labelsOrTypes"] or ()), row["properties"]]


def _release(version: str) -> tuple[int, ...]:
    """``2026.08.1`` as (2026, 8): versions of one release read each other's data."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def decoded(line: Line) -> dict[str, Any]:
    """The properties of a line, as the driver takes them. `ArchiveError` where a value is none that was written."""
    try:
        return {name: decode(value) for name, value in line["properties"].items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, StopIteration):
        raise ArchiveError(f"{FILE} has a value of an unknown type") from None


def _weight(line: Line) -> int:
    """1 for most; more for what has long texts, lists or bytes."""
    long = (value for value in line["properties"].values() if isinstance(value, (str, list, dict)))
    return 1 + sum(len(value.get("bytes", "") if isinstance(value, dict) else value) for value in long) // 1000
