"""An app's graph coming and going, through the driver (`graph`) or as a dump.

The bookmark of the database is compared before and after it was read; where it has not moved, nothing was written in
between, and the part is `consistent`. Relationships to nodes that came too late for the file are left out of it.

A database cannot be renamed, and Community has only one. So what replaces the live data does so in one transaction, of
at most `LARGEST_EXCHANGE` nodes and relationships, which Neo4j keeps in memory; or a whole server takes the place of
another (``Runtime.adopt``).

With ``servers.neo4j.backup: dump`` a part is what ``neo4j-admin database dump`` writes, where the server may be stopped
for it. It is measured through the driver all the same, while it still works: then the app's logins are off, and the
database's bookmark tells whether that was in time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Self

import neo4j

from multidb.errors import ArchiveError, NeedsServer, Refused, WrongVersion
from multidb.model import (
    App,
    ArchiveReader,
    ArchiveWriter,
    Checkpoint,
    ImportSource,
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
    Survey,
    TakeOffline,
    unwatched,
)
from multidb.provisioners.neo4j.backup.graph import UNIQUE, Graph, Reading
from multidb.provisioners.neo4j.backup.graph_file import FILE, FORMAT, HEAD, read, write
from multidb.provisioners.neo4j.backup.places import dropping, making, place_name, places, roles_of
from multidb.provisioners.neo4j.backup.source import DumpSource, GraphSource, release
from multidb.provisioners.neo4j.driver.connection import Bolt
from multidb.provisioners.neo4j.hosting.address import Neo4jAddress
from multidb.provisioners.neo4j.provision.options import ServerOptions
from multidb.provisioners.neo4j.provision.resources import Neo4jFacts, database_name, user_names
from multidb.provisioners.neo4j.provision.session import Neo4jSession, connect
from multidb.provisioners.neo4j.provision.statements import disconnect
from multidb.secrets import MemorySecretStore, Secret

__all__ = ["DUMP_FORMAT", "Neo4jArchive"]

_DUMP: Final = "neo4j.dump"
DUMP_FORMAT: Final = "neo4j-admin dump"

_BEGUN, _WHOLE = "begun", "whole"  # parts of an import

_NO_ROOM: Final = "a Neo4j without databases has room for one graph"


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
        self._foreseen: Reading | None = None

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
        self._foreseen = self._graph(self.live(app, context)).survey(progress)
        return True

    def backup(self, app: App, context: StoreContext, writer: ArchiveWriter, progress: Progress) -> Part:
        place, facts = self.live(app, context), self._session.facts
        language = self._graph(place).language()
        if self._foreseen is not None:
            survey = self._dump(place, self._foreseen, writer, progress)
            unchanged, shape, client = True, DUMP_FORMAT, f"neo4j-admin {facts.version}"
        else:
            with writer.file(FILE) as stream:
                write(stream, HEAD)
                survey = self._graph(place).survey(progress, partial(write, stream))
                write(stream, survey.end)
                unchanged = self._graph(place).bookmark() == survey.moment
            shape, client = FORMAT, f"Neo4j Python driver {neo4j.__version__}"
        return Part(
            format=shape,
            server=f"{facts.product} {facts.version}",
            client=client,
            consistent=unchanged,
            measures=survey.measures,
            details={"constraints": survey.constraints, "language": language},
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
            self._graph(place).empty()
            return place
        with self._bolt.explained():
            made = making(self._bolt, kind, Owner(context.project, app.id), str(self._server))
        self._run(made)
        return Place(kind, app, place_name(kind, app.id))

    def restore(self, place: Place, part: Part, reader: ArchiveReader, progress: Progress) -> None:
        self._refuse_unfit(part)
        if part.format == DUMP_FORMAT:
            self._load_dump(place, reader, progress)
            self._speak(place, part)
            return
        with reader.file(FILE) as stream:
            lines = read(stream, str(self._server))
            total = part.measures.counts.get("nodes", 0) + part.measures.counts.get("relationships", 0)
            if place.kind is PlaceKind.LIVE and not self.is_empty(place):
                if self._has_databases:
                    raise self._occupied(place)
                self._graph(place).exchange(lines, total, progress)
            else:
                self._graph(place).load(lines, total, progress)
        self._speak(place, part)

    def _speak(self, place: Place, part: Part) -> None:
        """Queries that do not say their language are read in the one that they were written in."""
        language = part.details.get("language")
        self._graph(place).speak(language if isinstance(language, str) else None)

    def _occupied(self, place: Place) -> ArchiveError:
        where, hint = f"{self._server}, database {place.name}", f"multidb restore {place.app.id} --replace"
        return ArchiveError("is not empty", where=where, hint=hint)

    def measure(self, place: Place) -> Measures:
        return self._graph(place).survey(unwatched).measures

    def is_empty(self, place: Place) -> bool:
        return self._graph(place).is_empty()

    def replace(self, new: Place, context: StoreContext) -> None:
        if not self._has_databases:
            raise ArchiveError("the scratch server takes the place of the live one", where=str(self._server))
        live, loaded = self._graph(self.live(new.app, context)), self._graph(new)
        self._run([disconnect(user, context) for user in user_names(new.app.id)])
        live.exchange(loaded.lines(), loaded.total(), unwatched)
        live.speak(loaded.language())
        self.discard(new)

    def discard(self, place: Place) -> None:
        if place.kind is PlaceKind.LIVE:
            raise ValueError("the live place is not discarded")
        if self._has_databases:
            with self._bolt.explained():
                gone = dropping(roles_of(self._bolt), place)
            self._run(gone)
        elif self._server.kept:
            self._graph(place).empty()

    def leftovers(self, app: App, context: StoreContext) -> Sequence[Place]:
        if not self._has_databases:
            return ()
        with self._bolt.explained():
            return places(roles_of(self._bolt), app, context.project)

    # Graphs from elsewhere

    def survey(self, app: App, context: StoreContext, source: ImportSource) -> Survey:
        """A dump is loaded only where the server can be stopped for it."""
        survey = source.survey(app, context)
        if isinstance(source, DumpSource) and self._take_offline is None:
            hint = f"load it into a server elsewhere, and import from its URL (--from-neo4j {Neo4jAddress.example()})"
            return replace(survey, obstacles=(*survey.obstacles, f"multidb cannot stop this server to load it: {hint}"))
        return survey

    def bring_in(self, place: Place, source: ImportSource, done: Checkpoint, progress: Progress) -> None:
        """Copies nodes, then relationships, then constraints and indexes. A run that goes on begins anew in an empty
        place: which node here was which there is known to nobody any more."""
        before = done.done()
        if _WHOLE in before:
            return
        if isinstance(source, DumpSource):
            if self._take_offline is None:
                raise self._unstoppable("the file")
            self._load_dump(place, source, progress)
        elif isinstance(source, GraphSource):
            graph, facts = self._graph(place), self._session.facts
            if _BEGUN in before:
                graph.empty()
            elif not graph.is_empty():
                raise self._occupied(place)
            done.add(_BEGUN)
            graph.load(source.lines(facts, shared=graph.shared), source.total(), progress)
            graph.speak(source.language(facts))
        else:
            raise TypeError(f"{type(source).__name__} is no source of a graph")
        done.add(_WHOLE)

    # Where things are

    @property
    def _has_databases(self) -> bool:
        facts: Neo4jFacts = self._session.facts
        return facts.roles and facts.multi_database

    def _live_name(self, app: App) -> str:
        return database_name(app.id) if self._has_databases else str(self._session.facts.default_database)

    def _graph(self, place: Place) -> Graph:
        facts: Neo4jFacts = self._session.facts
        shared = not self._has_databases and any(owner.app == place.app.id for owner in facts.labelled)
        return Graph(self._server, self._bolt, place.name, place.app.id, shared=shared)

    # Dumps of neo4j-admin

    def _dump(self, place: Place, survey: Reading, writer: ArchiveWriter, progress: Progress) -> Reading:
        """Dumps the database, and gives the survey that is true of the dump. The app's logins are off."""
        if self._graph(place).bookmark() != survey.moment:  # it has written before they were
            survey = self._graph(place).survey(progress)
        with self._offline(progress) as server, writer.file(_DUMP) as stream:
            server.dump(place.name, stream)
        if self._graph(place).bookmark() != survey.moment:
            raise ArchiveError(
                "somebody wrote to it while its app's logins were off",
                where=str(self._server),
                hint="end what else logs in there, then run the command again",
            )
        return survey

    def _load_dump(self, place: Place, reader: ArchiveReader | DumpSource, progress: Progress) -> None:
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
            raise self._unstoppable("the part")
        if release(made_by) > release(facts.version):
            raise WrongVersion(
                f"runs Neo4j {facts.version}, and the part was made by {made_by}",
                where=str(self._server),
                hint="restore it on that version or a newer one",
            )
        constraints = part.details.get("constraints")
        others = sorted(set(constraints) - {UNIQUE}) if isinstance(constraints, list) else []
        if others and not self._has_databases:
            raise WrongVersion(
                f"has no constraints of the kind {', '.join(others)}, which only Enterprise has",
                where=str(self._server),
                hint="restore it on Neo4j Enterprise",
            )

    def _unstoppable(self, what: str) -> Refused:
        return Refused(
            f"{what} is a dump of neo4j-admin, and multidb cannot stop this server to load it",
            where=str(self._server),
            hint="load it by hand (docs/restore-by-hand.md), or make a set with servers.neo4j.backup: export",
        )

    def _run(self, statements: Sequence[Statement]) -> None:
        list(self._session.run(statements, MemorySecretStore()))
